//! A shard: everything one core needs to serve requests, shared with nobody.
//!
//! Made on its own thread after pinning (`launch`), so that its memory is near. [`Shard::run`] accepts until it is told to
//! drain; requests are served by workers (`downstream::h1::serve`).

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_utils::CachePadded;
use sluice_proto::HeadLimits;
use sluice_proto::h1::HeadStore;
use sluice_proto::path::PathStore;
use sluice_sys::{BoundListener, Listener, next_message, now_ms, sleep, spawn};

use crate::balance::{self, ShardPeers};
use crate::budget::Budget;
use crate::clock::Clock;
use crate::config::{Config, Route, RouteTunnels, SendHost};
use crate::control::Message;
use crate::counters::Counters;
use crate::downstream::h1::{next_client, serve};
use crate::downstream::history::AgeLimit;
use crate::downstream::proxy_protocol::ProxyProtocol;
use crate::identity::{Identity, SenderTexts};
use crate::min_rate::MinRate;
use crate::path_policy::PathPolicy;
use crate::route::RouteTable;
use crate::splice;
use crate::upstream::group::{Group, Server};
use crate::upstream::stock::{Descriptors, Stock};
use crate::upstream::upkeep::{self, Upkeep};

/// How often a draining shard looks whether it is empty.
const DRAIN_LOOK_MS: u64 = 20;

/// Timeouts in milliseconds, as the ring wants them.
pub(crate) struct Times {
    pub(crate) header: u64,
    pub(crate) proxy_header: u64,
    pub(crate) body_idle: u64,
    pub(crate) body_rate_grace: u64,
    pub(crate) response_min_rate_grace: u64,
    pub(crate) keep_alive_idle: u64,
    pub(crate) write_stall: u64,
    pub(crate) upstream_connect: u64,
    pub(crate) upstream_response: u64,
    pub(crate) upstream_body_idle: u64,
    pub(crate) upstream_idle: u64,
    pub(crate) continue_wait: u64,
    pub(crate) tunnel_idle: u64,
    drain: u64,
}

/// Addresses of every server of every group, resolved by the control side.
pub(crate) type Resolved = Vec<Vec<Vec<SocketAddr>>>;

/// The state of one shard.
pub(crate) struct Shard {
    pub(crate) times: Times,
    pub(crate) head_limits: HeadLimits,
    /// By the number of the route.
    pub(crate) route_limits: Box<[RouteLimits]>,
    pub(crate) begun_heads_bytes_max: usize,
    pub(crate) body_rate: u32,
    response_min_rate: u32,
    pub(crate) requests_per_connection: u32,
    pub(crate) connections_per_address: u32,
    pub(crate) connection_age: AgeLimit,
    pub(crate) misbehaviour_max: u8,
    pub(crate) upstream_idle_max: usize,
    pub(crate) paths: PathPolicy,
    /// Read only, and shared with the shards on the same node only.
    pub(crate) routes: Arc<RouteTable>,
    pub(crate) groups: Vec<Group>,
    /// How many connections to all servers there are, and may be.
    pub(crate) stock: Rc<Stock>,
    pub(crate) upkeep: Upkeep,
    pub(crate) identity: Identity,
    pub(crate) proxy_protocol: ProxyProtocol,
    /// Which Host servers get, by route.
    pub(crate) send_host: Vec<SendHost>,
    /// What may leave HTTP, by route.
    pub(crate) route_tunnels: Vec<RouteTunnels>,
    pub(crate) clock: Clock,
    pub(crate) counters: Arc<CachePadded<Counters>>,
    pub(crate) scratch: RefCell<Scratch>,
    /// Apart from the scratch, which is lent out with the head.
    pub(crate) path_store: RefCell<PathStore>,
    /// Requests answered with 429 because their address has too many connections. The ring counts those it closed.
    pub(crate) crowded: Cell<u64>,
    /// Tunnels open now.
    pub(crate) tunnels: Cell<u32>,
    is_draining: Cell<bool>,
}

/// What holds for the requests of one route.
pub(crate) struct RouteLimits {
    /// `u64::MAX` for none.
    pub(crate) body_bytes_max: u64,
    /// 0 for none.
    pub(crate) request_ms: u64,
}

/// Room for what is parsed and written without waiting in between: one for all connections of the shard, so it is warm.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) head: HeadStore,
    pub(crate) sender: SenderTexts,
}

