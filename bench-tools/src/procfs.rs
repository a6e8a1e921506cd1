//! What the kernel tells about processes, sockets and memory. Parsing is separate from reading, and pure.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

/// The processes that serve a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Server {
    /// Name of the first one, as in /proc/PID/comm.
    pub name: String,
    /// All that hold a listening socket of the port.
    pub pids: Vec<u32>,
}

/// What a server has used or uses, over all its processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory in bytes.
    pub rss_bytes: u64,
    /// Time on a CPU, to the nanosecond.
    pub on_cpu: Duration,
    /// CPU time in user mode, in clock ticks of 10 ms.
    pub user: Duration,
    /// CPU time in the kernel, likewise.
    pub system: Duration,
    /// Open descriptors.
    pub descriptors: u64,
}

impl Server {
    /// Finds the process that listens on an address; `None` if none does, or if we may not look.
    pub fn listening_on(address: SocketAddr) -> Option<Server> {
        let mut inodes = Vec::new();
        for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
            let text = fs::read_to_string(table).unwrap_or_default();
            inodes.extend(text.lines().filter_map(listener).filter(|(at, _)| serves(at, &address)));
        }
        let links: Vec<String> = inodes.iter().map(|(_, inode)| format!("socket:[{inode}]")).collect();
        let pids: Vec<u32> = processes().filter(|&pid| !links.is_empty() && holds(pid, &links)).collect();
        let name = fs::read_to_string(format!("/proc/{}/comm", pids.first()?)).ok()?;
        Some(Server { name: name.trim().to_owned(), pids })
    }

    /// What the server uses now.
    ///
    /// # Errors
    /// When none of its processes exists any more.
    pub fn usage(&self) -> io::Result<Usage> {
        let mut sum = Usage::default();
        let mut error = None;
        let mut alive = 0;
        for &pid in &self.pids {
            match usage(pid) {
                Ok(one) => {
                    alive += 1;
                    sum.rss_bytes += one.rss_bytes;
                    sum.on_cpu += one.on_cpu;
                    sum.user += one.user;
                    sum.system += one.system;
                    sum.descriptors += one.descriptors;
                }
                Err(gone) => error = Some(gone),
            }
        }
        match error {
            Some(gone) if alive == 0 => Err(gone),
            _ => Ok(sum),
        }
    }

    /// Descriptors in use and allowed, of the process that has the fewest left.
    pub fn tightest_descriptors(&self) -> Option<(u64, u64)> {
        let each = self.pids.iter().filter_map(|pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
            let (soft, _) = parse_descriptor_limit(&text)?;
            Some((descriptors(&PathBuf::from(format!("/proc/{pid}/fd"))), soft))
        });
        each.min_by_key(|(used, limit)| limit.saturating_sub(*used))
    }

    /// Whether all of its processes have ended; one that was not waited for yet still has an entry.
    pub fn is_gone(&self) -> bool {
        let stat = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/stat"));
        self.pids.iter().all(|pid| stat(pid).map_or(true, |stat| has_ended(&stat)))
    }
}

/// What this process uses.
///
/// # Errors
/// When /proc cannot be read.
pub fn own_usage() -> io::Result<Usage> {
    usage(std::process::id())
}

fn processes() -> impl Iterator<Item = u32> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(move |&pid| pid != own)
}

fn holds(pid: u32, links: &[String]) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors
        .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
        .any(|link| link.to_str().is_some_and(|link| links.iter().any(|wanted| wanted == link)))
}

fn serves(listening: &SocketAddr, wanted: &SocketAddr) -> bool {
    listening.port() == wanted.port() && (listening.ip() == wanted.ip() || listening.ip().is_unspecified())
}

fn usage(pid: u32) -> io::Result<Usage> {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    let status = fs::read_to_string(dir.join("status"))?;
    let (user, system) = parse_times(&fs::read_to_string(dir.join("stat"))?).unwrap_or_default();
    let mut on_cpu = Duration::ZERO;
    for task in fs::read_dir(dir.join("task"))?.flatten() {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let ns = text.split_ascii_whitespace().next().and_then(|ns| ns.parse().ok());
        on_cpu += Duration::from_nanos(ns.unwrap_or(0));
    }
    if on_cpu.is_zero() {
        on_cpu = user + system;
    }
    let rss_bytes = kilobytes(&status, "VmRSS").unwrap_or(0) * 1024;
    Ok(Usage { rss_bytes, on_cpu, user, system, descriptors: descriptors(&dir.join("fd")) })
}

/// Linux 6.2 tells the number of descriptors as the size of the directory; before, they are counted.
fn descriptors(dir: &std::path::Path) -> u64 {
    match fs::metadata(dir).map(|metadata| metadata.len()) {
        Ok(0) => fs::read_dir(dir).map_or(0, |entries| entries.count() as u64),
        Ok(count) => count,
        Err(_) => 0,
    }
}

