//! Fields: names classified once, values as slices, positions kept without a lifetime.
//!
//! Owns [`FieldId`] (the names the proxy treats specially), [`FieldSpan`] (where a field lies in the head) and [`Fields`]
//! (both together, to iterate). Each name is classified when it is parsed; framing, hop-by-hop rules and rewriting look at
//! ids from then on and never compare a name again. Filled by `h1::head`, `h1::trailers` and `h2::head`, read by all others.

use core::fmt;
use core::ops::Range;

/// Declares the known names once; the classifier, the set type and [`FieldId::name`] all derive from this list.
macro_rules! field_ids {
    ($($id:ident $name:literal,)+) => {
        /// A field name that means something to a proxy, or [`FieldId::Other`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum FieldId {
            $(#[doc = concat!("`", $name, "`")] $id,)+
            /// Any name that is not in this list.
            Other,
            /// A name that would be in this list if its underscores were hyphens: `X_Forwarded_For`. To a recipient that
            /// hands fields on as variables (CGI, WSGI, PHP) both are one, so a request with it is refused.
            Underscored,
        }

        const KNOWN: &[(&str, FieldId)] = &[$(($name, FieldId::$id),)+];
    };
}

field_ids! {
    // Of one connection.
    Connection "Connection",
    KeepAlive "Keep-Alive",
    ProxyConnection "Proxy-Connection",
    Te "TE",
    TransferEncoding "Transfer-Encoding",
    Upgrade "Upgrade",
    Http2Settings "HTTP2-Settings",
    ProxyAuthenticate "Proxy-Authenticate",
    ProxyAuthenticationInfo "Proxy-Authentication-Info",
    ProxyAuthorization "Proxy-Authorization",
    Proxy "Proxy",
    // Framing and routing.
    ContentLength "Content-Length",
    Host "Host",
    Expect "Expect",
    Trailer "Trailer",
    MaxForwards "Max-Forwards",
    // Of the path the message took.
    XForwardedFor "X-Forwarded-For",
    XForwardedProto "X-Forwarded-Proto",
    XForwardedHost "X-Forwarded-Host",
    XForwardedPort "X-Forwarded-Port",
    XRealIp "X-Real-IP",
    XRequestId "X-Request-Id",
    Forwarded "Forwarded",
    Via "Via",
    // Of the request.
    Authorization "Authorization",
    Cookie "Cookie",
    Origin "Origin",
    Referer "Referer",
    UserAgent "User-Agent",
    Accept "Accept",
    AcceptEncoding "Accept-Encoding",
    Range "Range",
    IfMatch "If-Match",
    IfNoneMatch "If-None-Match",
    IfModifiedSince "If-Modified-Since",
    IfUnmodifiedSince "If-Unmodified-Since",
    IfRange "If-Range",
    Pragma "Pragma",
    // Of the response.
    Date "Date",
    Server "Server",
    Location "Location",
    SetCookie "Set-Cookie",
    RetryAfter "Retry-After",
    Vary "Vary",
    Age "Age",
    Expires "Expires",
    ETag "ETag",
    LastModified "Last-Modified",
    WwwAuthenticate "WWW-Authenticate",
    AuthenticationInfo "Authentication-Info",
    // Of both.
    CacheControl "Cache-Control",
    ContentType "Content-Type",
    ContentEncoding "Content-Encoding",
    ContentRange "Content-Range",
    ContentLanguage "Content-Language",
    ContentLocation "Content-Location",
    // Of the WebSocket handshake.
    SecWebSocketKey "Sec-WebSocket-Key",
    SecWebSocketVersion "Sec-WebSocket-Version",
    SecWebSocketProtocol "Sec-WebSocket-Protocol",
    SecWebSocketExtensions "Sec-WebSocket-Extensions",
    SecWebSocketAccept "Sec-WebSocket-Accept",
}

const _: () = assert!(KNOWN.len() < 63, "FieldSet keeps one bit per id in a u64");

