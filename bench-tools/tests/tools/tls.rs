//! TLS against a server of rustls' own: what is counted is what it saw, and what it does wrong is noticed.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use rustls::crypto::aws_lc_rs;
use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use crate::assert_documented;
use crate::support::{Origin, PATIENCE, count, tool};

/// Threads of the server: one for each connection.
const STACK_BYTES: usize = 512 * 1024;

/// What the server saw.
#[derive(Default)]
struct Seen {
    full: AtomicU64,
    resumed: AtomicU64,
    stops: AtomicBool,
}

/// A server with a certificate for localhost.
struct TlsServer {
    address: SocketAddr,
    seen: Arc<Seen>,
    accepting: Option<JoinHandle<()>>,
    dir: tempfile::TempDir,
}

impl TlsServer {
    fn start() -> TlsServer {
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("ca.pem"), pair.cert.pem()).expect("writes");
        let key = pair.signing_key.serialize_der().try_into().expect("a key");
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![pair.cert.der().clone()], key)
            .expect("a pair");
        config.ticketer = aws_lc_rs::Ticketer::new().expect("random numbers");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Seen::default());
        let (config, its) = (Arc::new(config), seen.clone());
        let accepting = thread::spawn(move || accept(&listener, &config, &its));
        TlsServer { address, seen, accepting: Some(accepting), dir }
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    fn ca(&self) -> String {
        self.dir.path().join("ca.pem").display().to_string()
    }

    fn full(&self) -> u64 {
        self.seen.full.load(Ordering::SeqCst)
    }

    fn resumed(&self) -> u64 {
        self.seen.resumed.load(Ordering::SeqCst)
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.seen.stops.store(true, Ordering::SeqCst);
        // It looks up when a client comes.
        let _ = TcpStream::connect(self.address);
        let _ = self.accepting.take().map(JoinHandle::join);
    }
}

fn accept(listener: &TcpListener, config: &Arc<ServerConfig>, seen: &Arc<Seen>) {
    for stream in listener.incoming().flatten() {
        if seen.stops.load(Ordering::SeqCst) {
            return;
        }
        let (config, seen) = (config.clone(), seen.clone());
        let thread = thread::Builder::new().stack_size(STACK_BYTES);
        // A client that goes away is no failure of the server.
        let serve = move || drop(serve(stream, config, &seen));
        thread.spawn(serve).expect("a thread");
    }
}

/// Answers requests until one of them, or the client, ends the connection.
fn serve(mut stream: TcpStream, config: Arc<ServerConfig>, seen: &Seen) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    let is_resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
    let counter = if is_resumed { &seen.resumed } else { &seen.full };
    counter.fetch_add(1, Ordering::SeqCst);
    let mut stream = BufReader::new(StreamOwned::new(tls, stream));
    while let Some((path, says_close)) = next_request(&mut stream)? {
        let out = stream.get_mut();
        if let Some(cut) = path.strip_prefix("/until-close/") {
            out.write_all(b"HTTP/1.1 200 OK\r\n\r\nall of it")?;
            if cut == "whole" {
                out.conn.send_close_notify();
            }
            out.flush()?;
            return out.sock.shutdown(Shutdown::Write);
        }
        let bytes: usize = path.trim_start_matches("/bytes/").parse().unwrap_or(0);
        write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n")?;
        out.write_all(&vec![b'x'; bytes])?;
        if says_close {
            out.conn.send_close_notify();
        }
        out.flush()?;
        if says_close {
            return out.sock.shutdown(Shutdown::Write);
        }
    }
    Ok(())
}

/// The path of the next request, and whether it says Connection: close; `None` at the end.
fn next_request(stream: &mut impl BufRead) -> io::Result<Option<(String, bool)>> {
    let mut head = String::new();
    loop {
        let begin = head.len();
        if stream.read_line(&mut head)? == 0 {
            return Ok(None);
        }
        if &head[begin..] == "\r\n" {
            break;
        }
    }
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    Ok(Some((path, head.contains("Connection: close"))))
}

fn load(flags: &[&str]) -> (Output, Value) {
    let output = tool().arg("load").args(["--json", "--warmup", "0s"]).args(flags).output().expect("runs");
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output, json)
}

fn kinds(json: &Value) -> Vec<String> {
    let kinds = json.pointer("/tls/kinds").and_then(Value::as_object).expect("kinds");
    kinds.keys().cloned().collect()
}

const TLS13: &str = "TLS 1.3 TLS_AES_128_GCM_SHA256 X25519";
const TLS12: &str = "TLS 1.2 TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 X25519";

