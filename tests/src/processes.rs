//! Servers in processes of their own (`bin/server.rs`), which a test stops, continues, kills and starts again, and clients that send
//! them requests through a proxy all the while.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    task::JoinHandle,
};

use crate::{client::Raw, within};

/// Longer than a request may take.
const TOO_LONG: Duration = Duration::from_secs(20);

/// A server that answers with its name. Dropping it ends the process.
#[derive(Debug)]
pub struct ServerProcess {
    /// Where it listens, also after it was started again.
    pub address: SocketAddr,
    program: &'static str,
    name: &'static str,
    child: Child,
}

impl ServerProcess {
    /// Starts `program`, which is `env!("CARGO_BIN_EXE_server")`.
    pub async fn start(program: &'static str, name: &'static str) -> Self {
        let (child, port) = spawn(program, name, 0).await;
        Self { address: (Ipv4Addr::LOCALHOST, port).into(), program, name, child }
    }

    /// As `servers` of an `[[upstream]]` has it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops it (SIGSTOP): the kernel accepts connections for it, and it answers nothing.
    pub fn hang(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// Ends it with all its connections.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("it runs");
    }

    /// Starts it again, at the same address.
    pub async fn restart(&mut self) {
        self.child = spawn(self.program, self.name, self.address.port()).await.0;
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?)).expect("it runs");
        kill_process(pid, signal).expect("a child of ours");
    }
}

async fn spawn(program: &str, name: &str, port: u16) -> (Child, u16) {
    let mut command = Command::new(program);
    command.args([name, &port.to_string()]).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("the server starts");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    within("the port of a server", stdout.read_line(&mut line)).await.expect("it says its port");
    (child, line.trim().parse().expect("a port"))
}

/// A request that is over.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// When it was sent.
    pub sent: Instant,
    /// Until its response was there.
    pub took: Duration,
    /// The body of a 200, which is the name of the server; else what came instead.
    pub result: Result<String, String>,
}

/// Clients that send one request after the other until they are stopped.
#[derive(Debug)]
pub struct Load {
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    is_over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// So many clients, each with a connection of its own and a pause between two requests.
    pub fn start(proxy: SocketAddr, clients: usize, request: &str, pause: Duration) -> Self {
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        let is_over = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let (outcomes, is_over, request) = (outcomes.clone(), is_over.clone(), request.to_owned());
            tokio::spawn(async move {
                let mut conn = Raw::connect(proxy).await;
                while !is_over.load(SeqCst) {
                    let sent = Instant::now();
                    let result = ask(&mut conn, &request).await;
                    let is_broken = result.is_err();
                    outcomes.lock().unwrap().push(Outcome { sent, took: sent.elapsed(), result });
                    if is_broken {
                        conn = Raw::connect(proxy).await;
                    }
                    tokio::time::sleep(pause).await;
                }
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { outcomes, is_over, clients }
    }

    /// How many requests are over.
    pub fn count(&self) -> usize {
        self.outcomes.lock().unwrap().len()
    }

    /// What has come of them so far.
    pub fn so_far(&self) -> Vec<Outcome> {
        self.outcomes.lock().unwrap().clone()
    }

    /// Lets each client end its request; what has come of all.
    pub async fn stop(self) -> Vec<Outcome> {
        self.is_over.store(true, SeqCst);
        for client in self.clients {
            within("the last request of a client", client).await.expect("clients do not panic");
        }
        self.outcomes.lock().unwrap().clone()
    }
}

/// Sends a request (`GET /path`) and waits for its response.
async fn ask(conn: &mut Raw, request: &str) -> Result<String, String> {
    let (method, path) = request.split_once(' ').expect("a method and a path");
    let body = if method == "POST" { "Content-Length: 4\r\n\r\nbody" } else { "\r\n" };
    let exchange = async {
        conn.try_send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{body}")).await?;
        conn.response(method).await
    };
    match tokio::time::timeout(TOO_LONG, exchange).await {
        Err(_) => Err("nothing came".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(response)) if response.status() == 200 => Ok(response.text()),
        Ok(Ok(response)) => Err(format!("{} {}", response.status(), response.text())),
    }
}

/// How many requests each server has answered.
pub fn by_server(outcomes: &[Outcome]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for name in outcomes.iter().filter_map(|outcome| outcome.result.as_ref().ok()) {
        *counts.entry(name.clone()).or_default() += 1;
    }
    counts
}

/// Those that have failed.
pub fn errors(outcomes: &[Outcome]) -> Vec<&Outcome> {
    outcomes.iter().filter(|outcome| outcome.result.is_err()).collect()
}
