//! Content-Length: RFC 9112 section 6.3, RFC 9110 section 8.6.

use crate::strict::{RequestCase, passes, post, refused};

fn bad(name: &'static str, section: &'static str, value: &str) -> RequestCase {
    refused(400, name, section, format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {value}\r\n\r\n12345"))
}

#[rustfmt::skip]
pub(super) fn cases() -> Vec<RequestCase> {
    vec![
        bad("an empty length", "6.3", ""),
        bad("a length with a plus", "6.3", "+5"),
        bad("a length with a minus", "6.3", "-5"),
        bad("minus zero", "6.3", "-0"),
        bad("a hexadecimal length", "6.3", "0x5"),
        bad("a length of hexadecimal letters", "6.3", "a"),
        bad("a fraction", "6.3", "5.0"),
        bad("an exponent", "6.3", "5e0"),
        bad("a length with a space in it", "6.3", "1 0"),
        bad("a length with a tab in it", "6.3", "1\t0"),
        bad("a length with an underscore", "6.3", "1_0"),
        bad("a length with a thousands separator", "6.3", "1'000"),
        bad("a length in quotes", "6.3", "\"5\""),
        bad("a length and a parameter", "6.3", "5;x=1"),
        bad("a length and words", "6.3", "5 bytes"),
        bad("a length in Arabic digits", "6.3", "\u{665}"),
        bad("a length in full-width digits", "6.3", "\u{ff15}"),
        bad("a list of different lengths", "6.3", "5, 6"),
        bad("a list of equal lengths", "house 6.3", "5, 5"),
        bad("a list of equal lengths without a space", "house 6.3", "5,5"),
        bad("a length and a comma", "house 6.3", "5,"),
        bad("a comma and a length", "house 6.3", ",5"),
        bad("a comma for a length", "6.3", ","),
        bad("2 to the 64th", "6.3", "18446744073709551616"),
        bad("2 to the 64th and 5", "6.3", "18446744073709551621"),
        bad("a length of 30 nines", "6.3", "999999999999999999999999999999"),
        bad("the word chunked", "6.3", "chunked"),
        bad("the word null", "6.3", "null"),
        refused(413, "2 to the 64th less one", "9110 15.5.14", post!("Content-Length: 18446744073709551615\r\n", "12345")),
        refused(413, "2 to the 63rd", "9110 15.5.14", post!("Content-Length: 9223372036854775808\r\n", "12345")),
        refused(400, "different lengths", "6.3", post!("Content-Length: 5\r\nContent-Length: 6\r\n", "123456")),
        refused(400, "equal lengths", "house 6.3", post!("Content-Length: 5\r\nContent-Length: 5\r\n", "12345")),
        refused(400, "equal lengths in different case", "house 6.3", post!("Content-Length: 5\r\ncontent-length: 5\r\n", "12345")),
        refused(400, "equal lengths in different spelling", "6.3", post!("Content-Length: 5\r\nContent-Length: 05\r\n", "12345")),
        refused(400, "a length and an empty length", "6.3", post!("Content-Length: 5\r\nContent-Length:\r\n", "12345")),
        refused(400, "zero and a length", "6.3", post!("Content-Length: 0\r\nContent-Length: 5\r\n", "12345")),
        refused(400, "lengths apart from each other", "6.3", post!("Content-Length: 5\r\nX: 1\r\nContent-Length: 6\r\n", "123456")),
        refused(400, "different lengths with GET", "6.3", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n12345"),
        refused(400, "a bad length with HEAD", "6.3", "HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n"),
        refused(400, "a vertical tab before a length", "9110 5.5", post!("Content-Length: \x0b5\r\n", "12345")),
        refused(400, "NUL after a length", "9110 5.5", post!("Content-Length: 5\x00\r\n", "12345")),
        passes("a length", "6.2", post!("Content-Length: 5\r\n", "12345"), [post!("Content-Length: 5\r\n", "12345")]),
        passes("zero", "6.2", post!("Content-Length: 0\r\n", ""), [post!("Content-Length: 0\r\n", "")]),
        passes("a length with leading zeros is written anew", "6.2", post!("Content-Length: 0005\r\n", "12345"), [post!("Content-Length: 5\r\n", "12345")]),
        passes("a length with white space around it", "5.1", post!("Content-Length: \t5 \r\n", "12345"), [post!("Content-Length: 5\r\n", "12345")]),
        passes("a length of a body that looks like a request", "6.2", post!("Content-Length: 18\r\n", "GET / HTTP/1.1\r\n\r\n"), [post!("Content-Length: 18\r\n", "GET / HTTP/1.1\r\n\r\n")]),
        passes("POST without any length", "6.3", post!("", ""), [post!("", "")]),
    ]
}
