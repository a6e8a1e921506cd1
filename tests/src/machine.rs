//! Machines in `tests/machines`, written as the files of `/sys` and `/proc` into a directory.
//!
//! A `.tree` was recorded by `scripts/record-machine`; a `.machine` is a description, one fact a line:
//!
//! ```text
//! node 0 memory 32GiB distance 10 21          a node; no memory: 0GiB
//! memory 24GiB available 22GiB                of the machine, where it is not the sum of the nodes
//! memory-limit 536870912                      cgroup v2, in bytes
//! cpus 0-15 node 0 package 0 threads 2 apart l2 1MiB/1 l3 32MiB/8
//!                                             cores of a package, `threads` a core, whose numbers are half the list
//!                                             `apart` or `adjacent`; a cache and how many cores share it
//! cache 3 30MiB 0-23                          a cache with its CPUs
//! offline 5   allowed 1,3   memory-nodes 0    not online; what this process may use
//! quota 250000 100000                         cgroup v2, in microseconds
//! slow 16-23                                  efficiency cores of x86
//! capacity 446 0-3                            speed on ARM
//! nic eth0 node 1 queues 4 interrupts 40 on 0-3
//! ```
//!
//! Lists of CPUs may have a step: `0-14:2`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The machines there are: their files, by name.
pub fn all() -> Vec<PathBuf> {
    let entries = fs::read_dir(directory()).expect("tests/machines");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|file| matches!(file.extension().and_then(|end| end.to_str()), Some("machine" | "tree")));
    files.sort();
    files
}

/// Where the machines are.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|dir| dir.join("tests/machines"))
        .find(|dir| dir.is_dir())
        .expect("tests/machines")
}

/// Writes the files of a machine below `root`.
pub fn write(file: &Path, root: &Path) {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    if file.extension().is_some_and(|end| end == "tree") {
        unpack(&text, root);
    } else {
        Description::parse(&text).write(root);
    }
}

/// Writes the files of a recorded tree.
fn unpack(text: &str, root: &Path) {
    for part in text.split("== ").skip(1) {
        let (head, body) = part.split_once('\n').unwrap_or((part, ""));
        if let Some((link, target)) = head.split_once(" -> ") {
            let link = root.join(link);
            fs::create_dir_all(link.parent().expect("below the root")).expect("a directory");
            symlink(target, link).expect("a link");
        } else if head.ends_with('/') {
            fs::create_dir_all(root.join(head)).expect("a directory");
        } else {
            put(root, head, body);
        }
    }
}

fn put(root: &Path, file: &str, text: &str) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().expect("below the root")).expect("a directory");
    fs::write(path, text).expect("a file");
}

#[derive(Default)]
struct Description {
    nodes: Vec<Node>,
    cpus: BTreeMap<usize, Cpu>,
    caches: Vec<(u32, String, Vec<usize>)>,
    offline: Vec<usize>,
    allowed: Option<Vec<usize>>,
    memory_nodes: Option<Vec<usize>>,
    memory: Option<[String; 2]>,
    memory_limit: Option<String>,
    quota: Option<String>,
    slow: Vec<usize>,
    capacity: BTreeMap<usize, String>,
    nics: Vec<Nic>,
}

struct Node {
    id: usize,
    memory_kib: u64,
    distances: String,
}

struct Cpu {
    node: usize,
    package: usize,
    core: usize,
    siblings: Vec<usize>,
}

struct Nic {
    name: String,
    node: usize,
    queues: usize,
    first_irq: usize,
    on: Vec<usize>,
}

/// The words of a line after the first, in pairs or by name.
struct Line<'l>(Vec<&'l str>);

impl<'l> Line<'l> {
    fn after(&self, name: &str) -> Option<&'l str> {
        self.0.iter().position(|word| *word == name).and_then(|at| self.0.get(at + 1).copied())
    }

    fn number(&self, name: &str) -> usize {
        self.after(name)
            .and_then(|word| word.parse().ok())
            .unwrap_or_else(|| panic!("{name} in {:?}", self.0))
    }
}

impl Description {
    fn parse(text: &str) -> Self {
        let mut machine = Self::default();
        for line in text.lines().map(|line| line.split('#').next().unwrap_or_default()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let Some((&kind, rest)) = words.split_first() else { continue };
            let line = Line(rest.to_vec());
            match kind {
                "node" => machine.nodes.push(Node {
                    id: rest[0].parse().expect("a node"),
                    memory_kib: kib(line.after("memory").expect("memory")),
                    distances: rest
                        [rest.iter().position(|word| *word == "distance").expect("distance") + 1..]
                        .join(" "),
                }),
                "cpus" => machine.add_cpus(&list(rest[0]), &line),
                "cache" => {
                    machine.caches.push((
                        rest[0].parse().expect("a level"),
                        rest[1].to_owned(),
                        list(rest[2]),
                    ));
                }
                "offline" => machine.offline = list(rest[0]),
                "allowed" => machine.allowed = Some(list(rest[0])),
                "memory-nodes" => machine.memory_nodes = Some(list(rest[0])),
                "memory" => {
                    machine.memory =
                        Some([rest[0], line.after("available").expect("available")].map(str::to_owned));
                }
                "memory-limit" => machine.memory_limit = Some(rest[0].to_owned()),
                "quota" => machine.quota = Some(rest.join(" ")),
                "slow" => machine.slow = list(rest[0]),
                "capacity" => {
                    machine.capacity.extend(list(rest[1]).into_iter().map(|cpu| (cpu, rest[0].to_owned())));
                }
                "nic" => machine.nics.push(Nic {
                    name: rest[0].to_owned(),
                    node: line.number("node"),
                    queues: line.number("queues"),
                    first_irq: line.number("interrupts"),
                    on: list(line.after("on").expect("on")),
                }),
                _ => panic!("a line that begins with {kind}"),
            }
        }
        machine
    }

