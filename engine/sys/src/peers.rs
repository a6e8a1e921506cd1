//! How many connections each peer has, by its address, over all shards of the process.
//!
//! Every shard counts its own connections in rows of numbers that only it writes; a total is the sum of the rows of all shards.
//! Nothing is locked, and no cache line is written by two shards. Addresses share places by a hash with a secret key: a total
//! may be too high by the connections of others in the same place, never too low (a count-min sketch, two rows). Two shards
//! that accept at the same moment may not see each other's new connection.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use crate::address::UNIX_PEER;

const ROWS: usize = 2;

/// Places in a row; a shard's rows take 256 KiB.
const PLACES: usize = 1 << 15;

/// The counts of one shard.
type Rows = Box<[AtomicU32]>;

/// The counts of all shards.
#[derive(Debug)]
pub struct PeerCounts {
    shards: Box<[OnceLock<Rows>]>,
    key: RandomState,
}

/// A shard's part in the counts: it writes its own and reads all.
#[derive(Debug)]
pub struct PeerShare {
    counts: Arc<PeerCounts>,
    shard: usize,
    pub(crate) bounds: PeerBounds,
}

/// How many connections one address may have.
#[derive(Clone, Copy, Debug)]
pub struct PeerBounds {
    /// A connection that is one more than this when it is accepted begins with this owner word.
    pub noted_above: u32,
    /// See [`Conn::owner_data`](crate::Conn::owner_data).
    pub owner_word: u32,
    /// A connection that is one more than this is closed at once.
    pub accept_max: u32,
}

impl PeerBounds {
    /// Connections are counted, and all accepted.
    pub const NONE: PeerBounds = PeerBounds { noted_above: u32::MAX, owner_word: 0, accept_max: u32::MAX };
}

impl PeerCounts {
    /// Counts for so many shards.
    pub fn new(shards: usize) -> Arc<PeerCounts> {
        let shards = (0..shards).map(|_| OnceLock::new()).collect();
        Arc::new(PeerCounts { shards, key: RandomState::new() })
    }

    /// The part of a shard, numbered from 0; made on its own thread, so that the memory is near.
    ///
    /// # Panics
    /// When there is no shard of that number.
    pub fn share(self: &Arc<PeerCounts>, shard: usize) -> PeerShare {
        self.shards[shard].get_or_init(|| (0..ROWS * PLACES).map(|_| AtomicU32::new(0)).collect());
        PeerShare { counts: self.clone(), shard, bounds: PeerBounds::NONE }
    }

    /// Where an address is counted, in each row.
    fn places(&self, address: IpAddr) -> [usize; ROWS] {
        let hash = self.key.hash_one(party(address)) as usize;
        [hash % PLACES, PLACES + hash / PLACES % PLACES]
    }
}

impl PeerShare {
    pub(crate) fn add(&self, address: IpAddr) {
        self.change(address, 1);
    }

    pub(crate) fn remove(&self, address: IpAddr) {
        self.change(address, u32::MAX);
    }

    fn change(&self, address: IpAddr, by: u32) {
        if address == UNIX_PEER.ip() {
            return;
        }
        let Some(rows) = self.counts.shards[self.shard].get() else { return };
        for place in self.counts.places(address) {
            // It has no other writer: no locked instruction is needed.
            rows[place].store(rows[place].load(Relaxed).wrapping_add(by), Relaxed);
        }
    }

    /// Connections from an address, by all shards; 0 for peers on Unix sockets, which have none and are not counted.
    pub(crate) fn total(&self, address: IpAddr) -> u32 {
        if address == UNIX_PEER.ip() {
            return 0;
        }
        let sum = |place: usize| -> u32 {
            let shards = self.counts.shards.iter().filter_map(OnceLock::get);
            shards.map(|rows| rows[place].load(Relaxed)).sum()
        };
        self.counts.places(address).map(sum).into_iter().min().unwrap_or(0)
    }
}

/// The client that an address stands for. A host with one IPv6 address usually has the 2^64 of its network.
fn party(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        // The top bit tells networks from IPv4 addresses.
        IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64 | 1 << 63,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn totals_are_over_all_shards() {
        let counts = PeerCounts::new(2);
        let (first, second) = (counts.share(0), counts.share(1));
        first.add(v4(1));
        second.add(v4(1));
        second.add(v4(1));
        assert_eq!((first.total(v4(1)), second.total(v4(1)), first.total(v4(2))), (3, 3, 0));
        second.remove(v4(1));
        assert_eq!(first.total(v4(1)), 2);
    }

    #[test]
    fn a_network_of_ipv6_is_one_party_and_mapped_ipv4_is_ipv4() {
        let counts = PeerCounts::new(1);
        let share = counts.share(0);
        share.add("2001:db8:0:1::1".parse().unwrap());
        share.add("::ffff:1.2.3.4".parse().unwrap());
        assert_eq!(share.total("2001:db8:0:1:ffff::2".parse().unwrap()), 1);
        assert_eq!(share.total("2001:db8:0:2::1".parse().unwrap()), 0);
        assert_eq!(share.total("1.2.3.4".parse().unwrap()), 1);
    }

    #[test]
    fn no_total_is_too_low_and_few_are_too_high() {
        let counts = PeerCounts::new(1);
        let share = counts.share(0);
        for n in 0..10_000 {
            share.add(v4(n + 1));
            share.add(v4(n + 1));
        }
        let totals = || (0..10_000).map(|n| share.total(v4(n + 1)));
        assert!(totals().all(|total| total >= 2));
        // A place of a row is shared with a probability of about 0.26, both places with the square of that.
        let too_high = totals().filter(|total| *total > 2).count();
        assert!(too_high < 1_500, "{too_high}");
        for n in 0..10_000 {
            share.remove(v4(n + 1));
            share.remove(v4(n + 1));
        }
        assert!(totals().all(|total| total == 0));
    }
}
