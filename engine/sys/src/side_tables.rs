//! What few sockets need besides their entry in the table: addresses that do not fit into it.

use std::net::{Ipv6Addr, SocketAddr};

/// Marks the index of [`ProxiedAddresses`]; others are those of IPv6 peers.
const ANNOUNCED: u32 = 1 << 31;

/// No free slot.
const NONE: u32 = u32::MAX;

/// The two ends of a client's connection as a proxy in front of us tells them, or as we tell a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProxiedAddresses {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
}

/// The addresses of sockets that have such. Memory is taken when more are open at once than ever before.
pub(crate) struct Aside {
    peers_v6: Slab<Ipv6Addr>,
    announced: Slab<ProxiedAddresses>,
}

impl Aside {
    pub(crate) const fn new() -> Aside {
        Aside { peers_v6: Slab::new(), announced: Slab::new() }
    }

    pub(crate) fn add_peer(&mut self, peer: Ipv6Addr) -> u32 {
        self.peers_v6.add(peer)
    }

    pub(crate) fn add_announced(&mut self, announced: ProxiedAddresses) -> u32 {
        self.announced.add(announced) | ANNOUNCED
    }

    pub(crate) fn peer(&self, index: u32) -> Option<Ipv6Addr> {
        if index & ANNOUNCED == 0 { self.peers_v6.at(index) } else { None }
    }

    pub(crate) fn announced(&self, index: u32) -> Option<ProxiedAddresses> {
        if index & ANNOUNCED == 0 { None } else { self.announced.at(index & !ANNOUNCED) }
    }

    pub(crate) fn remove(&mut self, index: u32) {
        if index & ANNOUNCED == 0 {
            self.peers_v6.remove(index);
        } else {
            self.announced.remove(index & !ANNOUNCED);
        }
    }
}

enum Slot<T> {
    /// The next free one.
    Free(u32),
    Taken(T),
}

struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: u32,
}

impl<T: Copy> Slab<T> {
    const fn new() -> Slab<T> {
        Slab { slots: Vec::new(), free: NONE }
    }

    fn add(&mut self, value: T) -> u32 {
        let index = self.free;
        match self.slots.get_mut(index as usize) {
            Some(slot) => {
                let Slot::Free(next) = *slot else { unreachable!("the free list holds free slots") };
                self.free = next;
                *slot = Slot::Taken(value);
                index
            }
            None => {
                self.slots.push(Slot::Taken(value));
                self.slots.len() as u32 - 1
            }
        }
    }

    fn at(&self, index: u32) -> Option<T> {
        match self.slots.get(index as usize) {
            Some(Slot::Taken(value)) => Some(*value),
            _ => None,
        }
    }

    fn remove(&mut self, index: u32) {
        debug_assert!(self.at(index).is_some());
        self.slots[index as usize] = Slot::Free(self.free);
        self.free = index;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_used_again() {
        let mut aside = Aside::new();
        let ends = |port| {
            let end = SocketAddr::from(([127, 0, 0, 1], port));
            ProxiedAddresses { source: end, destination: end }
        };
        let peer = |last| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last);
        let peers = [1, 2, 3].map(|last| aside.add_peer(peer(last)));
        let announced = [1, 2].map(|port| aside.add_announced(ends(port)));
        assert_eq!(peers.map(|index| aside.peer(index)), [1, 2, 3].map(|last| Some(peer(last))));
        assert_eq!(announced.map(|index| aside.announced(index)), [1, 2].map(|port| Some(ends(port))));
        assert_eq!((aside.announced(peers[0]), aside.peer(announced[0])), (None, None));
        aside.remove(peers[0]);
        aside.remove(peers[2]);
        aside.remove(announced[1]);
        assert_eq!((aside.peer(peers[0]), aside.peer(peers[1])), (None, Some(peer(2))));
        assert_eq!([4, 5].map(|last| aside.add_peer(peer(last))), [peers[2], peers[0]]);
        assert_eq!(aside.add_announced(ends(3)), announced[1]);
        assert_eq!(aside.peers_v6.slots.len(), 3);
    }

    #[test]
    fn an_ipv6_peer_costs_twenty_bytes() {
        assert_eq!(size_of::<Slot<Ipv6Addr>>(), 20);
    }
}