impl Shard {
    pub(crate) fn new(
        config: &Config,
        resolved: &Resolved,
        routes: Arc<RouteTable>,
        budget: &Budget,
        descriptors: Descriptors,
        counters: Arc<CachePadded<Counters>>,
    ) -> Shard {
        let stock = Rc::new(Stock::new(descriptors));
        let unlimited = |limit: u32| if limit == 0 { u32::MAX } else { limit };
        let limits = &config.limits;
        // Half of what is kept for servers is not for pipes.
        splice::bound_descriptors(descriptors.all.saturating_sub(descriptors.for_servers / 2).max(1));
        Shard {
            times: Times::new(config),
            head_limits: HeadLimits {
                request_line_bytes_max: limits.request_line_bytes,
                head_bytes_max: limits.head_bytes,
                fields_max: limits.header_fields,
            },
            route_limits: config.routes.iter().map(|route| RouteLimits::new(route, config)).collect(),
            begun_heads_bytes_max: budget.partial_heads_bytes,
            body_rate: limits.body_rate,
            response_min_rate: limits.response_min_rate,
            requests_per_connection: unlimited(limits.requests_per_connection),
            connections_per_address: unlimited(limits.connections_per_address),
            connection_age: AgeLimit::new(ms(config.timeouts.connection_age)),
            misbehaviour_max: limits.misbehaviour,
            upstream_idle_max: limits.upstream_idle_connections,
            paths: PathPolicy::new(config),
            routes,
            groups: groups(config, resolved, &stock),
            stock,
            upkeep: Upkeep::default(),
            identity: Identity::new(&config.forwarding),
            proxy_protocol: ProxyProtocol::new(&config.listeners),
            send_host: config.routes.iter().map(|route| route.send_host).collect(),
            route_tunnels: config.routes.iter().map(|route| route.tunnels.clone()).collect(),
            clock: Clock::new(),
            counters,
            scratch: RefCell::default(),
            path_store: RefCell::default(),
            crowded: Cell::new(0),
            tunnels: Cell::new(0),
            is_draining: Cell::new(false),
        }
    }

    /// How fast a client has to take a response.
    pub(crate) fn response_pace(&self) -> MinRate {
        MinRate::by_rate(self.times.write_stall, self.response_min_rate, self.times.response_min_rate_grace)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.get()
    }

    /// Accepts and serves until a drain is over.
    pub(crate) async fn run(self: Rc<Self>, listeners: Vec<BoundListener>, peers: Option<ShardPeers>) {
        if let Some(peers) = peers {
            spawn(balance::run(peers));
        }
        spawn(upkeep::run(self.clone()));
        let start = |(bound, id)| {
            let listener = Listener::start(bound, id);
            if self.proxy_protocol.is_expected(id) { listener.behind_balancer() } else { listener }
        };
        let listeners: Vec<Listener> = listeners.into_iter().zip(0..).map(start).collect();
        loop {
            match Message::from_number(next_message().await) {
                Some(Message::Publish) => self.publish(),
                Some(Message::Drain) => break,
                None => {}
            }
        }
        self.is_draining.set(true);
        sluice_sys::leave_shard_set();
        spawn(self.clone().go_on_publishing());
        let until_ms = now_ms() + self.times.drain;
        for listener in listeners {
            listener.stop(until_ms.saturating_sub(now_ms())).await;
        }
        self.drain(until_ms).await;
        self.groups.iter().flat_map(Group::servers).for_each(Server::close_idle);
        self.publish();
    }

    /// A worker: serves one connection after the other.
    pub(crate) fn worker(self: &Rc<Self>) -> impl Future<Output = ()> + use<> {
        let shard = self.clone();
        async move {
            loop {
                if let Some((tunnel, place)) = serve(next_client(&shard).await).await {
                    spawn(tunnel.run(shard.clone(), place));
                }
            }
        }
    }

    /// Waits until every connection is closed, or the drain's time is over.
    async fn drain(&self, until_ms: u64) {
        while sluice_sys::connections_open() > 0 && now_ms() < until_ms {
            // First a moment for the requests of connections that were accepted last.
            sleep(DRAIN_LOOK_MS.min(until_ms - now_ms())).await;
            sluice_sys::close_idle();
        }
    }

    async fn go_on_publishing(self: Rc<Self>) {
        loop {
            if let Some(Message::Publish) = Message::from_number(next_message().await) {
                self.publish();
            }
        }
    }

