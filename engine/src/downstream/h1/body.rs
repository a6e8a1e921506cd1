//! The body of a client's HTTP/1.1 request, and how a client that waits for 100 (Continue) gets it.

use std::cell::Cell;

use sluice_sys::Buf;

use crate::abuse::{Abuse, Score, Verdict};
use crate::h1::BodyReader;
use crate::message::{Aborted, BodySource, Cause, ChunkForm, Part, PlainRest, ReadyPart, Side};
use crate::shard::Shard;
use crate::snapshot::Snapshot;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Whether a client waits for 100 (Continue) before it sends its body.
pub(crate) struct ExpectContinue {
    is_due: Cell<bool>,
}

impl ExpectContinue {
    pub(super) fn new(is_expected: bool) -> ExpectContinue {
        ExpectContinue { is_due: Cell::new(is_expected) }
    }

    /// The server's 100 or its final response goes to the client.
    pub(super) fn is_answered(&self) {
        self.is_due.set(false);
    }
}

/// The body of a request, as it comes in.
pub(crate) struct RequestBody<'a> {
    pub(super) reader: BodyReader<'a>,
    pub(super) expect_continue: &'a ExpectContinue,
    pub(super) shard: &'a Shard,
    pub(super) snapshot: &'a Snapshot,
    pub(super) score: &'a Score,
}

impl RequestBody<'_> {
    pub(crate) fn release_buffers(&mut self) {
        self.reader.inbox.join();
        self.reader.link.release_buffers();
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.reader.bytes()
    }

    /// Counts floods of tiny chunks that have come.
    fn judge(&mut self) -> Result<(), Aborted> {
        while self.reader.progress.takes_flood() {
            let limit = self.snapshot.limits.abuse_score;
            if self.score.add(Abuse::TinyChunks, limit, &self.shard.counters) == Verdict::End {
                return Err(Aborted::by(Side::Downstream, Cause::Abusive));
            }
        }
        Ok(())
    }

    /// Waits a while for the body or the server's 100, then asks the client for the body ourselves.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-10.1.1
    async fn ask_for_body(&mut self) -> Result<(), Aborted> {
        let link = self.reader.link;
        link.transport().set_deadline(self.snapshot.times.expect_continue_wait);
        let waited = self.reader.wait().await;
        let is_late = waited == Err(Aborted::by(Side::Downstream, Cause::TimedOut));
        let is_due = self.expect_continue.is_due.replace(false);
        match waited {
            Err(_) if is_late => {
                if is_due {
                    let mut out = Buf::small();
                    out.extend_from_slice(CONTINUE);
                    link.send(out, self.snapshot.times.write_stall).detach();
                }
                Ok(())
            }
            other => other,
        }
    }
}

impl BodySource for RequestBody<'_> {
    fn show_ready(&mut self, see: impl FnOnce(&[u8])) -> Result<ReadyPart, Aborted> {
        self.judge()?;
        self.reader.show_ready(see)
    }

    fn ready_part(&mut self, form: ChunkForm) -> Result<Option<Part>, Aborted> {
        self.judge()?;
        self.reader.ready_part(form)
    }

    async fn more(&mut self) -> Result<(), Aborted> {
        if self.expect_continue.is_due.get() { self.ask_for_body().await } else { self.reader.more().await }
    }

    fn plain_rest(&mut self) -> Option<PlainRest<'_>> {
        // As long as the client waits to be asked, waiting is more than waiting for bytes.
        if self.expect_continue.is_due.get() { None } else { self.reader.plain_rest() }
    }

    fn skip(&mut self, bytes: u64) {
        self.reader.skip(bytes);
    }
}
