//! gRPC by tonic through the proxy: calls of all four kinds, in clear text and over TLS on either side, their ends on either side, and
//! failures of our own as a gRPC client reads them.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use hyper::client::conn::http2;
use hyper::{Request as HttpRequest, Response as HttpResponse, Uri, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, ServerConfig, pki_types::ServerName};
use sluice_tests::{
    assert_took,
    grpc_codec::Plain,
    proxy::Proxy,
    tls::{self, Authority, BOTH, NAME},
    within,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};

const LARGE: usize = 4_000_000;
const MESSAGE_MAX: usize = 8_000_000;

// ---- the server ----

/// What the server noticed.
#[derive(Debug, Default)]
struct Seen {
    connections: AtomicUsize,
    begun: AtomicUsize,
    /// Calls that ended before they were answered.
    cancelled: AtomicUsize,
}

/// A call under way; counted when it is dropped.
struct Underway(Arc<Seen>);

impl Underway {
    fn new(seen: &Arc<Seen>) -> Underway {
        seen.begun.fetch_add(1, Ordering::SeqCst);
        Underway(seen.clone())
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.cancelled.fetch_add(1, Ordering::SeqCst);
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// `/t.Echo/Unary` and `Chat` give messages back, `Repeat` gives ten of the size that the request has, `Count` adds up, `Broken` sends
/// three and fails, `Fail` fails, `Never` does not answer, `Stall` sends one and no more.
async fn answer(request: HttpRequest<Incoming>, seen: Arc<Seen>) -> HttpResponse<Body> {
    let mut grpc = grpc();
    let path = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    match &*path {
        "Unary" => {
            let echo = |request: Request<Bytes>| async {
                let kind = request.metadata().get("x-kind").cloned();
                let mut response = Response::new(request.into_inner());
                if let Some(kind) = kind {
                    response.metadata_mut().insert("x-kind", kind);
                }
                Ok(response)
            };
            grpc.unary(tower::service_fn(echo), request).await
        }
        "Fail" => {
            let fail = |_: Request<Bytes>| async {
                let mut status = Status::new(Code::NotFound, "no such thing: 100%");
                status.metadata_mut().insert("x-why", "because".parse().expect("a value"));
                Err::<Response<Bytes>, Status>(status)
            };
            grpc.unary(tower::service_fn(fail), request).await
        }
        "Never" => {
            let never = move |_: Request<Bytes>| {
                let underway = Underway::new(&seen);
                async move {
                    let _underway = underway;
                    std::future::pending::<Result<Response<Bytes>, Status>>().await
                }
            };
            grpc.unary(tower::service_fn(never), request).await
        }
        _ => answer_by_streams(&path, request, seen).await,
    }
}

fn grpc() -> tonic::server::Grpc<Plain> {
    tonic::server::Grpc::new(Plain)
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX)
}

async fn answer_by_streams(
    path: &str,
    request: HttpRequest<Incoming>,
    seen: Arc<Seen>,
) -> HttpResponse<Body> {
    let mut grpc = grpc();
    match path {
        "Repeat" => {
            let repeat = |request: Request<Bytes>| async move {
                let messages = stream::iter(vec![Ok::<_, Status>(request.into_inner()); 10]);
                Ok(Response::new(Box::pin(messages) as Messages))
            };
            grpc.server_streaming(tower::service_fn(repeat), request).await
        }
        "Broken" => {
            let broken = |request: Request<Bytes>| async move {
                let good = stream::iter(vec![Ok(request.into_inner()); 3]);
                let end = stream::once(async { Err(Status::data_loss("lost")) });
                Ok(Response::new(Box::pin(good.chain(end)) as Messages))
            };
            grpc.server_streaming(tower::service_fn(broken), request).await
        }
        "Stall" => {
            let stall = move |request: Request<Bytes>| {
                let underway = Underway::new(&seen);
                async move {
                    let first = stream::once(async { Ok(request.into_inner()) });
                    let rest = stream::once(async move {
                        let _underway = underway;
                        std::future::pending::<Result<Bytes, Status>>().await
                    });
                    Ok(Response::new(Box::pin(first.chain(rest)) as Messages))
                }
            };
            grpc.server_streaming(tower::service_fn(stall), request).await
        }
        "Count" => {
            let count = |request: Request<Streaming<Bytes>>| async move {
                let (mut messages, mut all, mut bytes) = (request.into_inner(), 0, 0);
                while let Some(message) = messages.message().await? {
                    all += 1;
                    bytes += message.len();
                }
                Ok(Response::new(Bytes::from(format!("{all} {bytes}"))))
            };
            grpc.client_streaming(tower::service_fn(count), request).await
        }
        _ => {
            let chat = |request: Request<Streaming<Bytes>>| async move {
                Ok(Response::new(Box::pin(request.into_inner()) as Messages))
            };
            grpc.streaming(tower::service_fn(chat), request).await
        }
    }
}

/// A server of gRPC.
struct Server {
    address: SocketAddr,
    seen: Arc<Seen>,
}

async fn server(tls: Option<ServerConfig>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let seen = Arc::new(Seen::default());
    let its = seen.clone();
    let acceptor = tls.map(|mut config| {
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (seen, acceptor) = (its.clone(), acceptor.clone());
            tokio::spawn(async move {
                seen.connections.fetch_add(1, Ordering::SeqCst);
                let _ = stream.set_nodelay(true);
                let service = service_fn(move |request| {
                    let seen = seen.clone();
                    async move { Ok::<_, std::convert::Infallible>(answer(request, seen).await) }
                });
                let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                builder.max_concurrent_streams(4_000);
                // The end of a connection is no failure of the test.
                let _ = match acceptor {
                    None => builder.serve_connection(TokioIo::new(stream), service).await,
                    Some(acceptor) => match acceptor.accept(stream).await {
                        Ok(stream) => builder.serve_connection(TokioIo::new(stream), service).await,
                        Err(_) => Ok(()),
                    },
                };
            });
        }
    });
    Server { address, seen }
}