    /// Brings those counters up to date that count what is open now.
    fn publish(&self) {
        let counters = &self.counters;
        let stats = sluice_sys::stats();
        let (held, held_max) = sluice_sys::buffers_held();
        let servers = self.groups.iter().flat_map(Group::servers);
        let (busy, idle) = servers
            .map(Server::connections)
            .fold((0, 0), |sum, server| (sum.0 + u64::from(server.0), sum.1 + server.1 as u64));
        debug_assert_eq!(u64::from(self.stock.open()), busy + idle, "every connection is counted once");
        counters.connections.set(u64::from(sluice_sys::connections_open()));
        counters.accepted.set(stats.accepted);
        counters.connections_refused.set(stats.accept_refused);
        counters.address_refused.set(stats.peer_refused + self.crowded.get());
        counters.heads_begun.set(sluice_sys::connections_partial() as u64);
        counters.write_stalls.set(stats.sends_stalled);
        counters.responses_too_slow.set(stats.sends_too_slow);
        counters.accept_errors.set(stats.accept_errors);
        counters.idle_timeouts.set(stats.idle_expired);
        counters.tunnels.set(u64::from(self.tunnels.get()));
        counters.upstream_connections.set(busy + idle);
        counters.upstream_idle.set(idle);
        counters.tasks_busy.set(u64::from(sluice_sys::workers_busy()));
        counters.buffers_held.set(u64::from(held));
        counters.buffers_held_max.set(u64::from(held_max));
        counters.pipes_kept.set(splice::pipes_kept() as u64);
        counters.buffers_ran_dry.set(stats.buffers_ran_dry);
        counters.receives_stopped.set(stats.receives_stopped);
        counters.recv_buffers.set(u64::from(sluice_sys::buffers_count()));
        counters.recv_buffers_reclaimed.set(stats.buffers_reclaimed);
        counters.recv_queues_overrun.set(stats.queues_overrun);
        counters.handed_out.set(stats.handed_out);
        counters.handed_in.set(stats.handed_in);
        counters.handed_back.set(stats.handed_back);
        counters.completions.set(stats.completions);
        counters.turns.set(stats.turns);
        #[cfg(feature = "count-alloc")]
        counters.allocations.set(sluice_sys::allocations_of_this_thread());
        counters.published.increment();
    }
}

impl RouteLimits {
    fn new(route: &Route, config: &Config) -> RouteLimits {
        let body_bytes = route.body_bytes.unwrap_or(config.limits.body_bytes);
        RouteLimits {
            body_bytes_max: if body_bytes == 0 { u64::MAX } else { body_bytes },
            request_ms: ms(route.request_timeout.unwrap_or(config.timeouts.request)),
        }
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Times {
    fn new(config: &Config) -> Times {
        let times = &config.timeouts;
        Times {
            header: ms(times.header),
            proxy_header: ms(times.proxy_header),
            body_idle: ms(times.body_idle),
            body_rate_grace: ms(times.body_rate_grace),
            response_min_rate_grace: ms(times.response_min_rate_grace),
            keep_alive_idle: ms(times.keep_alive_idle),
            write_stall: ms(times.write_stall),
            upstream_connect: ms(times.upstream_connect),
            upstream_response: ms(times.upstream_response),
            upstream_body_idle: ms(times.upstream_body_idle),
            upstream_idle: ms(times.upstream_idle),
            continue_wait: ms(times.continue_wait),
            tunnel_idle: ms(times.tunnel_idle),
            drain: ms(config.drain_timeout),
        }
    }
}

fn groups(config: &Config, resolved: &Resolved, stock: &Rc<Stock>) -> Vec<Group> {
    let pairs = config.upstreams.iter().zip(resolved);
    let group = |(group, addresses): (&crate::config::UpstreamGroup, &Vec<Vec<SocketAddr>>)| {
        let servers = group.servers.iter().zip(addresses);
        let server = |(server, found): (&crate::config::UpstreamServer, &Vec<SocketAddr>)| {
            Server::new(&server.authority, found.clone(), stock.clone())
        };
        Group::new(servers.map(server).collect(), group.proxy_protocol)
    };
    pairs.map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker is held as long as its request is in flight: a thousand of them should stay in a core's L2 cache.
    #[test]
    fn a_worker_is_small() {
        fn size_of_worker<F>(_: impl FnOnce(&Rc<Shard>) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = size_of_worker(Shard::worker);
        assert!(bytes <= 2_560, "{bytes}");
    }
}
