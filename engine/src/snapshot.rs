//! A configuration in the form that a shard needs: immutable, and replaced as a whole.
//!
//! An exchange takes a reference when its head is read and keeps it to its end, so that one request never sees two
//! configurations. State that lives longer than a configuration (connections to servers, counters) belongs to `shard`; a
//! snapshot only refers to it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_proto::h2;
use sluice_proto::path::PathRules;
use sluice_proto::{HeadLimits, RequestHead};

use crate::budget::Budget;
use crate::config::{
    self, AllDown, Balancing, Config, OnClientClose, RawUtf8, RoutePaths, RouteTunnels, SendHost,
    UpstreamGroup,
};
use crate::connection::history::AgeLimit;
use crate::connection::proxy_senders::ProxySenders;
use crate::exchange::mirror::Mirror;
use crate::exchange::retry::RetryRules;
use crate::h2::{AbuseRules, PingRules};
use crate::identity::IdentityRules;
use crate::min_rate::MinRate;
use crate::path_policy;
use crate::policy::RoutePolicy;
use crate::policy::fixed::ErrorPages;
use crate::route::{Asked, Lookup, Matchers, RouteTable, Split};
use crate::tls::servers::TlsUpstreams;
use crate::traffic::ByClass;
use crate::upstream::ejection::EjectionRules;
use crate::upstream::group::{Group, GroupRules};
use crate::upstream::lifetime::Lifetime;
use crate::upstream::members::GroupMembers;
use crate::upstream::queue::Queue;
use crate::upstream::servers::Servers;
use crate::websocket::FrameRules;

/// One configuration, as one shard sees it.
pub(crate) struct Snapshot {
    pub(crate) times: Times,
    pub(crate) limits: Limits,
    pub(crate) http2: Http2,
    /// The rules for paths that apply before the route is known.
    pub(crate) path_rules: PathRules,
    /// What becomes of targets with UTF-8 that is not percent-encoded.
    pub(crate) raw_utf8: RawUtf8,
    pub(crate) identity: IdentityRules,
    pub(crate) proxy_senders: ProxySenders,
    /// The port of https:// that requests without TLS are sent to, by listener; empty where none are.
    https_redirects: Box<[Option<u16>]>,
    /// Pages for errors of all routes.
    pub(crate) error_pages: ErrorPages,
    /// Read only, and shared with the shards on the same node only.
    table: Arc<RouteTable>,
    /// What the table is searched by on this shard.
    matchers: Matchers,
    routes: Box<[Route]>,
    groups: Box<[Group]>,
}

/// The rules of one route.
pub(crate) struct Route {
    /// Its responses on this shard.
    pub(crate) numbers: Arc<ByClass>,
    /// The largest request body, `u64::MAX` for any.
    pub(crate) body_bytes_max: u64,
    /// The longest time for a request, 0 for no limit.
    pub(crate) request_ms: u64,
    /// The longest wait for the response head.
    pub(crate) upstream_response_ms: u64,
    /// The longest pause between two parts of a response body.
    pub(crate) upstream_body_idle_ms: u64,
    pub(crate) paths: RoutePaths,
    /// Upstreams that share its requests.
    split: Option<Box<Split>>,
    /// Which Host servers get.
    pub(crate) send_host: SendHost,
    /// What becomes of requests whose clients end their side before the response.
    pub(crate) on_client_close: OnClientClose,
    /// When a request is sent again.
    pub(crate) retry: RetryRules,
    /// The tunnels that are allowed.
    pub(crate) tunnels: RouteTunnels,
    /// What is asked of the frames of WebSocket, where they are read.
    pub(crate) frames: Option<Rc<FrameRules>>,
    /// Calls of gRPC-Web are translated into gRPC.
    pub(crate) grpc_web: bool,
    /// Clients must have shown a certificate.
    pub(crate) client_certificate: bool,
    /// The Strict-Transport-Security field, with its line end.
    pub(crate) hsts: Option<Box<str>>,
    /// What is changed about its requests and responses, or its answer: of few routes.
    pub(crate) policy: Option<Box<RoutePolicy>>,
    /// Who gets copies of its requests.
    pub(crate) mirror: Option<Box<Mirror>>,
}

