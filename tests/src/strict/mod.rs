//! Tables of raw bytes: what a client or a server may say, and what has to become of it.
//!
//! Owns the cases ([`requests`], [`responses`]), each with the section or the attack it comes from, the words in which
//! they say what they expect, and the reading of what arrived at an origin ([`arrived`]). The tests
//! `strict_requests` and `strict_responses` run them through the proxy; `differential` runs the requests through
//! other proxies as well.

pub mod requests;
pub mod responses;

use std::fmt::Write;

/// A request, or several, and what has to become of them.
#[derive(Debug, Clone)]
pub struct RequestCase {
    /// What it is.
    pub name: &'static str,
    /// The section of RFC 9112 that decides, or another document with its section, or the class of attack.
    pub section: &'static str,
    /// What the client sends.
    pub bytes: Vec<u8>,
    /// What has to become of it.
    pub fate: Fate,
}

/// What has to become of the bytes of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The proxy answers with this status and closes. Not a byte reaches the origin.
    Refused(u16),
    /// The same, but the beginning of the request may have reached the origin; never its end.
    Cut(u16),
    /// The proxy answers with this status by itself, and the connection goes on.
    Answered(u16),
    /// Exactly this reaches the origin, and the connection goes on.
    Forwarded(Vec<String>),
    /// Exactly this reaches the origin, and the proxy closes after the answers.
    Last(Vec<String>),
    /// Exactly this reaches the origin; what follows is refused with this status, and the proxy closes.
    Then(Vec<String>, u16),
}

fn request(name: &'static str, section: &'static str, bytes: impl AsRef<[u8]>, fate: Fate) -> RequestCase {
    RequestCase { name, section, bytes: bytes.as_ref().to_vec(), fate }
}

fn texts<const N: usize>(requests: [&str; N]) -> Vec<String> {
    requests.map(str::to_owned).into()
}

/// A request that is refused, see [`Fate::Refused`].
fn refused(status: u16, name: &'static str, section: &'static str, bytes: impl AsRef<[u8]>) -> RequestCase {
    request(name, section, bytes, Fate::Refused(status))
}

/// A request that is refused after it has begun, see [`Fate::Cut`].
fn cut(status: u16, name: &'static str, section: &'static str, bytes: impl AsRef<[u8]>) -> RequestCase {
    request(name, section, bytes, Fate::Cut(status))
}

/// Requests that are forwarded as `seen`, see [`Fate::Forwarded`].
fn passes<const N: usize>(
    name: &'static str,
    section: &'static str,
    bytes: impl AsRef<[u8]>,
    seen: [&str; N],
) -> RequestCase {
    request(name, section, bytes, Fate::Forwarded(texts(seen)))
}

/// Requests that are forwarded as `seen`, the last of its connection, see [`Fate::Last`].
fn last<const N: usize>(
    name: &'static str,
    section: &'static str,
    bytes: impl AsRef<[u8]>,
    seen: [&str; N],
) -> RequestCase {
    request(name, section, bytes, Fate::Last(texts(seen)))
}

/// Requests that are forwarded as `seen`, then one that is not, see [`Fate::Then`].
fn then<const N: usize>(
    status: u16,
    name: &'static str,
    section: &'static str,
    bytes: impl AsRef<[u8]>,
    seen: [&str; N],
) -> RequestCase {
    request(name, section, bytes, Fate::Then(texts(seen), status))
}

/// `GET / HTTP/1.1` with `Host: a` and these field lines.
macro_rules! get {
    ($($fields:literal),*) => { concat!("GET / HTTP/1.1\r\nHost: a\r\n", $($fields,)* "\r\n") };
}

/// `POST / HTTP/1.1` with `Host: a`, these field lines, and what follows the head.
macro_rules! post {
    ($fields:literal, $body:literal) => {
        concat!("POST / HTTP/1.1\r\nHost: a\r\n", $fields, "\r\n", $body)
    };
}

/// A POST in chunks, with what follows the head.
macro_rules! chunks {
    ($body:literal) => {
        post!("Transfer-Encoding: chunked\r\n", $body)
    };
}

use {chunks, get, post};

/// The request that tells whether a connection goes on.
pub const SENTINEL: &str = "GET /sentinel HTTP/1.1\r\nHost: sentinel\r\n\r\n";

/// Fields by which a proxy says where a request comes from: other tests look at them.
const IDENTITY: [&str; 5] = ["x-forwarded-", "forwarded:", "via:", "x-request-id:", "x-real-ip:"];

