//! Bodies that break their own framing, and bodies that are cut: RFC 9112 sections 7.1 and 8. Those that arrive whole with
//! their head are refused before anything of them is passed on; the others are aborted.

use super::{Ask, Outcome, ResponseCase, Then, aborted, bad, ok, response};

fn chunks(name: &'static str, section: &'static str, body: &str) -> ResponseCase {
    bad(name, section, format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}"))
}

#[rustfmt::skip]
pub(super) fn cases() -> Vec<ResponseCase> {
    vec![
        chunks("an empty size", "7.1", "\r\nok\r\n0\r\n\r\n"),
        chunks("a size with a sign", "7.1", "+2\r\nok\r\n0\r\n\r\n"),
        chunks("a size with 0x", "7.1", "0x2\r\nok\r\n0\r\n\r\n"),
        chunks("a size with a space after", "7.1", "2 \r\nok\r\n0\r\n\r\n"),
        chunks("a size with a space before", "7.1", " 2\r\nok\r\n0\r\n\r\n"),
        chunks("a size of 17 digits", "7.1", "10000000000000002\r\nok\r\n0\r\n\r\n"),
        chunks("LF after a size", "7.1", "2\nok\r\n0\r\n\r\n"),
        chunks("data longer than its size", "7.1", "2\r\nokk\r\n0\r\n\r\n"),
        chunks("LF after data", "7.1", "2\r\nok\n0\r\n\r\n"),
        chunks("a bare semicolon", "7.1.1", "2;\r\nok\r\n0\r\n\r\n"),
        chunks("an extension with CR in it", "EXT.TERM", "2;a\rb\r\nok\r\n0\r\n\r\n"),
        chunks("an extension with LF in it", "TERM.EXT", "2;a\nb\r\nok\r\n0\r\n\r\n"),
        chunks("a trailer without a colon", "7.1.2", "2\r\nok\r\n0\r\nX\r\n\r\n"),
        chunks("a folded trailer", "7.1.2", "2\r\nok\r\n0\r\nX: 1\r\n 2\r\n\r\n"),
        chunks("LF at the end", "7.1", "2\r\nok\r\n0\r\n\n"),
        aborted("a length and half a body", "8", ok!("Content-Length: 9\r\n", "half")).then(Then::Closes),
        aborted("a length and no body", "8", ok!("Content-Length: 9\r\n", "")).then(Then::Closes),
        aborted("a length, half a body and a reset", "8", ok!("Content-Length: 9\r\n", "half")).then(Then::Resets),
        aborted("chunks without a last one", "8", ok!("Transfer-Encoding: chunked\r\n", "4\r\nhalf\r\n")).then(Then::Closes),
        aborted("half a chunk", "8", ok!("Transfer-Encoding: chunked\r\n", "9\r\nhalf")).then(Then::Closes),
        aborted("chunks without the empty line at the end", "8", ok!("Transfer-Encoding: chunked\r\n", "4\r\nhalf\r\n0\r\n")).then(Then::Closes),
        aborted("chunks and a reset", "8", ok!("Transfer-Encoding: chunked\r\n", "4\r\nhalf\r\n")).then(Then::Resets),
        aborted("a body until the end, and a reset", "8", ok!("", "half")).then(Then::Resets),
        response("a body until the end, and a reset, for HTTP/1.0", "8", Ask::Old, ok!("", "half"), Outcome::Aborted).then(Then::Resets),
        response("chunks that are cut, for HTTP/1.0", "8", Ask::Old, ok!("Transfer-Encoding: chunked\r\n", "4\r\nhalf\r\n"), Outcome::Aborted).then(Then::Closes),
        aborted("a bad chunk after a good one was passed on", "7.1", ok!("Transfer-Encoding: chunked\r\n", "4\r\nhalf\r\n")).then(Then::Says("zz\r\n")),
        bad("half a head", "8", "HTTP/1.1 200 OK\r\nContent-Len").then(Then::Closes),
        bad("half a status line", "8", "HTTP/1.").then(Then::Closes),
        bad("a head without its empty line", "8", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n").then(Then::Closes),
        bad("nothing", "8", "").then(Then::Closes),
        chunks("a last chunk of 17 zeros", "house 7.1", "2\r\nok\r\n00000000000000000\r\n\r\n"),
        chunks("an extension with CRLF in quotes", "7.1.1", "2;a=\"\r\nb\"\r\nok\r\n0\r\n\r\n"),
        chunks("an extension of 300 bytes", "7.1.1", &format!("2;{}\r\nok\r\n0\r\n\r\n", "a".repeat(300))),
        chunks("a body of extensions", "CVE-2023-39326", &(format!("1;{}\r\nx\r\n", "a".repeat(100)).repeat(20) + "0\r\n\r\n")),
        chunks("33 trailers", "6585 5", &format!("2\r\nok\r\n0\r\n{}\r\n", "X: 1\r\n".repeat(33))),
        chunks("a status line among the trailers", "7.1.2", "2\r\nok\r\n0\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        chunks("NUL in a trailer", "7.1.2", "2\r\nok\r\n0\r\nX: \0\r\n\r\n"),
        aborted("a length of 2 to the 64th less one", "8", ok!("Content-Length: 18446744073709551615\r\n", "ok")).then(Then::Closes),
        aborted("a chunk of 2 to the 64th less one", "8", ok!("Transfer-Encoding: chunked\r\n", "ffffffffffffffff\r\nok")).then(Then::Closes),
    ]
}
