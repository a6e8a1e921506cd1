//! How a response goes back: how its body is framed for the version the client speaks, what Connection says, and whether the bytes
//! that follow on a server's connection can be trusted to belong to the next message.

use super::write::ConnectionField;
use crate::message::{BodyLength, Method, RequestHead, Version};

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

/// How the body of a response goes to a client of this version.
pub fn response_framing(body: BodyLength, version: Version) -> BodyLength {
    match (body, version) {
        // A body that its server ends by closing has an end of its own behind us: if it is cut, the last chunk is missing.
        (BodyLength::Chunked | BodyLength::UntilClose, Version::Http11) => BodyLength::Chunked,
        (BodyLength::Chunked | BodyLength::UntilClose, Version::Http10) => BodyLength::UntilClose,
        (body, _) => body,
    }
}

impl ConnectionField {
    /// The field that tells a client of this version whether its connection persists.
    //= https://www.rfc-editor.org/rfc/rfc9112#section-9.3
    pub fn of(version: Version, is_persistent: bool) -> Self {
        match (is_persistent, version) {
            (true, Version::Http11) => Self::Omit,
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
            (BodyLength::None, BodyLength::None, BodyLength::None),
            (BodyLength::Length(5), BodyLength::Length(5), BodyLength::Length(5)),
            (BodyLength::Chunked, BodyLength::Chunked, BodyLength::UntilClose),
            (BodyLength::UntilClose, BodyLength::Chunked, BodyLength::UntilClose),
        ] {
            assert_eq!(response_framing(body, Version::Http11), to_new);
            assert_eq!(response_framing(body, Version::Http10), to_old);
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
