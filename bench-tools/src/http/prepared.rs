//! A request that is sent again and again: its bytes as HTTP/1.1 has them, and where its parts are in them. Or one that is sent once
//! and opens the way for a message that is sent again and again.

use std::ops::Range;

use clap::ValueEnum;
use sluice_proto::h1::RequestParts;

use crate::messages::{Framing, Message};

/// A request ready to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub(crate) wire: Vec<u8>,
    pub(crate) is_head: bool,
    method_end: usize,
    target_end: usize,
    authority: Range<usize>,
    head_end: usize,
    /// What follows its head again and again, if it has one; it is the body.
    pub(crate) message: Option<Message>,
}

/// An offer of WebSocket, but for the last line, which [`Prepared::parts`] looks for. The server has to answer this key, and it may be
/// the same each time: it only shows that the server has read the request.
const WEBSOCKET: [&str; 4] = [
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Connection: Upgrade",
    "Upgrade: websocket",
];

const GRPC: [&str; 2] = ["Content-Type: application/grpc", "TE: trailers"];

/// The end of the offer, as the end of a head.
const OFFER: &[u8] = b"websocket\r\n";

/// Between the target and the authority.
const BEFORE_AUTHORITY: &str = " HTTP/1.1\r\nHost: ";

impl Prepared {
    /// A request with these fields behind its Host. `body_bytes` of a body follow, with their length.
    pub(crate) fn new(
        method: &str,
        path: &str,
        authority: &str,
        fields: &[&str],
        body_bytes: u64,
    ) -> Prepared {
        let mut wire = format!("{method} {path}{BEFORE_AUTHORITY}{authority}\r\n");
        for field in fields {
            wire += field;
            wire += "\r\n";
        }
        if body_bytes > 0 {
            wire += &format!("Content-Length: {body_bytes}\r\n");
        }
        wire += "\r\n";
        let head_end = wire.len();
        let mut wire = wire.into_bytes();
        wire.extend((0..body_bytes).map(|at| b'a' + (at % 26) as u8));
        let target_end = method.len() + 1 + path.len();
        let authority_start = target_end + BEFORE_AUTHORITY.len();
        Prepared {
            wire,
            is_head: method == "HEAD",
            method_end: method.len(),
            target_end,
            authority: authority_start..authority_start + authority.len(),
            head_end,
            message: None,
        }
    }

    /// A request that opens a way for messages, and a message of so many bytes.
    pub(crate) fn opening(
        framing: Framing,
        path: &str,
        authority: &str,
        fields: &[&str],
        message_bytes: u64,
    ) -> Prepared {
        let (method, own) = match framing {
            Framing::WebSocket => ("GET", &WEBSOCKET[..]),
            Framing::Grpc => ("POST", &GRPC[..]),
        };
        let message = Message::new(framing, message_bytes);
        let mut request = Prepared::new(method, path, authority, &[fields, own].concat(), 0);
        message.write(&mut request.wire);
        request.message = Some(message);
        request
    }

    /// What is sent again and again.
    pub(crate) fn repeated(&self) -> &[u8] {
        if self.message.is_some() { self.body() } else { &self.wire }
    }

    /// The head as HTTP/1.1 has it.
    pub(crate) fn head(&self) -> &[u8] {
        &self.wire[..self.head_end]
    }

    /// The key that a WebSocket server answers.
    pub(crate) fn websocket_key() -> &'static [u8] {
        let (_, key) = WEBSOCKET[1].split_once(": ").expect("it has a name");
        key.as_bytes()
    }

    /// The parts of the head.
    pub(crate) fn parts(&self) -> RequestParts<'_> {
        let end = "\r\n".len();
        let parts = RequestParts::of_lines(
            &self.wire[..self.method_end],
            &self.wire[self.method_end + 1..self.target_end],
            &self.wire[self.authority.clone()],
            &self.wire[self.authority.end + end..self.head_end - end],
        );
        match &self.message {
            Some(message) if message.framing == Framing::WebSocket => parts.offering(OFFER),
            _ => parts,
        }
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.wire[self.head_end..]
    }
}

