//! The connections of a lane that speak HTTP/2: each carries several requests at once.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use sluice_sys::{Conn, sleep};

use super::lane::Shared;
use super::plan::Connections;
use crate::fault::Fault;
use crate::http::response::Answer;
use crate::wire::{Broken, Http2, Link};

/// A connection that could not be made is tried again after this long.
const RETRY_MS: u64 = 100;
/// How often a connection looks for answers that take too long.
const EXPIRY: Duration = Duration::from_millis(100);

/// A connection, shared by its task and by what gives it requests.
pub(super) struct Channel {
    conn: Conn,
    http2: RefCell<Http2>,
    /// Bytes received since the last answer.
    bytes: Cell<u64>,
}

/// One connection of a closed loop: as many requests at once as there are streams.
pub(super) async fn drive_closed(shared: Rc<Shared>) {
    while shared.begin() {
        let began = Instant::now();
        match shared.connect().await.map(Channel::new) {
            Ok(Some(channel)) => {
                channel.begin(&shared, began);
                channel.serve(&shared, || shared.begin().then(Instant::now)).await;
            }
            Ok(None) => {}
            Err(fault) => {
                shared.failed(fault);
                sleep(RETRY_MS).await;
            }
        }
    }
    shared.leave();
}

/// One connection of an open loop, made again when it has ended.
pub(super) async fn drive_open(shared: Rc<Shared>) {
    let mut is_first = true;
    while !shared.is_over() {
        let connected = shared.connect().await.map(Channel::new);
        if std::mem::take(&mut is_first) {
            shared.is_ready();
        }
        match connected {
            Ok(Some(channel)) => {
                let channel = Rc::new(channel);
                shared.channels.borrow_mut().push_back(channel.clone());
                channel.serve(&shared, || shared.next_due()).await;
                shared.channels.borrow_mut().retain(|other| !Rc::ptr_eq(other, &channel));
            }
            Ok(None) => {}
            Err(fault) => {
                shared.failed(fault);
                sleep(RETRY_MS).await;
            }
        }
    }
}

impl Shared {
    /// Open loop: gives what is due to connections with room, in turn.
    pub(super) fn start_due(&self) {
        let mut channels = self.channels.borrow_mut();
        let mut full = 0;
        while full < channels.len() {
            let Some(channel) = channels.pop_front() else { return };
            let due = channel.has_room(self).then(|| self.next_due()).flatten();
            let is_full = !channel.has_room(self);
            if let Some(due) = due {
                channel.begin(self, due);
                channel.flush(self);
                full = 0;
            }
            channels.push_back(channel);
            match due {
                None if is_full => full += 1,
                None => return,
                Some(_) => {}
            }
        }
    }
}

impl Channel {
    /// A connection of HTTP/2.
    fn new(link: Link) -> Option<Channel> {
        let http2 = RefCell::new(link.http2?);
        Some(Channel { conn: link.conn, http2, bytes: Cell::new(0) })
    }

    /// Whether it may have another request now.
    fn has_room(&self, shared: &Shared) -> bool {
        let client = &self.http2.borrow().client;
        let streams = shared.plan.streams.unwrap_or(1);
        let is_fresh = shared.plan.kind == Connections::Kept || client.begun() < streams;
        is_fresh && client.streams() < streams && client.has_room()
    }

    /// Begins a request that was due at this time.
    fn begin(&self, shared: &Shared, due: Instant) {
        shared.sent_late(due);
        let number = shared.next_number();
        let mut http2 = self.http2.borrow_mut();
        if http2.client.streams() == 0 {
            self.conn.set_deadline(shared.plan.timeout_ms);
        }
        let is_begun = http2.client.begin(&shared.plan.mix.requests, number, due);
        debug_assert!(is_begun, "there is room for it");
    }

    fn flush(&self, shared: &Shared) {
        self.http2.borrow_mut().flush(&self.conn, shared.plan.timeout_ms);
    }

    /// Receives answers until the connection has ended, or has nothing more to do.
    async fn serve(&self, shared: &Shared, mut next: impl FnMut() -> Option<Instant>) {
        let requests = &shared.plan.mix.requests[..];
        let timeout = Duration::from_millis(shared.plan.timeout_ms);
        let mut expired = Instant::now();
        loop {
            while self.has_room(shared)
                && let Some(due) = next()
            {
                self.begin(shared, due);
            }
            self.flush(shared);
            if self.is_done(shared) {
                return;
            }
            let received = self.conn.receive().await;
            let mut http2 = self.http2.borrow_mut();
            let fault = match received {
                Ok(Some(lease)) => {
                    self.bytes.set(self.bytes.get() + lease.len() as u64);
                    http2.take(&lease, requests).err()
                }
                Ok(None) => Some(Fault::Closed),
                Err(error) => Some(Fault::of_io(&error)),
            };
            if let Some(fault) = fault {
                http2.client.fail(fault);
            } else if expired.elapsed() >= EXPIRY {
                expired = Instant::now();
                http2.client.expire(timeout);
            }
            drop(http2);
            self.settle(shared);
            if fault.is_some() {
                return;
            }
        }
    }

    /// Whether nothing is under way, and nothing will be.
    fn is_done(&self, shared: &Shared) -> bool {
        let client = &self.http2.borrow().client;
        let is_used_up = shared.plan.kind == Connections::PerRequest && client.begun() > 0;
        let is_closed_loop = shared.plan.open.is_none();
        client.streams() == 0 && (client.is_going_away() || shared.is_over() || is_used_up || is_closed_loop)
    }

    /// Counts what is over.
    fn settle(&self, shared: &Shared) {
        let mut http2 = self.http2.borrow_mut();
        let done = http2.client.take_done();
        if http2.client.streams() == 0 {
            self.conn.clear_deadline();
        } else if !done.is_empty() {
            self.conn.set_deadline(shared.plan.timeout_ms);
        }
        drop(http2);
        for done in done {
            match done.outcome {
                Ok(status) => {
                    let wire_bytes = self.bytes.take();
                    shared.answered(done.began, Answer { status, wire_bytes, keeps_alive: true });
                }
                Err(Broken::Stale) => shared.stale(),
                Err(Broken::Fault(fault)) => shared.failed(fault),
            }
        }
    }
}
