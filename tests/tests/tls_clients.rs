//! HTTP over TLS by clients that others wrote (curl, OpenSSL, Python, Node, rustls): versions, suites, groups, names, resumption,
//! and every way in which an HTTP message meets the records it is cut into.

use std::{fs, process::Stdio, time::Duration};

use futures_util::{SinkExt, StreamExt};
use rustls::{HandshakeKind, ProtocolVersion, pki_types::CertificateDer};
use sluice_tests::{
    client::program,
    origin::{self, Origin},
    pattern,
    proxy::{Proxy, workspace},
    tls::{self, Authority, BOTH, Client, NAME, ONLY_12, ONLY_13, Records, kind},
    websocket, within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, Command},
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

const LARGE: usize = 10_000_000;
const UPLOAD: usize = 3_000_000;

fn text(path: &std::path::Path) -> &str {
    path.to_str().expect("plain text")
}

/// Whether this program starts; says that something is skipped where not.
async fn has(name: &str, arguments: &[&str]) -> bool {
    program(name, arguments).await.is_some()
}

// ---- programs ----

#[tokio::test]
async fn curl_of_both_versions_is_content() {
    if !has("curl", &["--version"]).await {
        return;
    }
    let origin = origin::real("real").await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    let files = tempfile::tempdir().unwrap();
    let (upload, got, echoed) =
        (files.path().join("up"), files.path().join("got"), files.path().join("echo"));
    fs::write(&upload, pattern::bytes(UPLOAD)).unwrap();
    let ca = authority.ca_file();
    let url = |path: &str| format!("https://{}{path}", proxy.address);
    for version in [["--tlsv1.2", "--tls-max", "1.2"], ["--tlsv1.3", "--tls-max", "1.3"]] {
        let data = format!("@{}", text(&upload));
        let fixed = ["--silent", "--show-error", "--noproxy", "*", "--cacert", text(&ca), "--http1.1"];
        let (download, echo) = (url(&format!("/bytes/{LARGE}")), url("/copy"));
        let counts = ["--write-out", "%{http_code} %{num_connects} "];
        let first = ["--output", text(&got), &download, "--next"];
        let second = ["--output", text(&echoed), "--data-binary", &data, &echo];
        let arguments = [&fixed[..], &version, &counts, &first, &fixed, &version, &counts, &second].concat();
        let printed = program("curl", &arguments).await.expect("curl is installed");
        assert_eq!(printed, "200 1 200 0 ", "{version:?}: codes and new connections");
        pattern::assert_exact(&fs::read(&got).unwrap(), LARGE);
        pattern::assert_exact(&fs::read(&echoed).unwrap(), UPLOAD);
    }
}

#[tokio::test]
async fn python_and_node_are_content() {
    let origin = origin::real("real").await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    let (ca, address) = (authority.ca_file(), proxy.address.to_string());
    for (name, script) in [("python3", "client.py"), ("node", "client.mjs")] {
        let script = workspace().join("tests/programs").join(script);
        if let Some(printed) = program(name, &[text(&script), &address, text(&ca)]).await {
            assert_eq!(printed, "fine\n", "{name}");
        }
    }
    let counters = proxy.counters_until("all have left", |now| now.connections == 0).await;
    assert_eq!(counters.buffers_held, 0);
}

/// `openssl s_client` with its standard input in our hands.
struct SClient {
    child: Child,
    stdin: ChildStdin,
}

impl SClient {
    fn start(proxy: &Proxy, authority: &Authority, flags: &[&str]) -> Self {
        let mut command = Command::new("openssl");
        let address = proxy.address.to_string();
        command.args(["s_client", "-connect", &address, "-servername", NAME]);
        command.args(["-CAfile", text(&authority.ca_file()), "-verify_return_error"]).args(flags);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("openssl is installed");
        let stdin = child.stdin.take().expect("piped");
        Self { child, stdin }
    }

    /// One read of the program: a letter at its beginning is a command.
    async fn write(&mut self, bytes: &str) {
        self.stdin.write_all(bytes.as_bytes()).await.expect("openssl takes it");
        self.stdin.flush().await.expect("openssl takes it");
    }

    /// Waits for the end; what was printed.
    async fn end(self) -> String {
        let Self { child, stdin } = self;
        let output = within("the end of openssl", child.wait_with_output()).await.expect("a child of ours");
        drop(stdin);
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }
}

