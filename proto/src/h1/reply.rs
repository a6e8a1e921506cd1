//! How a response goes back: how its body is framed for the version the client speaks, what Connection says, and whether the bytes
//! that follow on a server's connection can be trusted to belong to the next message.

use super::write::ConnectionField;
use crate::message::{BodyLength, Method, RequestHead, ResponseHead, Version};

/// Whether a server's connection may serve another request, as far as the last one decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Yes, if the answer allows it.
    Allowed,
    /// No: the server may have read the end of the request elsewhere than we wrote it.
    Forbidden,
}

impl Reuse {
    /// The verdict after this request. Forbidden after content in a method that defines none: servers are known to answer it
    /// without reading the content, and then take that for the next request on the connection (CL.0).
    //= https://www.rfc-editor.org/rfc/rfc9110#section-9.3.1
    // "might lead some implementations to reject the request and close the connection because of its potential as a request
    // smuggling attack"
    pub fn after(head: &RequestHead<'_>) -> Self {
        let has_no_content_by_nature = matches!(head.method, Method::Get | Method::Head | Method::Delete);
        if has_no_content_by_nature && !head.body.is_empty() { Self::Forbidden } else { Self::Allowed }
    }
}

/// How a body is framed on the wire.
//= https://www.rfc-editor.org/rfc/rfc9112#section-6.3
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none, and nothing on the wire says so.
    None,
    /// Exactly this many bytes.
    Length(u64),
    /// Chunks up to the last one.
    Chunked,
    /// Everything until the peer closes. Responses only.
    UntilClose,
}

impl Framing {
    /// True when not a single byte of body follows.
    pub const fn is_empty(self) -> bool {
        matches!(self, Self::None | Self::Length(0))
    }

    /// The same as far as it is no matter of the wire.
    pub const fn length(self) -> BodyLength {
        match self {
            Self::None => BodyLength::None,
            Self::Length(bytes) => BodyLength::Length(bytes),
            Self::Chunked | Self::UntilClose => BodyLength::Streamed,
        }
    }

    /// How a body of this length goes to a client of this version. One that its server ends by closing has an end of its own
    /// behind us: if it is cut, the last chunk is missing.
    pub const fn to_client(body: BodyLength, version: Version) -> Self {
        match (body, version) {
            (BodyLength::None, _) => Self::None,
            (BodyLength::Length(bytes), _) => Self::Length(bytes),
            (BodyLength::Streamed, Version::Http10) => Self::UntilClose,
            (BodyLength::Streamed, _) => Self::Chunked,
        }
    }

    /// How a body of this length goes to a server, or comes from a client.
    pub const fn of_request(body: BodyLength) -> Self {
        Self::to_client(body, Version::Http11)
    }

    /// How the body behind this head comes.
    pub const fn of_response(head: &ResponseHead<'_>) -> Self {
        if head.until_close { Self::UntilClose } else { Self::to_client(head.body, Version::Http11) }
    }
}

impl ConnectionField {
    /// The field that tells a client of this version whether its connection persists.
    //= https://www.rfc-editor.org/rfc/rfc9112#section-9.3
    pub fn of(version: Version, is_persistent: bool) -> Self {
        match (is_persistent, version) {
            (true, Version::Http11 | Version::Http2) => Self::Omit,
            (true, Version::Http10) => Self::KeepAlive,
            (false, _) => Self::Close,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::{HeadStore, Parsed, parse_request};
    use crate::limits::HeadLimits;

    #[test]
    fn bodies_get_the_framing_that_the_client_knows() {
        for (body, to_new, to_old) in [
            (BodyLength::None, Framing::None, Framing::None),
            (BodyLength::Length(5), Framing::Length(5), Framing::Length(5)),
            (BodyLength::Streamed, Framing::Chunked, Framing::UntilClose),
        ] {
            assert_eq!(Framing::to_client(body, Version::Http11), to_new);
            assert_eq!(Framing::to_client(body, Version::Http10), to_old);
            assert_eq!(Framing::of_request(body), to_new);
            assert_eq!((to_new.length(), to_old.length()), (body, body));
        }
    }

    #[test]
    fn persistence_is_written_where_it_is_not_the_default() {
        for (version, persistent, closing) in [
            (Version::Http11, ConnectionField::Omit, ConnectionField::Close),
            (Version::Http10, ConnectionField::KeepAlive, ConnectionField::Close),
        ] {
            assert_eq!(ConnectionField::of(version, true), persistent);
            assert_eq!(ConnectionField::of(version, false), closing);
        }
    }

    #[test]
    fn content_where_none_is_defined_uses_the_connection_up() {
        for (request, is_used_up) in [
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", true),
            ("HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", true),
            ("DELETE / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", false),
        ] {
            let mut store = HeadStore::default();
            let parsed = parse_request(request.as_bytes(), &mut store, &HeadLimits::default());
            let Ok(Parsed::Complete { head, .. }) = parsed else { panic!("{parsed:?}") };
            assert_eq!(Reuse::after(&head) == Reuse::Forbidden, is_used_up, "{request:?}");
        }
    }
}
