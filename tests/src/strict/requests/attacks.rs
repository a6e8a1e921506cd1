//! Requests as they were used to smuggle others past a proxy, by class. `/admin` is what must not be reached, or must be
//! reached as a request of its own that went through all checks.

use crate::strict::{RequestCase, chunks, cut, get, passes, post, refused, then};

#[rustfmt::skip]
pub(super) fn cases() -> Vec<RequestCase> {
    vec![
        // Front end by length, back end by chunks, and the other way round.
        refused(400, "CL.TE", "CL.TE", post!("Content-Length: 37\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n")),
        refused(400, "CL.TE with one byte for the next request", "CL.TE", post!("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nG")),
        refused(400, "TE.CL", "TE.CL", post!("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "1e\r\nGET /admin HTTP/1.1\r\nX: 1\r\n\r\n\r\n0\r\n\r\n")),
        refused(400, "TE.CL with zero", "TE.CL", post!("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", "1e\r\nGET /admin HTTP/1.1\r\nX: 1\r\n\r\n\r\n0\r\n\r\n")),
        refused(400, "CL.CL", "CL.CL", post!("Content-Length: 0\r\nContent-Length: 34\r\n", "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n")),
        refused(400, "CL.CL in one line", "CL.CL", post!("Content-Length: 0, 34\r\n", "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n")),
        // Codings that only one of two sees.
        refused(400, "TE.TE with xchunked", "TE.TE", post!("Transfer-Encoding: xchunked\r\nContent-Length: 4\r\n", "0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n")),
        refused(400, "TE.TE with a space before the colon", "TE.TE", post!("Transfer-Encoding : chunked\r\nContent-Length: 4\r\n", "0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n")),
        refused(400, "TE.TE with two lines", "TE.TE", post!("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\nContent-Length: 4\r\n", "0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n")),
        refused(400, "TE.TE with a tab", "TE.TE", post!("Transfer-Encoding:\tchunked\r\nContent-Length: 4\r\n", "0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n")),
        refused(400, "TE.TE with a leading space", "TE.TE", "POST / HTTP/1.1\r\n Transfer-Encoding: chunked\r\nHost: a\r\nContent-Length: 4\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n"),
        refused(400, "TE.TE behind LF", "TE.TE", post!("X: x\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n", "0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n")),
        refused(400, "TE.TE behind CR", "TE.TE", post!("X: x\rTransfer-Encoding: chunked\r\nContent-Length: 4\r\n", "0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n")),
        refused(400, "TE.TE folded", "TE.TE", post!("Transfer-Encoding\r\n : chunked\r\nContent-Length: 4\r\n", "0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n")),
        refused(400, "TE.TE with NUL", "TE.TE", post!("Transfer-Encoding: \x00chunked\r\nContent-Length: 4\r\n", "0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n")),
        refused(400, "TE.TE with a vertical tab", "TE.TE, CVE-2019-18277", post!("Transfer-Encoding: \x0bchunked\r\nContent-Length: 4\r\n", "0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n")),
        refused(400, "TE.TE in HTTP/1.0", "TE.TE, pingora CVE-2026-2833", "POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n"),
        refused(400, "chunks that are a part of a value", "TE.TE", post!("Transfer-Encoding: foo chunked\r\nContent-Length: 4\r\n", "0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n")),
        refused(400, "a length of another spelling", "CL.0, CVE-2021-40346 and its like", post!("Content-Length0aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa:\r\nContent-Length: 20\r\nContent-Length: 0\r\n", "GET /admin HTTP/1.1\r\n")),
        // A back end that does not read the body (CL.0) or a front end that does not (0.CL).
        passes("CL.0: the body stays a body", "CL.0", post!("Content-Length: 34\r\n", "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n  "), [post!("Content-Length: 34\r\n", "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n  ")]),
        passes("CL.0 with GET", "CL.0", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 25\r\n\r\nGET /admin HTTP/1.1\r\nX: x", ["GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 25\r\n\r\nGET /admin HTTP/1.1\r\nX: x"]),
        passes("0.CL: what is not announced is a request", "0.CL", concat!(post!("", ""), "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"), [post!("", ""), "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"]),
        refused(400, "0.CL: a length behind a space", "0.CL", post!("Content-Length : 34\r\n", "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n  ")),
        refused(400, "0.CL: a length without a colon", "0.CL", post!("Content-Length\r\n", "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n")),
        refused(400, "0.CL: a length that begins with a space", "0.CL", "POST / HTTP/1.1\r\n Content-Length: 34\r\nHost: a\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n  "),
        refused(400, "0.CL: a length behind a fold", "0.CL", post!("X: 1\r\n Content-Length: 34\r\n", "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n  ")),
        passes("TE.0: chunks are read where they are announced", "TE.0", "OPTIONS / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1d\r\nGET /admin HTTP/1.1\r\nX: 1\r\n\r\n\r\n0\r\n\r\n", ["OPTIONS / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nGET /admin HTTP/1.1\r\nX: 1\r\n\r\n"]),
        then(400, "0.TE: chunks that are not announced", "0.TE", post!("", "0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n"), [post!("", "")]),
        // Chunk framing.
        cut(400, "a chunk whose extension hides a request", "TERM.EXT", chunks!("2;\nxx\r\n30\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n\r\n0\r\n\r\n")),
        cut(400, "a chunk whose line end hides a request", "SPILL.TERM", chunks!("5\r\nAAAAAXX2d\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n0\r\n\r\n")),
        cut(400, "a chunk whose size overflows 32 bits", "7.1", chunks!("10000000000000003\r\nabc\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n")),
        cut(400, "a chunk whose size is negative to some", "7.1", chunks!("-1\r\nGET /admin HTTP/1.1\r\n")),
        cut(400, "a chunk whose size ends at another byte to some", "CVE-2022-32213 and its like", chunks!("3 x\r\nabc\r\n0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n")),
        cut(400, "trailers that end with LF", "TRAIL", chunks!("0\r\nX: 1\n\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n")),
        passes("a request behind the last chunk stands for itself", "pipelining", concat!(chunks!("0\r\n\r\n"), "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"), [chunks!(""), "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"]),
        // Heads that end somewhere else to some.
        refused(400, "an end of LF CR LF", "2.2", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "an end of CR CR", "2.2", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\rGET /admin HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "an end of LF LF before another head", "2.2, CVE-2019-16276 and its like", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\n\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "a line that only some take for a field", "header/body boundary", get!("X\r\nContent-Length: 0\r\n")),
        refused(400, "a request line in a field without a colon", "request line injection", get!("GET /admin HTTP/1.1\r\nHost: b\r\n")),
        refused(400, "a second request line in the first", "request line injection", "GET / HTTP/1.1 GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "a version inside the target", "request line injection", "GET / HTTP/1.1\tX HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "a newline in the target", "request splitting", "GET /x\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n"),
        passes("an encoded newline in the query stays encoded", "request splitting", "GET /?x=%0d%0aSet-Cookie:%20a=b HTTP/1.1\r\nHost: a\r\n\r\n", ["GET /?x=%0d%0aSet-Cookie:%20a=b HTTP/1.1\r\nHost: a\r\n\r\n"]),
        // Who is asked.
        refused(400, "another host by absolute-form", "host confusion", "GET http://internal/admin HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "another host by a user", "host confusion", "GET http://a@internal/admin HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "another host by a target without a slash", "host confusion, @ in the target", "GET @internal/admin HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "another host by a target that begins with a colon", "host confusion", "GET :80/admin HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "another host behind a second Host", "host confusion", "GET /admin HTTP/1.1\r\nHost: a\r\nHost: internal\r\n\r\n"),
        // Connection state.
        passes("a second request is judged like the first", "first-request routing", concat!(get!(), "GET / HTTP/1.1\r\nHost: b\r\n\r\n"), [get!(), "GET / HTTP/1.1\r\nHost: b\r\n\r\n"]),
        then(400, "a second request is refused like the first", "first-request validation", concat!(get!(), "GET http://internal/ HTTP/1.1\r\nHost: a\r\n\r\n"), [get!()]),
        then(400, "a second request with two framings", "pipelining", concat!(get!(), post!("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")), [get!()]),
        refused(400, "an expectation and two framings", "0.CL by Expect", post!("Expect: 100-continue\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        passes("an expectation whose body is a request", "0.CL by Expect", post!("Expect: 100-continue\r\nContent-Length: 34\r\n", "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n  "), [post!("Expect: 100-continue\r\nContent-Length: 34\r\n", "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n  ")]),
        refused(400, "a tunnel that carries requests", "WebSocket smuggling", concat!(get!("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 777\r\n"), "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n")),
    ]
}
