//! The servers of every group at the moment, each with its addresses: what names, SRV records and files come to.
//!
//! The control side replaces those of a group as a whole (`control::names`). Shards do not look here for a request: they take over what
//! there is when a message says that something has changed.

use std::sync::{Arc, Mutex, PoisonError};

use sluice_sys::Address;

use crate::config::UpstreamServer;

/// One server of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) server: UpstreamServer,
    /// Where it can be reached; one of them at least.
    pub(crate) addresses: Vec<Address>,
}

impl Member {
    /// Whether both are the same server at the same addresses, in whatever order.
    pub(crate) fn is_same(&self, other: &Member) -> bool {
        let is_in = |one: &Member, other: &Member| one.addresses.iter().all(|a| other.addresses.contains(a));
        self.server == other.server && is_in(self, other) && is_in(other, self)
    }
}

/// The servers of one group.
pub(crate) type GroupMembers = Arc<[Member]>;

/// Those of all groups, in the order of the configuration.
pub(crate) struct Membership(Mutex<Vec<GroupMembers>>);

impl Membership {
    pub(crate) fn new(groups: Vec<GroupMembers>) -> Membership {
        Membership(Mutex::new(groups))
    }

    /// Those of all groups now.
    pub(crate) fn now(&self) -> Vec<GroupMembers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A group has other servers from now on.
    pub(crate) fn replace(&self, group: usize, members: GroupMembers) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[group] = members;
    }
}
