//! Counting connections by their peer's address, where that is wanted. Every accepted connection whose peer is known is
//! counted, once, for that address, until it is closed or turns out to have another client.

use std::net::SocketAddr;

use super::Driver;
use crate::peers::{PeerBounds, PeerShare};
use crate::side_tables::ProxiedAddresses;
use crate::table::Flags;

impl Driver {
    pub(crate) fn count_peers(&mut self, mut share: PeerShare, bounds: PeerBounds) {
        share.bounds = bounds;
        self.peers = Some(share);
    }

    /// Looks who an accepted connection is from and counts it; says whether its address may have it.
    pub(super) fn is_peer_welcome(&mut self, index: u32) -> bool {
        // A connection that has failed already tells so by its receive.
        let Ok(peer) = crate::socket::peer_of(self.table.at(index).fd) else { return true };
        self.set_peer(index, peer);
        let bounds = self.peers.as_ref().map_or(PeerBounds::NONE, |share| share.bounds);
        let connections = self.connections_of_peer(index);
        if connections > bounds.noted_above {
            self.table.at(index).owner_word = bounds.owner_word;
        }
        connections <= bounds.accept_max
    }

    pub(crate) fn set_peer(&mut self, index: u32, peer: SocketAddr) {
        self.forget_peer(index);
        self.table.set_peer(index, peer);
        if let Some(share) = &self.peers
            && self.table.at(index).flags.has(Flags::ACCEPTED)
        {
            share.add(peer.ip());
        }
    }

    /// The peer is what was announced, and the connection counts for its address.
    pub(crate) fn set_proxied(&mut self, index: u32, announced: ProxiedAddresses) {
        self.forget_peer(index);
        self.table.set_proxied(index, announced);
        if let Some(share) = &self.peers
            && self.table.at(index).flags.has(Flags::ACCEPTED)
        {
            share.add(announced.source.ip());
        }
    }

    /// The connection no longer counts for its address.
    pub(super) fn forget_peer(&mut self, index: u32) {
        if let Some(share) = &self.peers
            && self.table.at(index).flags.has(Flags::ACCEPTED)
            && let Some(peer) = self.table.peer(index)
        {
            share.remove(peer.ip());
        }
    }

    pub(crate) fn connections_of_peer(&self, index: u32) -> u32 {
        let (Some(share), Some(peer)) = (&self.peers, self.table.peer(index)) else { return 0 };
        share.total(peer.ip())
    }
}