/// Timeouts in milliseconds, as the ring wants them.
pub(crate) struct Times {
    pub(crate) request_head: u64,
    pub(crate) tls_handshake: u64,
    pub(crate) proxy_header: u64,
    pub(crate) body_idle: u64,
    pub(crate) body_min_rate_grace: u64,
    pub(crate) response_min_rate_grace: u64,
    pub(crate) keep_alive_idle: u64,
    pub(crate) write_stall: u64,
    pub(crate) expect_continue_wait: u64,
    pub(crate) tunnel_idle: u64,
    pub(crate) drain: u64,
}

/// Limits of all routes, with the highest number for none.
pub(crate) struct Limits {
    pub(crate) head: HeadLimits,
    pub(crate) partial_heads_bytes: usize,
    pub(crate) requests_per_connection: u32,
    pub(crate) connections_per_address: u32,
    /// Under way at once on this shard.
    pub(crate) tls_handshakes: usize,
    /// The same of one address; 0 for no limit.
    pub(crate) tls_handshakes_per_address: u32,
    pub(crate) connection_age: AgeLimit,
    /// Of bodies of requests under way, on this shard.
    pub(crate) kept_bodies_bytes: usize,
    /// Points; 0 for no limit.
    pub(crate) abuse_score: u8,
    /// Bytes per second; 0 for none.
    request_body_min_rate: u32,
    response_min_rate: u32,
}

/// HTTP/2 with clients, and what both sides share.
pub(crate) struct Http2 {
    /// Rules of a client's connection, which keeps those that it began with.
    pub(crate) rules: Rc<h2::Rules>,
    /// Whether clients may use it, by listener.
    listeners: Box<[bool]>,
    /// Most requests at once on this shard.
    pub(crate) streams_per_shard: u32,
    /// Most bytes of bodies that wait on this shard for slower peers.
    pub(crate) body_buffer_bytes: usize,
    /// What a client may do of what is abuse when repeated.
    pub(crate) abuse: AbuseRules,
    pub(crate) ping: PingRules,
}

/// The result of a lookup in a snapshot.
pub(crate) enum Found<'s> {
    /// Without servers where the route answers itself.
    Route(&'s Route, Option<&'s Group>),
    /// The path is there, the method is not.
    MethodNotAllowed {
        allow: Cow<'s, str>,
    },
    Nothing,
}

impl Snapshot {
    /// The snapshot of `config`, with servers from among those that live already where they are the same.
    pub(crate) fn new(
        config: &Config,
        members: &[GroupMembers],
        table: Arc<RouteTable>,
        budget: &Budget,
        servers: &Servers,
        tls: &TlsUpstreams,
    ) -> Snapshot {
        let group = |((number, group), members): ((usize, &UpstreamGroup), &GroupMembers)| {
            let members = servers.of_group(group, members, tls.of(number));
            let (numbers, breaker) = servers.numbers_of(group);
            Group::new(members, GroupRules::new(group, config, servers.queue_of(group)))
                .counted(numbers, breaker)
        };
        let route = |(route, numbers)| Route::new(route, numbers);
        let routes = config.routes.iter().zip(servers.numbers_of_routes(&config.routes));
        let redirects = config.listeners.iter().map(|listener| listener.https_redirect);
        Snapshot {
            times: Times::new(config),
            limits: Limits::new(config, budget),
            http2: Http2::new(config),
            path_rules: path_policy::rules_before_route(config),
            raw_utf8: config.paths.raw_utf8,
            identity: IdentityRules::new(&config.forwarding),
            proxy_senders: ProxySenders::new(&config.listeners),
            https_redirects: redirects
                .clone()
                .flatten()
                .next()
                .map_or_else(Box::default, |_| redirects.collect()),
            matchers: table.matchers(),
            error_pages: config.error_pages.clone(),
            table,
            routes: routes.map(route).collect(),
            groups: config.upstreams.iter().enumerate().zip(members).map(group).collect(),
        }
    }

