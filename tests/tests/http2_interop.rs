//! Programs that others wrote on both sides, in one table: HTTP/1.1 and HTTP/2, in clear text and over TLS, in all pairs.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command as StdCommand, Stdio},
};

use sluice_tests::{
    client::program,
    http2::{hyper, hyper_over_tls},
    origin, pattern,
    peers::{Program, text},
    proxy::Proxy,
    sides::{Side, between},
    skip,
    tls::{self, Authority, BOTH, End, Identity, NAME},
};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

/// Lengths that every origin has as `/bytes/N`.
const LENGTHS: [usize; 3] = [1, 1000, 300_000];

/// A foreign origin, and how long it lives.
struct Running {
    address: SocketAddr,
    /// Whether it serves files alone, so that nothing may be sent to it.
    has_only_files: bool,
    _alive: Vec<Box<dyn Send>>,
}

#[derive(Clone, Copy, Debug)]
enum Server {
    Hyper,
    Nghttpd,
    Node,
    Go,
    Nginx,
}

#[derive(Clone, Copy, Debug)]
enum Client {
    Hyper,
    Curl,
    Nghttp,
    H2load,
    Python,
    Node,
    Go,
}

/// What speaks the protocols of a row.
const SERVERS: [(Server, &[Side]); 5] = [
    (Server::Hyper, &Side::ALL),
    (Server::Nghttpd, &[Side::H2, Side::H2Tls]),
    (Server::Node, &[Side::H2, Side::H2Tls]),
    (Server::Go, &[Side::H2, Side::H2Tls]),
    (Server::Nginx, &[Side::H1]),
];
const CLIENTS: [(Client, &[Side]); 7] = [
    (Client::Hyper, &[Side::H2, Side::H2Tls]),
    (Client::Curl, &Side::ALL),
    (Client::Nghttp, &[Side::H2, Side::H2Tls]),
    (Client::H2load, &Side::ALL),
    (Client::Python, &[Side::H2, Side::H2Tls]),
    (Client::Node, &[Side::H2, Side::H2Tls]),
    (Client::Go, &[Side::H2, Side::H2Tls]),
];

fn is_installed(name: &str) -> bool {
    let mut command = StdCommand::new(name);
    let is = command.arg("--version").stdin(Stdio::null()).output().is_ok();
    if !is {
        skip(&format!("{name} is not installed"));
    }
    is
}

/// A directory with `/bytes/N`.
fn files() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    fs::create_dir(directory.path().join("bytes")).expect("a directory");
    for length in LENGTHS {
        fs::write(directory.path().join(format!("bytes/{length}")), pattern::bytes(length)).expect("a file");
    }
    directory
}

async fn accepts(address: SocketAddr) {
    sluice_tests::eventually("the origin accepts", || async { TcpStream::connect(address).await.is_ok() })
        .await;
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port")
}

/// Starts a program that serves on `address` until it is dropped.
async fn start(address: SocketAddr, command: &mut Command) -> Child {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let child = child.spawn().expect("it was asked for its version");
    accepts(address).await;
    child
}

async fn serve(server: Server, side: Side, identity: &Identity) -> Option<Running> {
    match server {
        Server::Hyper => Some(by_hyper(side, identity).await),
        Server::Nghttpd if is_installed("nghttpd") => Some(by_nghttpd(side, identity).await),
        Server::Node => by_program(side, identity, Program::node("http2_origin.mjs")).await,
        Server::Go => by_program(side, identity, Program::go("go-http2", "serve")).await,
        Server::Nginx if is_installed("nginx") => Some(by_nginx().await),
        _ => None,
    }
}

async fn by_hyper(side: Side, identity: &Identity) -> Running {
    let real = if side.is_http2() { origin::real_http2("real").await } else { origin::real("real").await };
    let mut address = real.address;
    let mut alive: Vec<Box<dyn Send>> = vec![Box::new(real)];
    if side.is_tls() {
        let mut config = identity.server(BOTH);
        config.alpn_protocols = vec![side.alpn().into()];
        let server = tls::serve(address, config, End::Proper).await;
        address = server.address;
        alive.push(Box::new(server));
    }
    Running { address, has_only_files: false, _alive: alive }
}

