//! TLS with servers: which are accepted, what the log and the client learn of those that are not, and how bodies end.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    time::{Duration, Instant},
};

use sluice_tests::{
    assert_took,
    client::{self, Raw, program},
    origin::{self, Go},
    pattern,
    proxy::Proxy,
    tls::{self, Authority, BOTH, End, Identity, NAME, ONLY_12, ONLY_13},
    within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::JoinSet,
};

/// A proxy in clear text whose upstream is this server, with these keys of `tls`.
async fn proxy_to(server: SocketAddr, keys: &str) -> Proxy {
    proxy_with(server, keys, "").await
}

async fn proxy_with(server: SocketAddr, keys: &str, sections: &str) -> Proxy {
    proxy_by(server, keys, sections, "h1").await
}

async fn proxy_by(server: SocketAddr, keys: &str, sections: &str, protocol: &str) -> Proxy {
    tls::configured(&format!(
        "listen = [\"127.0.0.1:0\"]\nshards = 1\n{sections}\n\
         [[upstream]]\nname = \"all\"\nservers = [\"https://{server}\"]\ntls = {{ {keys} }}\n\
         protocol = \"{protocol}\"\n\
         [[route]]\nupstream = \"all\"\n"
    ))
    .await
}

fn trusting(authority: &Authority) -> String {
    format!("ca = \"{}\", server_name = \"{NAME}\"", authority.ca_file().display())
}

// ---- servers that are accepted ----

#[tokio::test]
async fn rustls_is_accepted_in_both_versions_and_its_connections_are_kept() {
    let origin = origin::real("real").await;
    let authority = Authority::new();
    for versions in [ONLY_12, ONLY_13] {
        let server = tls::serve(origin.address, authority.issue(&[NAME]).server(versions), End::Proper).await;
        let proxy = proxy_to(server.address, &trusting(&authority)).await;
        let mut client = Raw::connect(proxy.address).await;
        for length in [0, 1, 16_384, 16_385, 1_000_000, 10_000_000] {
            for path in ["bytes", "chunked"] {
                let response = client.ask("GET", &format!("/{path}/{length}")).await;
                pattern::assert_exact(&response.body, length);
            }
            let upload = length.min(3_000_000);
            client.send(format!("POST /copy HTTP/1.1\r\nHost: a\r\nContent-Length: {upload}\r\n\r\n")).await;
            client.send(pattern::bytes(upload)).await;
            pattern::assert_exact(&client.answer_to("POST").await.body, upload);
        }
        let counters = proxy.counters().await;
        assert_eq!((counters.upstream_connects, counters.upstream_reuses), (1, 17));
        assert_eq!(*server.handshakes.lock().unwrap(), (1, 0));
    }
}

#[tokio::test]
async fn sessions_with_a_server_are_resumed() {
    let origin =
        origin::answers_and_closes("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            .await;
    let authority = Authority::new();
    for versions in [ONLY_12, ONLY_13] {
        let server = tls::serve(origin.address, authority.issue(&[NAME]).server(versions), End::Proper).await;
        let proxy = proxy_to(server.address, &trusting(&authority)).await;
        for _ in 0..20 {
            assert_eq!(client::get(proxy.address, "/").await.text(), "ok");
        }
        let (all, resumed) = *server.handshakes.lock().unwrap();
        assert_eq!(all, 20, "{versions:?}");
        assert!(resumed >= 18, "{resumed} of {all} resumed");
        assert_eq!(proxy.counters().await.named("upstream_tls_resumptions"), resumed as u64);
    }
}

/// A port that was free a moment ago, for programs that cannot choose one.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

async fn started(mut command: Command, port: u16) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let child = command.spawn().expect("it is installed");
    sluice_tests::eventually("the server listens", || async {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok()
    })
    .await;
    child
}

#[tokio::test]
async fn openssl_is_accepted() {
    if program("openssl", &["version"]).await.is_none() {
        return;
    }
    let authority = Authority::new();
    let identity = authority.issue(&[NAME]);
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("file"), pattern::bytes(300_000)).unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        let port = free_port();
        let mut command = Command::new("openssl");
        command.current_dir(files.path()).args(["s_server", "-WWW", version, "-accept"]);
        command.arg(format!("127.0.0.1:{port}")).arg("-cert").arg(&identity.cert_file);
        command.arg("-key").arg(&identity.key_file);
        let _server = started(command, port).await;
        let proxy = proxy_to((Ipv4Addr::LOCALHOST, port).into(), &trusting(&authority)).await;
        // It answers in HTTP/1.0, until the connection ends.
        for _ in 0..3 {
            let response = client::get(proxy.address, "/file").await;
            assert_eq!(response.status(), 200, "{}", response.text());
            pattern::assert_exact(&response.body, 300_000);
        }
    }
}