// ---- the client ----

#[derive(Clone)]
struct Client(Grpc<Channel>);

/// A connection to the proxy.
async fn connect(proxy: SocketAddr, tls: Option<ClientConfig>) -> std::io::Result<TokioIo<Box<dyn Wire>>> {
    let stream = TcpStream::connect(proxy).await?;
    stream.set_nodelay(true)?;
    let Some(config) = tls else { return Ok(TokioIo::new(Box::new(stream))) };
    let connector = TlsConnector::from(Arc::new(tls::offering(&config, &["h2"])));
    let name = ServerName::try_from(NAME).expect("a name");
    Ok(TokioIo::new(Box::new(connector.connect(name, stream).await?)))
}

fn origin(tls: Option<&ClientConfig>) -> String {
    format!("{}://{NAME}", if tls.is_some() { "https" } else { "http" })
}

/// A client by tonic's own transport.
async fn client(proxy: SocketAddr, tls: Option<ClientConfig>) -> Client {
    let endpoint = Endpoint::from_shared(origin(tls.as_ref())).expect("a URL");
    let connect = tower::service_fn(move |_: Uri| connect(proxy, tls.clone()));
    let channel = within("a connection", endpoint.connect_with_connector(connect)).await.expect("a channel");
    let grpc = Grpc::new(channel).max_decoding_message_size(MESSAGE_MAX);
    Client(grpc.max_encoding_message_size(MESSAGE_MAX))
}

/// A transport that does not look at timeouts: tonic's own ends a call itself.
struct Bare(http2::SendRequest<Body>);

impl tower::Service<HttpRequest<Body>> for Bare {
    type Response = HttpResponse<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<HttpResponse<Incoming>>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

async fn bare_client(proxy: SocketAddr, tls: Option<ClientConfig>) -> Grpc<Bare> {
    let origin = origin(tls.as_ref()).parse().expect("a URL");
    let stream = within("a connection", connect(proxy, tls)).await.expect("a connection");
    let handshake = http2::Builder::new(TokioExecutor::new()).handshake(stream);
    let (sender, connection) = within("a handshake", handshake).await.expect("HTTP/2");
    tokio::spawn(connection);
    Grpc::with_origin(Bare(sender), origin)
}

trait Wire: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Wire for T {}

fn path(method: &str) -> hyper::http::uri::PathAndQuery {
    format!("/t.Echo/{method}").parse().expect("a path")
}

impl Client {
    async fn unary(&mut self, method: &str, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        within("a ready channel", self.0.ready()).await.expect("a channel");
        within("a response", self.0.unary(request, path(method), Plain)).await
    }

