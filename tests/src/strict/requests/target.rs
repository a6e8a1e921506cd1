//! The four forms of a request target: RFC 9112 section 3.2, RFC 3986.

use crate::strict::{RequestCase, passes, refused};

pub(super) fn cases() -> Vec<RequestCase> {
    [in_other_forms(), in_absolute_form()].concat()
}

#[rustfmt::skip]
fn in_other_forms() -> Vec<RequestCase> {
    vec![
        refused(400, "a fragment", "9110 7.1", "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "a fragment after a query", "9110 7.1", "GET /a?b#c HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "a number sign at the end", "9110 7.1", "GET /a# HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "a fragment in absolute-form", "3.2.2", "GET http://a/b#c HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "a fragment with two spaces in it", "9110 7.1", "GET /#a b c HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "a space in the path", "3.2", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "a tab in the path", "3.2", "GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "NUL in the path", "3.2", "GET /a\x00b HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "a control in the path", "3.2", "GET /a\x01b HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "a vertical tab in the path", "3.2", "GET /a\x0bb HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "DEL in the path", "3.2", "GET /a\x7fb HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "UTF-8 in the path", "3986 2", b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "Latin-1 in the path", "3986 2", b"GET /caf\xe9 HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "UTF-8 in the query", "3986 2", b"GET /?\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "a space in another alphabet", "3986 2", b"GET /\xe2\x80\x83 HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "a percent sign alone", "3986 2.1", "GET /a% HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "a percent sign and one digit", "3986 2.1", "GET /a%4 HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "a percent sign and letters", "3986 2.1", "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "a percent sign and one letter that is no digit", "3986 2.1", "GET /%4g HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "the percent-u form", "3986 2.1", "GET /%u002e HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "a percent sign in the query", "3986 2.1", "GET /?a=100% HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "a path without a slash", "3.2.1", "GET path HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "a query without a path", "3.2.1", "GET ?q HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "a backslash for a path", "3.2.1", "GET \\a HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "a path that begins with an at sign", "3.2.1", "GET @b/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "dots for a path", "3.2.1", "GET ../x HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "an asterisk with GET", "3.2.4", "GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "an asterisk and a path", "3.2.4", "OPTIONS */ HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "an asterisk and a query", "3.2.4", "OPTIONS *?q HTTP/1.1\r\nHost: a\r\n\r\n"),
        passes("an asterisk with OPTIONS", "3.2.4", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", ["OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"]),
        passes("OPTIONS of a whole server in absolute-form", "3.2.4", "OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n", ["OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"]),
        refused(400, "authority-form with GET", "3.2.3", "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "CONNECT", "9110 9.3.6", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"),
        refused(400, "CONNECT with a path", "9110 9.3.6", "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "CONNECT and a request behind it", "9110 9.3.6", "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        passes("a query is not touched", "3986 3.4", "GET /?a=/../b&c=%2e%2E&d=?&e=// HTTP/1.1\r\nHost: a\r\n\r\n", ["GET /?a=/../b&c=%2e%2E&d=?&e=// HTTP/1.1\r\nHost: a\r\n\r\n"]),
        passes("an empty query is not touched", "3986 3.4", "GET /? HTTP/1.1\r\nHost: a\r\n\r\n", ["GET /? HTTP/1.1\r\nHost: a\r\n\r\n"]),
        passes("a path of every byte that needs no encoding", "3986 3.3", "GET /-._~!$&'()*+,;=:@az09 HTTP/1.1\r\nHost: a\r\n\r\n", ["GET /-._~!$&'()*+,;=:@az09 HTTP/1.1\r\nHost: a\r\n\r\n"]),
        refused(400, "two asterisks", "3.2.4", "OPTIONS ** HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "an asterisk with HEAD", "3.2.4", "HEAD * HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "NUL in the query", "3.2", "GET /?a=\x00 HTTP/1.1\r\nHost: a\r\n\r\n"),
        passes("bytes that browsers do not encode", "house 3986 2", "GET /\"a\"?{|}^`<> HTTP/1.1\r\nHost: a\r\n\r\n", ["GET /%22a%22?{|}^`<> HTTP/1.1\r\nHost: a\r\n\r\n"]),
    ]
}

#[rustfmt::skip]
fn in_absolute_form() -> Vec<RequestCase> {
    vec![
        passes("absolute-form", "3.2.2", "GET http://a/b?c HTTP/1.1\r\nHost: a\r\n\r\n", ["GET /b?c HTTP/1.1\r\nHost: a\r\n\r\n"]),
        passes("absolute-form without a path", "3.2.1", "GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", ["GET / HTTP/1.1\r\nHost: a\r\n\r\n"]),
        passes("absolute-form with a query and no path", "3.2.1", "GET http://a?b HTTP/1.1\r\nHost: a\r\n\r\n", ["GET /?b HTTP/1.1\r\nHost: a\r\n\r\n"]),
        passes("absolute-form in capitals", "3986 3.1", "GET HTTP://A/ HTTP/1.1\r\nHost: a\r\n\r\n", ["GET / HTTP/1.1\r\nHost: A\r\n\r\n"]),
        passes("absolute-form with the default port", "9110 4.2.3", "GET http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n", ["GET / HTTP/1.1\r\nHost: a:80\r\n\r\n"]),
        refused(400, "absolute-form that names another host", "house 3.2.2", "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "absolute-form that names another port", "house 3.2.2", "GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "absolute-form that names a longer host", "house 3.2.2", "GET http://a.b/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "absolute-form with a user", "9110 4.2.4", "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "absolute-form with user and password", "9110 4.2.4", "GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "absolute-form with an empty user", "9110 4.2.4", "GET http://@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "absolute-form with a backslash before an at sign", "9110 4.2.4", "GET http://a\\@b/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "absolute-form without a host", "9110 4.2.1", "GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "absolute-form with one slash", "3.2.2", "GET http:/a/b HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "absolute-form with no slash", "3.2.2", "GET http:a HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "absolute-form with a port out of range", "3986 3.2.3", "GET http://a:65536/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "absolute-form with a port of letters", "3986 3.2.3", "GET http://a:b/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "absolute-form of FTP", "3.2.2", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "absolute-form of a file", "3.2.2", "GET file:///etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(421, "https without TLS", "9110 7.4", "GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(421, "https without TLS, with its port", "9110 7.4", "GET https://a:443/ HTTP/1.1\r\nHost: a:443\r\n\r\n"),
        passes("OPTIONS of a path in absolute-form", "3.2.2", "OPTIONS http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", ["OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n"]),
        refused(400, "absolute-form with an open bracket", "3986 3.2.2", "GET http://[::1/ HTTP/1.1\r\nHost: [::1]\r\n\r\n"),
        refused(400, "absolute-form with an encoded slash in its host", "3986 3.2.2", "GET http://a%2fb/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "absolute-form with a backslash for a slash", "3986 3.2", "GET http:\\\\a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "absolute-form with a comma in its host", "3986 3.2.2", "GET http://a,b/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "absolute-form of another scheme with the same host", "3.2.2", "GET ws://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        refused(400, "absolute-form with an empty host and a port", "9110 4.2.1", "GET http://:80/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    ]
}
