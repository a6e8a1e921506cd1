//! Chunk sizes, extensions, data and trailers: RFC 9112 section 7.1.

use crate::strict::{RequestCase, chunks, cut, get, passes, post};

/// A POST in chunks as it reaches the origin: the data, and trailers behind it.
macro_rules! seen {
    ($data:literal) => {
        post!("Transfer-Encoding: chunked\r\n", $data)
    };
}

fn chunked(body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
}

pub(super) fn cases() -> Vec<RequestCase> {
    [sizes(), data(), extensions(), trailers(), good()].concat()
}

#[rustfmt::skip]
fn sizes() -> Vec<RequestCase> {
    vec![
        cut(400, "an empty size", "7.1", chunks!("\r\nabc\r\n0\r\n\r\n")),
        cut(400, "a size with a plus", "7.1", chunks!("+3\r\nabc\r\n0\r\n\r\n")),
        cut(400, "a size with a minus", "7.1", chunks!("-3\r\nabc\r\n0\r\n\r\n")),
        cut(400, "a size with 0x", "7.1", chunks!("0x3\r\nabc\r\n0\r\n\r\n")),
        cut(400, "a size with 0X", "7.1", chunks!("0X3\r\nabc\r\n0\r\n\r\n")),
        cut(400, "a size with h", "7.1", chunks!("3h\r\nabc\r\n0\r\n\r\n")),
        cut(400, "a size with an underscore", "7.1", chunks!("0_3\r\nabc\r\n0\r\n\r\n")),
        cut(400, "a size of words", "7.1", chunks!("three\r\nabc\r\n0\r\n\r\n")),
        cut(400, "a size with a space before", "7.1", chunks!(" 3\r\nabc\r\n0\r\n\r\n")),
        cut(400, "a size with a tab before", "7.1", chunks!("\t3\r\nabc\r\n0\r\n\r\n")),
        cut(400, "a size with a space after", "7.1", chunks!("3 \r\nabc\r\n0\r\n\r\n")),
        cut(400, "a size with a tab after", "7.1", chunks!("3\t\r\nabc\r\n0\r\n\r\n")),
        cut(400, "a last chunk with a space after", "7.1", chunks!("3\r\nabc\r\n0 \r\n\r\n")),
        cut(400, "a size with a space inside", "7.1", chunks!("0 3\r\nabc\r\n0\r\n\r\n")),
        cut(400, "a size in quotes", "7.1", chunks!("\"3\"\r\nabc\r\n0\r\n\r\n")),
        cut(400, "a size with a dot", "7.1", chunks!("3.0\r\nabc\r\n0\r\n\r\n")),
        cut(400, "a size with a comma", "7.1", chunks!("3,\r\nabc\r\n0\r\n\r\n")),
        cut(400, "a size with NUL", "7.1", chunks!("3\x00\r\nabc\r\n0\r\n\r\n")),
        cut(400, "a size of 17 digits", "7.1", chunks!("10000000000000003\r\nabc\r\n0\r\n\r\n")),
        cut(400, "a size of 17 digits, zeros first", "house 7.1", chunks!("00000000000000003\r\nabc\r\n0\r\n\r\n")),
        cut(400, "a size of 17 f", "7.1", chunks!("fffffffffffffffff\r\nabc\r\n0\r\n\r\n")),
        cut(400, "a size without an end", "7.1", chunked(&"0".repeat(5000))),
        cut(400, "LF after a size", "7.1", chunks!("3\nabc\r\n0\r\n\r\n")),
        cut(400, "CR after a size", "7.1", chunks!("3\rabc\r\n0\r\n\r\n")),
        cut(400, "CR CR LF after a size", "7.1", chunks!("3\r\r\nabc\r\n0\r\n\r\n")),
        cut(400, "LF after the last size", "7.1", chunks!("3\r\nabc\r\n0\n\r\n")),
    ]
}

