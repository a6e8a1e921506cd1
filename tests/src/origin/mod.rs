//! Origins for the proxy to talk to.
//!
//! Owns the listening, the writing down of what arrived ([`Recorder`]) and the [`Peer`] that scripts
//! speak through. The scripts themselves are in `scripted`, each named by what it does wrong; a well-behaved
//! origin on a foreign HTTP implementation is in `real`.

mod http2;
mod real;
mod scripted;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

pub use self::{
    http2::*,
    real::{Body, Real, Seen, answering, full, real, real_http2},
    scripted::*,
};
use crate::{
    wire::{Framing, Head, Reader, Request},
    within,
};

/// What arrived on one connection.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    /// Every byte, in order.
    pub bytes: Vec<u8>,
    /// Whether the other side has closed or reset the connection, as far as the script has read.
    pub ended: bool,
}

/// Writes down what arrives, connection by connection, and lets a test wait for it.
#[derive(Debug, Clone)]
pub struct Recorder(Arc<watch::Sender<Vec<Traffic>>>);

impl Recorder {
    fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Vec::new())))
    }

    fn open(&self) -> Track {
        let mut nth = 0;
        self.0.send_modify(|all| {
            nth = all.len();
            all.push(Traffic::default());
        });
        Track { recorder: self.clone(), nth }
    }

    /// What has arrived so far.
    pub fn traffic(&self) -> Vec<Traffic> {
        self.0.borrow().clone()
    }

    /// Everything that has arrived so far, as text, in the order of the connections.
    pub fn text(&self) -> String {
        self.0.borrow().iter().map(|traffic| String::from_utf8_lossy(&traffic.bytes).into_owned()).collect()
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.0.borrow().len()
    }

    /// Waits until what arrived satisfies `condition`.
    pub async fn wait_for(&self, what: &str, mut condition: impl FnMut(&[Traffic]) -> bool) {
        let mut receiver = self.0.subscribe();
        within(what, receiver.wait_for(|all| condition(all))).await.expect("the recorder holds the sender");
    }
}

/// The part of a [`Recorder`] that belongs to one connection.
#[derive(Debug, Clone)]
pub(crate) struct Track {
    recorder: Recorder,
    nth: usize,
}

impl Track {
    pub(crate) fn received(&self, bytes: &[u8]) {
        self.recorder.0.send_modify(|all| all[self.nth].bytes.extend_from_slice(bytes));
    }

    pub(crate) fn ended(&self) {
        self.recorder.0.send_modify(|all| all[self.nth].ended = true);
    }
}

/// A scripted origin; it stops when dropped.
#[derive(Debug)]
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    /// What arrived at it.
    pub recorder: Recorder,
    accepting: JoinHandle<()>,
}

impl Origin {
    /// An origin that runs `script` on every connection. Errors end the script of that connection only:
    /// the proxy may well close the connection of such a peer.
    pub async fn scripted<F, S>(script: F) -> Self
    where
        F: Fn(Peer) -> S + Send + 'static,
        S: Future<Output = io::Result<()>> + Send + 'static,
    {
        Self::run(listen().await, script)
    }

    /// The same on this address, where another origin was before, if there is one.
    pub async fn scripted_at<F, S>(address: Option<SocketAddr>, script: F) -> Self
    where
        F: Fn(Peer) -> S + Send + 'static,
        S: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = match address {
            Some(address) => TcpListener::bind(address).await.expect("the port is free again"),
            None => listen().await,
        };
        Self::run(listener, script)
    }

    /// The same with receive buffers of about `bytes`, so that the proxy's kernel keeps what the script does not read.
    pub async fn scripted_with_window<F, S>(bytes: u32, script: F) -> Self
    where
        F: Fn(Peer) -> S + Send + 'static,
        S: Future<Output = io::Result<()>> + Send + 'static,
    {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(bytes).expect("SO_RCVBUF");
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port on loopback");
        Self::run(socket.listen(128).expect("a listener"), script)
    }

    fn run<F, S>(listener: TcpListener, script: F) -> Self
    where
        F: Fn(Peer) -> S + Send + 'static,
        S: Future<Output = io::Result<()>> + Send + 'static,
    {
        let address = listener.local_addr().expect("bound");
        let recorder = Recorder::new();
        let log = recorder.clone();
        let accepting = tokio::spawn(async move {
            let mut scripts = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let track = log.open();
                let nth = track.nth;
                let _ = stream.set_nodelay(true);
                scripts.spawn(script(Peer { nth, reader: Reader::recorded(stream, track) }));
                while scripts.try_join_next().is_some() {}
            }
        });
        Self { address, recorder, accepting }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn listen() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port on loopback")
}

