//! The running `sluice` process.
//!
//! Owns finding or building the binary, starting it on ports of the kernel's choice, waiting until it is
//! ready, its signals, counters and `/proc` entries, its orderly end, and showing its stderr when a test
//! fails. Dropping a [`Proxy`] kills that process, by its id, and nothing else.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Output, Stdio},
    time::{Duration, SystemTime},
};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use serde::Deserialize;
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader},
    process::{Child, Command},
    sync::{Mutex, OnceCell, watch},
};

use crate::{within, within_time};

/// The live counters of the proxy, summed over its shards, as it prints them on SIGUSR1: those that tests use.
#[derive(Debug, Clone, Deserialize)]
pub struct Counters {
    /// Downstream connections that are open.
    pub connections: u64,
    /// Requests read so far.
    pub requests: u64,
    /// Requests that broke a rule or a limit.
    pub bad_requests: u64,
    /// Requests refused for a dot segment in their path.
    pub paths_refused_dots: u64,
    /// Requests refused for a slash in their path.
    pub paths_refused_slashes: u64,
    /// Requests refused for another byte in their path.
    pub paths_refused_bytes: u64,
    /// Requests forwarded with another spelling of their path.
    pub paths_normalised: u64,
    /// Upstream connections that are open, busy or pooled.
    pub upstream_connections: u64,
    /// Upstream connections made so far.
    pub upstream_connects: u64,
    /// Requests sent on a pooled upstream connection so far.
    pub upstream_reuses: u64,
    /// Requests sent again on another upstream connection so far.
    pub upstream_retries: u64,
    /// Tasks that serve a connection.
    pub tasks_busy: u64,
    /// Receive buffers that are not in the kernel's hands.
    pub buffers_held: u64,
    /// Empty pipes kept for the next large body, two descriptors each.
    pub pipes_kept: u64,
    /// Connections closed for a PROXY protocol header that was missing or malformed.
    pub proxy_headers_malformed: u64,
    /// ... that did not come in time.
    pub proxy_headers_late: u64,
    /// ... that came from a peer that may not send one.
    pub proxy_headers_forbidden: u64,
    /// Clients that left in the middle of something.
    pub client_aborts: u64,
    /// Answers of the proxy's own with a status of 400 or above.
    pub local_responses: u64,
    /// Client connections that a shard gave to another one.
    pub connections_migrated_out: u64,
    /// Client connections that a shard got from another one.
    pub connections_migrated_in: u64,
    /// Heap allocations by the shards so far; 0 where the binary does not count them.
    pub allocations: u64,
    /// All of them, by name.
    #[serde(skip)]
    pub all: BTreeMap<String, u64>,
}

impl Counters {
    /// Any of them, by its name.
    pub fn named(&self, name: &str) -> u64 {
        *self.all.get(name).unwrap_or_else(|| panic!("no counter {name}"))
    }

    fn parse(json: &str) -> serde_json::Result<Self> {
        Ok(Self { all: serde_json::from_str(json)?, ..serde_json::from_str(json)? })
    }
}

/// How a proxy ended that was asked to stop.
#[derive(Debug)]
pub struct Stopped {
    /// Its exit status.
    pub status: ExitStatus,
    /// All it printed to stderr.
    pub stderr: Vec<String>,
}

impl Stopped {
    /// Panics unless the proxy left with code 0 and reported that nothing is left over.
    pub fn assert_clean(&self) {
        assert_eq!(self.status.code(), Some(0), "exit code; stderr: {:#?}", self.stderr);
        let nothing = "leftover connections=0 upstream_connections=0 tasks_busy=0 buffers_held=0";
        assert!(self.stderr.iter().any(|line| message(line) == nothing), "leftovers: {:#?}", self.stderr);
        assert_eq!(self.stderr.last().map(|line| message(line)), Some("stopped"));
    }
}

/// What a line on stderr says, without the time and the level before it; a line without these as it is.
pub fn message(line: &str) -> &str {
    // `2026-11-22T01:02:03.123Z INFO  `
    const PREFIX: usize = 31;
    match line.split_at_checked(PREFIX) {
        Some((prefix, message))
            if ["Z ERROR ", "Z WARN  ", "Z INFO  ", "Z DEBUG "].contains(&&prefix[PREFIX - 8..]) =>
        {
            message
        }
        _ => line,
    }
}

