//! What becomes of the server's connection: RFC 9112 section 9.

use super::{Ask, Outcome, ResponseCase, Then, ok, once, passed, response};

#[rustfmt::skip]
pub(super) fn cases() -> Vec<ResponseCase> {
    vec![
        passed("an answer that says nothing", "9.3", ok!("Content-Length: 2\r\n", "ok"), ok!("Content-Length: 2\r\n", "ok")),
        passed("keep-alive", "9.3", ok!("Connection: keep-alive\r\nContent-Length: 2\r\n", "ok"), ok!("Content-Length: 2\r\n", "ok")),
        once("close", "9.6", ok!("Connection: close\r\nContent-Length: 2\r\n", "ok"), ok!("Content-Length: 2\r\n", "ok")),
        once("close in capitals, among others", "9.6", ok!("Connection: x, CLOSE\r\nContent-Length: 2\r\n", "ok"), ok!("Content-Length: 2\r\n", "ok")),
        once("HTTP/1.0", "9.3", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", ok!("Content-Length: 2\r\n", "ok")),
        passed("HTTP/1.0 with keep-alive", "9.3", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", ok!("Content-Length: 2\r\n", "ok")),
        once("a server that closes in good order", "9.6", ok!("Content-Length: 2\r\n", "ok"), ok!("Content-Length: 2\r\n", "ok")).then(Then::Closes),
        response("a body in GET that the server may not have read", "CL.0", Ask::GetWithBody, ok!("Content-Length: 2\r\n", "ok"), Outcome::Once(ok!("Content-Length: 2\r\n", "ok").to_owned())),
        passed("trailers that Connection names", "9110 7.6.1", ok!("Connection: X-Sum\r\nTransfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"), ok!("Transfer-Encoding: chunked\r\n", "ok")),
        passed("a length among the trailers", "9110 6.5.1", ok!("Transfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\nContent-Length: 9\r\nSet-Cookie: a=b\r\nX: 1\r\n\r\n"), ok!("Transfer-Encoding: chunked\r\n", "ok\r\nX: 1")),
    ]
}
