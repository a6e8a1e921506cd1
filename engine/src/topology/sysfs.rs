//! Reads the topology from `/sys` and `/proc`.
//!
//! The root is a parameter, so that tests can write a machine into a directory. What a container hides is
//! filled in: without node directories there is one node 0, without core files every CPU is a core.

use std::fmt;
use std::path::{Path, PathBuf};

use super::{Cache, Cpu, CpuSet, Distance, Node, Topology};

/// The topology cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopologyError {
    /// The file that is missing or strange.
    pub file: PathBuf,
    /// What is wrong with it.
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
        let online = match (files.list("sys/devices/system/cpu/online")?, &allowed_cpus) {
            (Some(online), _) => online,
            (None, Some(allowed)) => allowed.clone(),
            (None, None) => return Err(files.error("sys/devices/system/cpu/online", "cannot be read")),
        };
        let allowed_cpus = allowed_cpus.unwrap_or_else(|| online.clone());
        let present = files.list("sys/devices/system/cpu/present")?.unwrap_or_default();
        let nodes = read_nodes(files, &online, allowed_mems.as_ref())?;
        let cpus = online
            .iter()
            .map(|id| read_cpu(files, id, &online, allowed_cpus.contains(id), &nodes))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            nodes,
            cpus,
            caches: read_caches(files, &online)?,
            offline: present.iter().filter(|&cpu| !online.contains(cpu)).collect(),
        })
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
        let cpus = files.list(&format!("{dir}/node{id}/cpulist"))?.unwrap_or_default().intersection(online);
        let distances = files.text(&format!("{dir}/node{id}/distance")).unwrap_or_default();
        let distances = distances.split_whitespace().map(str::parse::<u32>).zip(&ids);
        let distances =
            distances.filter_map(|(d, &node)| Some(Distance { node, distance: d.ok()? })).collect();
        let memory_bytes = files.memory_bytes(&format!("{dir}/node{id}/meminfo"));
        let allowed = allowed.is_none_or(|allowed| allowed.contains(id));
        nodes.push(Node { id, cpus, memory_bytes, allowed, distances });
    }
    if nodes.is_empty() {
        nodes.push(Node {
            id: 0,
            cpus: online.clone(),
            memory_bytes: files.memory_bytes("proc/meminfo"),
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
    let number = |name: &str| files.text(&format!("{dir}/{name}")).and_then(|text| text.trim().parse().ok());
    // Kernels before 5.x call the file thread_siblings_list, newer ones offer both names.
    let siblings = match files.list(&format!("{dir}/core_cpus_list"))? {
        Some(siblings) => Some(siblings),
        None => files.list(&format!("{dir}/thread_siblings_list"))?,
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
    })
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
            let cpus = files.list(&format!("{dir}/index{index}/shared_cpu_list"))?.unwrap_or_default();
            let cpus = cpus.intersection(online);
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

/// The files below a root.
#[derive(Clone, Copy)]
struct Files<'r> {
    root: &'r Path,
}

impl Files<'_> {
    fn error(self, file: &str, what: impl Into<String>) -> TopologyError {
        TopologyError { file: self.root.join(file), what: what.into() }
    }

    fn text(self, file: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(file)).ok()
    }

    /// A file that holds a list; none if there is no such file.
    fn list(self, file: &str) -> Result<Option<CpuSet>, TopologyError> {
        let Some(text) = self.text(file) else { return Ok(None) };
        CpuSet::parse(&text).map(Some).map_err(|what| self.error(file, what))
    }

    /// A line of `/proc/self/status` that holds a list.
    fn status_list(self, status: &str, name: &str) -> Result<Option<CpuSet>, TopologyError> {
        let Some(text) = status.lines().find_map(|line| line.strip_prefix(name)) else { return Ok(None) };
        CpuSet::parse(text).map(Some).map_err(|what| self.error("proc/self/status", what))
    }

    /// The numbers N of the directories `{prefix}N`, in rising order.
    fn numbered(self, dir: &str, prefix: &str) -> Vec<usize> {
        let Ok(entries) = std::fs::read_dir(self.root.join(dir)) else { return Vec::new() };
        let number =
            |entry: std::fs::DirEntry| entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok();
        let mut numbers: Vec<usize> = entries.filter_map(|entry| number(entry.ok()?)).collect();
        numbers.sort_unstable();
        numbers
    }

    /// `MemTotal` of a meminfo file, in bytes.
    fn memory_bytes(self, file: &str) -> u64 {
        let text = self.text(file).unwrap_or_default();
        let kib = text.lines().find_map(|line| {
            let mut words = line.split_whitespace().skip_while(|&word| word != "MemTotal:").skip(1);
            words.next()?.parse::<u64>().ok()
        });
        kib.unwrap_or(0).saturating_mul(1024)
    }
}
