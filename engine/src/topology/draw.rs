//! Shows the machine and where the shards go: a drawing for people, JSON for tools.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::Serialize;

use super::{Cache, Cpu, CpuSet, Nic, Node, Quota, Topology};
use crate::config::show_bytes;
use crate::placement::{self, Plan, ShardPlace};

/// What `sluice topology --json` prints. The keys are documented in docs/topology.md.
#[derive(Serialize)]
struct Shown<'t> {
    nodes: &'t [Node],
    cpus: &'t [Cpu],
    caches: &'t [Cache],
    offline: &'t CpuSet,
    quota: Option<Quota>,
    memory_bytes: u64,
    memory_available_bytes: Option<u64>,
    memory_limit_bytes: Option<u64>,
    nics: &'t [Nic],
    shards: &'t [ShardPlace],
    reserved: &'t CpuSet,
    warnings: &'t [String],
}

/// The machine and the plan as one JSON object, ending in a newline.
pub fn to_json(topology: &Topology, plan: &Plan) -> String {
    let shown = Shown {
        nodes: &topology.nodes,
        cpus: &topology.cpus,
        caches: &topology.caches,
        offline: &topology.offline,
        quota: topology.quota,
        memory_bytes: topology.memory_bytes,
        memory_available_bytes: topology.memory_available_bytes,
        memory_limit_bytes: topology.memory_limit_bytes,
        nics: &topology.nics,
        shards: &plan.shards,
        reserved: &plan.reserved,
        warnings: &plan.warnings,
    };
    let mut json = serde_json::to_string_pretty(&shown).expect("numbers, strings and lists only");
    json.push('\n');
    json
}

/// The machine and the plan as text, node by node, cache by cache, core by core; cards with their node.
pub fn draw(topology: &Topology, plan: &Plan) -> String {
    let mut out = String::new();
    draw_head(&mut out, topology);
    for node in &topology.nodes {
        draw_node(&mut out, topology, plan, node);
        for nic in topology.nics.iter().filter(|nic| nic.node == Some(node.id)) {
            draw_nic(&mut out, plan, nic);
        }
    }
    let nowhere: Vec<_> =
        topology.nics.iter().filter(|nic| nic.node.is_none_or(|id| topology.node(id).is_none())).collect();
    if !nowhere.is_empty() {
        out.push_str("no node known\n");
    }
    for nic in nowhere {
        draw_nic(&mut out, plan, nic);
    }
    out.push_str("placement\n");
    for line in placement::summary(plan) {
        let _ = writeln!(out, "  {line}");
    }
    for warning in &plan.warnings {
        let _ = writeln!(out, "warning: {warning}");
    }
    out
}

fn draw_head(out: &mut String, topology: &Topology) {
    let usable = topology.usable_cpus();
    let cores: BTreeSet<_> = topology.cpus.iter().map(|cpu| cpu.siblings.first()).collect();
    let packages: BTreeSet<_> = topology.cpus.iter().map(|cpu| cpu.package).collect();
    let _ = writeln!(
        out,
        "{} online on {} of {}, this process may use {} ({usable}); {}",
        plural(topology.cpus.len(), "CPU"),
        plural(cores.len(), "core"),
        plural(packages.len(), "package"),
        usable.len(),
        plural(topology.nodes.len(), "node"),
    );
    if !topology.offline.is_empty() {
        let _ = writeln!(out, "offline: CPU {}", topology.offline);
    }
    if let Some(quota) = topology.quota {
        let _ = writeln!(out, "cgroup quota: {quota} CPUs");
    }
    draw_memory(out, topology);
}

/// The memory of the machine: what this process may have of it is neither all nor what its nodes say.
fn draw_memory(out: &mut String, topology: &Topology) {
    if topology.memory_bytes == 0 {
        return;
    }
    let _ = write!(out, "memory: {}", about_bytes(topology.memory_bytes));
    if let Some(bytes) = topology.memory_available_bytes {
        let _ = write!(out, ", {}", available(bytes));
    }
    if let Some(limit) = topology.memory_limit_bytes {
        let _ = write!(out, "; cgroup limit: {}", about_bytes(limit));
    }
    out.push('\n');
    let of_nodes: u64 = topology.nodes.iter().map(|node| node.memory_bytes).sum();
    let missing = topology.memory_bytes.saturating_sub(of_nodes);
    // A little is lost between two countings of the kernel.
    if missing > topology.memory_bytes / 16 {
        let _ = writeln!(
            out,
            "  {} of it not in use on any node yet (added, or not initialized)",
            about_bytes(missing)
        );
    }
}

fn available(bytes: u64) -> String {
    match bytes {
        0 => "none available".to_owned(),
        _ => format!("{} available", about_bytes(bytes)),
    }
}

