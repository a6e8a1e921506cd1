//! Changing protocols: which offers can be passed on, and which answers take one up.
//!
//! Owns the rules for both heads of the handshake, of any protocol and of WebSocket in particular. What travels through the
//! tunnel afterwards is no concern of this module. Called by the engine for the few requests that ask for it.

use sha1::{Digest, Sha1};

use crate::ascii;
use crate::fault::Fault;
use crate::fields::{FieldId, Fields, NAMED_BY_CONNECTION};
use crate::message::{Method, RequestHead, ResponseHead, Version};

/// The protocol of RFC 6455, whose handshake has rules of its own.
pub const WEBSOCKET: &str = "websocket";

/// True for an offer to speak HTTP otherwise: `h2c`, `HTTP/2.0`, `TLS/1.2`. A tunnel is no place for these: what went through it
/// would be requests that were not checked.
pub fn is_another_http(offer: &[u8]) -> bool {
    let name = offer.split(|&b| b == b'/').next().unwrap_or_default();
    [&b"h2c"[..], b"HTTP", b"TLS"].iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// True for `name` or `name/version`, both tokens.
//= https://www.rfc-editor.org/rfc/rfc9110#section-7.8
pub fn is_protocol(text: &[u8]) -> bool {
    let is_token = |part: &[u8]| !part.is_empty() && part.iter().all(|&b| ascii::TOKEN.contains(b));
    let mut parts = text.split(|&b| b == b'/');
    parts.next().is_some_and(is_token) && parts.next().is_none_or(is_token) && parts.next().is_none()
}

/// Checks a request whose offer of `protocol` is going to be passed on.
///
/// # Errors
///
/// It is not GET, it has a body, or it is not what RFC 6455 wants of a WebSocket client.
pub fn check_offer(head: &RequestHead<'_>, protocol: &str) -> Result<(), Fault> {
    //= https://www.rfc-editor.org/rfc/rfc9931#section-7.1
    // Every protocol that leaves HTTP is defined for GET without content only, and with a body that is still under way the
    // beginning of the new protocol would be unknown.
    if head.method != Method::Get || !head.body.is_empty() {
        return Err(Fault::UpgradeRequest);
    }
    if !protocol.eq_ignore_ascii_case(WEBSOCKET) {
        return Ok(());
    }
    let is_http2 = head.version == Version::Http2;
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.1
    // "a base64-encoded value that, when decoded, is 16 bytes in length"
    //= https://www.rfc-editor.org/rfc/rfc8441#section-5
    // HTTP/2 has none: "the :protocol pseudo-header field" does what the key is there for.
    if !is_http2 && !only(&head.fields, "Sec-WebSocket-Key").is_some_and(is_websocket_key) {
        return Err(Fault::WebSocketKey);
    }
    // Which version it is, is between client and server: RFC 6455 section 4.4 has them negotiate it. Over HTTP/2 there is one.
    let is_version = |value: &[u8]| match ascii::parse_decimal(value) {
        Some(version) if is_http2 => version == 13,
        version => version.is_some_and(|version| version <= 255),
    };
    if !only(&head.fields, "Sec-WebSocket-Version").is_some_and(is_version) {
        return Err(Fault::WebSocketVersion);
    }
    Ok(())
}

/// True when a WebSocket offer is of the version whose frames are known here.
//= https://www.rfc-editor.org/rfc/rfc6455#section-4.4
pub fn is_known_version(head: &RequestHead<'_>) -> bool {
    only(&head.fields, "Sec-WebSocket-Version").and_then(ascii::parse_decimal) == Some(13)
}

/// The Sec-WebSocket-Key of an offer that [`check_offer`] has accepted; `None` over HTTP/2, which has none.
//= https://www.rfc-editor.org/rfc/rfc6455#section-4.1
pub fn client_key(head: &RequestHead<'_>) -> Option<[u8; 24]> {
    only(&head.fields, "Sec-WebSocket-Key").filter(|_| head.version != Version::Http2)?.try_into().ok()
}

/// True when this answer takes up the offer of `protocol`, and nothing else besides.
//= https://www.rfc-editor.org/rfc/rfc9110#section-15.2.2
pub fn is_taken_up(head: &ResponseHead<'_>, protocol: &str) -> bool {
    let is_named = |fields: &Fields<'_>| {
        let mut spans = fields.spans.iter().filter(|span| span.id() == FieldId::Upgrade);
        spans.all(|span| span.has(NAMED_BY_CONNECTION))
    };
    let upgrade = head.fields.single(FieldId::Upgrade);
    head.status == 101
        && upgrade.is_some_and(|named| named.eq_ignore_ascii_case(protocol.as_bytes()))
        && is_named(&head.fields)
}

/// The Sec-WebSocket-Key of a request that came without one, because HTTP/2 has none.
//= https://www.rfc-editor.org/rfc/rfc6455#section-4.1
pub fn key_of(request_id: u128) -> [u8; 24] {
    let mut key = [0; 24];
    put_base64(&request_id.to_be_bytes(), &mut key);
    key
}

