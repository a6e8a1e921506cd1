//! Where a body ends: RFC 9112 section 6.3, for both directions, in one place.
//!
//! Owns Content-Length and Transfer-Encoding: collects them as the head is scanned and decides once the head is complete.
//! Every disagreement about this decision between two parties is request smuggling, so whatever could be read in two ways is
//! a fault, even where the RFC would let a recipient repair it. Called by `h1::head` only.

use crate::ascii;
use crate::fault::Fault;
use crate::h1::Framing;
use crate::message::{RequestKind, Version};

/// The framing fields of one head, as far as it has been scanned.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FramingFields {
    content_length: Option<u64>,
    transfer: Transfer,
}

/// The transfer codings seen so far, in the order they were applied. All lines of the field are one list.
//= https://www.rfc-editor.org/rfc/rfc9112#section-6.1
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Transfer {
    /// No Transfer-Encoding field.
    #[default]
    Absent,
    /// `chunked`, alone.
    Chunked,
    /// Others, then `chunked`.
    OthersThenChunked,
    /// Anything that does not end in `chunked`.
    NotChunked,
}

impl FramingFields {
    /// Notes a Content-Length line.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-8.6
    pub(crate) fn add_content_length(&mut self, value: &[u8]) -> Result<(), Fault> {
        // The RFC allows identical repetitions to be merged; a peer that sends them is not worth the risk.
        if self.content_length.is_some() {
            return Err(Fault::RepeatedContentLength);
        }
        // Digits only: no sign, no list, no whitespace, and no more than fits in 64 bits.
        self.content_length = Some(ascii::parse_decimal(value).ok_or(Fault::InvalidContentLength)?);
        Ok(())
    }

    /// Notes a Transfer-Encoding line.
    //= https://www.rfc-editor.org/rfc/rfc9112#section-6.1
    pub(crate) fn add_transfer_encoding(&mut self, value: &[u8]) -> Result<(), Fault> {
        for coding in ascii::list_members(value) {
            if coding.is_empty() {
                // Also `chunked,` and `, chunked`: list members that only some recipients see.
                return Err(Fault::EmptyTransferEncoding);
            }
            // A coding with parameters is never `chunked`, which has none.
            let is_chunked = coding.eq_ignore_ascii_case(b"chunked");
            self.transfer = match (self.transfer, is_chunked) {
                (Transfer::Chunked | Transfer::OthersThenChunked, true) => return Err(Fault::ChunkedTwice),
                (Transfer::Absent, true) => Transfer::Chunked,
                (Transfer::NotChunked, true) => Transfer::OthersThenChunked,
                (_, false) => Transfer::NotChunked,
            };
        }
        Ok(())
    }

    /// The body of a request with these fields.
    //= https://www.rfc-editor.org/rfc/rfc9112#section-6.3
    pub(crate) fn request_body(&self, version: Version) -> Result<Framing, Fault> {
        Ok(self.declared(version)?.unwrap_or(Framing::None))
    }

    /// The body of a response with these fields.
    //= https://www.rfc-editor.org/rfc/rfc9112#section-6.3
    pub(crate) fn response_body(
        &self,
        version: Version,
        status: u16,
        request: RequestKind,
    ) -> Result<Framing, Fault> {
        // Judged first, so that a contradictory head is refused even where its framing would not be used.
        let declared = self.declared(version)?;
        //= https://www.rfc-editor.org/rfc/rfc9110#section-8.6
        // "A server MUST NOT send a Content-Length header field in any response with a status code of 1xx (Informational) or 204
        // (No Content)", and the same for Transfer-Encoding. Zero says what is so anyway, and is common.
        if matches!(status, 100..=199 | 204) && declared.is_some_and(|body| !body.is_empty()) {
            return Err(Fault::BodyNotAllowed);
        }
        let bodiless = request == RequestKind::Head
            || matches!(status, 100..=199 | 204 | 304)
            || (request == RequestKind::Connect && matches!(status, 200..=299));
        if bodiless { Ok(Framing::None) } else { Ok(declared.unwrap_or(Framing::UntilClose)) }
    }

