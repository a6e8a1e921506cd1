//! Data that few sockets need in addition to their entry in the table: addresses that do not fit into it, and the sessions of
//! parked connections.

use std::any::Any;
use std::net::{Ipv6Addr, SocketAddr};

use crate::key::NONE;
use crate::partial::PLACE_BITS;

/// Marks the index of [`ProxiedAddresses`]; others are those of IPv6 peers.
const ANNOUNCED: u32 = 1 << 31;

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
        if index & ANNOUNCED == 0 { self.peers_v6.at(index).copied() } else { None }
    }

    pub(crate) fn announced(&self, index: u32) -> Option<ProxiedAddresses> {
        if index & ANNOUNCED == 0 { None } else { self.announced.at(index & !ANNOUNCED).copied() }
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

impl<T> Slab<T> {
    const fn new() -> Slab<T> {
        Slab { slots: Vec::new(), free: NONE }
    }

    fn add(&mut self, value: T) -> u32 {
        let index = self.free;
        match self.slots.get_mut(index as usize) {
            Some(slot) => {
                let Slot::Free(next) = std::mem::replace(slot, Slot::Taken(value)) else {
                    unreachable!("the free list holds free slots")
                };
                self.free = next;
                index
            }
            None => {
                self.slots.push(Slot::Taken(value));
                self.slots.len() as u32 - 1
            }
        }
    }

    fn at(&self, index: u32) -> Option<&T> {
        match self.slots.get(index as usize) {
            Some(Slot::Taken(value)) => Some(value),
            _ => None,
        }
    }

    fn remove(&mut self, index: u32) -> Option<T> {
        debug_assert!(self.at(index).is_some());
        let slot = std::mem::replace(&mut self.slots[index as usize], Slot::Free(self.free));
        self.free = index;
        if let Slot::Taken(value) = slot { Some(value) } else { None }
    }
}

/// Marks the number of a state in the place where a parked connection may have the number of its partial message: these never
/// have all the high bits set (see `partial`).
const STATE: u32 = !0 << PLACE_BITS;

/// A state that goes with its connection to other shards; others stay.
const SESSION: u32 = 1;

/// The states of parked connections that have one, such as the session of TLS or HTTP/2. Memory is taken when more are parked
/// at once than ever before.
pub(crate) struct States {
    slab: Slab<Box<dyn Any>>,
    sessions: Slab<Box<dyn Any + Send>>,
    count: usize,
}

impl States {
    pub(crate) const fn new() -> States {
        States { slab: Slab::new(), sessions: Slab::new(), count: 0 }
    }

    /// Whether the number is one of a state.
    pub(crate) fn is_state(number: u32) -> bool {
        number != NONE && number & STATE == STATE
    }

    /// Whether the number is one of a session.
    pub(crate) fn is_session(number: u32) -> bool {
        States::is_state(number) && number & SESSION != 0
    }

    /// Whether no number is left: 16 million parked states.
    pub(crate) fn is_full(&self) -> bool {
        self.count >= (1 << (PLACE_BITS - 1)) - 1
    }

    pub(crate) fn put(&mut self, state: Box<dyn Any>) -> u32 {
        // The caller has asked `is_full`, and there are no more slots than there were states at once.
        assert!(!self.is_full());
        self.count += 1;
        self.slab.add(state) << 1 | STATE
    }

    pub(crate) fn put_session(&mut self, session: Box<dyn Any + Send>) -> u32 {
        assert!(!self.is_full());
        self.count += 1;
        self.sessions.add(session) << 1 | SESSION | STATE
    }

    pub(crate) fn take(&mut self, number: u32) -> Option<Box<dyn Any>> {
        if States::is_session(number) {
            return self.take_session(number).map(|session| session as Box<dyn Any>);
        }
        self.count -= 1;
        self.slab.remove((number & !STATE) >> 1)
    }

    pub(crate) fn take_session(&mut self, number: u32) -> Option<Box<dyn Any + Send>> {
        self.count -= 1;
        self.sessions.remove((number & !STATE) >> 1)
    }

    pub(crate) fn len(&self) -> usize {
        self.count
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
    fn a_parked_connection_has_a_partial_message_or_a_state_and_never_both() {
        let (mut partial, mut states) = (crate::partial::KeptBytes::default(), States::new());
        for bytes in (0..2_000).chain([100_000]) {
            let slot = partial.put(7, &vec![0; bytes], 1);
            assert!(!States::is_state(slot) && slot != NONE);
            let state = states.put(Box::new(bytes));
            assert!(States::is_state(state));
        }
        assert!(!States::is_state(NONE));
        let last = STATE | ((1 << (PLACE_BITS - 1)) - 2) << 1 | SESSION;
        assert!(States::is_state(last), "the greatest number that a state has");
    }

    #[test]
    fn sessions_and_other_states_do_not_meet() {
        let mut states = States::new();
        let numbers: Vec<(u32, u32)> = (0..50_u32)
            .map(|number| (states.put(Box::new(number)), states.put_session(Box::new(number + 100))))
            .collect();
        let known = |state: Option<Box<dyn Any>>| *state.expect("there").downcast::<u32>().expect("u32");
        for (number, (state, session)) in (0..).zip(numbers) {
            assert_eq!((States::is_session(state), States::is_session(session)), (false, true));
            assert!(States::is_state(state) && States::is_state(session) && session != NONE);
            assert_eq!((known(states.take(state)), known(states.take(session))), (number, number + 100));
        }
        assert_eq!(states.len(), 0);
        assert!(!States::is_session(NONE));
    }

    #[test]
    fn states_come_back_as_they_were() {
        let mut states = States::new();
        let numbers: Vec<u32> = (0..100_u32).map(|state| states.put(Box::new(state))).collect();
        let taken = |states: &mut States, number| {
            *states.take(number).expect("it is there").downcast::<u32>().expect("u32")
        };
        for state in (0..100).step_by(3) {
            assert_eq!(taken(&mut states, numbers[state as usize]), state);
        }
        assert_eq!(states.len(), 66);
        let again = states.put(Box::new(777_u32));
        assert_eq!((states.slab.slots.len(), taken(&mut states, again)), (100, 777));
        assert_eq!(taken(&mut states, numbers[1]), 1);
    }

    #[test]
    fn an_ipv6_peer_costs_twenty_bytes() {
        assert_eq!(size_of::<Slot<Ipv6Addr>>(), 20);
    }
}