/// What a run of the binary that ended by itself left behind.
#[derive(Debug)]
pub struct Finished {
    /// The exit code.
    pub code: Option<i32>,
    /// All it printed to stdout.
    pub stdout: String,
    /// All it printed to stderr.
    pub stderr: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
    pid: Pid,
    stderr: watch::Receiver<Vec<String>>,
    /// Held from a SIGUSR1 to its answer, since signals that wait together become one.
    asking: Mutex<()>,
    _config: Option<NamedTempFile>,
}

impl Proxy {
    /// Starts `sluice` with these arguments and waits until it is ready.
    pub async fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(binary().await);
        command.args(arguments);
        Self::spawn(command, None).await
    }

    /// One shard on a free port in front of this origin, all else by default.
    pub async fn to(origin: SocketAddr) -> Self {
        Self::to_with(origin, &[]).await
    }

    /// Like [`Proxy::to`], with flags for timeouts, limits and the like.
    pub async fn to_with(origin: SocketAddr, flags: &[&str]) -> Self {
        let upstream = format!("http://{origin}");
        let fixed = ["--listen", "127.0.0.1:0", "--shards", "1", "--upstream", &upstream];
        Self::start(&[&fixed, flags].concat()).await
    }

    /// This many shards on a free port, with these upstreams and routes of a configuration file.
    pub async fn configured(shards: usize, tables: &str) -> Self {
        let text = format!("listen = [\"127.0.0.1:0\"]\nshards = {shards}\n{tables}");
        let config = config_file(".toml", &text);
        let mut command = Command::new(binary().await);
        command.arg("--config").arg(config.path());
        Self::spawn(command, Some(config)).await
    }

    /// Starts `command`, which must become a `sluice`, and waits until it is ready.
    pub async fn spawn(mut command: Command, config: Option<NamedTempFile>) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let deadline = tokio::time::Instant::now() + crate::PATIENCE;
        let mut proxy = Self::spawned(&mut command);
        // What a user may lock is for all of his rings together, and other tests have some.
        while proxy.lacks_locked_memory().await && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(200)).await;
            proxy = Self::spawned(&mut command);
        }
        proxy._config = config;
        proxy.line("ready (").await;
        let listening = proxy.line("listening on ").await;
        proxy.address = listening.parse().expect("an address in the listening line");
        proxy
    }

    fn spawned(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the binary starts");
        let pid =
            child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?)).expect("it has a process id");
        let stderr = lines(child.stderr.take().expect("piped"));
        let (address, asking) = (SocketAddr::from(([0; 4], 0)), Mutex::new(()));
        Self { address, child, pid, stderr, asking, _config: None }
    }

    /// Whether it ended because there is too little memory that may be locked; no as soon as it is ready.
    async fn lacks_locked_memory(&self) -> bool {
        let says = |lines: &Vec<String>, what: &str| lines.iter().any(|line| line.contains(what));
        let is_ready = |lines: &Vec<String>| lines.iter().any(|line| message(line).starts_with("ready ("));
        let mut stderr = self.stderr.clone();
        let announced = stderr.wait_for(|lines| is_ready(lines) || says(lines, "RLIMIT_MEMLOCK"));
        // Without either it has ended for another reason, which is reported where its readiness is waited for.
        within("a proxy that is ready or says why not", announced)
            .await
            .is_ok_and(|lines| says(&lines, "RLIMIT_MEMLOCK"))
    }

    /// The address of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Waits for a message on stderr that starts with `start`, past or future, and gives back the rest of it.
    pub async fn line(&self, start: &str) -> String {
        self.line_after(0, start).await
    }

    /// The same, from the line with this number on.
    async fn line_after(&self, skip: usize, start: &str) -> String {
        let mut stderr = self.stderr.clone();
        let rest = |lines: &Vec<String>| {
            lines.iter().skip(skip).find_map(|line| message(line).strip_prefix(start).map(str::to_owned))
        };
        let waiting = stderr.wait_for(|lines| rest(lines).is_some());
        match within(&format!("the line {start:?}"), waiting).await {
            Ok(lines) => rest(&lines).expect("just found"),
            Err(_) => panic!("sluice ended without the line {start:?}"),
        }
    }

    /// What it has printed to stderr so far.
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.borrow().clone()
    }

    /// The same without times and levels.
    pub fn messages(&self) -> Vec<String> {
        self.stderr.borrow().iter().map(|line| message(line).to_owned()).collect()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("the proxy is there");
    }

    /// The live counters.
    pub async fn counters(&self) -> Counters {
        let _one_at_a_time = self.asking.lock().await;
        let skip = self.stderr.borrow().len();
        self.signal(Signal::USR1);
        let json = self.line_after(skip, "counters ").await;
        Counters::parse(&json).unwrap_or_else(|error| panic!("counters {json}: {error}"))
    }

    /// Every shard as `sluice topology --live` shows it.
    pub async fn live(&self) -> Vec<serde_json::Value> {
        self.whole_live().await["shards"].as_array().expect("a list of shards").clone()
    }

    /// All that `sluice topology --live` shows.
    pub async fn whole_live(&self) -> serde_json::Value {
        let shown = run(&["topology", "--json", "--live", &self.pid().to_string()]).await;
        assert_eq!(shown.code, Some(0), "{}", shown.stderr);
        serde_json::from_str(&shown.stdout).expect("JSON on stdout")
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Waits until the counters satisfy `condition`; fails with the last ones seen.
    pub async fn counters_until(&self, what: &str, condition: impl Fn(&Counters) -> bool) -> Counters {
        const PAUSE: Duration = Duration::from_millis(20);
        let deadline = tokio::time::Instant::now() + crate::PATIENCE;
        loop {
            let counters = self.counters().await;
            if condition(&counters) {
                return counters;
            }
            assert!(tokio::time::Instant::now() < deadline, "waited in vain: {what}; {counters:?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Its directory in `/proc`.
    pub fn proc(&self) -> PathBuf {
        Path::new("/proc").join(self.pid.as_raw_nonzero().to_string())
    }

    /// What the kernel says its open descriptors are, such as `socket:[12345]`.
    pub fn descriptors(&self) -> Vec<String> {
        let descriptors = fs::read_dir(self.proc().join("fd")).expect("the proxy runs");
        // One that was closed since the directory was read has no link any more.
        let links = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        links.map(|link| link.to_string_lossy().into_owned()).collect()
    }

    /// Its resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(self.proc().join("status")).expect("the proxy runs");
        let kib = status_field(&status, "VmRSS").trim_end_matches(" kB").parse::<u64>();
        kib.expect("a number of KiB") * 1024
    }

    /// Stops it (SIGSTOP) and waits until none of its threads runs. SIGCONT lets it go on.
    pub async fn freeze(&self) {
        self.signal(Signal::STOP);
        let is_stopped = |stat: &str| {
            let state = stat.rsplit(')').next().unwrap_or_default();
            state.trim_start().starts_with('T')
        };
        crate::eventually("every thread is stopped", || async {
            let tasks = fs::read_dir(self.proc().join("task")).expect("the proxy runs");
            let mut stats = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
            stats.all(|stat| is_stopped(&stat))
        })
        .await;
    }

    /// The processor time it has used so far, in steps of 10 ms.
    pub fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(self.proc().join("stat")).expect("the proxy runs");
        // The name, which may contain anything, ends with the last parenthesis; utime and stime are fields 14 and 15.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
        Duration::from_millis(ticks * 10)
    }

    /// From now on it is given no new descriptor; those it has stay good.
    pub fn refuse_descriptors(&self) {
        // It has our hard limit, which has to stay: not every user may raise it again.
        let limit = Rlimit { current: Some(0), ..getrlimit(Resource::Nofile) };
        prlimit(Some(self.pid), Resource::Nofile, limit).expect("a lower limit");
    }

    /// The tasks named `shard-N` and the CPUs each may run on, in the order of their names.
    pub fn shard_cpus(&self) -> Vec<(String, String)> {
        let tasks = fs::read_dir(self.proc().join("task")).expect("the proxy runs");
        let statuses = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
        let mut shards: Vec<_> = statuses
            .map(|status| {
                (
                    status_field(&status, "Name").to_owned(),
                    status_field(&status, "Cpus_allowed_list").to_owned(),
                )
            })
            .filter(|(name, _)| name.starts_with("shard-"))
            .collect();
        shards.sort();
        shards
    }

    /// Asks it to stop and waits until it has.
    pub async fn drain(self) -> Stopped {
        self.signal(Signal::TERM);
        self.stopped().await
    }

    /// Waits until it has ended by itself.
    pub async fn stopped(mut self) -> Stopped {
        let status = within("the end of the process", self.child.wait()).await.expect("a child of ours");
        let mut stderr = self.stderr.clone();
        // The sender goes with the last line.
        let _ = within("the end of stderr", stderr.wait_for(|_| false)).await;
        Stopped { status, stderr: self.stderr() }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- stderr of sluice\n{}\n----", self.stderr.borrow().join("\n"));
        }
    }
}

