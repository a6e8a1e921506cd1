//! The running shards, for `sluice topology --live`: a socket for the same user and root only.
//!
//! The socket has a name in the abstract namespace, so there is no file to place, protect or clean up. Both sides check the
//! other's user by the kernel's credentials.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::member::Member;

/// How long each side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// The shards of a running process. The keys are documented in docs/operations.md.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// The process.
    pub pid: u32,
    /// Which shard is to get a connection, as `--steering` has it.
    pub steering: String,
    /// How it is done: `hash`, `socket options`, `BPF program`.
    pub steered_by: String,
    /// Its shards, in the order of their numbers.
    pub shards: Vec<LiveShard>,
    /// What listeners with TLS show, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<LiveTls>,
    /// The servers that are checked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<LiveServer>,
}

/// A server that is checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveServer {
    /// Its group.
    pub upstream: String,
    /// Its address as configured.
    pub server: String,
    /// Whether it gets requests, as far as checks are concerned.
    pub up: bool,
    /// Checks that have passed.
    pub checks_passed: u64,
    /// Checks that have failed.
    pub checks_failed: u64,
    /// Checks that had to wait for others for longer than their interval.
    pub checks_late: u64,
}

/// What listeners with TLS show at this moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveTls {
    /// The certificates in force.
    pub certificates: Vec<LiveCertificate>,
    /// How long ago the newest key of session tickets was made, in seconds.
    pub ticket_key_age_s: u64,
}

/// A certificate in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveCertificate {
    /// Its file.
    pub certificate: String,
    /// The first name that it is for.
    pub name: String,
    /// When it expires, in seconds since 1970.
    pub expires_s: i64,
}

/// One shard at this moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveShard {
    /// Its number.
    pub shard: usize,
    /// The CPU it was placed on.
    pub cpu: usize,
    /// The node of that CPU.
    pub node: usize,
    /// The CPU its thread ran on last.
    pub runs_on: Option<usize>,
    /// The CPUs its thread may run on.
    pub may_run_on: String,
    /// The node its memory comes from.
    pub memory_node: usize,
    /// Pages of its memory on that node.
    pub pages_on_node: u64,
    /// Pages elsewhere.
    pub pages_off_node: u64,
    /// Pages of which the kernel does not tell.
    pub pages_unknown: u64,
    /// The same for every part of its memory.
    pub memory: Vec<LiveMemory>,
    /// Why the pages could not be counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pages_error: Option<String>,
    /// How long ago it brought its counters up to date.
    #[serde(default)]
    pub counters_age_ms: u64,
    /// It did not do so when it was asked just now.
    #[serde(default)]
    pub counters_stale: bool,
    /// Its counters.
    pub counters: BTreeMap<String, u64>,
}

/// A part of a shard's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveMemory {
    /// What it is.
    pub what: String,
    /// Pages on the node that the shard's memory comes from.
    pub pages_on_node: u64,
    /// Pages elsewhere.
    pub pages_off_node: u64,
    /// Pages of which the kernel does not tell.
    pub pages_unknown: u64,
}

/// The socket of a process.
fn address(pid: u32) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("sluice/{pid}"))
}

/// Asks a running process.
///
/// # Errors
/// One line: what went wrong and what to do.
pub fn ask(pid: u32) -> Result<Live, String> {
    let refused = |error: io::Error| {
        format!(
            "process {pid} does not answer: {error} (hint: is it a sluice, of the same user, in the same network \
             namespace?)"
        )
    };
    let stream = address(pid).and_then(|address| UnixStream::connect_addr(&address)).map_err(refused)?;
    let peer = sluice_sys::peer_credentials(stream.as_fd()).map_err(refused)?;
    if u32::try_from(peer.pid) != Ok(pid) {
        return Err(format!("the socket of process {pid} belongs to process {}", peer.pid));
    }
    let mut json = String::new();
    stream.set_read_timeout(Some(PATIENCE)).map_err(refused)?;
    (&stream).read_to_string(&mut json).map_err(refused)?;
    if json.is_empty() {
        return Err(format!("process {pid} refused to answer (hint: run this as the same user, or as root)"));
    }
    serde_json::from_str(&json).map_err(|error| format!("process {pid} is of another version: {error}"))
}

