//! A running shard, as other threads see it.

use std::sync::Arc;

use crossbeam_utils::CachePadded;
use sluice_sys::{Doorbell, ShardMemory};

use super::freshness::Freshness;
use crate::counters::Counters;
use crate::placement::ShardPlace;

/// A running shard. All of it was made on the shard's own thread.
pub(crate) struct Member {
    pub(crate) place: ShardPlace,
    /// The node its memory comes from.
    pub(crate) memory_node: usize,
    pub(crate) doorbell: Doorbell,
    pub(crate) counters: Arc<CachePadded<Counters>>,
    /// Of when they are.
    pub(crate) freshness: Freshness,
    pub(crate) memory: ShardMemory,
    /// The kernel's number of its thread.
    pub(crate) thread: i32,
    /// A warning for the operator.
    pub(crate) warning: Option<String>,
}
