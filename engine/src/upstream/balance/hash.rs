//! Requests that are alike go to the same server, on all shards and in all processes: Maglev's table of places, of which each
//! server has its part. A server that cannot be used, or is full, loses its requests to all others, and the others keep theirs.
//! Where a server is added or removed for good, the table is built anew, and few places change hands besides its own.

use super::affinity::mix;
use super::{Level, Member, Tier};

/// Places of a table: a prime number, so that every server's order of places has all of them. The same for almost every group,
/// since nearly all keys move with another one.
const PLACES: usize = 16_381;

/// The same where a server of the smallest weight would have less than 16 of these.
const PLACES_OF_MANY: usize = 65_521;

/// Of so many such servers.
const MANY: u64 = 1_000;

/// No server has this place.
const FREE: u16 = u16::MAX;

/// So many places are tried for a request before all servers are looked at.
const TRIES: u64 = 16;

/// One table for each level that has servers of its own.
pub(super) struct Tables {
    near: Option<Table>,
    all: Table,
    backup: Option<Table>,
}

/// The member at each place.
struct Table(Box<[u16]>);

impl Tables {
    pub(super) fn new(members: &[Member]) -> Tables {
        let table = |level: Level| {
            let of_level =
                members.iter().map(|member| if level.has(member.tier) { member.weight } else { 0 });
            Table::new(members, &of_level.collect::<Vec<_>>())
        };
        let has = |tier| members.iter().any(|member| member.tier == tier);
        Tables {
            near: has(Tier::Far).then(|| table(Level::Near)),
            all: table(Level::NearAndFar),
            backup: has(Tier::Backup).then(|| table(Level::Backup)),
        }
    }

    /// The candidate for this key.
    pub(super) fn choose(&self, members: &[Member], level: Level, key: u64) -> Option<usize> {
        let table = match level {
            Level::Near => self.near.as_ref().unwrap_or(&self.all),
            Level::NearAndFar => &self.all,
            Level::Backup => self.backup.as_ref()?,
        };
        // Where all of them start, none is new.
        let percent = |member: &Member| u64::from(member.share.get().checked_div(member.weight).unwrap_or(0));
        let most = members.iter().map(percent).max().filter(|&most| most > 0)?;
        let tries = (0..TRIES).map(|nth| mix(key.wrapping_add(nth)));
        let found = tries.filter_map(|place| table.at(place)).find(|&at| {
            let member = &members[at];
            // A server that starts has some of its keys at first, always the same ones.
            member.share.get() > 0 && mix(key ^ member.name) % most < percent(member)
        });
        found.or_else(|| by_order(members, key))
    }
}

/// The candidate that comes first in the key's own order of all servers.
#[cold]
fn by_order(members: &[Member], key: u64) -> Option<usize> {
    let candidates = (0..members.len()).filter(|&at| members[at].share.get() > 0);
    candidates.max_by_key(|&at| mix(key ^ members[at].name))
}

impl Table {
    /// Each server puts itself at the next free place of its own order, as often as its weight says, until all are taken.
    fn new(members: &[Member], weights: &[u32]) -> Table {
        let least = weights.iter().copied().filter(|&weight| weight > 0).min();
        // More than places count can do without: each key has its own order of them.
        let Some(least) = least.filter(|_| members.len() <= usize::from(u16::MAX)) else {
            return Table(Box::default());
        };
        let most = *weights.iter().max().expect("there is one");
        let all: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
        let size = if all / u64::from(least) > MANY { PLACES_OF_MANY } else { PLACES };
        let mut places = vec![FREE; size];
        let mut orders: Vec<Order> = members.iter().map(|member| Order::new(member.name, size)).collect();
        let mut left = size;
        loop {
            for (at, order) in orders.iter_mut().enumerate() {
                order.due += weights[at];
                if order.due < most {
                    continue;
                }
                order.due -= most;
                let place = order.next_free(&places);
                // Fewer than 65,535, as was checked.
                places[place] = at as u16;
                left -= 1;
                if left == 0 {
                    return Table(places.into());
                }
            }
        }
    }

    fn at(&self, key: u64) -> Option<usize> {
        let count = self.0.len() as u64;
        let place = (key & u64::from(u32::MAX)).checked_rem(count)?;
        Some(usize::from(self.0[place as usize]))
    }
}

/// In which order a server takes places.
struct Order {
    next: usize,
    step: usize,
    /// Weight that has come together for its next place.
    due: u32,
}

impl Order {
    fn new(name: u64, size: usize) -> Order {
        let size = size as u64;
        Order { next: (mix(name) % size) as usize, step: (mix(!name) % (size - 1)) as usize + 1, due: 0 }
    }

    /// A place that none has taken. There is one.
    fn next_free(&mut self, places: &[u16]) -> usize {
        loop {
            let place = self.next;
            self.next = (self.next + self.step) % places.len();
            if places[place] == FREE {
                return place;
            }
        }
    }
}