/// Whose requests these look like: what a server keeps of a connection may depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum HeadKind {
    /// As short as can be
    #[default]
    Plain,
    /// Seventeen fields in HTTP/2, as Chromium sends them with cookies
    Browser,
    /// Five fields in HTTP/2
    Api,
}

impl HeadKind {
    /// Its fields but Host.
    pub(crate) fn fields(self) -> &'static [&'static str] {
        match self {
            HeadKind::Plain => &["User-Agent: sluice-bench", "Accept: */*"],
            HeadKind::Browser => BROWSER,
            HeadKind::Api => &["User-Agent: sluice-bench"],
        }
    }
}

const BROWSER: &[&str] = &[
    "sec-ch-ua: \"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\"",
    "sec-ch-ua-mobile: ?0",
    "user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
    "sec-ch-ua-platform: \"Linux\"",
    "accept: */*",
    "sec-fetch-site: same-origin",
    "sec-fetch-mode: no-cors",
    "sec-fetch-dest: script",
    "referer: https://www.example.com/",
    "accept-encoding: gzip, deflate, br, zstd",
    "accept-language: en-GB,en;q=0.9,de;q=0.8",
    "cookie: session=0123456789abcdef0123456789abcdef; theme=dark; _ga=GA1.1.1234567890.1234567890",
    "priority: u=1, i",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_those_of_the_request() {
        let request = Prepared::new("POST", "/a?b", "c.test:1", &["X-A: 1", "X-B: "], 3);
        assert_eq!(
            String::from_utf8_lossy(&request.wire),
            "POST /a?b HTTP/1.1\r\nHost: c.test:1\r\nX-A: 1\r\nX-B: \r\nContent-Length: 3\r\n\r\nabc"
        );
        let parts = request.parts();
        assert_eq!(
            (parts.method, parts.target, parts.authority),
            (&b"POST"[..], &b"/a?b"[..], &b"c.test:1"[..])
        );
        let fields: Vec<(&[u8], &[u8])> = parts.fields().collect();
        assert_eq!(fields, [(&b"X-A"[..], &b"1"[..]), (b"X-B", b""), (b"Content-Length", b"3")]);
        assert_eq!((request.body(), request.repeated()), (&b"abc"[..], &request.wire[..]));
        assert_eq!((parts.offer(), request.message.is_none()), (None, true));
        let plain = Prepared::new("GET", "/", "a", &[], 0);
        assert_eq!(plain.parts().fields().count(), 0);
        // With method, scheme, authority and path.
        assert_eq!(HeadKind::Browser.fields().len() + 4, 17);
        assert_eq!(HeadKind::Api.fields().len() + 4, 5);
    }
    #[test]
    fn requests_that_open_a_way_have_their_message_behind_them() {
        let request = Prepared::opening(Framing::WebSocket, "/ws", "c.test:1", &["X-A: 1"], 3);
        let head = String::from_utf8_lossy(request.head()).into_owned();
        assert!(
            head.starts_with("GET /ws HTTP/1.1\r\nHost: c.test:1\r\nX-A: 1\r\nSec-WebSocket-Version: 13\r\n")
        );
        assert!(head.ends_with("Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"), "{head}");
        assert_eq!(request.parts().offer(), Some(&b"websocket"[..]));
        // Two bytes, the mask, the message.
        assert_eq!((request.repeated().len(), request.repeated()[0]), (2 + 4 + 3, 0x82));
        assert_eq!(Prepared::websocket_key(), b"dGhlIHNhbXBsZSBub25jZQ==");
        let request = Prepared::opening(Framing::Grpc, "/s/m", "c.test", &[], 3);
        assert_eq!((request.parts().offer(), request.parts().method), (None, &b"POST"[..]));
        assert_eq!(request.repeated(), b"\0\0\0\0\x03abc");
        assert!(String::from_utf8_lossy(request.head()).contains("\r\nContent-Type: application/grpc\r\n"));
    }
}
