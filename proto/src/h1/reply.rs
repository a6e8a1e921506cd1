//! How an answer goes back: what the client gets of it, and what becomes of both connections.
//!
//! Owns the decisions between a response head that was understood and the one that is written: which answers are passed on at
//! all, how the body is framed for the version the client speaks, and whether the bytes that follow can be trusted to belong
//! to the next message. Called once per response head; the body itself is the relay's.

use super::write::ConnectionField;
use crate::message::{BodyLength, Method, RequestHead, ResponseHead, TrailerRule, Version};

/// What the way back has to know about the request that is answered.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts {
    /// The version of the request.
    pub version: Version,
    /// True when the client can send another request: it means to, nothing on our side speaks against it, and the body of
    /// this one has been read to its end. An answer that begins before that ends the connection, because the client may stop
    /// in the middle of a body that nobody wants any more, and nobody could tell the rest of it from the next request.
    //= https://www.rfc-editor.org/rfc/rfc9112#section-9.3
    // "A server MUST read the entire request message body or close the connection after sending its response"
    pub is_persistent: bool,
    /// Whether the server's connection may serve another request.
    pub reuse: Reuse,
}

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

/// What a response head amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponsePlan {
    /// More is to follow. Passed on, in the order received, unless the client speaks HTTP/1.0, which knows no 1xx.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-15.2
    Interim {
        /// Whether the client is to have it.
        is_wanted: bool,
    },
    /// 101 (Switching Protocols).
    Upgrade,
    /// The answer itself.
    Final(FinalResponsePlan),
}

/// How the final answer is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinalResponsePlan {
    /// How the server frames the body.
    pub body: BodyLength,
    /// How the client gets it.
    pub framing: BodyLength,
    /// The Connection field for the client.
    pub connection: ConnectionField,
    /// True when the client's connection outlives the exchange.
    pub is_downstream_persistent: bool,
    /// True when the server's connection does, provided that nothing follows the body.
    pub is_upstream_persistent: bool,
    /// What is to become of the trailers of the body.
    pub trailers: TrailerRule,
}

impl RequestFacts {
    /// What becomes of this response.
    pub fn reply(&self, head: &ResponseHead<'_>) -> ResponsePlan {
        if head.is_interim() {
            return ResponsePlan::Interim { is_wanted: self.version == Version::Http11 };
        }
        if head.status == 101 {
            return ResponsePlan::Upgrade;
        }
        let framing = match (head.body, self.version) {
            // A body that its server ends by closing has an end of its own behind us: if it is cut, the last chunk is missing.
            (BodyLength::Chunked | BodyLength::UntilClose, Version::Http11) => BodyLength::Chunked,
            (BodyLength::Chunked | BodyLength::UntilClose, Version::Http10) => BodyLength::UntilClose,
            (body, _) => body,
        };
        let is_downstream_persistent = self.is_persistent && framing != BodyLength::UntilClose;
        ResponsePlan::Final(FinalResponsePlan {
            body: head.body,
            framing,
            connection: ConnectionField::of(self.version, is_downstream_persistent),
            is_downstream_persistent,
            is_upstream_persistent: self.reuse == Reuse::Allowed
                && head.persistent
                && head.body != BodyLength::UntilClose,
            trailers: head.trailers,
        })
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
    use crate::h1::{HeadStore, Parsed, parse_request, parse_response};
    use crate::limits::HeadLimits;
    use crate::message::RequestKind;

    const ASKED: RequestFacts =
        RequestFacts { version: Version::Http11, is_persistent: true, reuse: Reuse::Allowed };

    fn reply(asked: RequestFacts, response: &str) -> ResponsePlan {
        let mut store = HeadStore::default();
        let kind = RequestKind::Other;
        let parsed = parse_response(response.as_bytes(), &mut store, &HeadLimits::default(), &kind);
        let Ok(Parsed::Complete { head, .. }) = parsed else { panic!("{parsed:?}") };
        asked.reply(&head)
    }

    fn last(asked: RequestFacts, response: &str) -> FinalResponsePlan {
        let ResponsePlan::Final(reply) = reply(asked, response) else { panic!("{response:?}") };
        reply
    }

    #[test]
    fn bodies_get_the_framing_that_the_client_knows() {
        let old = RequestFacts { version: Version::Http10, ..ASKED };
        for (fields, to_new, to_old) in [
            ("Content-Length: 5\r\n", BodyLength::Length(5), BodyLength::Length(5)),
            ("Transfer-Encoding: chunked\r\n", BodyLength::Chunked, BodyLength::UntilClose),
            ("", BodyLength::Chunked, BodyLength::UntilClose),
        ] {
            let response = alloc::format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            assert_eq!(last(ASKED, &response).framing, to_new, "{fields:?}");
            let reply = last(old, &response);
            assert_eq!(reply.framing, to_old, "{fields:?}");
            assert_eq!(reply.is_downstream_persistent, to_old != BodyLength::UntilClose);
        }
    }

    #[test]
    fn connections_persist_when_everybody_agrees() {
        let length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        let both = last(ASKED, length);
        assert!(both.is_downstream_persistent && both.is_upstream_persistent);
        assert_eq!(both.connection, ConnectionField::Omit);
        let doubtful = last(RequestFacts { reuse: Reuse::Forbidden, ..ASKED }, length);
        assert!(doubtful.is_downstream_persistent && !doubtful.is_upstream_persistent);
        let leaving = last(RequestFacts { is_persistent: false, ..ASKED }, length);
        assert!(!leaving.is_downstream_persistent && leaving.is_upstream_persistent);
        assert_eq!(leaving.connection, ConnectionField::Close);
        assert!(!last(ASKED, "HTTP/1.1 200 OK\r\n\r\n").is_upstream_persistent);
        assert!(!last(ASKED, "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n").is_upstream_persistent);
    }

    #[test]
    fn interim_answers_are_for_those_who_know_them() {
        let hints = "HTTP/1.1 103 Early Hints\r\n\r\n";
        assert_eq!(reply(ASKED, hints), ResponsePlan::Interim { is_wanted: true });
        assert_eq!(
            reply(RequestFacts { version: Version::Http10, ..ASKED }, hints),
            ResponsePlan::Interim { is_wanted: false }
        );
        let switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n";
        assert_eq!(reply(ASKED, switching), ResponsePlan::Upgrade);
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