#[rustfmt::skip]
fn data() -> Vec<RequestCase> {
    vec![
        cut(400, "data longer than its size", "7.1", chunks!("3\r\nabcd\r\n0\r\n\r\n")),
        cut(400, "data shorter than its size", "7.1", chunks!("5\r\nabc\r\n0\r\n\r\n")),
        cut(400, "no line end after data", "7.1", chunks!("3\r\nabc0\r\n\r\n")),
        cut(400, "LF after data", "7.1", chunks!("3\r\nabc\n0\r\n\r\n")),
        cut(400, "CR after data", "7.1", chunks!("3\r\nabc\r0\r\n\r\n")),
        cut(400, "any two bytes after data", "7.1, CVE-2025-4366", chunks!("3\r\nabcXX0\r\n\r\n")),
        cut(400, "an empty line after data", "7.1", chunks!("3\r\nabc\r\n\r\n0\r\n\r\n")),
        cut(400, "LF for the empty line at the end", "7.1", chunks!("3\r\nabc\r\n0\r\n\n")),
        cut(400, "CR X for the empty line at the end", "7.1", chunks!("3\r\nabc\r\n0\r\n\rX")),
    ]
}

#[rustfmt::skip]
fn extensions() -> Vec<RequestCase> {
    vec![
        cut(400, "a bare semicolon", "7.1.1", chunks!("3;\r\nabc\r\n0\r\n\r\n")),
        cut(400, "a bare semicolon on the last chunk", "7.1.1", chunks!("3\r\nabc\r\n0;\r\n\r\n")),
        cut(400, "a semicolon and a space", "7.1.1", chunks!("3; \r\nabc\r\n0\r\n\r\n")),
        cut(400, "two semicolons", "7.1.1", chunks!("3;;a\r\nabc\r\n0\r\n\r\n")),
        cut(400, "a semicolon after an extension", "7.1.1", chunks!("3;a=b;\r\nabc\r\n0\r\n\r\n")),
        cut(400, "an extension without a name", "7.1.1", chunks!("3;=b\r\nabc\r\n0\r\n\r\n")),
        cut(400, "an extension without a value", "7.1.1", chunks!("3;a=\r\nabc\r\n0\r\n\r\n")),
        cut(400, "an extension of two words", "7.1.1", chunks!("3;a b\r\nabc\r\n0\r\n\r\n")),
        cut(400, "an extension with white space at its end", "7.1.1", chunks!("3;a \r\nabc\r\n0\r\n\r\n")),
        cut(400, "an extension with a tab at its end", "7.1.1", chunks!("3;a=b\t\r\nabc\r\n0\r\n\r\n")),
        cut(400, "an extension with an open quote", "7.1.1", chunks!("3;a=\"b\r\nabc\r\n0\r\n\r\n")),
        cut(400, "an extension with words behind a quote", "7.1.1", chunks!("3;a=\"b\"c\r\nabc\r\n0\r\n\r\n")),
        cut(400, "an extension with a bracket", "7.1.1", chunks!("3;a=[b]\r\nabc\r\n0\r\n\r\n")),
        cut(400, "an extension with two equals signs", "7.1.1", chunks!("3;a==b\r\nabc\r\n0\r\n\r\n")),
        cut(400, "an extension with NUL", "7.1.1", chunks!("3;a\x00\r\nabc\r\n0\r\n\r\n")),
        cut(400, "an extension with a control in quotes", "7.1.1", chunks!("3;a=\"\x01\"\r\nabc\r\n0\r\n\r\n")),
        cut(400, "an extension that ends with LF", "TERM.EXT", chunks!("3;a\nabc\r\n0\r\n\r\n")),
        cut(400, "an extension with LF in quotes", "TERM.EXT", chunks!("3;a=\"\nb\"\r\nabc\r\n0\r\n\r\n")),
        cut(400, "an extension with CR in it", "EXT.TERM", chunks!("3;a\rb\r\nabc\r\n0\r\n\r\n")),
        cut(400, "an extension with CR CR LF", "EXT.TERM", chunks!("3;a\r\r\nabc\r\n0\r\n\r\n")),
        cut(400, "an extension in UTF-8", "7.1.1", chunks!("3;\u{e9}\r\nabc\r\n0\r\n\r\n")),
        cut(400, "an extension of 300 bytes", "7.1.1", chunked(&format!("3;{}\r\nabc\r\n0\r\n\r\n", "a".repeat(300)))),
        cut(400, "an extension without an end", "7.1.1", chunked(&format!("3;{}", "a".repeat(5000)))),
        cut(400, "a body of extensions", "CVE-2023-39326", chunked(&(format!("1;{}\r\nx\r\n", "a".repeat(100)).repeat(20) + "0\r\n\r\n"))),
    ]
}