    /// The route of a request, whose path has this matching form, and the servers it leads to.
    #[inline]
    pub(crate) fn find(&self, head: &RequestHead<'_>, path: &str, client: IpAddr) -> Found<'_> {
        let asked = Asked {
            host: head.authority,
            path,
            method: head.method.as_str(),
            target: head.path_and_query,
            fields: head.field_list(),
            client,
        };
        match self.table.lookup(&asked, &self.matchers) {
            Lookup::Found(target) => {
                let route = &self.routes[target.route];
                let upstream = match &route.split {
                    None => target.upstream,
                    Some(split) => split.pick(&asked.fields, client),
                };
                Found::Route(route, self.groups.get(upstream))
            }
            Lookup::MethodNotAllowed { allow } => Found::MethodNotAllowed { allow },
            Lookup::NotFound => Found::Nothing,
        }
    }

    /// The group with this number.
    pub(crate) fn group(&self, number: usize) -> Option<&Group> {
        self.groups.get(number)
    }

    /// The port of https:// that requests without TLS to this listener are sent to.
    #[inline]
    pub(crate) fn https_redirect(&self, listener: u8) -> Option<u16> {
        *self.https_redirects.get(usize::from(listener))?
    }

    /// How fast a client has to send a request body.
    pub(crate) fn request_body_min_rate(&self) -> MinRate {
        let (times, rate) = (&self.times, self.limits.request_body_min_rate);
        MinRate::by_rate(times.body_idle, rate, times.body_min_rate_grace)
    }

    /// How fast a client has to take a response.
    pub(crate) fn response_min_rate(&self) -> MinRate {
        let (times, rate) = (&self.times, self.limits.response_min_rate);
        MinRate::by_rate(times.write_stall, rate, times.response_min_rate_grace)
    }
}

impl Route {
    /// Whether servers get a Host that is made here.
    pub(crate) fn sets_host(&self) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.host.is_some())
    }

    fn new(route: &config::Route, numbers: Arc<ByClass>) -> Route {
        let body_bytes = route.limits.body_bytes;
        Route {
            numbers,
            body_bytes_max: if body_bytes == 0 { u64::MAX } else { body_bytes },
            request_ms: ms(route.timeouts.request),
            upstream_response_ms: response_ms(route),
            upstream_body_idle_ms: ms(route.timeouts.upstream_body_idle),
            paths: route.paths,
            split: route.split.as_ref().map(|split| Box::new(Split::new(split))),
            send_host: route.send_host,
            on_client_close: route.on_client_close,
            retry: RetryRules::new(&route.retry),
            tunnels: route.tunnels.clone(),
            frames: route.tunnels.frames.as_ref().map(|keys| Rc::new(FrameRules::new(keys))),
            grpc_web: route.grpc_web,
            client_certificate: route.client_certificate,
            hsts: route.hsts.map(|hsts| format!("Strict-Transport-Security: {hsts}\r\n").into()),
            policy: route.policy.clone(),
            mirror: route.mirror().map(|rule| Box::new(Mirror::new(rule))),
        }
    }
}

impl GroupRules {
    fn new(group: &UpstreamGroup, config: &Config, queue: Option<Rc<Queue>>) -> GroupRules {
        GroupRules {
            proxy_protocol: group.proxy_protocol,
            sources: group.source_addresses.clone().into(),
            connect_ms: ms(group.timeouts.upstream_connect),
            idle_ms: ms(group.timeouts.upstream_idle),
            idle_connections_max: group.limits.upstream_idle_connections,
            queue,
            queue_ms: ms(group.timeouts.upstream_queue),
            queue_max: group.limits.upstream_queue,
            lifetime: Lifetime::new(
                ms(group.timeouts.upstream_connection_age),
                group.limits.upstream_requests_per_connection,
            ),
            protocol: group.protocol,
            lenient: group.lenient,
            retry_budget: (group.retry.budget, group.retry.budget_min),
            all_down: group.health.as_ref().map_or_else(AllDown::default, |health| health.all_down),
            ejection: EjectionRules::new(&group.ejection),
            balance: (group.balancing != Balancing::default()).then(|| Rc::new(group.balancing.clone())),
            http2: Rc::new(h2::Rules {
                streams_max: group.limits.upstream_streams,
                connect_protocol: false,
                ..http2_rules(config)
            }),
        }
    }
}