/// Takes away the share of servers that have `load` per cent of their part of all requests, counting the one that is to be sent
/// ("consistent hashing with bounded loads"). Some server is always left.
pub(super) fn leave_out_full(members: &[Member], load: u32, active: impl Fn(usize) -> u64) {
    let candidates = || (0..members.len()).filter(|&at| members[at].share.get() > 0);
    let shares: u64 = candidates().map(|at| u64::from(members[at].share.get())).sum();
    let requests: u64 = candidates().map(&active).sum::<u64>() + 1;
    // All full servers together have more requests than there are, so a server that is not full is among the candidates, whichever
    // shares were taken before.
    for at in candidates() {
        let share = u64::from(members[at].share.get());
        let most =
            (u128::from(requests) * u128::from(load) * u128::from(share)).div_ceil(u128::from(shares) * 100);
        if u128::from(active(at)) + 1 > most {
            members[at].share.set(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::affinity::hash_of;
    use super::*;

    fn members(weights: &[u32]) -> Vec<Member> {
        let member = |(number, &weight): (usize, &u32)| Member {
            weight,
            tier: Tier::Near,
            name: hash_of([format!("10.0.0.{number}:80").as_bytes()]),
            share: Cell::new(weight * 100),
            turn: Cell::new(0),
            others: Cell::new(0),
        };
        weights.iter().enumerate().map(member).collect()
    }

    fn keys() -> impl Iterator<Item = u64> {
        (0..100_000_u64).map(mix)
    }

    fn choose(tables: &Tables, members: &[Member], key: u64) -> usize {
        tables.choose(members, Level::Near, key).expect("there is a candidate")
    }

    #[test]
    fn places_are_shared_by_weight() {
        for weights in [vec![1; 3], vec![1; 10], vec![1; 200], vec![5, 1, 1, 3], vec![1000, 1]] {
            let members = members(&weights);
            let table = Tables::new(&members).all;
            let mut counts = vec![0.0; weights.len()];
            table.0.iter().for_each(|&at| counts[usize::from(at)] += 1.0);
            let all: u32 = weights.iter().sum();
            for (count, &weight) in counts.iter().zip(&weights) {
                let wanted = table.0.len() as f64 * f64::from(weight) / f64::from(all);
                assert!(
                    (count - wanted).abs() <= 1.0 + wanted * 0.02,
                    "{weights:?}: {count} places, not {wanted}"
                );
            }
        }
    }

    #[test]
    fn a_server_that_goes_takes_only_its_own_keys_with_it() {
        let members = members(&[1; 10]);
        let tables = Tables::new(&members);
        let before: Vec<usize> = keys().map(|key| choose(&tables, &members, key)).collect();
        members[3].share.set(0);
        let mut heirs = [0_u32; 10];
        for (key, &before) in keys().zip(&before) {
            let now = choose(&tables, &members, key);
            assert!(now == before || before == 3, "key {key} has moved from {before} to {now}");
            heirs[now] += u32::from(before == 3);
        }
        // To all others alike.
        let (least, most) =
            (heirs.iter().filter(|&&keys| keys > 0).min().unwrap(), heirs.iter().max().unwrap());
        assert!(heirs[3] == 0 && *least * 10 > *most * 7, "{heirs:?}");
        members[3].share.set(100);
        assert!(keys().zip(&before).all(|(key, &before)| choose(&tables, &members, key) == before));
    }

    #[test]
    fn where_hardly_any_is_left_keys_still_have_one_server_each() {
        let members = members(&[1; 200]);
        let tables = Tables::new(&members);
        members.iter().skip(3).for_each(|member| member.share.set(0));
        let mut counts = [0_u32; 3];
        for key in keys().take(3_000) {
            let at = choose(&tables, &members, key);
            assert_eq!(at, choose(&tables, &members, key));
            counts[at] += 1;
        }
        assert!(counts.iter().all(|&count| (800..1_200).contains(&count)), "{counts:?}");
    }

    #[test]
    fn one_more_server_takes_little_beyond_its_part() {
        let (ten, eleven) = (members(&[1; 10]), members(&[1; 11]));
        let (before, after) = (Tables::new(&ten), Tables::new(&eleven));
        let moved = keys().filter(|&key| choose(&before, &ten, key) != choose(&after, &eleven, key)).count();
        // An eleventh of them has to.
        assert!((8_000..14_000).contains(&moved), "{moved} of 100,000");
    }

    #[test]
    fn a_server_that_starts_gets_more_and_more_of_its_keys() {
        let members = members(&[1; 4]);
        let tables = Tables::new(&members);
        let full: Vec<usize> = keys().map(|key| choose(&tables, &members, key)).collect();
        let own = full.iter().filter(|&&at| at == 2).count();
        let mut before: Option<Vec<usize>> = None;
        for percent in [10, 50, 100] {
            members[2].share.set(percent);
            let now: Vec<usize> = keys().map(|key| choose(&tables, &members, key)).collect();
            let has = now.iter().filter(|&&at| at == 2).count();
            let wanted = own * percent as usize / 100;
            assert!(has.abs_diff(wanted) * 10 <= wanted * 2, "{percent} %: {has}, not {wanted}");
            // What it had it keeps.
            let kept = before.iter().flatten().zip(&now).all(|(&before, &now)| before != 2 || now == 2);
            assert!(kept, "{percent} %");
            before = Some(now);
        }
        assert_eq!(before, Some(full.clone()));
        // Where all start at once, all keys are where they will be.
        members.iter().for_each(|member| member.share.set(10));
        assert!(keys().zip(&full).all(|(key, &at)| choose(&tables, &members, key) == at));
    }

    #[test]
    fn no_server_has_more_than_its_load() {
        let weights = [1, 1, 2];
        let members = members(&weights);
        let tables = Tables::new(&members);
        let mut active = [0_u64; 3];
        for nth in 1..=1_000_u64 {
            members.iter().for_each(|member| member.share.set(member.weight * 100));
            leave_out_full(&members, 125, |at| active[at]);
            // One key, that of a single client.
            active[choose(&tables, &members, 7)] += 1;
            for (active, weight) in active.iter().zip(&weights) {
                let most = (nth * 125 * u64::from(*weight)).div_ceil(4 * 100);
                assert!(*active <= most, "{active} of {nth}, weight {weight}");
            }
        }
        let most = active.iter().max().unwrap();
        assert!(active.iter().all(|&active| active > 0) && *most > 300, "{active:?}");
    }
}