    fn add_cpus(&mut self, ids: &[usize], line: &Line<'_>) {
        let (node, package) = (line.number("node"), line.number("package"));
        let threads = line.after("threads").map_or(1, |word| word.parse().expect("threads"));
        let cores = ids.len() / threads;
        let is_apart = line.0.contains(&"apart");
        let of_core = |core: usize| -> Vec<usize> {
            let at = |thread| if is_apart { core + thread * cores } else { core * threads + thread };
            (0..threads).map(|thread| ids[at(thread)]).collect()
        };
        let first_core = self
            .cpus
            .values()
            .filter(|cpu| cpu.package == package)
            .map(|cpu| cpu.core + 1)
            .max()
            .unwrap_or(0);
        for core in 0..cores {
            for id in of_core(core) {
                self.cpus.insert(id, Cpu { node, package, core: first_core + core, siblings: of_core(core) });
            }
        }
        for (level, name) in [(2, "l2"), (3, "l3")] {
            let Some((size, shared)) = line.after(name).and_then(|word| word.split_once('/')) else {
                continue;
            };
            let shared: usize = shared.parse().expect("cores that share it");
            for first in (0..cores).step_by(shared) {
                let mut cpus: Vec<usize> = (first..cores.min(first + shared)).flat_map(of_core).collect();
                cpus.sort_unstable();
                self.caches.push((level, size.to_owned(), cpus));
            }
        }
    }

    fn write(&self, root: &Path) {
        let put = |file: &str, text: &str| put(root, file, &format!("{text}\n"));
        let all: Vec<usize> = self.cpus.keys().copied().collect();
        let online = |cpus: &[usize]| -> Vec<usize> {
            cpus.iter().copied().filter(|cpu| !self.offline.contains(cpu)).collect()
        };
        for (file, cpus) in [("online", online(&all)), ("possible", all.clone()), ("present", all.clone())] {
            put(&format!("sys/devices/system/cpu/{file}"), &show(&cpus));
        }
        let set = |file: &str, cpus: &[usize]| {
            put(&format!("{file}_list"), &show(cpus));
            put(file, &mask(cpus));
        };
        // The kernel keeps the directory of an offline CPU, and empties it.
        for (&id, cpu) in &self.cpus {
            let dir = format!("sys/devices/system/cpu/cpu{id}");
            put(&format!("{dir}/online"), if self.offline.contains(&id) { "0" } else { "1" });
            if self.offline.contains(&id) {
                continue;
            }
            put(&format!("{dir}/topology/physical_package_id"), &cpu.package.to_string());
            put(&format!("{dir}/topology/core_id"), &cpu.core.to_string());
            let mates: Vec<usize> =
                all.iter().copied().filter(|mate| self.cpus[mate].package == cpu.package).collect();
            for (name, cpus) in [
                ("core_cpus", &cpu.siblings),
                ("thread_siblings", &cpu.siblings),
                ("package_cpus", &mates),
                ("core_siblings", &mates),
            ] {
                set(&format!("{dir}/topology/{name}"), &online(cpus));
            }
            let caches = self.caches.iter().filter(|(_, _, cpus)| cpus.contains(&id));
            for (index, (level, size, cpus)) in caches.enumerate() {
                let dir = format!("{dir}/cache/index{index}");
                put(&format!("{dir}/level"), &level.to_string());
                put(&format!("{dir}/type"), "Unified");
                put(&format!("{dir}/size"), &format!("{}K", kib(size)));
                put(&format!("{dir}/shared_cpu_map"), &mask(&online(cpus)));
                put(&format!("{dir}/shared_cpu_list"), &show(&online(cpus)));
            }
            if let Some(capacity) = self.capacity.get(&id) {
                put(&format!("{dir}/cpu_capacity"), capacity);
            }
        }
        if !self.slow.is_empty() {
            put("sys/devices/cpu_atom/cpus", &show(&self.slow));
            let fast: Vec<usize> = all.iter().copied().filter(|cpu| !self.slow.contains(cpu)).collect();
            put("sys/devices/cpu_core/cpus", &show(&fast));
        }
        self.write_nodes(root, &online(&all));
        let allowed = self.allowed.clone().unwrap_or_else(|| online(&all));
        let nodes =
            self.memory_nodes.clone().unwrap_or_else(|| self.nodes.iter().map(|node| node.id).collect());
        let lists = [("Cpus_allowed", &allowed), ("Mems_allowed", &nodes)];
        let lines = lists.map(|(name, ids)| format!("{name}:\t{}\n{name}_list:\t{}", mask(ids), show(ids)));
        put("proc/self/status", &lines.join("\n"));
        put("proc/self/cgroup", "0::/service");
        for (file, limit) in [("cpu.max", &self.quota), ("memory.max", &self.memory_limit)] {
            if let Some(limit) = limit {
                put(&format!("sys/fs/cgroup/service/{file}"), limit);
            }
        }
        self.write_nics(root);
    }

