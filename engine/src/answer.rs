//! Responses of our own: the only place where a failure becomes a status code. docs/errors.md lists them all.

use sluice_proto::edits::{FieldEdits, edit_message};
use sluice_proto::grpc::{self, Call};
use sluice_proto::h1::{AnswerBody, reason_phrase, write_answer, write_grpc_answer};

use crate::message::{Aborted, Cause, Side};
use crate::policy::fixed::{Content, Fixed};

/// A failure that has a status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    /// The request broke a rule, or its body a limit.
    Refused { status: u16, why: &'static str },
    /// The client wants to leave HTTP by Upgrade or CONNECT, and the route does not allow it.
    NoTunnel,
    /// The client offers a version of WebSocket whose frames are not read here.
    WebSocketVersion,
    /// The client asked us, not a server: OPTIONS with Max-Forwards: 0.
    FinalRecipient,
    /// The client's address has more connections than it may have.
    TooManyConnections,
    /// There are too many unfinished requests.
    Crowded,
    /// The client's connection was abused.
    Abusive,
    /// The request came without TLS to a listener that sends all of them there.
    HttpsRedirect { location: &'a str },
    /// The route sends its clients elsewhere.
    Redirect { status: u16, location: &'a str },
    /// The route has an answer of its own.
    Fixed(&'a Fixed),
    /// The challenge of an authority with this number, by HTTP-01 of ACME.
    AcmeChallenge { number: u8 },
    /// No route leads anywhere.
    NoRoute,
    /// The path is there, the method is not.
    MethodNotAllowed { allow: &'a str },
    /// The server could not be reached.
    Unreachable,
    /// All servers of the group failed a moment ago, or we have no descriptor for another connection.
    NoneAvailable,
    /// The breaker of the group is open.
    BreakerOpen,
    /// All servers of the group have as many connections as they may.
    UpstreamFull { why: &'static str },
    /// The server did not connect or answer in time.
    UpstreamTimeout,
    /// The server's answer was cut off or not HTTP.
    BadUpstream { why: &'static str },
}

impl Answer<'_> {
    pub(crate) const BODY_TOO_LARGE: Answer<'static> =
        Answer::Refused { status: 413, why: "the request body is larger than allowed here" };
    //= https://www.rfc-editor.org/rfc/rfc9110#section-15.5.20
    pub(crate) const MISDIRECTED: Answer<'static> =
        Answer::Refused { status: 421, why: "this connection was opened for another host" };
    pub(crate) const NO_CLIENT_CERTIFICATE: Answer<'static> =
        Answer::Refused { status: 403, why: "a client certificate is needed here" };
    pub(crate) const REDIRECT_WITHOUT_HOST: Answer<'static> = Answer::Refused {
        status: 400,
        why: "without a Host field there is no https:// address to redirect to",
    };
    pub(crate) const UNFIT_HOST: Answer<'static> =
        Answer::Refused { status: 400, why: "no host can be made of this request as its route wants one" };
    pub(crate) const UNFIT_LENGTH: Answer<'static> =
        Answer::Refused { status: 400, why: "what its route makes of this request is too long" };
    pub(crate) const NOT_TLS: Answer<'static> =
        Answer::Refused { status: 400, why: "this port is for HTTPS, and the request came without TLS" };
    pub(crate) const OVERDUE: Answer<'static> =
        Answer::Refused { status: 408, why: "the request was not complete within its time" };
    pub(crate) const NO_EXTENDED_CONNECT: Answer<'static> =
        Answer::BadUpstream { why: "the server does not take extended CONNECT (RFC 8441)" };
    pub(crate) const TRACE_ENDS_HERE: Answer<'static> =
        Answer::Refused { status: 501, why: "TRACE ends here by Max-Forwards and is not answered" };

    /// Not for clients: the request may wait.
    pub(crate) const FULL: Answer<'static> =
        Answer::UpstreamFull { why: "every server has as many connections as it may" };
    pub(crate) const QUEUE_FULL: Answer<'static> =
        Answer::UpstreamFull { why: "too many requests wait for a server" };
    pub(crate) const QUEUE_LATE: Answer<'static> =
        Answer::UpstreamFull { why: "no server has become free in time" };

    /// The status that tells the client about a message that was aborted before an answer began. `None` when there is
    /// no client left.
    pub(crate) fn for_aborted(aborted: Aborted) -> Option<Answer<'static>> {
        Some(match (aborted.side, aborted.cause) {
            (Side::Downstream, Cause::Fault(fault)) => {
                Answer::Refused { status: fault.status(), why: fault.reason() }
            }
            (Side::Downstream, Cause::TooLarge) => Answer::BODY_TOO_LARGE,
            (Side::Downstream, Cause::TimedOut) => {
                Answer::Refused { status: 408, why: "the request did not arrive in time" }
            }
            (Side::Downstream, Cause::TooSlow) => {
                Answer::Refused { status: 408, why: "the request body comes too slowly" }
            }
            (_, Cause::Crowded) => Answer::Crowded,
            (_, Cause::Abusive) => Answer::Abusive,
            (
                Side::Downstream,
                Cause::Stalled
                | Cause::Closed
                | Cause::Reset(_)
                | Cause::Failed(_)
                | Cause::Unwanted
                | Cause::UnaskedUpgrade
                | Cause::IgnoredOffer
                | Cause::UnaskedAnswer,
            ) => return None,
            (Side::Upstream, Cause::TimedOut | Cause::TooSlow | Cause::Stalled)
            | (_, Cause::Overdue | Cause::Ejected) => Answer::UpstreamTimeout,
            (Side::Upstream, Cause::Fault(fault)) => Answer::BadUpstream { why: fault.reason() },
            (Side::Upstream, Cause::UnaskedUpgrade) => {
                Answer::BadUpstream { why: "the server switched protocols otherwise than it was asked to" }
            }
            (Side::Upstream, Cause::IgnoredOffer) => {
                Answer::BadUpstream { why: "the server answered without switching protocols" }
            }
            (Side::Upstream, Cause::UnaskedAnswer) => {
                Answer::BadUpstream { why: "the server answered before it was asked" }
            }
            (Side::Upstream, Cause::Reset(_)) => {
                Answer::BadUpstream { why: "the server reset the stream before it had answered" }
            }
            (Side::Upstream, Cause::TooLarge | Cause::Closed | Cause::Failed(_) | Cause::Unwanted) => {
                Answer::BadUpstream { why: "the server closed the connection before it had answered" }
            }
        })
    }

    pub(crate) fn status(self) -> u16 {
        match self {
            Answer::Refused { status, .. } | Answer::Redirect { status, .. } => status,
            Answer::Fixed(fixed) => fixed.status,
            // Ignoring Upgrade would be allowed, but the request makes no sense without it. CONNECT gets the same.
            Answer::NoTunnel => 400,
            //= https://www.rfc-editor.org/rfc/rfc6455#section-4.4
            Answer::WebSocketVersion => 426,
            //= https://www.rfc-editor.org/rfc/rfc9110#section-15.4.9
            Answer::HttpsRedirect { .. } => 308,
            Answer::FinalRecipient | Answer::AcmeChallenge { .. } => 200,
            //= https://www.rfc-editor.org/rfc/rfc6585#section-4
            Answer::TooManyConnections | Answer::Abusive => 429,
            Answer::NoRoute => 404,
            Answer::MethodNotAllowed { .. } => 405,
            Answer::Unreachable | Answer::BadUpstream { .. } => 502,
            Answer::NoneAvailable | Answer::BreakerOpen | Answer::UpstreamFull { .. } | Answer::Crowded => {
                503
            }
            Answer::UpstreamTimeout => 504,
        }
    }

    /// One line for people.
    pub(crate) fn why(self) -> &'static str {
        match self {
            Answer::Refused { why, .. } | Answer::BadUpstream { why } | Answer::UpstreamFull { why } => why,
            Answer::NoTunnel => "neither CONNECT nor an Upgrade to this protocol is allowed here",
            Answer::WebSocketVersion => "version 13 of WebSocket is spoken here",
            Answer::FinalRecipient => "this is the proxy, by Max-Forwards",
            Answer::TooManyConnections => "too many connections from this address",
            Answer::Crowded => "too many requests are unfinished",
            Answer::Abusive => "this connection was abused too often",
            Answer::HttpsRedirect { .. } => "this is served over https:// only",
            Answer::Redirect { .. } => "this is served at another place",
            Answer::Fixed(_) => "the answer of this route",
            Answer::AcmeChallenge { .. } => "the answer to a challenge of ACME",
            Answer::NoRoute => "no route for this host and path",
            Answer::MethodNotAllowed { .. } => "the path is served, but not by this method",
            Answer::Unreachable => "the server could not be reached",
            Answer::NoneAvailable => "no server is available",
            Answer::BreakerOpen => "too many requests to these servers have failed or are under way",
            Answer::UpstreamTimeout => "the server did not answer in time",
        }
    }

    /// A field that only this answer has.
    fn field(&self) -> Option<(&'static str, &str)> {
        match self {
            //= https://www.rfc-editor.org/rfc/rfc9110#section-15.5.6
            Answer::MethodNotAllowed { allow } => Some(("Allow", allow)),
            Answer::HttpsRedirect { location } | Answer::Redirect { location, .. } => {
                Some(("Location", location))
            }
            //= https://www.rfc-editor.org/rfc/rfc6455#section-4.4
            Answer::WebSocketVersion => Some(("Sec-WebSocket-Version", "13")),
            //= https://www.rfc-editor.org/rfc/rfc9110#section-15.6.4
            Answer::NoneAvailable
            | Answer::BreakerOpen
            | Answer::UpstreamFull { .. }
            | Answer::TooManyConnections
            | Answer::Crowded
            | Answer::Abusive => Some(("Retry-After", "1")),
            _ => None,
        }
    }

    /// The fields with which it names the protocol that it asks for. A client of HTTP/2 never gets it: its offers are of
    /// version 13, or malformed.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-15.5.22
    // "The server MUST send an Upgrade header field in a 426 response"
    fn upgrade_fields(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Answer::WebSocketVersion => &[("Connection", "Upgrade"), ("Upgrade", "websocket")],
            _ => &[],
        }
    }

    /// Writes the answer, with what its route changes about the fields.
    pub(crate) fn write(self, out: &mut Vec<u8>, date: &str, framing: &ResponseFraming<'_>) {
        let start = out.len();
        self.write_unchanged(out, date, framing);
        if let Some(edits) = &framing.edits {
            edit_message(out, start, edits);
        }
    }

    fn write_unchanged(self, out: &mut Vec<u8>, date: &str, framing: &ResponseFraming<'_>) {
        let status = self.status();
        let hsts = framing.hsts.and_then(|line| line.trim_end().split_once(": "));
        let mut fields = [("", ""); 4];
        let mut count = 0;
        for field in self.field().into_iter().chain(hsts).chain(self.upgrade_fields().iter().copied()) {
            fields[count] = field;
            count += 1;
        }
        let fields = &fields[..count];
        let grpc_type = match framing.call {
            Call::None => None,
            Call::Grpc => Some("application/grpc"),
            Call::Web(web) => Some(web.empty_answer()),
        };
        if let (Some(content_type), 400..) = (grpc_type, status) {
            let status = grpc::Status::of_http(status);
            return write_grpc_answer(
                out,
                content_type,
                status,
                self.why(),
                fields,
                date,
                framing.connection,
            );
        }
        let mut body = [0; 160];
        let body = match (self, framing.page) {
            (Answer::Fixed(fixed), _) => fixed.content.body(),
            (_, Some(page)) => page.body(),
            _ => AnswerBody::text(join(&mut body, &[reason_phrase(status), ": ", self.why(), "\n"])),
        };
        write_answer(out, status, fields, date, body, framing.connection, framing.is_head_only);
    }
}

/// How an answer is framed.
pub(crate) struct ResponseFraming<'a> {
    pub(crate) connection: sluice_proto::h1::ConnectionField,
    /// The request was HEAD.
    pub(crate) is_head_only: bool,
    /// The client of a gRPC call reads a failure in fields, and takes other statuses than 200 for those of a proxy that does not
    /// know gRPC.
    pub(crate) call: Call,
    /// The Strict-Transport-Security field, with its line end.
    pub(crate) hsts: Option<&'a str>,
    /// The page for this status.
    pub(crate) page: Option<&'a Content>,
    /// What the route changes about the fields.
    pub(crate) edits: Option<FieldEdits<'a>>,
}