/// The slot of a name in [`BY_HASH`]. Length, first and last letter, and the second from the end tell the known names apart
/// ("-host" and "-port" differ there); collisions among them are an error at compile time. No hyphen of a known name stands
/// in any of these places, so a name with underscores in place of hyphens has the same slot.
const fn slot(name: &[u8]) -> usize {
    let len = name.len();
    let first = (name[0] | 0x20) as usize;
    let last = (name[len - 1] | 0x20) as usize;
    let second_last = (name[len.saturating_sub(2)] | 0x20) as usize;
    (len + first * 3 + last * 9 + second_last * 24) & (SLOTS - 1)
}

const SLOTS: usize = 512;

/// One entry per slot: the only id a name with that slot can have.
static BY_HASH: [FieldId; SLOTS] = {
    let mut table = [FieldId::Other; SLOTS];
    let mut index = 0;
    while index < KNOWN.len() {
        let (name, id) = KNOWN[index];
        assert!(id as usize == index);
        let slot = slot(name.as_bytes());
        assert!(
            matches!(table[slot], FieldId::Other),
            "two names share a slot: change the factors in slot()"
        );
        table[slot] = id;
        index += 1;
    }
    table
};

/// `name == known` in any case, eight bytes at a time. Every field of every head comes through here, and the byte-by-byte
/// comparison of the standard library was a quarter of the time it took to read a head.
#[inline]
fn is_same_name(name: &[u8], known: &[u8]) -> bool {
    if name.len() != known.len() {
        return false;
    }
    // The last word overlaps the one before it, which is cheaper than a loop over the bytes that are left.
    if let (Some(name_end), Some(known_end)) = (name.last_chunk(), known.last_chunk()) {
        let (name_words, _) = name.as_chunks();
        let (known_words, _) = known.as_chunks();
        return is_same_word(name_end, known_end)
            && name_words.iter().zip(known_words).all(|(a, b)| is_same_word(a, b));
    }
    // Shorter than a word: two overlapping halves of one, or (TE, Via, Age) not worth it.
    match (name.first_chunk(), name.last_chunk(), known.first_chunk(), known.last_chunk()) {
        (Some(start), Some(end), Some(known_start), Some(known_end)) => {
            is_same_word(&join(start, end), &join(known_start, known_end))
        }
        _ => name.eq_ignore_ascii_case(known),
    }
}

fn join([a, b, c, d]: &[u8; 4], [e, f, g, h]: &[u8; 4]) -> [u8; 8] {
    [*a, *b, *c, *d, *e, *f, *g, *h]
}

/// Compares eight bytes, ignoring the case bit (0x20) wherever `known` has a letter. Known names consist of letters, digits and
/// hyphens, and of these only letters have the bit 0x40.
#[inline]
fn is_same_word(name: &[u8; 8], known: &[u8; 8]) -> bool {
    const LETTERS: u64 = u64::from_ne_bytes([0x40; 8]);
    let (name, known) = (u64::from_ne_bytes(*name), u64::from_ne_bytes(*known));
    (name ^ known) & !((known & LETTERS) >> 1) == 0
}

impl FieldId {
    /// Classifies a field name, in any case. One table lookup and at most one comparison.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-5.1
    #[inline(always)]
    pub fn classify(name: &[u8]) -> Self {
        if name.is_empty() {
            return Self::Other;
        }
        let candidate = BY_HASH[slot(name)];
        match KNOWN.get(candidate as usize) {
            Some((known, _)) if is_same_name(name, known.as_bytes()) => candidate,
            Some((known, _)) => Self::unlike(name, known.as_bytes()),
            None => Self::Other,
        }
    }

    /// The id of a name that is not `known`, although its slot is: rare.
    #[cold]
    fn unlike(name: &[u8], known: &[u8]) -> Self {
        let is_alike = |(&a, &k): (&u8, &u8)| a.eq_ignore_ascii_case(&k) || (a == b'_' && k == b'-');
        if name.len() == known.len() && name.iter().zip(known).all(is_alike) {
            Self::Underscored
        } else {
            Self::Other
        }
    }

    /// True for all but [`FieldId::Other`] and [`FieldId::Underscored`].
    #[inline]
    pub(crate) const fn is_known(self) -> bool {
        (self as usize) < KNOWN.len()
    }

