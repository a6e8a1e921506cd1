//! Servers and clients on Unix sockets.

use std::{
    os::linux::net::SocketAddrExt as _,
    os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream},
    sync::Arc,
};

use tokio::{
    io::AsyncWriteExt as _,
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinHandle,
};

use crate::{
    wire::{Reader, Request, Response},
    within,
};

/// What a socket is called: as in a configuration, without `unix:`.
fn address(name: &str) -> SocketAddr {
    match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
    .expect("a name for a socket")
}

/// A server that answers every request with its own name; it stops when dropped, and leaves its file behind.
#[derive(Debug)]
pub struct UnixOrigin {
    requests: Arc<watch::Sender<Vec<Request>>>,
    connections: Arc<watch::Sender<usize>>,
    task: JoinHandle<()>,
}

impl UnixOrigin {
    /// Listens on `name`, and expects these bytes at the beginning of each connection.
    pub fn start(name: &str, preface: &'static [u8]) -> Self {
        let listener = StdListener::bind_addr(&address(name)).expect("a free name");
        listener.set_nonblocking(true).expect("a socket");
        let listener = UnixListener::from_std(listener).expect("a runtime");
        let (requests, connections) =
            (Arc::new(watch::Sender::default()), Arc::new(watch::Sender::default()));
        let origin = name.to_owned();
        let (seen, count) = (requests.clone(), connections.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.send_modify(|count| *count += 1);
                tokio::spawn(serve(stream, origin.clone(), preface, seen.clone()));
            }
        });
        Self { requests, connections, task }
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.borrow().clone()
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        *self.connections.borrow()
    }
}

impl Drop for UnixOrigin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: UnixStream,
    name: String,
    preface: &'static [u8],
    seen: Arc<watch::Sender<Vec<Request>>>,
) -> std::io::Result<()> {
    let mut begin = vec![0; preface.len()];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut begin).await?;
    assert_eq!(begin, preface);
    let mut reader = Reader::new(stream);
    loop {
        let request = reader.request().await?;
        seen.send_modify(|seen| seen.push(request));
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
        reader.stream().write_all(answer.as_bytes()).await?;
    }
}

/// A client of a proxy that listens on a Unix socket.
#[derive(Debug)]
pub struct UnixClient(Reader<UnixStream>);

impl UnixClient {
    /// Connects.
    pub fn connect(name: &str) -> std::io::Result<Self> {
        let stream = StdStream::connect_addr(&address(name))?;
        stream.set_nonblocking(true)?;
        Ok(Self(Reader::new(UnixStream::from_std(stream)?)))
    }

    /// Sends these bytes.
    pub async fn send(&mut self, bytes: &str) {
        within("sending", self.0.stream().write_all(bytes.as_bytes()))
            .await
            .expect("the proxy takes the bytes");
    }

    /// Sends a request without a body and with these fields, and reads the response.
    pub async fn ask(&mut self, target: &str, fields: &str) -> Response {
        self.send(&format!("GET {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n")).await;
        within("a response", self.0.response("GET")).await.expect("a response")
    }
}
