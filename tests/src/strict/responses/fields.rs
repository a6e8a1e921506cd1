//! Field lines of responses: RFC 9112 section 5.

use super::{ResponseCase, bad, ok, passed};

#[rustfmt::skip]
pub(super) fn cases() -> Vec<ResponseCase> {
    vec![
        bad("LF after a field", "2.2", "HTTP/1.1 200 OK\r\nX: 1\nContent-Length: 0\r\n\r\n"),
        bad("LF for the empty line", "2.2", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n"),
        bad("LF LF at the end", "2.2", "HTTP/1.1 200 OK\r\nContent-Length: 0\n\n"),
        bad("CR in a value", "response splitting", ok!("X: 1\r2\r\nContent-Length: 0\r\n", "")),
        bad("CR and a field in a value", "response splitting", ok!("Location: /\rSet-Cookie: a=b\r\nContent-Length: 0\r\n", "")),
        bad("LF and a field in a value", "response splitting", ok!("Location: /\nSet-Cookie: a=b\r\nContent-Length: 0\r\n", "")),
        bad("a folded value", "5.2", ok!("X: 1\r\n 2\r\nContent-Length: 0\r\n", "")),
        bad("a value folded with a tab", "5.2", ok!("X: 1\r\n\t2\r\nContent-Length: 0\r\n", "")),
        bad("a space before the first field", "2.2", ok!(" X: 1\r\nContent-Length: 0\r\n", "")),
        bad("a space before the colon", "5.1", ok!("X : 1\r\nContent-Length: 0\r\n", "")),
        bad("a space before the colon of a length", "5.1", ok!("Content-Length : 0\r\n", "")),
        bad("no colon", "5", ok!("X\r\nContent-Length: 0\r\n", "")),
        bad("no name", "5", ok!(": 1\r\nContent-Length: 0\r\n", "")),
        bad("NUL in a name", "9110 5.1", ok!("X\x00Y: 1\r\nContent-Length: 0\r\n", "")),
        bad("a parenthesis in a name", "9110 5.1", ok!("X(Y): 1\r\nContent-Length: 0\r\n", "")),
        bad("a name beyond ASCII", "9110 5.1", b"HTTP/1.1 200 OK\r\nX\xe9: 1\r\nContent-Length: 0\r\n\r\n"),
        bad("NUL in a value", "9110 5.5", ok!("X: 1\x002\r\nContent-Length: 0\r\n", "")),
        bad("ESC in a value", "9110 5.5", ok!("X: \x1b[2J\r\nContent-Length: 0\r\n", "")),
        bad("DEL in a value", "9110 5.5", ok!("X: \x7f\r\nContent-Length: 0\r\n", "")),
        bad("101 fields", "6585 5", format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "X: 1\r\n".repeat(100))),
        bad("a field of 17,000 bytes", "6585 5", format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(17_000))),
        bad("a thousand empty connection options", "9110 5.6.1.2", format!("HTTP/1.1 200 OK\r\nConnection: {}\r\nContent-Length: 0\r\n\r\n", ",".repeat(1000))),
        passed("white space around a value", "5.1", ok!("X:\t 1 \t\r\nContent-Length: 2\r\n", "ok"), ok!("X: 1\r\nContent-Length: 2\r\n", "ok")),
        passed("a name with underscores", "9110 5.1", ok!("X_Y: 1\r\nContent-Length: 2\r\n", "ok"), ok!("X_Y: 1\r\nContent-Length: 2\r\n", "ok")),
        passed("the same name many times keeps its order", "9110 5.3", ok!("Set-Cookie: a\r\nX: 1\r\nSet-Cookie: b\r\nContent-Length: 2\r\n", "ok"), ok!("Set-Cookie: a\r\nX: 1\r\nSet-Cookie: b\r\nContent-Length: 2\r\n", "ok")),
        passed("fields of the connection", "9110 7.6.1", ok!("Connection: X-One\r\nX-One: 1\r\nX-Two: 2\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\nContent-Length: 2\r\n", "ok"), ok!("X-Two: 2\r\nContent-Length: 2\r\n", "ok")),
        passed("Cache-Control cannot be removed", "9110 7.6.1", ok!("Connection: Cache-Control\r\nCache-Control: private\r\nContent-Length: 2\r\n", "ok"), ok!("Cache-Control: private\r\nContent-Length: 2\r\n", "ok")),
        passed("Content-Length cannot be removed", "9110 7.6.1", ok!("Connection: Content-Length\r\nContent-Length: 2\r\n", "ok"), ok!("Content-Length: 2\r\n", "ok")),
    ]
}