/// The value of Sec-WebSocket-Accept that answers `key`.
//= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
pub fn accept_of(key: &[u8]) -> [u8; 28] {
    let digest =
        Sha1::new().chain_update(key).chain_update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    let mut accept = [0; 28];
    put_base64(&digest, &mut accept);
    accept
}

/// True when the answer to a WebSocket offer has the Sec-WebSocket-Accept that answers `key`. One that has another was not made
/// for this request.
//= https://www.rfc-editor.org/rfc/rfc6455#section-4.1
pub fn accepts_key(head: &ResponseHead<'_>, key: &[u8]) -> bool {
    only(&head.fields, "Sec-WebSocket-Accept").is_some_and(|value| value == accept_of(key))
}

/// Writes `bytes` in base64 with its padding; `out` is as long as that is.
//= https://www.rfc-editor.org/rfc/rfc4648#section-4
fn put_base64(bytes: &[u8], out: &mut [u8]) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (three, four) in bytes.chunks(3).zip(out.chunks_mut(4)) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for (at, digit) in four.iter_mut().enumerate() {
            let value = bits >> (18 - 6 * at) & 0x3f;
            *digit = if at > three.len() { b'=' } else { DIGITS[value as usize] };
        }
    }
}

/// The value of the only field of this name that is passed on.
fn only<'a>(fields: &Fields<'a>, name: &str) -> Option<&'a [u8]> {
    let is_it =
        |span: &&crate::fields::FieldSpan| span.name(fields.bytes).eq_ignore_ascii_case(name.as_bytes());
    let mut spans = fields.spans.iter().filter(is_it);
    let span = spans.next().filter(|span| !span.has(NAMED_BY_CONNECTION))?;
    spans.next().is_none().then(|| span.value(fields.bytes))
}

