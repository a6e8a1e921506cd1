//! What has come for streams: kept with them until their exchanges take it.

use sluice_proto::h2::{Rules, StreamKey};
use sluice_sys::{Buf, now_ms};

use super::lines::Lines;
use super::session::{Inner, Session};
use super::slot::Incoming;
use crate::message::{Aborted, Cause, Side};

/// Heads of one stream that wait to be taken: interim ones, of which more are no use.
const HEADS_MAX: usize = 20;

/// A response, or an interim one.
pub(super) fn take_response(
    inner: &mut Inner,
    key: StreamKey,
    is_end: bool,
    lines: Lines,
    session: &Session,
) {
    let Some(slot) = inner.slot(key) else { return };
    slot.heads.push_back(lines);
    if is_end {
        slot.incoming = Incoming::End(None);
    }
    if slot.heads.len() > HEADS_MAX {
        let aborted = session.aborted(Cause::Fault(sluice_proto::Fault::TooManyInterim));
        inner.fail(key, aborted);
    } else {
        slot.wake();
    }
}

/// Data waits with its stream.
pub(super) fn take_data(
    inner: &mut Inner,
    key: StreamKey,
    data: &[u8],
    is_end: bool,
    session: &Session,
    rules: &Rules,
) {
    let bytes = data.len() as u32;
    let has_room = session.shard.note_buffered(data.len());
    inner.note_received(key, bytes);
    let Some(slot) = inner.slot(key) else {
        session.shard.forget_buffered(data.len());
        let (machine, out) = inner.machine_and_out();
        return machine.give_back_shared(bytes, rules, out);
    };
    if bytes > 0 {
        slot.received.get_or_insert_with(|| Buf::with_room(data.len())).extend_from_slice(data);
    }
    if is_end {
        slot.incoming = Incoming::End(None);
    }
    // A connection to a server is shared by clients, of which one that is slow must not stop the others.
    let is_open = has_room || session.side == Side::Upstream;
    if !is_open {
        slot.withheld += bytes;
    }
    slot.wake();
    if is_open {
        let (machine, out) = inner.machine_and_out();
        machine.give_back_shared(bytes, rules, out);
    }
}

impl Session {
    /// Data of a stream has gone on: its window opens again, and the connection's if it was kept closed for it.
    pub(crate) fn give_back(&self, key: StreamKey, bytes: u32) {
        self.change(|inner, rules| {
            let Some(slot) = inner.slot(key) else { return };
            let withheld = slot.withheld.min(bytes);
            slot.withheld -= withheld;
            let (machine, out) = inner.machine_and_out();
            let is_announced = machine.give_back(key, bytes, rules, out);
            machine.give_back_shared(withheld, rules, out);
            // Not where memory is short.
            if is_announced && withheld == 0 {
                inner.grow(key, rules, now_ms());
            }
            let (_, out) = inner.machine_and_out();
            if out.is_empty() {
                inner.out = None;
            }
        });
    }
}

impl Inner {
    /// The peer has processed nothing of the streams above this one.
    pub(super) fn refuse_above(&mut self, last_id: u32, aborted: Aborted) {
        for at in 0..self.slots.len() {
            let id = self.slots[at].id;
            // Of ours, which are odd.
            if id > last_id {
                self.slots[at].is_unprocessed = true;
                self.fail(StreamKey { slot: at as u16, id }, aborted);
            }
        }
    }
}
