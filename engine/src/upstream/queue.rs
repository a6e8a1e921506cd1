//! Requests that wait for a server while all servers of their group have as many connections as they may.
//!
//! Each shard has one queue for each group, first come, first served. Its first request looks again when a connection of this shard
//! becomes free, or when a place has come back on any shard and no other shard has a request that waits for longer
//! ([`Waiting::call_oldest`]). It stays at the front until it has a server, its time is over, or its client leaves. A request that
//! comes while others wait goes behind them.

use std::cell::{Cell, RefCell};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use sluice_sys::{Timer, now_ms};

use crate::answer::Answer;
use crate::message::Aborted;
use crate::shard::Shard;
use crate::upstream::capacity::{Turn, Waiting};
use crate::upstream::connect::{ProxyIdentity, connect_new, take_free};
use crate::upstream::group::Group;
use crate::upstream::stream::UpstreamStream;

/// From half of a queue's length on, a client's connection has at most this part of it (one in so many).
const CLIENT_PART: usize = 8;

/// How often the first request looks again for what no event tells: a server is no longer passed over, or takes more streams.
const LOOK_MS: u64 = 100;

/// As good as never: the first request that waits ends it.
const ASLEEP_MS: u64 = 24 * 3_600_000;

/// The requests of one shard that wait for a server of one group.
pub(crate) struct Queue {
    waiters: RefCell<Waiters>,
    /// The same of all shards.
    waiting: Arc<Waiting>,
    shard: usize,
    /// Connections that this shard can give up.
    spare: Cell<u32>,
}

/// All of them in their order, and how many each client's connection has. Thousands may come and leave: nothing here takes longer for it.
#[derive(Default)]
struct Waiters {
    in_order: BTreeMap<Turns, Rc<Waiter>>,
    of_client: HashMap<usize, usize>,
    /// How many have entered.
    entered: u64,
}

/// Since when a request waits, and which one it was to enter of those that came in the same millisecond.
type Turns = (u64, u64);

/// A request that waits.
struct Waiter {
    turn: Turns,
    /// The connection of its client.
    client: usize,
    /// It is to look for a server.
    is_called: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A request's place in a queue, which it leaves when this is dropped.
struct Ticket {
    queue: Rc<Queue>,
    waiter: Rc<Waiter>,
}

/// Why there is no server for a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unavailable {
    Answer(Answer<'static>),
    /// Its client has left.
    Gone(Aborted),
}

/// The queue has no room for the request.
struct Overflow;

impl Queue {
    pub(crate) fn new(waiting: Arc<Waiting>, shard: usize) -> Queue {
        Queue { waiters: RefCell::default(), waiting, shard, spare: Cell::new(0) }
    }

    /// Whether no request waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiters.borrow().in_order.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.waiters.borrow().in_order.len()
    }

    /// Since when the first one waits.
    pub(crate) fn oldest_ms(&self) -> Option<u64> {
        self.waiters.borrow().oldest_ms()
    }

    pub(crate) fn shard(&self) -> usize {
        self.shard
    }

    /// The same of all shards.
    pub(crate) fn waiting(&self) -> &Arc<Waiting> {
        &self.waiting
    }

    /// The first one looks for a server again; says if there is one.
    pub(crate) fn call_first(&self) -> bool {
        let waiters = self.waiters.borrow();
        let Some((_, first)) = waiters.in_order.first_key_value() else { return false };
        first.is_called.set(true);
        if let Some(waker) = first.waker.take() {
            waker.wake();
        }
        true
    }

    /// A server has so many more connections, or fewer, that this shard can give up.
    pub(crate) fn note_spare(&self, before: u32, now: u32) {
        let spare = self.spare.get() + now - before;
        self.spare.set(spare);
        self.waiting.set_spare(self.shard, spare);
    }

    /// Takes in a request by the time of its coming, if there is room.
    fn enter(self: &Rc<Self>, client: usize, since_ms: u64, most: usize) -> Result<Ticket, Overflow> {
        let mut waiters = self.waiters.borrow_mut();
        let (count, of_client) = (waiters.in_order.len(), waiters.of_client.get(&client).copied());
        if count >= most || count >= most / 2 && of_client.unwrap_or(0) > most / CLIENT_PART {
            return Err(Overflow);
        }
        // Whoever waits already is called when there is something.
        let is_called = Cell::new(!self.waiting.is_any());
        // One that comes back was called before: it is among the first.
        let turn = (since_ms, waiters.entered);
        let waiter = Rc::new(Waiter { turn, client, is_called, waker: RefCell::default() });
        waiters.enter(waiter.clone());
        let is_first = count == 0;
        drop(waiters);
        self.publish();
        if is_first {
            self.waiting.wake(self.shard);
        }
        Ok(Ticket { queue: self.clone(), waiter })
    }