#[tokio::test]
async fn nginx_is_accepted() {
    if program("nginx", &["-v"]).await.is_none() {
        return;
    }
    let authority = Authority::new();
    let identity = authority.issue(&[NAME]);
    let files = tempfile::tempdir().unwrap();
    let (root, port) = (files.path(), free_port());
    std::fs::write(root.join("file"), pattern::bytes(2_000_000)).unwrap();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {};\n", root.join(kind).display()))
        .concat();
    let config = format!(
        "daemon off; pid {0}/pid; error_log {0}/errors; user root;\nevents {{}}\nhttp {{ access_log off; {temporary}\n\
         server {{ listen 127.0.0.1:{port} ssl; server_name {NAME}; root {0};\n\
         ssl_certificate {1}; ssl_certificate_key {2}; ssl_protocols TLSv1.2 TLSv1.3; }} }}\n",
        root.display(),
        identity.cert_file.display(),
        identity.key_file.display()
    );
    std::fs::write(root.join("conf"), config).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-p").arg(root).arg("-e").arg(root.join("errors")).arg("-c").arg(root.join("conf"));
    command.args(["-g", "master_process off;"]);
    let _server = started(command, port).await;
    let proxy = proxy_to((Ipv4Addr::LOCALHOST, port).into(), &trusting(&authority)).await;
    let mut client = Raw::connect(proxy.address).await;
    for _ in 0..5 {
        let response = client.ask("GET", "/file").await;
        assert_eq!(response.status(), 200, "{}", response.text());
        pattern::assert_exact(&response.body, 2_000_000);
    }
    assert_eq!(proxy.counters().await.upstream_connects, 1);
}

#[tokio::test]
async fn a_server_may_change_keys_as_it_likes() {
    let origin = origin::real("real").await;
    let authority = Authority::new();
    let config = authority.issue(&[NAME]).server(ONLY_13);
    let server = tls::serve(origin.address, config, End::ProperWithNewKeys).await;
    let proxy = proxy_to(server.address, &trusting(&authority)).await;
    let mut client = Raw::connect(proxy.address).await;
    for length in [1, 100_000, 5_000_000] {
        for path in ["bytes", "chunked"] {
            pattern::assert_exact(&client.ask("GET", &format!("/{path}/{length}")).await.body, length);
        }
        client.send("POST /copy HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\n").await;
        client.send(pattern::bytes(50_000)).await;
        pattern::assert_exact(&client.answer_to("POST").await.body, 50_000);
    }
    assert_eq!(proxy.counters().await.upstream_connects, 1);
}