#[tokio::test]
async fn openssl_speaks_every_suite_and_group() {
    if !has("openssl", &["version"]).await {
        return;
    }
    let origin = origin::answers(origin::ok("all of it")).await;
    let authority = Authority::new();
    let (ecdsa, rsa) = (authority.issue(&[NAME]), rsa(&authority, NAME));
    let proxy = two_certificates(origin.address, &ecdsa, &rsa).await;
    let request = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n");
    let mut cases = Vec::new();
    for suite in ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"] {
        cases.push((vec!["-tls1_3", "-ciphersuites", suite], suite));
    }
    for suite in [
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-RSA-CHACHA20-POLY1305",
    ] {
        cases.push((vec!["-tls1_2", "-cipher", suite], suite));
    }
    for (group, shown) in [("X25519", "X25519"), ("P-256", "P-256"), ("P-384", "P-384")] {
        cases.push((vec!["-tls1_3", "-groups", group], shown));
        // In TLS 1.2 the groups are those of the certificate's key too.
        cases.push((vec!["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256", "-groups", group], shown));
    }
    let mut wrong = Vec::new();
    for (flags, shown) in cases {
        let mut client = SClient::start(&proxy, &authority, &[&flags[..], &["-ign_eof"]].concat());
        client.write(&request).await;
        let printed = client.end().await;
        // OpenSSL 3 names P-256 by its older name in some places.
        let names = [
            shown,
            if shown == "P-256" { "prime256v1" } else { shown },
            &shown.replace("P-384", "secp384r1"),
        ]
        .map(|name| printed.contains(name));
        let is_good =
            printed.contains("HTTP/1.1 200") && printed.contains("all of it") && names.contains(&true);
        if !is_good || !printed.contains("Verify return code: 0 (ok)") {
            wrong.push(format!("{flags:?}: {printed}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // What is not offered is refused.
    for flags in [["-tls1_2", "-cipher", "AES128-GCM-SHA256"], ["-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA"]]
    {
        let mut client = SClient::start(&proxy, &authority, &[&flags[..], &["-ign_eof"]].concat());
        client.write(&request).await;
        let printed = client.end().await;
        assert!(printed.contains("handshake failure"), "{flags:?}: {printed}");
    }
    let mut old =
        SClient::start(&proxy, &authority, &["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0", "-ign_eof"]);
    old.write(&request).await;
    let printed = old.end().await;
    assert!(printed.contains("protocol version") || printed.contains("no protocols"), "{printed}");
}

#[tokio::test]
async fn openssl_changes_keys_in_a_body_and_may_not_renegotiate() {
    if !has("openssl", &["version"]).await {
        return;
    }
    let origin = origin::real("real").await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    let mut client = SClient::start(&proxy, &authority, &["-tls1_3"]);
    // A command is a read that begins with its letter, so what is sent next waits until this was read.
    let pause = Duration::from_millis(300);
    client
        .write(&format!(
            "POST /echo HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 45\r\nConnection: close\r\n\r\n"
        ))
        .await;
    for nth in 1..=5 {
        tokio::time::sleep(pause).await;
        client.write(&format!("piece {nth}\n")).await;
        tokio::time::sleep(pause).await;
        client.write(if nth % 2 == 0 { "k\n" } else { "K\n" }).await;
    }
    tokio::time::sleep(pause).await;
    client.write("end\n\n").await;
    let printed = client.end().await;
    assert_eq!(printed.matches("KEYUPDATE").count(), 5, "{printed}");
    assert!(printed.contains("HTTP/1.1 200"), "{printed}");

    let mut client = SClient::start(&proxy, &authority, &["-tls1_2"]);
    client.write(&format!("POST /echo HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 1000\r\n\r\n")).await;
    tokio::time::sleep(pause).await;
    client.write("R\n").await;
    let printed = client.end().await;
    assert!(printed.contains("RENEGOTIATING"), "{printed}");
    assert!(printed.contains("no renegotiation"), "{printed}");
    proxy.counters_until("none is left", |now| now.connections == 0 && now.buffers_held == 0).await;
}

// ---- names, certificates, protocols ----

fn rsa(authority: &Authority, name: &str) -> tls::Identity {
    authority.issue_with(&[name], tls::RSA, |_| {})
}

async fn two_certificates(
    origin: std::net::SocketAddr,
    first: &tls::Identity,
    second: &tls::Identity,
) -> Proxy {
    let certificates: String = [first, second]
        .map(|identity| {
            let (cert, key) = (text(&identity.cert_file), text(&identity.key_file));
            format!("[[certificate]]\ncert = \"{cert}\"\nkey = \"{key}\"\n")
        })
        .concat();
    tls::configured(&format!(
        "listen_tls = [\"127.0.0.1:0\"]\nshards = 1\n{certificates}\
         [[upstream]]\nname = \"all\"\nservers = [\"http://{origin}\"]\n[[route]]\nupstream = \"all\"\n"
    ))
    .await
}

fn shown(client: &mut Client) -> CertificateDer<'static> {
    client.tls().peer_certificates().expect("a certificate")[0].clone().into_owned()
}

#[tokio::test]
async fn the_name_picks_the_certificate() {
    let origin = origin::answers(origin::ok("fine")).await;
    let authority = Authority::new();
    let (a, b) = (authority.issue(&["a.example"]), authority.issue(&["b.example", "*.b.example"]));
    let proxy = two_certificates(origin.address, &a, &b).await;
    for versions in [ONLY_12, ONLY_13] {
        let config = authority.client(versions);
        for (name, expected) in [("a.example", &a), ("b.example", &b), ("x.b.example", &b)] {
            let mut client = Client::try_connect(proxy.address, &config, name).await.expect(name);
            assert_eq!(shown(&mut client), expected.cert, "{name}");
        }
        // The first one is for all others, whose clients refuse it.
        let refused = Client::try_connect(proxy.address, &config, "c.example").await.unwrap_err();
        assert!(refused.to_string().contains("not valid for name"), "{refused}");
    }
    proxy.counters_until("both are counted", |now| now.named("tls_handshakes_rejected") == 2).await;
}

#[tokio::test]
async fn rsa_and_ecdsa_serve_one_name() {
    let origin = origin::answers(origin::ok("fine")).await;
    let authority = Authority::new();
    let (ecdsa, rsa) = (authority.issue(&[NAME]), rsa(&authority, NAME));
    for (first, second) in [(&ecdsa, &rsa), (&rsa, &ecdsa)] {
        let proxy = two_certificates(origin.address, first, second).await;
        for (suite, expected) in [("ECDHE_RSA", &rsa), ("ECDHE_ECDSA", &ecdsa)] {
            let config = authority.client_with(ONLY_12, tls::only_suite(suite));
            let mut client = Client::connect(proxy.address, &config).await;
            assert_eq!(shown(&mut client), expected.cert, "{suite}");
            assert_eq!(client.ask("GET", "/").await.text(), "fine");
        }
        let mut client = Client::connect(proxy.address, &authority.client(BOTH)).await;
        assert_eq!(shown(&mut client), ecdsa.cert, "a client of both");
    }
}

#[tokio::test]
async fn http_2_is_preferred_where_it_is_on() {
    let origin = origin::answers(origin::ok("fine")).await;
    for (set, preferred) in [("http2.enabled=true", "h2"), ("http2.enabled=false", "http/1.1")] {
        let (proxy, authority) = tls::proxy_to(origin.address, &["--set", set]).await;
        for versions in [ONLY_12, ONLY_13] {
            let mut config = authority.client(versions);
            config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
            let mut client = Client::connect(proxy.address, &config).await;
            assert_eq!(client.tls().alpn_protocol(), Some(preferred.as_bytes()), "{set}");
        }
    }
}

#[tokio::test]
async fn http_1_1_is_the_only_protocol_without_http_2() {
    let origin = origin::answers(origin::ok("fine")).await;
    let (proxy, authority) = tls::proxy_to(origin.address, &["--set", "http2.enabled=false"]).await;
    for versions in [ONLY_12, ONLY_13] {
        let mut config = authority.client(versions);
        let offers: [(&[&str], Option<&[u8]>); 3] =
            [(&[], None), (&["http/1.1"], Some(b"http/1.1")), (&["h2", "http/1.1"], Some(b"http/1.1"))];
        for (offered, chosen) in offers {
            config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
            let mut client = Client::connect(proxy.address, &config).await;
            assert_eq!(client.tls().alpn_protocol(), chosen, "{offered:?}");
            assert_eq!(client.ask("GET", "/").await.status(), 200);
        }
        config.alpn_protocols = vec![b"h2".to_vec(), b"spdy/3".to_vec()];
        let refused = Client::try_connect(proxy.address, &config, NAME).await.unwrap_err();
        assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    }
    let counters = proxy.counters().await;
    assert_eq!(counters.named("tls_handshakes_unmatched"), 2);
}

#[tokio::test]
async fn sessions_are_resumed_on_whichever_shard() {
    const CONNECTIONS: u64 = 200;
    let origin = origin::real("real").await;
    let shards = std::thread::available_parallelism().map_or(1, |count| count.get().min(2)).to_string();
    let (proxy, authority) = tls::proxy_to(origin.address, &["--shards", &shards]).await;
    for versions in [ONLY_12, ONLY_13] {
        let config = authority.client(versions);
        let before = proxy.counters().await.named("tls_resumptions");
        let mut resumed = 0;
        for _ in 0..CONNECTIONS {
            let mut client = Client::connect(proxy.address, &config).await;
            resumed += u64::from(client.tls().handshake_kind() == Some(HandshakeKind::Resumed));
            assert_eq!(client.ask("GET", "/bytes/100").await.body.len(), 100);
        }
        assert_eq!(resumed, CONNECTIONS - 1, "{versions:?}");
        assert_eq!(proxy.counters().await.named("tls_resumptions") - before, resumed);
    }
    let live = proxy.live().await;
    assert_eq!(live.len().to_string(), shards);
}

// ---- messages and records ----

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let origin = origin::real("real").await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    for suite in ["TLS13_AES_128", "TLS13_CHACHA20", "ECDSA_WITH_AES_256", "ECDSA_WITH_CHACHA20"] {
        let versions = if suite.contains("13") { ONLY_13 } else { ONLY_12 };
        let mut client =
            Client::connect(proxy.address, &authority.client_with(versions, tls::only_suite(suite))).await;
        for path in ["bytes", "chunked"] {
            pattern::assert_exact(&client.ask("GET", &format!("/{path}/{LARGE}")).await.body, LARGE);
        }
        client
            .send(format!("POST /digest HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {UPLOAD}\r\n\r\n"))
            .await;
        client.send(pattern::bytes(UPLOAD)).await;
        assert_eq!(client.answer_to("POST").await.text(), UPLOAD.to_string());
        // Chunked, its chunks cut by the records.
        client
            .send(format!("POST /digest HTTP/1.1\r\nHost: {NAME}\r\nTransfer-Encoding: chunked\r\n\r\n"))
            .await;
        for piece in pattern::bytes(UPLOAD).chunks(70_001) {
            client.send(format!("{:x}\r\n", piece.len())).await;
            client.send(piece).await;
            client.send("\r\n").await;
        }
        client.send("0\r\n\r\n").await;
        assert_eq!(client.answer_to("POST").await.text(), UPLOAD.to_string());
    }
    assert_eq!(proxy.counters().await.named("requests"), 16);
}

#[tokio::test]
async fn requests_are_pipelined_in_one_record_and_cut_into_many() {
    let origin = origin::repeats_targets(10).await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    for versions in [ONLY_12, ONLY_13] {
        let mut client = Records::connect(proxy.address, &authority.client(versions)).await;
        let request = |nth: usize| format!("GET /{nth} HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
        let all: String = (0..20).map(request).collect();
        client.data(&all).await;
        let mut answers = String::new();
        while answers.matches("HTTP/1.1 200").count() < 20 || !answers.contains(&origin::repeated("/19", 10))
        {
            answers += &String::from_utf8_lossy(&client.next_data().await.unwrap());
        }
        let places: Vec<_> = (0..20)
            .map(|nth| answers.find(&origin::repeated(&format!("/{nth}"), 10)).expect("each is answered"))
            .collect();
        assert!(places.is_sorted(), "{places:?}");
        // A byte in each record: all records at once, and one after the other.
        for together in [true, false] {
            let mut wire = Vec::new();
            for byte in request(77).bytes() {
                wire.extend(client.seal.seal(kind::DATA, &[byte], 0));
                if !together {
                    client.send_bytes(&std::mem::take(&mut wire)).await.unwrap();
                }
            }
            client.send_bytes(&wire).await.unwrap();
            client.data_until(&origin::repeated("/77", 10)).await;
        }
    }
}

#[tokio::test]
async fn a_byte_of_the_stream_at_a_time_is_a_request_too() {
    let origin = origin::answers(origin::ok("fine")).await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    for versions in [ONLY_12, ONLY_13] {
        let mut client = Records::connect(proxy.address, &authority.client(versions)).await;
        for _ in 0..2 {
            let request = format!("POST / HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 5\r\n\r\n12345");
            let wire = client.seal.seal(kind::DATA, request.as_bytes(), 9);
            for byte in wire.chunks(3) {
                client.send_bytes(byte).await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            assert!(client.data_until("fine").await.starts_with("HTTP/1.1 200"));
        }
    }
    assert_eq!(origin.recorder.text().matches("\r\n\r\n12345").count(), 4);
}

#[tokio::test]
async fn responses_that_end_with_the_connection_end_properly() {
    for versions in [ONLY_12, ONLY_13] {
        let origin = origin::real("real").await;
        let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
        let config = authority.client(versions);
        for request in [
            format!("GET /bytes/70000 HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n"),
            format!("GET /chunked/70000 HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n"),
            // No length, and no chunks in HTTP/1.0.
            format!("GET /chunked/70000 HTTP/1.0\r\nHost: {NAME}\r\n\r\n"),
            "GET /bytes/70000 HTTP/1.0\r\n\r\n".to_owned(),
        ] {
            let mut client = Client::connect(proxy.address, &config).await;
            client.send(&request).await;
            pattern::assert_exact(&client.answer_to("GET").await.body, 70_000);
            client.assert_closed().await;
        }
        // A refusal ends the connection too.
        let mut client = Client::connect(proxy.address, &config).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await;
        assert_eq!(client.answer_to("GET").await.status(), 400);
        client.assert_closed().await;
    }
}

#[tokio::test]
async fn a_client_may_end_its_side_behind_its_request() {
    let origin = origin::real("real").await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    for versions in [ONLY_12, ONLY_13] {
        for target in ["/delay/200", "/bytes/1000000"] {
            let mut client = Client::connect(proxy.address, &authority.client(versions)).await;
            client.send(format!("GET {target} HTTP/1.1\r\nHost: {NAME}\r\n\r\n")).await;
            client.half_close().await;
            assert_eq!(client.answer_to("GET").await.status(), 200, "{target}");
            client.assert_closed().await;
        }
        // In one segment: the request, the alert, and an upload before it.
        let mut client = Records::connect(proxy.address, &authority.client(versions)).await;
        let request = format!("POST /copy HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 4\r\n\r\nbody");
        let mut wire = client.seal.seal(kind::DATA, request.as_bytes(), 0);
        wire.extend(client.seal.seal(kind::ALERT, &[1, 0], 0));
        client.send_bytes(&wire).await.unwrap();
        assert!(client.data_until("body").await.starts_with("HTTP/1.1 200"));
        assert_eq!(client.last_alert().await, Some(0));
    }
    proxy.counters_until("all have left", |now| now.connections == 0 && now.buffers_held == 0).await;
}

#[tokio::test]
async fn head_continue_and_trailers_are_as_without_tls() {
    let real = origin::real("real").await;
    let (proxy, authority) = tls::proxy_to(real.address, &[]).await;
    for versions in [ONLY_12, ONLY_13] {
        let mut client = Client::connect(proxy.address, &authority.client(versions)).await;
        let head = client.ask("HEAD", "/bytes/1000").await;
        assert_eq!((head.status(), head.field("content-length"), head.body.len()), (200, Some("1000"), 0));
        assert_eq!(client.ask("GET", "/status/204").await.status(), 204);
        assert_eq!(client.ask("GET", "/status/304").await.status(), 304);
        assert_eq!(client.ask("GET", "/bytes/3").await.body.len(), 3);
    }
    let continues = origin::continues().await;
    let (proxy, authority) = tls::proxy_to(continues.address, &[]).await;
    for versions in [ONLY_12, ONLY_13] {
        let mut client = Client::connect(proxy.address, &authority.client(versions)).await;
        for _ in 0..2 {
            client
                .send(format!(
                    "PUT / HTTP/1.1\r\nHost: {NAME}\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
                ))
                .await;
            assert_eq!(client.head().await.status().unwrap(), 100);
            client.send("body").await;
            assert_eq!(client.answer_to("PUT").await.text(), "body");
        }
    }
    let trailers = origin::echoes_trailers().await;
    let (proxy, authority) = tls::proxy_to(trailers.address, &[]).await;
    let mut client = Client::connect(proxy.address, &authority.client(BOTH)).await;
    for _ in 0..2 {
        client
            .send(format!(
                "POST / HTTP/1.1\r\nHost: {NAME}\r\nTE: trailers\r\nConnection: TE\r\nTrailer: X-Sum\r\n\
                 Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n"
            ))
            .await;
        let answer = client.answer_to("POST").await;
        assert_eq!((answer.text().as_str(), answer.trailers.first("x-sum")), ("hello", Some("5")));
    }
}

#[tokio::test]
async fn rustls_changes_its_keys_between_and_within_messages() {
    let origin = origin::real("real").await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    let mut client = Client::connect(proxy.address, &authority.client(ONLY_13)).await;
    assert_eq!(client.tls().protocol_version(), Some(ProtocolVersion::TLSv1_3));
    for _ in 0..20 {
        client.refresh_keys();
        pattern::assert_exact(&client.ask("GET", "/bytes/50000").await.body, 50_000);
        client.send(format!("POST /copy HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 80000\r\n\r\n")).await;
        let body = pattern::bytes(80_000);
        for piece in body.chunks(20_000) {
            client.refresh_keys();
            client.send(piece).await;
        }
        pattern::assert_exact(&client.answer_to("POST").await.body, 80_000);
    }
}

// ---- tunnels ----

#[tokio::test]
async fn a_websocket_passes_through_tls() {
    let server = websocket::echo().await;
    let (proxy, authority) = tls::proxy_to(server.address, &["--upgrade", "websocket"]).await;
    for versions in [ONLY_12, ONLY_13] {
        let stream = Client::connect(proxy.address, &authority.client(versions)).await.into_stream();
        let request = format!("ws://{NAME}/socket").into_client_request().unwrap();
        let connecting = tokio_tungstenite::client_async(request, stream);
        let (mut socket, response) = within("the handshake", connecting).await.unwrap();
        assert_eq!(response.status(), 101);
        for length in [0, 1, 125, 126, 16_384, 65_536, 1_000_000] {
            let sent = Message::binary(pattern::bytes(length));
            within("sending", socket.send(sent.clone())).await.unwrap();
            let got = within("a message", socket.next()).await.unwrap().unwrap();
            assert_eq!(got, sent, "{length} bytes");
        }
        // Silence in between, so that both sides rest.
        for nth in 0..3 {
            proxy.counters_until("it rests", |now| now.buffers_held == 0).await;
            within("sending", socket.send(Message::text(format!("{nth}")))).await.unwrap();
            assert_eq!(
                within("a message", socket.next()).await.unwrap().unwrap(),
                Message::text(format!("{nth}"))
            );
        }
        within("the end", socket.close(None)).await.unwrap();
        while let Some(Ok(_)) = within("the end", socket.next()).await {}
    }
    proxy.counters_until("none is left", |now| now.connections == 0 && now.buffers_held == 0).await;
}

#[tokio::test]
async fn the_end_of_a_tunnel_passes_through() {
    let origin: Origin = origin::switches_and_echoes().await;
    let (proxy, authority) = tls::proxy_to(origin.address, &["--upgrade", "echo"]).await;
    for versions in [ONLY_12, ONLY_13] {
        let mut client = Client::connect(proxy.address, &authority.client(versions)).await;
        client
            .send(format!("GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"))
            .await;
        assert_eq!(client.head().await.status().unwrap(), 101);
        let mut stream = client.into_stream();
        stream.write_all(b"ping").await.unwrap();
        let mut pong = [0; 4];
        within("the echo", stream.read_exact(&mut pong)).await.unwrap();
        assert_eq!(&pong, b"ping");
        stream.shutdown().await.unwrap();
        let end = within("close_notify", stream.read(&mut pong)).await;
        assert!(matches!(end, Ok(0)), "{end:?}");
    }
}
