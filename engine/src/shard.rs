//! A shard: what one core keeps beyond any configuration. No other core touches it.
//!
//! Made on its own thread after pinning (`launch`), so that its memory is near; `serve` brings it to life. What the
//! configuration says is a [`Snapshot`], which may be replaced while requests are under way.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use crossbeam_utils::CachePadded;
use sluice_proto::h1::HeadStore;
use sluice_proto::path::PathStore;
use sluice_sys::{Buf, Conn};

use crate::budget::Budget;
use crate::clock::Clock;
use crate::config::{Config, UpstreamGroup};
use crate::counters::Counters;
use crate::identity::{ClientTexts, RequestIds};
use crate::policy::apply::PolicyStore;
use crate::route::RouteTable;
use crate::sleepers::Sleepers;
use crate::snapshot::Snapshot;
use crate::splice;
use crate::tls::listeners::TlsListeners;
use crate::tls::servers::TlsUpstreams;
use crate::upstream::board::ServerBoard;
use crate::upstream::members::{GroupMembers, Membership};
use crate::upstream::servers::Servers;
use crate::upstream::stock::{Descriptors, Stock, Upkeep};

/// The state of one shard.
pub(crate) struct Shard {
    /// The configuration in force.
    snapshot: RefCell<Rc<Snapshot>>,
    /// The servers of every configuration that is still in use.
    pub(crate) servers: Servers,
    /// Where the members of groups come from.
    sources: Sources,
    /// How many connections to all servers there are, and may be.
    pub(crate) stock: Rc<Stock>,
    pub(crate) upkeep: Upkeep,
    /// What listeners with TLS show.
    pub(crate) tls: TlsListeners,
    pub(crate) request_ids: RequestIds,
    pub(crate) clock: Clock,
    pub(crate) counters: Arc<CachePadded<Counters>>,
    pub(crate) scratch: RefCell<Scratch>,
    /// Apart from the scratch, which is lent out with the head.
    pub(crate) path_store: RefCell<PathStore>,
    /// The same for what routes make of requests.
    pub(crate) policy_store: RefCell<PolicyStore>,
    /// The lines that the route of the request that is being decided about adds to its response.
    pub(crate) response_lines: Cell<Option<Buf>>,
    /// Requests answered with 429 because their address has too many connections. The ring counts those it closed.
    pub(crate) crowded: Cell<u64>,
    /// Requests by HTTP/2 under way now.
    streams: Cell<u32>,
    /// Bytes of bodies that were received by HTTP/2 and wait for the other side.
    buffered_bytes: Cell<usize>,
    /// Memory of request bodies that are kept while they are sent.
    pub(crate) kept_bytes: Cell<usize>,
    /// The tasks that end by themselves in a drain, to be woken for it: those that drive connections of HTTP/2, and WebSockets whose
    /// frames are read.
    pub(crate) drivers: Sleepers,
    /// Copies of requests under way now.
    pub(crate) mirrors: Cell<u32>,
    /// Tunnels open now.
    pub(crate) tunnels: Cell<u32>,
    pub(crate) is_draining: Cell<bool>,
}

/// What groups are made of when their members change.
struct Sources {
    membership: Arc<Membership>,
    /// The members that are in force here.
    known: RefCell<Vec<GroupMembers>>,
    groups: Vec<UpstreamGroup>,
    tls: TlsUpstreams,
}

/// Room for what is parsed and written without waiting in between: one for all connections of the shard, so it is warm.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) head: HeadStore,
    pub(crate) client: ClientTexts,
}

impl Shard {
    pub(crate) fn new(
        config: &Config,
        (membership, board, number): (&Arc<Membership>, &Arc<ServerBoard>, usize),
        routes: Arc<RouteTable>,
        budget: &Budget,
        descriptors: Descriptors,
        counters: Arc<CachePadded<Counters>>,
        (listeners, upstreams): (TlsListeners, TlsUpstreams),
    ) -> Shard {
        let stock = Rc::new(Stock::new(descriptors));
        let servers = Servers::new(stock.clone(), board.clone(), number);
        let members = membership.now();
        let snapshot = Snapshot::new(config, &members, routes, budget, &servers, &upstreams);
        let sources = Sources {
            membership: membership.clone(),
            known: RefCell::new(members),
            groups: config.upstreams.clone(),
            tls: upstreams,
        };
        // Half of what is kept for servers is not for pipes.
        splice::bound_descriptors(descriptors.all.saturating_sub(descriptors.for_servers / 2).max(1));
        Shard {
            snapshot: RefCell::new(Rc::new(snapshot)),
            servers,
            sources,
            stock,
            upkeep: Upkeep::default(),
            tls: listeners,
            request_ids: RequestIds::new(),
            clock: Clock::new(),
            counters,
            scratch: RefCell::default(),
            path_store: RefCell::default(),
            policy_store: RefCell::default(),
            response_lines: Cell::new(None),
            crowded: Cell::new(0),
            streams: Cell::new(0),
            buffered_bytes: Cell::new(0),
            kept_bytes: Cell::new(0),
            drivers: Sleepers::default(),
            mirrors: Cell::new(0),
            tunnels: Cell::new(0),
            is_draining: Cell::new(false),
        }
    }

    /// The configuration in force. A task keeps the reference for as long as its work has to see one configuration.
    #[inline]
    pub(crate) fn snapshot(&self) -> Rc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// Whether a PROXY protocol header comes before anything else on this connection.
    #[inline]
    pub(crate) fn awaits_proxy_header(&self, conn: &Conn) -> bool {
        self.snapshot.borrow().proxy_senders.of(conn).is_some()
    }

