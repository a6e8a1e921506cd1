//! How many connections a server has, of all shards together, where that is limited; and which shards have requests that wait for one
//! to a server of its group.
//!
//! A [`Place`] is taken before an attempt to connect begins, and goes with the socket: it comes back when the server has ended the
//! connection too, or it was reset (`sluice_sys`: `Conn::connect_holding`). So at no moment does the server's kernel have more
//! connections than there are places. Servers without a limit have nothing of this.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use crossbeam_utils::CachePadded;

/// A connection changes shards for a request that has waited for half as long again as the oldest of its own shard, and for so much
/// longer. That costs a new connection; staying costs the other shard time.
const HANDOVER_MS: u64 = 20;

/// The places of one server.
#[derive(Debug)]
pub(crate) struct Capacity {
    counts: CachePadded<Counts>,
    /// Who waits for a server of its group.
    waiting: Arc<Waiting>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Connections of all shards, and attempts to make one.
    taken: AtomicU32,
    /// Those of them that were given up for other shards.
    ceding: AtomicU32,
}

/// A place for one connection.
#[derive(Debug)]
pub(crate) struct Place(Arc<Capacity>);

/// For whom a place is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// A request that has just come: those that wait go first.
    New,
    /// One that has waited, and was called.
    Waited,
}

/// There is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// By shard, the requests that wait for a server of one group.
#[derive(Debug)]
pub(crate) struct Waiting {
    shards: Box<[CachePadded<OfShard>]>,
    keepers: Arc<Keepers>,
}

#[derive(Debug, Default)]
struct OfShard {
    /// Requests that wait, and since when the first of them does; written by the shard.
    count: AtomicU32,
    oldest_ms: AtomicU64,
    /// Connections that the shard can give up; written by the shard.
    spare: AtomicU32,
    /// It is to look whether there is something for its first request; written by all.
    is_called: AtomicBool,
    /// So many connections it is to give up for others; written by all.
    asked: AtomicU32,
}

/// By shard, the task that others wake.
#[derive(Debug)]
pub(crate) struct Keepers(Box<[OnceLock<Waker>]>);

impl Capacity {
    pub(crate) fn new(waiting: Arc<Waiting>) -> Capacity {
        Capacity { counts: CachePadded::default(), waiting }
    }

    /// A place, if fewer than `max` are taken.
    pub(crate) fn take(self: &Arc<Self>, max: u32, turn: Turn) -> Result<Place, Full> {
        if turn == Turn::New && self.waiting.is_any() {
            return Err(Full);
        }
        let next = |taken| if taken < max { Some(taken + 1) } else { None };
        match self.counts.taken.fetch_update(SeqCst, SeqCst, next) {
            Ok(_) => Ok(Place(self.clone())),
            Err(_) => Err(Full),
        }
    }

    /// Whether so many places or more are taken.
    pub(crate) fn is_full(&self, max: u32) -> bool {
        self.counts.taken.load(SeqCst) >= max
    }

    /// Places that are taken.
    #[cfg(test)]
    pub(crate) fn taken(&self) -> u32 {
        self.counts.taken.load(SeqCst)
    }

    /// Whether a connection of this shard is to be given up rather than kept: a request of another shard waits, and has waited for
    /// clearly longer than those here, of which the oldest has for `waited_ms`, if there are any. Not more connections than there are
    /// such requests.
    pub(crate) fn is_wanted_elsewhere(
        &self,
        shard: usize,
        max: u32,
        now_ms: u64,
        waited_ms: Option<u64>,
    ) -> bool {
        let Some((count, since_ms)) = self.waiting.elsewhere(shard) else { return false };
        let theirs_ms = now_ms.saturating_sub(since_ms);
        let is_longer = waited_ms.is_none_or(|ours_ms| theirs_ms > ours_ms + ours_ms / 2 + HANDOVER_MS);
        is_longer && self.is_full(max) && self.counts.ceding.load(Relaxed) < count
    }

