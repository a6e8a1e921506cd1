//! A tiny reader of HTTP/1.1 messages.
//!
//! Owns the reading of one message after the other from a byte stream, for the raw client (responses)
//! and the scripted origins (requests). It keeps names and values as they came, follows RFC 9112
//! section 6.3 for the end of a body, and reports a body that was cut as an error, never as shorter.

use std::io::{self, ErrorKind};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::origin::Track;

/// The largest head a peer of the tests sends or expects.
const HEAD_BYTES_MAX: usize = 1 << 20;

/// Field lines in the order in which they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(pub Vec<(String, String)>);

impl Fields {
    /// The value of the first field line of this name.
    pub fn first(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// The values of all field lines of this name.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// Whether the comma-separated list of this name has `element`, compared without case.
    pub fn lists(&self, name: &str, element: &str) -> bool {
        self.all(name)
            .flat_map(|value| value.split(','))
            .any(|found| found.trim().eq_ignore_ascii_case(element))
    }

    fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> io::Result<Self> {
        lines
            .map(|line| match line.split_once(':') {
                Some((name, value)) => Ok((name.to_owned(), value.trim().to_owned())),
                None => Err(invalid(format!("field line without a colon: {line:?}"))),
            })
            .collect::<io::Result<_>>()
            .map(Self)
    }
}

/// Start line and fields of a request or a response.
#[derive(Debug, Clone)]
pub struct Head {
    /// The first line without its line end.
    pub start: String,
    /// The field lines.
    pub fields: Fields,
}

impl Head {
    fn parse(bytes: &[u8]) -> io::Result<Self> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        Ok(Self { start, fields: Fields::parse(lines.take_while(|line| !line.is_empty()))? })
    }

    /// The status code of a response.
    pub fn status(&self) -> io::Result<u16> {
        let code = self.start.split(' ').nth(1).and_then(|code| code.parse().ok());
        code.filter(|_| self.start.starts_with("HTTP/1."))
            .ok_or_else(|| invalid(format!("not a status line: {:?}", self.start)))
    }

    /// The method of a request.
    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    /// The target of a request.
    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// Where the body of this response to a `method` request ends.
    pub fn response_framing(&self, method: &str) -> io::Result<Framing> {
        let status = self.status()?;
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Ok(Framing::Empty);
        }
        Ok(self.declared_framing()?.unwrap_or(Framing::UntilClose))
    }

    /// Where the body of this request ends.
    pub fn request_framing(&self) -> io::Result<Framing> {
        Ok(self.declared_framing()?.unwrap_or(Framing::Empty))
    }

    fn declared_framing(&self) -> io::Result<Option<Framing>> {
        let lengths: Vec<_> = self.fields.all("content-length").collect();
        match (self.fields.lists("transfer-encoding", "chunked"), &*lengths) {
            (true, []) => Ok(Some(Framing::Chunked)),
            (false, []) => Ok(None),
            (false, [length]) => match length.parse() {
                Ok(length) => Ok(Some(Framing::Length(length))),
                Err(_) => Err(invalid(format!("content-length {length:?}"))),
            },
            _ => Err(invalid(format!("two framings at once: {:?}", self.fields))),
        }
    }
}

/// Where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// After this many bytes.
    Length(u64),
    /// After the last chunk and the trailer section.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// A request as an origin reads it.
#[derive(Debug, Clone)]
pub struct Request {
    /// Request line and fields.
    pub head: Head,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// What followed the last chunk.
    pub trailers: Fields,
}

/// A response as a client reads it.
#[derive(Debug)]
pub struct Response {
    /// The 1xx heads that came first.
    pub interim: Vec<Head>,
    /// Status line and fields of the final answer.
    pub head: Head,
    /// How the body was delimited.
    pub framing: Framing,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// What followed the last chunk.
    pub trailers: Fields,
}

impl Response {
    /// The status code.
    pub fn status(&self) -> u16 {
        self.head.status().expect("checked when it was read")
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of the first field line of this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.fields.first(name)
    }
}

/// Reads messages from `stream`.
#[derive(Debug)]
pub struct Reader<S> {
    stream: S,
    buffer: BytesMut,
    track: Option<Track>,
}

impl<S: AsyncRead + Unpin> Reader<S> {
    /// A reader of what comes from `stream`.
    pub fn new(stream: S) -> Self {
        Self { stream, buffer: BytesMut::new(), track: None }
    }

    /// A reader that also writes every byte down as it arrives.
    pub(crate) fn recorded(stream: S, track: Track) -> Self {
        Self { stream, buffer: BytesMut::new(), track: Some(track) }
    }

    /// The stream, to write to it.
    pub fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// The stream and what was read ahead of it.
    pub fn into_parts(self) -> (S, BytesMut) {
        (self.stream, self.buffer)
    }

    /// A reader that starts with bytes which an earlier one read ahead.
    pub fn resume(stream: S, buffer: BytesMut) -> Self {
        Self { stream, buffer, track: None }
    }

