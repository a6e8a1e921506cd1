//! Programs that others wrote, as clients and servers of the proxy.
//!
//! Owns where they are, their servers while these run ([`Program::serve`]), and what their clients say at the end
//! ([`Program::ask`]). Scripts are in `programs/`; `scripts/test-peers` gets the packages for them and builds the programs in Go.
//! All of them have one form: a server prints its port and runs until its standard input ends, a client prints `fine`, and each
//! prints `missing` and why where the host lacks what it needs.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{
    proxy::{target_dir, workspace},
    skip, within,
};

/// What `scripts/test-peers` has made: `SLUICE_PEERS`, or else a directory beside what cargo builds.
pub fn directory() -> PathBuf {
    std::env::var_os("SLUICE_PEERS").map_or_else(|| target_dir().join("peers"), PathBuf::from)
}

/// Python, with the packages of the tests where these were installed.
pub fn python() -> PathBuf {
    let ours = directory().join("venv/bin/python3");
    if ours.exists() { ours } else { "python3".into() }
}

/// A program, or a script and what runs it.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    fixed: Vec<String>,
}

impl Program {
    /// A script of `programs/` for Python.
    pub fn python(script: &str) -> Self {
        Self { path: python(), fixed: vec![in_programs(script)] }
    }

    /// A script of `programs/` for Node.
    pub fn node(script: &str) -> Self {
        Self { path: "node".into(), fixed: vec![in_programs(script)] }
    }

    /// A program in Go: `call` or `serve` is its first argument.
    pub fn go(name: &str, verb: &str) -> Self {
        Self { path: directory().join("bin").join(name), fixed: vec![verb.to_owned()] }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.fixed).args(arguments).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // What the host says about proxies is not meant for the tests.
        for variable in ["http_proxy", "https_proxy", "all_proxy", "grpc_proxy"] {
            command.env_remove(variable).env_remove(variable.to_uppercase());
        }
        command
    }

    fn is_missing(&self, error: &io::Error) -> bool {
        let is = error.kind() == io::ErrorKind::NotFound;
        if is {
            skip(&format!("{} is not installed", self.path.display()));
        }
        is
    }

    /// Starts it as a server; `None`, with a notice, where something is missing.
    pub async fn serve(&self, arguments: &[&str]) -> Option<Server> {
        let mut command = self.command(arguments);
        let mut child = match command.stderr(Stdio::inherit()).spawn() {
            Err(error) if self.is_missing(&error) => return None,
            child => child.expect("the program starts"),
        };
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = within("its port", lines.next_line()).await.expect("text");
        let line = line.unwrap_or_else(|| panic!("{self:?} has ended without a port"));
        if line.starts_with("missing") {
            skip(&line);
            return None;
        }
        let port = line.parse().unwrap_or_else(|_| panic!("{self:?} says {line}"));
        Some(Server { address: (Ipv4Addr::LOCALHOST, port).into(), _child: child })
    }

    /// Runs it as a client; `None`, with a notice, where something is missing, else what was wrong.
    pub async fn ask(&self, arguments: &[&str]) -> Option<Result<(), String>> {
        let running = match self.command(arguments).spawn() {
            Err(error) if self.is_missing(&error) => return None,
            child => child.expect("the program starts").wait_with_output(),
        };
        let output = within(&format!("the end of {self:?}"), running).await.expect("a child of ours");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if printed.starts_with("missing") {
            skip(printed.trim());
            return None;
        }
        let is_fine = output.status.success() && printed == "fine\n";
        Some(is_fine.then_some(()).ok_or(format!("{printed}{}", String::from_utf8_lossy(&output.stderr))))
    }
}

fn in_programs(script: &str) -> String {
    text(&workspace().join("tests/programs").join(script)).to_owned()
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("plain text")
}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    _child: Child,
}
