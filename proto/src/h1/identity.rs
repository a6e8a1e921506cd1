//! Fields that tell a server whose request it is and by which way it came.
//!
//! Owns which of them a request gains, loses and keeps on its way: what an untrusted peer sends is replaced, what a
//! trusted proxy says is continued. Called by `write` for every request; whom to trust is the caller's decision.

use alloc::string::String;
use alloc::vec::Vec;
use core::str;

use super::write::put;
use crate::ascii;
use crate::authority::Authority;
use crate::fields::{FieldId, FieldSet, X_CLIENT_CERT, X_FORWARDED_OTHER, X_JA4};
use crate::forwarded::{HopList, element_of};
use crate::message::RequestHead;

/// The client's address as text where the connection is a Unix socket: the word of nginx.
pub const UNIX_TEXT: &[u8] = b"unix:";

/// Which of these fields servers get, settled once from the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityPolicy {
    /// Send X-Forwarded-For, -Proto, -Host and -Port.
    pub x_forwarded: bool,
    /// Send Forwarded.
    pub forwarded: bool,
    /// The list that trusted proxies maintain; the other one is begun anew.
    pub trusted_list: HopList,
    /// How X-Real-IP is handled.
    pub real_ip: RealIp,
    /// How X-Request-Id is handled.
    pub request_id: RequestId,
    /// Our name in Via: a token, or host and port.
    pub via: String,
    /// The value of `by` in Forwarded, in quotes if it needs them; empty for none.
    pub by: String,
    /// Which fields say what the client has shown by TLS.
    pub tls: TlsFields,
}

impl Default for IdentityPolicy {
    fn default() -> Self {
        Self {
            x_forwarded: true,
            forwarded: false,
            trusted_list: HopList::XForwardedFor,
            real_ip: RealIp::Trusted,
            request_id: RequestId::Make,
            via: String::from("sluice"),
            by: String::new(),
            tls: TlsFields::default(),
        }
    }
}

/// Which fields say what the client has shown by TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsFields {
    /// X-Client-Cert-Subject, -SAN and -Fingerprint.
    pub client_certificate: bool,
    /// X-JA4.
    pub ja4: bool,
}

/// How X-Real-IP is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RealIp {
    /// A trusted proxy's passes, any other is removed.
    Trusted,
    /// Replaced by the client's address.
    Set,
    /// Removed.
    Remove,
}

/// How X-Request-Id is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestId {
    /// A trusted proxy's is kept, if it is well-formed; else a new one is made.
    Make,
    /// Whatever came along passes.
    Pass,
    /// Removed.
    Remove,
}

/// Whether the peer's word is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It is a proxy whose word is taken.
    Trusted,
    /// It may be any client.
    Untrusted,
}

/// The identity of a request's client.
#[derive(Clone, Copy, Debug)]
pub struct ClientIdentity<'a> {
    /// The address of the connection as text; IPv6 without brackets.
    pub peer: &'a [u8],
    /// The address of the client, found past trusted proxies, as text; IPv6 without brackets.
    pub client: &'a [u8],
    /// Whether the peer's word is taken.
    pub trust: Trust,
    /// The scheme of the connection: `http` or `https`.
    pub proto: &'a str,
    /// A number that no other request has.
    pub request_id: u128,
    /// What is known of the client by TLS; nothing of most.
    pub tls: Option<&'a TlsIdentity<'a>>,
}

/// What a client has shown of itself by TLS. All of it is printable ASCII.
#[derive(Clone, Copy, Debug, Default)]
pub struct TlsIdentity<'a> {
    /// Its certificate.
    pub certificate: Option<CertificateIdentity<'a>>,
    /// The JA4 fingerprint of its handshake.
    pub ja4: Option<&'a str>,
}

/// The identity in a client's certificate. A part that is empty is left out.
#[derive(Clone, Copy, Debug)]
pub struct CertificateIdentity<'a> {
    /// The subject.
    pub subject: &'a str,
    /// The names (subjectAltName).
    pub alt_names: &'a str,
    /// SHA-256 of the certificate, in hexadecimal.
    pub fingerprint: &'a str,
}

/// Fields that are never copied: what a server gets of them is written here.
const REPLACED: FieldSet = FieldSet::of(&[
    FieldId::XForwardedFor,
    FieldId::XForwardedProto,
    FieldId::XForwardedHost,
    FieldId::XForwardedPort,
    FieldId::Forwarded,
]);