fn join<'b>(into: &'b mut [u8; 160], parts: &[&str]) -> &'b str {
    let mut len = 0;
    for byte in parts.iter().flat_map(|part| part.bytes()).take(into.len()) {
        into[len] = byte;
        len += 1;
    }
    // All parts are ASCII texts of ours.
    std::str::from_utf8(&into[..len]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_proto::Fault;
    use sluice_proto::h1::ConnectionField;

    #[test]
    fn every_failure_has_its_status() {
        let status = |side, cause| Answer::for_aborted(Aborted::by(side, cause)).map(Answer::status);
        assert_eq!(status(Side::Downstream, Cause::TimedOut), Some(408));
        assert_eq!(status(Side::Downstream, Cause::TooSlow), Some(408));
        assert_eq!(status(Side::Downstream, Cause::TooLarge), Some(413));
        assert_eq!(status(Side::Downstream, Cause::Abusive), Some(429));
        assert_eq!(status(Side::Downstream, Cause::Stalled), None);
        assert_eq!(status(Side::Downstream, Cause::Closed), None);
        assert_eq!(status(Side::Upstream, Cause::TimedOut), Some(504));
        assert_eq!(status(Side::Upstream, Cause::Closed), Some(502));
        for &fault in Fault::ALL {
            assert_eq!(status(Side::Downstream, Cause::Fault(fault)), Some(fault.status()));
            assert_eq!(status(Side::Upstream, Cause::Fault(fault)), Some(502));
        }
    }

    /// The body begins with the reason phrase: the text behind it must add something.
    #[test]
    fn no_text_says_the_reason_phrase_again() {
        let mut answers = vec![
            Answer::BODY_TOO_LARGE,
            Answer::OVERDUE,
            Answer::NoTunnel,
            Answer::FinalRecipient,
            Answer::TooManyConnections,
            Answer::Crowded,
            Answer::Abusive,
            Answer::NoRoute,
            Answer::MethodNotAllowed { allow: "GET" },
            Answer::MISDIRECTED,
            Answer::NO_CLIENT_CERTIFICATE,
            Answer::REDIRECT_WITHOUT_HOST,
            Answer::HttpsRedirect { location: "https://a" },
            Answer::WebSocketVersion,
            Answer::Redirect { status: 302, location: "https://a" },
            Answer::UNFIT_HOST,
            Answer::UNFIT_LENGTH,
            Answer::Unreachable,
            Answer::NoneAvailable,
            Answer::FULL,
            Answer::QUEUE_FULL,
            Answer::QUEUE_LATE,
            Answer::UpstreamTimeout,
        ];
        answers.extend(Fault::ALL.iter().flat_map(|fault| {
            let why = fault.reason();
            [Answer::Refused { status: fault.status(), why }, Answer::BadUpstream { why }]
        }));
        // Words that carry a meaning.
        let words = |text: &str| -> Vec<String> {
            let small = ["is", "not", "the", "a", "too", "by", "in", "of", "and", "this", "here"];
            let words = text.split([' ', ':', ',']).map(str::to_lowercase);
            words.filter(|word| !word.is_empty() && !small.contains(&word.as_str())).collect()
        };
        for answer in answers {
            let (phrase, why) = (words(reason_phrase(answer.status())), words(answer.why()));
            assert!(!why.iter().all(|word| phrase.contains(word)), "{}: {}", phrase.join(" "), answer.why());
        }
    }

    fn framing(call: Call) -> ResponseFraming<'static> {
        ResponseFraming {
            connection: ConnectionField::Close,
            is_head_only: false,
            call,
            hsts: None,
            page: None,
            edits: None,
        }
    }

    fn written(answer: Answer<'_>, call: Call) -> String {
        let mut out = Vec::new();
        answer.write(&mut out, "Sun, 06 Nov 1994 08:49:37 GMT", &framing(call));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_grpc_call_learns_of_a_failure_by_fields() {
        let text = written(Answer::NoRoute, Call::Grpc);
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        for field in [
            "Content-Type: application/grpc\r\n",
            "grpc-status: 12\r\n",
            "grpc-message: no route for this host and path\r\n",
            "Content-Length: 0\r\n",
        ] {
            assert!(text.contains(field), "{text}");
        }
        assert!(text.ends_with("\r\n\r\n"), "no body: {text}");
        let late = written(Answer::UpstreamTimeout, Call::Grpc);
        assert!(late.contains("grpc-status: 4\r\n"), "{late}");
        let crowded = written(Answer::Crowded, Call::Grpc);
        assert!(
            crowded.contains("grpc-status: 14\r\n") && crowded.contains("Retry-After: 1\r\n"),
            "{crowded}"
        );
        // What is no failure is what it was.
        for answer in [Answer::FinalRecipient, Answer::HttpsRedirect { location: "https://a" }] {
            assert_eq!(written(answer, Call::Grpc), written(answer, Call::None));
        }
    }

    #[test]
    fn an_answer_says_who_and_why() {
        let mut out = Vec::new();
        let framing = framing(Call::None);
        Answer::MethodNotAllowed { allow: "GET, HEAD" }.write(
            &mut out,
            "Sun, 06 Nov 1994 08:49:37 GMT",
            &framing,
        );
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{text}");
        for field in ["Server: sluice\r\n", "Allow: GET, HEAD\r\n", "Connection: close\r\n"] {
            assert!(text.contains(field), "{text}");
        }
        assert!(
            text.ends_with("\r\n\r\nMethod Not Allowed: the path is served, but not by this method\n"),
            "{text}"
        );
    }
}
