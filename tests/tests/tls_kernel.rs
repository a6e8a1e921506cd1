//! `kernel_tls`: large responses that the kernel seals where it can. All of this holds on a host without TLS in its kernel too;
//! `scripts/ktls-vm` runs it on one that has it for certain.

use std::{io::Write as _, net::SocketAddr};

use rustls::version::{TLS12, TLS13};
use sluice_tests::{
    origin, pattern,
    proxy::{Proxy, binary, config_file},
    tls_client::{Pair, Tickets, TlsClient},
};
use tempfile::NamedTempFile;
use tokio::{process::Command, task::spawn_blocking};

const NAME: &str = "shop.example";
const LARGE: usize = 5_000_000;
const WARNING: &str = "kernel_tls has no effect: this kernel has no TLS";

/// A proxy with TLS, in two shards and at two addresses; with the file of its certificate.
async fn proxy(origin: SocketAddr, kernel_tls: bool) -> (Proxy, NamedTempFile) {
    let pair = Pair::new(NAME, std::time::Duration::from_secs(86_400));
    let mut both = NamedTempFile::with_suffix(".pem").expect("a file");
    write!(both, "{}{}", pair.cert, pair.key).expect("room for a certificate");
    let config = config_file(
        ".toml",
        &format!(
            "listen_tls = [\"127.0.0.1:0\", \"127.0.0.2:0\"]\nshards = 2\ntls.kernel_tls = {kernel_tls}\n\
             [[certificate]]\ncert = \"{}\"\n\
             [[upstream]]\nname = \"app\"\nservers = [\"http://{origin}\"]\n[[route]]\nupstream = \"app\"\n",
            both.path().display()
        ),
    );
    let mut command = Command::new(binary().await);
    command.arg("--config").arg(config.path());
    (Proxy::spawn(command, Some(config)).await, both)
}

fn warnings(proxy: &Proxy) -> usize {
    proxy.messages().iter().filter(|line| line.starts_with(WARNING)).count()
}

/// Small and large responses on one connection, and a large one that is its last.
fn use_connection(address: SocketAddr, client: &TlsClient) {
    let mut connection = client.connect(address, NAME).expect("a handshake");
    for length in [7, LARGE, 7, 300_000, LARGE, 7] {
        let body = connection.get_bytes(&format!("/bytes/{length}")).expect("a response");
        pattern::assert_exact(&body, length);
    }
    let response = connection.get_last(&format!("/bytes/{LARGE}")).expect("a response and its end");
    pattern::assert_exact(&response[response.len() - LARGE..], LARGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_responses_arrive_whether_the_kernel_has_tls_or_not() {
    let origin = origin::real("real").await;
    let (proxy, _certificate) = proxy(origin.address, true).await;
    for version in [&TLS12, &TLS13] {
        let (address, client) = (proxy.address, TlsClient::of(&[version], Tickets::Off, &[]));
        spawn_blocking(move || use_connection(address, &client)).await.expect("no failure");
    }
    let counters = proxy.counters().await;
    let (offloads, failed) = (counters.named("tls_offloads"), counters.named("tls_offloads_failed"));
    match warnings(&proxy) {
        0 => assert_eq!((offloads, failed), (2, 0), "the kernel has TLS"),
        warnings => assert_eq!((warnings, offloads, failed), (1, 0, 0), "the kernel has none"),
    }
    proxy.drain().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_seals_nothing_unless_it_is_asked_to() {
    let origin = origin::real("real").await;
    let (proxy, _certificate) = proxy(origin.address, false).await;
    let (address, client) = (proxy.address, TlsClient::new(Tickets::Off));
    spawn_blocking(move || use_connection(address, &client)).await.expect("no failure");
    assert_eq!((warnings(&proxy), proxy.counters().await.named("tls_offloads")), (0, 0));
    proxy.drain().await.assert_clean();
}