/// Longest X-Request-Id that is kept.
const REQUEST_ID_BYTES_MAX: usize = 128;

impl IdentityPolicy {
    /// The fields that are not copied from a request.
    pub(super) fn dropped(&self, head: &RequestHead<'_>, sender: &ClientIdentity<'_>) -> FieldSet {
        let mut dropped = REPLACED;
        if self.real_ip != RealIp::Trusted || sender.trust == Trust::Untrusted {
            dropped.insert(FieldId::XRealIp);
        }
        if !self.keeps_request_id(head, sender) {
            dropped.insert(FieldId::XRequestId);
        }
        dropped
    }

    /// The marks of fields that are not copied from a request.
    pub(super) fn dropped_marks(&self, sender: &ClientIdentity<'_>) -> u8 {
        if sender.trust == Trust::Trusted {
            return 0;
        }
        X_FORWARDED_OTHER
            | if self.tls.client_certificate { X_CLIENT_CERT } else { 0 }
            | if self.tls.ja4 { X_JA4 } else { 0 }
    }

    fn keeps_request_id(&self, head: &RequestHead<'_>, sender: &ClientIdentity<'_>) -> bool {
        match self.request_id {
            RequestId::Pass => true,
            RequestId::Remove => false,
            RequestId::Make => {
                sender.trust == Trust::Trusted
                    && head.fields.single(FieldId::XRequestId).is_some_and(is_request_id)
            }
        }
    }

    /// Appends the fields.
    pub(super) fn put(&self, out: &mut Vec<u8>, head: &RequestHead<'_>, sender: &ClientIdentity<'_>) {
        match (self.x_forwarded, sender.trust) {
            (false, _) => {}
            (true, Trust::Untrusted) => put_x_forwarded(out, head, sender),
            (true, Trust::Trusted) => self.continue_x_forwarded(out, head, sender),
        }
        if self.forwarded {
            self.put_forwarded(out, head, sender);
        }
        if self.real_ip == RealIp::Set {
            put(out, "X-Real-IP: ");
            out.extend_from_slice(sender.client);
            put(out, "\r\n");
        }
        if !self.keeps_request_id(head, sender) && self.request_id == RequestId::Make {
            put(out, "X-Request-Id: ");
            put_hex(out, sender.request_id);
            put(out, "\r\n");
        }
        if let (Some(tls), Trust::Untrusted) = (sender.tls, sender.trust) {
            self.put_tls(out, tls);
        }
        //= https://www.rfc-editor.org/rfc/rfc9110#section-7.6.3
        put(out, "Via: ");
        put(out, head.version.as_str());
        put(out, " ");
        put(out, &self.via);
        put(out, "\r\n");
    }

