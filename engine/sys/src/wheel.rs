//! One timer wheel per shard: deadlines of sockets, kept in the socket entries themselves.
//!
//! A deadline costs one store when it is moved later, which is what a busy connection does all the time: the entry
//! stays where it is linked and is looked at again when that slot comes round. Only a deadline that moves earlier is
//! linked anew. Time is counted in ticks of [`TICK_MS`]; a deadline never fires early and at most two ticks late.

use crate::key::NONE;

/// Length of a tick in milliseconds.
pub(crate) const TICK_MS: u64 = 32;

/// Slots of the wheel; a deadline further away than one turn is parked in the last slot and linked again from there.
const SLOTS: usize = 2048;
const WORDS: usize = SLOTS / 64;
const UNLINKED: u16 = u16::MAX;

/// No deadline.
pub(crate) const NEVER: u32 = u32::MAX;

/// The wheel's part of an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// The tick at which the entry expires, or [`NEVER`].
    deadline: u32,
    /// The tick the entry is linked under. It may be before the deadline, never after it.
    next: u32,
    previous: u32,
    slot: u16,
}

impl Link {
    pub(crate) const UNLINKED: Link = Link { deadline: NEVER, next: NONE, previous: NONE, slot: UNLINKED };

    /// Milliseconds from `now_ms` until the deadline.
    pub(crate) fn due_in_ms(&self, now_ms: u64) -> u64 {
        match self.deadline {
            NEVER => u64::MAX,
            tick => (u64::from(tick) * TICK_MS).saturating_sub(now_ms),
        }
    }

    /// Whether a deadline is set.
    #[cfg(test)]
    pub(crate) fn has_deadline(&self) -> bool {
        self.deadline != NEVER
    }
}

/// Where the links live.
pub(crate) trait Links {
    /// The link of an entry.
    fn link(&mut self, index: u32) -> &mut Link;
}

pub(crate) struct Wheel {
    heads: Box<[u32; SLOTS]>,
    occupied: [u64; WORDS],
    /// The last tick that was looked at.
    now: u32,
}

impl Wheel {
    pub(crate) fn new() -> Wheel {
        Wheel { heads: Box::new([NONE; SLOTS]), occupied: [0; WORDS], now: 0 }
    }

    /// A wheel whose time is not at its beginning.
    pub(crate) fn starting_at(now_ms: u64) -> Wheel {
        Wheel { now: u32::try_from(now_ms / TICK_MS).unwrap_or(NEVER - 1), ..Wheel::new() }
    }

    /// The tick that a time `after_ms` from `now_ms` falls into, rounded up so that nothing fires early.
    pub(crate) fn tick_after(now_ms: u64, after_ms: u64) -> u32 {
        let tick = now_ms.saturating_add(after_ms).div_ceil(TICK_MS);
        u32::try_from(tick).unwrap_or(NEVER).min(NEVER - 1)
    }

    /// Sets the deadline of an entry.
    pub(crate) fn set<L: Links>(&mut self, links: &mut L, index: u32, deadline: u32) {
        let now = self.now;
        let link = links.link(index);
        link.deadline = deadline;
        if deadline == NEVER {
            return;
        }
        let wanted = bounded(now, deadline);
        if link.slot != UNLINKED {
            let linked = tick_of_slot(now, link.slot);
            if linked <= wanted {
                return;
            }
            self.unlink(links, index);
        }
        self.link_at(links, index, wanted);
    }

    /// Forgets an entry altogether.
    pub(crate) fn remove<L: Links>(&mut self, links: &mut L, index: u32) {
        links.link(index).deadline = NEVER;
        if links.link(index).slot != UNLINKED {
            self.unlink(links, index);
        }
    }

