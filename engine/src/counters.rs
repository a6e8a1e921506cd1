//! The counters of a shard. Each shard alone writes its own set; any thread may read it at any time.
//!
//! A counter is a plain load and store by its one writer: no locked instruction, and no line of memory that two
//! shards write.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::upstream::lifetime::UsedUp;

/// A number with one writer and any number of readers.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one. Only for the owner.
    pub fn increment(&self) {
        self.0.store(self.0.load(Relaxed) + 1, Relaxed);
    }

    /// Adds a number. Only for the owner.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed) + count, Relaxed);
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
    /// Client connections closed at once because all shards together had as many as `limits.connections` allows.
    connections_refused,
    /// Client connections closed at once, or their first request answered with 429, because
    /// `limits.connections_per_address` was reached.
    address_refused,
    /// Client connections closed after an answer because `limits.requests_per_connection` was reached.
    connections_max_requests,
    /// Client connections closed after an answer because `timeouts.connection_age` had passed.
    connections_max_age,
    /// Accepting failed for lack of descriptors or memory.
    accept_errors,
    /// Idle client connections closed at their timeout.
    idle_timeouts,
    /// Requests whose head was read, refused before it was whole (malformed, too large, too late, too many unfinished), or
    /// left unfinished by a client that went away.
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
    /// Requests forwarded with a path spelled differently from the client's.
    paths_normalised,
    /// Request lines longer than `limits.request_line_bytes`.
    request_lines_too_long,
    /// Request heads beyond `limits.head_bytes` or `limits.header_fields`.
    heads_too_large,
    /// Client connections parked in the middle of a request head now.
    partial_heads,
    /// Unfinished request heads answered with 503 because `limits.partial_heads_bytes` was reached.
    partial_heads_refused,
    /// Request heads that were not complete within `timeouts.request_head`.
    request_head_timeouts,
    /// Request bodies that paused for longer than `timeouts.body_idle`.
    body_timeouts,
    /// Request bodies slower than `limits.body_min_rate`.
    bodies_too_slow,
    /// Requests given up because `timeouts.request`, or their route's, had passed.
    request_timeouts,
    /// Sends given up because the peer took nothing for `timeouts.write_stall`.
    write_stalls,
    /// Responses given up because their client took them slower than `limits.response_min_rate`.
    responses_too_slow,
    /// Requests whose body was above `limits.body_bytes`, or their route's.
    bodies_too_large,
    /// TLS handshakes begun with clients.
    tls_handshakes,
    /// Those of them that resumed an earlier session.
    tls_resumptions,
    /// Connections to a TLS listener that began with something else.
    tls_not_tls,
    /// TLS handshakes that ended because the client broke the protocol.
    tls_handshakes_malformed,
    /// TLS handshakes without a version, cipher, group, protocol or name in common.
    tls_handshakes_unmatched,
    /// TLS handshakes that ended by an alert of the client, such as one that does not know our authority.
    tls_handshakes_rejected,
    /// TLS handshakes whose client has left before their end.
    tls_handshakes_unfinished,
    /// TLS handshakes that were not complete within `timeouts.tls_handshake`.
    tls_handshakes_late,
    /// Connections closed because `limits.tls_handshakes` or `limits.tls_handshakes_per_address` was reached, or for a
    /// first message in too many pieces.
    tls_handshakes_refused,
    /// TLS handshakes whose client has shown no certificate, or one that is not accepted.
    tls_client_certificates_refused,
    /// Client connections whose sending was handed to the kernel (`tls.kernel_tls`).
    tls_offloads,
    /// Client connections that asked for that in vain; they are served without it.
    tls_offloads_failed,
    /// TLS handshakes with servers that failed.
    upstream_tls_failures,
    /// TLS handshakes with servers that resumed an earlier session.
    upstream_tls_resumptions,
    /// Client connections that began to speak HTTP/2.
    h2_connections,
    /// Those of them that ended because the client broke a rule of the whole connection.
    h2_connections_broken,
    /// Requests by HTTP/2 under way now.
    h2_streams,
    /// Streams refused because their connection, or `http2.streams_per_shard`, had as many as it may.
    h2_streams_refused,
    /// Streams of clients that we reset for a broken rule.
    h2_streams_broken,
    /// Streams that clients reset before they were over.
    h2_resets,
    /// PING frames of clients.
    h2_pings,
    /// SETTINGS frames of clients behind their first.
    h2_settings,
    /// PRIORITY, PRIORITY_UPDATE and unknown frames of clients.
    h2_frames_ignored,
    /// Frames of clients without content that end nothing.
    h2_frames_empty,
    /// DATA frames of clients of a few bytes that end nothing.
    h2_data_tiny,
    /// HTTP/2 connections ended because the peer did not answer a PING in `http2.ping_timeout`.
    h2_ping_timeouts,
    /// WINDOW_UPDATE frames of clients for a few bytes.
    h2_windows_tiny,
    /// Bytes of bodies that were received by HTTP/2 and wait for the other side, now.
    h2_bodies_buffered,
    /// Connections closed for a PROXY protocol header that was missing or malformed.
    proxy_headers_malformed,
    /// Connections closed for a PROXY protocol header that did not come in time.
    proxy_headers_late,
    /// Connections closed because their peer may not send a PROXY protocol header.
    proxy_headers_forbidden,
    /// Requests over TLS for another host than their connection was opened for, answered with 421.
    requests_misdirected,
    /// Requests without a client certificate to a route that needs one, answered with 403.
    client_certificates_missing,
    /// Requests without TLS answered with a redirect to https://.
    https_redirects,
    /// Requests without a route.
    no_route,
    /// Empty lines before requests.
    abuse_empty_lines,
    /// Requests that we refused and that left the connection open.
    abuse_refusals,
    /// Request heads that came in very many pieces, counted again with every few more.
    abuse_dripped_heads,
    /// Thousands of chunks of a few bytes in request bodies.
    abuse_tiny_chunks,
    /// Client connections closed because `limits.abuse_score` was reached.
    abuse_closed,
    /// Clients that left or failed before they had their response.
    client_aborts,
    /// Those of them whose requests were cancelled because they had ended their side (`on_client_close`).
    requests_cancelled,
    /// Tunnels open now: connections that were changed to another protocol, or connected through.
    tunnels,
    /// Tunnels opened.
    tunnels_opened,
    /// Tunnels closed because no byte had passed for `timeouts.tunnel_idle`.
    tunnel_idle_timeouts,
    /// Tunnels cut off by either end, by a reset or by taking nothing for `timeouts.write_stall`.
    tunnels_aborted,
    /// Requests for a tunnel, by Upgrade or CONNECT, that no route allows.
    tunnels_refused,
    /// WebSockets closed (1002) for a frame that broke a rule.
    websocket_frames_broken,
    /// WebSockets closed (1009) for a message above `message_bytes` of their route.
    websocket_messages_too_large,
    /// WebSockets closed (1008) because their client sent more messages than `message_rate` of their route.
    websocket_messages_too_many,
    /// WebSockets closed because a peer sent nothing for `ping_timeout` of their route after a Ping.
    websocket_ping_timeouts,
    /// WebSockets closed (1001) because a drain began.
    websocket_drained,
    /// WebSockets ended because a closing handshake took longer than `close_timeout` of their route.
    websocket_close_timeouts,
    /// Connections to servers open now.
    upstream_connections,
    /// Idle ones among them.
    upstream_idle,
    /// Idle connections to servers closed after the peak of use they were kept for.
    upstream_surplus_closed,
    /// Connections to servers closed, idle or after their request, because `limits.upstream_idle_connections` or the
    /// descriptors allow no more of them.
    upstream_not_kept,
    /// Connections to servers closed, or used for no further requests, because `limits.upstream_requests_per_connection` was
    /// reached.
    upstream_max_requests,
    /// The same because `timeouts.upstream_connection_age` had passed.
    upstream_max_age,
    /// Requests that wait for a server now, because all have as many connections as `limits.upstream_connections` allows.
    upstream_waiting,
    /// Requests that had to wait for one.
    upstream_queued,
    /// Those of them that were answered with 503 because `timeouts.upstream_queue` had passed.
    upstream_queue_timeouts,
    /// Requests answered with 503 because as many waited as `limits.upstream_queue` allows, or too many of their connection.
    upstream_queue_overflows,
    /// Requests whose client has left while they waited.
    upstream_queue_left,
    /// Connections to servers closed, idle or after their request, for a request of another shard that waited.
    upstream_ceded,
    /// Kept connections found closed by their server just before a request that cannot be sent again.
    upstream_stale,
    /// Connections to servers made.
    upstream_connects,
    /// Connections to servers that could not be made.
    upstream_connect_errors,
    /// Requests sent on a connection that had served one before.
    upstream_reuses,
    /// Requests sent again, for any cause.
    upstream_retries,
    /// Those of them whose kept connection turned out to be dead.
    upstream_retries_stale,
    /// ... whose stream was refused by a server that has done nothing about it.
    upstream_retries_refused,
    /// ... whose new connection ended before the response.
    upstream_retries_reset,
    /// ... for which no response head had come in time.
    upstream_retries_timeout,
    /// ... whose response had a status among those of `retry.on`.
    upstream_retries_status,
    /// Requests not sent again, and not hedged, because `retry.budget` of their upstream was used up.
    upstream_retry_budget_exhausted,
    /// Requests sent to a second server because no response head had come for `retry.hedge_after`.
    upstream_hedges,
    /// Those of them that the second server answered first.
    upstream_hedges_won,
    /// Memory of request bodies that are kept while they are sent, now.
    bodies_kept_bytes,
    /// Request bodies that were not kept because `limits.kept_bodies_bytes` was reached.
    bodies_not_kept,
    /// Responses of servers that broke a protocol rule or a limit.
    upstream_bad_responses,
    /// Servers that closed or reset the connection before they had answered.
    upstream_closed,
    /// Servers that did not answer within `timeouts.upstream_response`.
    upstream_timeouts,
    /// Connections to servers not made within `timeouts.upstream_connect`.
    upstream_connect_timeouts,
    /// Responses cut off because they paused for longer than `timeouts.upstream_body_idle`.
    upstream_body_timeouts,
    /// Responses cut off by a server, also by a pause that is too long.
    upstream_truncated,
    /// Responses of Sluice's own with a status of 400 or above.
    local_responses,
    /// Copies of requests whose response was read to its end (`mirror` of a route).
    mirrors,
    /// Copies that got no whole response.
    mirrors_failed,
    /// Requests that were not copied because 256 copies of the shard were under way.
    mirrors_dropped,
    /// Requests that were not copied because their body had not come with their head, or not as a whole.
    mirrors_incomplete,
    /// Tasks that serve a connection now.
    tasks_busy,
    /// Receive buffers held outside the kernel now.
    buffers_held,
    /// The most receive buffers held at once.
    buffers_held_max,
    /// Empty pipes kept for the next large body, two descriptors each.
    pipes_kept,
    /// The kernel found no receive buffer.
    recv_buffers_exhausted,
    /// A receive came to its bound, or was stopped, with bytes that were not consumed yet.
    reads_paused,
    /// Receive buffers there are (`limits.receive_buffers_bytes`).
    recv_buffers,
    /// Connections ended because they had held receive buffers for longest when those were scarce.
    recv_buffers_reclaimed,
    /// Connections ended because more was received for them than their queue holds.
    recv_queues_overrun,
    /// Requests answered with 503 because checks held down all servers of their upstream.
    upstream_all_down,
    /// Requests answered with 503 because the breaker of their upstream was open, or as many as it allows were under way.
    upstream_breaker_refused,
    /// Client connections migrated to other shards.
    connections_migrated_out,
    /// Client connections migrated from other shards to this one.
    connections_migrated_in,
    /// Migrations that failed because the other shard could not be reached; the connection stays.
    connections_migration_failed,
    /// Completions handled.
    completions,
    /// Iterations of the event loop, one io_uring_enter each.
    loop_iterations,
    /// Times the shard brought the counters of this moment up to date.
    published,
    /// Heap allocations of the shard's thread; counted only in builds with the feature `count-alloc`.
    allocations,
}

