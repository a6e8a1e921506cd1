//! PROXY protocol headers with HAProxy and nginx on either side: theirs are read here, ours are read there.
//!
//! Either is skipped with a notice where it is not installed.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    path::Path,
    process::Stdio,
    time::Duration,
};

use sluice_tests::{client::Raw, origin, proxy::Proxy, within};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

/// A foreign proxy that runs as long as the value lives.
struct Foreign {
    address: SocketAddr,
    _child: Child,
    _dir: TempDir,
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = StdListener::bind(("127.0.0.1", 0)).expect("a port on loopback");
    listener.local_addr().expect("bound").port()
}

/// Runs `program` with a configuration, in which `@PORT@` is a free port and `@DIR@` a directory of its own, until it accepts
/// connections; `None`, with a notice, where it is not installed.
async fn foreign(program: &str, arguments: &[&str], config: &str) -> Option<Foreign> {
    // Another process may take the port in between.
    for _ in 0..5 {
        let dir = TempDir::new().expect("a directory");
        let port = free_port();
        let file = dir.path().join("config");
        let at = |path: &Path| path.to_string_lossy().into_owned();
        let text = config.replace("@PORT@", &port.to_string()).replace("@DIR@", &at(dir.path()));
        std::fs::write(&file, text).expect("a configuration");
        let mut command = Command::new(program);
        command.args(arguments).arg(&file).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = match command.kill_on_drop(true).spawn() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                sluice_tests::skip(&format!("{program} is not installed"));
                return None;
            }
            child => child.expect("it starts"),
        };
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        for _ in 0..2_400 {
            if TcpStream::connect(address).await.is_ok() {
                return Some(Foreign { address, _child: child, _dir: dir });
            }
            if child.try_wait().expect("a child of ours").is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }
    panic!("{program} does not run");
}

/// HAProxy that passes everything on; `bind` and `server` are options of the two lines.
async fn haproxy(bind: &str, to: SocketAddr, server: &str, mode: &str) -> Option<Foreign> {
    let config = format!(
        "global\n  maxconn 200\ndefaults\n  mode {mode}\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n\
         frontend f\n  bind 127.0.0.1:@PORT@ {bind}\n  {}default_backend b\nbackend b\n  server s {to} {server}\n",
        if mode == "http" { "http-request set-header X-Seen-Client %[src]:%[src_port]\n  " } else { "" }
    );
    foreign("haproxy", &["-db", "-f"], &config).await
}

/// nginx in one process of ours.
async fn nginx(block: &str) -> Option<Foreign> {
    let config = format!(
        "daemon off;\nmaster_process off;\npid @DIR@/pid;\nerror_log stderr crit;\nevents {{ worker_connections 200; }}\n{block}"
    );
    foreign("nginx", &["-p", "/tmp", "-c"], &config).await
}

/// The HTTP part of nginx, with `listen` options and what is set about the client.
fn nginx_http(listen: &str, to: SocketAddr) -> String {
    format!(
        "http {{\n access_log off;\n client_body_temp_path @DIR@/body; proxy_temp_path @DIR@/proxy;\n\
         fastcgi_temp_path @DIR@/fastcgi; uwsgi_temp_path @DIR@/uwsgi; scgi_temp_path @DIR@/scgi;\n\
         server {{\n  listen 127.0.0.1:@PORT@ {listen};\n  location / {{\n   proxy_pass http://{to};\n\
         proxy_set_header X-Seen-Client $proxy_protocol_addr:$proxy_protocol_port;\n\
         proxy_set_header X-Seen-Server $proxy_protocol_server_addr:$proxy_protocol_server_port;\n  }}\n }}\n}}\n"
    )
}

/// Sluice that requires the header.
async fn requiring(origin: SocketAddr) -> Proxy {
    let upstream = format!("http://{origin}");
    let listen = ["--listen-proxy-protocol", "127.0.0.1:0", "--proxy-protocol-from", "127.0.0.0/8"];
    Proxy::start(&[&listen[..], &["--shards", "1", "--upstream", &upstream]].concat()).await
}

/// The last value of a field at the origin.
fn last(text: &str, name: &str) -> Option<String> {
    let mut lines = text.lines().rev().filter_map(|line| line.split_once(": "));
    lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
}

/// Three requests of one client.
async fn ask(client: &mut Raw) {
    for _ in 0..3 {
        let asking = client.ask("GET", "/");
        assert_eq!(within("an answer", asking).await.status(), 200);
    }
}

#[tokio::test]
async fn headers_of_haproxy_are_read() {
    let origin = origin::answers(origin::ok("ok")).await;
    let proxy = requiring(origin.address).await;
    for options in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"] {
        // As a balancer of connections, HAProxy passes ours through: from another address than its own.
        let Some(haproxy) = haproxy("", proxy.address, options, "tcp").await else { return };
        let mut client = Raw::connect_from(Ipv4Addr::new(127, 0, 0, 77), haproxy.address).await;
        ask(&mut client).await;
        assert_eq!(
            last(&origin.recorder.text(), "X-Forwarded-For").as_deref(),
            Some("127.0.0.77"),
            "{options}"
        );
    }
    let counters = proxy.counters().await;
    assert_eq!((counters.proxy_headers_malformed, counters.proxy_headers_forbidden), (0, 0));
}