    /// So many connections are given up for other shards.
    pub(crate) fn cede(&self, count: u32) {
        self.counts.ceding.fetch_add(count, Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let counts = &self.0.counts;
        // Whichever place it was: another shard may have it now.
        let _ = counts.ceding.fetch_update(Relaxed, Relaxed, |ceding| ceding.checked_sub(1));
        // Before the requests that wait are looked at, in the one order of all such accesses: a request that begins to wait says so
        // before it looks for a place a last time. One of the two sees the other.
        counts.taken.fetch_sub(1, SeqCst);
        self.0.waiting.call_oldest();
    }
}

impl Waiting {
    pub(crate) fn new(keepers: Arc<Keepers>) -> Waiting {
        let shards = keepers.0.iter().map(|_| CachePadded::default()).collect();
        Waiting { shards, keepers }
    }

    /// So many requests of a shard wait, the first of them since then.
    pub(crate) fn publish(&self, shard: usize, count: u32, oldest_ms: u64) {
        let of_shard = &self.shards[shard];
        of_shard.oldest_ms.store(oldest_ms, SeqCst);
        of_shard.count.store(count, SeqCst);
    }

    /// So many connections of a shard can be given up.
    pub(crate) fn set_spare(&self, shard: usize, spare: u32) {
        self.shards[shard].spare.store(spare, Relaxed);
    }

    /// Whether any request waits.
    pub(crate) fn is_any(&self) -> bool {
        self.shards.iter().any(|shard| shard.count.load(SeqCst) > 0)
    }

    /// How many requests of other shards wait, and since when the oldest does.
    pub(crate) fn elsewhere(&self, me: usize) -> Option<(u32, u64)> {
        let others = self.shards.iter().enumerate().filter(|(shard, _)| *shard != me);
        let waiting = others.filter_map(|(_, shard)| match shard.count.load(SeqCst) {
            0 => None,
            count => Some((count, shard.oldest_ms.load(SeqCst))),
        });
        waiting.reduce(|one, other| (one.0 + other.0, one.1.min(other.1)))
    }

    /// Has the task of a shard look after its requests.
    pub(crate) fn wake(&self, shard: usize) {
        self.keepers.wake(shard);
    }

    /// Has the shard whose first request waits for longest look for a server again.
    pub(crate) fn call_oldest(&self) {
        let waiting = self.shards.iter().enumerate().filter(|(_, shard)| shard.count.load(SeqCst) > 0);
        if let Some((shard, of_shard)) = waiting.min_by_key(|(_, shard)| shard.oldest_ms.load(SeqCst)) {
            of_shard.is_called.store(true, SeqCst);
            self.keepers.wake(shard);
        }
    }

    /// Asks the shard that can spare most connections to give one up; it may be the caller's.
    pub(crate) fn ask_for_one(&self) {
        let left = |shard: &OfShard| shard.spare.load(Relaxed).saturating_sub(shard.asked.load(Relaxed));
        let spare = self.shards.iter().enumerate().filter(|(_, shard)| left(shard) > 0);
        if let Some((shard, of_shard)) = spare.max_by_key(|(_, shard)| left(shard)) {
            of_shard.asked.fetch_add(1, SeqCst);
            self.keepers.wake(shard);
        }
    }

    /// Whether the shard was called since it asked last.
    pub(crate) fn take_call(&self, shard: usize) -> bool {
        self.shards[shard].is_called.swap(false, SeqCst)
    }

    /// How many connections the shard was asked for since it looked last.
    pub(crate) fn take_asked(&self, shard: usize) -> u32 {
        self.shards[shard].asked.swap(0, SeqCst)
    }
}

impl Keepers {
    /// Of so many shards.
    pub(crate) fn new(shards: usize) -> Keepers {
        Keepers((0..shards).map(|_| OnceLock::new()).collect())
    }

    /// The task of a shard, which calls this once.
    pub(crate) fn begin(&self, shard: usize, waker: &Waker) {
        self.0[shard].get_or_init(|| waker.clone());
    }