#[test]
fn full_handshakes_are_counted_as_the_server_counts_them() {
    for (version, kind) in [("1.3", TLS13), ("1.2", TLS12)] {
        let server = TlsServer::start();
        let url = server.url("/bytes/1000");
        let flags = ["--url", &url, "-c", "4", "-n", "60", "--new-connections"];
        let (output, json) = load(&[&flags[..], &["--no-resume", "--tls-version", version]].concat());
        assert!(output.status.success(), "{output:?}");
        let (requests, handshakes) = (count(&json, "/requests"), count(&json, "/tls/handshakes"));
        assert!((60..=64).contains(&requests) && (60..=64).contains(&handshakes), "{json}");
        assert_eq!((count(&json, "/tls/resumed"), kinds(&json)), (0, vec![kind.to_owned()]), "{json}");
        // The first connection is a trial; a few may be made before the window.
        assert!((1..=5).contains(&(server.full() - handshakes)), "{} seen: {json}", server.full());
        assert_eq!(server.resumed(), 0);
        assert_eq!(json.pointer("/errors"), Some(&Value::Object(serde_json::Map::new())), "{json}");
        assert!(count(&json, "/connect_ns/max") > 0, "{json}");
    }
}

#[test]
fn sessions_are_resumed_when_asked() {
    for version in ["1.3", "1.2"] {
        let server = TlsServer::start();
        let url = server.url("/bytes/1");
        let flags = ["--url", &url, "-c", "32", "-n", "400", "--new-connections"];
        let (output, json) = load(&[&flags[..], &["--resume", "--tls-version", version]].concat());
        assert!(output.status.success(), "{output:?}");
        // The first of each connection is a full one: there are tickets for all the others.
        let resumed = count(&json, "/tls/resumed");
        assert!((368..=server.resumed()).contains(&resumed), "{json}, {} seen", server.resumed());
        assert!(server.full() <= 33, "{} full handshakes", server.full());
    }
}

#[test]
fn kept_connections_carry_bodies_of_any_size() {
    let server = TlsServer::start();
    let (url, address) = (server.url("/"), server.address.to_string());
    let paths = ["--path", "/bytes/0", "--path", "/bytes/100", "--path", "/bytes/10000000"];
    let flags = ["-c", "2", "-n", "30", "--body", "300k"];
    let (output, json) = load(&[&["--url", &url], &paths[..], &flags].concat());
    assert!(output.status.success(), "{output:?}");
    assert!(count(&json, "/bytes") > 9 * 10_000_000, "{json}");
    assert_eq!((server.full(), count(&json, "/reconnects")), (3, 0), "{json}");
    assert_eq!(kinds(&json), [TLS13]);
    // The same by --tls, at a rate.
    let flags = ["--tls", "-c", "2", "--rate", "200", "--duration", "300ms", "--url"];
    let (output, json) = load(&[&flags[..], &[&format!("http://{address}/bytes/9")]].concat());
    assert!(output.status.success(), "{output:?}");
    assert!(count(&json, "/requests") > 0, "{json}");
    assert!(json.pointer("/url").and_then(Value::as_str).is_some_and(|url| url.starts_with("https://")));
}

#[test]
fn an_end_without_close_notify_is_a_truncation() {
    let server = TlsServer::start();
    let flags = ["--new-connections", "-c", "2", "-n", "8"];
    let (output, json) = load(&[&["--url", &server.url("/until-close/whole")], &flags[..]].concat());
    assert!(output.status.success() && count(&json, "/requests") >= 6, "{output:?}");
    let (output, json) = load(&[&["--url", &server.url("/until-close/cut")], &flags[..]].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(count(&json, "/requests"), 0, "{json}");
    assert!(count(&json, "/errors/closed_early") >= 6, "{json}");
}

/// What a load prints that ends before it begins.
fn refused(flags: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } =
        tool().args(["load", "-d", "100ms", "--warmup", "0s"]).args(flags).output().expect("runs");
    (status.code(), String::from_utf8(stderr).expect("UTF-8"))
}