fn draw_node(out: &mut String, topology: &Topology, plan: &Plan, node: &Node) {
    let memory = match node.memory_bytes {
        0 => "no memory".to_owned(),
        bytes => {
            let available = node.memory_available_bytes.map(|bytes| format!(", {}", available(bytes)));
            format!("{} memory{}", about_bytes(bytes), available.unwrap_or_default())
        }
    };
    let _ = write!(out, "node {}: {memory}", node.id);
    if !node.allowed {
        out.push_str(" (not for this process)");
    }
    if topology.nodes.len() > 1 {
        let distances: Vec<_> = node.distances.iter().map(|d| format!("{}:{}", d.node, d.distance)).collect();
        let _ = write!(out, ", distance to {}", distances.join(" "));
    }
    out.push('\n');
    if node.cpus.is_empty() {
        out.push_str("  no CPU\n");
    }
    // The largest caches inside the node group its cores; a cache that spans nodes is cut at the border.
    let level = topology.caches.iter().filter(|c| meets(&c.cpus, &node.cpus)).map(|c| c.level).max();
    let mut left: Vec<usize> = node.cpus.iter().collect();
    for cache in topology.caches.iter().filter(|cache| Some(cache.level) == level && level > Some(2)) {
        let here = cache.cpus.intersection(&node.cpus);
        if here.is_empty() {
            continue;
        }
        let _ = writeln!(out, "  L{} {} (CPU {})", cache.level, about_bytes(cache.bytes), cache.cpus);
        draw_cores(out, topology, plan, &here);
        left.retain(|&cpu| !here.contains(cpu));
    }
    draw_cores(out, topology, plan, &left.into_iter().collect());
}

fn draw_cores(out: &mut String, topology: &Topology, plan: &Plan, cpus: &CpuSet) {
    let mut drawn: Vec<usize> = Vec::new();
    for cpu in cpus.iter().filter_map(|id| topology.cpu(id)) {
        if drawn.contains(&cpu.id) {
            continue;
        }
        let slow = if cpu.class > 0 { " (slower)" } else { "" };
        let _ = write!(out, "    package {} core {:<3}{slow}", cpu.package, cpu.core);
        for thread in cpu.siblings.intersection(cpus).iter() {
            drawn.push(thread);
            let shard = plan.shards.iter().find(|place| place.cpu == thread);
            let mark = match shard {
                Some(place) => format!("shard {}", place.shard),
                None if topology.cpu(thread).is_some_and(|cpu| !cpu.allowed) => {
                    "not for this process".to_owned()
                }
                None if plan.reserved.contains(thread) => "reserved".to_owned(),
                None => "-".to_owned(),
            };
            let _ = write!(out, "  CPU {thread:<3} {mark:<9}");
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
}

fn draw_nic(out: &mut String, plan: &Plan, nic: &Nic) {
    let link = if nic.is_up { "up" } else { "down" };
    let queues = match (nic.rx.len(), nic.tx.len()) {
        (0, 0) => String::new(),
        (rx, tx) => format!(", {rx} receive and {} ", plural(tx, "transmit queue")),
    };
    let _ = writeln!(out, "  NIC {} ({link}){}", nic.name, queues.trim_end());
    for interrupt in nic.queue_interrupts() {
        let place = plan.shards.iter().find(|place| interrupt.cpus.iter().eq([place.cpu]));
        let shard = match place {
            Some(place) => format!(", shard {}", place.shard),
            None if interrupt.cpus.iter().any(|cpu| plan.reserved.contains(cpu)) => ", reserved".to_owned(),
            None => String::new(),
        };
        let cpus = match interrupt.cpus.is_empty() {
            true => "no CPU".to_owned(),
            false => format!("CPU {}", interrupt.cpus),
        };
        let _ = writeln!(out, "    interrupt {:<4} {:<20} {cpus}{shard}", interrupt.irq, interrupt.name);
    }
    for (direction, rule, queues) in [("receive", "RPS", &nic.rx), ("transmit", "XPS", &nic.tx)] {
        for queue in queues.iter().filter(|queue| !queue.cpus.is_empty()) {
            let _ = writeln!(out, "    {rule}: {direction} queue {} with CPU {}", queue.queue, queue.cpus);
        }
    }
}

fn meets(a: &CpuSet, b: &CpuSet) -> bool {
    a.iter().any(|cpu| b.contains(cpu))
}

fn plural(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Rounded to the largest unit that leaves at least 10 of it: exact bytes of memory help no reader.
fn about_bytes(bytes: u64) -> String {
    match bytes {
        0 => "of unknown size".to_owned(),
        _ if bytes >= 10 << 30 => format!("{}GiB", (bytes + (1 << 29)) >> 30),
        _ if bytes >= 10 << 20 => format!("{}MiB", (bytes + (1 << 19)) >> 20),
        _ => show_bytes(bytes),
    }
}