    fn wake(&self, shard: usize) {
        if let Some(waker) = self.0[shard].get() {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    /// Places of a server, and how often each of two shards was woken.
    fn capacity() -> (Arc<Capacity>, [Arc<Counted>; 2]) {
        let keepers = Arc::new(Keepers::new(2));
        let woken = [0, 1].map(|shard| {
            let counted = Arc::new(Counted(AtomicUsize::new(0)));
            keepers.begin(shard, &counted.clone().into());
            counted
        });
        (Arc::new(Capacity::new(Arc::new(Waiting::new(keepers)))), woken)
    }

    fn count(woken: &[Arc<Counted>; 2]) -> [usize; 2] {
        woken.each_ref().map(|counted| counted.0.load(SeqCst))
    }

    #[test]
    fn threads_that_take_and_give_back_never_have_more_places_than_there_are() {
        const MAX: u32 = 3;
        let (capacity, _) = capacity();
        let (now, most) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let Ok(place) = capacity.take(MAX, Turn::New) else { continue };
                        most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                        now.fetch_sub(1, SeqCst);
                        drop(place);
                    }
                });
            }
        });
        assert!(most.load(SeqCst) <= MAX, "{most:?}");
        assert_eq!(capacity.taken(), 0);
    }

    #[test]
    fn a_place_that_comes_back_calls_the_shard_that_has_waited_for_longest() {
        let (capacity, woken) = capacity();
        let place = capacity.take(1, Turn::New).expect("the first");
        assert_eq!(capacity.take(1, Turn::Waited).unwrap_err(), Full);
        capacity.waiting.publish(0, 2, 500);
        capacity.waiting.publish(1, 1, 400);
        drop(place);
        assert_eq!(count(&woken), [0, 1]);
        assert!(capacity.waiting.take_call(1) && !capacity.waiting.take_call(1));
        assert!(capacity.take(1, Turn::New).is_err(), "those that wait go first");
        let place = capacity.take(1, Turn::Waited).expect("it came back");
        capacity.waiting.publish(1, 0, 0);
        drop(place);
        assert_eq!(count(&woken), [1, 1]);
        capacity.waiting.publish(0, 0, 0);
        drop(capacity.take(1, Turn::New).expect("none waits"));
        assert_eq!(count(&woken), [1, 1]);
    }

    #[test]
    fn a_connection_is_given_up_for_requests_that_have_waited_longer() {
        let (capacity, _) = capacity();
        let _place = capacity.take(1, Turn::New).expect("the first");
        let is_wanted = |ours_ms| capacity.is_wanted_elsewhere(0, 1, 2_000, ours_ms);
        assert!(!is_wanted(None), "none waits");
        // It waits for a second.
        capacity.waiting.publish(1, 1, 1_000);
        assert!(is_wanted(None) && is_wanted(Some(0)) && is_wanted(Some(600)));
        assert!(!is_wanted(Some(654)) && !is_wanted(Some(1_100)));
        capacity.waiting.publish(1, 1, 1_980);
        assert!(is_wanted(None) && !is_wanted(Some(0)), "a moment is worth no new connection");
        assert!(!capacity.is_wanted_elsewhere(0, 2, 2_000, None), "there is a free place");
        capacity.cede(1);
        assert!(!is_wanted(None), "one comes back already");
    }

    #[test]
    fn the_shard_with_most_to_spare_is_asked() {
        let (capacity, woken) = capacity();
        capacity.waiting.ask_for_one();
        assert_eq!(count(&woken), [0, 0]);
        capacity.waiting.set_spare(0, 1);
        capacity.waiting.set_spare(1, 3);
        (0..5).for_each(|_| capacity.waiting.ask_for_one());
        let asked = [capacity.waiting.take_asked(0), capacity.waiting.take_asked(1)];
        assert_eq!(asked, [1, 3]);
    }
}
