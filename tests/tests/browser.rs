//! Chromium through the proxy, to servers of both protocols: a page (`programs/browser.html`) that loads hundreds of resources at
//! once, uploads, streams, gives up, listens for events, and talks over WebSockets.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    process::{Command as StdCommand, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, channel::Channel};
use hyper::{Request, Response, StatusCode, Version, body::Incoming};
use sluice_tests::{
    origin::{self, Body, Real, full},
    pattern,
    peers::text,
    proxy::{Proxy, workspace},
    skip,
    tls::{self, Authority, Identity, NAME},
    websocket, within_time,
};
use tokio::{
    process::{Child, Command},
    sync::{mpsc, watch},
};

/// All steps of the page, each of which has a limit of its own.
const PATIENCE: Duration = Duration::from_secs(400);

// ---- the server ----

struct Page {
    html: String,
    reports: mpsc::UnboundedSender<Bytes>,
    /// How many events were asked for.
    events: watch::Sender<usize>,
    not_modified: AtomicUsize,
    given_up: Arc<AtomicUsize>,
}

impl Page {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
        let path = request.uri().path().to_owned();
        let mut response = Response::new(full(""));
        let fields = response.headers_mut();
        fields.insert("cache-control", "no-store".parse().expect("a value"));
        let (kind, number) = path.trim_start_matches('/').split_once('/').unwrap_or((&path[1..], "0"));
        let number: u16 = number.parse().unwrap_or_default();
        match kind {
            "" => {
                fields.insert("content-type", "text/html".parse().expect("a value"));
                *response.body_mut() = full(self.html.clone());
            }
            "bytes" => *response.body_mut() = full(pattern::bytes(path[7..].parse().unwrap_or_default())),
            "echo" => *response.body_mut() = request.into_body().boxed(),
            "status" => *response.status_mut() = StatusCode::from_u16(number).unwrap_or_default(),
            "moved" => {
                fields.insert("location", "/there".parse().expect("a value"));
                *response.status_mut() = StatusCode::FOUND;
            }
            "there" => *response.body_mut() = full("there"),
            "same" => self.same(&request, &mut response),
            "not-modified" => *response.body_mut() = full(count(&self.not_modified)),
            "set-cookies" => {
                for cookie in ["one=1", "two=2; HttpOnly"] {
                    fields.append("set-cookie", cookie.parse().expect("a value"));
                }
            }
            "cookies" => {
                let lines =
                    request.headers().get_all("cookie").iter().map(|line| line.to_str().expect("text"));
                let lines = serde_json::to_string(&lines.collect::<Vec<_>>()).expect("text");
                *response.body_mut() = full(lines);
            }
            "events" => {
                fields.insert("content-type", "text/event-stream".parse().expect("a value"));
                *response.body_mut() = self.events();
            }
            "next" => self.events.send_modify(|count| *count += 1),
            "drip" => {
                // Of other types Chromium waits for more, to see what they are.
                fields.insert("content-type", "application/octet-stream".parse().expect("a value"));
                *response.body_mut() = self.drip();
            }
            "given-up" => *response.body_mut() = full(count(&self.given_up)),
            "report" => {
                let _ = self.reports.send(request.into_body().collect().await?.to_bytes());
            }
            _ => *response.status_mut() = StatusCode::NOT_FOUND,
        }
        Ok(response)
    }

    /// It may be kept, and must be asked for each time.
    fn same(&self, request: &Request<Incoming>, response: &mut Response<Body>) {
        let fields = response.headers_mut();
        fields.insert("cache-control", "no-cache".parse().expect("a value"));
        fields.insert("etag", "\"v1\"".parse().expect("a value"));
        if request.headers().get("if-none-match").is_some_and(|tag| tag == "\"v1\"") {
            self.not_modified.fetch_add(1, Ordering::Relaxed);
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            *response.body_mut() = full("the same");
        }
    }

    /// One for each that is asked for.
    fn events(&self) -> Body {
        let (mut sender, body) = Channel::<Bytes>::new(1);
        let mut asked = self.events.subscribe();
        tokio::spawn(async move {
            for nth in 1.. {
                let event = format!("data: {nth}\n\n");
                let is_asked = asked.wait_for(|count| *count >= nth).await.is_ok();
                if !is_asked || sender.send_data(event.into()).await.is_err() {
                    return;
                }
            }
        });
        body.map_err(never).boxed()
    }

    /// A response without end. hyper sees that its client has left when it writes.
    fn drip(&self) -> Body {
        const PAUSE: Duration = Duration::from_millis(20);
        let (mut sender, body) = Channel::<Bytes>::new(1);
        let given_up = self.given_up.clone();
        tokio::spawn(async move {
            while sender.send_data("part".into()).await.is_ok() {
                tokio::time::sleep(PAUSE).await;
            }
            given_up.fetch_add(1, Ordering::Relaxed);
        });
        body.map_err(never).boxed()
    }
}

fn count(counter: &AtomicUsize) -> String {
    counter.load(Ordering::Relaxed).to_string()
}

fn never(never: Infallible) -> hyper::Error {
    match never {}
}