    /// Moves time forward and returns one entry whose deadline has passed; call until it returns `None`.
    pub(crate) fn expire<L: Links>(&mut self, links: &mut L, now_ms: u64) -> Option<u32> {
        let target = u32::try_from(now_ms / TICK_MS).unwrap_or(NEVER - 1);
        while let Some(tick) = self.next_occupied(target) {
            self.now = tick;
            let index = self.heads[slot_of(tick)];
            self.unlink(links, index);
            let deadline = links.link(index).deadline;
            if deadline <= target {
                links.link(index).deadline = NEVER;
                return Some(index);
            }
            if deadline != NEVER {
                // Later than its slot: look again when that comes round. It cannot land in this slot again, since
                // the deadline is after `target` and the slot is not.
                self.link_at(links, index, bounded(tick, deadline));
            }
        }
        self.now = self.now.max(target);
        None
    }

    /// Milliseconds from `now_ms` until the next occupied slot; `None` when no deadline is set.
    pub(crate) fn next_in_ms(&self, now_ms: u64) -> Option<u64> {
        let tick = self.next_occupied(self.now.saturating_add(SLOTS as u32 - 1))?;
        Some((u64::from(tick) * TICK_MS).saturating_sub(now_ms).max(1))
    }

    /// The first occupied tick from `now` up to `until`.
    fn next_occupied(&self, until: u32) -> Option<u32> {
        let span = (until.checked_sub(self.now)?).min(SLOTS as u32 - 1);
        let first = slot_of(self.now);
        let mut ahead = 0;
        while ahead <= span {
            let slot = (first + ahead as usize) % SLOTS;
            let word = self.occupied[slot / 64] >> (slot % 64);
            if word != 0 {
                let found = ahead + word.trailing_zeros();
                return (found <= span).then(|| self.now + found);
            }
            ahead += 64 - (slot % 64) as u32;
        }
        None
    }

    fn link_at<L: Links>(&mut self, links: &mut L, index: u32, tick: u32) {
        let slot = slot_of(tick);
        let head = self.heads[slot];
        let link = links.link(index);
        link.slot = slot as u16;
        link.next = head;
        link.previous = NONE;
        if head != NONE {
            links.link(head).previous = index;
        }
        self.heads[slot] = index;
        self.occupied[slot / 64] |= 1 << (slot % 64);
    }

    fn unlink<L: Links>(&mut self, links: &mut L, index: u32) {
        let Link { next, previous, slot, .. } = *links.link(index);
        let slot = usize::from(slot);
        if next != NONE {
            links.link(next).previous = previous;
        }
        if previous != NONE {
            links.link(previous).next = next;
        } else {
            self.heads[slot] = next;
            if next == NONE {
                self.occupied[slot / 64] &= !(1 << (slot % 64));
            }
        }
        let link = links.link(index);
        link.slot = UNLINKED;
        link.next = NONE;
        link.previous = NONE;
    }
}

/// The tick an entry is linked under: its deadline, but within one turn of the wheel and not in the past.
fn bounded(now: u32, deadline: u32) -> u32 {
    deadline.clamp(now + 1, now + SLOTS as u32 - 1)
}

fn slot_of(tick: u32) -> usize {
    tick as usize % SLOTS
}

