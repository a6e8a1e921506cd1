//! Transfer-Encoding: RFC 9112 sections 6.1, 6.3 and 7.

use crate::strict::{RequestCase, passes, post, refused};

fn bad(status: u16, name: &'static str, section: &'static str, value: &str) -> RequestCase {
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {value}\r\n\r\n");
    refused(status, name, section, head + "3\r\nabc\r\n0\r\n\r\n")
}

#[rustfmt::skip]
pub(super) fn cases() -> Vec<RequestCase> {
    vec![
        bad(400, "chunked twice", "7.1", "chunked, chunked"),
        bad(400, "chunked three times", "7.1", "chunked,chunked,chunked"),
        bad(400, "chunked not last", "6.3", "chunked, gzip"),
        bad(400, "chunked before identity", "6.3", "chunked, identity"),
        bad(400, "identity", "6.3", "identity"),
        bad(501, "identity before chunked", "6.1", "identity, chunked"),
        bad(400, "gzip alone", "6.3", "gzip"),
        bad(501, "gzip before chunked", "6.1", "gzip, chunked"),
        bad(501, "deflate before chunked", "6.1", "deflate,chunked"),
        bad(501, "an unknown coding before chunked", "6.1", "x, chunked"),
        bad(400, "a word that ends in chunked", "6.3", "xchunked"),
        bad(400, "a word that begins with chunked", "6.3", "chunkedx"),
        bad(400, "chunked misspelt", "6.3", "chunk"),
        bad(400, "chunked with a hyphen", "6.3", "chunk-ed"),
        bad(400, "chunked with a space in it", "6.3", "chun ked"),
        bad(400, "chunked and a word", "6.3", "chunked x"),
        bad(400, "chunked in quotes", "6.3", "\"chunked\""),
        bad(400, "chunked in apostrophes", "6.3", "'chunked'"),
        bad(400, "chunked with a parameter", "6.3", "chunked;q=1"),
        bad(400, "chunked and a semicolon", "6.3", "chunked;"),
        bad(400, "chunked after a semicolon", "6.3", ";chunked"),
        bad(400, "chunked after a colon", "6.3", ": chunked"),
        bad(400, "chunked and a dot", "6.3", "chunked."),
        bad(400, "chunked in brackets", "6.3", "[chunked]"),
        bad(400, "an empty coding", "6.1", ""),
        bad(400, "a comma for a coding", "6.1", ","),
        bad(400, "chunked and a comma", "house 6.1", "chunked,"),
        bad(400, "a comma and chunked", "house 6.1", ",chunked"),
        bad(400, "chunked and an empty member", "house 6.1", "chunked, ,"),
        bad(400, "a coding of zero", "6.3", "0"),
        bad(400, "NUL after chunked", "9110 5.5", "chunked\x00"),
        bad(400, "a vertical tab before chunked", "9110 5.5", "\x0bchunked"),
        bad(400, "a form feed after chunked", "9110 5.5", "chunked\x0c"),
        bad(400, "chunked with the Kelvin sign", "6.3", "chun\u{212a}ed"),
        refused(400, "chunked with a no-break space", "6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \xa0chunked\r\n\r\n0\r\n\r\n"),
        refused(400, "chunked on two lines", "7.1", post!("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        refused(400, "chunked and identity on two lines", "6.3", post!("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n")),
        refused(501, "identity and chunked on two lines", "6.1", post!("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        refused(400, "chunked and nonsense on two lines", "6.3", post!("Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n", "0\r\n\r\n")),
        refused(501, "nonsense and chunked on two lines", "6.1", post!("Transfer-Encoding: cow\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        refused(400, "an empty line and chunked on two lines", "6.1", post!("Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        refused(400, "a length and chunked", "6.3", post!("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        refused(400, "chunked and a length", "6.3", post!("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n")),
        refused(400, "chunked and zero", "6.3", post!("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", "0\r\n\r\n")),
        refused(400, "identity and a length", "6.3", post!("Transfer-Encoding: identity\r\nContent-Length: 3\r\n", "abc")),
        refused(400, "nonsense and a length", "6.3", post!("Transfer-Encoding: cow\r\nContent-Length: 3\r\n", "abc")),
        refused(400, "an empty coding and a length", "6.1", post!("Transfer-Encoding:\r\nContent-Length: 3\r\n", "abc")),
        refused(400, "a length and chunked with GET", "6.3", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        refused(400, "chunks in HTTP/1.0", "6.1", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        refused(400, "chunks in HTTP/1.0 that is kept alive", "6.1", "POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        refused(400, "a length and chunks in HTTP/1.0", "6.1", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
        passes("chunked in any case", "7", post!("tRANSFER-eNCODING: ChUnKeD\r\n", "3\r\nabc\r\n0\r\n\r\n"), [post!("Transfer-Encoding: chunked\r\n", "abc")]),
        passes("chunked with white space around it", "5.1", post!("Transfer-Encoding:\t chunked\t\r\n", "3\r\nabc\r\n0\r\n\r\n"), [post!("Transfer-Encoding: chunked\r\n", "abc")]),
        passes("a coding of the content", "9110 8.4", post!("Content-Encoding: chunked\r\nContent-Length: 3\r\n", "abc"), [post!("Content-Encoding: chunked\r\nContent-Length: 3\r\n", "abc")]),
        passes("TE is not Transfer-Encoding", "9110 10.1.4", post!("TE: chunked\r\nContent-Length: 3\r\n", "abc"), [post!("Content-Length: 3\r\n", "abc")]),
    ]
}
