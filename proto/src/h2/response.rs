//! A response of HTTP/2: its status, and what that and its fields say together.
//!
//! Owns the rules of RFC 9113 section 8.1 and 8.3.2. Framing is judged by the same code as that of HTTP/1.1.

use super::head::HeadLines;
use super::names::Pseudo;
use crate::fault::Fault;
use crate::fields::FieldId;
use crate::h1::Framing;
use crate::message::{BodyLength, RequestKind, ResponseHead, TrailerRule, Version};

/// What is known of a response.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Response {
    status: u16,
    /// `None` until the response is accepted.
    body: Option<BodyLength>,
}

impl HeadLines {
    /// The response that was accepted last.
    ///
    /// # Panics
    /// When it holds none.
    pub fn response(&self) -> ResponseHead<'_> {
        let Response { status, body } = self.state.response;
        let Some(body) = body else { panic!("no response was accepted") };
        ResponseHead {
            status,
            //= https://www.rfc-editor.org/rfc/rfc9113#section-8.3.2
            // "HTTP/2 does not define a way to carry the version or reason phrase"
            reason: b"",
            version: Version::Http2,
            body,
            until_close: false,
            persistent: true,
            has_date: self.state.facts.present.contains(FieldId::Date),
            trailers: TrailerRule::Keep,
            fields: self.fields(),
        }
    }

    //= https://www.rfc-editor.org/rfc/rfc9113#section-8.3.2
    pub(super) fn take_status(&mut self, value: &[u8]) -> Result<(), Fault> {
        let &[hundreds @ b'1'..=b'9', tens @ b'0'..=b'9', ones @ b'0'..=b'9'] = value else {
            return Err(Fault::InvalidStatus);
        };
        let digit = |byte: u8| u16::from(byte - b'0');
        self.state.response.status = digit(hundreds) * 100 + digit(tens) * 10 + digit(ones);
        Ok(())
    }

    /// Applies the rules to a response that is complete.
    pub(super) fn finish_response(&mut self, kind: RequestKind, is_end: bool) -> Result<(), Fault> {
        let state = &self.state;
        let status = state.response.status;
        if !state.has(Pseudo::Status) {
            return Err(Fault::MissingPseudoHeader);
        }
        //= https://www.rfc-editor.org/rfc/rfc9113#section-8.6
        // "HTTP/2 removes support for the 101 (Switching Protocols) informational status code"
        if status == 101 {
            return Err(Fault::SwitchingInHttp2);
        }
        //= https://www.rfc-editor.org/rfc/rfc9113#section-8.1
        // "A HEADERS frame with the END_STREAM flag set that carries an informational status code is malformed"
        if is_end && status < 200 {
            return Err(Fault::InterimWithEnd);
        }
        let framing = state.facts.framing.response_body(Version::Http2, status, kind)?;
        self.state.response.body = Some(match framing {
            //= https://www.rfc-editor.org/rfc/rfc9113#section-8.1.1
            Framing::Length(length) if is_end && length > 0 => return Err(Fault::LengthMismatch),
            // The end of the stream says as much as a Content-Length of 0.
            Framing::UntilClose if is_end => BodyLength::Length(0),
            framing => framing.length(),
        });
        Ok(())
    }
}
