//! The cases of httpwg, an independent suite for RFC 9113, in clear text and over TLS.
#![allow(missing_docs, reason = "the macro of the list documents nothing")]

use std::{any::Any, collections::HashMap, io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use buffet::{IntoHalves, Piece, WriteOwned, bufpool, bufpool::BufResult};
use httpwg::{Config, Conn};
use rustls::pki_types::ServerName;
use sluice_tests::{
    origin,
    proxy::Proxy,
    tls::{self, BOTH},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    net::TcpStream,
    task::{JoinSet, LocalSet},
};
use tokio_rustls::TlsConnector;

httpwg_macros::gen_catalog!(catalog);

/// How many cases there are: fewer would mean that some of them are not run.
const CASES: usize = 107;

/// 4 KiB each, for all cases at once.
const BUFFERS: u32 = 16 * 1024;

/// How long a case waits for a frame. Those that expect one get it sooner, and all cases run at once.
const FRAME: Duration = Duration::from_secs(20);

/// A connection for the suite.
struct Link<S>(S);

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> IntoHalves for Link<S> {
    type Read = ReadHalf<S>;
    type Write = Flushing<S>;

    fn into_halves(self) -> (Self::Read, Self::Write) {
        let (read, write) = tokio::io::split(self.0);
        (read, Flushing(write))
    }
}

/// The suite flushes nothing, and a TLS client may keep what it was given until then.
struct Flushing<S>(WriteHalf<S>);

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> WriteOwned for Flushing<S> {
    async fn write_owned(&mut self, piece: impl Into<Piece>) -> BufResult<usize, Piece> {
        let piece = piece.into();
        let written = async {
            self.0.write_all(&piece[..]).await?;
            self.0.flush().await
        };
        (written.await.map(|()| piece.len()), piece)
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        AsyncWriteExt::shutdown(&mut self.0).await
    }
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.expect("the proxy accepts");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    stream
}

/// Runs all cases, each on a connection of its own, and panics with all that failed. The suite keeps its buffers per thread.
fn run<S, F>(config: Config, connect: impl AsyncFn() -> F + Clone + 'static)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    F: Into<Link<S>>,
{
    bufpool::initialize_allocator_with_num_bufs(BUFFERS).expect("memory");
    let config = Rc::new(config);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let failed = LocalSet::new().block_on(&runtime, async move {
        let (mut cases, mut names) = (JoinSet::new(), HashMap::new());
        for (section, tests) in catalog::<Link<S>>().into_values().flatten() {
            for (name, case) in tests {
                let (config, connect) = (config.clone(), connect.clone());
                let handle = cases.spawn_local(async move {
                    let conn = Conn::new(config, connect().await.into());
                    case(conn).await.map_err(|report| format!("{report:#}"))
                });
                names.insert(handle.id(), format!("{section}: {name}"));
            }
        }
        assert_eq!(names.len(), CASES, "cases of this version of the suite");
        let mut failed = Vec::new();
        while let Some(end) = cases.join_next_with_id().await {
            match end {
                Ok((_, Ok(()))) => {}
                Ok((id, Err(report))) => failed.push(format!("{}: {report}", names[&id])),
                Err(error) => {
                    let id = error.id();
                    failed.push(format!("{}: {}", names[&id], said(&*error.into_panic())));
                }
            }
        }
        failed
    });
    assert!(failed.is_empty(), "{} of {CASES} cases failed:\n{}", failed.len(), failed.join("\n"));
}

/// What a panic says.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_default()
}

impl<S> From<S> for Link<S> {
    fn from(stream: S) -> Self {
        Self(stream)
    }
}

fn config(address: SocketAddr, tls: bool) -> Config {
    Config { host: "localhost".into(), port: address.port(), tls, timeout: FRAME, ..Config::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_cases_in_clear_text() {
    // It answers when a request is complete: an early response may come instead of what a case waits for.
    let origin = origin::answers(origin::ok("fine")).await;
    let proxy = Proxy::to(origin.address).await;
    let address = proxy.address;
    let running = tokio::task::spawn_blocking(move || {
        run::<TcpStream, TcpStream>(config(address, false), async move || connect(address).await);
    });
    running.await.expect("no case fails");
    proxy.drain().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_cases_over_tls() {
    // It answers when a request is complete: an early response may come instead of what a case waits for.
    let origin = origin::answers(origin::ok("fine")).await;
    let (proxy, authority) = tls::proxy_to(origin.address, &[]).await;
    let address = proxy.address;
    let client = tls::offering(&authority.client(BOTH), &["h2"]);
    let connector = TlsConnector::from(Arc::new(client));
    let running = tokio::task::spawn_blocking(move || {
        run::<tokio_rustls::client::TlsStream<TcpStream>, _>(config(address, true), async move || {
            let name = ServerName::try_from(tls::NAME).expect("a name");
            connector.connect(name, connect(address).await).await.expect("a handshake")
        });
    });
    running.await.expect("no case fails");
    proxy.drain().await.assert_clean();
}
