//! Raw heads that are refused, each with the fault and the section of the RFC that makes it one.
//!
//! One row per trick. Sections are of RFC 9112 unless they name another document; "house" marks what an RFC would let pass and
//! we do not, because two recipients could read it differently. Every head is also cut at every byte: a prefix may be accepted
//! as a beginning, or be refused for the same cause, and nothing else.

use sluice_proto::h1::{HeadStore, Parsed, parse_request, parse_response};
use sluice_proto::{Fault, HeadLimits, RequestKind};

struct Case {
    section: &'static str,
    head: &'static [u8],
    fault: Fault,
}

/// A table row: section, bytes, fault.
const fn row(section: &'static str, head: &'static [u8], fault: Fault) -> Case {
    Case { section, head, fault }
}

#[rustfmt::skip]
const REQUESTS: &[Case] = &[
    // Line ends and whitespace around lines.
    row("2.2", b"GET / HTTP/1.1\nHost: a\r\n\r\n", Fault::BareLf),
    row("2.2", b"GET / HTTP/1.1\r\nHost: a\n\r\n", Fault::BareLf),
    row("2.2", b"GET / HTTP/1.1\r\nHost: a\r\n\n", Fault::BareLf),
    row("2.2", b"GET / HTTP/1.1\r\nHost: a\n\n", Fault::BareLf),
    row("2.2", b"GET / HTTP/1.1\nHost: a\n\n", Fault::BareLf),
    row("2.2", b"GET / HTTP/1.1\r\nHost: a\r\nA: b\nC: d\r\n\r\n", Fault::BareLf),
    row("2.2", b"GET / HTTP/1.1\r\nHost: a\r\nA:\nC: d\r\n\r\n", Fault::BareLf),
    row("2.2", b"GET / HTTP/1.1\r\nHost: a\r\nA: \nTransfer-Encoding: chunked\r\n\r\n", Fault::BareLf),
    row("2.2", b"GET / HTTP/1.0\n\n", Fault::BareLf),
    row("2.2", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::BareLf),
    row("2.2", b"\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::BareLf),
    row("2.2", b"GET / HTTP/1.1\r\nHost: a\r\nA: b\rC: d\r\n\r\n", Fault::BareCr),
    row("2.2", b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\r\n\r\n", Fault::BareCr),
    row("2.2", b"GET / HTTP/1.1\rHost: a\r\n\r\n", Fault::BareCr),
    row("2.2", b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", Fault::BareCr),
    row("2.2", b"GET / HTTP/1.1\r\nHost: a\r\n\rX: y\r\n\r\n", Fault::BareCr),
    row("2.2", b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::BareCr),
    row("2.2", b"\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::LeadingEmptyLines),
    row("2.2", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", Fault::SpaceBeforeFields),
    row("2.2", b"GET / HTTP/1.1\r\n\tX: y\r\nHost: a\r\n\r\n", Fault::SpaceBeforeFields),
    row("5.2", b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n", Fault::ObsFold),
    row("5.2", b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\tc\r\n\r\n", Fault::ObsFold),
    row("5.2", b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n", Fault::ObsFold),

    // Field lines.
    row("5.1", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", Fault::SpaceInFieldName),
    row("5.1", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length\t: 5\r\n\r\n", Fault::SpaceInFieldName),
    row("5.1", b"GET / HTTP/1.1\r\nHost: a\r\nTransfer Encoding: chunked\r\n\r\n", Fault::SpaceInFieldName),
    row("5", b"GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n", Fault::MissingColon),
    row("5", b"GET / HTTP/1.1\r\nHost: a\r\nnonsense\n\r\n", Fault::MissingColon),
    row("5", b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", Fault::EmptyFieldName),
    row("5", b"GET / HTTP/1.1\r\n:\r\n\r\n", Fault::EmptyFieldName),
    row("9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\nA\x00B: c\r\n\r\n", Fault::InvalidFieldName),
    row("9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\nA\x0bB: c\r\n\r\n", Fault::InvalidFieldName),
    row("9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\n\xffA: c\r\n\r\n", Fault::InvalidFieldName),
    row("9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\nA(B): c\r\n\r\n", Fault::InvalidFieldName),
    row("9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\n\"A\": c\r\n\r\n", Fault::InvalidFieldName),
    row("9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\nA{B}: c\r\n\r\n", Fault::InvalidFieldName),
    row("9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\x7f: chunked\r\n\r\n", Fault::InvalidFieldName),
    row("9110 5.5", b"GET / HTTP/1.1\r\nHost: a\r\nA: b\x00c\r\n\r\n", Fault::InvalidFieldValue),
    row("9110 5.5", b"GET / HTTP/1.1\r\nHost: a\r\nA: \x00\r\n\r\n", Fault::InvalidFieldValue),
    row("9110 5.5", b"GET / HTTP/1.1\r\nHost: a\r\nA: b\x0bc\r\n\r\n", Fault::InvalidFieldValue),
    row("9110 5.5", b"GET / HTTP/1.1\r\nHost: a\r\nA: b\x7f\r\n\r\n", Fault::InvalidFieldValue),
    row("9110 5.5", b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", Fault::InvalidFieldValue),

    // The request line.
    row("3", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidMethod),
    row("3.1", b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidMethod),
    row("3.1", b"GET\r\n\r\n", Fault::InvalidMethod),
    row("3.1", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Fault::InvalidMethod),
    row("3.1", b"\x00\x00\x00\x00", Fault::InvalidMethod),
    row("3.1", b"{\"json\":1}\r\n\r\n", Fault::InvalidMethod),
    row("3.1", b"\xef\xbb\xbfGET / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidMethod),
    row("3.1", b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::MethodTooLong),
    row("3.1", b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Fault::MethodTooLong),
    row("3", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLineSpacing),
    row("3", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLineSpacing),
    row("3", b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLineSpacing),
    row("3", b"GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLineSpacing),
    row("3", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Fault::RequestLineSpacing),
    row("3", b"GET / HTTP/1.1\t\r\nHost: a\r\n\r\n", Fault::RequestLineSpacing),
    row("3.2", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidVersion),
    row("C.1.1", b"GET /\r\n\r\n", Fault::MissingVersion),
    row("C.1.1", b"GET /\n", Fault::MissingVersion),
    row("3", b"GET / \r\nHost: a\r\n\r\n", Fault::MissingVersion),
    row("2.3", b"GET / http/1.1\r\nHost: a\r\n\r\n", Fault::InvalidVersion),
    row("2.3", b"GET / HTTP/1\r\nHost: a\r\n\r\n", Fault::InvalidVersion),
    row("2.3", b"GET / HTTP/1,1\r\nHost: a\r\n\r\n", Fault::InvalidVersion),
    row("2.3", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", Fault::InvalidVersion),
    row("2.3", b"GET / HTTP/11.1\r\nHost: a\r\n\r\n", Fault::InvalidVersion),
    row("2.3", b"GET / HTTP/ 1.1\r\nHost: a\r\n\r\n", Fault::InvalidVersion),
    row("2.3", b"GET / HTTPS/1.1\r\nHost: a\r\n\r\n", Fault::InvalidVersion),
    row("2.3", b"GET / XTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidVersion),
    row("9110 15.6.6", b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", Fault::UnsupportedVersion),
    row("9110 15.6.6", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", Fault::UnsupportedVersion),
    row("9110 15.6.6", b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", Fault::UnsupportedVersion),
    row("9110 15.6.6", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Fault::UnsupportedVersion),

    // The target.
    row("3.2", b"GET /a\x01b HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidTarget),
    row("3.2", b"GET /a\x7fb HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidTarget),
    row("3.2", b"GET /a\x00b HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidTarget),
    row("house", b"GET /\xc2\x85 HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidTarget),
    row("3629 3", b"GET /\xc0\xaf HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidTarget),
    row("3629 3", b"GET /\xed\xa0\x80 HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidTarget),
    row("3629 3", b"GET /?\xc3 HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidTarget),
    row("3629 3", b"GET /\xf4\x90\x80\x80 HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidTarget),
    row("3.2.2", b"GET http://caf\xc3\xa9/ HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidTarget),
    row("3.2.2", b"GET http://a\xc3\xa9?\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidTarget),
    row("3.2.3", b"CONNECT caf\xc3\xa9:443 HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidTarget),
    row("3.2", b"GET /caf\xe9 HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidTarget),
    row("3.2", b"GET path HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidTarget),
    row("3.2", b"GET ?q HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidTarget),
    row("3.2", b"GET \\a HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidTarget),
    row("3.2.2", b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidTarget),
    row("3.2.2", b"GET http:///p HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidTarget),
    row("9110 4.2.4", b"GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidTarget),
    row("3.2.3", b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidTarget),
    row("9110 7.4", b"GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Fault::MisdirectedScheme),
    row("9110 7.4", b"GET HTTPS://a/ HTTP/1.1\r\nHost: a:443\r\n\r\n", Fault::MisdirectedScheme),
    row("9110 7.1", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Fault::FragmentInTarget),
    row("9110 7.1", b"GET /a?b#c HTTP/1.1\r\nHost: a\r\n\r\n", Fault::FragmentInTarget),
    row("3986 2.1", b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidPercentEncoding),
    row("3986 2.1", b"GET /a% HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidPercentEncoding),
    row("3986 2.1", b"GET /a%4 HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidPercentEncoding),
    row("3986 2.1", b"GET /a=%4g?a HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidPercentEncoding),
    row("3986 2.1", b"CONNECT a%4g:443 HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidPercentEncoding),
    row("3.2.4", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", Fault::AsteriskForm),
    row("9112 3.2.3", b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidTarget),
    row("9112 3.2.3", b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", Fault::InvalidTarget),
    row("9110 9.3.6", b"CONNECT a:0 HTTP/1.1\r\nHost: a:0\r\n\r\n", Fault::InvalidTarget),
    row("9112 3.2", b"CONNECT a:80 HTTP/1.1\r\nHost: b\r\n\r\n", Fault::HostMismatch),
    row("9112 3.2", b"CONNECT a:80 HTTP/1.1\r\nHost: a:443\r\n\r\n", Fault::HostMismatch),
    row("9112 3.2", b"CONNECT a:80 HTTP/1.1\r\nHost: a:0\r\n\r\n", Fault::HostMismatch),
    row("9110 9.3.6", b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nContent-Length: 1\r\n\r\nx", Fault::ConnectWithBody),

    // Host.
    row("3.2", b"GET / HTTP/1.1\r\n\r\n", Fault::MissingHost),
    row("3.2", b"GET http://a/ HTTP/1.1\r\n\r\n", Fault::MissingHost),
    row("3.2", b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Fault::RepeatedHost),
    row("3.2", b"GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", Fault::RepeatedHost),
    row("3.2", b"GET / HTTP/1.0\r\nHost: a\r\nHOST:\r\n\r\n", Fault::RepeatedHost),
    row("3.3", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", Fault::EmptyHost),
    row("3.3", b"GET / HTTP/1.1\r\nHost:  \t\r\n\r\n", Fault::EmptyHost),
    row("3.2", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Fault::InvalidHost),
    row("3.2", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Fault::InvalidHost),
    row("3.2", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Fault::InvalidHost),
    row("3.2", b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Fault::InvalidHost),
    row("3.2", b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", Fault::InvalidHost),
    row("3.2", b"GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n", Fault::InvalidHost),
    row("3.2", b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", Fault::InvalidHost),
    row("3.2", b"GET / HTTP/1.1\r\nHost: :80\r\n\r\n", Fault::InvalidHost),
    row("3.2", b"GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", Fault::InvalidHost),
    row("3.2", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", Fault::InvalidHost),
    row("3.2", b"GET / HTTP/1.1\r\nHost: [::1]a\r\n\r\n", Fault::InvalidHost),
    row("3.2", b"GET / HTTP/1.1\r\nHost: http://a\r\n\r\n", Fault::InvalidHost),
    row("3.2", b"GET / HTTP/1.1\r\nHost: a%0\r\n\r\n", Fault::InvalidHost),
    row("3.2", b"GET / HTTP/1.1\r\nHost: caf\xc3\xa9\r\n\r\n", Fault::InvalidHost),
    row("3.2", b"GET / HTTP/1.0\r\nHost: a b\r\n\r\n", Fault::InvalidHost),
    row("house 3.2.2", b"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", Fault::HostMismatch),
    row("house 3.2.2", b"GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n", Fault::HostMismatch),
    row("house 3.2.2", b"GET http://a/ HTTP/1.1\r\nHost: a:443\r\n\r\n", Fault::HostMismatch),
    row("house 3.2", b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", Fault::InvalidHost),
    row("house 3.2", b"GET / HTTP/1.1\r\nHost: a%2eb\r\n\r\n", Fault::InvalidHost),
    row("house 3.2", b"GET / HTTP/1.1\r\nHost: a;b\r\n\r\n", Fault::InvalidHost),

    // Framing.
    row("6.3", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::LengthWithTransferEncoding),
    row("6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", Fault::LengthWithTransferEncoding),
    row("6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nContent-Length: 3\r\n\r\n", Fault::LengthWithTransferEncoding),
    row("house 6.3", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", Fault::RepeatedContentLength),
    row("6.3", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\ncontent-length: 4\r\n\r\n", Fault::RepeatedContentLength),
    row("house 6.3", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\n", Fault::InvalidContentLength),
    row("6.3", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3,4\r\n\r\n", Fault::InvalidContentLength),
    row("6.3", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n", Fault::InvalidContentLength),
    row("6.3", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\n", Fault::InvalidContentLength),
    row("6.3", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3 4\r\n\r\n", Fault::InvalidContentLength),
    row("6.3", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\n", Fault::InvalidContentLength),
    row("6.3", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", Fault::InvalidContentLength),
    row("6.3", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: abc\r\n\r\n", Fault::InvalidContentLength),
    row("6.3", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \"3\"\r\n\r\n", Fault::InvalidContentLength),
    row("6.3", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", Fault::InvalidContentLength),
    row("6.3", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \xd9\xa3\r\n\r\n", Fault::InvalidContentLength),
    row("6.1", b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::TransferEncodingInHttp10),
    row("6.1", b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", Fault::TransferEncodingInHttp10),
    row("6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", Fault::EmptyTransferEncoding),
    row("6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,\r\n\r\n", Fault::EmptyTransferEncoding),
    row("house 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n", Fault::EmptyTransferEncoding),
    row("house 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: , chunked\r\n\r\n", Fault::EmptyTransferEncoding),
    row("6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", Fault::ChunkedNotFinal),
    row("6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", Fault::ChunkedNotFinal),
    row("6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n", Fault::ChunkedNotFinal),
    row("6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", Fault::ChunkedNotFinal),
    row("6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked x\r\n\r\n", Fault::ChunkedNotFinal),
    row("6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n", Fault::ChunkedNotFinal),
    row("6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", Fault::ChunkedNotFinal),
    row("6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: 'chunked'\r\n\r\n", Fault::ChunkedNotFinal),
    row("6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", Fault::ChunkedNotFinal),
    row("7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", Fault::ChunkedTwice),
    row("7.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::ChunkedTwice),
    row("6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Fault::UnsupportedCoding),
    row("6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::UnsupportedCoding),
    row("9110 9.3.8", b"TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", Fault::TraceWithBody),
    row("9110 9.3.8", b"TRACE / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::TraceWithBody),
    row("9110 7.6.2", b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: x\r\n\r\n", Fault::InvalidMaxForwards),
    row("9110 7.6.2", b"TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: -1\r\n\r\n", Fault::InvalidMaxForwards),
    row("9110 7.6.2", b"TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 1\r\nMax-Forwards: 2\r\n\r\n", Fault::InvalidMaxForwards),
    row("house 9110 5.1", b"POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 3\r\n\r\n", Fault::UnderscoredFieldName),
    row("house 9110 5.1", b"POST / HTTP/1.1\r\nHost: a\r\nTRANSFER_ENCODING: chunked\r\n\r\n", Fault::UnderscoredFieldName),
    row("house 9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded_For: 10.0.0.1\r\n\r\n", Fault::UnderscoredFieldName),
    row("9110 10.1.1", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 200-ok\r\n\r\n", Fault::Expectation),
    row("9110 10.1.1", b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue, x\r\n\r\n", Fault::Expectation),
    row("9110 10.1.1", b"POST / HTTP/1.1\r\nHost: a\r\nExpect: x\r\nExpect: 100-continue\r\n\r\n", Fault::Expectation),
];

#[rustfmt::skip]
const RESPONSES: &[Case] = &[
    row("2.2", b"HTTP/1.1 200 OK\n\r\n", Fault::BareLf),
    row("2.2", b"HTTP/1.1 200 OK\r\nA: b\n\r\n", Fault::BareLf),
    row("2.2", b"HTTP/1.1 200 OK\r\nA: b\r\n\n", Fault::BareLf),
    row("2.2", b"HTTP/1.1 200 OK\n\n", Fault::BareLf),
    row("2.2", b"HTTP/1.1 200\n\r\n", Fault::BareLf),
    row("2.2", b"HTTP/1.1 200 OK\rA: b\r\n\r\n", Fault::BareCr),
    row("2.2", b"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", Fault::BareCr),
    row("4", b"\r\nHTTP/1.1 200 OK\r\n\r\n", Fault::InvalidVersion),
    row("4", b"\nHTTP/1.1 200 OK\r\n\r\n", Fault::InvalidVersion),
    row("2.2", b"HTTP/1.1 200 OK\r\n A: b\r\n\r\n", Fault::SpaceBeforeFields),
    row("5.2", b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", Fault::ObsFold),
    row("5.1", b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", Fault::SpaceInFieldName),
    row("5", b"HTTP/1.1 200 OK\r\nA\r\n\r\n", Fault::MissingColon),
    row("5", b"HTTP/1.1 200 OK\r\n: b\r\n\r\n", Fault::EmptyFieldName),
    row("9110 5.1", b"HTTP/1.1 200 OK\r\nA\x00: b\r\n\r\n", Fault::InvalidFieldName),
    row("9110 5.5", b"HTTP/1.1 200 OK\r\nA: \x00\r\n\r\n", Fault::InvalidFieldValue),
    row("2.3", b"HTTP/1.a 200 OK\r\n\r\n", Fault::InvalidVersion),
    row("2.3", b"HTTP/2.0 200 OK\r\n\r\n", Fault::UnsupportedVersion),
    row("2.3", b"HTTP/2 200\r\n\r\n", Fault::UnsupportedVersion),
    row("2.3", b"http/1.1 200 OK\r\n\r\n", Fault::InvalidVersion),
    row("2.3", b"ICY 200 OK\r\n\r\n", Fault::InvalidVersion),
    row("2.3", b"SSH-2.0-OpenSSH_9.9\r\n", Fault::InvalidVersion),
    row("2.3", b"\x15\x03\x01\x00\x02", Fault::InvalidVersion),
    row("4", b"HTTP/1.1  200 OK\r\n\r\n", Fault::InvalidStatus),
    row("4", b"HTTP/1.1\t200 OK\r\n\r\n", Fault::InvalidStatus),
    row("4", b"HTTP/1.1 20 OK\r\n\r\n", Fault::InvalidStatus),
    row("4", b"HTTP/1.1 2000 OK\r\n\r\n", Fault::InvalidStatus),
    row("4", b"HTTP/1.1 +20 OK\r\n\r\n", Fault::InvalidStatus),
    row("4", b"HTTP/1.1 200OK\r\n\r\n", Fault::InvalidStatus),
    row("4", b"HTTP/1.1 200\tOK\r\n\r\n", Fault::InvalidStatus),
    row("4", b"HTTP/1.1 200 O\x00K\r\n\r\n", Fault::InvalidStatus),
    row("9110 15", b"HTTP/1.1 099 X\r\n\r\n", Fault::InvalidStatus),
    row("9110 15", b"HTTP/1.1 000 X\r\n\r\n", Fault::InvalidStatus),
    row("6.3", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::LengthWithTransferEncoding),
    row("house 6.3", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", Fault::RepeatedContentLength),
    row("6.3", b"HTTP/1.1 200 OK\r\nContent-Length: 3,3\r\n\r\n", Fault::InvalidContentLength),
    row("9110 8.6", b"HTTP/1.1 204 X\r\nContent-Length: 3\r\n\r\n", Fault::BodyNotAllowed),
    row("6.1", b"HTTP/1.1 204 X\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::BodyNotAllowed),
    row("9110 8.6", b"HTTP/1.1 100 X\r\nContent-Length: 3\r\n\r\n", Fault::BodyNotAllowed),
    row("6.1", b"HTTP/1.1 103 X\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::BodyNotAllowed),
    row("9110 15.2", b"HTTP/1.0 100 X\r\n\r\n", Fault::InterimInHttp10),
    row("9110 15.2", b"HTTP/1.0 101 X\r\nUpgrade: x\r\n\r\n", Fault::InterimInHttp10),
    row("6.3", b"HTTP/1.1 304 X\r\nContent-Length: -1\r\n\r\n", Fault::InvalidContentLength),
    row("6.1", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::TransferEncodingInHttp10),
    row("house 6.3", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", Fault::ChunkedNotFinal),
    row("house 6.1", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Fault::UnsupportedCoding),
    row("7.1", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", Fault::ChunkedTwice),
    row("6.1", b"HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\n", Fault::EmptyTransferEncoding),
];

/// `Ok(true)` for a complete head, `Ok(false)` for a beginning.
fn request(bytes: &[u8], limits: &HeadLimits) -> Result<bool, Fault> {
    parse_request(bytes, &mut HeadStore::default(), limits)
        .map(|parsed| matches!(parsed, Parsed::Complete { .. }))
}

fn response(bytes: &[u8], limits: &HeadLimits) -> Result<bool, Fault> {
    let mut store = HeadStore::default();
    let parsed = parse_response(bytes, &mut store, limits, &RequestKind::Other)?;
    Ok(matches!(parsed, Parsed::Complete { .. }))
}

fn check(cases: &[Case], parse: fn(&[u8], &HeadLimits) -> Result<bool, Fault>) {
    let limits = HeadLimits::default();
    for Case { section, head, fault } in cases {
        let shown = head.escape_ascii();
        assert_eq!(parse(head, &limits), Err(*fault), "section {section}: {shown}");
        for len in 0..head.len() {
            let prefix = parse(&head[..len], &limits);
            assert!(
                prefix == Ok(false) || prefix == Err(*fault),
                "section {section}: {len} of {shown}: {prefix:?}"
            );
        }
    }
}

#[test]
fn requests_are_refused() {
    check(REQUESTS, request);
}

#[test]
fn responses_are_refused() {
    check(RESPONSES, response);
}

#[test]
fn first_bytes_of_other_protocols_are_refused_at_once() {
    let limits = HeadLimits::default();
    for first in [b"\x16\x03" as &[u8], b"\x00", b"\xff", b"{", b" ", b"\"", b"<"] {
        assert_eq!(request(first, &limits), Err(Fault::InvalidMethod), "{first:?}");
    }
    for first in [b"S" as &[u8], b"\x16", b"HTTX", b"220 "] {
        assert_eq!(response(first, &limits), Err(Fault::InvalidVersion), "{first:?}");
    }
}

const SMALL: HeadLimits = HeadLimits { request_line_bytes_max: 40, head_bytes_max: 120, fields_max: 3 };

#[test]
fn limits_hold_to_the_byte() {
    let line =
        |len: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(len - "GET / HTTP/1.1".len()));
    assert_eq!(request(line(40).as_bytes(), &SMALL), Ok(true));
    assert_eq!(request(line(41).as_bytes(), &SMALL), Err(Fault::RequestLineTooLong));

    let head = |len: usize| {
        let start = "GET / HTTP/1.1\r\nHost: a\r\nA: ";
        format!("{start}{}\r\n\r\n", "a".repeat(len - start.len() - 4))
    };
    assert_eq!(request(head(120).as_bytes(), &SMALL), Ok(true));
    assert_eq!(request(head(121).as_bytes(), &SMALL), Err(Fault::HeadTooLarge));

    let fields = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(count - 1));
    assert_eq!(request(fields(3).as_bytes(), &SMALL), Ok(true));
    assert_eq!(request(fields(4).as_bytes(), &SMALL), Err(Fault::TooManyFields));

    let method = |len: usize| format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(len));
    assert_eq!(request(method(32).as_bytes(), &HeadLimits::default()), Ok(true));
    assert_eq!(request(method(33).as_bytes(), &HeadLimits::default()), Err(Fault::MethodTooLong));
}

#[test]
fn limits_are_noticed_before_the_head_is_complete() {
    let limits = HeadLimits::default();
    let endless_line = format!("GET /{}", "a".repeat(20_000));
    let noticed =
        (0..endless_line.len()).find(|&len| request(&endless_line.as_bytes()[..len], &limits).is_err());
    assert_eq!(noticed, Some(limits.request_line_bytes_max + 2));
    assert_eq!(request(endless_line.as_bytes(), &limits), Err(Fault::RequestLineTooLong));

    let endless_field = format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}", "a".repeat(20_000));
    assert_eq!(request(&endless_field.as_bytes()[..16_383], &limits), Ok(false));
    assert_eq!(request(&endless_field.as_bytes()[..16_384], &limits), Err(Fault::HeadTooLarge));
    let endless_phrase = format!("HTTP/1.1 200 {}", "a".repeat(20_000));
    assert_eq!(response(endless_phrase.as_bytes(), &limits), Err(Fault::HeadTooLarge));

    let endless_fields = format!("GET / HTTP/1.1\r\n{}", "A: b\r\n".repeat(101));
    assert_eq!(request(endless_fields.as_bytes(), &limits), Err(Fault::TooManyFields));
}

#[test]
fn hard_caps_hold_whatever_the_configuration_says() {
    let limits =
        HeadLimits { request_line_bytes_max: usize::MAX, head_bytes_max: usize::MAX, fields_max: usize::MAX };
    let endless_line = format!("GET /{}", "a".repeat(70_000));
    assert_eq!(request(endless_line.as_bytes(), &limits), Err(Fault::HeadTooLarge));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(256));
    assert_eq!(request(many.as_bytes(), &limits), Err(Fault::TooManyFields));
}

#[test]
fn connection_options_are_bounded() {
    let options = |count: usize| {
        let names: Vec<String> = (0..count).map(|index| format!("x-{index}")).collect();
        format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {}\r\n\r\n", names.join(","))
    };
    let limits = HeadLimits::default();
    assert_eq!(request(options(32).as_bytes(), &limits), Ok(true));
    assert_eq!(request(options(33).as_bytes(), &limits), Err(Fault::TooManyConnectionOptions));
}

#[test]
fn the_tables_are_as_large_as_they_claim() {
    assert!(REQUESTS.len() + RESPONSES.len() > 150);
}