/// Listens for requests to see the shards, and passes on those that are permitted.
pub(crate) fn listen<E: From<UnixStream> + Send + 'static>(events: SyncSender<E>) -> io::Result<()> {
    let listener = UnixListener::bind_addr(&address(std::process::id())?)?;
    let serve = move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                // Out of descriptors: they may come back.
                thread::sleep(PATIENCE);
                continue;
            };
            let allowed = [0, sluice_sys::effective_user()];
            let is_allowed =
                sluice_sys::peer_credentials(stream.as_fd()).is_ok_and(|peer| allowed.contains(&peer.uid));
            if is_allowed && events.send(stream.into()).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("live".into()).spawn(serve).map(drop)
}

/// Answers a visitor. One that does not listen is left alone.
pub(crate) fn answer(mut stream: UnixStream, live: &Live) {
    let _ = stream.set_write_timeout(Some(PATIENCE));
    let _ = stream.write_all(live.to_json().as_bytes());
}

/// The state of a shard now.
pub(crate) fn look_at(member: &Member) -> LiveShard {
    let place = &member.place;
    let task = format!("/proc/self/task/{}", member.thread);
    let mut shown = LiveShard {
        shard: place.shard,
        cpu: place.cpu,
        node: place.node,
        runs_on: last_cpu(&std::fs::read_to_string(format!("{task}/stat")).unwrap_or_default()),
        may_run_on: allowed_cpus(&std::fs::read_to_string(format!("{task}/status")).unwrap_or_default()),
        memory_node: member.memory_node,
        counters_age_ms: member.freshness.age_ms(),
        counters_stale: member.freshness.is_stale(),
        counters: member.counters.values().map(|(name, value)| (name.to_owned(), value)).collect(),
        ..LiveShard::default()
    };
    match member.memory.locate() {
        Ok(parts) => parts.iter().for_each(|(what, pages)| shown.add(what, pages)),
        Err(error) => {
            shown.pages_error =
                Some(format!("{error} (hint: CAP_SYS_NICE, or a seccomp profile that allows move_pages)"));
        }
    }
    shown
}

/// Field 39 of `/proc/PID/stat`, counted behind the name, which may contain anything but ends with the last parenthesis.
fn last_cpu(stat: &str) -> Option<usize> {
    stat.rsplit(')').next()?.split_whitespace().nth(36)?.parse().ok()
}

fn allowed_cpus(status: &str) -> String {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.unwrap_or_default().trim().to_owned()
}

impl LiveShard {
    fn add(&mut self, what: &str, pages: &sluice_sys::Pages) {
        let (on, off) = (pages.on(self.memory_node), pages.off(self.memory_node));
        self.pages_on_node += on;
        self.pages_off_node += off;
        self.pages_unknown += pages.unknown;
        self.memory.push(LiveMemory {
            what: what.to_owned(),
            pages_on_node: on,
            pages_off_node: off,
            pages_unknown: pages.unknown,
        });
    }

    fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }
}

impl Live {
    /// One JSON object, ending in a newline.
    pub fn to_json(&self) -> String {
        let mut json = serde_json::to_string_pretty(self).expect("numbers, strings and lists only");
        json.push('\n');
        json
    }

