//! An HTTP/2 connection from either side.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, BytesMut};
use loona_hpack::Decoder;
use rustls::{ClientConfig, pki_types::ServerName};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::TlsConnector;

use super::frames::{self, Frame, PREFACE, code, flag, kind, setting};
use crate::{tls, wire::Fields, within};

/// What a connection may run over.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// How the other side ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With END_STREAM.
    Properly,
    /// With RST_STREAM and this code; what came before is in the answer.
    Reset(u32),
}

/// What has come on a stream.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The heads before the final one.
    pub interim: Vec<Fields>,
    /// The head of the answer, or of the request.
    pub head: Option<Fields>,
    /// The body so far.
    pub body: Vec<u8>,
    /// The fields behind the body.
    pub trailers: Option<Fields>,
    /// How it ended; `None` as long as more may come.
    pub ended: Option<Ended>,
    /// Whether END_STREAM has come, which a reset may follow.
    pub is_complete: bool,
}

impl Answer {
    /// The status of the final head, 0 without one.
    pub fn status(&self) -> u16 {
        self.head.as_ref().map_or(0, status)
    }

    /// A field of the head.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.as_ref()?.first(name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn status(fields: &Fields) -> u16 {
    fields.first(":status").and_then(|status| status.parse().ok()).unwrap_or_default()
}

/// A connection, and all that has come on it.
pub struct Http2 {
    read: ReadHalf<Box<dyn Io>>,
    write: WriteHalf<Box<dyn Io>>,
    /// The socket once more, for its options.
    socket: Option<OwnedFd>,
    buffer: BytesMut,
    decoder: Decoder<'static>,
    /// A block that goes on: its stream, the flags of its HEADERS, and its bytes so far.
    block: Option<(u32, u8, Vec<u8>)>,
    next_stream: u32,
    /// Whether the windows are opened again by what has come. True unless a test says otherwise.
    pub gives_credit: bool,
    /// By stream.
    pub streams: BTreeMap<u32, Answer>,
    /// The other side's settings.
    pub settings: BTreeMap<u16, u32>,
    /// How often ours were acknowledged.
    pub settings_acks: usize,
    /// Whether PING is answered at once. True unless a test says otherwise: then by [`Http2::answer_pings`].
    pub answers_pings: bool,
    /// PINGs that were not answered.
    pub pings: Vec<Vec<u8>>,
    /// The answers to PING.
    pub pongs: Vec<Vec<u8>>,
    /// The other side's GOAWAYs: last stream and code.
    pub go_aways: Vec<(u32, u32)>,
    /// How many frames of each type have come.
    pub frames: BTreeMap<u8, usize>,
    /// The sum of the WINDOW_UPDATEs for each stream, and the connection.
    pub credit: BTreeMap<u32, u64>,
    /// How much data was sent by [`Http2::upload`], in the same way.
    sent: BTreeMap<u32, u64>,
}

impl std::fmt::Debug for Http2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let brief = |answer: &Answer| {
            (
                answer.status(),
                answer.body.len(),
                answer.ended,
                answer.interim.len(),
                answer.trailers.is_some(),
            )
        };
        let streams: BTreeMap<_, _> = self.streams.iter().map(|(id, answer)| (id, brief(answer))).collect();
        f.debug_struct("Http2")
            .field("streams (status, bytes, end, interim, trailers)", &streams)
            .field("go_aways", &self.go_aways)
            .field("frames by type", &self.frames)
            .finish_non_exhaustive()
    }
}

impl Http2 {
    /// Connects in clear text and sends the preface with these settings.
    pub async fn connect_with(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut connection = Self::connect_silently(address).await;
        connection.send([PREFACE, &frames::settings(settings)].concat()).await;
        connection
    }

