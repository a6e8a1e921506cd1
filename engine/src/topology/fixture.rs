//! Machines written into a directory, for tests of topology and placement.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{CpuSet, Topology};

/// A directory with the files of one machine; removed when dropped.
pub(crate) struct Machine {
    root: PathBuf,
}

/// A CPU of a fixture: number, node, package, core.
pub(crate) type CpuRow = (usize, usize, usize, usize);

impl Machine {
    /// A machine without any file.
    pub(crate) fn empty() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("sluice-topology-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&root).expect("a directory for temporary files");
        Self { root }
    }

    /// A machine of these CPUs, all online and allowed. Hyper-threads are those with one package and core; an
    /// L3 cache spans each package, an L2 each core. `memory_gib` has the memory of each node.
    pub(crate) fn new(cpus: &[CpuRow], memory_gib: &[u64]) -> Self {
        let machine = Self::empty();
        let all: CpuSet = cpus.iter().map(|cpu| cpu.0).collect();
        machine.online(&all.to_string()).allow(&all.to_string(), &format!("0-{}", memory_gib.len() - 1));
        machine.write("sys/devices/system/cpu/present", &all.to_string());
        for &(id, _, package, core) in cpus {
            let of = |fits: &dyn Fn(&CpuRow) -> bool| -> String {
                cpus.iter().filter(|row| fits(row)).map(|row| row.0).collect::<CpuSet>().to_string()
            };
            let siblings = of(&|row| row.2 == package && row.3 == core);
            let dir = format!("sys/devices/system/cpu/cpu{id}");
            machine.write(&format!("{dir}/topology/physical_package_id"), &package.to_string());
            machine.write(&format!("{dir}/topology/core_id"), &core.to_string());
            machine.write(&format!("{dir}/topology/core_cpus_list"), &siblings);
            let package_cpus = of(&|row| row.2 == package);
            let caches = [
                (1, "32K", "Data", &siblings),
                (2, "1024K", "Unified", &siblings),
                (3, "32M", "Unified", &package_cpus),
            ];
            for (level, size, kind, cpus) in caches {
                let dir = format!("{dir}/cache/index{level}");
                machine.write(&format!("{dir}/level"), &level.to_string());
                machine.write(&format!("{dir}/size"), size);
                machine.write(&format!("{dir}/type"), kind);
                machine.write(&format!("{dir}/shared_cpu_list"), cpus);
            }
        }
        machine.write("proc/meminfo", &format!("MemTotal: {} kB", memory_gib.iter().sum::<u64>() << 20));
        for (node, gib) in memory_gib.iter().enumerate() {
            let here: CpuSet = cpus.iter().filter(|cpu| cpu.1 == node).map(|cpu| cpu.0).collect();
            let dir = format!("sys/devices/system/node/node{node}");
            machine.write(&format!("{dir}/cpulist"), &here.to_string());
            machine.write(&format!("{dir}/meminfo"), &format!("Node {node} MemTotal:   {} kB", gib << 20));
            let distances: Vec<_> =
                (0..memory_gib.len()).map(|to| (10 + 10 * node.abs_diff(to)).to_string()).collect();
            machine.write(&format!("{dir}/distance"), &distances.join(" "));
        }
        machine
    }

    /// Writes a file, with the newline that sysfs ends its files with.
    pub(crate) fn write(&self, file: &str, text: &str) -> &Self {
        let path = self.root.join(file);
        std::fs::create_dir_all(path.parent().expect("below the root")).expect("a directory");
        std::fs::write(path, format!("{text}\n")).expect("a file");
        self
    }

    /// Which CPUs are online.
    pub(crate) fn online(&self, cpus: &str) -> &Self {
        self.write("sys/devices/system/cpu/online", cpus)
    }

    /// The CPUs and nodes that the process may use.
    pub(crate) fn allow(&self, cpus: &str, nodes: &str) -> &Self {
        let status =
            format!("Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t{cpus}\nMems_allowed_list:\t{nodes}");
        self.write("proc/self/status", &status)
    }

    /// A PCI network card on a node, with a queue of each kind per interrupt (number, name, CPUs).
    pub(crate) fn card(&self, name: &str, node: usize, interrupts: &[(usize, &str, &str)]) -> &Self {
        let dir = format!("sys/class/net/{name}");
        self.write(&format!("{dir}/operstate"), "up")
            .write(&format!("{dir}/device/numa_node"), &node.to_string());
        let mut table = "           CPU0\n".to_owned();
        for &(irq, action, cpus) in interrupts {
            self.write(&format!("{dir}/device/msi_irqs/{irq}"), "msix");
            self.write(&format!("proc/irq/{irq}/smp_affinity_list"), cpus);
            let _ = writeln!(table, " {irq}:     7   PCI-MSI 1-edge    {action}");
            if let Some(queue) = action.strip_prefix(&format!("{name}-TxRx-")) {
                self.write(&format!("{dir}/queues/rx-{queue}/rps_cpus"), "00000000,00000000");
                self.write(&format!("{dir}/queues/tx-{queue}/xps_cpus"), "00000000,00000000");
            }
        }
        self.write("proc/interrupts", &table)
    }

    /// Reads the machine.
    pub(crate) fn read(&self) -> Topology {
        Topology::read(&self.root).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// A desktop: one node, four cores, no hyper-threads.
pub(crate) fn one_socket() -> Machine {
    Machine::new(&[(0, 0, 0, 0), (1, 0, 0, 1), (2, 0, 0, 2), (3, 0, 0, 3)], &[16])
}

/// Two sockets of two cores with two threads each, numbered the usual way: even CPUs on node 0, odd ones on
/// node 1, second threads after all first ones.
pub(crate) fn two_sockets_interleaved() -> Machine {
    let cpus: Vec<CpuRow> = (0..8).map(|id| (id, id % 2, id % 2, id % 4 / 2)).collect();
    Machine::new(&cpus, &[32, 32])
}
