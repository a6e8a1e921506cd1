//! Reads the topology from `/sys` and `/proc`.
//!
//! The root is a parameter, so that tests can write a machine into a directory. What a container hides is
//! filled in: without node directories there is one node 0, without core files every CPU is a core.

use std::fmt;
use std::path::{Path, PathBuf};

use super::files::Files;
use super::memory_limit::read_memory_limit;
use super::nic::read_nics;
use super::quota::read_quota;
use super::{Cache, Cpu, CpuSet, Distance, Node, Topology};

/// The topology cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopologyError {
    /// The file that is missing or strange.
    pub file: PathBuf,
    /// The error.
    pub what: String,
}

impl fmt::Display for TopologyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.what)
    }
}

impl std::error::Error for TopologyError {}

impl Topology {
    /// Reads the machine below `root`: `/` outside of tests.
    ///
    /// # Errors
    /// Neither sysfs nor procfs says which CPUs there are, or a file holds something that is no CPU list.
    pub fn read(root: &Path) -> Result<Self, TopologyError> {
        let files = Files { root };
        let status = files.text("proc/self/status").unwrap_or_default();
        let allowed_cpus = files.status_list(&status, "Cpus_allowed_list:")?;
        let allowed_mems = files.status_list(&status, "Mems_allowed_list:")?;
        let online = read_online(files, allowed_cpus.as_ref())?;
        let allowed_cpus = allowed_cpus.unwrap_or_else(|| online.clone());
        let present = files.list("sys/devices/system/cpu/present")?.unwrap_or_default();
        let nodes = read_nodes(files, &online, allowed_mems.as_ref())?;
        let memory = files.meminfo("proc/meminfo");
        let classes = read_classes(files, &online)?;
        let mut cpus = Vec::with_capacity(online.len());
        for (id, class) in online.iter().zip(classes) {
            cpus.push(Cpu { class, ..read_cpu(files, id, &online, allowed_cpus.contains(id), &nodes)? });
        }
        Ok(Self {
            nics: read_nics(files, &online, &nodes)?,
            quota: read_quota(files),
            memory_bytes: match memory.total() {
                0 => nodes.iter().map(|node| node.memory_bytes).sum(),
                bytes => bytes,
            },
            memory_available_bytes: memory.available(),
            memory_limit_bytes: read_memory_limit(files),
            nodes,
            cpus,
            caches: read_caches(files, &online)?,
            offline: present.iter().filter(|&cpu| !online.contains(cpu)).collect(),
        })
    }
}

fn read_online(files: Files<'_>, allowed: Option<&CpuSet>) -> Result<CpuSet, TopologyError> {
    let dir = "sys/devices/system/cpu";
    if let Some(online) = files.list(&format!("{dir}/online"))? {
        return Ok(online);
    }
    // The first CPU may have no such file: it cannot be switched off.
    let is_off = |cpu: &usize| files.number(&format!("{dir}/cpu{cpu}/online")) == Some(0);
    let online: CpuSet = files.numbered(dir, "cpu").into_iter().filter(|cpu| !is_off(cpu)).collect();
    match allowed {
        _ if !online.is_empty() => Ok(online),
        Some(allowed) => Ok(allowed.clone()),
        None => Err(files.error("sys/devices/system/cpu/online", "cannot be read")),
    }
}

fn read_nodes(
    files: Files<'_>,
    online: &CpuSet,
    allowed: Option<&CpuSet>,
) -> Result<Vec<Node>, TopologyError> {
    let dir = "sys/devices/system/node";
    let mut ids = files.numbered(dir, "node");
    // Distances are listed in the order of the online nodes.
    ids.sort_unstable();
    let mut nodes = Vec::with_capacity(ids.len().max(1));
    for &id in &ids {
        let cpus = files.cpus(&format!("{dir}/node{id}/cpulist"), &format!("{dir}/node{id}/cpumap"))?;
        let cpus = cpus.unwrap_or_default().intersection(online);
        let distances = files.text(&format!("{dir}/node{id}/distance")).unwrap_or_default();
        let distances = distances.split_whitespace().map(str::parse::<u32>).zip(&ids);
        let distances =
            distances.filter_map(|(d, &node)| Some(Distance { node, distance: d.ok()? })).collect();
        let memory = files.meminfo(&format!("{dir}/node{id}/meminfo"));
        let (memory_bytes, memory_available_bytes) = (memory.total(), memory.available());
        let allowed = allowed.is_none_or(|allowed| allowed.contains(id));
        nodes.push(Node { id, cpus, memory_bytes, memory_available_bytes, allowed, distances });
    }
    if nodes.is_empty() {
        let memory = files.meminfo("proc/meminfo");
        nodes.push(Node {
            id: 0,
            cpus: online.clone(),
            memory_bytes: memory.total(),
            memory_available_bytes: memory.available(),
            allowed: true,
            distances: vec![Distance { node: 0, distance: 10 }],
        });
    }
    Ok(nodes)
}