/// A server of the page, and what the browser reports.
async fn serve(version: Version) -> (Real, mpsc::UnboundedReceiver<Bytes>) {
    let html = std::fs::read_to_string(workspace().join("tests/programs/browser.html")).expect("our page");
    let (reports, reported) = mpsc::unbounded_channel();
    let (events, not_modified, given_up) = (watch::Sender::new(0), AtomicUsize::new(0), Arc::default());
    let page = Arc::new(Page { html, reports, events, not_modified, given_up });
    (origin::answering(version, move |request| page.clone().answer(request)).await, reported)
}

// ---- the browser ----

/// Chromium, headless, which trusts this key; `None`, with a notice, where it is missing.
fn open(url: &str, address: SocketAddr, key: &str, profile: &Path) -> Option<Child> {
    let name = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| {
        StdCommand::new(name)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .is_ok_and(|end| end.status.success())
    });
    let Some(name) = name else {
        skip("chromium is not installed");
        return None;
    };
    let mut command = Command::new(name);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    command.args(["--disable-dev-shm-usage", "--no-proxy-server"]);
    command.arg(format!("--host-resolver-rules=MAP {NAME} {}", address.ip()));
    command.arg(format!("--ignore-certificate-errors-spki-list={key}"));
    command.arg(format!("--user-data-dir={}", text(profile))).arg(url);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    Some(command.spawn().expect("it has said its version"))
}

/// Opens the page and waits for its report.
async fn visit(
    proxy: &Proxy,
    identity: Option<&Identity>,
    reported: &mut mpsc::UnboundedReceiver<Bytes>,
) -> Option<String> {
    let profile = tempfile::tempdir().expect("a directory");
    let scheme = if identity.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{NAME}:{}/", proxy.address.port());
    // All errors of a certificate are ignored by another flag, which has nothing cached.
    let key = identity.map(Identity::key_digest).unwrap_or_default();
    let mut browser = open(&url, proxy.address, &key, profile.path())?;
    let report = within_time(PATIENCE, "the report", reported.recv()).await.expect("the server lives");
    let pid = browser.id().and_then(|id| rustix::process::Pid::from_raw(id as i32)).expect("it runs");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a child of ours");
    within_time(sluice_tests::PATIENCE, "the end of chromium", browser.wait())
        .await
        .expect("a child of ours");
    Some(String::from_utf8_lossy(&report).into_owned())
}

fn routes(app: &str, chat: &str) -> String {
    format!(
        "[[upstream]]\nname = \"app\"\nservers = [\"{app}\"]\n[[upstream]]\nname = \"chat\"\nservers = [\"{chat}\"]\n\
         [[route]]\nupstream = \"app\"\n[[route]]\nupstream = \"chat\"\npath = \"/chat\"\nupgrade = [\"websocket\"]\n"
    )
}

/// What serves behind the proxy: HTTP/2 or HTTP/1.1, for requests and WebSockets.
async fn behind(version: Version) -> (String, (Real, websocket::Echo), mpsc::UnboundedReceiver<Bytes>) {
    let (real, reported) = serve(version).await;
    let (scheme, echo) = match version {
        Version::HTTP_2 => ("h2c", websocket::http2_echo().await),
        _ => ("http", websocket::echo().await),
    };
    let tables = routes(&format!("{scheme}://{}", real.address), &format!("{scheme}://{}", echo.address));
    (tables, (real, echo), reported)
}

const SERVERS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chromium_over_http1() {
    for version in SERVERS {
        let (tables, _alive, mut reported) = behind(version).await;
        let proxy = Proxy::configured(1, &tables).await;
        let Some(report) = visit(&proxy, None, &mut reported).await else { return };
        assert_eq!(report, r#"{"isHttp2":false,"wrong":[]}"#, "servers of {version:?}");
        proxy.counters_until("all are gone", |now| now.connections == 0 && now.named("tunnels") == 0).await;
        proxy.drain().await.assert_clean();
    }
}

/// Over TLS, where ALPN chooses HTTP/2: WebSockets are streams as well (RFC 8441).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chromium_over_http2() {
    for version in SERVERS {
        let (tables, alive, mut reported) = behind(version).await;
        let authority = Authority::new();
        let identity = authority.issue(&[NAME]);
        let proxy = tls::configured(&format!(
            "listen_tls = [\"127.0.0.1:0\"]\nshards = 1\n[[certificate]]\ncert = \"{}\"\nkey = \"{}\"\n{tables}",
            text(&identity.cert_file),
            text(&identity.key_file)
        ))
        .await;
        let Some(report) = visit(&proxy, Some(&identity), &mut reported).await else { return };
        assert_eq!(report, r#"{"isHttp2":true,"wrong":[]}"#, "servers of {version:?}");
        let (_, echo) = &alive;
        let via: Vec<_> = echo.heads().iter().map(|head| head["via"].clone()).collect();
        assert!(via.len() == 5 && via.iter().all(|via| via.as_bytes().starts_with(b"2")), "{via:?}");
        proxy.counters_until("all are gone", |now| now.connections == 0 && now.named("tunnels") == 0).await;
        proxy.drain().await.assert_clean();
    }
}