    async fn server_streaming(&mut self, method: &str, request: Request<Bytes>) -> Result<Answers, Status> {
        within("a ready channel", self.0.ready()).await.expect("a channel");
        let response = within("a response", self.0.server_streaming(request, path(method), Plain)).await?;
        Ok(response.into_inner())
    }

    async fn chat(
        &mut self,
        messages: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Answers, Status> {
        within("a ready channel", self.0.ready()).await.expect("a channel");
        let request = Request::new(messages);
        let response = within("a response", self.0.streaming(request, path("Chat"), Plain)).await?;
        Ok(response.into_inner())
    }
}

type Answers = Streaming<Bytes>;

/// Messages that a test sends one by one.
fn messages() -> (mpsc::UnboundedSender<Bytes>, impl Stream<Item = Bytes> + Send + 'static) {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    (sender, stream::poll_fn(move |context| receiver.poll_recv(context)))
}

fn message(length: usize) -> Bytes {
    Bytes::from((0..length).map(|at| (at % 251) as u8).collect::<Vec<u8>>())
}

/// Where TLS is spoken.
#[derive(Clone, Copy, Debug)]
struct Sides {
    downstream: bool,
    upstream: bool,
}

const ALL: [Sides; 4] = [
    Sides { downstream: false, upstream: false },
    Sides { downstream: true, upstream: false },
    Sides { downstream: false, upstream: true },
    Sides { downstream: true, upstream: true },
];

/// A server, a proxy in front of it, and what a client of that trusts.
async fn in_front(sides: Sides, flags: &[&str]) -> (Server, Proxy, Option<ClientConfig>) {
    let authority = Authority::new();
    let identity = authority.issue(&[NAME, "127.0.0.1"]);
    let server = server(sides.upstream.then(|| identity.server(BOTH))).await;
    let scheme = if sides.upstream { "https" } else { "h2c" };
    let (target, ca) = (format!("{scheme}://{}", server.address), authority.ca_file());
    let listen = if sides.downstream { "--listen-tls" } else { "--listen" };
    let mut all = vec![listen, "127.0.0.1:0", "--shards", "1", "--upstream", &target];
    if sides.downstream {
        all.extend(identity.flags());
    }
    if sides.upstream {
        all.extend(["--upstream-ca", ca.to_str().expect("plain text"), "--upstream-protocol", "h2"]);
    }
    all.extend(flags);
    (server, Proxy::start(&all).await, sides.downstream.then(|| authority.client(BOTH)))
}

/// The same with a client.
async fn all_of_it(sides: Sides, flags: &[&str]) -> (Server, Proxy, Client) {
    let (server, proxy, trusted) = in_front(sides, flags).await;
    let client = client(proxy.address, trusted).await;
    (server, proxy, client)
}

const CLEAR: Sides = ALL[0];

// ---- calls ----

async fn four_kinds(sides: Sides) {
    let (_server, proxy, mut client) = all_of_it(sides, &[]).await;
    for length in [0, 1, 16_379, 100_000, LARGE] {
        let mut request = Request::new(message(length));
        request.metadata_mut().insert("x-kind", "unary".parse().expect("a value"));
        let response = client.unary("Unary", request).await.expect("an answer");
        assert_eq!(response.metadata().get("x-kind").map(MetadataValue::as_bytes), Some(&b"unary"[..]));
        assert_eq!(response.into_inner(), message(length), "{sides:?} {length}");
    }
    for length in [0, 1_000, 300_000] {
        let request = Request::new(message(length));
        let mut answers = client.server_streaming("Repeat", request).await.expect("messages");
        for nth in 0..10 {
            let answer = within("a message", answers.message()).await.expect("a message");
            assert_eq!(answer, Some(message(length)), "{sides:?} {length} {nth}");
        }
        assert_eq!(within("the end", answers.message()).await.expect("OK by trailers"), None);
        assert!(within("trailers", answers.trailers()).await.expect("OK").is_some());
    }
    client.0.ready().await.expect("a channel");
    let fifty = stream::iter((0..50).map(|nth| message(nth * 1_000)));
    let counted = client.0.client_streaming(Request::new(fifty), path("Count"), Plain);
    let counted = within("an answer", counted).await.expect("an answer");
    assert_eq!(counted.into_inner(), format!("50 {}", 49 * 50 * 500));
    // Each message is sent when the last one has come back: nothing waits for more.
    let (sender, receiver) = messages();
    let mut answers = client.chat(receiver).await.expect("messages");
    for nth in 0..20 {
        sender.send(message(nth * 777)).expect("the call goes on");
        let answer = within("a message", answers.message()).await.expect("a message");
        assert_eq!(answer, Some(message(nth * 777)), "{sides:?}");
    }
    drop(sender);
    assert_eq!(within("the end", answers.message()).await.expect("OK"), None);
    drop((client, answers));
    proxy.drain().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_all_kinds_in_clear_text_and_over_tls() {
    for sides in ALL {
        four_kinds(sides).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_of_the_server_reach_the_client() {
    let (_server, _proxy, mut client) = all_of_it(CLEAR, &[]).await;
    let status = client.unary("Fail", Request::new(message(5))).await.expect_err("a failure");
    assert_eq!((status.code(), status.message()), (Code::NotFound, "no such thing: 100%"));
    assert_eq!(status.metadata().get("x-why").map(MetadataValue::as_bytes), Some(&b"because"[..]));
    let mut answers = client.server_streaming("Broken", Request::new(message(9))).await.expect("messages");
    for _ in 0..3 {
        assert_eq!(within("a message", answers.message()).await.expect("one"), Some(message(9)));
    }
    let status = within("the end", answers.message()).await.expect_err("a failure");
    assert_eq!((status.code(), status.message()), (Code::DataLoss, "lost"));
}

// ---- ends ----

async fn until(what: &str, counter: &AtomicUsize, least: usize) {
    sluice_tests::eventually(what, async || counter.load(Ordering::SeqCst) >= least).await;
}

fn with_timeout(text: &str) -> Request<Bytes> {
    let mut request = Request::new(message(3));
    request.metadata_mut().insert("grpc-timeout", text.parse().expect("a value"));
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_ends_the_call_on_both_sides() {
    for sides in [CLEAR, ALL[3]] {
        let (server, proxy, trusted) = in_front(sides, &["--timeout-request=1h"]).await;
        let mut client = bare_client(proxy.address, trusted).await;
        within("a ready client", client.ready()).await.expect("a connection");
        let begun = Instant::now();
        let call = client.unary(with_timeout("300m"), path("Never"), Plain);
        let status = within("a status", call).await.expect_err("no answer");
        assert_took(begun, Duration::from_millis(300), Duration::from_secs(30));
        let said = (status.code(), status.message());
        assert_eq!(said, (Code::DeadlineExceeded, "the server did not answer in time"), "{sides:?}");
        until("the server's call is cancelled", &server.seen.cancelled, 1).await;
        // The connections are not the worse for it.
        within("a ready client", client.ready()).await.expect("the same connection");
        let again = client.unary(Request::new(message(3)), path("Unary"), Plain);
        assert_eq!(within("an answer", again).await.expect("an answer").into_inner(), message(3));
        assert_eq!(server.seen.connections.load(Ordering::SeqCst), 1, "{sides:?}");
        assert_eq!(proxy.counters().await.named("request_timeouts"), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_between_two_messages_is_a_status_for_the_client() {
    let (server, proxy, trusted) = in_front(CLEAR, &["--timeout-request=1h"]).await;
    // One that has no timer of its own.
    let mut client = bare_client(proxy.address, trusted).await;
    within("a ready client", client.ready()).await.expect("a connection");
    let call = client.server_streaming(with_timeout("700m"), path("Stall"), Plain);
    let mut answers = within("a response", call).await.expect("messages").into_inner();
    assert_eq!(within("a message", answers.message()).await.expect("one"), Some(message(3)));
    let status = within("the end", answers.message()).await.expect_err("it is no whole answer");
    let said = (status.code(), status.message());
    assert_eq!(said, (Code::DeadlineExceeded, "the server did not answer in time"));
    until("the server's call is cancelled", &server.seen.cancelled, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_cancels_cancels_at_the_server() {
    let (server, proxy, mut client) = all_of_it(CLEAR, &[]).await;
    let mut other = client.clone();
    let call = tokio::spawn(async move { client.unary("Never", Request::new(message(3))).await });
    until("the call has begun", &server.seen.begun, 1).await;
    assert_eq!(server.seen.cancelled.load(Ordering::SeqCst), 0);
    call.abort();
    until("the call is cancelled", &server.seen.cancelled, 1).await;
    let answers = other.server_streaming("Stall", Request::new(message(3))).await.expect("messages");
    drop(answers);
    until("the stream is cancelled", &server.seen.cancelled, 2).await;
    let again = other.unary("Unary", Request::new(message(1))).await.expect("the connection goes on");
    assert_eq!(again.into_inner(), message(1));
    drop(other);
    proxy.drain().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_of_our_own_have_their_status() {
    let server = server(None).await;
    let tables = format!(
        "[[upstream]]\nname = \"real\"\nservers = [\"h2c://{}\"]\n\
         [[upstream]]\nname = \"dead\"\nservers = [\"h2c://127.0.0.1:1\"]\n\
         [[route]]\npath = \"/t.Echo/Unary\"\nupstream = \"real\"\nlimits.body_bytes = 1000\n\
         [[route]]\npath = \"/t.Echo/Dead\"\nupstream = \"dead\"\n",
        server.address
    );
    let proxy = Proxy::configured(1, &tables).await;
    let mut client = client(proxy.address, None).await;
    for (method, length, code, said) in [
        ("Unary", 995, Code::Ok, ""),
        ("Unary", 996, Code::ResourceExhausted, "the request body is larger than allowed here"),
        ("Unary", 500_000, Code::ResourceExhausted, "the request body is larger than allowed here"),
        ("None", 1, Code::Unimplemented, "no route for this host and path"),
        ("Dead", 1, Code::Unavailable, "the server could not be reached"),
    ] {
        let status = match client.unary(method, Request::new(message(length))).await {
            Ok(response) => {
                assert_eq!(response.into_inner(), message(length));
                Status::ok("")
            }
            Err(status) => status,
        };
        assert_eq!((status.code(), status.message()), (code, said), "{method} {length}");
    }
}

const STREAMS: usize = 1_000;

/// A thousand conversations at once, all of them over one connection to the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_conversations_share_a_connection() {
    let flags = ["--http2-streams=2000", "--limit-upstream-streams=2000"];
    let (server, proxy, mut client) = all_of_it(CLEAR, &flags).await;
    // How many streams the server takes is known once it has answered.
    let first = client.unary("Unary", Request::new(message(1))).await.expect("an answer");
    assert_eq!(first.into_inner(), message(1));
    let mut conversations = tokio::task::JoinSet::new();
    let barrier = Arc::new(tokio::sync::Barrier::new(STREAMS));
    for nth in 0..STREAMS {
        let (mut client, barrier) = (client.clone(), barrier.clone());
        conversations.spawn(async move {
            let (sender, receiver) = messages();
            let mut answers = client.chat(receiver).await.expect("messages");
            within("all have begun", barrier.wait()).await;
            for turn in 0..5 {
                let text = Bytes::from(format!("{nth} {turn} ").repeat(100));
                sender.send(text.clone()).expect("the call goes on");
                let answer = within("a message", answers.message()).await.expect("a message");
                assert_eq!(answer, Some(text));
            }
            drop(sender);
            assert_eq!(within("the end", answers.message()).await.expect("OK"), None);
        });
    }
    while let Some(ended) = conversations.join_next().await {
        ended.expect("a conversation");
    }
    assert_eq!(server.seen.connections.load(Ordering::SeqCst), 1);
    drop(client);
    proxy.drain().await.assert_clean();
}
