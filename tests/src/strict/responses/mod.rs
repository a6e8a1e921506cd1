//! What servers answer, by topic.

mod bodies;
mod connection;
mod fields;
mod framing;
mod interim;
mod splitting;
mod status_line;
mod tunnels;

/// An answer, and what has to become of it.
#[derive(Debug, Clone)]
pub struct ResponseCase {
    /// What it is.
    pub name: &'static str,
    /// As in [`RequestCase`](super::RequestCase).
    pub section: &'static str,
    /// The request it answers.
    pub request: Ask,
    /// What the server sends.
    pub bytes: Vec<u8>,
    /// What the server does then.
    pub then: Then,
    /// What has to become of it.
    pub outcome: Outcome,
}

/// The request that is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// GET in HTTP/1.1.
    Get,
    /// HEAD in HTTP/1.1.
    Head,
    /// GET in HTTP/1.0 with `Connection: keep-alive`.
    Old,
    /// GET with a body.
    GetWithBody,
    /// GET with an offer of WebSocket.
    Offer,
}

impl Ask {
    /// The bytes of the request.
    pub fn bytes(self) -> &'static str {
        match self {
            Ask::Get => "GET /case HTTP/1.1\r\nHost: a\r\n\r\n",
            Ask::Head => "HEAD /case HTTP/1.1\r\nHost: a\r\n\r\n",
            Ask::Old => "GET /case HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
            Ask::Offer => {
                "GET /case HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            }
            Ask::GetWithBody => "GET /case HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        }
    }

    /// The method alone.
    pub fn method(self) -> &'static str {
        if self == Ask::Head { "HEAD" } else { "GET" }
    }
}

/// What a server does after its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It waits for the next request.
    Stays,
    /// It closes in good order.
    Closes,
    /// It resets the connection, after the client has the beginning.
    Resets,
    /// It says this a moment later.
    Says(&'static str),
}

/// What the client gets, and whether the server's connection is used again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// 502 by the proxy; the client's connection goes on, the server's does not.
    BadGateway,
    /// This, word for word but for Date; both connections go on.
    Passed(String),
    /// This; the client's connection goes on, the server's does not.
    Once(String),
    /// This; neither goes on.
    Last(String),
    /// This; the server's connection goes on, the client's does not.
    Leaves(String),
    /// A beginning whose end is missing by its own framing, or a reset; neither goes on.
    Aborted,
}

fn response(
    name: &'static str,
    section: &'static str,
    request: Ask,
    bytes: impl AsRef<[u8]>,
    outcome: Outcome,
) -> ResponseCase {
    let bytes = bytes.as_ref().to_vec();
    ResponseCase { name, section, request, bytes, then: Then::Stays, outcome }
}

fn bad(name: &'static str, section: &'static str, bytes: impl AsRef<[u8]>) -> ResponseCase {
    response(name, section, Ask::Get, bytes, Outcome::BadGateway)
}

fn passed(name: &'static str, section: &'static str, bytes: impl AsRef<[u8]>, seen: &str) -> ResponseCase {
    response(name, section, Ask::Get, bytes, Outcome::Passed(seen.to_owned()))
}

fn once(name: &'static str, section: &'static str, bytes: impl AsRef<[u8]>, seen: &str) -> ResponseCase {
    response(name, section, Ask::Get, bytes, Outcome::Once(seen.to_owned()))
}

fn aborted(name: &'static str, section: &'static str, bytes: impl AsRef<[u8]>) -> ResponseCase {
    response(name, section, Ask::Get, bytes, Outcome::Aborted)
}

impl ResponseCase {
    fn asked(mut self, request: Ask) -> Self {
        self.request = request;
        self
    }

    fn then(mut self, then: Then) -> Self {
        self.then = then;
        self
    }
}

/// `200 OK` with these field lines, and what follows the head.
macro_rules! ok {
    ($fields:literal, $body:literal) => {
        concat!("HTTP/1.1 200 OK\r\n", $fields, "\r\n", $body)
    };
}
use ok;

/// All cases, with the topic of each group.
pub fn all() -> impl Iterator<Item = (&'static str, Vec<ResponseCase>)> {
    [
        ("status line", status_line::cases()),
        ("fields", fields::cases()),
        ("framing", framing::cases()),
        ("bodies", bodies::cases()),
        ("interim answers", interim::cases()),
        ("connection", connection::cases()),
        ("response splitting", splitting::cases()),
        ("tunnels", tunnels::cases()),
    ]
    .into_iter()
}
