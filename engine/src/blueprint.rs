//! The input from which every shard is made. All shards read the same one.

use std::sync::{Arc, OnceLock};

use sluice_sys::{Address, ConnectionLimit, PeerCounts};

use crate::budget::Budget;
use crate::config::Config;
use crate::placement::Plan;
use crate::route::RouteTable;
use crate::tls::files::TlsFiles;
use crate::upstream::board::ServerBoard;
use crate::upstream::members::{GroupMembers, Membership};
use crate::upstream::stock::Descriptors;

/// The input from which every shard is made.
pub(crate) struct Blueprint {
    pub(crate) config: Config,
    /// The servers of every group at the moment.
    pub(crate) membership: Arc<Membership>,
    /// What the process knows of servers.
    pub(crate) servers: Arc<ServerBoard>,
    pub(crate) tls: TlsFiles,
    pub(crate) listen: Vec<Address>,
    /// Client connections of all shards, and the limit that they share.
    pub(crate) connections_max: u32,
    pub(crate) connection_limit: Arc<ConnectionLimit>,
    /// What each shard may use.
    pub(crate) budget: Budget,
    pub(crate) descriptors: Descriptors,
    /// Connections by their client's address, if they are limited.
    pub(crate) peers: Option<Arc<PeerCounts>>,
    /// The routes, once for every node that shards take their memory from: built by the first shard there.
    routes: Vec<(usize, OnceLock<Arc<RouteTable>>)>,
}

impl Blueprint {
    /// For the shards of this plan.
    pub(crate) fn new(
        config: Config,
        (members, tls): (Vec<GroupMembers>, TlsFiles),
        listen: Vec<Address>,
        budget: Budget,
        (connections_max, descriptors): (u32, Descriptors),
        plan: &Plan,
    ) -> Blueprint {
        let connections_max =
            u32::try_from(budget.connections.min(u64::from(connections_max))).unwrap_or(u32::MAX);
        let mut nodes: Vec<usize> = plan.shards.iter().map(|place| place.memory_node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let routes = nodes.into_iter().map(|node| (node, OnceLock::new())).collect();
        let peers = (config.limits.connections_per_address > 0).then(|| PeerCounts::new(plan.shards.len()));
        let connection_limit = ConnectionLimit::new(plan.shards.len(), connections_max);
        let servers = Arc::new(ServerBoard::new(plan.shards.len()));
        servers.cover(&config.upstreams, &members);
        Blueprint {
            config,
            membership: Arc::new(Membership::new(members)),
            servers,
            tls,
            listen,
            connections_max,
            connection_limit,
            budget,
            descriptors,
            peers,
            routes,
        }
    }

    /// The routing table in the memory of a node.
    pub(crate) fn routes_on(&self, node: usize) -> Arc<RouteTable> {
        let build = || Arc::new(RouteTable::build(&self.config));
        match self.routes.iter().find(|(known, _)| *known == node) {
            Some((_, table)) => table.get_or_init(build).clone(),
            None => build(),
        }
    }
}