    fn write_nodes(&self, root: &Path, online: &[usize]) {
        let put = |file: &str, text: &str| put(root, file, &format!("{text}\n"));
        let ids: Vec<usize> = self.nodes.iter().map(|node| node.id).collect();
        let of_nodes =
            || format!("MemTotal: {} kB", self.nodes.iter().map(|node| node.memory_kib).sum::<u64>());
        let own = |[total, available]: &[String; 2]| {
            format!("MemTotal: {} kB\nMemAvailable: {} kB", kib(total), kib(available))
        };
        put("proc/meminfo", &self.memory.as_ref().map_or_else(of_nodes, own));
        if !ids.is_empty() {
            put("sys/devices/system/node/online", &show(&ids));
        }
        for node in &self.nodes {
            let dir = format!("sys/devices/system/node/node{}", node.id);
            let cpus: Vec<usize> =
                online.iter().copied().filter(|cpu| self.cpus[cpu].node == node.id).collect();
            put(&format!("{dir}/cpulist"), &show(&cpus));
            put(&format!("{dir}/cpumap"), &mask(&cpus));
            put(&format!("{dir}/distance"), &node.distances);
            put(&format!("{dir}/meminfo"), &format!("Node {} MemTotal: {} kB", node.id, node.memory_kib));
        }
    }

    fn write_nics(&self, root: &Path) {
        let mut table = "           CPU0\n".to_owned();
        for (at, nic) in self.nics.iter().enumerate() {
            let device = format!("sys/devices/pci0000:{at:02x}/0000:{at:02x}:00.0");
            let home = format!("{device}/net/{}", nic.name);
            put(root, &format!("{home}/operstate"), "up\n");
            put(root, &format!("{device}/numa_node"), &format!("{}\n", nic.node));
            fs::create_dir_all(root.join("sys/class/net")).expect("a directory");
            symlink(format!("../../../{home}"), root.join("sys/class/net").join(&nic.name)).expect("a link");
            symlink("../..", root.join(&home).join("device")).expect("a link");
            for queue in 0..nic.queues {
                let irq = nic.first_irq + queue;
                put(root, &format!("{device}/msi_irqs/{irq}"), "msix\n");
                put(root, &format!("{home}/queues/rx-{queue}/rps_cpus"), "0\n");
                put(root, &format!("{home}/queues/tx-{queue}/xps_cpus"), "0\n");
                put(
                    root,
                    &format!("proc/irq/{irq}/smp_affinity_list"),
                    &format!("{}\n", nic.on[queue % nic.on.len()]),
                );
                let _ = writeln!(table, " {irq}:     0   PCI-MSI {queue}-edge    {}-TxRx-{queue}", nic.name);
            }
        }
        put(root, "proc/interrupts", &table);
    }
}

/// `32GiB` in KiB.
fn kib(text: &str) -> u64 {
    let at = text.find(|c: char| !c.is_ascii_digit()).expect("a unit");
    let factor = match &text[at..] {
        "KiB" => 1,
        "MiB" => 1 << 10,
        "GiB" => 1 << 20,
        unit => panic!("the unit {unit}"),
    };
    text[..at].parse::<u64>().expect("a number") * factor
}

/// `0-3,8`, or `0-14:2`.
fn list(text: &str) -> Vec<usize> {
    let number = |text: &str| text.parse::<usize>().unwrap_or_else(|_| panic!("a number: {text}"));
    let range = |part: &str| {
        let (range, step) = part.split_once(':').unwrap_or((part, "1"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        (number(first)..=number(last)).step_by(number(step))
    };
    text.split(',').flat_map(range).collect()
}

fn show(ids: &[usize]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// The kernel's masks: words of 32 bits, the highest first.
fn mask(ids: &[usize]) -> String {
    let words = ids.iter().max().map_or(1, |last| last / 32 + 1);
    let word =
        |nth: usize| ids.iter().filter(|id| *id / 32 == nth).fold(0u32, |word, id| word | 1 << (id % 32));
    (0..words).rev().map(|nth| format!("{:08x}", word(nth))).collect::<Vec<_>>().join(",")
}
