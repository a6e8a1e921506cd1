//! A request as servers get it: lines of text in one buffer, and where its parts are in them. It is the only form in which a
//! request is kept; an HTTP/1.1 server gets the buffer unchanged.

use crate::trailers::BodyTrailers;
use sluice_proto::Trailers;
use sluice_proto::h1::{RequestParts, RequestSpans};
use sluice_sys::Buf;

/// The head of a request, and behind it the body if that is sent in one piece with it.
pub(crate) struct RequestLines {
    /// Gone while it is being sent.
    bytes: Option<Buf>,
    spans: RequestSpans,
    /// Behind a body that is there as a whole, for servers that get them apart from it.
    trailers: Option<BodyTrailers>,
}

impl RequestLines {
    /// No request yet.
    pub(crate) fn new() -> RequestLines {
        RequestLines { bytes: None, spans: RequestSpans::default(), trailers: None }
    }

    /// Has `write` append a head.
    pub(crate) fn write(&mut self, write: impl FnOnce(&mut Buf) -> RequestSpans) {
        self.spans = write(self.bytes_mut());
    }

    /// Names the server that was chosen, for those that get their own name as Host.
    pub(crate) fn set_authority(&mut self, authority: &str) {
        self.spans.set_authority(self.bytes.get_or_insert_with(Buf::small), authority);
    }

    /// For what follows the head.
    pub(crate) fn bytes_mut(&mut self) -> &mut Buf {
        self.bytes.get_or_insert_with(Buf::small)
    }

    /// The parts of the head, and what is behind it.
    pub(crate) fn parts(&self) -> (RequestParts<'_>, &[u8]) {
        let bytes: &[u8] = self.bytes.as_ref().map_or(&[], |bytes| bytes);
        (self.spans.parts(bytes), self.spans.behind(bytes))
    }

    /// The trailers behind the body. They stay for another attempt.
    pub(crate) fn trailers(&self) -> Option<&Trailers> {
        self.trailers.as_deref()
    }

    /// The same for a body that has its trailers in it.
    pub(crate) fn take_trailers(&mut self) -> Option<BodyTrailers> {
        self.trailers.take()
    }

    pub(crate) fn set_trailers(&mut self, trailers: Option<BodyTrailers>) {
        self.trailers = trailers;
    }

    /// A copy of the request, but for trailers apart from it.
    pub(crate) fn copy(&self) -> RequestLines {
        let bytes = self.bytes.as_ref().map(|bytes| {
            let mut copied = Buf::with_room(bytes.len());
            copied.extend_from_slice(bytes);
            copied
        });
        RequestLines { bytes, spans: self.spans, trailers: None }
    }

    /// All bytes there are.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.as_ref().map_or(&[], |bytes| bytes)
    }

    /// Takes the bytes out to be sent.
    pub(crate) fn take(&mut self) -> Buf {
        self.bytes.take().unwrap_or_else(Buf::small)
    }

    /// Puts bytes back that were sent in vain.
    pub(crate) fn put_back(&mut self, bytes: Buf) {
        self.bytes = Some(bytes);
    }
}