/// Runs `sluice` to its end, for calls that end by themselves.
pub async fn run(arguments: &[&str]) -> Finished {
    let mut command = Command::new(binary().await);
    command.args(arguments);
    finish(command).await
}

/// The same with variables in its environment and text on its standard input.
pub async fn run_with(arguments: &[&str], environment: &[(&str, &str)], input: &str) -> Finished {
    let mut command = Command::new(binary().await);
    command.args(arguments).envs(environment.iter().copied()).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    // A command that does not read it closes it.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = within("the end of the command", child.wait_with_output()).await.expect("a child of ours");
    Finished::from(output)
}

/// Runs a command that ends by itself.
pub async fn finish(mut command: Command) -> Finished {
    command.stdin(Stdio::null()).kill_on_drop(true);
    Finished::from(within("the end of the command", command.output()).await.expect("it starts"))
}

/// A configuration file of the format that `suffix` says; it lives as long as the value.
pub fn config_file(suffix: &str, text: &str) -> NamedTempFile {
    let file = tempfile::Builder::new().suffix(suffix).tempfile().expect("a temporary file");
    fs::write(file.path(), text).expect("a writable temporary file");
    file
}

/// The binary under test: `SLUICE_BIN`, or else the one beside the tests, built if it is missing or old.
pub async fn binary() -> &'static Path {
    static BINARY: OnceCell<PathBuf> = OnceCell::const_new();
    BINARY
        .get_or_init(async || match std::env::var_os("SLUICE_BIN") {
            Some(path) => path.into(),
            None => beside_the_tests().await,
        })
        .await
}

