//! Certificates and keys of session tickets that change while the proxy runs, or while it does not.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use rustix::process::Signal;
use sluice_tests::{
    client, eventually, origin,
    proxy::{Proxy, binary, config_file},
    tls_client::{Pair, Tickets, TlsClient},
};
use tempfile::TempDir;
use tokio::process::Command;

const NAME: &str = "shop.example";
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How many swaps are made under load; `SLUICE_SWAPS=10000` is for a run by hand.
fn swaps() -> usize {
    std::env::var("SLUICE_SWAPS").ok().and_then(|number| number.parse().ok()).unwrap_or(50)
}

/// A folder with a certificate and its key.
struct Folder(TempDir);

impl Folder {
    fn with(pair: &Pair) -> Self {
        let folder = Self(tempfile::tempdir().expect("a temporary directory"));
        folder.replace(pair);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Puts a file in the place of another one, whole.
    fn put(&self, name: &str, content: &str) {
        let temporary = self.path("temporary");
        fs::write(&temporary, content).expect("a folder to write to");
        fs::rename(temporary, self.path(name)).expect("a name for it");
    }

    fn replace(&self, pair: &Pair) {
        self.put("cert.pem", &pair.cert);
        self.put("key.pem", &pair.key);
    }
}

/// A proxy with TLS in front of this origin, with these lines at the top of its configuration.
async fn proxy(origin: SocketAddr, shards: usize, pair: (&Path, &Path), top: &str) -> Proxy {
    let (cert, key) = (pair.0.display(), pair.1.display());
    let config = config_file(
        ".toml",
        &format!(
            "listen_tls = [\"127.0.0.1:0\"]\nmetrics = \"127.0.0.1:0\"\nshards = {shards}\n{top}\n\
             [[certificate]]\ncert = \"{cert}\"\nkey = \"{key}\"\n\
             [[upstream]]\nname = \"app\"\nservers = [\"http://{origin}\"]\n[[route]]\nupstream = \"app\"\n"
        ),
    );
    let mut command = Command::new(binary().await);
    command.arg("--config").arg(config.path());
    Proxy::spawn(command, Some(config)).await
}

async fn proxy_of(origin: SocketAddr, shards: usize, folder: &Folder, top: &str) -> Proxy {
    proxy(origin, shards, (&folder.path("cert.pem"), &folder.path("key.pem")), top).await
}

/// The certificate that a new client sees.
fn shown(address: SocketAddr) -> Vec<u8> {
    TlsClient::new(Tickets::Off).connect(address, NAME).expect("a handshake").certificate()
}

/// Waits until new clients see this certificate.
async fn is_in_force(address: SocketAddr, pair: &Pair) {
    eventually("the new certificate", async || shown(address) == pair.der).await;
}

fn count(proxy: &Proxy, start: &str) -> usize {
    proxy.messages().iter().filter(|line| line.starts_with(start)).count()
}

/// Waits until the files have been looked at twice: from then on they are read because they have changed, or not at all.
async fn has_settled(proxy: &Proxy) {
    for looks in 1..=2 {
        proxy.signal(Signal::HUP);
        eventually("a look", async || count(proxy, "SIGHUP: looked at") == looks).await;
    }
}

const KEPT: &str = "the old certificate for shop.example, ";

/// Clients that open connections, with and without tickets, and ask twice on each of them, until it is over.
fn load(
    address: SocketAddr,
    is_over: &Arc<AtomicBool>,
    done: &Arc<AtomicUsize>,
) -> Vec<thread::JoinHandle<()>> {
    let client = |tickets| {
        let (is_over, done) = (is_over.clone(), done.clone());
        thread::spawn(move || {
            let client = TlsClient::new(tickets);
            while !is_over.load(Relaxed) {
                let mut connection = client.connect(address, NAME).expect("a handshake");
                for _ in 0..2 {
                    assert_eq!(connection.get("/").expect("a response"), "real");
                    done.fetch_add(1, Relaxed);
                }
            }
        })
    };
    [Tickets::Off, Tickets::Kept, Tickets::Kept].into_iter().map(client).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn swaps_under_load_lose_no_request() {
    let origin = origin::real("real").await;
    let pairs: Vec<_> = (1..=5).map(|months| Pair::new(NAME, 30 * months * DAY)).collect();
    let folder = Folder::with(&pairs[0]);
    let proxy = proxy_of(origin.address, 2, &folder, "").await;
    let (is_over, done) = (Arc::default(), Arc::default());
    let clients = load(proxy.address, &is_over, &done);
    let mut kept = TlsClient::new(Tickets::Off).connect(proxy.address, NAME).expect("a handshake");
    for pair in pairs.iter().cycle().skip(1).take(swaps()) {
        folder.replace(pair);
        proxy.signal(Signal::HUP);
        is_in_force(proxy.address, pair).await;
        assert_eq!(kept.get("/").expect("a response"), "real");
    }
    is_over.store(true, Relaxed);
    for client in clients {
        client.join().expect("no request was lost");
    }
    assert_eq!(kept.certificate(), pairs[0].der, "it was there before all swaps");
    eprintln!("{} swaps, {} requests", swaps(), done.load(Relaxed));
    drop(kept);
    proxy.drain().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_comes_in_two_pieces_is_taken_over_when_it_is_complete() {
    let origin = origin::real("real").await;
    let (old, new) = (Pair::new(NAME, 30 * DAY), Pair::new(NAME, 90 * DAY));
    let folder = Folder::with(&old);
    let proxy = proxy_of(origin.address, 1, &folder, "").await;
    has_settled(&proxy).await;
    folder.put("cert.pem", &new.cert);
    let line = proxy.line(KEPT).await;
    assert!(line.contains("stays in force") && line.contains("does not belong to the certificate"), "{line}");
    assert!(shown(proxy.address) == old.der);
    // Nothing but the second file, and no signal.
    folder.put("key.pem", &new.key);
    is_in_force(proxy.address, &new).await;
    assert_eq!(count(&proxy, KEPT), 1, "{:#?}", proxy.messages());
    proxy.drain().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_is_broken_or_expired_keeps_the_old_one() {
    let origin = origin::real("real").await;
    let (old, new) = (Pair::new(NAME, 30 * DAY), Pair::new(NAME, 90 * DAY));
    let folder = Folder::with(&old);
    let proxy = proxy_of(origin.address, 1, &folder, "").await;
    let expired = Pair::expired(NAME);
    let half = Pair { cert: new.cert[..new.cert.len() / 2].to_owned(), ..new.clone() };
    let empty = Pair { cert: String::new(), ..new.clone() };
    for (number, (pair, why)) in
        [(&expired, "expired on"), (&half, "END"), (&empty, "the file is empty")].into_iter().enumerate()
    {
        folder.replace(pair);
        proxy.signal(Signal::HUP);
        eventually("a line that says why", async || count(&proxy, KEPT) > number).await;
        let said = proxy.messages().into_iter().rfind(|line| line.starts_with(KEPT)).unwrap_or_default();
        assert!(said.contains(why), "{said}");
        assert!(shown(proxy.address) == old.der, "{why}");
    }
    fs::remove_file(folder.path("key.pem")).expect("it is there");
    proxy.signal(Signal::HUP);
    eventually("a line that says why", async || count(&proxy, KEPT) > 3).await;
    assert!(shown(proxy.address) == old.der);
    folder.replace(&new);
    is_in_force(proxy.address, &new).await;
    proxy.drain().await.assert_clean();
}

/// As Kubernetes does it: the files are links into a folder that is a link itself, and that one is replaced.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_swapped_is_a_swap() {
    let origin = origin::real("real").await;
    let (old, new) = (Pair::new(NAME, 30 * DAY), Pair::new(NAME, 90 * DAY));
    let (old_folder, new_folder) = (Folder::with(&old), Folder::with(&new));
    let links = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| links.path().join(name);
    symlink(old_folder.0.path(), at("..data")).expect("a link");
    for name in ["cert.pem", "key.pem"] {
        symlink(Path::new("..data").join(name), at(name)).expect("a link");
    }
    let proxy = proxy(origin.address, 1, (&at("cert.pem"), &at("key.pem")), "").await;
    assert!(shown(proxy.address) == old.der);
    has_settled(&proxy).await;
    symlink(new_folder.0.path(), at("..data_tmp")).expect("a link");
    fs::rename(at("..data_tmp"), at("..data")).expect("a swap");
    is_in_force(proxy.address, &new).await;
    assert_eq!(count(&proxy, KEPT), 0, "{:#?}", proxy.messages());
    proxy.drain().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_say_when_certificates_expire() {
    let origin = origin::real("real").await;
    let folder = Folder::with(&Pair::new(NAME, 5 * DAY));
    let proxy = proxy_of(origin.address, 1, &folder, "").await;
    let address: SocketAddr =
        proxy.line("metrics on http://").await.trim_end_matches("/metrics").parse().expect("an address");
    let series = format!(
        "sluice_tls_certificate_expiry_seconds{{certificate=\"{}\",name=\"{NAME}\"}} ",
        folder.path("cert.pem").display()
    );
    let expiry = async || -> i64 {
        let text = client::get(address, "/metrics").await.text().to_owned();
        let age = text.lines().find_map(|line| line.strip_prefix("sluice_tls_ticket_key_age_seconds "));
        assert!(age.is_some_and(|age| age.parse::<u64>().is_ok_and(|age| age < 3600)), "{text}");
        let value = text.lines().find_map(|line| line.strip_prefix(&series));
        value.unwrap_or_else(|| panic!("{text}")).parse().expect("seconds")
    };
    let before = expiry().await;
    folder.replace(&Pair::new(NAME, 65 * DAY));
    eventually("a later expiry", async || expiry().await > before + 59 * 24 * 3600).await;
    // A swap to one that ends soon is worth a line.
    folder.replace(&Pair::new(NAME, 3 * DAY));
    proxy.line(&format!("{}: the certificate expires on ", folder.path("cert.pem").display())).await;
    proxy.drain().await.assert_clean();
}

/// A client of each version with tickets of a first connection; they are used by a second one.
fn visitors(number: usize, address: SocketAddr) -> Vec<TlsClient> {
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    let visitor = |version| {
        let client = TlsClient::of(&[version], Tickets::Kept, &[]);
        let mut connection = client.connect(address, NAME).expect("a handshake");
        // Tickets come before the response.
        assert_eq!(connection.get("/").expect("a response"), "real");
        assert!(!connection.is_resumed());
        client
    };
    versions.into_iter().cycle().take(number).map(visitor).collect()
}

/// How many of these clients resume their sessions.
fn resumed(visitors: &[TlsClient], address: SocketAddr) -> usize {
    let resumes = |client: &&TlsClient| {
        let mut connection = client.connect(address, NAME).expect("a handshake");
        assert_eq!(connection.get("/").expect("a response"), "real");
        connection.is_resumed()
    };
    visitors.iter().filter(resumes).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_resumed_on_every_shard_and_after_a_restart() {
    const VISITORS: usize = 120;
    let origin = origin::real("real").await;
    let folder = Folder::with(&Pair::new(NAME, 90 * DAY));
    let state = folder.path("state");
    let top = format!("state_dir = \"{}\"", state.display());
    let first = proxy_of(origin.address, 2, &folder, &top).await;
    let clients = visitors(VISITORS, first.address);
    assert_eq!(resumed(&clients, first.address), VISITORS, "on other shards");
    let clients = visitors(VISITORS, first.address);
    first.drain().await.assert_clean();
    let mode = fs::metadata(state.join("ticket-keys")).expect("a file of keys").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let second = proxy_of(origin.address, 2, &folder, &top).await;
    let after_restart = resumed(&clients, second.address);
    assert!(after_restart * 100 > VISITORS * 99, "{after_restart} of {VISITORS}");
    second.drain().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn ticket_keys_that_are_damaged_are_replaced() {
    let origin = origin::real("real").await;
    let folder = Folder::with(&Pair::new(NAME, 90 * DAY));
    let keys = folder.path("ticket-keys");
    let top = format!("state_dir = \"{}\"", folder.0.path().display());
    let first = proxy_of(origin.address, 1, &folder, &top).await;
    let clients = visitors(4, first.address);
    first.drain().await.assert_clean();
    let mut content = fs::read(&keys).expect("a file of keys");
    let last = content.len() - 1;
    content[last] ^= 1;
    fs::write(&keys, &content).expect("a file to write to");
    let second = proxy_of(origin.address, 1, &folder, &top).await;
    let said = format!("{}: ticket keys are damaged", keys.display());
    assert_eq!(count(&second, &said), 1, "{:#?}", second.messages());
    assert_eq!(resumed(&clients, second.address), 0);
    let clients = visitors(4, second.address);
    second.drain().await.assert_clean();
    // The fresh ones were kept.
    let third = proxy_of(origin.address, 1, &folder, &top).await;
    assert_eq!(resumed(&clients, third.address), 4);
    third.drain().await.assert_clean();
}
