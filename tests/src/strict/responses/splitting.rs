//! Bytes behind the end of a response: what an attacker made a server send. They poison its connection.

use super::{Ask, Outcome, ResponseCase, Then, ok, once, response};

const SEEN: &str = ok!("Content-Length: 2\r\n", "ok");
const FORGED: &str = ok!("Content-Length: 6\r\n", "forged");

#[rustfmt::skip]
pub(super) fn cases() -> Vec<ResponseCase> {
    vec![
        once("a second answer", "response splitting", concat!(ok!("Content-Length: 2\r\n", "ok"), ok!("Content-Length: 6\r\n", "forged")), SEEN),
        once("one byte more than the length", "9112 9.2", ok!("Content-Length: 2\r\n", "okk"), SEEN),
        once("an empty line behind the length", "9112 9.2", ok!("Content-Length: 2\r\n", "ok\r\n"), SEEN),
        once("NUL behind the length", "9112 9.2", ok!("Content-Length: 2\r\n", "ok\0"), SEEN),
        once("a second answer behind the last chunk", "response splitting", concat!(ok!("Transfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n"), ok!("Content-Length: 6\r\n", "forged")), ok!("Transfer-Encoding: chunked\r\n", "ok")),
        once("an empty line behind the last chunk", "9112 9.2", ok!("Transfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n\r\n"), ok!("Transfer-Encoding: chunked\r\n", "ok")),
        once("an answer behind the length zero", "response splitting", concat!(ok!("Content-Length: 0\r\n", ""), ok!("Content-Length: 6\r\n", "forged")), ok!("Content-Length: 0\r\n", "")),
        once("a body behind 204", "9112 6.3", "HTTP/1.1 204 No Content\r\n\r\nok", "HTTP/1.1 204 No Content\r\n\r\n"),
        once("a body behind 304", "9112 6.3", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n"),
        once("an answer behind 304", "response splitting", concat!("HTTP/1.1 304 Not Modified\r\n\r\n", ok!("Content-Length: 6\r\n", "forged")), "HTTP/1.1 304 Not Modified\r\n\r\n"),
        response("a body behind the answer to HEAD", "9112 6.3", Ask::Head, SEEN, Outcome::Once(ok!("Content-Length: 2\r\n", "").to_owned())),
        response("an answer in the body of the answer to HEAD", "response splitting by HEAD", Ask::Head, concat!(ok!("Content-Length: 44\r\n", ""), ok!("Content-Length: 6\r\n", "forged")), Outcome::Once(ok!("Content-Length: 44\r\n", "").to_owned())),
        once("an interim answer behind the answer", "9110 15.2", concat!(ok!("Content-Length: 2\r\n", "ok"), "HTTP/1.1 100 Continue\r\n\r\n"), SEEN),
        once("a second answer a moment later", "response queue poisoning", SEEN, SEEN).then(Then::Says(FORGED)),
        once("one byte a moment later", "response queue poisoning", SEEN, SEEN).then(Then::Says("x")),
        once("408 a moment later", "response queue poisoning", SEEN, SEEN).then(Then::Says("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")),
        once("an empty line a moment later", "response queue poisoning", SEEN, SEEN).then(Then::Says("\r\n")),
        response("a second answer to HEAD a moment later", "response queue poisoning", Ask::Head, ok!("Content-Length: 2\r\n", ""), Outcome::Once(ok!("Content-Length: 2\r\n", "").to_owned())).then(Then::Says(FORGED)),
        once("the body of 304 a moment later", "response queue poisoning", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n").then(Then::Says("ok")),
        once("100 a moment later", "response queue poisoning", SEEN, SEEN).then(Then::Says("HTTP/1.1 100 Continue\r\n\r\n")),
    ]
}