#[rustfmt::skip]
fn trailers() -> Vec<RequestCase> {
    vec![
        cut(400, "a trailer without a colon", "7.1.2", chunks!("3\r\nabc\r\n0\r\nX\r\n\r\n")),
        cut(400, "a trailer with a space before its colon", "7.1.2", chunks!("3\r\nabc\r\n0\r\nX : 1\r\n\r\n")),
        cut(400, "a folded trailer", "7.1.2", chunks!("3\r\nabc\r\n0\r\nX: 1\r\n 2\r\n\r\n")),
        cut(400, "a trailer without a name", "7.1.2", chunks!("3\r\nabc\r\n0\r\n: 1\r\n\r\n")),
        cut(400, "a trailer with NUL", "7.1.2", chunks!("3\r\nabc\r\n0\r\nX: \x00\r\n\r\n")),
        cut(400, "a trailer that ends with LF", "7.1.2", chunks!("3\r\nabc\r\n0\r\nX: 1\n\r\n")),
        cut(400, "a trailer with CR in it", "7.1.2", chunks!("3\r\nabc\r\n0\r\nX: 1\r2\r\n\r\n")),
        cut(400, "a request in the trailers", "7.1.2, TRAIL.MRG", chunks!("3\r\nabc\r\n0\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n")),
        cut(431, "33 trailers", "6585 5", chunked(&format!("0\r\n{}\r\n", "X: 1\r\n".repeat(33)))),
        cut(431, "a trailer of 9,000 bytes", "6585 5", chunked(&format!("0\r\nX: {}\r\n\r\n", "x".repeat(9000)))),
    ]
}