/// 16 bytes in base64: 22 digits, of which the last one has two bits only, and the padding.
//= https://www.rfc-editor.org/rfc/rfc4648#section-4
fn is_websocket_key(value: &[u8]) -> bool {
    let is_digit = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    value.len() == 24
        && value[..22].iter().all(is_digit)
        && matches!(value[21], b'A' | b'Q' | b'g' | b'w')
        && value.ends_with(b"==")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::{HeadStore, Parsed, parse_request, parse_response};
    use crate::limits::HeadLimits;
    use crate::message::RequestKind;
    use alloc::format;

    const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";

    fn offer(line: &str, fields: &str, protocol: &str) -> Result<(), Fault> {
        let bytes =
            format!("{line}\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n{fields}\r\n");
        let mut store = HeadStore::default();
        let parsed = parse_request(bytes.as_bytes(), &mut store, &HeadLimits::default());
        let Ok(Parsed::Complete { head, .. }) = parsed else { panic!("{parsed:?}") };
        check_offer(&head, protocol)
    }

    #[test]
    fn offers_are_for_get_without_a_body() {
        assert_eq!(offer("GET / HTTP/1.1", "", "x"), Ok(()));
        assert_eq!(offer("GET / HTTP/1.1", "Content-Length: 0\r\n", "x"), Ok(()));
        assert_eq!(offer("GET / HTTP/1.1", "Content-Length: 1\r\n", "x"), Err(Fault::UpgradeRequest));
        assert_eq!(
            offer("GET / HTTP/1.1", "Transfer-Encoding: chunked\r\n", "x"),
            Err(Fault::UpgradeRequest)
        );
        assert_eq!(offer("POST / HTTP/1.1", "", "x"), Err(Fault::UpgradeRequest));
    }

    #[test]
    fn websocket_clients_have_a_key_and_a_version() {
        let ws = |fields: &str| offer("GET / HTTP/1.1", fields, "WebSocket");
        assert_eq!(ws(&format!("{KEY}{VERSION}")), Ok(()));
        assert_eq!(ws(&format!("{KEY}sec-websocket-version: 8\r\n")), Ok(()));
        assert_eq!(ws(VERSION), Err(Fault::WebSocketKey));
        assert_eq!(ws(&format!("{KEY}{KEY}{VERSION}")), Err(Fault::WebSocketKey));
        assert_eq!(ws(&format!("{KEY}{VERSION}Connection: Sec-WebSocket-Key\r\n")), Err(Fault::WebSocketKey));
        for key in
            ["", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZR==", "dGhlIHNhbXBsZSBub25jZQ=A", "dGhl"]
        {
            assert_eq!(
                ws(&format!("Sec-WebSocket-Key: {key}\r\n{VERSION}")),
                Err(Fault::WebSocketKey),
                "{key}"
            );
        }
        for (version, is_known) in [("13", true), ("8", false), ("0", false)] {
            let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Version: {version}\r\n\r\n");
            let mut store = HeadStore::default();
            let parsed = parse_request(bytes.as_bytes(), &mut store, &HeadLimits::default());
            let Ok(Parsed::Complete { head, .. }) = parsed else { panic!("{parsed:?}") };
            assert_eq!(is_known_version(&head), is_known, "{version}");
            assert_eq!(client_key(&head), None);
        }
        assert_eq!(ws(KEY), Err(Fault::WebSocketVersion));
        assert_eq!(ws(&format!("{KEY}{VERSION}{VERSION}")), Err(Fault::WebSocketVersion));
        for version in ["", "x", "-1", "256", "13, 8"] {
            let fields = format!("{KEY}Sec-WebSocket-Version: {version}\r\n");
            assert_eq!(ws(&fields), Err(Fault::WebSocketVersion), "{version}");
        }
    }

    #[test]
    fn the_key_of_a_client_is_found() {
        let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\n{KEY}\r\n");
        let mut store = HeadStore::default();
        let parsed = parse_request(bytes.as_bytes(), &mut store, &HeadLimits::default());
        let Ok(Parsed::Complete { head, .. }) = parsed else { panic!("{parsed:?}") };
        assert_eq!(client_key(&head), Some(*b"dGhlIHNhbXBsZSBub25jZQ=="));
    }

    #[test]
    fn only_the_right_answer_takes_an_offer_up() {
        for (answer, protocol, is_taken) in [
            ("101 X\r\nConnection: Upgrade\r\nUpgrade: x/1\r\n", "X/1", true),
            ("101 X\r\nConnection: keep-alive, upgrade\r\nUpgrade: x\r\n", "x", true),
            ("101 X\r\nConnection: Upgrade\r\nUpgrade: x/1\r\n", "x", false),
            ("101 X\r\nConnection: Upgrade\r\nUpgrade: x, y\r\n", "x", false),
            ("101 X\r\nConnection: Upgrade\r\nUpgrade: x\r\nUpgrade: x\r\n", "x", false),
            ("101 X\r\nUpgrade: x\r\n", "x", false),
            ("101 X\r\nConnection: Upgrade\r\n", "x", false),
            ("200 X\r\nConnection: Upgrade\r\nUpgrade: x\r\n", "x", false),
            ("101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n", "websocket", true),
        ] {
            let bytes = format!("HTTP/1.1 {answer}\r\n");
            let mut store = HeadStore::default();
            let kind = RequestKind::Other;
            let parsed = parse_response(bytes.as_bytes(), &mut store, &HeadLimits::default(), &kind);
            let Ok(Parsed::Complete { head, .. }) = parsed else { panic!("{parsed:?}") };
            assert_eq!(is_taken_up(&head, protocol), is_taken, "{answer:?}");
        }
    }

    /// The example of RFC 6455, section 1.3.
    #[test]
    fn a_key_is_answered_by_its_digest() {
        let key = u128::from_be_bytes(*b"the sample nonce");
        assert_eq!(key_of(key), *b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept_of(&key_of(key)), *b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for key in [0, 1, u128::MAX, 0xfb << 120] {
            assert!(is_websocket_key(&key_of(key)), "{key}");
        }
        let is_accepted = |fields: &str| {
            let bytes = format!("HTTP/1.1 101 X\r\n{fields}\r\n");
            let mut store = HeadStore::default();
            let limits = HeadLimits::default();
            let parsed = parse_response(bytes.as_bytes(), &mut store, &limits, &RequestKind::Other);
            let Ok(Parsed::Complete { head, .. }) = parsed else { panic!("{parsed:?}") };
            accepts_key(&head, b"dGhlIHNhbXBsZSBub25jZQ==")
        };
        let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
        assert!(is_accepted(accept));
        assert!(!is_accepted(""));
        assert!(!is_accepted(&format!("{accept}{accept}")));
        assert!(!is_accepted(&accept.replace("s3p", "S3p")));
        assert!(!is_accepted(&accept.replace("=\r", "\r")));
    }

    #[test]
    fn base64_has_its_padding() {
        for (bytes, text) in [(&b"f"[..], "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"foobar", "Zm9vYmFy")]
        {
            let mut out = [0; 8];
            put_base64(bytes, &mut out[..text.len()]);
            assert_eq!(&out[..text.len()], text.as_bytes());
        }
    }

    #[test]
    fn protocols_are_tokens() {
        for (text, is_one) in [
            ("websocket", true),
            ("foo/2", true),
            ("", false),
            ("a/", false),
            ("/1", false),
            ("a/1/2", false),
            ("a b", false),
            ("a,b", false),
        ] {
            assert_eq!(is_protocol(text.as_bytes()), is_one, "{text}");
        }
        for (text, is_http) in
            [("h2c", true), ("TLS/1.2", true), ("http/2.0", true), ("websocket", false), ("h2", false)]
        {
            assert_eq!(is_another_http(text.as_bytes()), is_http, "{text}");
        }
    }
}