    /// The name as registered; `None` for [`FieldId::Other`] and [`FieldId::Underscored`].
    pub fn name(self) -> Option<&'static str> {
        KNOWN.get(self as usize).map(|(name, _)| *name)
    }
}

/// A set of [`FieldId`]s in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FieldSet(u64);

impl FieldSet {
    /// The set of these ids.
    pub const fn of(ids: &[FieldId]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < ids.len() {
            bits |= 1 << ids[index] as u8;
            index += 1;
        }
        Self(bits)
    }

    /// True when `id` is in the set.
    #[inline]
    pub const fn contains(self, id: FieldId) -> bool {
        self.0 & (1 << id as u8) != 0
    }

    /// True when every id of `other` is in this set.
    pub const fn contains_all(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// Adds `id`.
    #[inline]
    pub const fn insert(&mut self, id: FieldId) {
        self.0 |= 1 << id as u8;
    }

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// One field line, borrowed from the head.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name, classified.
    pub id: FieldId,
    /// The name as received, its case kept.
    pub name: &'a str,
    /// The value without the whitespace around it. Any bytes but controls; not necessarily UTF-8.
    pub value: &'a [u8],
}

impl fmt::Debug for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.value.escape_ascii())
    }
}

/// Where a field lies in its head: offsets only, so that a vector of them is reused from message to message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldSpan {
    name_start: u32,
    value_start: u32,
    value_len: u32,
    name_len: u16,
    id: FieldId,
    flags: u8,
}

const _: () = assert!(size_of::<FieldSpan>() == 16);

/// The line is exactly `name: value` CRLF, so copying it is the same as writing it again.
const CANONICAL: u8 = 1;
/// The Connection field names this field.
pub(crate) const NAMED_BY_CONNECTION: u8 = 2;
/// The name begins with `X-Forwarded-`, or with the same in underscores, and is not a known one.
pub(crate) const X_FORWARDED_OTHER: u8 = 4;
/// The name begins with `X-Client-Cert`, or with the same in underscores.
pub(crate) const X_CLIENT_CERT: u8 = 8;
/// The name is `X-JA4`, begins with `X-JA4-`, or with the same in underscores.
pub(crate) const X_JA4: u8 = 16;
/// The name is `Strict-Transport-Security`.
pub(crate) const STRICT_TRANSPORT_SECURITY: u8 = 32;
/// The sender wants the value in no compression table, ours and those behind us.
//= https://www.rfc-editor.org/rfc/rfc7541#section-7.1.3
pub(crate) const NEVER_INDEXED: u8 = 64;

/// The mark of a name without an id that matters now and then, 0 for all others.
#[inline]
fn mark(name: &[u8]) -> u8 {
    /// Out of the way of the many names that do not even begin so.
    #[cold]
    fn in_full(name: &[u8]) -> u8 {
        // To those who turn names into variables an underscore is a hyphen.
        let is_alike = |(&a, &k): (&u8, &u8)| a.eq_ignore_ascii_case(&k) || (a == b'_' && k == b'-');
        let begins_with = |start: &[u8]| name.len() >= start.len() && name.iter().zip(start).all(is_alike);
        match () {
            () if begins_with(b"X-Forwarded-") => X_FORWARDED_OTHER,
            () if begins_with(b"X-Client-Cert") => X_CLIENT_CERT,
            () if begins_with(b"X-JA4-") || (name.len() == 5 && begins_with(b"X-JA4")) => X_JA4,
            () if name.eq_ignore_ascii_case(b"Strict-Transport-Security") => STRICT_TRANSPORT_SECURITY,
            () => 0,
        }
    }
    match name {
        [b'X' | b'x', _, b'F' | b'f' | b'C' | b'c' | b'J' | b'j', ..] => in_full(name),
        [b'S' | b's', b'T' | b't', ..] => in_full(name),
        _ => 0,
    }
}

