//! Requests as the origin sees them: heads, pieces of bodies, ends, in order, from any split of the bytes.

use std::mem::MaybeUninit;

use sluice_proto::upgrade;

use super::chunked::Chunked;
use super::{FIELDS_MAX, Framing, HEAD_BYTES_MAX, Malformed};

/// What the origin needs to know of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<T> {
    /// What the request is for, as the caller's `route` understands its target.
    pub target: T,
    /// The method is HEAD.
    pub is_head: bool,
    /// The client may send another request on this connection.
    pub keeps_alive: bool,
    /// The client waits for `100 Continue`.
    pub expects_continue: bool,
    /// How the end of its body is marked.
    pub body: Body,
    /// It offers WebSocket, and this is the Sec-WebSocket-Accept that takes the offer up.
    pub websocket: Option<[u8; 28]>,
}

/// How the end of a request's body is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// By its length; 0 when there is none.
    Length(u64),
    /// By its chunks.
    Chunked,
}

/// What was found next in the bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a, T> {
    /// Nothing more without more bytes.
    NeedMore,
    /// A request begins.
    Head(Head<T>),
    /// A piece of its body.
    Body(&'a [u8]),
    /// It is complete.
    End,
}

#[derive(Debug)]
enum State {
    Head,
    Length(u64),
    Chunked(Chunked),
}

/// Reads the requests of one connection.
#[derive(Debug)]
pub struct RequestReader {
    state: State,
    /// The beginning of a head that came in pieces.
    carry: Vec<u8>,
}

impl Default for RequestReader {
    fn default() -> RequestReader {
        RequestReader { state: State::Head, carry: Vec::new() }
    }
}

impl RequestReader {
    /// Forgets what it was in the midst of: for the next connection.
    pub fn reset(&mut self) {
        self.state = State::Head;
        self.carry.clear();
    }

    /// Whether the next byte would begin a request.
    pub fn is_between_requests(&self) -> bool {
        matches!(self.state, State::Head) && self.carry.is_empty()
    }

    /// Takes bytes up to the next event; returns how many.
    ///
    /// # Errors
    /// [`Malformed`] when the bytes are no HTTP/1.x request; nothing after them can be understood.
    pub fn read<'a, T>(
        &mut self,
        bytes: &'a [u8],
        route: impl Fn(&[u8]) -> T,
    ) -> Result<(usize, Event<'a, T>), Malformed> {
        match &mut self.state {
            State::Head => self.read_head(bytes, route),
            State::Length(0) => {
                self.state = State::Head;
                Ok((0, Event::End))
            }
            State::Length(left) => {
                let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                let event = if taken == 0 { Event::NeedMore } else { Event::Body(&bytes[..taken]) };
                Ok((taken, event))
            }
            State::Chunked(chunked) if chunked.is_done() => {
                self.state = State::Head;
                Ok((0, Event::End))
            }
            State::Chunked(chunked) => read_chunk(chunked, bytes),
        }
    }

    fn read_head<'a, T>(
        &mut self,
        bytes: &'a [u8],
        route: impl Fn(&[u8]) -> T,
    ) -> Result<(usize, Event<'a, T>), Malformed> {
        if bytes.is_empty() {
            return Ok((0, Event::NeedMore));
        }
        let carried = self.carry.len();
        let input = if carried == 0 {
            bytes
        } else {
            self.carry.extend_from_slice(bytes);
            &self.carry[..]
        };
        match parse(input, route)? {
            Some((length, head, state)) => {
                self.carry.clear();
                self.state = state;
                Ok((length - carried, Event::Head(head)))
            }
            None if input.len() > HEAD_BYTES_MAX => Err(Malformed),
            None => {
                if carried == 0 {
                    self.carry.extend_from_slice(bytes);
                }
                Ok((bytes.len(), Event::NeedMore))
            }
        }
    }
}

/// The next piece of data of a chunked body.
fn read_chunk<'a, T>(chunked: &mut Chunked, bytes: &'a [u8]) -> Result<(usize, Event<'a, T>), Malformed> {
    let (taken, data) = chunked.next(bytes)?;
    // At the end of the body this piece is empty; the next read tells the end.
    let is_starved = data.is_empty() && !chunked.is_done();
    Ok((taken, if is_starved { Event::NeedMore } else { Event::Body(data) }))
}

type Parsed<T> = Option<(usize, Head<T>, State)>;

fn parse<T>(bytes: &[u8], route: impl Fn(&[u8]) -> T) -> Result<Parsed<T>, Malformed> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Malformed),
    };
    let framing = Framing::of(request.headers)?;
    let (body, state) = if framing.is_chunked {
        (Body::Chunked, State::Chunked(Chunked::default()))
    } else {
        let length = framing.content_length.unwrap_or(0);
        (Body::Length(length), State::Length(length))
    };
    let head = Head {
        target: route(request.path.unwrap_or_default().as_bytes()),
        is_head: request.method == Some("HEAD"),
        keeps_alive: framing.keeps_alive(request.version),
        expects_continue: framing.expects_continue,
        body,
        websocket: if framing.offers_websocket { accept(request.headers) } else { None },
    };
    Ok(Some((length, head, state)))
}

/// What answers the key of a WebSocket client, if there is one.
fn accept(fields: &[httparse::Header<'_>]) -> Option<[u8; 28]> {
    let key = fields.iter().find(|field| field.name.eq_ignore_ascii_case("sec-websocket-key"))?;
    Some(upgrade::accept_of(key.value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(parts: &[&[u8]]) -> Result<String, Malformed> {
        let mut reader = RequestReader::default();
        let mut log = String::new();
        for part in parts {
            let mut rest = *part;
            loop {
                let (used, event) = reader.read(rest, <[u8]>::to_vec)?;
                rest = &rest[used..];
                match event {
                    Event::NeedMore => break,
                    Event::Head(head) => {
                        log += &format!("<{} {}", String::from_utf8_lossy(&head.target), head.keeps_alive);
                    }
                    Event::Body(data) => log += &String::from_utf8_lossy(data),
                    Event::End => log += ">",
                }
            }
            assert!(rest.is_empty());
        }
        Ok(log)
    }

    const WIRE: &[u8] = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nPOST /b HTTP/1.1\r\nContent-Length: 3\r\n\r\nxyz\
        PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nhi\r\n0\r\n\r\n";

    #[test]
    fn any_split_gives_the_same_events() {
        for at in 0..=WIRE.len() {
            let log = events(&[&WIRE[..at], &WIRE[at..]]).expect("well formed");
            assert_eq!(log, "</a true></b truexyz></c falsehi>");
        }
        let bytes: Vec<&[u8]> = WIRE.chunks(1).collect();
        assert_eq!(events(&bytes).expect("well formed"), "</a true></b truexyz></c falsehi>");
    }

    #[test]
    fn refuses_garbage_and_endless_heads() {
        assert_eq!(events(&[b"\x16\x03\x01 hello"]), Err(Malformed));
        let endless = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &vec![b'a'; HEAD_BYTES_MAX]].concat();
        assert_eq!(events(&[&endless]), Err(Malformed));
    }

    #[test]
    fn http_1_0_closes_unless_it_says_otherwise() {
        assert_eq!(events(&[b"GET / HTTP/1.0\r\n\r\n"]).as_deref(), Ok("</ false>"));
        assert_eq!(events(&[b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"]).as_deref(), Ok("</ true>"));
    }
}
