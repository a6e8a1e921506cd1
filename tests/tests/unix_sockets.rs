//! Unix sockets of servers and of listeners: with files and in the abstract namespace.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use sluice_tests::{
    client::Raw,
    eventually, origin,
    proxy::{self, Proxy, config_file},
    shards_possible, skip,
    unix::{UnixClient, UnixOrigin},
};
use tempfile::TempDir;

/// A folder for sockets, and the name of one in it.
fn socket() -> (TempDir, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let name = folder.path().join("s.sock").display().to_string();
    (folder, name)
}

/// A name in the abstract namespace that no other test has.
fn abstract_name(what: &str) -> String {
    format!("@sluice-test-{}-{what}", std::process::id())
}

fn upstream(server: &str, keys: &str) -> String {
    format!("[[upstream]]\nname = \"a\"\nservers = [\"{server}\"]\n{keys}\n[[route]]\nupstream = \"a\"\n")
}

#[tokio::test]
async fn servers_on_unix_sockets_are_asked_on_kept_connections() {
    let (_folder, path) = socket();
    for name in [path, abstract_name("server")] {
        let origin = UnixOrigin::start(&name, b"");
        let proxy = Proxy::configured(1, &upstream(&format!("unix:{name}"), "")).await;
        let mut client = Raw::connect(proxy.address).await;
        for _ in 0..3 {
            assert_eq!(client.ask("GET", "/").await.text(), name);
        }
        let body = "b".repeat(300_000);
        let post = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        client.send(post).await;
        assert_eq!(client.answer_to("POST").await.text(), name);
        let requests = origin.requests();
        assert_eq!((origin.connections(), requests.len(), requests[3].body.len()), (1, 4, body.len()));
        assert_eq!(requests[0].head.fields.first("host"), Some("test"));
        proxy.drain().await.assert_clean();
    }
}

#[tokio::test]
async fn a_server_on_a_unix_socket_is_called_localhost_if_it_gets_its_own_host() {
    let (_folder, path) = socket();
    let origin = UnixOrigin::start(&path, b"");
    let proxy = Proxy::configured(1, &upstream(&format!("unix:{path}"), "send_host = \"server\"")).await;
    assert_eq!(Raw::connect(proxy.address).await.ask("GET", "/").await.text(), path);
    assert_eq!(origin.requests()[0].head.fields.first("host"), Some("localhost"));
}

#[tokio::test]
async fn servers_on_unix_sockets_get_proxy_headers_and_checks() {
    let name = abstract_name("announced");
    // The port of the client and that of the proxy are of no interest.
    let origin = UnixOrigin::start(&name, b"PROXY TCP4 127.0.0.1 127.0.0.1 ");
    let proxy = Proxy::configured(1, &upstream(&format!("unix:{name}"), "proxy_protocol = \"v1\"")).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    eventually("a connection", async || origin.connections() == 1).await;
    drop((client, proxy, origin));

    let (_folder, path) = socket();
    let origin = UnixOrigin::start(&path, b"");
    let health = "health = { path = \"/check\", interval = \"50ms\", fall = 1 }";
    let proxy = Proxy::configured(1, &upstream(&format!("unix:{path}"), health)).await;
    let checked = async || origin.requests().iter().any(|request| request.head.target() == "/check");
    eventually("a check", checked).await;
    assert_eq!(origin.requests()[0].head.fields.first("host"), Some("localhost"));
    drop(origin);
    proxy.line(&format!("upstream a: unix:{path} is down: ")).await;
}

#[tokio::test]
async fn a_unix_socket_that_cannot_be_used_is_502_and_one_line() {
    let (_folder, path) = socket();
    let proxy = Proxy::configured(1, &upstream(&format!("unix:{path}"), "")).await;
    let mut client = Raw::connect(proxy.address).await;
    for _ in 0..3 {
        assert_eq!(client.ask("GET", "/").await.status(), 502);
    }
    let lines =
        || proxy.messages().into_iter().filter(|line| line.contains("cannot connect to")).collect::<Vec<_>>();
    let said = lines();
    assert!(
        said.len() == 1 && said[0].contains("No such file") && said[0].contains("has not made it"),
        "{said:?}"
    );
    // A file whose server has ended refuses connections; one that begins is used at once.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a free path"));
    assert_eq!(client.ask("GET", "/").await.status(), 502);
    fs::remove_file(&path).expect("our file");
    let _origin = UnixOrigin::start(&path, b"");
    assert_eq!(client.ask("GET", "/").await.text(), path);
}