    /// The id that the client brought, if servers get that one.
    pub fn kept_request_id<'h>(
        &self,
        head: &RequestHead<'h>,
        sender: &ClientIdentity<'_>,
    ) -> Option<&'h [u8]> {
        head.fields.single(FieldId::XRequestId).filter(|_| self.keeps_request_id(head, sender))
    }

    /// What a client has shown by TLS. A trusted proxy has its own certificate and its own way of shaking hands: what it says of
    /// its client is passed on, and nothing is said of itself.
    #[cold]
    fn put_tls(&self, out: &mut Vec<u8>, tls: &TlsIdentity<'_>) {
        if let (true, Some(certificate)) = (self.tls.client_certificate, &tls.certificate) {
            put_unless_empty(out, "X-Client-Cert-Subject: ", certificate.subject);
            put_unless_empty(out, "X-Client-Cert-SAN: ", certificate.alt_names);
            put_unless_empty(out, "X-Client-Cert-Fingerprint: ", certificate.fingerprint);
        }
        if let (true, Some(ja4)) = (self.tls.ja4, tls.ja4) {
            put_unless_empty(out, "X-JA4: ", ja4);
        }
    }

    /// What a trusted proxy says, where that is well-formed, and its own address.
    #[inline(never)]
    fn continue_x_forwarded(&self, out: &mut Vec<u8>, head: &RequestHead<'_>, sender: &ClientIdentity<'_>) {
        let named = self.named(head, sender);
        put(out, "X-Forwarded-For: ");
        let hop = self.continue_list(out, head, sender, HopList::XForwardedFor);
        out.extend_from_slice(hop);
        put(out, "\r\nX-Forwarded-Proto: ");
        out.extend_from_slice(named.proto.unwrap_or(sender.proto.as_bytes()));
        let host = named.host.unwrap_or(head.authority.as_bytes());
        if !host.is_empty() {
            put(out, "\r\nX-Forwarded-Host: ");
            out.extend_from_slice(host);
        }
        // A proxy that ends TLS in front of us knows the port; ours would be a wrong guess beside its scheme.
        if let Some(port) = named.port {
            put(out, "\r\nX-Forwarded-Port: ");
            out.extend_from_slice(port);
        }
        put(out, "\r\n");
    }

    /// What a trusted proxy says of the client's request, where that is well-formed: in the fields that it maintains, since
    /// the others may have come from any client.
    fn named<'a>(&self, head: &RequestHead<'a>, sender: &ClientIdentity<'_>) -> Named<'a> {
        if sender.trust == Trust::Untrusted {
            return Named::default();
        }
        let (proto, host, port) = match self.trusted_list {
            HopList::XForwardedFor => (
                head.fields.single(FieldId::XForwardedProto),
                head.fields.single(FieldId::XForwardedHost),
                head.fields.single(FieldId::XForwardedPort),
            ),
            HopList::Forwarded => {
                let client = str::from_utf8(sender.client).ok().and_then(|text| text.parse().ok());
                let element = client.and_then(|client| element_of(&head.field_list(), client));
                let element = element.unwrap_or_default();
                (element.proto, element.host, None)
            }
        };
        Named {
            proto: proto.filter(|value| is_scheme(value)),
            host: host.filter(|value| is_authority(value)),
            port: port.filter(|value| is_port(value)),
        }
    }

    //= https://www.rfc-editor.org/rfc/rfc7239#section-4
    #[inline(never)]
    fn put_forwarded(&self, out: &mut Vec<u8>, head: &RequestHead<'_>, sender: &ClientIdentity<'_>) {
        put(out, "Forwarded: ");
        let start = out.len();
        let hop = self.continue_list(out, head, sender, HopList::Forwarded);
        // An element that begins the list is about the client, one that continues it about the proxy in front of us.
        let named = if out.len() == start { self.named(head, sender) } else { Named::default() };
        //= https://www.rfc-editor.org/rfc/rfc7239#section-6
        // "an IPv6 address is always enclosed in square brackets" and quoted, since neither is a token.
        // A client without an address is "unknown" (section 6.3).
        let hop = if hop == UNIX_TEXT { &b"unknown"[..] } else { hop };
        let (before, after) = if hop.contains(&b':') { ("for=\"[", "]\"") } else { ("for=", "") };
        put(out, before);
        out.extend_from_slice(hop);
        put(out, after);
        if !self.by.is_empty() {
            put(out, ";by=");
            put(out, &self.by);
        }
        let host = named.host.unwrap_or(head.authority.as_bytes());
        if !host.is_empty() {
            // A valid authority holds neither quotes nor backslashes, but may well hold a colon.
            put(out, ";host=\"");
            out.extend_from_slice(host);
            put(out, "\"");
        }
        put(out, ";proto=");
        out.extend_from_slice(named.proto.unwrap_or(sender.proto.as_bytes()));
        put(out, "\r\n");
    }

    /// Appends what a trusted proxy has written of the list that it maintains; gives the address that comes next: of the
    /// connection where the list goes on, of the client where it begins.
    fn continue_list<'a>(
        &self,
        out: &mut Vec<u8>,
        head: &RequestHead<'_>,
        sender: &ClientIdentity<'a>,
        list: HopList,
    ) -> &'a [u8] {
        let start = out.len();
        if sender.trust == Trust::Trusted && list == self.trusted_list {
            for value in head.fields.values(list.field()).filter(|value| can_go_on(value, list)) {
                out.extend_from_slice(value);
                put(out, ", ");
            }
        }
        if out.len() > start { sender.peer } else { sender.client }
    }
}

/// Whether what is appended to a value of the list will be read as an entry of its own: not behind quotes that are left open.
fn can_go_on(value: &[u8], list: HopList) -> bool {
    let has_open_quotes = || {
        let quotes = value.iter().filter(|&&byte| byte == b'"').count();
        quotes % 2 != 0 || value.contains(&b'\\')
    };
    !value.is_empty() && (list == HopList::XForwardedFor || !has_open_quotes())
}

fn put_unless_empty(out: &mut Vec<u8>, start: &str, value: &str) {
    if !value.is_empty() {
        put(out, start);
        put(out, value);
        put(out, "\r\n");
    }
}

