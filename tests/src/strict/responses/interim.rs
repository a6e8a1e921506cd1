//! Interim answers: RFC 9110 section 15.2.

use super::{Ask, Outcome, ResponseCase, Then, bad, ok, passed, response};

#[rustfmt::skip]
pub(super) fn cases() -> Vec<ResponseCase> {
    vec![
        passed("100 before the answer", "9110 15.2.1", concat!("HTTP/1.1 100 Continue\r\n\r\n", ok!("Content-Length: 2\r\n", "ok")), concat!("HTTP/1.1 100 Continue\r\n\r\n", ok!("Content-Length: 2\r\n", "ok"))),
        passed("102 before the answer", "9110 15.2", concat!("HTTP/1.1 102 Processing\r\n\r\n", ok!("Content-Length: 2\r\n", "ok")), concat!("HTTP/1.1 102 Processing\r\n\r\n", ok!("Content-Length: 2\r\n", "ok"))),
        passed("103 with its fields", "8297 2", concat!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: X\r\nX: 1\r\n\r\n", ok!("Content-Length: 2\r\n", "ok")), concat!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", ok!("Content-Length: 2\r\n", "ok"))),
        passed("an unknown interim status", "9110 15.2", concat!("HTTP/1.1 199 X\r\n\r\n", ok!("Content-Length: 2\r\n", "ok")), concat!("HTTP/1.1 199 X\r\n\r\n", ok!("Content-Length: 2\r\n", "ok"))),
        passed("several in their order", "9110 15.2", concat!("HTTP/1.1 103 A\r\n\r\nHTTP/1.1 100 B\r\n\r\nHTTP/1.1 103 C\r\n\r\n", ok!("Content-Length: 2\r\n", "ok")), concat!("HTTP/1.1 103 A\r\n\r\nHTTP/1.1 100 B\r\n\r\nHTTP/1.1 103 C\r\n\r\n", ok!("Content-Length: 2\r\n", "ok"))),
        passed("100 with the length zero", "9110 8.6", concat!("HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n", ok!("Content-Length: 2\r\n", "ok")), concat!("HTTP/1.1 100 Continue\r\n\r\n", ok!("Content-Length: 2\r\n", "ok"))),
        passed("sixteen interim answers", "house", "HTTP/1.1 103 X\r\n\r\n".repeat(16) + ok!("Content-Length: 2\r\n", "ok"), &("HTTP/1.1 103 X\r\n\r\n".repeat(16) + ok!("Content-Length: 2\r\n", "ok"))),
        bad("seventeen interim answers", "house", "HTTP/1.1 103 X\r\n\r\n".repeat(17) + ok!("Content-Length: 2\r\n", "ok")),
        response("interim answers are nothing for HTTP/1.0", "9110 15.2", Ask::Old, concat!("HTTP/1.1 103 X\r\n\r\n", ok!("Content-Length: 2\r\n", "ok")), Outcome::Passed(ok!("Connection: keep-alive\r\nContent-Length: 2\r\n", "ok").to_owned())),
        bad("unsolicited 101", "9110 15.2.2", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
        bad("101 without Upgrade", "9110 15.2.2", "HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        bad("101 after 100", "9110 15.2.2", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"),
        bad("100 of HTTP/1.0", "9110 15.2", concat!("HTTP/1.0 100 Continue\r\n\r\n", ok!("Content-Length: 2\r\n", "ok"))),
        bad("101 of HTTP/1.0", "9110 15.2", "HTTP/1.0 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"),
        bad("100 with a length", "9110 8.6", concat!("HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\nok", ok!("Content-Length: 2\r\n", "ok"))),
        bad("103 with chunks", "6.1", concat!("HTTP/1.1 103 X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ok!("Content-Length: 2\r\n", "ok"))),
        bad("a malformed interim answer", "9110 15.2", concat!("HTTP/1.1 103 X\r\nLink : </a>\r\n\r\n", ok!("Content-Length: 2\r\n", "ok"))),
        bad("garbage after an interim answer", "9110 15.2", "HTTP/1.1 103 X\r\n\r\ngarbage\r\n\r\n"),
        bad("100 with both framings", "6.3", concat!("HTTP/1.1 100 Continue\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", ok!("Content-Length: 2\r\n", "ok"))),
        bad("a body behind 100", "0.CL by Expect", concat!("HTTP/1.1 100 Continue\r\n\r\nok", ok!("Content-Length: 2\r\n", "ok"))),
        bad("an empty line behind 100", "2.2", concat!("HTTP/1.1 100 Continue\r\n\r\n\r\n", ok!("Content-Length: 2\r\n", "ok"))),
        bad("100 and the end", "9110 15.2", "HTTP/1.1 100 Continue\r\n\r\n").then(Then::Closes),
        bad("100 with LF", "2.2", concat!("HTTP/1.1 100 Continue\n\n", ok!("Content-Length: 2\r\n", "ok"))),
    ]
}