/// A server whose queue is full has until `upstream_connect` to take the connection.
#[tokio::test]
async fn a_full_queue_is_waited_for() {
    let (_folder, path) = socket();
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&socket2::SockAddr::unix(&path).expect("a path")).expect("a free path");
    socket.listen(0).expect("a bound socket");
    let _fills_the_queue = std::os::unix::net::UnixStream::connect(&path).expect("room for one");
    let keys = "timeouts.upstream_connect = \"300ms\"";
    let proxy = Proxy::configured(1, &upstream(&format!("unix:{path}"), keys)).await;
    let mut client = Raw::connect(proxy.address).await;
    assert_eq!(client.ask("GET", "/").await.status(), 504);
    assert_eq!(proxy.counters().await.named("upstream_connect_timeouts"), 1);
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let accepting = tokio::task::spawn_blocking(move || {
        // The one that has filled the queue, and the proxy's.
        drop(socket.accept().expect("a connection"));
        let (mut stream, _) = socket.accept().expect("another one");
        use std::io::{Read as _, Write as _};
        let _ = stream.read(&mut [0; 4096]).expect("a request");
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").expect("a response");
    });
    assert_eq!(client.answer_to("GET").await.status(), 204);
    accepting.await.expect("the server ends");
}

/// A proxy that listens on this socket too.
async fn listening(name: &str, keys: &str, shards: usize, rest: &str) -> Proxy {
    let listener = format!("[[listener]]\naddress = \"unix:{name}\"\n{keys}\n");
    Proxy::configured(shards, &format!("{listener}{rest}")).await
}

#[tokio::test]
async fn clients_on_unix_sockets_are_served_and_have_no_address() {
    let origin = origin::real("real").await;
    let (_folder, path) = socket();
    let to =
        "forwarding.fields = \"both\"\nforwarding.real_ip = \"set\"\nlimits.connections_per_address = 1\n";
    for name in [path, abstract_name("clients")] {
        let text = format!(
            "listen = [\"127.0.0.1:0\", \"unix:{name}\"]\nshards = 1\n{to}{}",
            upstream(&format!("http://{}", origin.address), "")
        );
        let config = config_file(".toml", &text);
        let proxy = Proxy::start(&["--config", config.path().to_str().expect("a path")]).await;
        // More connections than one address may have.
        let mut clients: Vec<_> = (0..3).map(|_| UnixClient::connect(&name).expect("it listens")).collect();
        for client in &mut clients {
            for _ in 0..2 {
                let answer = client.ask("/", "X-Forwarded-For: 192.0.2.1\r\n").await;
                assert_eq!((answer.status(), answer.text()), (200, "real".to_owned()));
            }
        }
        let seen = origin.seen().pop().expect("a request");
        let field = |name: &str| seen.field(name).unwrap_or_default().to_owned();
        assert_eq!(field("x-forwarded-for"), "unix:");
        assert_eq!(field("x-real-ip"), "unix:");
        assert!(field("forwarded").starts_with("for=unknown;"), "{}", field("forwarded"));
        drop(clients);
        proxy.drain().await.assert_clean();
    }
}

#[tokio::test]
async fn proxies_on_unix_sockets_are_trusted_if_the_list_says_so() {
    let origin = origin::real("real").await;
    for (trusted, wanted) in [("unix:", "192.0.2.1, unix:"), ("0.0.0.0/0", "unix:")] {
        let (_folder, path) = socket();
        let keys = format!(
            "{}[forwarding]\ntrusted_proxies = [\"{trusted}\"]\n",
            upstream(&format!("http://{}", origin.address), "")
        );
        let proxy = listening(&path, "", 1, &keys).await;
        UnixClient::connect(&path).expect("it listens").ask("/", "X-Forwarded-For: 192.0.2.1\r\n").await;
        let seen = origin.seen().pop().expect("a request");
        assert_eq!(seen.field("x-forwarded-for"), Some(wanted), "{trusted}");
        proxy.drain().await.assert_clean();
    }
}

