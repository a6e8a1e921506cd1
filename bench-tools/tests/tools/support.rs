//! The binary, and an origin to use it on.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

pub(crate) fn tool() -> Command {
    Command::new(env!("CARGO_BIN_EXE_sluice-bench"))
}

/// The same under a limit of descriptors that it cannot raise.
pub(crate) fn tool_with_descriptors(limit: u64) -> Command {
    let mut command = Command::new("sh");
    command.args([
        "-c",
        &format!("ulimit -n {limit}; exec \"$@\""),
        "sh",
        env!("CARGO_BIN_EXE_sluice-bench"),
    ]);
    command
}

/// An origin on a free port.
pub(crate) struct Origin {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
}

impl Origin {
    pub(crate) fn start() -> Origin {
        Origin::of(tool())
    }

    /// One that may have so many descriptors.
    pub(crate) fn with_descriptors(limit: u64) -> Origin {
        Origin::of(tool_with_descriptors(limit))
    }

    fn of(mut tool: Command) -> Origin {
        let mut child =
            tool.args(["origin", "--listen", "127.0.0.1:0"]).stderr(Stdio::piped()).spawn().expect("starts");
        let mut line = String::new();
        BufReader::new(child.stderr.take().expect("piped")).read_line(&mut line).expect("a line");
        let address = line.trim().rsplit(' ').next().and_then(|address| address.parse().ok());
        Origin { child, address: address.expect("an address") }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Connections that it has.
    fn connections(&self) -> usize {
        let local = format!("0100007F:{:04X}", self.address.port());
        let table = std::fs::read_to_string("/proc/net/tcp").expect("a table");
        let is_its = |line: &&str| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            // Established.
            fields.next() == Some(&local) && fields.nth(1) == Some("01")
        };
        table.lines().filter(is_its).count()
    }

    /// Waits until so many connections are open, and then a moment longer.
    pub(crate) fn wait_for_connections(&self, count: usize) {
        let begin = Instant::now();
        while self.connections() < count {
            assert!(begin.elapsed() < PATIENCE, "no client connects");
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(500));
    }

    /// Sends bytes on a connection and reads until its end.
    pub(crate) fn talk(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(bytes).expect("writes");
        let mut answer = Vec::new();
        // A reset is an end as well; what came before it counts.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A number in a report; 0 where there is none.
pub(crate) fn count(json: &Value, key: &str) -> u64 {
    json.pointer(key).and_then(Value::as_u64).unwrap_or(0)
}

/// Comparisons saturate a CPU: several at a time would find each other too slow.
pub(crate) fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An address on which nothing listens.
pub(crate) fn closed_address() -> SocketAddr {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    free.expect("a port")
}

/// A subcommand under way, with what it says kept in a directory that is also there for its reports.
pub(crate) struct Run {
    pub(crate) child: Child,
    pub(crate) dir: tempfile::TempDir,
}

/// How a run ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) dir: tempfile::TempDir,
}

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Says in one line on stderr what is not tested here and why, past the capture of the test harness.
#[track_caller]
pub(crate) fn skip(why: &str) {
    let caller = std::panic::Location::caller();
    let line = format!("SKIPPED {}:{}: {why}\n", caller.file(), caller.line());
    let _ = std::io::stderr().write_all(line.as_bytes());
}

impl Run {
    /// Starts a command; `DIR` in its arguments is the directory.
    pub(crate) fn start(mut command: Command) -> Run {
        let dir = tempfile::tempdir().expect("a directory");
        let file = |name: &str| File::create(dir.path().join(name)).expect("a file");
        let args: Vec<OsString> = command.get_args().map(ToOwned::to_owned).collect();
        let mut placed = Command::new(command.get_program());
        for arg in args {
            if arg == "DIR" {
                placed.arg(dir.path())
            } else {
                placed.arg(arg)
            };
        }
        placed.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command = placed;
        let child = command.stdout(file("stdout")).stderr(file("stderr")).spawn().expect("runs");
        Run { child, dir }
    }

    /// Waits until it has printed something to stderr.
    pub(crate) fn wait_for(&self, text: &str) {
        let begin = Instant::now();
        while !self.printed("stderr").contains(text) {
            assert!(begin.elapsed() < PATIENCE, "never printed {text}: {}", self.printed("stderr"));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn printed(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signals");
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        let begin = Instant::now();
        let code = loop {
            match self.child.try_wait().expect("waits") {
                Some(status) => break status.code(),
                None => std::thread::sleep(Duration::from_millis(10)),
            }
            if begin.elapsed() > PATIENCE {
                let _ = self.child.kill();
                panic!("does not end: {}", self.printed("stderr"));
            }
        };
        Ended { code, stdout: self.printed("stdout"), stderr: self.printed("stderr"), dir: self.dir }
    }
}

impl Ended {
    /// The report of a name.
    pub(crate) fn report(&self, name: &str) -> Value {
        let json = std::fs::read(self.dir.path().join(format!("{name}.json"))).expect("a report");
        serde_json::from_slice(&json).expect("JSON")
    }
}

/// The processes that a process has started and that have not ended.
pub(crate) fn children(of: u32) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").expect("a process table").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|&pid| state(pid).is_some_and(|(parent, is_alive)| parent == of && is_alive)).collect()
}

/// Whether a process has not ended.
pub(crate) fn is_alive(pid: u32) -> bool {
    state(pid).is_some_and(|(_, is_alive)| is_alive)
}

/// The parent of a process, and whether it has not ended.
fn state(pid: u32) -> Option<(u32, bool)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    Some((fields.next()?.parse().ok()?, !matches!(state, "Z" | "X")))
}
