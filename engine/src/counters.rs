//! What a shard counts. Each shard writes its own set, nobody else does; anyone may read at any time.
//!
//! A counter is a plain load and store by its one writer: no locked instruction, and no line of memory that two
//! shards write.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number with one writer and any number of readers.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one. Only for the owner.
    pub fn increment(&self) {
        self.0.store(self.0.load(Relaxed) + 1, Relaxed);
    }

    /// Replaces the value. Only for the owner.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The value, possibly a moment old.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counters {
    ($( $(#[doc = $doc:literal])+ $name:ident, )*) => {
        /// The counters of one shard.
        #[derive(Debug, Default)]
        pub struct Counters {
            $( $(#[doc = $doc])+ pub $name: Counter, )*
        }

        impl Counters {
            /// Names and values, in the order of their declaration.
            pub fn values(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
                [$( (stringify!($name), self.$name.value()), )*].into_iter()
            }
        }
    };
}

counters! {
    /// Client connections open now.
    connections,
    /// Client connections accepted.
    accepted,
    /// Client connections closed at once because `limits.connections` was reached.
    connections_refused,
    /// Accepting failed for lack of descriptors or memory.
    accept_errors,
    /// Idle client connections closed at their timeout.
    idle_timeouts,
    /// Request heads read, whatever became of them.
    requests,
    /// Requests that broke a protocol rule or a size limit; those refused for their paths are among them.
    bad_requests,
    /// Requests refused for a dot segment in their path: above the root, hidden, or unwanted.
    paths_refused_dots,
    /// Requests refused for a slash in their path: encoded, repeated, or a backslash.
    paths_refused_slashes,
    /// Requests refused for a byte in their path: an encoded control character, overlong UTF-8.
    paths_refused_bytes,
    /// Requests refused for a parameter (`;`) in their path.
    paths_refused_parameters,
    /// Requests forwarded with another spelling of their path than the client's.
    paths_normalised,
    /// Requests that did not arrive in time, head or body.
    request_timeouts,
    /// Requests whose body was above `limits.body_bytes`.
    bodies_too_large,
    /// Requests without a route.
    no_route,
    /// Clients that left or failed before they had their answer.
    client_aborts,
    /// Connections to servers open now.
    upstream_connections,
    /// Connections to servers made.
    upstream_connects,
    /// Connections to servers that could not be made.
    upstream_connect_errors,
    /// Requests sent on a connection that had served one before.
    upstream_reuses,
    /// Requests sent again because a kept connection turned out to be dead.
    upstream_retries,
    /// Servers' answers that broke a protocol rule or a limit.
    upstream_bad_responses,
    /// Servers that closed or reset the connection before they had answered.
    upstream_closed,
    /// Servers that did not answer in time.
    upstream_timeouts,
    /// Answers cut off by a server.
    upstream_cuts,
    /// Answers of our own with a status of 400 or above.
    own_answers,
    /// Tasks that serve a connection now.
    tasks_busy,
    /// Receive buffers held outside the kernel now.
    buffers_held,
    /// The most receive buffers held at once.
    buffers_held_max,
    /// Empty pipes kept for the next large body, two descriptors each.
    pipes_kept,
    /// The kernel found no receive buffer.
    buffers_ran_dry,
    /// A receive was stopped because its reader was slow.
    receives_stopped,
    /// Completions handled.
    completions,
    /// Turns of the loop, one io_uring_enter each.
    turns,
    /// Times the shard brought the counters of this moment up to date.
    published,
    /// Heap allocations of the shard's thread; counted only in builds with the feature `count-alloc`.
    allocations,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_knows_every_counter() {
        let manual = include_str!("../../docs/operations.md");
        for (name, _) in Counters::default().values() {
            assert!(manual.contains(&format!("| `{name}` |")), "{name}");
        }
    }

    #[test]
    fn values_come_by_name() {
        let counters = Counters::default();
        counters.requests.increment();
        counters.requests.increment();
        counters.connections.set(7);
        let values: Vec<_> = counters.values().filter(|(_, value)| *value > 0).collect();
        assert_eq!(values, [("connections", 7), ("requests", 2)]);
    }
}