fn read_cpu(
    files: Files<'_>,
    id: usize,
    online: &CpuSet,
    allowed: bool,
    nodes: &[Node],
) -> Result<Cpu, TopologyError> {
    let dir = format!("sys/devices/system/cpu/cpu{id}/topology");
    let number = |name: &str| files.number(&format!("{dir}/{name}"));
    // Kernels before 5.x call it thread_siblings, newer ones offer both names.
    let siblings = match files.cpus(&format!("{dir}/core_cpus_list"), &format!("{dir}/core_cpus"))? {
        Some(siblings) => Some(siblings),
        None => files.cpus(&format!("{dir}/thread_siblings_list"), &format!("{dir}/thread_siblings"))?,
    };
    let siblings = siblings.unwrap_or_default().intersection(online);
    let node = nodes.iter().find(|node| node.cpus.contains(id)).map_or(nodes[0].id, |node| node.id);
    Ok(Cpu {
        id,
        node,
        // Some firmware says -1 for "unknown": then there is one package.
        package: number("physical_package_id").unwrap_or(0),
        core: number("core_id").unwrap_or(id),
        siblings: if siblings.contains(id) { siblings } else { [id].into_iter().collect() },
        allowed,
        class: 0,
    })
}

/// The class of every online CPU, 0 for the fastest. ARM says a capacity for every CPU; on hybrid x86 the
/// performance counters of the slower kinds list theirs. Elsewhere all are alike.
fn read_classes(files: Files<'_>, online: &CpuSet) -> Result<Vec<usize>, TopologyError> {
    let capacity = |cpu| files.number::<u32>(&format!("sys/devices/system/cpu/cpu{cpu}/cpu_capacity"));
    if let Some(capacities) = online.iter().map(capacity).collect::<Option<Vec<u32>>>() {
        let mut steps = capacities.clone();
        steps.sort_unstable_by(|a, b| b.cmp(a));
        steps.dedup();
        return Ok(capacities.iter().map(|c| steps.iter().position(|step| step == c).unwrap_or(0)).collect());
    }
    let mut classes = vec![0; online.len()];
    for (class, kind) in [(1, "cpu_atom"), (2, "cpu_lowpower")] {
        let slower = files.list(&format!("sys/devices/{kind}/cpus"))?.unwrap_or_default();
        for (at, cpu) in online.iter().enumerate() {
            if slower.contains(cpu) {
                classes[at] = class;
            }
        }
    }
    let fastest = classes.iter().copied().min().unwrap_or(0);
    Ok(classes.into_iter().map(|class| class - fastest).collect())
}

fn read_caches(files: Files<'_>, online: &CpuSet) -> Result<Vec<Cache>, TopologyError> {
    let mut caches: Vec<Cache> = Vec::new();
    for cpu in online.iter() {
        let dir = format!("sys/devices/system/cpu/cpu{cpu}/cache");
        for index in files.numbered(&dir, "index") {
            let text = |name: &str| files.text(&format!("{dir}/index{index}/{name}")).unwrap_or_default();
            let level = text("level").trim().parse().unwrap_or(0);
            // Level 1 is private to a core and tells placement nothing.
            if level < 2 || text("type").trim() == "Instruction" {
                continue;
            }
            let file = |name: &str| format!("{dir}/index{index}/{name}");
            let cpus = files.cpus(&file("shared_cpu_list"), &file("shared_cpu_map"))?;
            let cpus = cpus.unwrap_or_default().intersection(online);
            if cpus.first() == Some(cpu) && !caches.iter().any(|c| c.level == level && c.cpus == cpus) {
                caches.push(Cache { level, bytes: parse_cache_size(text("size").trim()), cpus });
            }
        }
    }
    caches.sort_by_key(|cache| (cache.level, cache.cpus.first()));
    Ok(caches)
}

/// `2048K`; 0 for anything strange.
fn parse_cache_size(text: &str) -> u64 {
    let (number, factor) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'M') => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).unwrap_or(0)
}