    /// A table for people, one line for each shard.
    pub fn draw(&self) -> String {
        let mut out = String::from(
            "shard   cpu  runs-on  node  memory-node  pages-on  pages-off  unknown  connections    accepted      requests\n",
        );
        for shard in &self.shards {
            let runs_on = shard.runs_on.map_or("?".to_owned(), |cpu| cpu.to_string());
            let _ = writeln!(
                out,
                "{:>5} {:>5}  {:>7}  {:>4}  {:>11}  {:>8}  {:>9}  {:>7}  {:>11}  {:>10}  {:>12}",
                shard.shard,
                shard.cpu,
                runs_on,
                shard.node,
                shard.memory_node,
                shard.pages_on_node,
                shard.pages_off_node,
                shard.pages_unknown,
                shard.counter("connections"),
                shard.counter("accepted"),
                shard.counter("requests"),
            );
        }
        for shard in &self.shards {
            for memory in shard.memory.iter().filter(|memory| memory.pages_off_node > 0) {
                let _ = writeln!(
                    out,
                    "shard {}: {} of {} pages of its {} are not on node {}",
                    shard.shard,
                    memory.pages_off_node,
                    memory.pages_off_node + memory.pages_on_node,
                    memory.what,
                    shard.memory_node,
                );
            }
        }
        for shard in self.shards.iter().filter(|shard| shard.counters_stale) {
            let _ = writeln!(
                out,
                "shard {}: does not answer; its counters are {:.1} s old",
                shard.shard,
                shard.counters_age_ms as f64 / 1e3,
            );
        }
        for LiveServer { upstream, server, up, checks_passed, checks_failed, .. } in &self.servers {
            let state = if *up { "up" } else { "down" };
            let _ = writeln!(
                out,
                "upstream {upstream}: {server} is {state}; {checks_passed} checks passed, {checks_failed} failed"
            );
        }
        let _ = writeln!(out, "steering {}, by {}", self.steering, self.steered_by);
        if let Some(error) = self.shards.iter().find_map(|shard| shard.pages_error.as_ref()) {
            let _ = writeln!(out, "pages cannot be counted: {error}");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_says_of_a_thread() {
        let stat = "7 (a) b) S 1 1 1 0 -1 4194368 1 2 3 4 5 6 7 8 20 0 2 0 100 200 300 18446744073709551615 1 1 0 0 0 0 0 \
                    4096 0 0 0 0 17 3 0 0 0 0 0 0 0 0 0 0 0 0 0\n";
        assert_eq!(last_cpu(stat), Some(3));
        assert_eq!(last_cpu(""), None);
        assert_eq!(allowed_cpus("Name:\tx\nCpus_allowed_list:\t0-1,4\n"), "0-1,4");
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert!(last_cpu(&own).is_some());
    }

    #[test]
    fn is_drawn_and_read_back() {
        let mut shard = LiveShard { shard: 3, cpu: 6, node: 1, memory_node: 1, ..LiveShard::default() };
        let pages = sluice_sys::Pages { by_node: vec![5, 70], unknown: 2 };
        shard.add("heap", &pages);
        shard.add("stack", &pages);
        shard.counters.insert("requests".into(), 9);
        (shard.counters_stale, shard.counters_age_ms) = (true, 61_240);
        let (steering, steered_by) = ("load".into(), "hash".into());
        let server = LiveServer {
            upstream: "app".into(),
            server: "http://a:1".into(),
            checks_failed: 3,
            ..LiveServer::default()
        };
        let live =
            Live { pid: 1, steering, steered_by, shards: vec![shard], tls: None, servers: vec![server] };
        assert_eq!(serde_json::from_str::<Live>(&live.to_json()).unwrap(), live);
        let drawn = live.draw();
        let row: Vec<&str> = drawn.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row, ["3", "6", "?", "1", "1", "140", "10", "4", "0", "0", "9"]);
        let end = "shard 3: 5 of 75 pages of its stack are not on node 1\n\
                   shard 3: does not answer; its counters are 61.2 s old\n\
                   upstream app: http://a:1 is down; 0 checks passed, 3 failed\nsteering load, by hash\n";
        assert!(drawn.ends_with(end), "{drawn}");
    }

    #[test]
    fn the_manual_knows_every_key() {
        let manual = include_str!("../../../docs/operations.md");
        let mut shard = LiveShard { pages_error: Some(String::new()), ..LiveShard::default() };
        shard.add("heap", &sluice_sys::Pages::default());
        let tls = LiveTls { certificates: vec![LiveCertificate::default()], ..LiveTls::default() };
        let servers = vec![LiveServer::default()];
        let live = Live { shards: vec![shard], tls: Some(tls), servers, ..Live::default() };
        let json = serde_json::to_value(live).unwrap();
        let keys = |value: &serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let (shard, tls) = (&json["shards"][0], &json["tls"]);
        let of_tls = [keys(tls), keys(&tls["certificates"][0])].concat();
        let of_server = keys(&json["servers"][0]);
        for key in [keys(&json), keys(shard), keys(&shard["memory"][0]), of_tls, of_server].concat() {
            assert!(manual.contains(&format!("`{key}`")), "{key}");
        }
    }

    #[test]
    fn a_process_that_is_not_there_is_one_clear_line() {
        let error = ask(u32::MAX).unwrap_err();
        assert!(
            error.starts_with("process 4294967295 does not answer") && error.contains("hint:"),
            "{error}"
        );
    }
}