/// One connection from the proxy, as a script sees it.
#[derive(Debug)]
pub struct Peer {
    /// Counts the connections of this origin from 0.
    pub nth: usize,
    reader: Reader<TcpStream>,
}

impl Peer {
    /// Reads one request with its body.
    pub async fn request(&mut self) -> io::Result<Request> {
        self.reader.request().await
    }

    /// Reads one line.
    pub async fn line(&mut self) -> io::Result<String> {
        self.reader.line().await
    }

    /// Reads one request head.
    pub async fn head(&mut self) -> io::Result<Head> {
        self.reader.head().await
    }

    /// Reads a body piece by piece.
    pub async fn body_to(&mut self, framing: Framing, take: impl FnMut(&[u8]) + Send) -> io::Result<()> {
        self.reader.body_to(framing, take).await.map(drop)
    }

    /// Whatever comes next, `None` at the end.
    pub async fn some(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.reader.some().await?.map(Into::into))
    }

    /// Sends exactly these bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.reader.stream().write_all(bytes.as_ref()).await
    }

    /// Sends a complete `200` with this body and a Content-Length.
    pub async fn answer(&mut self, body: &str) -> io::Result<()> {
        self.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await
    }

    /// Reads until the proxy closes, without another byte sent.
    pub async fn until_closed(&mut self) -> io::Result<()> {
        while self.reader.some().await?.is_some() {}
        Ok(())
    }

    /// Says that nothing more will be sent (FIN).
    pub async fn half_close(&mut self) -> io::Result<()> {
        self.reader.stream().shutdown().await
    }

    /// The connection, of which nothing was read ahead: for what is no HTTP any more.
    pub fn into_stream(self) -> TcpStream {
        let (stream, ahead) = self.reader.into_parts();
        assert!(ahead.is_empty(), "the proxy has sent more than a request");
        stream
    }

    /// Closes with a reset.
    pub fn reset(mut self) -> io::Result<()> {
        self.reader.stream().set_zero_linger()
    }
}

/// An address on which nothing listens: connecting to it is refused.
///
/// The socket stays bound while the value lives, so that no other process gets the port.
#[derive(Debug)]
pub struct Refusing {
    /// The address.
    pub address: SocketAddr,
    _bound: TcpSocket,
}

/// An address that refuses connections.
pub fn refusing() -> Refusing {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port on loopback");
    Refusing { address: socket.local_addr().expect("bound"), _bound: socket }
}

/// A listener whose backlog is full: the kernel drops further attempts, so that connecting hangs.
#[derive(Debug)]
pub struct Unreachable {
    /// The address.
    pub address: SocketAddr,
    _listener: TcpListener,
    _backlog: Vec<TcpStream>,
}

/// An address at which connecting hangs.
pub async fn unreachable() -> Unreachable {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port on loopback");
    let listener = socket.listen(1).expect("a listener");
    let address = listener.local_addr().expect("bound");
    let mut backlog = Vec::new();
    // A handshake on loopback takes microseconds: one that takes this long was dropped.
    let dropped = std::time::Duration::from_millis(900);
    while let Ok(stream) = tokio::time::timeout(dropped, TcpStream::connect(address)).await {
        backlog.push(stream.expect("the listener is there"));
    }
    Unreachable { address, _listener: listener, _backlog: backlog }
}
