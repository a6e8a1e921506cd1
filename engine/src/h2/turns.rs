//! What streams send: at once where the windows let it through, else in turn.
//!
//! Data that waits is kept with its stream. Streams that have some take turns, a frame each, the most urgent first (RFC 9218); one whose
//! own window is closed is out of the round until it opens.

use crate::trailers::BodyTrailers;
use std::collections::VecDeque;

use sluice_proto::Trailers;
use sluice_proto::h2::{Rules, StreamKey};
use sluice_sys::Buf;

use super::session::Inner;

/// The streams that wait for their turn: of the same urgency, the one that has waited longest is first.
//= https://www.rfc-editor.org/rfc/rfc9218#section-10
#[derive(Default)]
pub(super) struct Turns {
    by_urgency: [VecDeque<StreamKey>; 8],
}

impl Turns {
    pub(super) fn is_empty(&self) -> bool {
        self.by_urgency.iter().all(VecDeque::is_empty)
    }

    fn push_back(&mut self, urgency: u8, key: StreamKey) {
        self.by_urgency[usize::from(urgency & 7)].push_back(key);
    }

    fn push_front(&mut self, urgency: u8, key: StreamKey) {
        self.by_urgency[usize::from(urgency & 7)].push_front(key);
    }

    /// The first of the most urgent ones.
    fn pop(&mut self) -> Option<StreamKey> {
        self.by_urgency.iter_mut().find_map(VecDeque::pop_front)
    }

    /// Leaves its memory.
    pub(super) fn clear(&mut self) {
        self.by_urgency.iter_mut().for_each(VecDeque::clear);
    }

    pub(super) fn remove(&mut self, key: StreamKey) {
        for queue in &mut self.by_urgency {
            queue.retain(|other| *other != key);
        }
    }
}

impl Inner {
    /// Whether more data may be added to what waits to be sent. What there is beyond waits with its stream.
    fn has_room(&self, rules: &Rules) -> bool {
        self.out.as_ref().is_none_or(|out| out.len() < rules.coalesced_bytes_max as usize)
    }

    /// Sends data of a stream, or has it wait with the stream. With `is_last` nothing follows but trailers.
    pub(super) fn send(&mut self, key: StreamKey, data: &[u8], is_last: bool, rules: &Rules) {
        let mut rest = data;
        let Some(slot) = self.slot(key) else { return };
        if slot.to_send.is_none() && self.turns.is_empty() {
            while self.has_room(rules) {
                let (machine, out) = self.machine_and_out();
                let sent = machine.send_data(key, rest, is_last, rules, out);
                rest = &rest[sent..];
                if rest.is_empty() {
                    return;
                }
                if sent == 0 {
                    break;
                }
            }
        }
        let Some(slot) = self.slot(key) else { return };
        slot.to_send.get_or_insert_with(|| Buf::with_room(rest.len())).extend_from_slice(rest);
        slot.is_last |= is_last;
        self.give_turn(key);
    }

    /// The same for a piece that stays in its own memory until it was sent.
    pub(super) fn send_piece(&mut self, key: StreamKey, piece: Buf, is_last: bool, rules: &Rules) {
        let Some(slot) = self.slot(key) else { return };
        debug_assert!(slot.to_send.is_none(), "one piece after the other");
        slot.to_send = Some(piece);
        slot.is_last |= is_last;
        self.give_turn(key);
        self.take_turns(rules);
    }

    /// Ends a stream: with trailers, or without.
    pub(super) fn end(&mut self, key: StreamKey, trailers: Option<&Trailers>, rules: &Rules) {
        let Some(slot) = self.slot(key) else { return };
        if slot.to_send.is_some() {
            slot.is_last = true;
            slot.trailers = trailers.map(BodyTrailers::copy_of);
            return;
        }
        let (machine, out) = self.machine_and_out();
        match trailers {
            Some(trailers) => machine.send_trailers(key, trailers, out),
            None => {
                machine.send_data(key, &[], true, rules, out);
            }
        }
    }

    /// A stream that has data to send takes turns with the others from now on.
    pub(super) fn give_turn(&mut self, key: StreamKey) {
        let Some(slot) = self.slot(key) else { return };
        if slot.is_sending() && !slot.has_turn {
            slot.has_turn = true;
            let urgency = self.machine.priority(key).0;
            self.turns.push_back(urgency, key);
        }
    }

    /// Its priority has changed: it is behind the others of the same urgency.
    pub(super) fn move_turn(&mut self, key: StreamKey) {
        if self.slot(key).is_some_and(|slot| slot.has_turn) {
            self.turns.remove(key);
            let urgency = self.machine.priority(key).0;
            self.turns.push_back(urgency, key);
        }
    }

    /// The same for all.
    pub(super) fn give_all_turns(&mut self) {
        for at in 0..self.slots.len() {
            let id = self.slots[at].id;
            self.give_turn(StreamKey { slot: at as u16, id });
        }
    }

    /// Adds data of streams that wait for their turn to what is to be sent, a frame of each.
    pub(super) fn take_turns(&mut self, rules: &Rules) {
        // A window of the connection that is closed takes no turn from anyone.
        while self.has_room(rules)
            && !self.machine.is_window_closed()
            && let Some(key) = self.turns.pop()
        {
            let Some((sent, has_more)) = self.send_of(key, rules) else { continue };
            if has_more && sent > 0 {
                self.queue(key);
            }
        }
    }

    /// Sends one frame of a stream's data, or what is left of it and what follows. Says how much that was, and whether there is more.
    fn send_of(&mut self, key: StreamKey, rules: &Rules) -> Option<(usize, bool)> {
        let Inner { machine, out, slots, .. } = self;
        let slot = slots.get_mut(usize::from(key.slot)).filter(|slot| slot.id == key.id)?;
        slot.has_turn = false;
        let out = out.get_or_insert_with(Buf::small);
        let unsent = slot.unsent();
        let piece = &unsent[..unsent.len().min(rules.write_bytes_max as usize)];
        let is_end = slot.is_last && slot.trailers.is_none() && piece.len() == unsent.len();
        let sent = machine.send_data(key, piece, is_end, rules, out);
        let has_more = sent < unsent.len();
        slot.sent += sent as u32;
        if !has_more {
            if let Some(trailers) = slot.data_is_sent() {
                machine.send_trailers(key, &trailers, out);
            }
            slot.wake();
        }
        Some((sent, has_more))
    }

    /// Another turn for a stream that has more: at once if it is to be sent in one piece by its priority, else behind the others.
    //= https://www.rfc-editor.org/rfc/rfc9218#section-10
    fn queue(&mut self, key: StreamKey) {
        const UNSAID: (u8, bool) = (3, false);
        let priority = self.machine.priority(key);
        self.slots[usize::from(key.slot)].has_turn = true;
        if priority != UNSAID && !priority.1 {
            self.turns.push_front(priority.0, key);
        } else {
            self.turns.push_back(priority.0, key);
        }
    }
}