impl FieldSpan {
    /// The field that begins at `name_start` in its head, with its value at `value`; all within
    /// [`HEAD_BYTES_HARD_MAX`](crate::limits::HEAD_BYTES_HARD_MAX). `is_canonical` if the line is as we would write it.
    #[inline]
    pub(crate) fn new(
        name: &[u8],
        id: FieldId,
        name_start: usize,
        value: Range<usize>,
        is_canonical: bool,
    ) -> Self {
        let mark = if id == FieldId::Other { mark(name) } else { 0 };
        Self {
            name_start: name_start as u32,
            value_start: value.start as u32,
            value_len: value.len() as u32,
            name_len: name.len() as u16,
            id,
            flags: if is_canonical { CANONICAL } else { 0 } | mark,
        }
    }

    pub(crate) fn id(&self) -> FieldId {
        self.id
    }

    pub(crate) fn name_start(&self) -> usize {
        self.name_start as usize
    }

    /// One past the line's CRLF; meaningful for canonical lines only.
    pub(crate) fn line_end(&self) -> usize {
        self.value_start as usize + self.value_len as usize + 2
    }

    pub(crate) fn name<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        &head[self.name_start()..][..self.name_len as usize]
    }

    pub(crate) fn value<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        &head[self.value_start as usize..][..self.value_len as usize]
    }

    pub(crate) fn is_canonical(&self) -> bool {
        self.flags & CANONICAL != 0
    }

    #[cfg(test)]
    pub(crate) fn is_named_by_connection(&self) -> bool {
        self.has(NAMED_BY_CONNECTION)
    }

    /// Whether one of these marks is set.
    #[inline]
    pub(crate) fn has(&self, marks: u8) -> bool {
        self.flags & marks != 0
    }

    /// The value has so many bytes more, behind those that it had.
    pub(crate) fn extend_value(&mut self, bytes: usize) {
        self.value_len += bytes as u32;
    }

    /// The line was copied to this place of its head.
    pub(crate) fn move_to(&mut self, name_start: usize) {
        self.value_start = name_start as u32 + (self.value_start - self.name_start);
        self.name_start = name_start as u32;
    }

    pub(crate) fn set_never_indexed(&mut self) {
        self.flags |= NEVER_INDEXED;
    }

    pub(crate) fn set_named_by_connection(&mut self) {
        self.flags |= NAMED_BY_CONNECTION;
    }
}

/// The fields of one message, in the order received.
#[derive(Clone, Copy, Default)]
pub struct Fields<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) spans: &'a [FieldSpan],
    pub(crate) present: FieldSet,
}

impl<'a> Fields<'a> {
    /// All fields in the order received.
    pub fn iter(&self) -> impl Iterator<Item = Field<'a>> + use<'a> {
        let bytes = self.bytes;
        self.spans.iter().map(move |span| Field {
            id: span.id,
            // A name is a token, hence ASCII: the parser has checked it.
            name: core::str::from_utf8(span.name(bytes)).unwrap_or_default(),
            value: span.value(bytes),
        })
    }

    /// True when a field with this id is present. One bit test; always false for [`FieldId::Other`].
    pub fn has(&self, id: FieldId) -> bool {
        id != FieldId::Other && self.present.contains(id)
    }

    /// The values of all fields with this id, in order.
    pub fn values(&self, id: FieldId) -> impl DoubleEndedIterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.bytes;
        let spans = if self.has(id) { self.spans } else { &[] };
        spans.iter().filter(move |span| span.id == id).map(move |span| span.value(bytes))
    }

    /// The values of all fields with this name, in any case, in order.
    pub fn values_named<'n>(&self, name: &'n [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        let bytes = self.bytes;
        let is_named = move |span: &&FieldSpan| {
            usize::from(span.name_len) == name.len() && span.name(bytes).eq_ignore_ascii_case(name)
        };
        self.spans.iter().filter(is_named).map(move |span| span.value(bytes))
    }

    /// The value of the first field with this id.
    pub fn first(&self, id: FieldId) -> Option<&'a [u8]> {
        self.values(id).next()
    }

    /// The value of the only field with this id; `None` when there are several.
    pub fn single(&self, id: FieldId) -> Option<&'a [u8]> {
        let mut values = self.values(id);
        values.next().filter(|_| values.next().is_none())
    }

    /// How many field lines there are.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// True when there is no field.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }
}