    /// Receives once; `false` at the end of the stream.
    pub async fn fill(&mut self) -> io::Result<bool> {
        let before = self.buffer.len();
        if self.buffer.capacity() - before < 4096 {
            self.buffer.reserve(128 * 1024);
        }
        let received = self.stream.read_buf(&mut self.buffer).await;
        if let Some(track) = &self.track {
            track.received(&self.buffer[before..]);
            if !matches!(received, Ok(1..)) {
                track.ended();
            }
        }
        Ok(received? > 0)
    }

    /// Everything that is here by now, at least one byte; `None` at the end of the stream.
    pub async fn some(&mut self) -> io::Result<Option<BytesMut>> {
        if self.buffer.is_empty() && !self.fill().await? {
            return Ok(None);
        }
        Ok(Some(self.buffer.split()))
    }

    /// One head, of a request or a response.
    pub async fn head(&mut self) -> io::Result<Head> {
        let mut searched = 0;
        loop {
            if let Some(at) = find(&self.buffer[searched..], b"\r\n\r\n") {
                return Head::parse(&self.buffer.split_to(searched + at + 4));
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                return Err(invalid("head without an end".to_owned()));
            }
            searched = self.buffer.len().saturating_sub(3);
            self.need().await?;
        }
    }

    /// A final response to a `method` request, and the interim ones before it.
    pub async fn response(&mut self, method: &str) -> io::Result<Response> {
        let mut interim = Vec::new();
        let head = loop {
            let head = self.head().await?;
            match head.status()? {
                100 | 102..200 => interim.push(head),
                _ => break head,
            }
        };
        let framing = head.response_framing(method)?;
        let (body, trailers) = self.body(framing).await?;
        Ok(Response { interim, head, framing, body, trailers })
    }

    /// A request with its body.
    pub async fn request(&mut self) -> io::Result<Request> {
        let head = self.head().await?;
        let (body, trailers) = self.body(head.request_framing()?).await?;
        Ok(Request { head, body, trailers })
    }

    /// A body as a whole, with its trailers.
    pub async fn body(&mut self, framing: Framing) -> io::Result<(Vec<u8>, Fields)> {
        let mut body = Vec::new();
        let trailers = self.body_to(framing, |piece| body.extend_from_slice(piece)).await?;
        Ok((body, trailers))
    }

    /// A body piece by piece, as it arrives.
    pub async fn body_to(&mut self, framing: Framing, mut take: impl FnMut(&[u8])) -> io::Result<Fields> {
        match framing {
            Framing::Empty => {}
            Framing::Length(length) => self.exactly(length, &mut take).await?,
            Framing::Chunked => return self.chunks(&mut take).await,
            Framing::UntilClose => {
                while let Some(piece) = self.some().await? {
                    take(&piece);
                }
            }
        }
        Ok(Fields::default())
    }

    async fn exactly(&mut self, mut length: u64, take: &mut impl FnMut(&[u8])) -> io::Result<()> {
        while length > 0 {
            if self.buffer.is_empty() {
                self.need().await?;
            }
            let here = length.min(self.buffer.len() as u64) as usize;
            take(&self.buffer[..here]);
            self.buffer.advance(here);
            length -= here as u64;
        }
        Ok(())
    }

    async fn chunks(&mut self, take: &mut impl FnMut(&[u8])) -> io::Result<Fields> {
        loop {
            let line = self.line().await?;
            let size = line.split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size, 16).map_err(|_| invalid(format!("chunk size {line:?}")))?;
            if size == 0 {
                return self.trailers().await;
            }
            self.exactly(size, take).await?;
            let end = self.line().await?;
            if !end.is_empty() {
                return Err(invalid(format!("chunk longer than its size, by {end:?}")));
            }
        }
    }

    async fn trailers(&mut self) -> io::Result<Fields> {
        let mut lines = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Fields::parse(lines.iter().map(String::as_str));
            }
            lines.push(line);
        }
    }

    pub(crate) async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line = self.buffer.split_to(at + 2);
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            self.need().await?;
        }
    }

    /// Receives once where the message cannot end yet.
    async fn need(&mut self) -> io::Result<()> {
        if self.fill().await? { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn invalid(what: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8], method: &str) -> io::Result<Response> {
        Reader::new(bytes).response(method).await
    }

    #[tokio::test]
    async fn reads_interim_heads_chunks_and_trailers() {
        let wire = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
            HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n";
        let response = read(wire, "GET").await.unwrap();
        assert_eq!(response.interim[0].fields.first("link"), Some("</a>"));
        assert_eq!(response.text(), "abc");
        assert_eq!(response.trailers.first("x-sum"), Some("6"));
    }

    #[tokio::test]
    async fn a_cut_body_is_an_error() {
        let by_length = read(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", "GET").await;
        let by_chunks =
            read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "GET").await;
        assert_eq!(by_length.unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(by_chunks.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn heads_alone_end_a_message_without_a_body() {
        let wire = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(read(wire, "HEAD").await.unwrap().framing, Framing::Empty);
    }
}
