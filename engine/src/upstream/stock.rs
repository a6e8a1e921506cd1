//! How many connections to servers a shard keeps open. Numbers only: the connections are in `group`.
//!
//! A [`Peak`] is how many connections to one server were in use at once lately. That many, busy and idle, are kept, since fewer
//! would mean new connections at the next peak. A [`Stock`] is how many the descriptors allow, over all servers. Requests only
//! compare and store; `upkeep` calls `tick` once a second while idle connections exist.

use std::cell::{Cell, OnceCell};

use sluice_sys::Timer;

/// This many connections to a server stay until `timeouts.upstream_idle`, however little there is to do.
const WANTED_MIN: u32 = 16;

/// Seconds for which a peak counts in full.
const HELD_TICKS: u8 = 4;

/// The highest number of connections in use at once, lately.
#[derive(Debug, Default)]
pub(crate) struct Peak {
    /// Since the last tick.
    highest: Cell<u32>,
    /// The peak before that, less a quarter for every tick since it has been held.
    faded: Cell<u32>,
    /// Ticks since that peak, [`HELD_TICKS`] at most.
    held: Cell<u8>,
}

impl Peak {
    pub(crate) fn note(&self, busy: u32) {
        if busy > self.highest.get() {
            self.highest.set(busy);
        }
    }

    /// A second has passed, and `busy` connections are in use.
    pub(crate) fn tick(&self, busy: u32) {
        let highest = self.highest.replace(busy);
        let faded = self.faded.get();
        if highest >= faded {
            self.faded.set(highest);
            self.held.set(0);
        } else if self.held.get() < HELD_TICKS {
            self.held.set(self.held.get() + 1);
        } else {
            self.faded.set((faded - faded.div_ceil(4)).max(highest));
        }
    }

    /// Connections that are worth having, busy and idle.
    pub(crate) fn wanted(&self) -> u32 {
        self.faded.get().max(self.highest.get()).max(WANTED_MIN)
    }
}

/// The descriptors of one shard: an equal part of the process's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptors {
    /// For clients and servers together.
    pub(crate) all: u32,
    /// The part that is kept from clients.
    pub(crate) for_servers: u32,
}

/// Connections of a shard to all its servers, and how many there may be with the idle ones.
#[derive(Debug)]
pub(crate) struct Stock {
    open: Cell<u32>,
    open_max: Cell<u32>,
    descriptors: Descriptors,
}

impl Stock {
    pub(crate) fn new(descriptors: Descriptors) -> Stock {
        let stock = Stock { open: Cell::new(0), open_max: Cell::new(0), descriptors };
        stock.leave_room_for(0);
        stock
    }

    /// Descriptors of the shard, for clients and servers together.
    pub(crate) fn descriptors(&self) -> u32 {
        self.descriptors.all
    }

    /// The shard has so many clients now: servers get three quarters of what these leave, so that there is room for as many
    /// new clients as can come until the next tick, and in any case what is kept for them.
    pub(crate) fn leave_room_for(&self, clients: u32) {
        let left = self.descriptors.all.saturating_sub(clients);
        self.open_max.set((left - left / 4).max(self.descriptors.for_servers));
    }

    pub(crate) fn opened(&self) {
        self.open.set(self.open.get() + 1);
    }

    pub(crate) fn closed(&self, count: usize) {
        self.open.set(self.open.get() - count as u32);
    }

    /// Whether there is no room for one more. A request has its connection all the same, as long as there are descriptors.
    pub(crate) fn is_full(&self) -> bool {
        self.open.get() >= self.open_max.get()
    }

    /// Whether there are more than there may be: none of them is to be kept idle.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.open.get() > self.open_max.get()
    }

    pub(crate) fn open(&self) -> u32 {
        self.open.get()
    }
}

/// How often the stock of each server is looked at while connections are idle.
pub(crate) const TICK_MS: u64 = 1_000;

/// The timer of `upkeep`.
#[derive(Default)]
pub(crate) struct Upkeep {
    pub(crate) timer: OnceCell<Timer>,
    pub(crate) is_awake: Cell<bool>,
}

impl Upkeep {
    /// There is an idle connection.
    pub(crate) fn wake(&self) {
        if !self.is_awake.replace(true)
            && let Some(timer) = self.timer.get()
        {
            timer.reset(TICK_MS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let peak = Peak::default();
        assert_eq!(peak.wanted(), WANTED_MIN);
        for busy in [1, 700, 1_000, 3] {
            peak.note(busy);
        }
        assert_eq!(peak.wanted(), 1_000);
        let stocks: Vec<u32> = (0..10)
            .map(|_| {
                peak.tick(3);
                peak.wanted()
            })
            .collect();
        // The first tick ends the second of the peak itself.
        assert_eq!(stocks, [1_000, 1_000, 1_000, 1_000, 1_000, 750, 562, 421, 315, 236]);
        (0..20).for_each(|_| peak.tick(3));
        assert_eq!(peak.wanted(), WANTED_MIN);
    }

    #[test]
    fn a_peak_that_comes_again_does_not_fade() {
        let peak = Peak::default();
        for second in 0..50 {
            if second % 5 == 0 {
                peak.note(900);
            }
            peak.tick(10);
            assert_eq!(peak.wanted(), 900);
        }
    }

    #[test]
    fn what_stays_in_use_counts_without_being_noted_again() {
        let peak = Peak::default();
        peak.note(400);
        (0..50).for_each(|_| peak.tick(400));
        assert_eq!(peak.wanted(), 400);
    }

    #[test]
    fn servers_get_most_of_what_clients_leave() {
        let stock = Stock::new(Descriptors { all: 20_000, for_servers: 2_500 });
        let open_max = |clients| {
            stock.leave_room_for(clients);
            stock.open_max.get()
        };
        assert_eq!([0, 4_000, 16_000, 17_500, 30_000].map(open_max), [15_000, 12_000, 3_000, 2_500, 2_500]);
        stock.leave_room_for(30_000);
        for _ in 0..2_499 {
            stock.opened();
        }
        assert_eq!((stock.is_full(), stock.is_exceeded()), (false, false));
        stock.opened();
        assert_eq!((stock.is_full(), stock.is_exceeded()), (true, false));
        stock.opened();
        assert!(stock.is_exceeded());
        stock.closed(2);
        assert_eq!((stock.is_full(), stock.open()), (false, 2_499));
    }
}
