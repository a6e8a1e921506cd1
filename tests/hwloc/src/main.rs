//! Reads a machine with Sluice's code and with hwloc, and prints where they differ.
//!
//!     sluice-hwloc                        this host
//!     HWLOC_FSROOT=DIR sluice-hwloc DIR   a machine below a directory
//!
//! Exit code 0 if they agree, 1 if not, 2 if one cannot read the machine. Both give sets of sets, so that the order and
//! the numbering of objects make no difference. hwloc is asked for everything, what this process may use or not.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use hwlocality::Topology as Hwloc;
use hwlocality::object::TopologyObject;
use hwlocality::object::attributes::ObjectAttributes;
use hwlocality::object::types::ObjectType;
use hwlocality::topology::builder::BuildFlags;
use sluice::topology::{CpuSet, Topology};

/// What both can say of a machine, line by line.
type Facts = BTreeMap<&'static str, BTreeSet<String>>;

fn main() -> ExitCode {
    let root = std::env::args().nth(1).unwrap_or_else(|| "/".to_owned());
    let ours = match Topology::read(Path::new(&root)) {
        Ok(topology) => topology,
        Err(error) => {
            eprintln!("sluice: {error}");
            return ExitCode::from(2);
        }
    };
    let theirs = match read_by_hwloc() {
        Ok(topology) => topology,
        Err(error) => {
            eprintln!("hwloc: {error}");
            return ExitCode::from(2);
        }
    };
    let mut agree = true;
    let theirs = facts_of_hwloc(&theirs, &ours);
    for (what, ours) in facts(&ours) {
        // What hwloc does not know (cores of a machine without core files) is no difference.
        let Some(theirs) = theirs.get(what).filter(|lines| !lines.is_empty()) else { continue };
        for line in ours.difference(theirs) {
            println!("{what}: only sluice has {line}");
            agree = false;
        }
        for line in theirs.difference(&ours) {
            println!("{what}: only hwloc has {line}");
            agree = false;
        }
    }
    if agree { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// By the same files of the kernel: hwloc would also ask the processor it runs on.
fn read_by_hwloc() -> Result<Hwloc, Box<dyn Error>> {
    let builder = Hwloc::builder().with_flags(BuildFlags::INCLUDE_DISALLOWED)?;
    Ok(builder.without_component("x86")?.build()?)
}

fn facts(topology: &Topology) -> Facts {
    let cpus = |of: &dyn Fn(&sluice::topology::Cpu) -> usize| {
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        topology.cpus.iter().for_each(|cpu| groups.entry(of(cpu)).or_default().push(cpu.id));
        groups.into_values().map(|cpus| cpus.into_iter().collect::<CpuSet>().to_string()).collect()
    };
    let mut facts = Facts::new();
    facts.insert("CPUs", topology.cpus.iter().map(|cpu| cpu.id.to_string()).collect());
    facts.insert("cores", topology.cpus.iter().map(|cpu| cpu.siblings.to_string()).collect());
    facts.insert("packages", cpus(&|cpu| cpu.package));
    let caches = topology.caches.iter();
    facts.insert("caches", caches.map(|c| format!("L{} {} bytes {}", c.level, c.bytes, c.cpus)).collect());
    let with_cpus = topology.nodes.iter().filter(|node| !node.cpus.is_empty());
    facts.insert("nodes", with_cpus.map(|node| format!("{}: {}", node.id, node.cpus)).collect());
    let memory = topology.nodes.iter().map(|node| format!("{}: {}", node.id, node.memory_bytes));
    facts.insert("memory", memory.collect());
    let distances = topology.nodes.iter().flat_map(|from| {
        from.distances.iter().map(move |to| format!("{} to {}: {}", from.id, to.node, to.distance))
    });
    facts.insert("distances", distances.collect());
    facts
}

fn facts_of_hwloc(topology: &Hwloc, ours: &Topology) -> Facts {
    let of = |kind| topology.objects_with_type(kind);
    let mut facts = Facts::new();
    facts.insert("CPUs", of(ObjectType::PU).filter_map(|pu| Some(pu.os_index()?.to_string())).collect());
    facts.insert("cores", of(ObjectType::Core).map(|core| cpus_of(core).to_string()).collect());
    facts.insert("packages", of(ObjectType::Package).map(|package| cpus_of(package).to_string()).collect());
    let caches = [ObjectType::L2Cache, ObjectType::L3Cache, ObjectType::L4Cache].into_iter().flat_map(of);
    let cache = |object: &TopologyObject| match object.attributes() {
        Some(ObjectAttributes::Cache(cache)) => {
            let bytes = cache.size().map_or(0, std::num::NonZeroU64::get);
            Some(format!("L{} {bytes} bytes {}", cache.depth(), cpus_of(object)))
        }
        _ => None,
    };
    facts.insert("caches", caches.filter_map(cache).collect());
    let mut with_cpus = BTreeSet::new();
    let mut memory = BTreeSet::new();
    for node in of(ObjectType::NUMANode) {
        let Some(id) = node.os_index() else { continue };
        if let Some(ObjectAttributes::NUMANode(attributes)) = node.attributes() {
            memory
                .insert(format!("{id}: {}", attributes.local_memory().map_or(0, std::num::NonZeroU64::get)));
        }
        // Where hwloc attaches a node without CPUs is its own affair.
        if ours.node(id).is_none_or(|node| !node.cpus.is_empty()) {
            with_cpus.insert(format!("{id}: {}", cpus_of(node)));
        }
    }
    facts.insert("nodes", with_cpus);
    facts.insert("memory", memory);
    facts.insert("distances", distances_of_hwloc(topology));
    facts
}

fn distances_of_hwloc(topology: &Hwloc) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for matrix in topology.distances(None).unwrap_or_default() {
        let ids: Vec<Option<usize>> = matrix.objects().map(|object| object?.os_index()).collect();
        let is_of_nodes =
            matrix.objects().flatten().all(|object| object.object_type() == ObjectType::NUMANode);
        if !is_of_nodes || ids.is_empty() {
            continue;
        }
        for (at, value) in matrix.distances().iter().enumerate() {
            if let (Some(from), Some(to)) = (ids[at / ids.len()], ids[at % ids.len()]) {
                lines.insert(format!("{from} to {to}: {value}"));
            }
        }
    }
    lines
}

fn cpus_of(object: &TopologyObject) -> CpuSet {
    object.cpuset().into_iter().flat_map(|set| set.iter_set().map(usize::from).collect::<Vec<_>>()).collect()
}