#[tokio::test]
async fn servers_learn_that_a_client_on_a_unix_socket_is_unknown() {
    let (_folder, path) = socket();
    for (version, header) in [("v1", &b"PROXY UNKNOWN\r\n"[..]), ("v2", b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0")] {
        let name = abstract_name(version);
        let _origin = UnixOrigin::start(&name, header);
        let to = upstream(&format!("unix:{name}"), &format!("proxy_protocol = \"{version}\""));
        let proxy = listening(&path, "", 1, &to).await;
        assert_eq!(UnixClient::connect(&path).expect("it listens").ask("/", "").await.text(), name);
        proxy.drain().await.assert_clean();
    }
}

fn mode(path: &str) -> u32 {
    fs::symlink_metadata(path).expect("the socket").permissions().mode() & 0o777
}

#[tokio::test]
async fn the_file_of_a_listener_has_its_mode_and_goes_with_the_process() {
    let (folder, path) = socket();
    let to = upstream("http://127.0.0.1:9", "");
    for (keys, wanted) in [("", 0o660), ("mode = \"0600\"", 0o600), ("mode = \"666\"", 0o666)] {
        // A socket that nothing listens on is a leftover.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a free path"));
        let proxy = listening(&path, keys, 1, &to).await;
        assert_eq!(mode(&path), wanted, "{keys}");
        assert!(UnixClient::connect(&path).is_ok());
        // Another process cannot have it, and does it no harm.
        let listener = format!("[[listener]]\naddress = \"unix:{path}\"\n{to}");
        let config = config_file(".toml", &listener);
        let config = config.path().to_str().expect("a path");
        let second = proxy::run(&["--config", config]).await;
        assert!(
            second.code == Some(1) && second.stderr.contains("another process listens there"),
            "{second:?}"
        );
        assert!(UnixClient::connect(&path).is_ok());
        proxy.drain().await.assert_clean();
        assert!(!Path::new(&path).exists());
    }
    // What is no socket is left alone.
    fs::write(&path, "precious").expect("a file");
    let listener = format!("[[listener]]\naddress = \"unix:{path}\"\n{to}");
    let config = config_file(".toml", &listener);
    let refused = proxy::run(&["--config", config.path().to_str().expect("a path")]).await;
    assert!(refused.code == Some(1) && refused.stderr.contains("no socket is there"), "{refused:?}");
    assert_eq!(fs::read_to_string(&path).expect("still there"), "precious");
    let elsewhere: PathBuf = folder.path().join("missing/s.sock");
    let config =
        config_file(".toml", &format!("[[listener]]\naddress = \"unix:{}\"\n{to}", elsewhere.display()));
    let refused = proxy::run(&["--config", config.path().to_str().expect("a path")]).await;
    assert!(refused.code == Some(1) && refused.stderr.contains("directory does not exist"), "{refused:?}");
}

/// A file that another process has put at the path since then is not ours to remove.
#[tokio::test]
async fn the_file_of_another_process_stays() {
    let (_folder, path) = socket();
    let proxy = listening(&path, "", 1, &upstream("http://127.0.0.1:9", "")).await;
    fs::remove_file(&path).expect("the socket");
    let _other = std::os::unix::net::UnixListener::bind(&path).expect("a free path");
    proxy.drain().await.assert_clean();
    assert!(fs::symlink_metadata(&path).is_ok_and(|file| file.file_type().is_socket()));
}

/// Shards accept from one socket: those that wait take turns, so that no shard has all connections.
#[tokio::test]
async fn shards_take_turns_on_one_socket() {
    const CLIENTS: usize = 200;
    if shards_possible() < 2 || std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        skip("there are no two shards here");
        return;
    }
    let origin = origin::real("real").await;
    let (_folder, path) = socket();
    for steering in ["off", "load"] {
        let keys = upstream(&format!("http://{}", origin.address), "");
        let text = format!(
            "listen = [\"127.0.0.1:0\", \"unix:{path}\"]\nshards = 2\nsteering = \"{steering}\"\n{keys}"
        );
        let config = config_file(".toml", &text);
        let proxy = Proxy::start(&["--config", config.path().to_str().expect("a path")]).await;
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let mut client = UnixClient::connect(&path).expect("it listens");
            assert_eq!(client.ask("/", "").await.status(), 200);
            clients.push(client);
        }
        let shards = proxy.live().await;
        let each: Vec<u64> =
            shards.iter().map(|shard| shard["counters"]["connections"].as_u64().unwrap_or(0)).collect();
        assert_eq!(each.iter().sum::<u64>(), CLIENTS as u64, "{each:?}");
        assert!(each.iter().all(|count| *count >= CLIENTS as u64 / 4), "{steering}: {each:?}");
        drop(clients);
        proxy.drain().await.assert_clean();
    }
}
