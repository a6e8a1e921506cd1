//! Answers to an offer of WebSocket, but for the one that takes it up: RFC 9110 section 15.2.2, RFC 6455 section 4.2.2.

use super::{Ask, Outcome, ResponseCase, Then, bad, ok, passed};

/// A 101 with these fields.
macro_rules! switching {
    ($fields:literal) => {
        concat!("HTTP/1.1 101 Switching Protocols\r\n", $fields, "\r\n")
    };
}

#[rustfmt::skip]
pub(super) fn cases() -> Vec<ResponseCase> {
    let cases = vec![
        bad("101 to another protocol", "9110 15.2.2", switching!("Connection: Upgrade\r\nUpgrade: own\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n")),
        bad("101 to a version that was not offered", "9110 15.2.2", switching!("Connection: Upgrade\r\nUpgrade: websocket/13\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n")),
        bad("101 to two protocols", "9110 15.2.2", switching!("Connection: Upgrade\r\nUpgrade: websocket, own\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n")),
        bad("101 to two protocols on two lines", "9110 15.2.2", switching!("Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: own\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n")),
        bad("101 to the same protocol twice", "9110 15.2.2", switching!("Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n")),
        bad("101 to nothing", "9110 15.2.2", switching!("Connection: Upgrade\r\nUpgrade:\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n")),
        bad("101 without Upgrade, to an offer", "9110 15.2.2", switching!("Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n")),
        bad("101 whose Connection does not name Upgrade", "9110 7.8", switching!("Connection: keep-alive\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n")),
        bad("101 without Connection", "9110 7.8", switching!("Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n")),
        bad("101 without Sec-WebSocket-Accept", "6455 4.2.2", switching!("Connection: Upgrade\r\nUpgrade: websocket\r\n")),
        bad("101 with the Sec-WebSocket-Accept of another key", "6455 4.2.2", switching!("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: HSmrc0sMlYUkAGmm5OPpG2HaGWk=\r\n")),
        bad("101 with two Sec-WebSocket-Accept", "6455 11.3.3", switching!("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Accept: b\r\n")),
        bad("101 with a length", "9110 8.6", switching!("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nContent-Length: 2\r\n")),
        bad("101 with chunks", "9112 6.1", switching!("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nTransfer-Encoding: chunked\r\n")),
        bad("101 of HTTP/1.0, to an offer", "9110 15.2", "HTTP/1.0 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"),
        bad("101 that is cut", "9112 8", "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n").then(Then::Closes),
        bad("101 with a bare LF", "9112 2.2", "HTTP/1.1 101 X\r\nConnection: Upgrade\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"),
        passed("426 to an offer", "9110 15.5.22", "HTTP/1.1 426 Upgrade Required\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n"),
        passed("200 to an offer, with an Upgrade of its own", "9110 7.8", ok!("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n", "ok"), ok!("Content-Length: 2\r\n", "ok")),
        passed("103 and 401 to an offer", "9110 15.2", "HTTP/1.1 103 X\r\n\r\nHTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 103 X\r\n\r\nHTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"),
        super::response("200 that ends with its connection, to an offer", "9112 6.3", Ask::Offer, ok!("", "ok"), Outcome::Once(ok!("Transfer-Encoding: chunked\r\n", "ok").to_owned())).then(Then::Closes),
    ];
    cases.into_iter().map(|case| case.asked(Ask::Offer)).collect()
}