#[test]
fn certificates_are_checked_when_there_is_an_authority() {
    let (server, other) = (TlsServer::start(), TlsServer::start());
    let (url, address) = (server.url("/bytes/1"), server.address);
    let (output, _) = load(&["--url", &url, "--ca", &server.ca(), "--server-name", "localhost", "-n", "9"]);
    assert!(output.status.success(), "{output:?}");
    let (output, _) = load(&["--url", &url, "--insecure", "-n", "9", "-c", "2"]);
    assert!(output.status.success(), "{output:?}");
    let ended = refused(&["--url", &url, "--ca", &other.ca(), "--server-name", "localhost"]);
    // Which of issuer and signature is named depends on the subjects, which rcgen gives both.
    let begin = format!("sluice-bench: no TLS with {address}: invalid peer certificate: ");
    assert!(ended.0 == Some(1) && ended.1.starts_with(&begin) && ended.1.lines().count() == 1, "{ended:?}");
    // The certificate is not for the address.
    let (code, stderr) = refused(&["--url", &url, "--ca", &server.ca()]);
    assert!(code == Some(1) && stderr.contains("certificate not valid for name"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn flags_that_do_not_fit_are_refused_in_one_line() {
    let server = TlsServer::start();
    let url = server.url("/");
    let clear = format!("http://{}/", server.address);
    let empty = server.dir.path().join("empty.pem").display().to_string();
    std::fs::write(&empty, "").expect("writes");
    for (flags, message) in [
        (&["--url", &clear, "--resume"][..], "--resume needs --tls or an https:// URL"),
        (&["--url", &clear, "--ca", &empty], "--ca needs --tls or an https:// URL"),
        (&["--url", &url, "--ca", &empty], "it holds no certificate"),
        (&["--url", &url, "--ca", "/nowhere"], "--ca /nowhere: "),
        (&["--url", &url, "--server-name", "a b"], "'a b' is no name of a server"),
    ] {
        let (code, stderr) = refused(flags);
        assert_eq!((code, stderr.lines().count()), (Some(2), 1), "{stderr}");
        assert!(stderr.starts_with("sluice-bench: ") && stderr.contains(message), "{stderr}");
    }
    for flags in [
        &["--tls", "--ca", "x", "--insecure"][..],
        &["--tls", "--resume", "--no-resume"],
        &["--tls", "--tls-version", "1.1"],
    ] {
        assert_eq!(refused(flags).0, Some(2), "{flags:?}");
    }
}

#[test]
fn a_target_without_tls_is_reported_at_once() {
    let origin = Origin::start();
    let url = format!("https://{}/", origin.address);
    let (code, stderr) = refused(&["--url", &url]);
    assert_eq!(code, Some(1), "{stderr}");
    let begin = format!("sluice-bench: no TLS with {}: what it answers is not TLS", origin.address);
    assert!(stderr.starts_with(&begin) && stderr.lines().count() == 1, "{stderr}");
}

fn capacity(server: &TlsServer, flags: &[&str]) -> (Output, Value) {
    let dir = tempfile::tempdir().expect("a directory");
    let output = tool()
        .args(["capacity", "--target", &server.address.to_string(), "--name", "c", "--out"])
        .arg(dir.path())
        .args(flags)
        .output()
        .expect("runs");
    let json = std::fs::read(dir.path().join("c.json")).unwrap_or_default();
    (output, serde_json::from_slice(&json).unwrap_or(Value::Null))
}

#[test]
fn a_capacity_run_holds_connections_with_tls() {
    let server = TlsServer::start();
    let flags = ["--tls", "--server-name", "localhost", "--steps", "100,500", "--hold", "600ms"];
    let more = ["--active", "4%", "--interval", "100ms", "--ca", &server.ca()];
    let (output, json) = capacity(&server, &[&flags[..], &more].concat());
    assert!(output.status.success(), "{output:?}");
    for (step, held) in [100, 500].into_iter().enumerate() {
        assert_eq!(count(&json, &format!("/steps/{step}/held")), held, "{json}");
        assert_eq!(count(&json, &format!("/steps/{step}/failed")), 0, "{json}");
        assert!(count(&json, &format!("/steps/{step}/active/requests")) > 0, "{json}");
        assert_eq!(
            json.pointer(&format!("/steps/{step}/hold_errors")),
            Some(&serde_json::json!({})),
            "{json}"
        );
    }
    assert_eq!((count(&json, "/tls/handshakes"), kinds(&json)), (500, vec![TLS13.to_owned()]));
    // The state of a session takes some 10 KB; only the 20 active connections keep theirs.
    let rss = |step: u32| count(&json, &format!("/steps/{step}/tool_rss_bytes"));
    let growth = rss(1).saturating_sub(rss(0)) / 400;
    assert!(growth < 4_000, "{growth} bytes per connection");
    let (output, _) = capacity(&server, &["--ca", &server.ca()]);
    assert_eq!(output.stderr, b"sluice-bench: --ca needs --tls\n");
    assert_eq!(output.status.code(), Some(2));
    let (output, _) = capacity(&server, &["--tls", "--server-name", "other.test", "--ca", &server.ca()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn every_key_of_a_report_with_tls_is_documented() {
    let server = TlsServer::start();
    let (_, json) = load(&["--url", &server.url("/"), "-c", "2", "-n", "10"]);
    assert_documented("load", &json);
    let (_, json) = capacity(&server, &["--tls", "--steps", "20,40", "--hold", "200ms"]);
    assert_documented("capacity", &json);
}
