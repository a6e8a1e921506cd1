//! Certificates from an authority by ACME: Pebble, which is Let's Encrypt's server for tests.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use serde_json::Value;
use sluice_tests::{
    client, eventually, origin,
    proxy::{Proxy, binary, config_file, run},
    skip,
    tls_client::{Pair, Tickets, TlsClient},
};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

const NAME: &str = "shop.example";

/// A port that was free a moment ago, and that the kernel gives to no connection: it takes them from 32768 on.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next =
        || 10_000 + (std::process::id().wrapping_mul(31).wrapping_add(NEXT.fetch_add(1, Relaxed))) % 22_000;
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let ports = std::iter::repeat_with(|| next() as u16);
    ports.take(1_000).find(is_free).expect("a port that is free")
}

/// An authority that finds all hosts at 127.0.0.1, at these ports.
struct Authority {
    directory: String,
    folder: TempDir,
    _children: [Child; 2],
}

impl Authority {
    /// `None`, with a notice, if Pebble is not installed.
    async fn start(http_port: u16, tls_port: u16) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let [acme, management, dns, dns_management] = [(); 4].map(|()| free_port());
        let pair = Pair::new("localhost", Duration::from_secs(24 * 3600));
        let at = |name: &str| folder.path().join(name);
        fs::write(at("cert.pem"), &pair.cert).expect("a file");
        fs::write(at("key.pem"), &pair.key).expect("a file");
        let config = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{acme}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": at("cert.pem"),
            "privateKey": at("key.pem"),
            "httpPort": http_port,
            "tlsPort": tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
        }});
        fs::write(at("config.json"), config.to_string()).expect("a file");
        let dns = format!("127.0.0.1:{dns}");
        let names = start("pebble-challtestsrv", |command| {
            let management = format!("127.0.0.1:{dns_management}");
            command.args(["-dns01", &dns, "-management", &management, "-defaultIPv4", "127.0.0.1"]);
            command.args(["-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""]);
        })?;
        let pebble = start("pebble", |command| {
            command.args(["-dnsserver", &dns, "-config"]).arg(at("config.json"));
            command.env("PEBBLE_VA_NOSLEEP", "1");
        })?;
        for address in [dns, format!("127.0.0.1:{acme}")] {
            eventually("Pebble listens", async || TcpStream::connect(&address).await.is_ok()).await;
        }
        let directory = format!("https://localhost:{acme}/dir");
        Some(Self { directory, folder, _children: [names, pebble] })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A proxy that gets its only certificate here.
    async fn proxy(&self, origin: SocketAddr, ports: (u16, u16), challenge: &str) -> Proxy {
        let (http, tls) = ports;
        let config = config_file(
            ".toml",
            &format!(
                "listen = [\"127.0.0.1:{http}\"]\nlisten_tls = [\"127.0.0.1:{tls}\"]\nshards = 2\nstate_dir = \"{}\"\n\
                 [acme]\nhosts = [\"{NAME}\", \"www.{NAME}\"]\ndirectory = \"{}\"\nca = \"{}\"\nchallenge = \"{challenge}\"\n\
                 contact = [\"admin@{NAME}\"]\n\
                 [[upstream]]\nname = \"app\"\nservers = [\"http://{origin}\"]\n[[route]]\nupstream = \"app\"\n",
                self.path("state").display(),
                self.directory,
                self.path("cert.pem").display(),
            ),
        );
        let mut command = Command::new(binary().await);
        command.arg("--config").arg(config.path());
        Proxy::spawn(command, Some(config)).await
    }

    /// The files of the account and of the certificate.
    fn files(&self) -> (PathBuf, PathBuf) {
        let mut folders = fs::read_dir(self.path("state/acme")).expect("a folder");
        let folder = folders.next().expect("one of this authority").expect("readable").path();
        (folder.join("account.json"), folder.join("certificate.pem"))
    }
}

/// Starts a program of Pebble's; `None`, with a notice, if it is not installed.
#[track_caller]
fn start(name: &str, change: impl FnOnce(&mut Command)) -> Option<Child> {
    let mut command = Command::new(name);
    change(&mut command);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match command.spawn() {
        Ok(child) => Some(child),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skip(&format!("{name} is not installed"));
            None
        }
        Err(error) => panic!("{name}: {error}"),
    }
}