#[tokio::test]
async fn health_checks_of_haproxy_are_served() {
    let origin = origin::answers(origin::ok("ok")).await;
    let proxy = requiring(origin.address).await;
    // Checks come with LOCAL; the server is taken into service only when they succeed.
    let options = "send-proxy-v2 check-send-proxy check inter 50ms rise 2";
    let config = format!(
        "defaults\n  mode http\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n\
         frontend f\n  bind 127.0.0.1:@PORT@\n  default_backend b\n\
         backend b\n  option httpchk GET /health\n  server s {} {options}\n",
        proxy.address
    );
    let Some(_haproxy) = foreign("haproxy", &["-db", "-f"], &config).await else { return };
    let checks = |bytes: &[u8]| String::from_utf8_lossy(bytes).matches("GET /health").count();
    origin
        .recorder
        .wait_for("three checks", |all| all.iter().map(|one| checks(&one.bytes)).sum::<usize>() >= 3)
        .await;
    assert_eq!(last(&origin.recorder.text(), "X-Forwarded-For").as_deref(), Some("127.0.0.1"));
    assert_eq!(proxy.counters().await.proxy_headers_malformed, 0);
}

#[tokio::test]
async fn headers_of_nginx_are_read() {
    let origin = origin::answers(origin::ok("ok")).await;
    let proxy = requiring(origin.address).await;
    let modules = "/usr/lib/nginx/modules/ngx_stream_module.so";
    if !Path::new(modules).exists() {
        sluice_tests::skip(&format!("nginx has no {modules} (Debian: libnginx-mod-stream)"));
        return;
    }
    let config = format!(
        "load_module {modules};\npid @DIR@/pid;\ndaemon off;\nmaster_process off;\nerror_log stderr crit;\n\
         events {{ worker_connections 200; }}\n\
         stream {{ server {{ listen 127.0.0.1:@PORT@; proxy_pass {}; proxy_protocol on; }} }}\n",
        proxy.address
    );
    let Some(nginx) = foreign("nginx", &["-p", "/tmp", "-c"], &config).await else { return };
    let mut client = Raw::connect_from(Ipv4Addr::new(127, 0, 0, 78), nginx.address).await;
    ask(&mut client).await;
    assert_eq!(last(&origin.recorder.text(), "X-Forwarded-For").as_deref(), Some("127.0.0.78"));
}

#[tokio::test]
async fn our_headers_are_read_by_haproxy() {
    for version in ["v1", "v2"] {
        let origin = origin::answers(origin::ok("ok")).await;
        let Some(haproxy) = haproxy("accept-proxy", origin.address, "", "http").await else { return };
        let proxy = Proxy::to_with(haproxy.address, &["--upstream-proxy-protocol", version]).await;
        for address in [79, 80].map(|last| Ipv4Addr::new(127, 0, 0, last)) {
            let mut client = Raw::connect_from(address, proxy.address).await;
            ask(&mut client).await;
            let wanted = format!("{}", client.local());
            assert_eq!(last(&origin.recorder.text(), "X-Seen-Client"), Some(wanted), "{version}");
        }
    }
}

#[tokio::test]
async fn our_headers_are_read_by_nginx() {
    for version in ["v1", "v2"] {
        let origin = origin::answers(origin::ok("ok")).await;
        let block = nginx_http("proxy_protocol", origin.address);
        let Some(nginx) = nginx(&block).await else { return };
        let proxy = Proxy::to_with(nginx.address, &["--upstream-proxy-protocol", version]).await;
        for address in [81, 82].map(|last| Ipv4Addr::new(127, 0, 0, last)) {
            let mut client = Raw::connect_from(address, proxy.address).await;
            ask(&mut client).await;
            let text = origin.recorder.text();
            assert_eq!(last(&text, "X-Seen-Client"), Some(client.local().to_string()), "{version}");
            assert_eq!(last(&text, "X-Seen-Server"), Some(proxy.address.to_string()), "{version}");
        }
    }
}

#[tokio::test]
async fn a_chain_of_three_knows_the_client() {
    let origin = origin::answers(origin::ok("ok")).await;
    let Some(behind) = haproxy("accept-proxy", origin.address, "", "http").await else { return };
    let upstream = format!("http://{}", behind.address);
    let listen = ["--listen-proxy-protocol", "127.0.0.1:0", "--proxy-protocol-from", "127.0.0.0/8"];
    let rest = ["--shards", "1", "--upstream", &upstream, "--upstream-proxy-protocol", "v2"];
    let proxy = Proxy::start(&[&listen[..], &rest].concat()).await;
    let Some(front) = haproxy("", proxy.address, "send-proxy", "tcp").await else { return };
    let mut client = Raw::connect_from(Ipv4Addr::new(127, 0, 0, 83), front.address).await;
    ask(&mut client).await;
    assert_eq!(last(&origin.recorder.text(), "X-Seen-Client"), Some(client.local().to_string()));
}
