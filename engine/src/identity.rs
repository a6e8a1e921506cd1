//! The client of a request: the peer of the connection, or the client that trusted proxies name; and an id for the request.
//!
//! The rules belong to a configuration, the ids to a shard. Nothing here waits, allocates or makes system calls.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;

use sluice_proto::RequestHead;
use sluice_proto::forwarded::client_address;
use sluice_proto::h1::{ClientIdentity, IdentityPolicy, TlsIdentity, Trust};

use crate::client_address::AddressText;
use crate::config::{Forwarding, Networks};
use crate::connection::link::Link;

/// Which forwarding fields servers get, and which peers are trusted to send some themselves.
pub(crate) struct IdentityRules {
    pub(crate) policy: IdentityPolicy,
    trusted: Networks,
}

/// Room for two addresses as text, kept from request to request.
#[derive(Default)]
pub(crate) struct ClientTexts {
    peer: AddressText,
    client: AddressText,
}

/// The client of the request.
#[derive(Clone, Copy)]
pub(crate) struct Client<'t> {
    /// As the fields of the request will say it.
    pub(crate) identity: ClientIdentity<'t>,
    /// The client's address; port 0 where only a trusted proxy knows it.
    pub(crate) address: SocketAddr,
    /// The connection that the request came by.
    pub(crate) link: &'t Link,
}

impl Client<'_> {
    /// Whether it has shown a certificate.
    pub(crate) fn has_certificate(&self) -> bool {
        self.identity.tls.is_some_and(|tls| tls.certificate.is_some())
    }
}

impl IdentityRules {
    pub(crate) fn new(forwarding: &Forwarding) -> IdentityRules {
        IdentityRules { policy: forwarding.policy.clone(), trusted: forwarding.trusted_proxies.clone() }
    }

    /// Whether servers get the fingerprints of clients' handshakes.
    pub(crate) fn forwards_ja4(&self) -> bool {
        self.policy.tls.ja4
    }

    /// The client of a request that came from `peer` by this connection.
    pub(crate) fn client<'t>(
        &self,
        peer: SocketAddr,
        (link, tls): (&'t Link, Option<&'t TlsIdentity<'t>>),
        head: &RequestHead<'_>,
        request_id: u128,
        texts: &'t mut ClientTexts,
    ) -> Client<'t> {
        texts.peer.write(peer.ip());
        let untrusted = ClientIdentity {
            peer: texts.peer.as_bytes(),
            client: texts.peer.as_bytes(),
            trust: Trust::Untrusted,
            proto: link.scheme().name(),
            request_id,
            tls,
        };
        if self.trusted.contains(peer.ip()) {
            let (identity, address) = self.past_proxies(peer, head, untrusted, &mut texts.client);
            Client { identity, address, link }
        } else {
            Client { identity: untrusted, address: peer, link }
        }
    }

    /// The client that a trusted proxy speaks for.
    #[inline(never)]
    fn past_proxies<'t>(
        &self,
        peer: SocketAddr,
        head: &RequestHead<'_>,
        untrusted: ClientIdentity<'t>,
        text: &'t mut AddressText,
    ) -> (ClientIdentity<'t>, SocketAddr) {
        let list = self.policy.trusted_list;
        let found = client_address(&head.field_list(), list, peer.ip(), |ip| self.trusted.contains(ip));
        text.write(found);
        let identity = ClientIdentity { client: text.as_bytes(), trust: Trust::Trusted, ..untrusted };
        let is_peer = found == peer.ip().to_canonical();
        (identity, if is_peer { peer } else { SocketAddr::new(found, 0) })
    }
}

/// Numbers of 128 bits that do not repeat: a count, mixed with what is different in every shard of every process.
pub(crate) struct RequestIds {
    count: Cell<u64>,
    seeds: [u64; 2],
}

impl RequestIds {
    pub(crate) fn new() -> RequestIds {
        // The standard library seeds its hashers from the system's random numbers.
        let seed = || RandomState::new().build_hasher().finish();
        RequestIds { count: Cell::new(0), seeds: [seed(), seed()] }
    }

    pub(crate) fn next(&self) -> u128 {
        let count = self.count.get();
        self.count.set(count.wrapping_add(1));
        // Each half by itself takes every value once before one comes again.
        let [high, low] = self.seeds.map(|seed| mix(seed.wrapping_add(count)));
        u128::from(high) << 64 | u128::from(low)
    }
}

/// The finisher of SplitMix64: different numbers stay different and look nothing like each other.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn request_ids_do_not_repeat() {
        let shards = [RequestIds::new(), RequestIds::new()];
        let ids: HashSet<u128> = (0..10_000).flat_map(|_| shards.iter().map(RequestIds::next)).collect();
        assert_eq!(ids.len(), 20_000);
        // Neighbours share no more bits than chance has it.
        let ids: Vec<u128> = (0..1_000).map(|_| shards[0].next()).collect();
        let differing: u32 = ids.windows(2).map(|pair| (pair[0] ^ pair[1]).count_ones()).sum();
        assert!((62..=66).contains(&(differing / 999)), "{differing}");
    }
}