impl fmt::Debug for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_are_found_in_any_case() {
        for &(name, id) in KNOWN {
            assert_eq!(FieldId::classify(name.as_bytes()), id);
            assert_eq!(FieldId::classify(name.to_ascii_lowercase().as_bytes()), id);
            assert_eq!(FieldId::classify(name.to_ascii_uppercase().as_bytes()), id);
            assert_eq!(id.name(), Some(name));
            assert!(
                name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'),
                "is_same_word relies on it"
            );
        }
    }

    #[test]
    fn every_other_byte_makes_another_name() {
        for &(name, id) in KNOWN {
            for at in 0..name.len() {
                for byte in 0..=u8::MAX {
                    let mut changed = name.as_bytes().to_vec();
                    changed[at] = byte;
                    let is_same = name.as_bytes()[at].eq_ignore_ascii_case(&byte);
                    assert_eq!(FieldId::classify(&changed) == id, is_same, "{}", changed.escape_ascii());
                }
            }
        }
    }

    #[test]
    fn underscores_do_not_hide_a_known_name() {
        for &(name, _) in KNOWN.iter().filter(|(name, _)| name.contains('-')) {
            let all = name.replace('-', "_");
            let first = name.replacen('-', "_", 1).to_ascii_uppercase();
            for alike in [all, first] {
                assert_eq!(FieldId::classify(alike.as_bytes()), FieldId::Underscored, "{alike}");
            }
        }
        assert_eq!(FieldId::classify(b"x_api_key"), FieldId::Other);
    }

    #[test]
    fn near_misses_are_other() {
        for name in
            ["", "h", "hos", "hostt", "h0st", "x.forwarded.for", "content-lengt", "content length", "\u{0}"]
        {
            assert_eq!(FieldId::classify(name.as_bytes()), FieldId::Other, "{name:?}");
        }
        assert_eq!(FieldId::Other.name(), None);
    }

    #[test]
    fn names_that_matter_now_and_then_are_marked() {
        for (name, expected) in [
            ("X-Forwarded-Prefix", X_FORWARDED_OTHER),
            ("x-forwarded-", X_FORWARDED_OTHER),
            ("X_FORWARDED_PREFIX", X_FORWARDED_OTHER),
            ("x-forwarded_ssl", X_FORWARDED_OTHER),
            ("X-Forwarded", 0),
            ("X-Forwardedness", 0),
            ("X-Fast", 0),
            ("", 0),
            ("X-Client-Cert-Subject", X_CLIENT_CERT),
            ("x_client_cert_san", X_CLIENT_CERT),
            ("X-CLIENT_Cert-FINGERPRINT", X_CLIENT_CERT),
            ("X-Client-Cert", X_CLIENT_CERT),
            ("X-Client-Certificate", X_CLIENT_CERT),
            ("X-Client-Cer", 0),
            ("X-Client-Id", 0),
            ("X.Client.Cert", 0),
            ("X-JA4", X_JA4),
            ("x_ja4", X_JA4),
            ("X-Ja4-R", X_JA4),
            ("X-JA", 0),
            ("X-JA4H", 0),
            ("Strict-Transport-Security", STRICT_TRANSPORT_SECURITY),
            ("strict-transport-security", STRICT_TRANSPORT_SECURITY),
            ("Strict-Transport-Securit", 0),
            ("Strict_Transport_Security", 0),
            ("St", 0),
        ] {
            assert_eq!(mark(name.as_bytes()), expected, "{name}");
        }
    }

    #[test]
    fn sets_hold_what_was_put_in() {
        let mut set = FieldSet::of(&[FieldId::Host, FieldId::SecWebSocketAccept]);
        assert!(set.contains(FieldId::Host) && set.contains(FieldId::SecWebSocketAccept));
        assert!(!set.contains(FieldId::Via));
        set.insert(FieldId::Via);
        assert!(set.contains(FieldId::Via));
    }
}