/// The tick from `now` on at which a slot comes round.
fn tick_of_slot(now: u32, slot: u16) -> u32 {
    now + (u32::from(slot).wrapping_sub(now) % SLOTS as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Links for Vec<Link> {
        fn link(&mut self, index: u32) -> &mut Link {
            &mut self[index as usize]
        }
    }

    fn expired(wheel: &mut Wheel, links: &mut Vec<Link>, now_ms: u64) -> Vec<u32> {
        let mut all: Vec<u32> = std::iter::from_fn(|| wheel.expire(links, now_ms)).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn fires_once_after_its_time_and_not_before() {
        let (mut wheel, mut links) = (Wheel::new(), vec![Link::UNLINKED; 3]);
        for (index, after) in [(0, 100), (1, 100_000), (2, 500)] {
            wheel.set(&mut links, index, Wheel::tick_after(0, after));
        }
        assert_eq!(expired(&mut wheel, &mut links, 99), [] as [u32; 0]);
        assert_eq!(expired(&mut wheel, &mut links, 100 + 2 * TICK_MS), [0]);
        assert_eq!(expired(&mut wheel, &mut links, 99_999), [2]);
        assert_eq!(expired(&mut wheel, &mut links, 100_000 + 2 * TICK_MS), [1]);
        assert_eq!(wheel.next_in_ms(0), None);
    }

    #[test]
    fn a_later_deadline_does_not_fire_at_the_earlier_slot() {
        let (mut wheel, mut links) = (Wheel::new(), vec![Link::UNLINKED; 1]);
        wheel.set(&mut links, 0, Wheel::tick_after(0, 1_000));
        wheel.set(&mut links, 0, Wheel::tick_after(0, 9_000));
        assert_eq!(expired(&mut wheel, &mut links, 8_999), [] as [u32; 0]);
        assert_eq!(expired(&mut wheel, &mut links, 9_064), [0]);
    }

    #[test]
    fn an_earlier_deadline_and_a_removal_take_effect() {
        let (mut wheel, mut links) = (Wheel::new(), vec![Link::UNLINKED; 2]);
        wheel.set(&mut links, 0, Wheel::tick_after(0, 60_000));
        wheel.set(&mut links, 0, Wheel::tick_after(0, 200));
        wheel.set(&mut links, 1, Wheel::tick_after(0, 200));
        wheel.remove(&mut links, 1);
        assert!(!links[1].has_deadline());
        assert_eq!(expired(&mut wheel, &mut links, 264), [0]);
        assert_eq!(expired(&mut wheel, &mut links, 1_000_000), [] as [u32; 0]);
    }

    #[test]
    fn agrees_with_a_sorted_list_over_a_long_random_run() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        let (mut wheel, mut links) = (Wheel::new(), vec![Link::UNLINKED; 64]);
        let mut model = [NEVER; 64];
        let mut now_ms = 0;
        for _ in 0..20_000 {
            let index = random(64) as u32;
            match random(8) {
                0 => {
                    wheel.remove(&mut links, index);
                    model[index as usize] = NEVER;
                }
                _ => {
                    let deadline = Wheel::tick_after(now_ms, random(200_000));
                    wheel.set(&mut links, index, deadline);
                    model[index as usize] = deadline;
                }
            }
            now_ms += random(2_000);
            let target = (now_ms / TICK_MS) as u32;
            let due: Vec<u32> = (0..64).filter(|&i| model[i as usize] <= target).collect();
            due.iter().for_each(|&i| model[i as usize] = NEVER);
            assert_eq!(expired(&mut wheel, &mut links, now_ms), due);
            // Who sleeps for so long is not late for the next, nor woken for none.
            let first = model.iter().copied().min().filter(|&tick| tick != NEVER);
            let first_in_ms = first.map(|tick| (u64::from(tick) * TICK_MS).saturating_sub(now_ms).max(1));
            match (wheel.next_in_ms(now_ms), first_in_ms) {
                (Some(wake_ms), Some(first_ms)) => assert!(wake_ms <= first_ms, "{wake_ms} {first_ms}"),
                (wake_ms, first_ms) => assert_eq!(wake_ms, first_ms),
            }
        }
    }

    #[test]
    fn a_lone_deadline_wakes_in_its_time_and_seldom_before() {
        for after_ms in [1, 31, 32, 1_000, 32_000, 33_000, 60_000, 65_536, 70_000, 600_000] {
            let (mut wheel, mut links) = (Wheel::new(), vec![Link::UNLINKED; 1]);
            let mut now_ms = 12_345;
            assert_eq!(expired(&mut wheel, &mut links, now_ms), [] as [u32; 0]);
            wheel.set(&mut links, 0, Wheel::tick_after(now_ms, after_ms));
            let (begun_ms, mut wakes) = (now_ms, 0);
            while let Some(wake_ms) = wheel.next_in_ms(now_ms) {
                now_ms += wake_ms;
                wakes += 1;
                if expired(&mut wheel, &mut links, now_ms) == [0] {
                    break;
                }
            }
            let took_ms = now_ms - begun_ms;
            assert!((after_ms..after_ms + 2 * TICK_MS).contains(&took_ms), "{took_ms} for {after_ms}");
            assert!(wakes <= 1 + after_ms / 60_000, "{wakes} wakes for {after_ms}");
        }
    }
}