    /// Connects in clear text, with the defaults.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::connect_with(address, &[]).await
    }

    /// Connects and sends nothing.
    pub async fn connect_silently(address: SocketAddr) -> Self {
        Self::over(within("connect", TcpStream::connect(address)).await.expect("the proxy accepts"))
    }

    /// Connects with a receive buffer of about `bytes`, so that what is not read stays with the proxy.
    pub async fn connect_with_window(address: SocketAddr, bytes: u32, settings: &[(u16, u32)]) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(bytes).expect("SO_RCVBUF");
        let mut connection =
            Self::over(within("connect", socket.connect(address)).await.expect("it accepts"));
        connection.send([PREFACE, &frames::settings(settings)].concat()).await;
        connection
    }

    /// Connects over TLS; ALPN must choose HTTP/2.
    pub async fn connect_tls(address: SocketAddr, config: &ClientConfig) -> Self {
        let stream = within("connect", TcpStream::connect(address)).await.expect("the proxy accepts");
        let config = tls::offering(config, &["h2"]);
        let name = ServerName::try_from(tls::NAME).expect("a name");
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
        let stream = within("a handshake", connecting).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "what ALPN chose");
        let mut connection = Self::wrap(Box::new(stream));
        connection.send([PREFACE, &frames::settings(&[])].concat()).await;
        connection
    }

    /// Takes over a connection, and sends nothing.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let socket = stream.as_fd().try_clone_to_owned().expect("a descriptor");
        Self { socket: Some(socket), ..Self::wrap(Box::new(stream)) }
    }

    /// The server's side of a connection: reads the preface, sends these settings.
    pub async fn accept(stream: TcpStream, settings: &[(u16, u32)]) -> io::Result<Self> {
        let mut connection = Self::over(stream);
        while connection.buffer.len() < PREFACE.len() {
            if connection.read.read_buf(&mut connection.buffer).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        if !connection.buffer.starts_with(PREFACE) {
            return Err(io::Error::new(ErrorKind::InvalidData, "no preface"));
        }
        connection.buffer.advance(PREFACE.len());
        connection.try_send(frames::settings(settings)).await?;
        Ok(connection)
    }

    fn wrap(stream: Box<dyn Io>) -> Self {
        let (read, write) = tokio::io::split(stream);
        Self {
            read,
            write,
            socket: None,
            buffer: BytesMut::new(),
            decoder: Decoder::new(),
            block: None,
            next_stream: 1,
            gives_credit: true,
            streams: BTreeMap::new(),
            settings: BTreeMap::new(),
            settings_acks: 0,
            answers_pings: true,
            pings: Vec::new(),
            pongs: Vec::new(),
            go_aways: Vec::new(),
            frames: BTreeMap::new(),
            credit: BTreeMap::new(),
            sent: BTreeMap::new(),
        }
    }

    /// Sends these bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("the proxy takes the bytes");
    }

    /// Sends these bytes to a peer that may have hung up.
    ///
    /// # Errors
    /// When it has.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        within("sending", async {
            self.write.write_all(bytes.as_ref()).await?;
            self.write.flush().await
        })
        .await
    }

    /// Sends `bytes` as long as they are taken, and looks at what comes meanwhile; false when the connection has ended.
    pub async fn push(&mut self, bytes: &[u8]) -> bool {
        let mut left = bytes;
        while !left.is_empty() {
            let Self { read, write, buffer, .. } = self;
            tokio::select! {
                biased;
                sent = write.write(left) => match sent {
                    Ok(count @ 1..) => left = &left[count..],
                    _ => return false,
                },
                count = read.read_buf(buffer) => match count {
                    Ok(1..) => {}
                    _ => return false,
                },
            }
            if self.take_parsed().await.is_err() {
                return false;
            }
        }
        true
    }

    /// Looks at what is here by now, without waiting; false when the connection has ended.
    pub async fn glance(&mut self) -> bool {
        let mut is_open = true;
        loop {
            let Self { read, buffer, .. } = self;
            tokio::select! {
                biased;
                count = read.read_buf(buffer) => if !matches!(count, Ok(1..)) {
                    is_open = false;
                    break;
                },
                () = tokio::task::yield_now() => break,
            }
        }
        let parsed = self.take_parsed().await;
        is_open && parsed.is_ok()
    }

    /// A stream number that was not used yet.
    pub fn next_stream(&mut self) -> u32 {
        self.next_stream += 2;
        self.next_stream - 2
    }

    /// Sends a request without a body.
    pub async fn ask(&mut self, method: &str, path: &str, fields: &[(&str, &str)]) -> u32 {
        let stream = self.next_stream();
        let block = frames::block(&frames::request(method, path, fields));
        self.send(frames::headers_in_pieces(stream, flag::END_STREAM, &block)).await;
        stream
    }

    /// Sends the head of a request that has a body.
    pub async fn open(&mut self, method: &str, path: &str, fields: &[(&str, &str)]) -> u32 {
        let stream = self.next_stream();
        let block = frames::block(&frames::request(method, path, fields));
        self.send(frames::headers_in_pieces(stream, 0, &block)).await;
        stream
    }

    /// Sends a GET and waits for the end of its answer.
    pub async fn get(&mut self, path: &str) -> Answer {
        let stream = self.ask("GET", path, &[]).await;
        self.answer(stream).await
    }

    /// Waits until the stream has ended, and gives back what came on it.
    pub async fn answer(&mut self, stream: u32) -> Answer {
        self.until("the end of a stream", |all| all.stream(stream).is_some_and(|one| one.ended.is_some()))
            .await;
        self.streams[&stream].clone()
    }

    /// Waits until the stream was reset, and gives back the code.
    pub async fn reset_code(&mut self, stream: u32) -> u32 {
        match self.answer(stream).await.ended {
            Some(Ended::Reset(code)) => code,
            _ => panic!("stream {stream} ended without a reset: {self:?}"),
        }
    }

    /// What has come on a stream.
    pub fn stream(&self, stream: u32) -> Option<&Answer> {
        self.streams.get(&stream)
    }

    /// Waits until all that has come satisfies `condition`.
    pub async fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        while !condition(self) {
            match self.step(what).await {
                Ok(true) => {}
                end => panic!("the connection ended ({end:?}), waiting for {what}: {self:?}"),
            }
        }
    }

    /// Waits until all that has come satisfies `condition`, or the connection has ended; true if it does.
    pub async fn until_or_end(&mut self, what: &str, condition: impl Fn(&Self) -> bool) -> bool {
        while !condition(self) {
            if !matches!(self.step(what).await, Ok(true)) {
                return false;
            }
        }
        true
    }

    /// The same for scripts.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn wait(&mut self, condition: impl Fn(&Self) -> bool) -> io::Result<()> {
        while !condition(self) {
            if !self.more().await? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Waits for the other side to end the connection, by FIN or RST, and gives back the code of its last GOAWAY.
    pub async fn closed(&mut self) -> Option<u32> {
        while matches!(self.step("the end of the connection").await, Ok(true)) {}
        self.go_aways.last().map(|(_, code)| *code)
    }

    /// Asserts that the connection still works, by a PING.
    pub async fn assert_open(&mut self) {
        let before = self.pongs.len();
        self.send(frames::ping(*b"are you?")).await;
        self.until("the answer to a PING", |all| all.pongs.len() > before).await;
    }

    async fn step(&mut self, what: &str) -> io::Result<bool> {
        within(what, self.more()).await
    }

    /// Reads more and handles what is complete; false at the end.
    ///
    /// # Errors
    /// When the connection is reset.
    pub async fn more(&mut self) -> io::Result<bool> {
        if self.read.read_buf(&mut self.buffer).await? == 0 {
            return Ok(false);
        }
        self.take_parsed().await?;
        Ok(true)
    }

    async fn take_parsed(&mut self) -> io::Result<()> {
        while let Some((frame, length)) = Frame::parse(&self.buffer) {
            self.buffer.advance(length);
            self.handle(frame).await?;
        }
        Ok(())
    }

    async fn handle(&mut self, frame: Frame) -> io::Result<()> {
        *self.frames.entry(frame.kind).or_default() += 1;
        match frame.kind {
            kind::SETTINGS if frame.has(flag::ACK) => self.settings_acks += 1,
            kind::SETTINGS => {
                self.settings.extend(frame.settings());
                if self.gives_credit {
                    self.try_send(frames::settings_ack()).await?;
                }
            }
            kind::PING if frame.has(flag::ACK) => self.pongs.push(frame.payload),
            kind::PING if !self.answers_pings => self.pings.push(frame.payload),
            kind::PING => self.try_send(frames::frame(kind::PING, flag::ACK, 0, frame.payload)).await?,
            kind::GOAWAY => self.go_aways.push((frame.number_at(0), frame.number_at(4))),
            kind::WINDOW_UPDATE => {
                *self.credit.entry(frame.stream).or_default() += u64::from(frame.number_at(0));
            }
            kind::RST_STREAM => {
                let ended = Some(Ended::Reset(frame.number_at(0)));
                self.streams.entry(frame.stream).or_default().ended = ended;
            }
            kind::DATA => self.data(&frame).await?,
            kind::HEADERS => {
                self.block = Some((frame.stream, frame.flags, frame.content().to_vec()));
                self.fields(frame.has(flag::END_HEADERS))?;
            }
            kind::CONTINUATION => {
                let Some((stream, _, block)) = &mut self.block else { panic!("CONTINUATION of nothing") };
                assert_eq!(*stream, frame.stream, "CONTINUATION of another stream");
                block.extend_from_slice(&frame.payload);
                self.fields(frame.has(flag::END_HEADERS))?;
            }
            _ => {}
        }
        Ok(())
    }

    async fn data(&mut self, frame: &Frame) -> io::Result<()> {
        let answer = self.streams.entry(frame.stream).or_default();
        answer.body.extend_from_slice(frame.content());
        let is_end = frame.has(flag::END_STREAM);
        if is_end {
            answer.end();
        }
        let length = frame.payload.len() as u32;
        if self.gives_credit && length > 0 {
            let mut credit = frames::window_update(0, length);
            if !is_end {
                credit.extend(frames::window_update(frame.stream, length));
            }
            self.try_send(credit).await?;
        }
        Ok(())
    }

    /// Decodes a block that is complete.
    fn fields(&mut self, is_complete: bool) -> io::Result<()> {
        let Some((stream, flags, block)) = self.block.take_if(|_| is_complete) else { return Ok(()) };
        let fields = self.decoder.decode(&block);
        let fields = fields.map_err(|error| io::Error::other(format!("field block: {error:?}")))?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let fields = Fields(fields.into_iter().map(|(name, value)| (text(name), text(value))).collect());
        let answer = self.streams.entry(stream).or_default();
        if answer.head.is_some() {
            answer.trailers = Some(fields);
        } else if (100..200).contains(&status(&fields)) {
            answer.interim.push(fields);
        } else {
            answer.head = Some(fields);
        }
        if flags & flag::END_STREAM != 0 {
            answer.end();
        }
        Ok(())
    }

    /// Sends a body as the other side's windows allow, waiting for more of them, and ends the stream. All other data on the
    /// connection must have been sent by this too.
    ///
    /// # Errors
    /// When the other side resets the stream or hangs up first.
    pub async fn upload(&mut self, stream: u32, body: &[u8]) -> io::Result<()> {
        self.upload_part(stream, body).await?;
        self.try_send(frames::data(stream, flag::END_STREAM, [])).await
    }

    /// The same without the end.
    ///
    /// # Errors
    /// The same.
    pub async fn upload_part(&mut self, stream: u32, body: &[u8]) -> io::Result<()> {
        const FRAME: usize = 16_384;
        let mut left = body;
        while !left.is_empty() {
            let count = self.window(stream).min(FRAME).min(left.len());
            let (now, later) = left.split_at(count);
            if count == 0 {
                if !self.step("a window").await? {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
            } else {
                self.try_send(frames::data(stream, 0, now)).await?;
                for id in [0, stream] {
                    *self.sent.entry(id).or_default() += count as u64;
                }
                left = later;
            }
            if let Some(Ended::Reset(code)) = self.stream(stream).and_then(|answer| answer.ended) {
                return Err(io::Error::other(format!("reset with {code}, {} bytes left", left.len())));
            }
        }
        Ok(())
    }

    /// Answers the PINGs that have come.
    pub async fn answer_pings(&mut self) {
        for data in std::mem::take(&mut self.pings) {
            self.send(frames::frame(kind::PING, flag::ACK, 0, data)).await;
        }
    }

    /// How many bytes the other side's windows let through now.
    pub fn window(&self, stream: u32) -> usize {
        let initial = self.settings.get(&setting::INITIAL_WINDOW_SIZE).copied().unwrap_or(65_535);
        let open = |id: u32, initial: u32| {
            let all = u64::from(initial) + self.credit.get(&id).copied().unwrap_or(0);
            all.saturating_sub(self.sent.get(&id).copied().unwrap_or(0))
        };
        open(0, 65_535).min(open(stream, initial)) as usize
    }

    /// Throws a connection in clear text away with a RST.
    pub fn reset_connection(mut self) {
        let socket = self.socket.take().expect("in clear text");
        SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }

    /// Ends our side of the connection (FIN), after GOAWAY.
    pub async fn leave(mut self) {
        self.send(frames::go_away(0, code::NO_ERROR)).await;
        let _ = self.write.shutdown().await;
    }
}

impl Answer {
    fn end(&mut self) {
        self.is_complete = true;
        self.ended.get_or_insert(Ended::Properly);
    }
}