    /// The framing the fields declare, `None` when there are none.
    fn declared(&self, version: Version) -> Result<Option<Framing>, Fault> {
        match (self.transfer, self.content_length) {
            (Transfer::Absent, None) => Ok(None),
            (Transfer::Absent, Some(length)) => Ok(Some(Framing::Length(length))),
            //= https://www.rfc-editor.org/rfc/rfc9112#section-6.1
            // "MUST treat the message as if the framing is faulty"
            _ if version == Version::Http10 => Err(Fault::TransferEncodingInHttp10),
            //= https://www.rfc-editor.org/rfc/rfc9112#section-6.3
            // "ought to be handled as an error"
            (_, Some(_)) => Err(Fault::LengthWithTransferEncoding),
            (Transfer::Chunked, None) => Ok(Some(Framing::Chunked)),
            (Transfer::OthersThenChunked, None) => Err(Fault::UnsupportedCoding),
            (Transfer::NotChunked, None) => Err(Fault::ChunkedNotFinal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(lengths: &[&str], codings: &[&str], version: Version) -> Result<Framing, Fault> {
        let mut fields = FramingFields::default();
        for value in lengths {
            fields.add_content_length(value.as_bytes())?;
        }
        for value in codings {
            fields.add_transfer_encoding(value.as_bytes())?;
        }
        fields.request_body(version)
    }

    #[test]
    fn content_length_is_digits_that_fit() {
        assert_eq!(request(&["0"], &[], Version::Http11), Ok(Framing::Length(0)));
        assert_eq!(request(&["0010"], &[], Version::Http11), Ok(Framing::Length(10)));
        assert_eq!(request(&["18446744073709551615"], &[], Version::Http11), Ok(Framing::Length(u64::MAX)));
        for bad in ["", "+1", "-1", "1,1", "1, 1", "0x10", "1 1", "18446744073709551616", "1e3", "1.0"] {
            assert_eq!(request(&[bad], &[], Version::Http11), Err(Fault::InvalidContentLength), "{bad}");
        }
        assert_eq!(request(&["5", "5"], &[], Version::Http11), Err(Fault::RepeatedContentLength));
    }

    #[test]
    fn only_chunked_alone_is_accepted() {
        for (codings, expected) in [
            (&["chunked"][..], Ok(Framing::Chunked)),
            (&["ChUnKeD"], Ok(Framing::Chunked)),
            (&["gzip, chunked"], Err(Fault::UnsupportedCoding)),
            (&["gzip", "chunked"], Err(Fault::UnsupportedCoding)),
            (&["chunked, gzip"], Err(Fault::ChunkedNotFinal)),
            (&["chunked", "identity"], Err(Fault::ChunkedNotFinal)),
            (&["identity"], Err(Fault::ChunkedNotFinal)),
            (&["xchunked"], Err(Fault::ChunkedNotFinal)),
            (&["chunked;q=1"], Err(Fault::ChunkedNotFinal)),
            (&["\"chunked\""], Err(Fault::ChunkedNotFinal)),
            (&["chunked, chunked"], Err(Fault::ChunkedTwice)),
            (&["chunked", "chunked"], Err(Fault::ChunkedTwice)),
            (&["gzip, chunked, chunked"], Err(Fault::ChunkedTwice)),
            (&[""], Err(Fault::EmptyTransferEncoding)),
            (&[",chunked"], Err(Fault::EmptyTransferEncoding)),
            (&["chunked,"], Err(Fault::EmptyTransferEncoding)),
        ] {
            assert_eq!(request(&[], codings, Version::Http11), expected, "{codings:?}");
        }
    }

    #[test]
    fn contradictions_are_faults() {
        assert_eq!(request(&["1"], &["chunked"], Version::Http11), Err(Fault::LengthWithTransferEncoding));
        assert_eq!(request(&[], &["chunked"], Version::Http10), Err(Fault::TransferEncodingInHttp10));
    }

    #[test]
    fn responses_end_by_status_then_fields_then_close() {
        let mut fields = FramingFields::default();
        assert_eq!(fields.response_body(Version::Http11, 200, RequestKind::Other), Ok(Framing::UntilClose));
        let mut zero = fields;
        zero.add_content_length(b"0").unwrap();
        fields.add_content_length(b"7").unwrap();
        assert_eq!(fields.response_body(Version::Http11, 200, RequestKind::Other), Ok(Framing::Length(7)));
        for (status, request) in
            [(200, RequestKind::Head), (304, RequestKind::Other), (200, RequestKind::Connect)]
        {
            assert_eq!(fields.response_body(Version::Http11, status, request), Ok(Framing::None));
        }
        for status in [100, 101, 103, 204] {
            let refused = fields.response_body(Version::Http11, status, RequestKind::Other);
            assert_eq!(refused, Err(Fault::BodyNotAllowed), "{status}");
            let common = zero.response_body(Version::Http11, status, RequestKind::Other);
            assert_eq!(common, Ok(Framing::None), "{status}");
        }
        fields.add_transfer_encoding(b"chunked").unwrap();
        let head = fields.response_body(Version::Http11, 304, RequestKind::Head);
        assert_eq!(head, Err(Fault::LengthWithTransferEncoding));
    }
}
