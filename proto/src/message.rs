//! The vocabulary of a message, the same for every protocol version.
//!
//! Owns what a request and a response head say once they have been understood: method, target, authority, status, how the
//! body is framed, whether the connection outlives the exchange. Never says how any of it looks on the wire; `h1` reads and
//! writes the HTTP/1.1 form. All text is borrowed from the connection's receive buffer.

use core::fmt;

use crate::ascii;
pub use crate::fields::{Field, FieldId, FieldSet, FieldSpan, Fields};
use crate::upgrade;

/// The HTTP version of a message, as far as it matters to framing and persistence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// `HTTP/1.0`: no chunked coding, no persistence unless asked for.
    Http10,
    /// `HTTP/1.1`.
    Http11,
    /// `HTTP/2`: frames of its own for everything.
    Http2,
}

impl Version {
    /// The version as it stands in a Via field: `1.0`, `1.1` or `2`.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-7.6.3
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "1.0",
            Self::Http11 => "1.1",
            Self::Http2 => "2",
        }
    }
}

/// A request method. Methods are case-sensitive: `get` is [`Method::Other`].
//= https://www.rfc-editor.org/rfc/rfc9110#section-9.1
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The variants are the registered methods, by their names.
pub enum Method<'a> {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Trace,
    Patch,
    Connect,
    /// Any other token. It is forwarded: what it means is the origin's business.
    Other(&'a str),
}

impl<'a> Method<'a> {
    /// The method with this name. Any text is accepted; whether it is a token is the parser's check.
    #[inline]
    pub fn parse(name: &'a str) -> Self {
        Self::known(name.as_bytes()).unwrap_or(Self::Other(name))
    }

    /// The method with this name, unless it is [`Method::Other`].
    #[inline]
    pub(crate) fn known(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            b"TRACE" => Self::Trace,
            b"PATCH" => Self::Patch,
            b"CONNECT" => Self::Connect,
            _ => return None,
        })
    }

    /// The name as it stands in a request line.
    #[inline]
    pub const fn as_str(self) -> &'a str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
            Self::Connect => "CONNECT",
            Self::Other(name) => name,
        }
    }

    /// True when the client does not ask for any change.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-9.2.1
    pub const fn is_safe(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Options | Self::Trace)
    }

    /// True when sending the request twice has the effect of sending it once, so that a proxy may retry it by itself.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2
    pub const fn is_idempotent(self) -> bool {
        self.is_safe() || matches!(self, Self::Put | Self::Delete)
    }
}

impl fmt::Display for Method<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How long the body of a message is, as far as its head says.
//= https://www.rfc-editor.org/rfc/rfc9110#section-6.4
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// There is none, and nothing on the wire says so: a GET without Content-Length, a 304, the answer to HEAD.
    None,
    /// Exactly this many bytes. `Length(0)` is kept apart from `None`: the peer sent `Content-Length: 0`.
    Length(u64),
    /// Its end is known when it comes.
    Streamed,
}

impl BodyLength {
    /// True when not a single byte of body follows.
    pub const fn is_empty(self) -> bool {
        matches!(self, Self::None | Self::Length(0))
    }
}

/// How trailers are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrailerRule {
    /// Those that may come late are forwarded.
    Keep,
    /// None is forwarded: Connection names fields, and trailers of these names have to be removed as well.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1
    Drop,
}

/// The facts about a request that decide where its response ends.
//= https://www.rfc-editor.org/rfc/rfc9112#section-6.3
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// The request was HEAD: the response has a head only.
    Head,
    /// The request was CONNECT: a 2xx response has no body but a tunnel.
    Connect,
    /// Anything else.
    Other,
}

impl From<Method<'_>> for RequestKind {
    fn from(method: Method<'_>) -> Self {
        match method {
            Method::Head => Self::Head,
            Method::Connect => Self::Connect,
            _ => Self::Other,
        }
    }
}

/// What path and query of a target were received as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetText {
    /// Printable ASCII, as a URI is.
    #[default]
    Ascii,
    /// UTF-8 that was not percent-encoded, at least in part.
    Utf8,
}

/// A request head that has passed every check.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: Method<'a>,
    /// The target in origin-form: a path starting with `/`, with its query. `*` for `OPTIONS *`, host and port for CONNECT. A
    /// target in absolute-form is reduced to this. Printable ASCII without `#`, nothing decoded or normalised; UTF-8 is
    /// percent-encoded. Percent-encodings are well-formed before the query; in it a `%` may be just that.
    pub path_and_query: &'a str,
    /// The same without `?` and what follows; empty for CONNECT.
    pub path: &'a str,
    /// How path and query came.
    pub target_text: TargetText,
    /// Host and optional port, from the target in absolute-form or of CONNECT, or else from Host. Valid, case kept; empty only
    /// for HTTP/1.0 requests and `OPTIONS *`.
    pub authority: &'a str,
    /// The version received.
    pub version: Version,
    /// How long the body is.
    pub body: BodyLength,
    /// True when the client will use the connection again.
    //= https://www.rfc-editor.org/rfc/rfc9112#section-9.3
    pub persistent: bool,
    /// True when the client waits for 100 (Continue) before it sends its body.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-10.1.1
    pub expect_continue: bool,
    /// True when the client offers other protocols: an Upgrade field, named by Connection, in HTTP/1.1.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-7.8
    pub wants_upgrade: bool,
    /// How trailers are handled.
    pub trailers: TrailerRule,
    pub(crate) fields: Fields<'a>,
}