/// What arrived on one connection of an origin: each request with its head as it came, without the identity fields
/// and with its body taken out of its framing. What is not a whole request ends with `[cut]`.
pub fn arrived(bytes: &[u8]) -> Vec<String> {
    let (mut requests, used) = arrived_whole(bytes);
    if used < bytes.len() {
        requests.push(one_request(&bytes[used..]).0);
    }
    requests
}

/// The same without what is not whole, and how many bytes that was.
pub fn arrived_whole(bytes: &[u8]) -> (Vec<String>, usize) {
    let (mut requests, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let (text, used) = one_request(&bytes[at..]);
        if text.ends_with("[cut]") {
            break;
        }
        requests.push(text);
        at += used;
    }
    (requests, at)
}

fn one_request(bytes: &[u8]) -> (String, usize) {
    let Some(end) = find(bytes, b"\r\n\r\n") else { return (show(bytes) + "[cut]", bytes.len()) };
    let head = show(&bytes[..end]);
    let mut text = String::new();
    for (nth, line) in head.split("\r\n").enumerate() {
        let lower = line.to_ascii_lowercase();
        if nth == 0 || !IDENTITY.iter().any(|name| lower.starts_with(name)) {
            let _ = write!(text, "{line}\r\n");
        }
    }
    text.push_str("\r\n");
    let lower = head.to_ascii_lowercase();
    let field = |name: &str| lower.split("\r\n").find_map(|line| line.strip_prefix(name)).map(str::trim);
    let rest = &bytes[end + 4..];
    let body = match (field("transfer-encoding:"), field("content-length:")) {
        (Some("chunked"), None) => chunked(rest),
        (None, Some(length)) => length
            .parse()
            .ok()
            .filter(|&length| length <= rest.len())
            .map(|length: usize| (show(&rest[..length]), length)),
        (None, None) => Some((String::new(), 0)),
        _ => None,
    };
    match body {
        Some((body, used)) => (text + &body, end + 4 + used),
        None => (text + &show(rest) + "[cut]", bytes.len()),
    }
}

/// The data of a chunked body, then its trailers after a line end; and its length on the wire.
fn chunked(bytes: &[u8]) -> Option<(String, usize)> {
    let (mut text, mut at) = (String::new(), 0);
    loop {
        let line_len = find(&bytes[at..], b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[at..at + line_len]).ok()?, 16).ok()?;
        at += line_len + 2;
        if size == 0 {
            break;
        }
        text += &show(bytes.get(at..at + size)?);
        at += size;
        at += bytes[at..].starts_with(b"\r\n").then_some(2)?;
    }
    loop {
        let line_len = find(&bytes[at..], b"\r\n")?;
        let line = &bytes[at..at + line_len];
        at += line_len + 2;
        if line.is_empty() {
            return Some((text, at));
        }
        text = text + "\r\n" + &show(line);
    }
}

/// Bytes as text, one character for each byte that is not ASCII.
pub fn show(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrived_is_distinguished() {
        let wire = b"POST / HTTP/1.1\r\nHost: a\r\nVia: 1.1 x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\nX: 1\r\n\r\n\
            PUT / HTTP/1.1\r\nContent-Length: 2\r\n\r\nokGET / HTTP/1.1\r\n\r\nGET /x HT";
        assert_eq!(
            arrived(wire),
            [
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nabcd\r\nX: 1",
                "PUT / HTTP/1.1\r\nContent-Length: 2\r\n\r\nok",
                "GET / HTTP/1.1\r\n\r\n",
                "GET /x HT[cut]",
            ]
        );
    }

    #[test]
    fn what_is_cut_is_marked() {
        for wire in [
            "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
        ] {
            assert!(arrived(wire.as_bytes())[0].ends_with("[cut]"), "{wire}");
        }
    }

    #[test]
    fn there_are_as_many_cases_as_promised_and_each_has_its_name() {
        for (count, names) in [
            (
                300,
                requests::all()
                    .flat_map(|(_, cases)| cases)
                    .chain(requests::tunnels())
                    .chain(requests::early_bytes())
                    .map(|case| case.name)
                    .collect::<Vec<_>>(),
            ),
            (100, responses::all().flat_map(|(_, cases)| cases).map(|case| case.name).collect()),
        ] {
            assert!(names.len() >= count, "{} of {count}", names.len());
            let mut unique = names.clone();
            unique.sort_unstable();
            unique.windows(2).for_each(|pair| assert_ne!(pair[0], pair[1]));
        }
    }
}
