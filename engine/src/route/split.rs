//! Which upstream of a split gets a request: each in turn by weight, or always the same for the same header field, cookie or client.
//!
//! Turns are a shard's own, and smooth: with weights 3 and 1 every fourth request is the other's, not the last quarter of them. The
//! choice by a value is the same on all shards and after every restart, and where one upstream gets a larger share at the cost of its
//! neighbour in the list, only clients between these two change over.

use std::cell::Cell;
use std::net::IpAddr;

use sluice_proto::fields::Fields;

use super::parts::cookie_values;
use crate::config::{self, SplitBy};

/// The upstreams that share the requests of a route, as one shard sees them.
pub(crate) struct Split {
    shares: Box<[Share]>,
    total: u64,
    by: SplitBy,
}

struct Share {
    upstream: usize,
    weight: u32,
    /// How far it is ahead of, or behind, its share.
    credit: Cell<i64>,
}

impl Split {
    pub(crate) fn new(split: &config::Split) -> Split {
        let share = |&(upstream, weight): &(usize, u32)| Share { upstream, weight, credit: Cell::new(0) };
        let shares: Box<[Share]> = split.shares.iter().map(share).collect();
        let total = shares.iter().map(|share| u64::from(share.weight)).sum();
        Split { shares, total, by: split.by.clone() }
    }

    /// The index of the upstream that gets a request. One without the header field or cookie gets the next in turn.
    #[cold]
    pub(crate) fn pick(&self, fields: &Fields<'_>, client: IpAddr) -> usize {
        let value = match &self.by {
            SplitBy::Turns => None,
            SplitBy::Header(name) => fields.values_named(name.as_bytes()).next(),
            SplitBy::Cookie(name) => cookie_values(fields, name).next(),
            SplitBy::Client => {
                return match client.to_canonical() {
                    IpAddr::V4(address) => self.by_value(&address.octets()),
                    IpAddr::V6(address) => self.by_value(&address.octets()),
                };
            }
        };
        value.map_or_else(|| self.in_turn(), |value| self.by_value(value))
    }

    /// Each gets its weight as credit, and the one with most pays for all: nginx's smooth round robin.
    fn in_turn(&self) -> usize {
        let mut best: Option<&Share> = None;
        for share in &self.shares {
            share.credit.set(share.credit.get() + i64::from(share.weight));
            if best.is_none_or(|best| share.credit.get() > best.credit.get()) {
                best = Some(share);
            }
        }
        let best = best.expect("a split has shares");
        best.credit.set(best.credit.get() - self.total as i64);
        best.upstream
    }

    fn by_value(&self, value: &[u8]) -> usize {
        let mut point = ((u128::from(stable_hash(value)) * u128::from(self.total)) >> 64) as u64;
        for share in &self.shares {
            if point < u64::from(share.weight) {
                return share.upstream;
            }
            point -= u64::from(share.weight);
        }
        unreachable!("the point is below the sum of the weights")
    }
}

/// FNV-1a of 64 bits, then the finisher of SplitMix64 for its high bits. It decides where clients are sent, so it must not change.
fn stable_hash(value: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in value {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::tests::with_head;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn split(weights: &[u32], by: SplitBy) -> Split {
        Split::new(&config::Split { shares: weights.iter().copied().enumerate().collect(), by })
    }

    fn counts(split: &Split, picks: impl Iterator<Item = usize>) -> Vec<usize> {
        let mut counts = vec![0; split.shares.len()];
        picks.for_each(|pick| counts[pick] += 1);
        counts
    }

    #[test]
    fn turns_are_smooth_and_exact() {
        let uneven = split(&[5, 1, 1], SplitBy::Turns);
        let picks: Vec<usize> = (0..7).map(|_| uneven.pick(&Fields::default(), CLIENT)).collect();
        assert_eq!(picks, [0, 0, 1, 0, 2, 0, 0]);
        let canary = split(&[95, 5, 0], SplitBy::Turns);
        assert_eq!(counts(&canary, (0..1000).map(|_| canary.pick(&Fields::default(), CLIENT))), [950, 50, 0]);
    }

    #[test]
    fn values_are_spread_by_weight_and_stay() {
        let weighted = split(&[0, 90, 10], SplitBy::Client);
        let grown = split(&[0, 80, 20], SplitBy::Client);
        let clients = || (0..20_000_u32).map(|i| IpAddr::V4((0x0a00_0000 + i).into()));
        let found = counts(&weighted, clients().map(|ip| weighted.pick(&Fields::default(), ip)));
        // Six times the deviation that chance has.
        assert!(found[0] == 0 && found[2].abs_diff(2_000) < 255, "{found:?}");
        for ip in clients() {
            let (before, after) = (weighted.pick(&Fields::default(), ip), grown.pick(&Fields::default(), ip));
            assert!(before == after || (before, after) == (1, 2), "{ip}: {before}, {after}");
        }
        // The same client, whatever its socket.
        assert_eq!(weighted.pick(&Fields::default(), "::ffff:10.0.0.9".parse().unwrap()), {
            weighted.pick(&Fields::default(), "10.0.0.9".parse().unwrap())
        });
        // A release that hashes differently moves every client.
        assert_eq!(stable_hash(b"alice"), 0xc5d1_556d_6677_4a5c);
    }

    #[test]
    fn requests_without_the_value_take_turns() {
        let by_cookie = split(&[1, 1], SplitBy::Cookie("user".into()));
        let by_header = split(&[1, 1], SplitBy::Header("x-user".into()));
        let picks = |split: &Split, head: &'static str| {
            (0..8)
                .map(|_| with_head("/", head, |head| split.pick(&head.field_list(), CLIENT)))
                .collect::<Vec<_>>()
        };
        for split in [&by_cookie, &by_header] {
            assert_eq!(picks(split, "cookie: other=1\r\n"), [0, 1, 0, 1, 0, 1, 0, 1]);
            let users = (0..32).map(|i| {
                let head = format!("X-User: u{i}\r\nCookie: a=1; user=u{i}\r\n");
                let all = picks(split, head.leak());
                assert!(all.iter().all(|pick| *pick == all[0]), "{all:?}");
                all[0]
            });
            let found = counts(split, users);
            assert!(found.iter().all(|count| *count > 5), "{found:?}");
        }
    }
}