impl<'a> RequestHead<'a> {
    /// Every field in the order received, those of the connection included.
    pub fn fields(&self) -> impl Iterator<Item = Field<'a>> + use<'a> {
        self.fields.iter()
    }

    /// The same as a collection that answers by id.
    pub fn field_list(&self) -> Fields<'a> {
        self.fields
    }

    /// True when the client can take trailer fields, which it says with `TE: trailers`.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-10.1.4
    pub fn accepts_trailers(&self) -> bool {
        let members = || self.fields.values(FieldId::Te).flat_map(ascii::list_members);
        self.fields.has(FieldId::Te) && members().any(|member| member.eq_ignore_ascii_case(b"trailers"))
    }

    /// How many more proxies may forward this request, where the client has set a bound: TRACE and OPTIONS only. At zero the
    /// request must be answered here; the writer counts down.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-7.6.2
    pub fn max_forwards(&self) -> Option<u64> {
        match self.method {
            Method::Trace | Method::Options => {
                self.fields.first(FieldId::MaxForwards).and_then(ascii::parse_decimal)
            }
            _ => None,
        }
    }

    /// False when Max-Forwards, in a method to which it means something, is not one number.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-7.6.2
    pub(crate) fn has_valid_max_forwards(&self) -> bool {
        let is_counted = matches!(self.method, Method::Trace | Method::Options);
        !is_counted
            || (self.max_forwards().is_some() && self.fields.values(FieldId::MaxForwards).count() == 1)
    }

    /// True when the client wants to leave HTTP for a protocol that only a tunnel carries: by CONNECT, or by an offer such as
    /// `websocket`. Offers to speak HTTP otherwise (`h2c`, `TLS/1.2`) are made by default by common libraries, and may be
    /// ignored.
    pub fn wants_tunnel(&self) -> bool {
        self.method == Method::Connect || (self.wants_upgrade && !self.offers().all(upgrade::is_another_http))
    }

    /// The protocols that the client offers to change to, the one it likes best first, as they were written: also members that
    /// are no protocols, and empty ones.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-7.8
    pub fn offers(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let lists = if self.wants_upgrade { Some(self.fields.values(FieldId::Upgrade)) } else { None };
        lists.into_iter().flatten().flat_map(ascii::list_members)
    }
}

/// A response head that has passed every check.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'a> {
    /// 100 to 999. Those from 600 on have no meaning, and are treated as 5xx.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-15
    pub status: u16,
    /// The reason phrase as received; may be empty, may hold bytes above 0x7f.
    pub reason: &'a [u8],
    /// The version received.
    pub version: Version,
    /// How long the body is. [`BodyLength::None`] for the answer to HEAD, 1xx, 204 and 304, whatever their fields say.
    pub body: BodyLength,
    /// True when a streamed body ends with its connection, as only HTTP/1 has it.
    pub until_close: bool,
    /// True when the upstream connection can be used again once the body has ended.
    //= https://www.rfc-editor.org/rfc/rfc9112#section-9.3
    pub persistent: bool,
    /// True when the response carries a Date field.
    pub has_date: bool,
    /// How trailers are handled.
    pub trailers: TrailerRule,
    pub(crate) fields: Fields<'a>,
}

impl<'a> ResponseHead<'a> {
    /// Every field in the order received, those of the connection included.
    pub fn fields(&self) -> impl Iterator<Item = Field<'a>> + use<'a> {
        self.fields.iter()
    }

    /// The same as a collection that answers by id.
    pub fn field_list(&self) -> Fields<'a> {
        self.fields
    }

    /// True for 1xx other than 101: more responses to the same request follow.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-15.2
    pub fn is_interim(&self) -> bool {
        matches!(self.status, 100..=199) && self.status != 101
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_round_trip_and_are_case_sensitive() {
        for name in
            ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT", "PROPFIND"]
        {
            assert_eq!(Method::parse(name).as_str(), name);
        }
        assert_eq!(Method::parse("get"), Method::Other("get"));
    }

    #[test]
    fn only_repeatable_methods_are_idempotent() {
        assert!(Method::Put.is_idempotent() && !Method::Put.is_safe());
        assert!(Method::Get.is_idempotent() && Method::Get.is_safe());
        for method in [Method::Post, Method::Patch, Method::Connect, Method::Other("LOCK")] {
            assert!(!method.is_idempotent());
        }
    }
}