    /// From now on requests go by this configuration; those under way end by theirs.
    #[cfg_attr(not(test), expect(dead_code, reason = "there is no reload yet"))]
    pub(crate) fn switch_to(&self, snapshot: Snapshot) {
        self.snapshot.replace(Rc::new(snapshot));
        self.servers.forget_unused();
        // Those that exchanges still use are forgotten by and by.
        self.upkeep.wake();
    }

    /// Takes over the members of groups that are others now.
    pub(crate) fn take_over_members(&self) {
        let Sources { membership, known, groups, tls } = &self.sources;
        let (snapshot, now) = (self.snapshot(), membership.now());
        let before = known.replace(now.clone());
        for (number, (group, members)) in groups.iter().zip(&now).enumerate() {
            let is_same = before.get(number).is_some_and(|before| Arc::ptr_eq(before, members));
            let Some(of_snapshot) = snapshot.group(number).filter(|_| !is_same) else { continue };
            let members = self.servers.of_group(group, members, tls.of(number));
            let old = of_snapshot.replace_members(members);
            self.servers.settle(&old, &of_snapshot.members());
        }
        // Servers that exchanges still use are forgotten by and by.
        self.upkeep.wake();
    }

    /// Counts one more request by HTTP/2 of a connection that has so many with it, if there may be one. The more of them there are, the
    /// fewer a connection may have, so that a few clients do not take all.
    pub(crate) fn may_begin_stream(&self, of_connection: usize) -> bool {
        let (streams, most) = (self.streams.get(), self.streams_max());
        let share = match u64::from(streams) * 4 / u64::from(most.max(1)) {
            0 | 1 => usize::MAX,
            2 => 16,
            _ => 4,
        };
        let may_begin = streams < most && of_connection <= share;
        if may_begin {
            self.streams.set(streams + 1);
        }
        may_begin
    }

    /// The most that there may be: each may need a connection to a server, which must leave descriptors to others.
    fn streams_max(&self) -> u32 {
        let configured = self.snapshot.borrow().http2.streams_per_shard;
        configured.min(self.stock.descriptors() / 2)
    }

    /// One of them is over.
    pub(crate) fn stream_ends(&self) {
        self.streams.set(self.streams.get() - 1);
    }

    /// Bytes of a body wait; says whether there is room for more.
    pub(crate) fn note_buffered(&self, bytes: usize) -> bool {
        let buffered = self.buffered_bytes.get() + bytes;
        self.buffered_bytes.set(buffered);
        buffered <= self.snapshot.borrow().http2.body_buffer_bytes
    }

    /// They wait no more.
    pub(crate) fn forget_buffered(&self, bytes: usize) {
        self.buffered_bytes.set(self.buffered_bytes.get() - bytes);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.get()
    }

    /// Brings those counters up to date that count what is open now.
    pub(crate) fn publish(&self) {
        let counters = &self.counters;
        let stats = sluice_sys::stats();
        let (held, held_max) = sluice_sys::buffers_held();
        let (mut busy, mut idle) = (0, 0);
        self.servers.for_each(|server| {
            let (in_use, waiting) = server.connections();
            busy += u64::from(in_use);
            idle += waiting as u64;
        });
        debug_assert_eq!(u64::from(self.stock.open()), busy + idle, "every connection is counted once");
        counters.connections.set(u64::from(sluice_sys::connections_open()));
        counters.accepted.set(stats.accepted);
        counters.connections_refused.set(stats.accept_refused);
        counters.address_refused.set(stats.peer_refused + self.crowded.get());
        counters.partial_heads.set(sluice_sys::connections_partial() as u64);
        counters.write_stalls.set(stats.sends_stalled);
        counters.responses_too_slow.set(stats.sends_too_slow);
        counters.accept_errors.set(stats.accept_errors);
        counters.idle_timeouts.set(stats.idle_expired);
        counters.tunnels.set(u64::from(self.tunnels.get()));
        counters.h2_streams.set(u64::from(self.streams.get()));
        counters.h2_bodies_buffered.set(self.buffered_bytes.get() as u64);
        counters.bodies_kept_bytes.set(self.kept_bytes.get() as u64);
        counters.upstream_connections.set(busy + idle);
        counters.upstream_idle.set(idle);
        let mut waiting = 0;
        self.servers.for_each_queue(|queue| waiting += queue.len() as u64);
        counters.upstream_waiting.set(waiting);
        counters.tasks_busy.set(u64::from(sluice_sys::workers_busy()));
        counters.buffers_held.set(u64::from(held));
        counters.buffers_held_max.set(u64::from(held_max));
        counters.pipes_kept.set(splice::pipes_kept() as u64);
        counters.recv_buffers_exhausted.set(stats.recv_buffers_exhausted);
        counters.reads_paused.set(stats.reads_paused);
        counters.recv_buffers.set(u64::from(sluice_sys::buffers_count()));
        counters.recv_buffers_reclaimed.set(stats.buffers_reclaimed);
        counters.recv_queues_overrun.set(stats.queues_overrun);
        counters.connections_migrated_out.set(stats.connections_migrated_out);
        counters.connections_migrated_in.set(stats.connections_migrated_in);
        counters.connections_migration_failed.set(stats.connections_migration_failed);
        counters.completions.set(stats.completions);
        counters.loop_iterations.set(stats.loop_iterations);
        #[cfg(feature = "count-alloc")]
        counters.allocations.set(sluice_sys::allocations_of_this_thread());
        counters.published.increment();
    }
}