/// What `sluice cert show` says of the first certificate of a file.
async fn facts(file: &Path) -> Value {
    let shown = run(&["cert", "show", "--json", file.to_str().expect("UTF-8")]).await;
    let files: Value = serde_json::from_str(&shown.stdout).unwrap_or_else(|_| panic!("{shown:?}"));
    files[0]["certificates"][0].clone()
}

fn shown(port: u16) -> Vec<u8> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    TlsClient::new(Tickets::Off).connect(address, NAME).expect("a handshake").certificate()
}

/// From no certificate to one of the authority, and a restart that goes on with it.
async fn gets_a_certificate(challenge: &str) {
    let (http, tls) = (free_port(), free_port());
    let origin = origin::real("real").await;
    let Some(authority) = Authority::start(http, tls).await else { return };
    let proxy = authority.proxy(origin.address, (http, tls), challenge).await;
    proxy
        .line(&format!("ACME: no certificate for {NAME}, www.{NAME} yet: clients see a self-signed one"))
        .await;
    let stand_in = shown(tls);
    proxy.line("ACME: new account at ").await;
    eventually("a certificate of the authority", async || shown(tls) != stand_in).await;
    let issued = shown(tls);
    let (account, file) = authority.files();
    let facts = facts(&file).await;
    assert!(facts["issuer"].as_str().is_some_and(|issuer| issuer.contains("Pebble")), "{facts}");
    for name in [NAME, "www.shop.example"] {
        assert!(facts["names"].as_array().is_some_and(|names| names.contains(&name.into())), "{facts}");
    }
    for secret in [&account, &file] {
        let mode = fs::metadata(secret).expect("it was kept").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", secret.display());
    }
    // Nothing is answered here but what an authority has asked for, and that no more.
    let address = SocketAddr::from(([127, 0, 0, 1], http));
    assert_eq!(client::get(address, "/.well-known/acme-challenge/abc").await.text(), "real");
    let messages = proxy.messages();
    assert!(!messages.iter().any(|line| line.contains("next attempt")), "{messages:#?}");
    proxy.drain().await.assert_clean();
    let second = authority.proxy(origin.address, (http, tls), challenge).await;
    assert!(shown(tls) == issued, "it was kept");
    let messages = second.messages();
    assert!(!messages.iter().any(|line| line.starts_with("ACME")), "{messages:#?}");
    second.drain().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_checks_by_tls_makes_a_certificate() {
    gets_a_certificate("tls-alpn-01").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_checks_by_http_makes_a_certificate() {
    gets_a_certificate("http-01").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_fails_is_one_line_and_clients_are_served() {
    let (http, tls) = (free_port(), free_port());
    let origin = origin::real("real").await;
    // It looks for the hosts where nothing listens.
    let Some(authority) = Authority::start(free_port(), free_port()).await else { return };
    let proxy = authority.proxy(origin.address, (http, tls), "tls-alpn-01").await;
    let why = proxy.line(&format!("ACME: no certificate for {NAME}, www.{NAME}: ")).await;
    assert!(
        why.contains(NAME) && why.contains("tls-alpn-01 challenge") && why.contains("(next attempt in "),
        "{why}"
    );
    let address = SocketAddr::from(([127, 0, 0, 1], tls));
    let mut connection = TlsClient::new(Tickets::Off).connect(address, NAME).expect("a handshake");
    assert_eq!(connection.get("/").expect("a response"), "real");
    assert!(!authority.files().1.exists());
    drop(connection);
    proxy.drain().await.assert_clean();
}
