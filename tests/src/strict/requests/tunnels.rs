//! Requests to leave HTTP where the route lets `websocket`, `own/1` and CONNECT to port 443 through, and the server goes
//! along with none: RFC 9110 sections 7.8 and 9.3.6, RFC 6455 section 4, RFC 9931.

use crate::strict::{RequestCase, get, last, passes, refused};

/// GET with a WebSocket handshake.
macro_rules! websocket {
    ($($fields:literal),*) => {
        get!($($fields,)* "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n")
    };
}

/// GET with another offer and these fields.
macro_rules! own {
    ($fields:literal) => {
        get!("Connection: Upgrade\r\nUpgrade: own/1\r\n", $fields)
    };
}

/// What a server gets of them.
const WEBSOCKET: &str = get!(
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
);
const OWN: &str = get!("Connection: Upgrade\r\nUpgrade: own/1\r\n");

#[rustfmt::skip]
pub(super) fn cases() -> Vec<RequestCase> {
    vec![
        passes("an allowed WebSocket", "9110 7.8", websocket!(), [WEBSOCKET]),
        passes("a WebSocket offer in other case", "9110 7.8", get!("CONNECTION: upgrade\r\nUPGRADE: WebSocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"), [WEBSOCKET]),
        passes("a WebSocket offer behind h2c", "9110 7.8", get!("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c, websocket\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"), [WEBSOCKET]),
        passes("a WebSocket offer on a second line", "9110 5.3", get!("Connection: Upgrade\r\nUpgrade: x\r\nUpgrade: , websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"), [WEBSOCKET]),
        passes("a WebSocket offer with a length of zero", "6455 4.1", websocket!("Content-Length: 0\r\n"), [WEBSOCKET]),
        passes("a WebSocket version to be negotiated", "6455 4.4", get!("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 255\r\n"), [get!("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 255\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n")]),
        passes("a WebSocket offer that Connection does not name", "9110 7.8", get!("Upgrade: websocket\r\n"), [get!()]),
        last("a WebSocket offer in HTTP/1.0", "9110 7.8", "GET / HTTP/1.0\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", [get!()]),
        last("a WebSocket offer and close", "9112 9.6", websocket!("Connection: close\r\n"), [WEBSOCKET]),
        passes("only h2c where WebSocket is allowed", "h2c smuggling", get!("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"), [get!()]),
        // Whether these wait for the answer is unknown.
        last("another allowed protocol", "9931 5", own!(""), [OWN]),
        last("another allowed protocol and what follows", "9931 4.1", concat!(own!(""), "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"), [OWN]),
        refused(400, "a protocol of another version", "9110 7.8", get!("Connection: Upgrade\r\nUpgrade: own/2\r\n")),
        refused(400, "a protocol without its version", "9110 7.8", get!("Connection: Upgrade\r\nUpgrade: own\r\n")),
        refused(400, "a protocol that is not allowed", "9110 7.8", get!("Connection: Upgrade\r\nUpgrade: other\r\n")),
        refused(400, "a protocol that only begins like one", "9110 7.8", get!("Connection: Upgrade\r\nUpgrade: websocket2\r\n")),
        refused(400, "a protocol in quotes", "9110 7.8", get!("Connection: Upgrade\r\nUpgrade: \"websocket\"\r\n")),
        refused(400, "an empty offer where WebSocket is allowed", "9110 7.8", get!("Connection: Upgrade\r\nUpgrade:\r\n")),
        refused(400, "an offer with POST", "9931 7.1", "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: own/1\r\n\r\n"),
        refused(400, "an offer with PUT", "9931 7.1", "PUT / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: own/1\r\n\r\n"),
        refused(400, "an offer with a length", "9931 7.1", concat!(own!("Content-Length: 3\r\n"), "abc")),
        refused(400, "an offer with chunks", "9931 7.1", concat!(own!("Transfer-Encoding: chunked\r\n"), "3\r\nabc\r\n0\r\n\r\n")),
        refused(400, "an offer with both framings", "9112 6.3", concat!(own!("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"), "0\r\n\r\n")),
        refused(400, "a WebSocket without a key", "6455 4.1", get!("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n")),
        refused(400, "a WebSocket with two keys", "6455 11.3.1", websocket!("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")),
        refused(400, "a WebSocket with a short key", "6455 4.1", get!("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZQ==\r\nSec-WebSocket-Version: 13\r\n")),
        refused(400, "a WebSocket with a key of 17 bytes", "6455 4.1", get!("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSE=\r\nSec-WebSocket-Version: 13\r\n")),
        refused(400, "a WebSocket whose key Connection removes", "9110 7.6.1", websocket!("Connection: Sec-WebSocket-Key\r\n")),
        refused(400, "a WebSocket without a version", "6455 4.1", get!("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")),
        refused(400, "a WebSocket with two versions", "6455 11.3.5", websocket!("Sec-WebSocket-Version: 8\r\n")),
        refused(400, "a WebSocket with a version beyond 255", "WebSocket smuggling", concat!(get!("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 777\r\n"), "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n")),
        refused(400, "CONNECT to a port that is not allowed", "9110 9.3.6", "CONNECT a:444 HTTP/1.1\r\nHost: a:444\r\n\r\n"),
        refused(400, "CONNECT without a port", "9112 3.2.3", "CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "CONNECT with an empty port", "9110 9.3.6", "CONNECT a: HTTP/1.1\r\nHost: a:\r\n\r\n"),
        refused(400, "CONNECT to port 0", "9110 9.3.6", "CONNECT a:0 HTTP/1.1\r\nHost: a:0\r\n\r\n"),
        refused(400, "CONNECT to a port with a sign", "9110 9.3.6", "CONNECT a:+443 HTTP/1.1\r\nHost: a:443\r\n\r\n"),
        refused(400, "CONNECT to a port beyond 65535", "9110 9.3.6", "CONNECT a:65979 HTTP/1.1\r\nHost: a:65979\r\n\r\n"),
        refused(400, "CONNECT to a path", "9112 3.2.3", "CONNECT /a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"),
        refused(400, "CONNECT in absolute form", "9112 3.2.3", "CONNECT http://a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"),
        refused(400, "CONNECT with a user", "9112 3.2.3", "CONNECT u@a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"),
        refused(400, "CONNECT to an asterisk", "9112 3.2.3", "CONNECT * HTTP/1.1\r\nHost: a:443\r\n\r\n"),
        refused(400, "CONNECT with another Host", "9112 3.2", "CONNECT a:443 HTTP/1.1\r\nHost: b:443\r\n\r\n"),
        refused(400, "CONNECT with another port in Host", "9112 3.2", "CONNECT a:443 HTTP/1.1\r\nHost: a:80\r\n\r\n"),
        refused(400, "CONNECT with another host and no port in Host", "9112 3.2", "CONNECT a:443 HTTP/1.1\r\nHost: b\r\n\r\n"),
        refused(400, "CONNECT without Host", "9112 3.2", "CONNECT a:443 HTTP/1.1\r\n\r\n"),
        refused(400, "CONNECT with a length", "9110 9.3.6", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nContent-Length: 3\r\n\r\nabc"),
        refused(400, "CONNECT with chunks", "9110 9.3.6", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ]
}

/// What follows an offer at once, so that it is there before the answer.
#[rustfmt::skip]
pub(super) fn early() -> Vec<RequestCase> {
    vec![
        last("WebSocket and a request behind it", "9931 4.1", concat!(websocket!(), "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"), [WEBSOCKET]),
        last("WebSocket and a frame behind it", "6455 4.1", concat!(websocket!(), "\u{1}\u{5}hello"), [WEBSOCKET]),
        last("WebSocket and half a request behind it", "9931 4.1", concat!(websocket!(), "GET /admin HT"), [WEBSOCKET]),
        last("WebSocket and a line end behind it", "9112 2.2", concat!(websocket!(), "\r\n"), [WEBSOCKET]),
        last("a good request, WebSocket and a request behind it", "9931 4.1", concat!(get!(), websocket!(), "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"), [get!(), WEBSOCKET]),
        last("WebSocket twice", "9931 4.1", concat!(websocket!(), websocket!()), [WEBSOCKET]),
    ]
}