/// Our own values. The usual case.
fn put_x_forwarded(out: &mut Vec<u8>, head: &RequestHead<'_>, sender: &ClientIdentity<'_>) {
    let is_https = sender.proto == "https";
    put(out, "X-Forwarded-For: ");
    out.extend_from_slice(sender.client);
    put(out, if is_https { "\r\nX-Forwarded-Proto: https" } else { "\r\nX-Forwarded-Proto: http" });
    if !head.authority.is_empty() {
        put(out, "\r\nX-Forwarded-Host: ");
        put(out, head.authority);
    }
    match port_of(head.authority) {
        Some(port) => {
            put(out, "\r\nX-Forwarded-Port: ");
            put(out, port);
            put(out, "\r\n");
        }
        None if is_https => put(out, "\r\nX-Forwarded-Port: 443\r\n"),
        None => put(out, "\r\nX-Forwarded-Port: 80\r\n"),
    }
}

/// A trusted proxy's values for the client's request.
#[derive(Default)]
struct Named<'a> {
    proto: Option<&'a [u8]>,
    host: Option<&'a [u8]>,
    port: Option<&'a [u8]>,
}

fn is_scheme(value: &[u8]) -> bool {
    [&b"http"[..], b"https", b"ws", b"wss"].iter().any(|known| value.eq_ignore_ascii_case(known))
}

fn is_authority(value: &[u8]) -> bool {
    str::from_utf8(value).is_ok_and(|text| Authority::parse(text).is_some())
}

/// 1 to 65535, written plainly.
fn is_port(value: &[u8]) -> bool {
    !value.starts_with(b"0") && ascii::parse_decimal(value).is_some_and(|port| port <= u64::from(u16::MAX))
}

/// Letters, digits and the punctuation of UUIDs, base64 and trace identifiers.
fn is_request_id(value: &[u8]) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&value.len())
        && value.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=:@".contains(byte))
}

/// The port in a valid authority, as it was written.
fn port_of(authority: &str) -> Option<&str> {
    let start = authority.len().saturating_sub(":65535".len());
    let colon = start + authority.as_bytes()[start..].iter().rposition(|&byte| byte == b':')?;
    // The last colon of an IPv6 address without a port is inside its brackets.
    authority.get(colon + 1..).filter(|port| !port.is_empty() && !port.ends_with(']'))
}

/// 32 hexadecimal digits.
fn put_hex(out: &mut Vec<u8>, number: u128) {
    out.extend_from_slice(&request_id_text(number));
}

/// The number of a request as its id is written.
pub fn request_id_text(number: u128) -> [u8; 32] {
    let words = [number >> 96, number >> 64, number >> 32, number].map(|word| hex(word as u32));
    let mut text = [0; 32];
    text.copy_from_slice(words.as_flattened());
    text
}

/// Eight digits at once: half a byte to each byte, then to its letter.
fn hex(word: u32) -> [u8; 8] {
    let mut halves = u64::from(word);
    halves = (halves | halves << 16) & 0x0000_ffff_0000_ffff;
    halves = (halves | halves << 8) & 0x00ff_00ff_00ff_00ff;
    halves = (halves | halves << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let is_letter = (halves + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
    (halves + 0x3030_3030_3030_3030 + is_letter * u64::from(b'a' - b'0' - 10)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_what_the_formatter_writes() {
        for number in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210, 1 << 127] {
            let mut out = Vec::new();
            put_hex(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), alloc::format!("{number:032x}"));
        }
    }

    #[test]
    fn ports_are_found_in_authorities() {
        for (authority, port) in [
            ("a.example", None),
            ("a.example:8443", Some("8443")),
            ("a.example:", None),
            ("[::1]", None),
            ("[::1]:81", Some("81")),
            ("", None),
        ] {
            assert_eq!(port_of(authority), port, "{authority}");
        }
    }

    #[test]
    fn request_ids_are_plain() {
        let long = "x".repeat(129);
        for (id, is_fine) in [
            ("7b0e5c1a-9d2f-4f43-a8f6-0a2b6c1d9e8f", true),
            ("abc+/=:@~._", true),
            (&long[..128], true),
            (&long, false),
            ("", false),
            ("a b", false),
            ("a,b", false),
            ("a\"b", false),
            ("\u{e9}", false),
        ] {
            assert_eq!(is_request_id(id.as_bytes()), is_fine, "{id}");
        }
    }
}