#[tokio::test]
async fn tls_on_both_sides_passes_everything_and_leaves_nothing() {
    let origin = origin::real("real").await;
    let authority = Authority::new();
    for (versions, server_versions) in [(ONLY_12, ONLY_13), (ONLY_13, ONLY_12), (ONLY_13, ONLY_13)] {
        let identity = authority.issue(&[NAME, "127.0.0.1"]);
        let server = tls::serve(origin.address, identity.server(server_versions), End::Proper).await;
        let (ca, upstream) = (authority.ca_file(), format!("https://{}", server.address));
        let ca = ca.to_str().expect("plain text");
        let fixed = ["--listen-tls", "127.0.0.1:0", "--shards", "1", "--upstream", &upstream];
        let flags = [&fixed[..], &["--upstream-ca", ca], &identity.flags()].concat();
        let proxy = Proxy::start(&flags).await;
        let mut clients = JoinSet::new();
        for nth in 0..20_usize {
            let (config, address) = (authority.client(versions), proxy.address);
            clients.spawn(async move {
                let mut client = tls::Client::connect(address, &config).await;
                for length in [0, 1, 16_385, 70_000 * nth] {
                    pattern::assert_exact(&client.ask("GET", &format!("/bytes/{length}")).await.body, length);
                    let fill = client.ask("GET", &format!("/fill/{nth}/{length}")).await.body;
                    assert!(fill.len() == length && fill.iter().all(|&byte| usize::from(byte) == nth));
                    let head = format!("POST /copy HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
                    client.send(head).await;
                    client.send(pattern::bytes(length)).await;
                    pattern::assert_exact(&client.answer_to("POST").await.body, length);
                }
            });
        }
        while let Some(joined) = within("all clients", clients.join_next()).await {
            joined.unwrap();
        }
        proxy.drain().await.assert_clean();
    }
}

// ---- servers that are not ----

/// What is logged about a server, in one line.
async fn assert_refused(name: &str, proxy: &Proxy, status: u16, said: &str) {
    let mut client = Raw::connect(proxy.address).await;
    for _ in 0..2 {
        let response = client.ask("GET", "/").await;
        assert_eq!(response.status(), status, "{name}: {}", response.text());
    }
    proxy.line("upstream all: TLS with").await;
    let lines: Vec<_> = proxy.messages().into_iter().filter(|line| line.contains("TLS with")).collect();
    assert_eq!(lines.len(), 1, "{name}: {lines:#?}");
    assert!(lines[0].contains(said), "{name}: {}", lines[0]);
    assert!(proxy.counters().await.named("upstream_tls_failures") >= 2, "{name}");
}

#[tokio::test]
async fn a_check_that_fails_is_named() {
    let origin = origin::answers(origin::ok("not for us")).await;
    let authority = Authority::new();
    let trusted = trusting(&authority);
    let good = || authority.issue(&[NAME]);
    let expired = authority.issue_with(&[NAME], tls::ECDSA, |params| {
        params.not_before = tls::date(2001, 1, 1);
        params.not_after = tls::date(2002, 1, 1);
    });
    let early = authority.issue_with(&[NAME], tls::ECDSA, |params| {
        params.not_before = tls::date(2090, 1, 1);
        params.not_after = tls::date(2091, 1, 1);
    });
    let pin = format!("{trusted}, pins = [\"sha256/{}\"]", "A".repeat(43) + "=");
    let only_13 = format!("{trusted}, min_version = \"1.3\"");
    let cases: [(&str, Identity, _, &str, &str); 7] = [
        ("unknown authority", Authority::new().issue(&[NAME]), BOTH, &trusted, "unknown issuer"),
        ("self-signed", authority.self_signed(&[NAME]), BOTH, &trusted, "unknown issuer"),
        ("expired", expired, BOTH, &trusted, "has expired: it was valid until 2002-01-01"),
        ("not valid yet", early, BOTH, &trusted, "is not valid yet: it begins 2090-01-01"),
        (
            "another name",
            authority.issue(&["b.example"]),
            BOTH,
            &trusted,
            "is not valid for a.example, only for b.example",
        ),
        ("another key than the pinned one", good(), BOTH, &pin, "pin"),
        ("too old a version", good(), ONLY_12, &only_13, "version"),
    ];
    for (name, identity, versions, keys, said) in cases {
        let server = tls::serve(origin.address, identity.server(versions), End::Proper).await;
        let proxy = proxy_to(server.address, keys).await;
        assert_refused(name, &proxy, 502, said).await;
    }
    assert_eq!(origin.recorder.connections(), 0, "{}", origin.recorder.text());
}

/// With `protocol = "h2"` nothing else is on offer, and what a server selects that knows no ALPN is HTTP/1.1.
#[tokio::test]
async fn a_server_without_http_2_is_named() {
    let origin = origin::answers(origin::ok("not for us")).await;
    let authority = Authority::new();
    let keys = trusting(&authority);
    let cases: [(&str, &[&str], &str); 2] = [
        ("no ALPN", &[], "has not selected HTTP/2 (h2, by ALPN)"),
        ("HTTP/1.1 only", &["http/1.1"], "no protocol in common (ALPN)"),
    ];
    for versions in [ONLY_12, ONLY_13] {
        for (name, protocols, said) in cases {
            let mut config = authority.issue(&[NAME]).server(versions);
            config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
            let server = tls::serve(origin.address, config, End::Proper).await;
            let proxy = proxy_by(server.address, &keys, "", "h2").await;
            assert_refused(name, &proxy, 502, said).await;
        }
    }
    assert!(!origin.recorder.text().contains("GET"), "{}", origin.recorder.text());
}

/// A server that answers a handshake with these bytes.
async fn says(bytes: &'static [u8]) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(bytes).await;
        }
    });
    (address, serving)
}

