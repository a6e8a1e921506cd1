//! Clients for the front of the proxy.
//!
//! Owns [`Raw`], which sends exact bytes in exact pieces and reads exactly what comes back, and the making
//! of foreign clients (reqwest, hyper, programs of the host). A `Raw` panics when the proxy keeps it
//! waiting longer than [`PATIENCE`].

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    time::Duration,
};

use bytes::BytesMut;
use rustix::net::{SendFlags, send, sockopt::set_tcp_quickack};
use socket2::SockRef;
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::{
        TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::Command,
    time::timeout,
};

use crate::{
    PATIENCE,
    wire::{Fields, Framing, Head, Reader, Response},
    within,
};

/// A client made of bytes.
#[derive(Debug)]
pub struct Raw {
    reader: Reader<TcpStream>,
}

impl Raw {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = within("connect", TcpStream::connect(address)).await.expect("the proxy accepts");
        Self::over(stream)
    }

    /// Connects with a receive buffer of about `bytes`, so that what is not read stays with the proxy.
    pub async fn connect_with_window(address: SocketAddr, bytes: u32) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(bytes).expect("SO_RCVBUF");
        Self::over(within("connect", socket.connect(address)).await.expect("the proxy accepts"))
    }

    /// Connects so that little fits between the proxy and us, 35 to 110 KB: on loopback the kernel gives the proxy a send
    /// buffer of megabytes unless our segments are small, and lets it grow with what we read of our window at a time.
    pub async fn connect_narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(2048).expect("SO_RCVBUF");
        SockRef::from(&socket).set_tcp_mss(1400).expect("TCP_MAXSEG");
        Self::over(within("connect", socket.connect(address)).await.expect("the proxy accepts"))
    }

    /// Connects from another address of this host, such as 127.0.0.2.
    pub async fn connect_from(source: Ipv4Addr, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((source, 0).into()).expect("an address of this host");
        Self::over(within("connect", socket.connect(address)).await.expect("the proxy accepts"))
    }

    /// Takes over a connection.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Self { reader: Reader::new(stream) }
    }

    /// Our own address on the connection.
    pub fn local(&mut self) -> SocketAddr {
        self.reader.stream().local_addr().expect("connected")
    }

    /// Has the kernel acknowledge now what it has received, which it may put off otherwise.
    pub fn acknowledge(&mut self) {
        set_tcp_quickack(self.reader.stream(), true).expect("TCP_QUICKACK");
    }

    /// Sends these bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("the proxy takes the bytes");
    }

    /// Sends these bytes to a proxy that may have hung up.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        within("sending", self.reader.stream().write_all(bytes.as_ref())).await
    }

    /// Sends one byte as urgent data.
    pub async fn send_urgent(&mut self, byte: u8) {
        let stream = self.reader.stream();
        let sending = stream.async_io(Interest::WRITABLE, || Ok(send(&*stream, &[byte], SendFlags::OOB)?));
        within("sending", sending).await.expect("the proxy takes the byte");
    }

    /// Sends `bytes` in pieces of `size`, one every `pause`, to a proxy that may hang up. The pause keeps
    /// the pieces apart on the wire; nothing depends on its length.
    pub async fn drip(&mut self, bytes: impl AsRef<[u8]>, size: usize, pause: Duration) -> io::Result<()> {
        for piece in bytes.as_ref().chunks(size) {
            self.try_send(piece).await?;
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// Sends a bodyless request with `Host: test` and reads the answer; the connection stays open.
    pub async fn ask(&mut self, method: &str, target: &str) -> Response {
        self.send(format!("{method} {target} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        self.answer_to(method).await
    }

    /// Reads a final response to a `method` request; an error if it is cut, malformed or does not come.
    pub async fn response(&mut self, method: &str) -> io::Result<Response> {
        timeout(PATIENCE, self.reader.response(method)).await?
    }

    /// Reads a final response to a `method` request.
    pub async fn answer_to(&mut self, method: &str) -> Response {
        self.response(method).await.expect("a whole response")
    }

    /// Reads one head, interim or final.
    pub async fn head(&mut self) -> Head {
        within("a response head", self.reader.head()).await.expect("a response head")
    }

    /// Reads a body piece by piece; an error if it is cut.
    pub async fn body_to(&mut self, framing: Framing, take: impl FnMut(&[u8])) -> io::Result<Fields> {
        within("the body", self.reader.body_to(framing, take)).await
    }

    /// What is here by now, at least one byte; `None` at the end.
    pub async fn some(&mut self) -> io::Result<Option<BytesMut>> {
        within("some bytes", self.reader.some()).await
    }

    /// Waits for the proxy to close the connection, by FIN or RST; says what happened instead.
    pub async fn closed(&mut self) -> Result<(), String> {
        match timeout(PATIENCE, self.reader.some()).await {
            Ok(Ok(None)) => Ok(()),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
            Ok(Ok(Some(more))) => {
                Err(format!("bytes instead of the end: {:?}", String::from_utf8_lossy(&more)))
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("still open after {PATIENCE:?}")),
        }
    }

    /// Asserts that the proxy closes the connection without another byte.
    pub async fn assert_closed(&mut self) {
        self.closed().await.expect("the end of the connection");
    }

    /// Asserts that the connection still works, by a request on it.
    pub async fn assert_open(&mut self) {
        let response = self.ask("GET", "/still-open").await;
        assert!(response.status() < 500, "{:?}", response.head);
    }

    /// Says that nothing more will be sent (FIN), and goes on reading.
    pub async fn half_close(&mut self) {
        self.reader.stream().shutdown().await.expect("shutdown");
    }

    /// The same to a proxy that may have hung up.
    pub async fn half_close_if_open(&mut self) {
        let _ = self.reader.stream().shutdown().await;
    }

    /// Reads whatever comes until the end, clean or not.
    pub async fn read_to_end(&mut self) {
        while let Ok(Some(_)) = self.reader.some().await {}
    }

    /// Throws the connection away with a RST.
    pub fn reset(mut self) {
        self.reader.stream().set_zero_linger().expect("SO_LINGER");
    }

    /// Reading and writing at the same time.
    pub fn split(self) -> (Reader<OwnedReadHalf>, OwnedWriteHalf) {
        let (stream, ahead) = self.reader.into_parts();
        let (read, write) = stream.into_split();
        (Reader::resume(read, ahead), write)
    }
}

/// One GET with `Host: test` on a connection of its own.
pub async fn get(address: SocketAddr, target: &str) -> Response {
    Raw::connect(address).await.ask("GET", target).await
}

/// Sends `request` on a connection of its own and reads the answer, which the proxy must give.
pub async fn exchange(address: SocketAddr, request: impl AsRef<[u8]>) -> Response {
    let mut client = Raw::connect(address).await;
    let method = String::from_utf8_lossy(request.as_ref()).split(' ').next().unwrap_or_default().to_owned();
    client.send(request).await;
    client.answer_to(&method).await
}

/// A reqwest client that knows no other proxy and waits no longer than the tests do.
pub fn reqwest() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a plain client")
}

/// Runs a program of the host and gives back what it printed; `None`, with a notice, where it is missing.
pub async fn program(name: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(name);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    // What the host says about proxies is not meant for the tests.
    for variable in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(variable);
    }
    let output = match within(name, command.output()).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            crate::skip(&format!("{name} is not installed"));
            return None;
        }
        output => output.expect("the program starts"),
    };
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{name}: {}\n{printed}", String::from_utf8_lossy(&output.stderr));
    Some(printed)
}
