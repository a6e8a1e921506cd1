//! Network cards: their node, their queues, and which CPUs their interrupts go to.
//!
//! Sysfs does not show a card's RSS table; the number of receive queues with an interrupt of their own is how far
//! RSS can spread, and RPS and XPS masks say what the kernel adds to it.

use std::path::Path;

use serde::Serialize;

use super::files::Files;
use super::{CpuSet, Node, TopologyError};

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Nic {
    /// The interface: `eth0`.
    pub name: String,
    /// The node it is plugged into, if the firmware says.
    pub node: Option<usize>,
    /// Whether its link is up.
    pub is_up: bool,
    /// Its receive queues.
    pub rx: Vec<Queue>,
    /// Its transmit queues.
    pub tx: Vec<Queue>,
    /// Its interrupts, by number.
    pub interrupts: Vec<Interrupt>,
}

/// A queue of a network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Queue {
    /// Its number.
    pub queue: usize,
    /// CPUs that packets are steered to (RPS) or that send by this queue (XPS); empty for no such rule.
    pub cpus: CpuSet,
}

/// An interrupt of a network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interrupt {
    /// The kernel's number.
    pub irq: usize,
    /// The driver's name for it; empty while it is not in use.
    pub name: String,
    /// The queue it serves, by the number in its name; none for those that serve no queue (configuration, events).
    pub queue: Option<usize>,
    /// Where it goes: the effective affinity, if it is within the mask that was set, else that mask.
    pub cpus: CpuSet,
}

impl Nic {
    /// The interrupts that serve queues.
    pub fn queue_interrupts(&self) -> impl Iterator<Item = &Interrupt> {
        self.interrupts.iter().filter(|interrupt| interrupt.queue.is_some())
    }
}

/// Every card with a device behind it, in the order of names.
pub(super) fn read_nics(
    files: Files<'_>,
    online: &CpuSet,
    nodes: &[Node],
) -> Result<Vec<Nic>, TopologyError> {
    let table = files.text("proc/interrupts").unwrap_or_default();
    let mut nics = Vec::new();
    for name in files.names("sys/class/net") {
        // Bridges, tunnels and the loopback have no device.
        if let Some(device) = files.real(&format!("sys/class/net/{name}/device")) {
            let mut nic = read_nic(files, name, &device, &table, online)?;
            if let [only] = nodes {
                nic.node = Some(only.id);
            }
            nics.push(nic);
        }
    }
    Ok(nics)
}

fn read_nic(
    files: Files<'_>,
    name: String,
    device: &Path,
    table: &str,
    online: &CpuSet,
) -> Result<Nic, TopologyError> {
    let dir = format!("sys/class/net/{name}");
    // A virtio device says neither its node nor its interrupts; the PCI device above it does.
    let holder = |file: &str| {
        let mut dirs =
            device.ancestors().map_while(|dir| dir.to_str().filter(|dir| dir.len() > "sys/devices".len()));
        dirs.find(|dir| files.root.join(dir).join(file).exists()).map(|dir| format!("{dir}/{file}"))
    };
    let node = holder("numa_node").and_then(|file| files.number(&file));
    let mut irqs = holder("msi_irqs").map(|dir| files.numbered(&dir, "")).unwrap_or_default();
    let virtio = device.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if irqs.is_empty() {
        // A device on a bus without MSI: known by name only.
        let ours = |action: &str| belongs_to(action, &name) || belongs_to(action, virtio);
        irqs = actions(table).filter(|(_, action)| ours(action)).map(|(irq, _)| irq).collect();
    }
    let mut interrupts = Vec::with_capacity(irqs.len());
    for irq in irqs {
        let action = actions(table).find(|(number, _)| *number == irq).map_or("", |(_, action)| action);
        let list = |kind: &str| files.list(&format!("proc/irq/{irq}/{kind}_affinity_list"));
        let mask = list("smp")?.unwrap_or_default();
        // A new mask takes effect with the next interrupt: until then the effective CPU is yesterday's.
        let effective =
            list("effective")?.filter(|cpus| !cpus.is_empty() && cpus.intersection(&mask) == *cpus);
        let cpus = effective.unwrap_or(mask);
        let queue = queue_of(action);
        interrupts.push(Interrupt { irq, name: action.to_owned(), queue, cpus: cpus.intersection(online) });
    }
    // Some drivers give the bare name to the interrupt that serves all, others to the one beside the queues.
    let bare = interrupts.iter().position(|interrupt| interrupt.name == name);
    if let Some(bare) = bare.filter(|_| interrupts.iter().all(|interrupt| interrupt.queue.is_none())) {
        interrupts[bare].queue = Some(0);
    }
    let up = files.text(&format!("{dir}/operstate")).unwrap_or_default();
    Ok(Nic {
        node,
        is_up: matches!(up.trim(), "up" | "unknown"),
        rx: queues(files, &dir, "rx-", "rps_cpus"),
        tx: queues(files, &dir, "tx-", "xps_cpus"),
        interrupts,
        name,
    })
}