    fn publish(&self) {
        let waiters = self.waiters.borrow();
        let oldest_ms = waiters.oldest_ms().unwrap_or(u64::MAX);
        self.waiting.publish(self.shard, waiters.in_order.len() as u32, oldest_ms);
    }

    /// Looks whether the shard was called for its first request.
    fn heed_call(&self) {
        if self.waiting.take_call(self.shard) && !self.call_first() {
            // It has left meanwhile.
            self.waiting.call_oldest();
        }
    }

    /// The first one looks again, in case that no event has told it to.
    fn look_again(&self) {
        if self.call_first() {
            self.waiting.ask_for_one();
        }
    }

    /// Gives up as many connections as other shards have asked for, if there are as many.
    fn heed_asked(&self, shard: &Shard) {
        let asked = self.waiting.take_asked(self.shard);
        if asked == 0 {
            return;
        }
        let mut left = asked;
        shard.servers.for_each(|server| {
            if server.is_of(self) {
                left -= server.give_up(left);
            }
        });
        shard.counters.upstream_ceded.add(u64::from(asked - left));
        if left > 0 && self.waiting.elsewhere(self.shard).is_some() {
            // They were needed here meanwhile: another shard may have some.
            self.waiting.ask_for_one();
        }
    }
}

impl Waiters {
    fn enter(&mut self, waiter: Rc<Waiter>) {
        self.entered += 1;
        *self.of_client.entry(waiter.client).or_default() += 1;
        self.in_order.insert(waiter.turn, waiter);
    }

    fn leave(&mut self, waiter: &Waiter) {
        self.in_order.remove(&waiter.turn);
        if let Entry::Occupied(mut count) = self.of_client.entry(waiter.client) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    fn oldest_ms(&self) -> Option<u64> {
        self.in_order.first_key_value().map(|(&(since_ms, _), _)| since_ms)
    }
}

impl Ticket {
    /// Whether it is the request's turn to look for a server.
    fn take_turn(&self) -> bool {
        self.waiter.is_called.replace(false)
    }

    /// The request looks for nothing before it is called.
    fn wait_for_call(&self) {
        self.waiter.is_called.set(false);
    }

