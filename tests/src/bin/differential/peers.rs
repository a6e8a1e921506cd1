//! The three proxies: how each is found, configured and started in front of an origin. They end with this program.

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::Duration;

use sluice_tests::proxy;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// One of those that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proxy {
    Sluice,
    Nginx,
    Haproxy,
}

/// In the order of the report.
pub(crate) const PROXIES: [Proxy; 3] = [Proxy::Sluice, Proxy::Nginx, Proxy::Haproxy];

/// A proxy in front of an origin.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    version: String,
    _sluice: Option<proxy::Proxy>,
    _child: Option<Child>,
    _dir: tempfile::TempDir,
}

impl Running {
    /// Starts it; ends the program with a word if it is not installed.
    pub(crate) async fn start(which: Proxy, origin: SocketAddr) -> Running {
        let dir = tempfile::tempdir().expect("a temporary directory");
        if which == Proxy::Sluice {
            let sluice = proxy::Proxy::to(origin).await;
            let version = format!("Sluice {}", env!("CARGO_PKG_VERSION"));
            return Running {
                address: sluice.address,
                version,
                _sluice: Some(sluice),
                _child: None,
                _dir: dir,
            };
        }
        let (name, text) = match which {
            Proxy::Nginx => ("nginx", include_str!("nginx.conf")),
            _ => ("haproxy", include_str!("haproxy.cfg")),
        };
        let address = free_address();
        let text = text.replace("@LISTEN@", &address.to_string()).replace("@ORIGIN@", &origin.to_string());
        let file = dir.path().join("config");
        std::fs::write(&file, text).expect("a writable directory");
        let mut command = Command::new(format!("/usr/sbin/{name}"));
        match which {
            Proxy::Nginx => command.arg("-p").arg(dir.path()).arg("-c").arg(&file),
            _ => command.arg("-db").arg("-f").arg(&file),
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let Ok(child) = command.spawn() else {
            eprintln!("differential: /usr/sbin/{name} is not installed: apt-get install {name}");
            std::process::exit(1);
        };
        until_it_accepts(name, address).await;
        let version = version_of(name).await;
        Running { address, version, _sluice: None, _child: Some(child), _dir: dir }
    }

    pub(crate) fn version(&self) -> String {
        self.version.clone()
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
    listener.local_addr().expect("bound")
}

async fn until_it_accepts(name: &str, address: SocketAddr) {
    for _ in 0..100 {
        if TcpStream::connect(address).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    eprintln!("differential: {name} does not accept connections on {address}");
    std::process::exit(1);
}

/// `nginx 1.22.1`, `HAProxy 2.6.12`.
async fn version_of(name: &str) -> String {
    let output = Command::new(format!("/usr/sbin/{name}")).arg("-v").output().await;
    let output_text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    let output_text = String::from_utf8_lossy(&output_text).replace('/', " ");
    let number = output_text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    format!(
        "{} {}",
        if name == "nginx" { "nginx" } else { "HAProxy" },
        number.unwrap_or("of an unknown version")
    )
}