/// A line of /proc/net/tcp or tcp6 that is a listening socket: its address and inode.
fn listener(line: &str) -> Option<(SocketAddr, u64)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = fields.next()?;
    let (_remote, state) = (fields.next()?, fields.next()?);
    if state != "0A" {
        return None;
    }
    let inode = fields.nth(5)?.parse().ok()?;
    Some((parse_address(local)?, inode))
}

/// `0100007F:1F90`: words in the machine's byte order, the port as a number.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok();
    let ip = match ip.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?.to_ne_bytes())),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[at * 4..at * 4 + 4].copy_from_slice(&word(at)?.to_ne_bytes());
            }
            IpAddr::from(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Whether /proc/PID/stat is that of a zombie.
fn has_ended(stat: &str) -> bool {
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

/// User and system time of /proc/PID/stat. The name in parentheses may contain anything.
fn parse_times(stat: &str) -> Option<(Duration, Duration)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut ticks = || Some(Duration::from_millis(10 * fields.next()?.parse::<u64>().ok()?));
    Some((ticks()?, ticks()?))
}

fn parse_descriptor_limit(limits: &str) -> Option<(u64, u64)> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let mut fields = line.split_ascii_whitespace().map(|field| field.parse().unwrap_or(u64::MAX));
    Some((fields.next()?, fields.next()?))
}

/// `Name:   123 kB` in /proc/meminfo and /proc/PID/status.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_ascii_whitespace().next()?.parse().ok()
}

/// Sockets, memory and refusals of the whole machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Memory in bytes: all of it,
    pub memory_total: u64,
    /// what a new program could get,
    pub memory_available: u64,
    /// and what the kernel's caches of small objects hold.
    pub slab: u64,
    /// TCP sockets in use and in TIME_WAIT.
    pub tcp_in_use: u64,
    /// TIME_WAIT sockets.
    pub tcp_time_wait: u64,
    /// TCP buffers in bytes.
    pub tcp_memory: u64,
    /// Counters of /proc/net/netstat that tell refusals.
    pub refusals: BTreeMap<&'static str, u64>,
    /// Bytes per slab cache, where we may see them.
    pub slabs: BTreeMap<String, u64>,
}

/// The refusals worth telling, in the words of TcpExt.
const REFUSALS: [&str; 7] = [
    "ListenOverflows",
    "ListenDrops",
    "TCPReqQFullDrop",
    "TCPReqQFullDoCookies",
    "TCPMemoryPressures",
    "TCPAbortOnMemory",
    "TCPTimeWaitOverflow",
];

impl Machine {
    /// How things are now.
    pub fn now() -> Machine {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let meminfo = read("/proc/meminfo");
        let bytes = |name| kilobytes(&meminfo, name).unwrap_or(0) * 1024;
        let sockstat = read("/proc/net/sockstat");
        let netstat = read("/proc/net/netstat");
        let refusals = REFUSALS.iter().filter_map(|&name| Some((name, parse_netstat(&netstat, name)?)));
        Machine {
            memory_total: bytes("MemTotal"),
            memory_available: bytes("MemAvailable"),
            slab: bytes("Slab"),
            tcp_in_use: parse_sockstat(&sockstat, "inuse").unwrap_or(0),
            tcp_time_wait: parse_sockstat(&sockstat, "tw").unwrap_or(0),
            tcp_memory: parse_sockstat(&sockstat, "mem").unwrap_or(0) * PAGE_BYTES,
            refusals: refusals.collect(),
            slabs: parse_slabinfo(&read("/proc/slabinfo")),
        }
    }

    /// The refusals since an earlier look.
    pub fn refusals_since(&self, earlier: &Machine) -> BTreeMap<&'static str, u64> {
        let since = |(&name, &count): (&&'static str, &u64)| {
            let more = count.saturating_sub(earlier.refusals.get(name).copied().unwrap_or(0));
            (more > 0).then_some((name, more))
        };
        self.refusals.iter().filter_map(since).collect()
    }
}

/// Pages of the architectures that io_uring servers run on are 4 KiB; sockstat counts in pages.
pub const PAGE_BYTES: u64 = 4096;

/// Connections that programs on this machine have opened since boot.
pub fn connections_opened() -> Option<u64> {
    parse_active_opens(&fs::read_to_string("/proc/net/snmp").ok()?)
}

/// `ActiveOpens` of /proc/net/snmp, which comes as a line of names and a line of numbers.
fn parse_active_opens(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split_ascii_whitespace().position(|field| field == "ActiveOpens")?;
    values.split_ascii_whitespace().nth(at)?.parse().ok()
}

/// The number behind a word of the TCP line of /proc/net/sockstat.
fn parse_sockstat(text: &str, word: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let mut fields = line.split_ascii_whitespace();
    fields.find(|&field| field == word)?;
    fields.next()?.parse().ok()
}