impl Counters {
    /// A connection to a server is used no longer.
    #[cold]
    pub(crate) fn note_used_up(&self, why: UsedUp) {
        match why {
            UsedUp::Requests => self.upstream_max_requests.increment(),
            UsedUp::Age => self.upstream_max_age.increment(),
        }
    }
}

/// Counters that say what there is at this moment, and go down as well as up.
const OF_NOW: &[&str] = &[
    "connections",
    "partial_heads",
    "tunnels",
    "h2_streams",
    "h2_bodies_buffered",
    "bodies_kept_bytes",
    "upstream_connections",
    "upstream_idle",
    "upstream_waiting",
    "tasks_busy",
    "buffers_held",
    "buffers_held_max",
    "recv_buffers",
    "pipes_kept",
];

/// Whether the counter of this name can go down.
pub fn is_of_now(name: &str) -> bool {
    OF_NOW.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_now_is_counted() {
        let counters = Counters::default();
        let names: Vec<_> = counters.values().map(|(name, _)| name).collect();
        assert!(OF_NOW.iter().all(|name| names.contains(name)));
    }

    #[test]
    fn the_manual_knows_every_counter() {
        let manual = include_str!("../../docs/operations.md");
        for (name, _) in Counters::default().values() {
            assert!(manual.contains(&format!("| `{name}` |")), "{name}");
        }
    }

    /// Where the operator sees that a limit or a timeout was met; `None` for those that refuse nothing.
    const MET: &[(&str, Option<&str>)] = &[
        ("timeouts.request_head", Some("request_head_timeouts")),
        ("timeouts.body_idle", Some("body_timeouts")),
        ("timeouts.body_min_rate_grace", Some("bodies_too_slow")),
        ("timeouts.response_min_rate_grace", Some("responses_too_slow")),
        ("timeouts.request", Some("request_timeouts")),
        ("timeouts.keep_alive_idle", Some("idle_timeouts")),
        ("timeouts.connection_age", Some("connections_max_age")),
        ("timeouts.write_stall", Some("write_stalls")),
        ("timeouts.upstream_connect", Some("upstream_connect_timeouts")),
        ("timeouts.upstream_queue", Some("upstream_queue_timeouts")),
        ("timeouts.upstream_response", Some("upstream_timeouts")),
        ("timeouts.upstream_body_idle", Some("upstream_body_timeouts")),
        ("timeouts.upstream_idle", None),
        ("timeouts.upstream_connection_age", Some("upstream_max_age")),
        ("timeouts.tunnel_idle", Some("tunnel_idle_timeouts")),
        ("timeouts.expect_continue_wait", None),
        ("timeouts.proxy_header", Some("proxy_headers_late")),
        ("timeouts.tls_handshake", Some("tls_handshakes_late")),
        ("limits.tls_handshakes", Some("tls_handshakes_refused")),
        ("limits.tls_handshakes_per_address", Some("tls_handshakes_refused")),
        ("limits.request_line_bytes", Some("request_lines_too_long")),
        ("limits.head_bytes", Some("heads_too_large")),
        ("limits.partial_heads_bytes", Some("partial_heads_refused")),
        ("limits.header_fields", Some("heads_too_large")),
        ("limits.body_bytes", Some("bodies_too_large")),
        ("limits.body_min_rate", Some("bodies_too_slow")),
        ("limits.response_min_rate", Some("responses_too_slow")),
        ("limits.receive_buffers_bytes", Some("recv_buffers_exhausted")),
        ("limits.read_ahead_bytes", Some("reads_paused")),
        ("limits.requests_per_connection", Some("connections_max_requests")),
        ("limits.connections", Some("connections_refused")),
        ("limits.connections_per_address", Some("address_refused")),
        ("limits.abuse_score", Some("abuse_closed")),
        ("limits.upstream_idle_connections", Some("upstream_not_kept")),
        ("limits.upstream_connections", Some("upstream_queued")),
        ("limits.upstream_queue", Some("upstream_queue_overflows")),
        ("limits.upstream_requests_per_connection", Some("upstream_max_requests")),
        ("limits.upstream_streams", None),
        ("limits.kept_bodies_bytes", Some("bodies_not_kept")),
    ];

    #[test]
    fn every_limit_has_a_counter_that_says_when_it_was_met() {
        let counters = Counters::default();
        let keys = crate::config::flags().map(|(section, key)| section.full_name(key.name));
        for name in keys.filter(|name| name.starts_with("limits.") || name.starts_with("timeouts.")) {
            let met = MET.iter().find(|(key, _)| *key == name);
            let (_, counter) = met.unwrap_or_else(|| panic!("no counter for {name}"));
            assert!(counter.is_none_or(|wanted| counters.values().any(|(name, _)| name == wanted)));
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
