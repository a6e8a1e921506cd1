//! The status line: RFC 9112 section 4, RFC 9110 section 15.

use super::{ResponseCase, bad, ok, passed};

const SEEN: &str = ok!("Content-Length: 2\r\n", "ok");

#[rustfmt::skip]
pub(super) fn cases() -> Vec<ResponseCase> {
    vec![
        bad("LF after the status line", "2.2", "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n"),
        bad("CR after the status line", "2.2", "HTTP/1.1 200 OK\rContent-Length: 0\r\n\r\n"),
        bad("CR CR LF after the status line", "2.2", "HTTP/1.1 200 OK\r\r\nContent-Length: 0\r\n\r\n"),
        bad("an empty line before the status line", "2.2", "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("LF before the status line", "2.2", "\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("a space before the status line", "4", " HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("HTTP/0.9", "C.1.1", "<html>hello</html>\r\n\r\n"),
        bad("no version", "4", "200 OK\r\nContent-Length: 0\r\n\r\n"),
        passed("HTTP/1.2", "9110 2.5", "HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok", SEEN),
        bad("HTTP/2.0", "2.3", "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("HTTP/2", "2.3", "HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("HTTP/0.9 in words", "2.3", "HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("HTTP/1.10", "2.3", "HTTP/1.10 200 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("a version in lower case", "2.3", "http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("ICY", "2.3", "ICY 200 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("RTSP", "2.3", "RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("two spaces before the status", "4", "HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("a tab before the status", "4", "HTTP/1.1\t200 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("a tab after the status", "4", "HTTP/1.1 200\tOK\r\nContent-Length: 0\r\n\r\n"),
        bad("no status", "4", "HTTP/1.1 \r\nContent-Length: 0\r\n\r\n"),
        bad("a version and nothing else", "4", "HTTP/1.1\r\nContent-Length: 0\r\n\r\n"),
        bad("a status of one digit", "4", "HTTP/1.1 2 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("a status of two digits", "4", "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("a status of four digits", "4", "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("a status with a sign", "4", "HTTP/1.1 +20 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("a status with letters", "4", "HTTP/1.1 2xx OK\r\nContent-Length: 0\r\n\r\n"),
        bad("a status with a fraction", "4", "HTTP/1.1 200.1 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("a status and a phrase without a space", "4", "HTTP/1.1 200OK\r\nContent-Length: 0\r\n\r\n"),
        bad("status 000", "9110 15", "HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("status 099", "9110 15", "HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n"),
        passed("status 600", "9110 15", "HTTP/1.1 600 Own\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 600 Own\r\nContent-Length: 2\r\n\r\nok"),
        passed("status 999 with chunks", "9110 15", "HTTP/1.1 999 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "HTTP/1.1 999 X\r\nTransfer-Encoding: chunked\r\n\r\nok"),
        bad("status 604 with chunks and a length", "9112 6.3", "HTTP/1.1 604 X\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        bad("NUL in the phrase", "4", "HTTP/1.1 200 O\x00K\r\nContent-Length: 0\r\n\r\n"),
        bad("a control in the phrase", "4", "HTTP/1.1 200 O\x1bK\r\nContent-Length: 0\r\n\r\n"),
        bad("DEL in the phrase", "4", "HTTP/1.1 200 O\x7fK\r\nContent-Length: 0\r\n\r\n"),
        bad("CR in the phrase", "response splitting", "HTTP/1.1 200 O\rK\r\nContent-Length: 0\r\n\r\n"),
        passed("no phrase", "4", "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok"),
        passed("no phrase and no space", "4", "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok"),
        passed("a phrase of several words", "4", "HTTP/1.1 200 Very  well\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 Very  well\r\nContent-Length: 2\r\n\r\nok"),
        passed("an unknown status", "9110 15", "HTTP/1.1 299 X\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 299 X\r\nContent-Length: 2\r\n\r\nok"),
        passed("an ordinary answer", "4", SEEN, SEEN),
        bad("two status lines", "4", "HTTP/1.1 200 OK\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("a byte order mark before the status line", "4", b"\xef\xbb\xbfHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("a request line", "4", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("a negative status", "4", "HTTP/1.1 -200 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("a status in hexadecimal", "4", "HTTP/1.1 0xc8 OK\r\nContent-Length: 0\r\n\r\n"),
    ]
}
