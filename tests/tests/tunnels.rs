//! How a connection leaves HTTP, by Upgrade or CONNECT: who may, what the server is offered, what its answer makes of both
//! connections, and what becomes of bytes that come too early.

use futures_util::{SinkExt, StreamExt};
use sluice_tests::{
    client::{self, Raw},
    origin::{self, Origin, Peer},
    pattern,
    proxy::{Counters, Proxy},
    websocket, within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

/// The handshake of the example in RFC 6455 section 1.2, for this path.
fn websocket(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// A proxy that lets WebSocket through.
async fn websocket_to(origin: &Origin) -> Proxy {
    Proxy::to_with(origin.address, &["--upgrade", "websocket"]).await
}

async fn assert_counted(proxy: &Proxy, name: &str, count: u64) {
    let reached = |now: &Counters| now.named(name) >= count;
    let counters = proxy.counters_until(name, reached).await;
    assert_eq!(counters.named(name), count, "{name}: {counters:?}");
}

#[tokio::test]
async fn tungstenite_on_both_sides_is_content() {
    let server = websocket::echo().await;
    let proxy = Proxy::to_with(server.address, &["--upgrade", "websocket"]).await;
    for _ in 0..3 {
        let request = format!("ws://{}/chat?room=1", proxy.address).into_client_request().unwrap();
        let connecting = tokio_tungstenite::connect_async(request);
        let (mut socket, answer) = within("the handshake", connecting).await.unwrap();
        assert_eq!(answer.status(), 101);
        let messages = [
            Message::text("hello"),
            Message::binary(pattern::bytes(2_000_000)),
            Message::text("x".repeat(70_000)),
            Message::binary(Vec::new()),
        ];
        for message in messages {
            socket.send(message.clone()).await.unwrap();
            let echo = within("the echo", socket.next()).await.unwrap().unwrap();
            assert!(echo == message, "{} bytes came back as {}", message.len(), echo.len());
        }
        socket.send(Message::Ping("are you there".into())).await.unwrap();
        assert_eq!(
            within("pong", socket.next()).await.unwrap().unwrap(),
            Message::Pong("are you there".into())
        );
        socket.close(None).await.unwrap();
        let closing = within("the closing handshake", socket.next()).await.unwrap().unwrap();
        assert!(closing.is_close(), "{closing:?}");
    }
    let counters = proxy.counters_until("all are gone", |now| now.connections == 0).await;
    assert_eq!((counters.named("tunnels_opened"), counters.named("tunnels")), (3, 0), "{counters:?}");
    assert_eq!((counters.tasks_busy, counters.buffers_held, counters.upstream_connections), (0, 0, 0));
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn node_is_content() {
    let server = websocket::echo().await;
    let proxy = Proxy::to_with(server.address, &["--upgrade", "websocket"]).await;
    let script = format!("{}/programs/websocket.mjs", env!("CARGO_MANIFEST_DIR"));
    // From version 22 on it needs no flag.
    let version = client::program("node", &["--version"]).await;
    let Some(major) =
        version.and_then(|text| text.trim_start_matches('v').split('.').next()?.parse::<u32>().ok())
    else {
        return;
    };
    if major < 20 {
        sluice_tests::skip(&format!("node {major} has no WebSocket client"));
        return;
    }
    let flags: &[&str] = if major < 22 { &["--experimental-websocket"] } else { &[] };
    let url = format!("ws://{}/", proxy.address);
    let output = client::program("node", &[flags, &[&*script, &*url]].concat()).await.unwrap();
    assert_eq!(output.trim(), "closed 1000 after 3");
}

#[tokio::test]
async fn curl_connects_through() {
    let real = origin::real("real").await;
    // A server that does what CONNECT asks for.
    let through = Origin::scripted(|mut peer: Peer| async move {
        let target = peer.request().await?.head.target().to_owned();
        let mut onward = TcpStream::connect(target).await?;
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await?;
        copy_bidirectional(&mut onward, &mut peer.into_stream()).await.map(drop)
    })
    .await;
    let proxy = Proxy::to_with(through.address, &["--connect", "1024-65535"]).await;
    let (tunnel, url) =
        (format!("http://{}", proxy.address), format!("http://{}/bytes/300000", real.address));
    let arguments = [
        "-sS",
        "--fail",
        "-p",
        "-x",
        &tunnel,
        "-o",
        "/dev/null",
        "-w",
        "%{http_connect} %{http_code} %{size_download}",
        &url,
    ];
    let Some(output) = client::program("curl", &arguments).await else { return };
    assert_eq!(output, "200 200 300000");
    assert_counted(&proxy, "tunnels_opened", 1).await;
    let seen = through.recorder.text();
    assert!(
        seen.starts_with(&format!("CONNECT {} HTTP/1.1\r\nHost: {}\r\n", real.address, real.address)),
        "{seen}"
    );
}

#[tokio::test]
async fn nothing_leaves_http_unless_it_is_configured() {
    let origin = origin::switches_and_echoes().await;
    let proxy = Proxy::to(origin.address).await;
    for request in [websocket("/"), "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".to_owned()] {
        let mut client = Raw::connect(proxy.address).await;
        client.send(request + "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = client.answer_to("GET").await;
        assert_eq!((answer.status(), answer.field("connection")), (400, Some("close")), "{}", answer.text());
        client.assert_closed().await;
    }
    assert_counted(&proxy, "tunnels_refused", 2).await;
    assert_eq!(origin.recorder.connections(), 0);
}

#[tokio::test]
async fn each_route_has_protocols_and_ports_of_its_own() {
    let origin = origin::switches_and_echoes().await;
    let proxy = Proxy::configured(
        1,
        &format!(
            "[[upstream]]\nname = \"app\"\nservers = [\"http://{}\"]\n\
             [[route]]\nupstream = \"app\"\n\
             [[route]]\nupstream = \"app\"\npath = \"/ws\"\nupgrade = [\"WebSocket\"]\n\
             [[route]]\nupstream = \"app\"\npath = \"/own\"\nupgrade = [\"own/2\"]\n\
             [[route]]\nupstream = \"app\"\nhost = \"db.internal\"\nconnect = [5432, \"8000-8010\"]\n",
            origin.address
        ),
    )
    .await;
    let own = |path: &str, protocol: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n")
    };
    let connect = |target: &str| format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    for (request, status) in [
        (websocket("/ws"), 101),
        (websocket("/./ws?a=b"), 101),
        (websocket("/own"), 400),
        (websocket("/"), 400),
        (own("/own", "own/2"), 101),
        (own("/own", "OWN/2"), 101),
        (own("/own", "own"), 400),
        (own("/own", "own/1"), 400),
        (own("/ws", "own/2"), 400),
        (own("/own", "x, own/2"), 101),
        (connect("db.internal:5432"), 200),
        (connect("DB.internal:8010"), 200),
        // As Java and undici write it.
        (connect("db.internal:5432").replace("Host: db.internal:5432", "Host: db.internal"), 200),
        (connect("db.internal:5432").replace("Host: db.internal:5432", "Host: other"), 400),
        (connect("db.internal:8011"), 400),
        (connect("other:5432"), 400),
        // No WebSocket client, and no offer that would have a place to end.
        (own("/ws", "websocket"), 400),
        (own("/own", "own/2").replace("GET", "POST"), 400),
        (own("/own", "own/2").replace("Host", "Content-Length: 1\r\nHost"), 400),
        // Ignored, as everywhere.
        (own("/ws", "h2c"), 200),
    ] {
        let mut client = Raw::connect(proxy.address).await;
        client.send(&request).await;
        let head = client.head().await;
        assert_eq!(head.status().unwrap(), status, "{request}\n{head:?}");
        assert_eq!(head.fields.lists("connection", "close"), status == 400, "{request}\n{head:?}");
    }
}

#[tokio::test]
async fn the_server_is_offered_what_the_route_allows_and_nothing_else() {
    let origin = origin::switches_and_echoes().await;
    let proxy = websocket_to(&origin).await;
    let mut client = Raw::connect(proxy.address).await;
    let offers = "Upgrade: h2c, smuggle/1\r\nUpgrade: WebSocket, websocket/13\r\nHTTP2-Settings: x";
    client
        .send(
            websocket("/")
                .replace("Upgrade: websocket", offers)
                .replace("Connection: ", "Connection: HTTP2-Settings, "),
        )
        .await;
    let head = client.head().await;
    assert_eq!(head.start, "HTTP/1.1 101 Switching Protocols");
    let field = |name| head.fields.all(name).collect::<Vec<_>>();
    assert_eq!((field("connection"), field("upgrade")), (vec!["Upgrade"], vec!["websocket"]));
    assert_eq!(field("sec-websocket-accept"), ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="]);
    let seen = origin.recorder.text();
    assert!(seen.ends_with("\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"), "{seen}");
    for gone in ["h2c", "smuggle", "HTTP2-Settings", "keep-alive"] {
        assert!(!seen.contains(gone), "{gone}: {seen}");
    }
    assert!(seen.contains("\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), "{seen}");
}

#[tokio::test]
async fn an_offer_that_is_not_taken_up_leaves_both_connections_as_they_were() {
    let origin = Origin::scripted(|mut peer: Peer| async move {
        for answer in [
            "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nContent-Length: 3\r\n\r\nold",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nplain\r\n0\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
            &origin::ok("still"),
            &origin::switching("websocket"),
        ] {
            peer.request().await?;
            peer.send(answer).await?;
        }
        while let Some(bytes) = peer.some().await? {
            peer.send(bytes).await?;
        }
        Ok(())
    })
    .await;
    let proxy = websocket_to(&origin).await;
    let mut client = Raw::connect(proxy.address).await;
    for (status, text) in [(426, "old"), (200, "plain"), (401, "")] {
        client.send(websocket("/")).await;
        let answer = client.answer_to("GET").await;
        assert_eq!((answer.status(), &*answer.text(), answer.field("connection")), (status, text, None));
    }
    assert_eq!(client.ask("GET", "/").await.text(), "still");
    client.send(websocket("/")).await;
    assert_eq!(client.head().await.status().unwrap(), 101);
    client.send("through").await;
    assert_eq!(client.some().await.unwrap().unwrap(), "through");
    assert_eq!(origin.recorder.connections(), 1, "one connection served it all");
}

/// What a client says before it knows the answer goes to a server that has changed protocols, and nowhere else.
#[tokio::test]
async fn early_bytes_go_into_the_tunnel_or_nowhere() {
    const EARLY: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let origin = origin::switches_and_echoes().await;
    let proxy = websocket_to(&origin).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send(websocket("/") + EARLY).await;
    assert_eq!(client.head().await.status().unwrap(), 101);
    assert_eq!(read(&mut client, EARLY.len()).await, EARLY.as_bytes(), "by way of the server");

    for wait in [false, true] {
        let go = origin::Go::new();
        let origin = origin::answers_on_signal(go.clone()).await;
        let proxy = websocket_to(&origin).await;
        let mut client = Raw::connect(proxy.address).await;
        client.send(websocket("/")).await;
        if wait {
            // Behind the head, while the server thinks.
            origin
                .recorder
                .wait_for("the offer", |all| all.iter().any(|one| one.bytes.ends_with(b"\r\n\r\n")))
                .await;
        }
        client.send(EARLY).await;
        proxy.counters_until("it is there", |now| now.buffers_held > 0 || !wait).await;
        go.steps(10);
        let answer = client.answer_to("GET").await;
        assert_eq!((&*answer.text(), answer.field("connection")), ("signalled", Some("close")));
        client.assert_closed().await;
        assert!(!origin.recorder.text().contains("smuggled"), "{}", origin.recorder.text());
        assert_eq!(proxy.counters().await.requests, 1);
    }
}

/// ... also when the answer is ours.
#[tokio::test]
async fn early_bytes_are_no_request_when_there_is_no_server() {
    let refusing = origin::refusing();
    let flags = ["--upgrade", "websocket", "--upgrade", "other", "--connect", "1-65535"];
    let proxy = Proxy::to_with(refusing.address, &flags).await;
    let connect = "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".to_owned();
    for request in [websocket("/"), websocket("/").replace(": websocket", ": other"), connect.clone()] {
        let mut client = Raw::connect(proxy.address).await;
        client.send(format!("{request}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert_eq!(client.answer_to("GET").await.status(), 502);
        client.assert_closed().await;
    }
    // Without any, only a WebSocket client is known to wait.
    for (request, stays) in
        [(websocket("/"), true), (websocket("/").replace(": websocket", ": other"), false), (connect, false)]
    {
        let mut client = Raw::connect(proxy.address).await;
        client.send(&request).await;
        let answer = client.answer_to("GET").await;
        assert_eq!((answer.status(), answer.field("connection").is_none()), (502, stays), "{request}");
        if stays {
            assert_eq!(client.ask("GET", "/").await.status(), 502);
        } else {
            client.assert_closed().await;
        }
    }
    assert_eq!(proxy.counters().await.requests, 7);
}

#[tokio::test]
async fn a_101_that_was_not_asked_for_is_a_bad_gateway() {
    for (answer, asked) in [
        (origin::switching("websocket"), false),
        (origin::switching("other"), true),
        (origin::switching("websocket, other"), true),
        (origin::switching("websocket/13"), true),
        (origin::switching("websocket").replace("Connection: ", "X: "), true),
        (origin::switching("websocket").replace("Upgrade: ", "X: "), true),
        // Not the answer to this key: RFC 6455, section 4.2.2.
        (origin::switching("websocket").replace("s3pPLM", "S3pPLM"), true),
        (origin::switching("websocket").replace("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "a"), true),
        (origin::switching("websocket").replace("\r\n\r\n", "\r\nSec-WebSocket-Accept: a\r\n\r\n"), true),
        ("HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".to_owned(), true),
        (origin::switching("websocket").replace("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\n"), true),
        (origin::switching("websocket").replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n"), true),
        (origin::switching("websocket").replace("HTTP/1.1", "HTTP/1.0"), true),
    ] {
        let origin = origin::answers_and_echoes(answer.clone()).await;
        let proxy = websocket_to(&origin).await;
        let mut client = Raw::connect(proxy.address).await;
        client
            .send(if asked { websocket("/") } else { "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned() })
            .await;
        assert_eq!(client.answer_to("GET").await.status(), 502, "{answer}");
        origin.recorder.wait_for("the end of its connection", |all| all[0].ended).await;
        let counters = proxy.counters().await;
        assert_eq!(
            (counters.named("upstream_bad_responses"), counters.named("tunnels_opened")),
            (1, 0),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn connect_ends_in_a_tunnel_or_with_the_connection() {
    let connect = "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n";
    // Fields about a body mean nothing in the one case, and are not passed on.
    for fields in ["", "Content-Length: 10\r\n", "Transfer-Encoding: chunked\r\n"] {
        let origin =
            origin::answers_and_echoes(format!("HTTP/1.1 204 Fine\r\n{fields}\r\n").replace("204", "200"))
                .await;
        let proxy = Proxy::to_with(origin.address, &["--connect", "443"]).await;
        let mut client = Raw::connect(proxy.address).await;
        client.send(connect).await;
        let head = client.head().await;
        assert_eq!(head.start, "HTTP/1.1 200 Fine");
        let names: Vec<_> = head.fields.0.iter().map(|(name, _)| name.to_lowercase()).collect();
        assert_eq!(names, ["date"], "{fields}");
        client.send("0\r\n\r\nhello").await;
        assert_eq!(read(&mut client, 10).await, b"0\r\n\r\nhello");
    }
    let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
    let origin = origin::answers(refusal).await;
    let proxy = Proxy::to_with(origin.address, &["--connect", "443"]).await;
    for _ in 0..2 {
        let mut client = Raw::connect(proxy.address).await;
        client.send(format!("{connect}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let answer = client.answer_to("GET").await;
        assert_eq!(
            (answer.status(), &*answer.text(), answer.field("connection")),
            (403, "no", Some("close"))
        );
        client.assert_closed().await;
    }
    assert_eq!(origin.recorder.connections(), 2, "nor is the server's connection used again");
    assert!(!origin.recorder.text().contains("smuggled"));
}

/// A kept connection that turns out to be dead is no reason to refuse: nothing was sent on it.
#[tokio::test]
async fn an_offer_on_a_dead_kept_connection_is_made_again() {
    let origin = Origin::scripted(|mut peer: Peer| async move {
        peer.request().await?;
        if peer.nth == 0 {
            peer.send(origin::ok("first")).await?;
            peer.request().await?;
            return Ok(());
        }
        peer.send(origin::switching("websocket")).await?;
        peer.until_closed().await
    })
    .await;
    let proxy = websocket_to(&origin).await;
    assert_eq!(client::get(proxy.address, "/").await.text(), "first");
    let mut client = Raw::connect(proxy.address).await;
    client.send(websocket("/")).await;
    assert_eq!(client.head().await.status().unwrap(), 101);
    assert_counted(&proxy, "upstream_retries", 1).await;
}

/// Reads exactly so many bytes of a tunnel.
async fn read(client: &mut Raw, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        bytes.extend_from_slice(&client.some().await.unwrap().expect("more bytes"));
    }
    bytes
}

/// The other way into a tunnel: an HTTP library that gives its connection up.
#[tokio::test]
async fn hyper_upgrades_on_both_sides() {
    use hyper::{Request, Response, StatusCode, header::HeaderValue, service::service_fn};
    use hyper_util::rt::TokioIo;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service_fn(async |mut request: Request<hyper::body::Incoming>| {
            let upgrading = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrading.await.unwrap());
                stream.write_all(b"server first;").await.unwrap();
                let (mut reader, mut writer) = tokio::io::split(stream);
                tokio::io::copy(&mut reader, &mut writer).await.unwrap();
                writer.shutdown().await.unwrap();
            });
            let mut answer = Response::new(http_body_util::Empty::<bytes::Bytes>::new());
            *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            answer.headers_mut().insert("upgrade", HeaderValue::from_static("own/1"));
            answer.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
            Ok::<_, std::convert::Infallible>(answer)
        });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        connection.with_upgrades().await.unwrap();
    });
    let proxy = Proxy::to_with(address, &["--upgrade", "own/1"]).await;
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection.with_upgrades());
    let request =
        Request::get("/").header("host", "a").header("connection", "upgrade").header("upgrade", "own/1");
    let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
    let answer = within("the answer", sender.send_request(request)).await.unwrap();
    assert_eq!(answer.status(), 101);
    let mut stream = TokioIo::new(within("the upgrade", hyper::upgrade::on(answer)).await.unwrap());
    stream.write_all(b"client then").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut output = String::new();
    within("its end", stream.read_to_string(&mut output)).await.unwrap();
    assert_eq!(output, "server first;client then");
    server.abort();
    connection.abort();
}