#[tokio::test]
async fn servers_that_speak_no_tls_or_stop_are_named() {
    let authority = Authority::new();
    let (address, _serving) = says(b"what is this?").await;
    let proxy = proxy_to(address, &trusting(&authority)).await;
    assert_refused("garbage", &proxy, 502, "does not speak TLS").await;

    // A server of HTTP answers a handshake with 400.
    let (address, _serving) = says(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
    let proxy = proxy_to(address, &trusting(&authority)).await;
    assert_refused("plain HTTP", &proxy, 502, "this looks like plain HTTP: is http:// meant?").await;

    let closes = origin::closes_after_accept().await;
    let proxy = proxy_to(closes.address, &trusting(&authority)).await;
    assert_refused("a server that closes", &proxy, 502, "has closed the connection").await;

    let silent = origin::only_listens().await;
    let proxy =
        proxy_with(silent.address, &trusting(&authority), "[timeouts]\nupstream_connect = \"500ms\"\n").await;
    let begun = Instant::now();
    assert_refused("a silent server", &proxy, 504, "within timeouts.upstream_connect").await;
    assert_took(begun, Duration::from_secs(1), Duration::from_secs(6));
}

// ---- ends ----

#[tokio::test]
async fn a_body_that_ends_with_the_connection_needs_the_alert() {
    let body = "x".repeat(100_000);
    let body: &'static str = Box::leak(body.into_boxed_str());
    let origin = origin::until_close_body(body).await;
    let authority = Authority::new();
    for versions in [ONLY_12, ONLY_13] {
        for (end, is_whole) in [(End::Proper, true), (End::Cut, false)] {
            let server = tls::serve(origin.address, authority.issue(&[NAME]).server(versions), end).await;
            let proxy = proxy_to(server.address, &trusting(&authority)).await;
            let mut client = Raw::connect(proxy.address).await;
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let response = client.response("GET").await;
            match response {
                Ok(response) => {
                    assert!(is_whole, "a body that may have been cut was passed on as complete");
                    assert_eq!(response.body.len(), body.len());
                }
                Err(error) => assert!(!is_whole, "{error}"),
            }
        }
    }
}

#[tokio::test]
async fn a_body_with_a_length_needs_no_alert() {
    let origin = origin::answers_and_closes(origin::ok("whole")).await;
    let authority = Authority::new();
    let server = tls::serve(origin.address, authority.issue(&[NAME]).server(BOTH), End::Cut).await;
    let proxy = proxy_to(server.address, &trusting(&authority)).await;
    for _ in 0..3 {
        assert_eq!(client::get(proxy.address, "/").await.text(), "whole");
    }
}

#[tokio::test]
async fn a_request_is_sent_again_when_its_kept_connection_is_stale() {
    let authority = Authority::new();
    for end in [End::Proper, End::Cut] {
        let origin = origin::dies_on_reuse().await;
        let server = tls::serve(origin.address, authority.issue(&[NAME]).server(BOTH), end).await;
        let proxy = proxy_to(server.address, &trusting(&authority)).await;
        let mut client = Raw::connect(proxy.address).await;
        assert_eq!(client.ask("GET", "/first").await.status(), 200);
        let response = client.ask("GET", "/second?q=1").await;
        assert_eq!(response.status(), 200, "{end:?}: {}", response.text());
        let counters = proxy.counters().await;
        assert_eq!(counters.upstream_retries, 1, "{end:?}");
        let text = origin.recorder.text();
        let heads: Vec<_> = text.split("\r\n\r\n").filter(|head| head.starts_with("GET /second")).collect();
        assert!(!heads.is_empty() && heads.iter().all(|head| *head == heads[0]), "{text}");
        assert!(heads[0].starts_with("GET /second?q=1 HTTP/1.1\r\n"), "{text}");
    }
}

#[tokio::test]
async fn connections_that_ended_while_they_were_kept_are_not_used() -> io::Result<()> {
    let authority = Authority::new();
    for end in [End::Proper, End::Cut] {
        let (go, closed) = (Go::new(), Go::new());
        let origin = origin::ends_idle_on_signal(go.clone(), closed.clone()).await;
        let server = tls::serve(origin.address, authority.issue(&[NAME]).server(BOTH), end).await;
        let proxy = proxy_to(server.address, &trusting(&authority)).await;
        let mut client = Raw::connect(proxy.address).await;
        assert_eq!(client.ask("GET", "/first").await.status(), 200);
        go.steps(1);
        within("the end of the kept connection", closed.wait()).await?;
        proxy.counters_until("it is given up", |now| now.upstream_connections == 0).await;
        assert_eq!(client.ask("GET", "/second").await.status(), 200);
        assert_eq!(proxy.counters().await.upstream_retries, 0);
    }
    Ok(())
}