async fn by_nghttpd(side: Side, identity: &Identity) -> Running {
    let (directory, address) = (files(), free_address());
    let mut command = Command::new("nghttpd");
    command.args(["-a", "127.0.0.1", "-d", text(directory.path())]);
    let port = address.port().to_string();
    if side.is_tls() {
        command.args([&port, text(&identity.key_file), text(&identity.cert_file)]);
    } else {
        command.args(["--no-tls", &port]);
    }
    let child = start(address, &mut command).await;
    Running { address, has_only_files: true, _alive: vec![Box::new(child), Box::new(directory)] }
}

async fn by_program(side: Side, identity: &Identity, program: Program) -> Option<Running> {
    let pair = [text(&identity.key_file), text(&identity.cert_file)];
    let server = program.serve(if side.is_tls() { &pair } else { &[] }).await?;
    Some(Running { address: server.address, has_only_files: false, _alive: vec![Box::new(server)] })
}

async fn by_nginx() -> Running {
    let (directory, address) = (files(), free_address());
    let root = text(directory.path());
    let user = if is_root() { "user root;" } else { "" };
    let config = format!(
        "daemon off; master_process off; {user} pid {root}/pid; error_log {root}/log; events {{}}\n\
         http {{ access_log off; client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f;\n\
         uwsgi_temp_path {root}/u; scgi_temp_path {root}/s; server {{ listen {address}; root {root}; }} }}\n"
    );
    let file = directory.path().join("nginx.conf");
    fs::write(&file, config).expect("a file");
    let mut command = Command::new("nginx");
    command.args(["-e", "stderr", "-p", root, "-c", text(&file)]);
    let child = start(address, &mut command).await;
    Running { address, has_only_files: true, _alive: vec![Box::new(child), Box::new(directory)] }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Asks through the proxy; `None` where the program is missing, else what was wrong.
async fn ask(
    client: Client,
    side: Side,
    proxy: &Proxy,
    authority: &Authority,
    has_only_files: bool,
) -> Option<Result<(), String>> {
    let ca = authority.ca_file();
    let scheme = if side.is_tls() { "https" } else { "http" };
    let url = format!("{scheme}://{}", proxy.address);
    match client {
        Client::Hyper => Some(by_hyper_client(side, proxy, authority, has_only_files).await),
        Client::Curl if is_installed("curl") => Some(by_curl(side, &url, &ca, has_only_files).await),
        Client::Nghttp if is_installed("nghttp") => {
            let paths = LENGTHS.map(|length| format!("{url}/bytes/{length}"));
            let arguments: Vec<&str> =
                ["-n", "-s"].into_iter().chain(paths.iter().map(|path| &**path)).collect();
            let printed = program("nghttp", &arguments).await?;
            let good = printed.lines().filter(|line| line.contains(" 200 ")).count();
            Some((good == LENGTHS.len()).then_some(()).ok_or(printed))
        }
        Client::H2load if is_installed("h2load") => {
            let target = format!("{url}/bytes/1000");
            let http1: &[&str] = if side.is_http2() { &[] } else { &["--h1"] };
            let fixed = ["-n", "2000", "-c", "4", "-m", "32", &target];
            let printed = program("h2load", &[http1, &fixed].concat()).await?;
            let is_good = printed.contains(" 2000 succeeded, 0 failed");
            let protocol =
                format!("Application protocol: {}", if side.is_http2() { "h2" } else { "http/1.1" });
            Some((is_good && printed.contains(&protocol)).then_some(()).ok_or(printed))
        }
        Client::Python | Client::Node | Client::Go => {
            let program = match client {
                Client::Python => Program::python("http2.py"),
                Client::Node => Program::node("http2.mjs"),
                _ => Program::go("go-http2", "ask"),
            };
            let origin = if has_only_files { "files" } else { "all" };
            let certificate: &[&str] = if side.is_tls() { &[text(&ca)] } else { &[] };
            program.ask(&[&[origin, &url], certificate].concat()).await
        }
        _ => None,
    }
}

async fn by_hyper_client(
    side: Side,
    proxy: &Proxy,
    authority: &Authority,
    has_only_files: bool,
) -> Result<(), String> {
    let client = match side {
        Side::H2 => hyper(proxy.address).await,
        _ => hyper_over_tls(proxy.address, &authority.client(BOTH)).await,
    };
    for length in LENGTHS {
        let (status, body) = client.ask("GET", &format!("/bytes/{length}"), "").await;
        let echo = match has_only_files {
            true => body.clone(),
            false => client.ask("POST", "/copy", pattern::bytes(length)).await.1,
        };
        if status != 200 || body != pattern::bytes(length) || echo != body {
            return Err(format!("{length} bytes: {status}, {} and {}", body.len(), echo.len()));
        }
    }
    Ok(())
}

async fn by_curl(side: Side, url: &str, ca: &Path, has_only_files: bool) -> Result<(), String> {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name| directory.path().join(name);
    let protocol = match side {
        Side::H1 | Side::H1Tls => "--http1.1",
        Side::H2 => "--http2-prior-knowledge",
        Side::H2Tls => "--http2",
    };
    let version = if side.is_http2() { "2" } else { "1.1" };
    for length in LENGTHS {
        let (upload, got) = (file("upload"), file("got"));
        fs::write(&upload, pattern::bytes(length)).expect("a file");
        let upload = format!("@{}", text(&upload));
        let (download, copy) = (format!("{url}/bytes/{length}"), format!("{url}/copy"));
        let post: &[&str] = &["--data-binary", &upload, &copy];
        for asked in [&[&*download][..], post].into_iter().take(if has_only_files { 1 } else { 2 }) {
            let fixed = ["-sS", "--noproxy", "*", "--cacert", text(ca), protocol, "-o", text(&got)];
            let counts = ["-w", "%{http_code} %{http_version}"];
            let printed = program("curl", &[&fixed[..], &counts, asked].concat()).await.unwrap_or_default();
            let body = fs::read(&got).unwrap_or_default();
            if printed != format!("200 {version}") || body != pattern::bytes(length) {
                return Err(format!("{asked:?}: {printed}, {} bytes", body.len()));
            }
        }
    }
    Ok(())
}

/// All clients through the proxy to all servers of this side.
async fn rows(upstream: Side) {
    let authority = Authority::new();
    let identity = authority.issue(&[NAME, "127.0.0.1"]);
    let ca = authority.ca_file();
    let mut wrong = Vec::new();
    for (server, _) in SERVERS.into_iter().filter(|(_, sides)| sides.contains(&upstream)) {
        let Some(running) = serve(server, upstream, &identity).await else { continue };
        for downstream in Side::ALL {
            let proxy = between(downstream, upstream, running.address, &identity, &ca, &[]).await;
            for (client, _) in CLIENTS.into_iter().filter(|(_, sides)| sides.contains(&downstream)) {
                let end = ask(client, downstream, &proxy, &authority, running.has_only_files).await;
                if let Some(Err(what)) = end {
                    wrong.push(format!("{client:?} by {downstream:?} to {server:?} by {upstream:?}: {what}"));
                }
            }
            proxy.drain().await.assert_clean();
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_clients_to_servers_of_http1() {
    rows(Side::H1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_clients_to_servers_of_http1_over_tls() {
    rows(Side::H1Tls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_clients_to_servers_of_http2() {
    rows(Side::H2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_clients_to_servers_of_http2_over_tls() {
    rows(Side::H2Tls).await;
}