/// A binary that counts its allocations, built in a target directory of its own.
pub async fn counting_binary() -> PathBuf {
    build(&target_dir().join("count-alloc"), &["--features", "count-alloc"]).await
}

async fn beside_the_tests() -> PathBuf {
    let binary = target_dir().join(profile()).join("sluice");
    let built = fs::metadata(&binary).and_then(|file| file.modified());
    if built.is_ok_and(|built| built > newest_source(&workspace())) {
        return binary;
    }
    build(&target_dir(), &[]).await
}

/// Builds the binary. Cargo itself makes the builds of several test processes wait for each other.
async fn build(target_dir: &Path, extra: &[&str]) -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(workspace()).args(["build", "--quiet", "--package", "sluice", "--bin", "sluice"]);
    cargo.arg("--target-dir").arg(target_dir).args(extra).kill_on_drop(true);
    if profile() == "release" {
        cargo.arg("--release");
    }
    let status = within_time(Duration::from_secs(1_800), "cargo build", cargo.status()).await;
    assert!(status.expect("cargo starts").success(), "sluice does not build");
    target_dir.join(profile()).join("sluice")
}

/// Where cargo puts what it builds: the test runs from `TARGET/PROFILE/deps`.
pub fn target_dir() -> PathBuf {
    let test = std::env::current_exe().expect("a path to this test");
    test.ancestors().nth(3).expect("a test in TARGET/PROFILE/deps").to_owned()
}

fn profile() -> &'static str {
    if cfg!(debug_assertions) { "debug" } else { "release" }
}

/// The directory of this repository.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a package of the workspace").to_owned()
}

/// When a source of the binary was last written.
fn newest_source(workspace: &Path) -> SystemTime {
    let mut newest = SystemTime::UNIX_EPOCH;
    let mut directories = ["proto/src", "engine/src", "engine/sys/src", "engine/tls/src"]
        .map(|part| workspace.join(part))
        .to_vec();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(data) if data.is_dir() => directories.push(entry.path()),
                Ok(data) => newest = newest.max(data.modified().unwrap_or(newest)),
                Err(_) => {}
            }
        }
    }
    newest
}

/// The lines of a stream, collected as they come.
fn lines(stream: impl AsyncRead + Send + Unpin + 'static) -> watch::Receiver<Vec<String>> {
    let (sender, receiver) = watch::channel(Vec::new());
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            sender.send_modify(|all: &mut Vec<String>| all.push(line));
        }
    });
    receiver
}

fn status_field<'a>(status: &'a str, name: &str) -> &'a str {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_default().trim()
}