#[rustfmt::skip]
fn good() -> Vec<RequestCase> {
    vec![
        passes("chunks are framed anew", "7.1", chunks!("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), [seen!("abcde")]),
        passes("no data at all", "7.1", chunks!("0\r\n\r\n"), [seen!("")]),
        passes("sizes in any case", "7.1", chunks!("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n"), [seen!("01234567890123456789")]),
        passes("sizes with leading zeros", "7.1", chunks!("0000000000000003\r\nabc\r\n000\r\n\r\n"), [seen!("abc")]),
        passes("extensions are taken off", "7.1.1", chunks!("3;a;b=c;d=\"e\\\"f;\"\r\nabc\r\n0;last\r\n\r\n"), [seen!("abc")]),
        passes("white space around the semicolon", "7.1.1", chunks!("3 ;\ta = b\r\nabc\r\n0\r\n\r\n"), [seen!("abc")]),
        passes("data that looks like a chunk", "7.1", chunks!("7\r\n0\r\n\r\nGE\r\n0\r\n\r\n"), [seen!("0\r\n\r\nGE")]),
        passes("trailers are passed on", "7.1.2", chunks!("3\r\nabc\r\n0\r\nX-Sum: 1\r\nx-end:2\r\n\r\n"), [seen!("abc\r\nX-Sum: 1\r\nx-end: 2")]),
        passes("a length among the trailers is dropped", "9110 6.5.1", chunks!("3\r\nabc\r\n0\r\nContent-Length: 9\r\n\r\n"), [seen!("abc")]),
        passes("a coding among the trailers is dropped", "9110 6.5.1", chunks!("3\r\nabc\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"), [seen!("abc")]),
        passes("a Host among the trailers is dropped", "9110 6.5.1", chunks!("3\r\nabc\r\n0\r\nHost: b\r\nX: 1\r\n\r\n"), [seen!("abc\r\nX: 1")]),
        passes("an address among the trailers is dropped", "9110 6.5.1", chunks!("3\r\nabc\r\n0\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n"), [seen!("abc")]),
        passes("an address with underscores among the trailers is dropped", "house 9110 6.5.1", chunks!("3\r\nabc\r\n0\r\nX_Forwarded_For: 10.0.0.1\r\n\r\n"), [seen!("abc")]),
        passes("credentials among the trailers are dropped", "9110 6.5.1", chunks!("3\r\nabc\r\n0\r\nAuthorization: x\r\nCookie: y\r\n\r\n"), [seen!("abc")]),
        passes("Connection among the trailers is dropped", "9110 6.5.1", chunks!("3\r\nabc\r\n0\r\nConnection: close\r\n\r\n"), [seen!("abc")]),
        passes("trailers that Connection may name are dropped", "9110 7.6.1", post!("Connection: X-Sum\r\nTransfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"), [seen!("abc")]),
        passes("a request behind the last chunk", "7.1", concat!(chunks!("3\r\nabc\r\n0\r\n\r\n"), get!()), [seen!("abc"), get!()]),
        cut(400, "a size with a vertical tab after", "7.1", chunks!("3\x0b\r\nabc\r\n0\r\n\r\n")),
        cut(400, "a size with a form feed before", "7.1", chunks!("\x0c3\r\nabc\r\n0\r\n\r\n")),
        cut(400, "a last chunk with 0x", "7.1", chunks!("3\r\nabc\r\n0x0\r\n\r\n")),
        cut(400, "a last chunk with a minus", "7.1", chunks!("3\r\nabc\r\n-0\r\n\r\n")),
        cut(400, "a last chunk of 17 zeros", "house 7.1", chunks!("3\r\nabc\r\n00000000000000000\r\n\r\n")),
        cut(400, "LF before a size", "7.1", chunks!("\n3\r\nabc\r\n0\r\n\r\n")),
        cut(400, "an extension with CRLF in quotes", "7.1.1", chunks!("3;a=\"\r\nb\"\r\nabc\r\n0\r\n\r\n")),
        cut(400, "an extension with CR in quotes", "EXT.TERM", chunks!("3;a=\"\r\"\r\nabc\r\n0\r\n\r\n")),
        cut(400, "an extension that ends in a backslash", "7.1.1", chunks!("3;a=\"\\\r\nabc\r\n0\r\n\r\n")),
        cut(400, "an extension of the last chunk with LF", "TERM.EXT", chunks!("3\r\nabc\r\n0;a\n\r\n")),
        cut(413, "a chunk of 2 to the 64th less one", "9110 15.5.14", chunks!("ffffffffffffffff\r\nabc\r\n0\r\n\r\n")),
        cut(413, "a chunk that is negative in 64 bits", "9110 15.5.14", chunks!("fffffffffffffffd\r\nabc\r\n0\r\n\r\n")),
        cut(400, "a coding among the trailers with a space before its colon", "7.1.2", chunks!("3\r\nabc\r\n0\r\nTransfer-Encoding : chunked\r\n\r\n")),
        cut(400, "a status line among the trailers", "7.1.2", chunks!("3\r\nabc\r\n0\r\nHTTP/1.1 200 OK\r\n\r\n")),
        passes("framing with underscores among the trailers is dropped", "house 9110 6.5.1", chunks!("3\r\nabc\r\n0\r\nContent_Length: 9\r\nTransfer_Encoding: chunked\r\nX: 1\r\n\r\n"), [seen!("abc\r\nX: 1")]),
        passes("conditions and expectations among the trailers are dropped", "9110 6.5.1", chunks!("3\r\nabc\r\n0\r\nExpect: 100-continue\r\nIf-Match: x\r\nRange: bytes=0-1\r\nTE: trailers\r\nX: 1\r\n\r\n"), [seen!("abc\r\nX: 1")]),
    ]
}
