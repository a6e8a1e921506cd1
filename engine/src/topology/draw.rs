//! Shows the machine and where the shards go: a drawing for people, JSON for tools.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Cache, Cpu, CpuSet, Node, Topology};
use crate::config::show_bytes;
use crate::placement::{Plan, ShardPlace};

/// What `sluice topology --json` prints. The keys are documented in docs/configuration.md.
#[derive(Serialize)]
struct Shown<'t> {
    nodes: &'t [Node],
    cpus: &'t [Cpu],
    caches: &'t [Cache],
    offline: &'t CpuSet,
    shards: &'t [ShardPlace],
    warnings: &'t [String],
}

/// The machine and the plan as one JSON object, ending in a newline.
pub fn to_json(topology: &Topology, plan: &Plan) -> String {
    let shown = Shown {
        nodes: &topology.nodes,
        cpus: &topology.cpus,
        caches: &topology.caches,
        offline: &topology.offline,
        shards: &plan.shards,
        warnings: &plan.warnings,
    };
    let mut json = serde_json::to_string_pretty(&shown).expect("numbers, strings and lists only");
    json.push('\n');
    json
}

/// The machine and the plan as text, node by node, cache by cache, core by core.
pub fn draw(topology: &Topology, plan: &Plan) -> String {
    let mut out = String::new();
    let usable = topology.usable_cpus();
    let _ = writeln!(
        out,
        "{} online, this process may use {} ({}); {}",
        plural(topology.cpus.len(), "CPU"),
        usable.len(),
        usable,
        plural(topology.nodes.len(), "node"),
    );
    if !topology.offline.is_empty() {
        let _ = writeln!(out, "offline: CPU {}", topology.offline);
    }
    for node in &topology.nodes {
        draw_node(&mut out, topology, plan, node);
    }
    for warning in &plan.warnings {
        let _ = writeln!(out, "warning: {warning}");
    }
    out
}

fn draw_node(out: &mut String, topology: &Topology, plan: &Plan, node: &Node) {
    let memory = match node.memory_bytes {
        0 => "no memory".to_owned(),
        bytes => format!("{} memory", about_bytes(bytes)),
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
        let _ = write!(out, "    package {} core {:<3}", cpu.package, cpu.core);
        for thread in cpu.siblings.intersection(cpus).iter() {
            drawn.push(thread);
            let shard = plan.shards.iter().find(|place| place.cpu == thread);
            let mark = match shard {
                Some(place) => format!("shard {}", place.shard),
                None if topology.cpu(thread).is_some_and(|cpu| !cpu.allowed) => {
                    "not for this process".to_owned()
                }
                None => "-".to_owned(),
            };
            let _ = write!(out, "  CPU {thread:<3} {mark:<9}");
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
}

fn meets(a: &CpuSet, b: &CpuSet) -> bool {
    a.iter().any(|cpu| b.contains(cpu))
}

fn plural(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Rounded to the largest unit that leaves at least 10 of it: exact bytes of memory help nobody.
fn about_bytes(bytes: u64) -> String {
    match bytes {
        0 => "of unknown size".to_owned(),
        _ if bytes >= 10 << 30 => format!("{}GiB", (bytes + (1 << 29)) >> 30),
        _ if bytes >= 10 << 20 => format!("{}MiB", (bytes + (1 << 19)) >> 20),
        _ => show_bytes(bytes),
    }
}