    fn sleep(&self, context: &Context<'_>) {
        self.waiter.waker.replace(Some(context.waker().clone()));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.queue.waiters.borrow_mut().leave(&self.waiter);
        self.queue.publish();
        // There may be more where this one found what it wanted, or it has left before it looked.
        if !self.queue.call_first() {
            self.queue.waiting.call_oldest();
        }
    }
}

/// A server for a request that found none free: waits in the queue of the group. `gone` is ready when there is no client any more.
///
/// # Errors
/// The answer for the client, or that it has left.
pub(crate) async fn wait_for_server(
    shard: &Rc<Shard>,
    group: &Group,
    identity: ProxyIdentity<'_>,
    mut gone: impl FnMut(&mut Context<'_>) -> Poll<Aborted>,
) -> Result<UpstreamStream, Unavailable> {
    let (queue, counters) =
        (group.rules.queue.as_ref().expect("only a limit makes it full"), &shard.counters);
    let (since_ms, client) = (now_ms(), identity.conn.map_or(0, |conn| std::ptr::from_ref(conn).addr()));
    let timer = Timer::new(group.rules.queue_ms);
    // A request that has left the queue for a place comes back if another shard was faster.
    let mut most = if group.rules.queue_ms > 0 { group.rules.queue_max } else { 0 };
    loop {
        let Ok(ticket) = queue.enter(client, since_ms, most) else {
            counters.upstream_queue_overflows.increment();
            return Err(Unavailable::Answer(Answer::QUEUE_FULL));
        };
        if most != usize::MAX {
            counters.upstream_queued.increment();
            most = usize::MAX;
        } else if group.has_room(identity.wanted()) {
            // There was room a moment ago too, and it was of no use: to look at once would do the same again, for ever.
            ticket.wait_for_call();
        }
        queue.waiting.ask_for_one();
        let found = poll_fn(|context| {
            if let Poll::Ready(aborted) = gone(context) {
                counters.upstream_queue_left.increment();
                return Poll::Ready(Err(Unavailable::Gone(aborted)));
            }
            if ticket.take_turn() {
                let free = take_free(shard, group, identity);
                if free.is_some() || group.has_room(identity.wanted()) {
                    return Poll::Ready(Ok(free));
                }
            }
            if timer.poll_expired().is_ready() {
                counters.upstream_queue_timeouts.increment();
                return Poll::Ready(Err(Unavailable::Answer(Answer::QUEUE_LATE)));
            }
            ticket.sleep(context);
            Poll::Pending
        })
        .await;
        drop(ticket);
        if let Some(stream) = found? {
            return Ok(stream);
        }
        match connect_new(shard, group, identity, Turn::Waited).await {
            Err(Answer::FULL) => {}
            other => return other.map_err(Unavailable::Answer),
        }
    }
}

/// The task of a shard that others wake: has requests look again, and gives up connections.
pub(crate) async fn keep(shard: Rc<Shard>) {
    let timer = Timer::new(ASLEEP_MS);
    let mut is_looking = false;
    poll_fn(|context| {
        shard.servers.begin_keeping(context.waker());
        let is_due = timer.poll_expired().is_ready();
        let mut is_any = false;
        shard.servers.for_each_queue(|queue| {
            queue.heed_call();
            queue.heed_asked(&shard);
            if is_due {
                queue.look_again();
            }
            is_any |= !queue.is_empty();
        });
        if is_due || is_any != is_looking {
            is_looking = is_any;
            timer.reset(if is_any { LOOK_MS } else { ASLEEP_MS });
            // Not yet; the task is polled again when it is.
            let _ = timer.poll_expired();
        }
        Poll::<()>::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::capacity::Keepers;

    fn queue() -> Rc<Queue> {
        Rc::new(Queue::new(Arc::new(Waiting::new(Arc::new(Keepers::new(1)))), 0))
    }

    #[test]
    fn the_first_to_come_is_the_first_whoever_entered_before() {
        let queue = queue();
        let mut tickets: Vec<_> = [20, 10, 20, 15]
            .iter()
            .map(|&since_ms| queue.enter(1, since_ms, 8).ok().expect("room"))
            .collect();
        let mut order = Vec::new();
        while let Some(since_ms) = queue.oldest_ms() {
            let first = queue.waiters.borrow().in_order.first_key_value().map(|(turn, _)| *turn);
            order.push(first.map(|(_, nth)| nth));
            let at = tickets.iter().position(|ticket| Some(ticket.waiter.turn) == first).expect("it waits");
            assert_eq!(tickets.remove(at).waiter.turn.0, since_ms);
        }
        assert_eq!(order, [Some(1), Some(3), Some(0), Some(2)]);
        assert!(queue.waiters.borrow().of_client.is_empty());
    }

    #[test]
    fn one_client_has_its_part_of_a_crowded_queue_and_no_more() {
        let queue = queue();
        let mut tickets: Vec<_> = (0..40).filter_map(|_| queue.enter(1, 5, 64).ok()).collect();
        assert_eq!(tickets.len(), 32, "half of it");
        assert!((0..9).all(|_| queue.enter(2, 6, 64).map(|ticket| tickets.push(ticket)).is_ok()));
        assert!(queue.enter(2, 6, 64).is_err(), "an eighth, and the one that passes it");
        tickets.truncate(3);
        assert!(queue.enter(1, 7, 64).is_ok());
    }

    /// How long this thread was on a CPU, whatever others on this host do.
    fn cpu_ns() -> Option<u64> {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        text.split(' ').next()?.parse().ok()
    }

    /// Clients that come and leave cost about the same in a queue of any length: a walk through it takes fifty times as long in one
    /// that is fifty times as long.
    #[test]
    fn coming_and_leaving_takes_no_longer_where_many_wait() {
        const TIMES: usize = 10_000;
        let cost_ns = |length: usize| {
            let queue = queue();
            let enter = |client: usize| queue.enter(client, 1, usize::MAX).ok().expect("room");
            let mut tickets: Vec<_> = (0..length).map(enter).collect();
            let begun_ns = cpu_ns()?;
            for n in 0..TIMES {
                // In no order that would favour an end of the queue.
                let at = n * 7_919 % length;
                tickets[at] = enter(length + n);
            }
            Some(cpu_ns()? - begun_ns)
        };
        let least = |length| (0..3).map(|_| cost_ns(length)).min().flatten();
        let (Some(few), Some(many @ 1..)) = (least(200), least(10_000)) else {
            eprintln!("SKIPPED: this kernel does not say how long a thread was on a CPU");
            return;
        };
        eprintln!("{TIMES} times: {few} ns where 200 wait, {many} ns where 10,000 do");
        assert!(many < few.max(1_000_000) * 15, "{few} ns where 200 wait, {many} ns where 10,000 do");
    }
}
