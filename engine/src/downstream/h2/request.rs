//! The body of a request that comes by a stream, and how a client that waits for 100 (Continue) gets it.

use super::responder::Responder;
use crate::h2::StreamReader;
use crate::message::{Aborted, BodySource, Cause, ChunkForm, Part, PlainRest, ReadyPart, Side};

/// The body of a request, as it comes in.
pub(crate) struct RequestBody<'a> {
    reader: StreamReader<'a>,
    responder: &'a Responder<'a>,
}

impl<'a> RequestBody<'a> {
    pub(super) fn new(reader: StreamReader<'a>, responder: &'a Responder<'a>) -> RequestBody<'a> {
        RequestBody { reader, responder }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.reader.bytes()
    }

    /// Waits a while for the body or the server's 100, then asks the client for the body ourselves.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-10.1.1
    async fn ask_for_body(&mut self) -> Result<(), Aborted> {
        let wait_ms = self.responder.snapshot.times.expect_continue_wait;
        let waited = self.reader.wait(wait_ms).await;
        let is_due = self.responder.expect_continue.replace(false);
        match waited {
            Err(Aborted { side: Side::Downstream, cause: Cause::TimedOut, .. }) => {
                if is_due {
                    self.responder.send_continue();
                }
                Ok(())
            }
            other => other,
        }
    }
}

impl BodySource for RequestBody<'_> {
    fn show_ready(&mut self, see: impl FnOnce(&[u8])) -> Result<ReadyPart, Aborted> {
        self.reader.show_ready(see)
    }

    fn ready_part(&mut self, form: ChunkForm) -> Result<Option<Part>, Aborted> {
        self.reader.ready_part(form)
    }

    async fn more(&mut self) -> Result<(), Aborted> {
        if self.responder.expect_continue.get() {
            self.ask_for_body().await
        } else {
            self.reader.more().await
        }
    }

    fn plain_rest(&mut self) -> Option<PlainRest<'_>> {
        None
    }

    fn skip(&mut self, bytes: u64) {
        self.reader.skip(bytes);
    }
}
