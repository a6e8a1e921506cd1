//! A request as servers get it: lines of text in one buffer, and where its parts are in them. It is the only form in which a
//! request is kept; an HTTP/1.1 server gets the buffer unchanged.

use sluice_proto::h1::RequestSpans;
use sluice_sys::Buf;

/// The head of a request, and behind it the body if that is sent in one piece with it.
pub(crate) struct RequestLines {
    /// Gone while it is being sent.
    bytes: Option<Buf>,
    spans: RequestSpans,
}

impl RequestLines {
    /// No request yet.
    pub(crate) fn new() -> RequestLines {
        RequestLines { bytes: None, spans: RequestSpans::default() }
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

    /// Takes the bytes out to be sent.
    pub(crate) fn take(&mut self) -> Buf {
        self.bytes.take().unwrap_or_else(Buf::small)
    }

    /// Puts bytes back that were sent in vain.
    pub(crate) fn put_back(&mut self, bytes: Buf) {
        self.bytes = Some(bytes);
    }
}
