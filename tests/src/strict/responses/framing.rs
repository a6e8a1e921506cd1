//! Where the body of a response ends: RFC 9112 section 6.3.

use super::{Ask, Outcome, ResponseCase, Then, bad, ok, once, passed, response};

fn length(name: &'static str, section: &'static str, value: &str) -> ResponseCase {
    bad(name, section, format!("HTTP/1.1 200 OK\r\nContent-Length: {value}\r\n\r\nok"))
}

fn coding(name: &'static str, section: &'static str, value: &str) -> ResponseCase {
    bad(name, section, format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {value}\r\n\r\n2\r\nok\r\n0\r\n\r\n"))
}

#[rustfmt::skip]
pub(super) fn cases() -> Vec<ResponseCase> {
    vec![
        length("an empty length", "6.3", ""),
        length("a length with a plus", "6.3", "+2"),
        length("a length with a minus", "6.3", "-2"),
        length("a hexadecimal length", "6.3", "0x2"),
        length("a fraction", "6.3", "2.0"),
        length("a length with a space in it", "6.3", "2 0"),
        length("a list of different lengths", "6.3", "2, 3"),
        length("a list of equal lengths", "house 6.3", "2, 2"),
        length("2 to the 64th", "6.3", "18446744073709551616"),
        length("a word for a length", "6.3", "two"),
        bad("different lengths", "6.3", ok!("Content-Length: 2\r\nContent-Length: 3\r\n", "abc")),
        bad("equal lengths", "house 6.3", ok!("Content-Length: 2\r\nContent-Length: 2\r\n", "ok")),
        bad("a length and chunked", "6.3", ok!("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n")),
        bad("chunked and a length", "6.3", ok!("Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", "2\r\nok\r\n0\r\n\r\n")),
        bad("identity and a length", "6.3", ok!("Transfer-Encoding: identity\r\nContent-Length: 2\r\n", "ok")),
        coding("chunked twice", "7.1", "chunked, chunked"),
        coding("chunked not last", "6.3", "chunked, gzip"),
        coding("gzip before chunked", "6.1", "gzip, chunked"),
        coding("identity", "house 6.3", "identity"),
        coding("gzip alone", "house 6.3", "gzip"),
        coding("nearly chunked", "6.3", "xchunked"),
        coding("an empty coding", "6.1", ""),
        coding("chunked and a comma", "house 6.1", "chunked,"),
        bad("chunks in HTTP/1.0", "6.1", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        bad("204 with a length", "9110 8.6", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok"),
        bad("204 with chunks", "6.1", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        bad("204 with two framings", "6.3", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        bad("304 with a bad length", "6.3", "HTTP/1.1 304 Not Modified\r\nContent-Length: x\r\n\r\n"),
        bad("HEAD with two framings", "6.3", ok!("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", "")).asked(Ask::Head),
        bad("HEAD with different lengths", "6.3", ok!("Content-Length: 2\r\nContent-Length: 3\r\n", "")).asked(Ask::Head),
        passed("204 with the length zero", "9110 8.6", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"),
        passed("204", "6.3", "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"),
        passed("304 with a length", "6.3", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        passed("HEAD with a length", "6.3", ok!("Content-Length: 5\r\n", ""), ok!("Content-Length: 5\r\n", "")).asked(Ask::Head),
        passed("HEAD with chunks", "6.3", ok!("Transfer-Encoding: chunked\r\n", ""), ok!("", "")).asked(Ask::Head),
        passed("a length with leading zeros", "6.2", ok!("Content-Length: 002\r\n", "ok"), ok!("Content-Length: 2\r\n", "ok")),
        passed("205 with the length zero", "9110 15.3.6", "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n"),
        passed("chunks", "7.1", ok!("Transfer-Encoding: chunked\r\n", "2;x=y\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"), ok!("Transfer-Encoding: chunked\r\n", "ok\r\nX-Sum: 1")),
        once("a body until the end of the connection", "6.3", ok!("", "ok"), ok!("Transfer-Encoding: chunked\r\n", "ok")).then(Then::Closes),
        once("an empty body until the end of the connection", "6.3", ok!("", ""), ok!("Transfer-Encoding: chunked\r\n", "")).then(Then::Closes),
        once("keep-alive does not end a body", "6.3", ok!("Connection: keep-alive\r\n", "ok"), ok!("Transfer-Encoding: chunked\r\n", "ok")).then(Then::Closes),
        once("HTTP/1.0 until the end of the connection", "6.3", "HTTP/1.0 200 OK\r\n\r\nok", ok!("Transfer-Encoding: chunked\r\n", "ok")).then(Then::Closes),
        response("until the end, for HTTP/1.0", "6.3", Ask::Old, ok!("", "ok"), Outcome::Last(ok!("Connection: close\r\n", "ok").to_owned())).then(Then::Closes),
        response("chunks for HTTP/1.0", "7.1", Ask::Old, ok!("Transfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n"), Outcome::Leaves(ok!("Connection: close\r\n", "ok").to_owned())),
        response("a length for HTTP/1.0", "6.2", Ask::Old, ok!("Content-Length: 2\r\n", "ok"), Outcome::Passed(ok!("Connection: keep-alive\r\nContent-Length: 2\r\n", "ok").to_owned())),
        length("a length with an underscore", "6.3", "0_2"),
        length("a length in quotes", "6.3", "\"2\""),
        length("a length in Arabic digits", "6.3", "\u{662}"),
        length("a length and a comma", "house 6.3", "2,"),
        coding("chunked with a parameter", "6.3", "chunked;q=1"),
        coding("chunked in quotes", "6.3", "\"chunked\""),
        coding("chunked and a vertical tab", "9110 5.5", "chunked\x0b"),
        bad("chunked and identity on two lines", "6.3", ok!("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "2\r\nok\r\n0\r\n\r\n")),
        bad("a space before the colon of a coding", "5.1", ok!("Transfer-Encoding : chunked\r\n", "2\r\nok\r\n0\r\n\r\n")),
        bad("chunks in HTTP/1.0 that is kept alive", "6.1", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        bad("304 with two framings", "6.3", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"),
        passed("304 with chunks", "6.1", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 304 Not Modified\r\n\r\n"),
        passed("HEAD with nothing", "6.3", ok!("", ""), ok!("", "")).asked(Ask::Head),
        passed("an empty body of chunks", "7.1", ok!("Transfer-Encoding: chunked\r\n", "0\r\n\r\n"), ok!("Transfer-Encoding: chunked\r\n", "")),
    ]
}
