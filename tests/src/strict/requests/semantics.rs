//! Methods and request fields that a proxy has to act on: RFC 9110 sections 7.6.2, 9 and 10.1.1.

use crate::strict::{Fate, RequestCase, get, last, passes, post, refused, request};

#[rustfmt::skip]
pub(super) fn cases() -> Vec<RequestCase> {
    vec![
        refused(417, "an unknown expectation", "9110 10.1.1", get!("Expect: miracles\r\n")),
        refused(417, "an empty expectation", "9110 10.1.1", get!("Expect:\r\n")),
        refused(417, "100-continue and another expectation", "9110 10.1.1", post!("Expect: 100-continue, x\r\nContent-Length: 3\r\n", "abc")),
        refused(417, "two expectations on two lines", "9110 10.1.1", post!("Expect: 100-continue\r\nExpect: x\r\nContent-Length: 3\r\n", "abc")),
        refused(417, "two expectations the other way round", "9110 10.1.1", post!("Expect: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n", "abc")),
        refused(417, "100-continue with a parameter", "9110 10.1.1", post!("Expect: 100-continue; x=1\r\nContent-Length: 3\r\n", "abc")),
        refused(417, "100-continue after a word", "0.CL by Expect", post!("Expect: y 100-continue\r\nContent-Length: 3\r\n", "abc")),
        refused(417, "100-continue misspelt", "9110 10.1.1", post!("Expect: 100-contin\r\nContent-Length: 3\r\n", "abc")),
        refused(417, "another status", "9110 10.1.1", post!("Expect: 200-ok\r\nContent-Length: 3\r\n", "abc")),
        refused(400, "a folded expectation", "0.CL by Expect", post!("Expect:\r\n 100-continue\r\nContent-Length: 3\r\n", "abc")),
        passes("100-continue with its body", "9110 10.1.1", post!("Expect: 100-continue\r\nContent-Length: 3\r\n", "abc"), [post!("Expect: 100-continue\r\nContent-Length: 3\r\n", "abc")]),
        passes("100-continue in capitals", "9110 10.1.1", post!("Expect: 100-CONTINUE\r\nContent-Length: 3\r\n", "abc"), [post!("Expect: 100-continue\r\nContent-Length: 3\r\n", "abc")]),
        passes("100-continue twice", "9110 10.1.1", post!("Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 3\r\n", "abc"), [post!("Expect: 100-continue\r\nContent-Length: 3\r\n", "abc")]),
        passes("100-continue without a body", "9110 10.1.1", get!("Expect: 100-continue\r\n"), [get!()]),
        passes("100-continue with an empty body", "9110 10.1.1", post!("Expect: 100-continue\r\nContent-Length: 0\r\n", ""), [post!("Content-Length: 0\r\n", "")]),
        last("an expectation in HTTP/1.0", "9110 10.1.1", "POST / HTTP/1.0\r\nHost: a\r\nExpect: x\r\nContent-Length: 3\r\n\r\nabc", [post!("Content-Length: 3\r\n", "abc")]),
        refused(400, "TRACE with a length", "9110 9.3.8", "TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"),
        refused(400, "TRACE with chunks", "9110 9.3.8", "TRACE / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        refused(400, "TRACE with no chunks", "9110 9.3.8", "TRACE / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        passes("TRACE", "9110 9.3.8", "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", ["TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"]),
        passes("TRACE with an empty body", "9110 9.3.8", "TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", ["TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"]),
        passes("hops are counted down", "9110 7.6.2", "OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 10\r\n\r\n", ["OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 9\r\n\r\n"]),
        passes("hops with leading zeros", "9110 7.6.2", "OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 010\r\n\r\n", ["OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 9\r\n\r\n"]),
        passes("hops of other methods are left alone", "9110 7.6.2", get!("Max-Forwards: 0\r\n"), [get!("Max-Forwards: 0\r\n")]),
        request("OPTIONS that ends here", "9110 7.6.2", "OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n", Fate::Answered(200)),
        request("TRACE that ends here", "9110 7.6.2", "TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n", Fate::Answered(501)),
        refused(400, "hops that are no number", "9110 7.6.2", "OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: x\r\n\r\n"),
        refused(400, "a negative number of hops", "9110 7.6.2", "OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: -1\r\n\r\n"),
        refused(400, "an empty number of hops", "9110 7.6.2", "OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards:\r\n\r\n"),
        refused(400, "more hops than 64 bits hold", "9110 7.6.2", "TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 18446744073709551616\r\n\r\n"),
        refused(400, "two numbers of hops", "9110 7.6.2", "OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 1\r\nMax-Forwards: 2\r\n\r\n"),
        passes("HEAD", "9110 9.3.2", "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", ["HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"]),
        passes("GET with a body", "9110 9.3.1", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", ["GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"]),
        passes("GET with chunks", "9110 9.3.1", "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", ["GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nabc"]),
        passes("HEAD with a body", "9110 9.3.2", "HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", ["HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"]),
        passes("DELETE with a body", "9110 9.3.5", "DELETE / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", ["DELETE / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"]),
        passes("OPTIONS with a body", "9110 9.3.7", "OPTIONS * HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", ["OPTIONS * HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"]),
    ]
}