/// A counter of /proc/net/netstat: a line of names, then a line of numbers.
fn parse_netstat(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        if names.starts_with("TcpExt:") {
            let at = names.split_ascii_whitespace().position(|field| field == name)?;
            return values.split_ascii_whitespace().nth(at)?.parse().ok();
        }
    }
    None
}

/// Bytes per cache: objects times their size.
fn parse_slabinfo(text: &str) -> BTreeMap<String, u64> {
    let cache = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let name = fields.next()?.to_owned();
        let objects: u64 = fields.nth(1)?.parse().ok()?;
        let bytes: u64 = fields.next()?.parse().ok()?;
        Some((name, objects * bytes))
    };
    text.lines().skip(2).filter_map(cache).collect()
}

/// Idle and total clock ticks of some CPUs since boot; of all when the list is empty.
pub fn cpu_ticks(cpus: &[usize]) -> (u64, u64) {
    parse_cpu_ticks(&fs::read_to_string("/proc/stat").unwrap_or_default(), cpus)
}

fn parse_cpu_ticks(stat: &str, cpus: &[usize]) -> (u64, u64) {
    let mut sum = (0, 0);
    for line in stat.lines() {
        let Some((cpu, values)) = line.strip_prefix("cpu").and_then(|line| line.split_once(' ')) else {
            continue;
        };
        let Ok(cpu) = cpu.parse::<usize>() else { continue };
        if cpus.is_empty() || cpus.contains(&cpu) {
            // user nice system idle iowait irq softirq steal; guest time is part of user.
            let ticks: Vec<u64> =
                values.split_ascii_whitespace().take(8).filter_map(|ticks| ticks.parse().ok()).collect();
            sum.0 += ticks.iter().skip(3).take(2).sum::<u64>();
            sum.1 += ticks.iter().sum::<u64>();
        }
    }
    sum
}

/// A number under /proc/sys, such as `fs/nr_open`; for several numbers, the one at a position.
pub fn sysctl(name: &str, position: usize) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
    text.split_ascii_whitespace().nth(position)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 32525 1 0 100 0 0 10 0
   1: 0100007F:1F90 0100007F:B85F 01 00000000:00000000 00:00000000 00000000     0        0 62508 1 0 100 0 0 10 0";

    #[test]
    fn listeners_are_found_and_connections_are_not() {
        let found: Vec<_> = TCP.lines().filter_map(listener).collect();
        assert_eq!(found, [(SocketAddr::from(([127, 0, 0, 1], 8080)), 32525)]);
        let any = parse_address("00000000000000000000000000000000:0050").expect("an address");
        assert!(serves(&any, &SocketAddr::from(([127, 0, 0, 1], 80))));
    }

    #[test]
    fn a_listener_of_ours_is_distinguished() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        // The own process is left out, and no other has it.
        assert_eq!(Server::listening_on(listener.local_addr().expect("address")), None);
    }

    #[test]
    fn times_skip_a_wicked_name() {
        let stat = "1 (a) b) S 0 1 1 0 -1 4194560 1 2 3 4 150 250 0 0 20 0 1 0";
        assert_eq!(parse_times(stat), Some((Duration::from_millis(1_500), Duration::from_millis(2_500))));
        assert!(!has_ended(stat) && has_ended("1 (a) b) Z 0 1"));
    }

    #[test]
    fn tables_of_the_machine() {
        let sockstat = "sockets: used 433\nTCP: inuse 140 orphan 0 tw 3 alloc 140 mem 162\n";
        assert_eq!((parse_sockstat(sockstat, "tw"), parse_sockstat(sockstat, "mem")), (Some(3), Some(162)));
        let netstat = "TcpExt: A ListenOverflows B\nTcpExt: 1 2 3\nIpExt: X\nIpExt: 9\n";
        assert_eq!(parse_netstat(netstat, "ListenOverflows"), Some(2));
        let snmp = "Ip: Forwarding\nIp: 1\nTcp: RtoAlgorithm ActiveOpens\nTcp: 1 77\n";
        assert_eq!(parse_active_opens(snmp), Some(77));
        let slabinfo = "slabinfo - version: 2.1\n# name\nTCP   176  234   2368   13    8 : tunables\n";
        assert_eq!(parse_slabinfo(slabinfo)["TCP"], 234 * 2368);
        assert_eq!(kilobytes("MemTotal:  10 kB\nSlab: 7 kB", "Slab"), Some(7));
        let limits =
            "Limit  Soft Limit\nMax open files            1024                 4096                 files";
        assert_eq!(parse_descriptor_limit(limits), Some((1024, 4096)));
        let stat = "cpu  9 9\ncpu0 1 1 1 4 1 0 0 0 0 0\ncpu1 0 0 0 10 0 0 0 0 0 0\n";
        assert_eq!((parse_cpu_ticks(stat, &[0]), parse_cpu_ticks(stat, &[])), ((5, 8), (15, 18)));
    }
}