fn queues(files: Files<'_>, dir: &str, prefix: &str, mask: &str) -> Vec<Queue> {
    let numbers = files.numbered(&format!("{dir}/queues"), prefix);
    let mask_of = |queue| files.text(&format!("{dir}/queues/{prefix}{queue}/{mask}")).unwrap_or_default();
    numbers.into_iter().map(|queue| Queue { queue, cpus: CpuSet::from_mask(&mask_of(queue)) }).collect()
}

/// The numbered lines of `/proc/interrupts`: the interrupt and the last word, which names who asked for it.
fn actions(table: &str) -> impl Iterator<Item = (usize, &str)> {
    table.lines().filter_map(|line| {
        let (irq, rest) = line.trim_start().split_once(':')?;
        // A line without a name ends in its counters or its chip.
        let name = rest
            .split_whitespace()
            .next_back()
            .filter(|word| !word.ends_with("-edge") && word.parse::<u64>().is_err());
        Some((irq.parse().ok()?, name.unwrap_or_default()))
    })
}

fn belongs_to(action: &str, device: &str) -> bool {
    !device.is_empty()
        && action.strip_prefix(device).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.']))
}

/// The queue an interrupt serves, by the name the driver gave it: `eth0-TxRx-3`, `virtio2-input.0`, `mlx5_comp3@pci:...`,
/// `eth1-rxtx-0`, `ena-mgmnt@pci:...`. None for names that speak of something else than a queue.
fn queue_of(action: &str) -> Option<usize> {
    const NOT_A_QUEUE: [&str; 12] = [
        "config", "mgm", "async", "event", "ctrl", "control", "misc", "cmd", "pages", "adminq", "fdir",
        "link",
    ];
    let name = action.split('@').next().unwrap_or_default().to_ascii_lowercase();
    if NOT_A_QUEUE.iter().any(|word| name.contains(word)) {
        return None;
    }
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    // `eth0` and `virtio3` are names of devices, `eth0-rx`, `virtio3-rx` and `virtio4-input` of their only queue.
    let has_part = name.contains(['-', '.', '_']);
    match digits {
        _ if !has_part => None,
        0 => ["rx", "tx", "input", "output"].iter().any(|end| name.ends_with(end)).then_some(0),
        _ => name[name.len() - digits..].parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_interrupts() {
        for (name, queue) in [
            ("eth0-TxRx-3", Some(3)),
            ("i40e-ens1f0-TxRx-12", Some(12)),
            ("ice-eth0-TxRx-0", Some(0)),
            ("virtio2-input.0", Some(0)),
            ("virtio2-output.1", Some(1)),
            ("virtio3-rx", Some(0)),
            ("mlx5_comp7@pci:0000:3b:00.0", Some(7)),
            ("ens5-Tx-Rx-2", Some(2)),
            ("eth1-rxtx-3", Some(3)),
            ("eth0-fp-4", Some(4)),
            ("mlx5_async0@pci:0000:3b:00.0", None),
            ("ena-mgmnt@pci:0000:00:05.0", None),
            ("eth1-event-4", None),
            ("virtio2-config", None),
            ("ice-0000:3b:00.0:misc", None),
            ("eth0", None),
            ("", None),
        ] {
            assert_eq!(queue_of(name), queue, "{name}");
        }
    }

    #[test]
    fn lines_of_the_interrupt_table() {
        let table = "           CPU0       CPU1\n 38:    0   9901 PCI-MSIX-0000:00:03.0   1-edge      virtio2-input.0\n \
                     40:  1  2  GICv3  65 Level   eth0\n 41:   0   0  PCI-MSI 1-edge\nNMI:   0   0   Non-maskable interrupts\n";
        let found: Vec<_> = actions(table).collect();
        assert_eq!(found, [(38, "virtio2-input.0"), (40, "eth0"), (41, "")]);
    }
}