impl Http2 {
    fn new(config: &Config) -> Http2 {
        let keys = &config.http2;
        Http2 {
            rules: Rc::new(http2_rules(config)),
            listeners: config.listeners.iter().map(|listener| listener.http2).collect(),
            streams_per_shard: keys.streams_per_shard,
            body_buffer_bytes: keys.body_buffer,
            abuse: AbuseRules { burst: keys.abuse_burst, per_second: keys.abuse_rate },
            ping: PingRules {
                client_idle_ms: ms(keys.ping_idle),
                server_idle_ms: ms(keys.upstream_ping_idle),
                timeout_ms: ms(keys.ping_timeout),
            },
        }
    }

    /// Whether clients of this listener may use it.
    pub(crate) fn is_on(&self, listener: u8) -> bool {
        self.listeners.get(usize::from(listener)).is_some_and(|is_on| *is_on)
    }
}

/// Rules of a client's connection; servers' differ in little.
fn http2_rules(config: &Config) -> h2::Rules {
    let keys = &config.http2;
    h2::Rules {
        head: head_limits(&config.limits),
        streams_max: keys.streams,
        stream_window: keys.stream_window,
        stream_window_max: keys.stream_window_max,
        connection_window: keys.connection_window,
        frame_bytes_max: keys.frame_bytes,
        decoder_table_bytes: keys.header_table,
        encoder_table_bytes: keys.encoder_table,
        write_bytes_max: keys.write_frame_bytes,
        coalesced_bytes_max: keys.coalesce_bytes,
        connect_protocol: true,
    }
}

fn head_limits(limits: &config::Limits) -> HeadLimits {
    HeadLimits {
        request_line_bytes_max: limits.request_line_bytes,
        head_bytes_max: limits.head_bytes,
        fields_max: limits.header_fields,
    }
}

impl Limits {
    fn new(config: &Config, budget: &Budget) -> Limits {
        let limits = &config.limits;
        let unlimited = |limit: u32| if limit == 0 { u32::MAX } else { limit };
        Limits {
            head: head_limits(limits),
            partial_heads_bytes: budget.partial_heads_bytes,
            requests_per_connection: unlimited(limits.requests_per_connection),
            connections_per_address: unlimited(limits.connections_per_address),
            tls_handshakes: limits.tls_handshakes as usize,
            tls_handshakes_per_address: limits.tls_handshakes_per_address,
            connection_age: AgeLimit::new(ms(config.timeouts.connection_age)),
            kept_bodies_bytes: limits.kept_bodies_bytes,
            abuse_score: limits.abuse_score,
            request_body_min_rate: limits.body_min_rate,
            response_min_rate: limits.response_min_rate,
        }
    }
}

impl Times {
    fn new(config: &Config) -> Times {
        let times = &config.timeouts;
        Times {
            request_head: ms(times.request_head),
            tls_handshake: ms(times.tls_handshake),
            proxy_header: ms(times.proxy_header),
            body_idle: ms(times.body_idle),
            body_min_rate_grace: ms(times.body_min_rate_grace),
            response_min_rate_grace: ms(times.response_min_rate_grace),
            keep_alive_idle: ms(times.keep_alive_idle),
            write_stall: ms(times.write_stall),
            expect_continue_wait: ms(times.expect_continue_wait),
            tunnel_idle: ms(times.tunnel_idle),
            drain: ms(config.drain_timeout),
        }
    }
}

/// The longest wait for a response head from one server.
fn response_ms(route: &config::Route) -> u64 {
    let (all, each) = (ms(route.timeouts.upstream_response), ms(route.retry.per_try_timeout));
    if each == 0 { all } else { all.min(each) }
}

pub(crate) fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
