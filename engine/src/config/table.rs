//! Every key of the configuration, each written once: its type in the checked form, how it is written, its default, where it may be
//! written, what a change of it takes, its flag and its documentation.
//!
//! One row is a field of the struct above it, a key of the file, a flag of the command line with its help, a row of the manual and
//! a property of the JSON Schema. To add a key, add a row and use the field. Where rows of one struct are not enough (what values
//! mean together), the field is a [`Field`], which keeps the place it was written at, and a check elsewhere settles it.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use sluice_proto::forwarded::HopList;
use sluice_proto::h1::{RealIp, RequestId};
use sluice_proto::path::{DotSegments, EncodedControls, Parameters, RepeatedSlashes, SlashLike};
use sluice_sys::HugePages;
use sluice_tls::handshake::{MinVersion, Profile};

use super::acme::AcmeChallenge;
use super::choices::{
    AllDown, BalancePolicy, CheckKind, FieldsSent, OnClientClose, PathForward, Pinning, ProxyProtocolIn,
    ProxyProtocolOut, RawUtf8, SameSite, SendHost, UpstreamProtocol, words,
};
use super::key::{Change, Key, Kind, Scopes, Section};
use super::problem::Located;
use super::tls::{ClientCertificatesMode, HttpsRedirect, TlsMode};
use super::values::{Field, Settle, Values};
use crate::log::{Level, LogFormat};
use crate::steering::Steering;

type Texts = Vec<Located<String>>;

const GLOBAL: Scopes = Scopes::GLOBAL;
const LISTENER: Scopes = Scopes::LISTENER;
const UPSTREAM: Scopes = Scopes::UPSTREAM;
const ROUTE: Scopes = Scopes::ROUTE;
const CERTIFICATE: Scopes = Scopes::CERTIFICATE;
const PER_ROUTE: Scopes = GLOBAL.and(ROUTE);
const PER_UPSTREAM: Scopes = GLOBAL.and(UPSTREAM);
const PER_ALL: Scopes = PER_UPSTREAM.and(ROUTE);

const fn time(least: &'static str, most: &'static str) -> Kind {
    Kind::Time { least, most }
}

const fn bytes(least: &'static str, most: &'static str) -> Kind {
    Kind::Bytes { least, most }
}

const fn count(least: &'static str, most: &'static str) -> Kind {
    Kind::Count { least, most }
}

/// The name of a field, which is a word of Rust itself where it begins with `r#`.
const fn plain_name(field: &'static str) -> &'static str {
    match field.as_bytes() {
        [b'r', b'#', ..] => field.split_at(2).1,
        _ => field,
    }
}

macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $settled:ident, $table:ident, $name:literal, $heading:literal:
        $( $field:ident: $ty:ty = $kind:expr, $default:literal, $scopes:expr, $change:ident, $flag:literal, $doc:literal; )+
    ) => {
        #[doc = concat!("The keys of `", $name, "`.")]
        pub static $table: Section = Section {
            name: $name,
            heading: $heading,
            doc: concat!($($about),+),
            keys: &[$( Key {
                name: plain_name(stringify!($field)),
                kind: $kind,
                default: $default,
                scopes: $scopes,
                change: Change::$change,
                flag: $flag,
                doc: $doc,
            } ),+],
        };

        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $settled {
            $( #[doc = $doc] pub $field: $ty, )+
        }

        impl $settled {
            /// What is written, with defaults where nothing is.
            pub(crate) fn settle(values: &Values) -> Self {
                assert!(std::ptr::eq(values.section(), &raw const $table), "values of another section");
                let mut fields = values.iter();
                Self { $( $field: {
                    let (key, field) = fields.next().expect("a field for every key");
                    Settle::settle(key, field)
                } ),+ }
            }
        }

        impl Default for $settled {
            fn default() -> Self {
                Self::settle(&Values::empty(&$table, super::problem::Origin::CommandLine))
            }
        }
    };
}

section! {
    /// The top of the file.
    Top, TOP, "", "Shards and the machine":

    include: Field<Texts> = Kind::Texts("FILE"), "", GLOBAL, Reload, "",
        "Further files to read, by name or pattern (conf.d/*.toml), relative to this one";
    listen: Field<Texts> = Kind::Texts("ADDR:PORT"), "", GLOBAL, Restart, "--listen",
        "Address and port to accept connections on, or unix:/path or unix:@name for a Unix socket; repeatable";
    listen_tls: Field<Texts> = Kind::Texts("ADDR:PORT"), "", GLOBAL, Restart, "--listen-tls",
        "Address and port to accept TLS connections (https) on; repeatable";
    shards: Field<u64> = count("1", "4096"), "", GLOBAL, Restart, "--shards",
        "Number of shards, each on a CPU of its own: cores first, then hyper-threads [default: one per core this process may \
         use, no more than a cgroup quota allows]";
    placement: Field<String> = Kind::Text("POLICY"), "pack", GLOBAL, Restart, "--placement",
        "Which CPUs: pack (fill one cache, one node, before the next), spread (nodes and caches in turn), node=N, or cpus=LIST";
    cpus: Field<String> = Kind::Text("LIST"), "", GLOBAL, Restart, "--cpus",
        "Short for placement cpus=LIST: the CPUs to run a shard on, such as 0-3,8";
    smt: Field<bool> = Kind::Boolean, "false", GLOBAL, Restart, "--smt",
        "One shard per hyper-thread instead of one per core";
    reserve: Field<u64> = count("0", "4096"), "0", GLOBAL, Restart, "--reserve",
        "Cores to leave for interrupts and the control plane";
    pinning: Pinning = Kind::Word(words::<Pinning>), "on", GLOBAL, Restart, "--pinning",
        "on: every shard stays on its CPU and takes its memory from the node of that CPU; off: the scheduler decides";
    steering: Steering = Kind::Word(words::<Steering>), "load", GLOBAL, Restart, "--steering",
        "Which shard gets a connection: any, by a hash (off), that of the CPU which received it (cpu), or that one unless it is \
         busier than others (load); by a BPF program where CAP_BPF allows one";
    huge_pages: HugePages = Kind::Word(words::<HugePages>), "off", GLOBAL, Restart, "--huge-pages",
        "Pages of the receive buffers: off, transparent (where the kernel finds some), reserved (vm.nr_hugepages)";
    busy_poll: Field<String> = Kind::Text("TIME|off"), "off", GLOBAL, Restart, "--busy-poll",
        "Before it sleeps, a shard polls its network queues for so long, such as 50us: packets wait less, at the price of \
         processor time; needs Linux 6.9";
    drain_timeout: Duration = time("0s", "24h"), "10s", GLOBAL, Reload, "--drain-timeout",
        "After SIGTERM or SIGINT, how long requests in flight may take to finish";
    metrics: Field<String> = Kind::Text("ADDR:PORT"), "", GLOBAL, Restart, "--metrics",
        "Address for GET /metrics, counters and memory of all shards for Prometheus; every peer that reaches it may read";
    state_dir: Field<PathBuf> = Kind::Path("DIR"), "", GLOBAL, Restart, "--state-dir",
        "Directory for what outlives a restart: keys of session tickets, ACME account and certificates [default: $STATE_DIRECTORY]";
    log_format: LogFormat = Kind::Word(words::<LogFormat>), "text", GLOBAL, Restart, "--log-format",
        "Messages on stderr: lines of text, or of JSON with time, level, message and its values";
    log_level: Level = Kind::Word(words::<Level>), "info", GLOBAL, Restart, "--log-level",
        "Which messages: errors, warnings too, what every start and end says too, or details too";
    on_client_close: OnClientClose = Kind::Word(words::<OnClientClose>), "finish", GLOBAL, Reload, "--on-client-close",
        "When a client ends its side of an HTTP/1.1 connection while it waits for a response: finish the request (the client may \
         read on), or cancel it";
    zone: Field<String> = Kind::Text("NAME"), "", GLOBAL, Reload, "--zone",
        "The zone that this proxy is in, such as a rack or a data centre: servers of the same zone come first";
    timeouts: Values = Kind::Table(&TIMEOUTS), "", GLOBAL, Reload, "", "How long Sluice waits";
    limits: Values = Kind::Table(&LIMITS), "", GLOBAL, Reload, "", "How much Sluice accepts";
    paths: Values = Kind::Table(&PATHS), "", GLOBAL, Reload, "", "How different spellings of a path are treated";
    forwarding: Values = Kind::Table(&FORWARDING), "", GLOBAL, Reload, "", "What servers learn of clients";
    http2: Values = Kind::Table(&HTTP2), "", GLOBAL, Reload, "", "HTTP/2, with clients and with servers";
    retry: Values = Kind::Table(&RETRY), "", GLOBAL, Reload, "", "When a request is sent again, to which bounds";
    tls: Values = Kind::Table(&TLS), "", GLOBAL, Reload, "", "TLS with clients, for all listeners";
    acme: Field<Values> = Kind::Table(&ACME), "", GLOBAL, Reload, "", "Certificates from an authority, by ACME";
    request_headers: Field<Values> = Kind::Table(&REQUEST_HEADERS), "", GLOBAL, Reload, "", "Fields of requests of all routes, as servers get them";
    response_headers: Field<Values> = Kind::Table(&RESPONSE_HEADERS), "", GLOBAL, Reload, "", "Fields of responses of all routes, as clients get them";
    error_pages: Rc<[Values]> = Kind::Tables(&ERROR_PAGES), "", GLOBAL, Reload, "", "Pages for errors of all routes";
    certificate: Rc<[Values]> = Kind::Tables(&CERTIFICATES), "", GLOBAL, Reload, "", "Certificates shown to clients";
    listener: Rc<[Values]> = Kind::Tables(&LISTENERS), "", GLOBAL, Restart, "", "Addresses with settings of their own";
    upstream: Rc<[Values]> = Kind::Tables(&UPSTREAMS), "", GLOBAL, Reload, "", "Groups of servers";
    route: Rc<[Values]> = Kind::Tables(&ROUTES), "", GLOBAL, Reload, "", "Which requests go to which upstream";
}

section! {
    /// How long Sluice waits for a peer. Zero is refused where it would close every connection at once.
    Timeouts, TIMEOUTS, "timeouts", "Timeouts":

    request_head: Duration = time("1ms", "24h"), "10s", GLOBAL, Reload, "--timeout-request-head",
        "Longest time for a whole request head, from its first byte (from the start of a new connection)";
    proxy_header: Duration = time("1ms", "24h"), "5s", GLOBAL, Reload, "--timeout-proxy-header",
        "Longest time for a PROXY protocol header, from its first byte";
    tls_handshake: Duration = time("1ms", "24h"), "10s", GLOBAL, Reload, "--timeout-tls-handshake",
        "Longest time for a client's whole TLS handshake, from its first byte; a client that sends none has the time of a request head";
    body_idle: Duration = time("1ms", "24h"), "30s", GLOBAL, Reload, "--timeout-body-idle",
        "Longest pause between two parts of a request body";
    body_min_rate_grace: Duration = time("0s", "24h"), "10s", GLOBAL, Reload, "--timeout-body-min-rate-grace",
        "Time spent waiting for a request body, in all, before limits.body_min_rate applies";
    response_min_rate_grace: Duration = time("0s", "24h"), "30s", GLOBAL, Reload, "--timeout-response-min-rate-grace",
        "Time spent waiting for a client to take a response, in all, before limits.response_min_rate applies";
    request: Duration = time("0s", "24h"), "0s", PER_ALL, Reload, "--timeout-request",
        "Longest time for a request and its response, from the end of the request's head; 0s for no limit";
    keep_alive_idle: Duration = time("1ms", "24h"), "75s", GLOBAL, Reload, "--timeout-keep-alive-idle",
        "Longest wait for the next request on a client's connection";
    connection_age: Duration = time("0s", "24h"), "1h", GLOBAL, Reload, "--timeout-connection-age",
        "Age at which a client's connection is closed, after the response under way; 0s for no limit";
    write_stall: Duration = time("1ms", "24h"), "30s", GLOBAL, Reload, "--timeout-write-stall",
        "Longest time in which a peer takes none of the bytes waiting for it";
    upstream_connect: Duration = time("1ms", "24h"), "3s", PER_UPSTREAM, Reload, "--timeout-upstream-connect",
        "Longest time to connect to a server, with the TLS handshake of an https:// server";
    upstream_queue: Duration = time("0s", "24h"), "3s", PER_UPSTREAM, Reload, "--timeout-upstream-queue",
        "Longest wait for a server while all have as many connections as limits.upstream_connections allows (503 after it); 0s for none";
    upstream_response: Duration = time("1ms", "24h"), "60s", PER_ALL, Reload, "--timeout-upstream-response",
        "Longest wait for the response head, from the end of the request, and from each 102 (Processing)";
    upstream_body_idle: Duration = time("1ms", "24h"), "60s", PER_ALL, Reload, "--timeout-upstream-body-idle",
        "Longest pause between two parts of a response body";
    upstream_idle: Duration = time("1ms", "24h"), "50s", PER_UPSTREAM, Reload, "--timeout-upstream-idle",
        "How long an idle connection to a server is kept; keep it below the server's own keep-alive time";
    upstream_connection_age: Duration = time("0s", "24h"), "0s", PER_UPSTREAM, Reload, "--timeout-upstream-connection-age",
        "Age at which a connection to a server is used no longer, up to a tenth earlier by turns; 0s for no limit";
    tunnel_idle: Duration = time("1ms", "24h"), "1h", GLOBAL, Reload, "--timeout-tunnel-idle",
        "Longest time in which no byte passes through a tunnel (WebSocket, CONNECT), in either direction";
    expect_continue_wait: Duration = time("0s", "24h"), "1s", GLOBAL, Reload, "--timeout-expect-continue-wait",
        "With Expect: 100-continue, how long to wait for the server's 100 (Continue) before the body is asked for";
}

section! {
    /// How much Sluice accepts from a peer.
    Limits, LIMITS, "limits", "Limits":

    request_line_bytes: usize = bytes("64", "64KiB"), "8KiB", GLOBAL, Reload, "--limit-request-line-bytes",
        "Longest request line (414 above it)";
    head_bytes: usize = bytes("256", "64KiB"), "16KiB", GLOBAL, Reload, "--limit-head-bytes",
        "Largest head, start line and all fields, of a request (431 above it) or of a response (502)";
    partial_heads_bytes: usize = bytes("64KiB", "1024GiB"), "64MiB", GLOBAL, Restart, "--limit-partial-heads-bytes",
        "Most bytes of incomplete request heads that one shard keeps (503 above it)";
    header_fields: usize = count("1", "256"), "100", GLOBAL, Reload, "--limit-header-fields",
        "Most header fields in a head (431 above it, 502 for a response); trailers have 32 at most";
    body_bytes: u64 = bytes("0", "8589934591GiB"), "1GiB", PER_ALL, Reload, "--limit-body-bytes",
        "Largest request body (413 above it); 0 for no limit";
    body_min_rate: u32 = bytes("0", "1GiB"), "240", GLOBAL, Reload, "--limit-body-min-rate",
        "Fewest bytes of a request body per second of waiting for it (408 below it); 0 for no limit";
    response_min_rate: u32 = bytes("0", "1GiB"), "240", GLOBAL, Reload, "--limit-response-min-rate",
        "Fewest bytes of a response that its client takes per second of waiting for it (reset below it); 0 for no limit";
    receive_buffers_bytes: usize = bytes("0", "512MiB"), "0", GLOBAL, Restart, "--limit-receive-buffers-bytes",
        "Most memory for the receive buffers of one shard; 0 for 256MiB, or for all shards a 16th of the memory if less";
    read_ahead_bytes: u32 = bytes("0", "512KiB"), "48KiB", GLOBAL, Restart, "--limit-read-ahead-bytes",
        "Most bytes received from a server, or of a request body, before the other side takes any (and a buffer of 16KiB more); \
         0, or before Linux 6.17, one buffer";
    requests_per_connection: u32 = count("0", "1000000"), "0", GLOBAL, Reload, "--limit-requests-per-connection",
        "Requests answered on one client connection before it is closed; 0 for no limit";
    connections: usize = count("0", "100000000"), "0", GLOBAL, Restart, "--limit-connections",
        "Most client connections of all shards together; 0 for what the limits of descriptors and of a cgroup's memory allow";
    connections_per_address: u32 = count("0", "100000000"), "0", GLOBAL, Reload, "--limit-connections-per-address",
        "Most connections of one client address, an IPv6 network of 64 bits being one (429 above it); 0 for no limit";
    tls_handshakes: u32 = count("1", "1000000"), "1000", GLOBAL, Reload, "--limit-tls-handshakes",
        "Most TLS handshakes with clients that one shard has under way";
    tls_handshakes_per_address: u32 = count("0", "1000000"), "0", GLOBAL, Reload, "--limit-tls-handshakes-per-address",
        "Most TLS handshakes under way of one client address on one shard, an IPv6 network of 64 bits being one; 0 for no limit";
    abuse_score: u8 = count("0", "250"), "100", GLOBAL, Reload, "--limit-abuse-score",
        "Points of abuse after which a client's connection is closed (429); 0 for no limit";
    upstream_idle_connections: usize = count("0", "1000000"), "1000000", PER_UPSTREAM, Reload, "--limit-upstream-idle-connections",
        "Most idle connections that one shard keeps to one server, of as many as the recent peak of use needs; 0 to reuse none";
    upstream_connections: u32 = count("0", "1000000"), "0", PER_UPSTREAM, Reload, "--limit-upstream-connections",
        "Most connections of all shards together to one server, tunnels among them; further requests wait; 0 for no limit";
    upstream_queue: usize = count("0", "1000000"), "1024", PER_UPSTREAM, Reload, "--limit-upstream-queue",
        "Most requests that wait on one shard for a server of one upstream (503 above it)";
    upstream_requests_per_connection: u32 = count("0", "1000000"), "0", PER_UPSTREAM, Reload,
        "--limit-upstream-requests-per-connection",
        "Requests on one connection to a server before it is used no longer; 0 for no limit";
    upstream_streams: u32 = count("1", "10000"), "100", PER_UPSTREAM, Reload, "--limit-upstream-streams",
        "Most requests at once on one HTTP/2 connection to a server, which may allow fewer (RFC 9113, section 5.1.2)";
    kept_bodies_bytes: usize = bytes("0", "1024GiB"), "16MiB", GLOBAL, Reload, "--limit-kept-bodies-bytes",
        "Most memory for request bodies that one shard keeps while they are sent (retry.body_bytes); beyond it they are not kept";
}

section! {
    /// How different spellings of a path are treated.
    Paths, PATHS, "paths", "Paths":

    forward: PathForward = Kind::Word(words::<PathForward>), "normal", PER_ROUTE, Reload, "--path-forward",
        "The path that servers get: the one compared with the routes, or the client's byte for byte";
    dot_segments: DotSegments = Kind::Word(words::<DotSegments>), "remove", GLOBAL, Reload, "--path-dot-segments",
        "Segments . and .., also encoded; those that lead above the root are always refused";
    repeated_slashes: RepeatedSlashes = Kind::Word(words::<RepeatedSlashes>), "merge", GLOBAL, Reload, "--path-repeated-slashes",
        "Several slashes in a row";
    encoded_slash: SlashLike = Kind::Word(words::<SlashLike>), "refuse", PER_ROUTE, Reload, "--path-encoded-slash",
        "%2F: refused, kept as it is, or read as a slash";
    backslash: SlashLike = Kind::Word(words::<SlashLike>), "refuse", GLOBAL, Reload, "--path-backslash",
        "A backslash and %5C: refused, kept encoded, or read as a slash";
    encoded_controls: EncodedControls = Kind::Word(words::<EncodedControls>), "refuse", GLOBAL, Reload, "--path-encoded-controls",
        "Encoded control characters; %00 is always refused";
    parameters: Parameters = Kind::Word(words::<Parameters>), "keep", GLOBAL, Reload, "--path-parameters",
        "A ; in a segment and what follows it there: a part of the segment, unseen by routes, or refused";
    raw_utf8: RawUtf8 = Kind::Word(words::<RawUtf8>), "encode", GLOBAL, Reload, "--path-raw-utf8",
        "UTF-8 that is not percent-encoded, in a path or a query: encoded, for routes and servers, or refused";
}

section! {
    /// What servers learn of clients, and which proxies are trusted to say who a client is.
    ForwardingKeys, FORWARDING, "forwarding", "Forwarding":

    trusted_proxies: Field<Texts> = Kind::Texts("CIDR"), "", GLOBAL, Reload, "--trusted-proxy",
        "Address or network (CIDR) of a proxy whose X-Forwarded-* or Forwarded fields are trusted, or unix: for all on Unix \
         sockets; repeatable";
    fields: FieldsSent = Kind::Word(words::<FieldsSent>), "x-forwarded", GLOBAL, Reload, "--forwarding-fields",
        "Fields that tell servers about the client";
    trusted_field: Field<HopList> = Kind::Word(words::<HopList>), "", GLOBAL, Reload, "--forwarding-trusted-field",
        "The list that trusted proxies maintain [default: the one that is sent]";
    real_ip: RealIp = Kind::Word(words::<RealIp>), "trusted", GLOBAL, Reload, "--forwarding-real-ip",
        "X-Real-IP: passed on from trusted proxies only, set to the client's address, or removed";
    request_id: RequestId = Kind::Word(words::<RequestId>), "make", GLOBAL, Reload, "--forwarding-request-id",
        "X-Request-Id: made unless a trusted proxy sent one, left as it came, or removed";
    via: Field<String> = Kind::Text("NAME"), "sluice", GLOBAL, Reload, "--forwarding-via",
        "Our name in Via: a word, or host:port";
    by: Field<String> = Kind::Text("NODE"), "none", GLOBAL, Reload, "--forwarding-by",
        "Our name in Forwarded (by=): an address, unknown, or _anything";
    client_certificate: bool = Kind::Boolean, "false", GLOBAL, Reload, "--forwarding-client-certificate",
        "X-Client-Cert-Subject, X-Client-Cert-SAN and X-Client-Cert-Fingerprint: those of the client's certificate";
    ja4: bool = Kind::Boolean, "false", GLOBAL, Reload, "--forwarding-ja4",
        "X-JA4: the JA4 fingerprint of the client's TLS handshake";
}

section! {
    /// HTTP/2 (RFC 9113), with clients and with servers. Sizes are in bytes.
    Http2, HTTP2, "http2", "HTTP/2":

    enabled: bool = Kind::Boolean, "true", GLOBAL, Reload, "",
        "Whether clients may use HTTP/2: over TLS by ALPN, in clear text by prior knowledge (RFC 9113, section 3)";
    streams: u32 = count("1", "10000"), "128", GLOBAL, Reload, "--http2-streams",
        "Most requests at once on one client connection (SETTINGS_MAX_CONCURRENT_STREAMS, RFC 9113, section 6.5.2)";
    streams_per_shard: u32 = count("1", "10000000"), "32768", GLOBAL, Reload, "--http2-streams-per-shard",
        "Most requests by HTTP/2 at once on one shard; further ones are refused (REFUSED_STREAM, RFC 9113, section 8.7)";
    stream_window: u32 = bytes("1KiB", "1GiB"), "64KiB", GLOBAL, Reload, "--http2-stream-window",
        "Most bytes of a body that a peer sends on one stream before they are taken (RFC 9113, section 6.9)";
    stream_window_max: u32 = bytes("1KiB", "1GiB"), "1MiB", GLOBAL, Reload, "--http2-stream-window-max",
        "Up to here the window of a stream grows with the distance of its peer; stream_window, or less, for no growth";
    connection_window: u32 = bytes("64KiB", "1GiB"), "1MiB", GLOBAL, Reload, "--http2-connection-window",
        "The same of all streams of one connection together (RFC 9113, section 6.9)";
    body_buffer: usize = bytes("1MiB", "1024GiB"), "64MiB", GLOBAL, Reload, "--http2-body-buffer",
        "Most bytes of received bodies that wait on one shard for slower peers; beyond it windows are not opened again";
    frame_bytes: u32 = bytes("16KiB", "16777215"), "16KiB", GLOBAL, Reload, "--http2-frame-bytes",
        "Largest frame that peers may send (SETTINGS_MAX_FRAME_SIZE, RFC 9113, section 6.5.2)";
    write_frame_bytes: u32 = bytes("1KiB", "16777215"), "16KiB", GLOBAL, Reload, "--http2-write-frame-bytes",
        "Largest DATA frame that is sent, if the peer allows as much (RFC 9113, section 4.2)";
    coalesce_bytes: u32 = bytes("1KiB", "16MiB"), "40KiB", GLOBAL, Reload, "--http2-coalesce-bytes",
        "Data of all streams of a connection goes out together, in sends of about this size";
    header_table: u32 = bytes("0", "64KiB"), "4KiB", GLOBAL, Reload, "--http2-header-table",
        "Memory by which peers may compress fields on one connection (SETTINGS_HEADER_TABLE_SIZE, RFC 7541, section 4.2)";
    encoder_table: u32 = bytes("0", "64KiB"), "0", GLOBAL, Reload, "--http2-encoder-table",
        "Memory by which the fields that are sent are compressed, if the peer allows as much (RFC 7541, section 4.2)";
    abuse_burst: u32 = count("0", "1000000"), "1000", GLOBAL, Reload, "--http2-abuse-burst",
        "Points of abuse at once after which a connection is closed (ENHANCE_YOUR_CALM, RFC 9113, section 10.5); 0 for no limit";
    abuse_rate: u32 = count("1", "1000000"), "50", GLOBAL, Reload, "--http2-abuse-rate",
        "Points of abuse that a connection is forgiven per second";
    ping_idle: Duration = time("0s", "24h"), "0s", GLOBAL, Reload, "--http2-ping-idle",
        "A client with open streams gets a PING after so long a silence (RFC 9113, section 6.7); 0 for never";
    upstream_ping_idle: Duration = time("0s", "24h"), "30s", GLOBAL, Reload, "--http2-upstream-ping-idle",
        "A server with open streams gets a PING after so long a silence (RFC 9113, section 6.7); 0 for never";
    ping_timeout: Duration = time("1ms", "24h"), "10s", GLOBAL, Reload, "--http2-ping-timeout",
        "Time in which a peer has to answer a PING; its connection ends after it";
}

section! {
    /// When a request is sent to a server again, and how often. docs/upstreams.md says what each cause is.
    RetryKeys, RETRY, "retry", "Retries":

    attempts: u32 = count("1", "10"), "4", PER_ALL, Reload, "",
        "Most times that one request is sent; 1 to send nothing again";
    on: Field<Texts> = Kind::RetryCauses, "", PER_ALL, Reload, "",
        "What sends a request again: connect, stale, refused, reset, timeout, statuses (503, \"502-504\") \
         [default: connect, stale, refused, reset]";
    non_idempotent: bool = Kind::Boolean, "false", PER_ALL, Reload, "",
        "Send requests with other methods than GET, HEAD, OPTIONS, TRACE, PUT and DELETE again too, although the server may have acted \
         on them (RFC 9110, section 9.2.2)";
    per_try_timeout: Duration = time("0s", "24h"), "0s", PER_ALL, Reload, "",
        "Longest wait for a response head from one server, if that is shorter than timeouts.upstream_response; 0s for that one";
    body_bytes: usize = bytes("0", "1MiB"), "48KiB", PER_ALL, Reload, "",
        "Largest request body that is kept while it is sent, so that it can be sent again; 0 to keep none";
    hedge_after: Duration = time("0s", "24h"), "0s", PER_ALL, Reload, "",
        "Send an idempotent request to a second server too if no response head has come after so long, and take the first one; 0s for never";
    budget: u32 = count("0", "100"), "20", PER_UPSTREAM, Reload, "",
        "Most requests sent again for a reset, a timeout or a status, or hedged, in per cent of all to these servers, by shard";
    budget_min: u32 = count("0", "1000000"), "10", PER_UPSTREAM, Reload, "",
        "As many of them per second are sent in any case, by shard";
}

section! {
    /// TLS with clients: what listeners say nothing of, and what they have in common.
    TlsKeys, TLS, "tls", "TLS":

    min_version: Field<MinVersion> = Kind::Word(words::<MinVersion>), "", GLOBAL, Reload, "--tls-min-version",
        "The oldest version of TLS that clients may use [default: 1.2; 1.3 in the modern profile]";
    profile: Profile = Kind::Word(words::<Profile>), "intermediate", GLOBAL, Reload, "--tls-profile",
        "Ciphers, after Mozilla's profiles: TLS 1.3 and 1.2 with forward secrecy (intermediate), or TLS 1.3 only (modern)";
    ticket_rotation: Duration = time("1m", "168h"), "12h", GLOBAL, Reload, "--tls-ticket-rotation",
        "Age at which the key of session tickets is replaced by a new one";
    ticket_lifetime: Duration = time("1m", "168h"), "24h", GLOBAL, Reload, "--tls-ticket-lifetime",
        "How long clients may resume a session; not below ticket_rotation";
    kernel_tls: bool = Kind::Boolean, "false", GLOBAL, Restart, "--tls-kernel",
        "Have the kernel seal large responses, which are spliced then; needs its module `tls`";
    key_log: Field<PathBuf> = Kind::Path("FILE"), "", GLOBAL, Restart, "--tls-key-log",
        "Write the secrets of every TLS connection to this file, for Wireshark (SSLKEYLOGFILE): who reads it reads all traffic";
}

section! {
    /// Certificates from an authority, by ACME (RFC 8555).
    AcmeKeys, ACME, "acme", "ACME":

    hosts: Field<Texts> = Kind::Texts("HOST"), "", GLOBAL, Reload, "",
        "Host names to get a certificate for";
    contact: Field<Texts> = Kind::Texts("MAIL"), "", GLOBAL, Reload, "",
        "Mail addresses that the authority may write to";
    directory: String = Kind::Text("URL"), "https://acme-v02.api.letsencrypt.org/directory", GLOBAL, Reload, "",
        "The authority's directory";
    challenge: AcmeChallenge = Kind::Word(words::<AcmeChallenge>), "tls-alpn-01", GLOBAL, Reload, "",
        "How the authority sees that a host is ours: on port 443 (tls-alpn-01), or on port 80 (http-01)";
    ca: Field<PathBuf> = Kind::Path("FILE"), "", GLOBAL, Reload, "",
        "Certificates to verify the authority's own server by, instead of this system's: for an authority of one's own";
}

section! {
    /// A certificate that is shown to clients. The first one is for clients that ask for no name, or for one that none has.
    CertificateKeys, CERTIFICATES, "certificate", "Certificates":

    cert: Field<PathBuf> = Kind::Path("FILE"), "", CERTIFICATE, Reload, "",
        "The certificate and its chain, PEM";
    key: Field<PathBuf> = Kind::Path("FILE"), "", CERTIFICATE, Reload, "",
        "Its key, PEM; in the file of the certificate if it is left out";
    ocsp: Field<PathBuf> = Kind::Path("FILE"), "", CERTIFICATE, Reload, "",
        "The OCSP response to staple, DER";
}

section! {
    /// An address to accept connections on, with settings of its own.
    ListenerKeys, LISTENERS, "listener", "Listeners":

    address: Field<String> = Kind::Text("ADDR:PORT"), "", LISTENER, Restart, "",
        "Address and port to accept connections on, or unix:/path or unix:@name for a Unix socket";
    mode: Field<String> = Kind::Text("MODE"), "", LISTENER, Restart, "",
        "Permissions of the file of a Unix socket, in octal [default: 0660]";
    proxy_protocol: ProxyProtocolIn = Kind::Word(words::<ProxyProtocolIn>), "off", LISTENER, Restart, "",
        "Whether every connection begins with a PROXY protocol header, version 1 or 2";
    proxy_protocol_from: Field<Texts> = Kind::Texts("CIDR"), "", LISTENER, Restart, "",
        "Addresses and networks (CIDR) that may send the header; any if it is left out";
    tls: Option<TlsMode> = Kind::Word(words::<Option<TlsMode>>), "off", LISTENER, Restart, "",
        "Whether connections are TLS: none (off), all (on), or those that begin with it (detect)";
    min_version: Field<MinVersion> = Kind::Word(words::<MinVersion>), "", LISTENER, Reload, "",
        "The oldest version of TLS, instead of that of [tls]";
    profile: Field<Profile> = Kind::Word(words::<Profile>), "", LISTENER, Reload, "",
        "Ciphers, instead of those of [tls]";
    client_certificates: ClientCertificatesMode = Kind::Word(words::<ClientCertificatesMode>), "off", LISTENER, Reload, "",
        "Whether clients are asked for a certificate, and refused without one (required)";
    client_ca: Field<PathBuf> = Kind::Path("FILE"), "", LISTENER, Reload, "",
        "Certificates of the authorities that clients' certificates come from, PEM";
    kernel_tls: Field<bool> = Kind::Boolean, "", LISTENER, Restart, "",
        "Have the kernel seal large responses, instead of what [tls] says";
    https_redirect: Field<HttpsRedirect> = Kind::PortOrTrue, "", LISTENER, Reload, "",
        "Answer requests without TLS with 308 to https://, at this port; true for 443, or for the same port where tls is detect";
    http2: Field<bool> = Kind::Boolean, "", LISTENER, Reload, "",
        "Whether clients may use HTTP/2 here, instead of what [http2] says";
}

section! {
    /// Servers that requests are spread over.
    UpstreamKeys, UPSTREAMS, "upstream", "Upstreams":

    name: Field<String> = Kind::Text("NAME"), "", UPSTREAM, Reload, "",
        "Its name, for routes";
    servers: Field<Texts> = Kind::Texts("URL"), "", UPSTREAM, Reload, "",
        "Servers, as http://host:port, https://host:port or h2c://host:port, or unix:/path for a Unix socket";
    servers_file: Field<PathBuf> = Kind::Path("FILE"), "", UPSTREAM, Reload, "",
        "File with further servers, one in a line as in `servers`, with weight=3, backup or connections=50 behind it; it is read again when it changes";
    source_addresses: Field<Texts> = Kind::Texts("IP"), "", UPSTREAM, Reload, "",
        "Addresses of this host that connections to servers come from, in turn; the kernel chooses if it is left out";
    server: Rc<[Values]> = Kind::Tables(&UPSTREAM_SERVERS), "", UPSTREAM, Reload, "", "Servers with settings of their own, beside `servers`";
    balance: BalancePolicy = Kind::Word(words::<BalancePolicy>), "round_robin", UPSTREAM, Reload, "",
        "Which server gets a request: the next one by weight (round_robin), the one with the fewest requests (least_requests), of \
         two at random the one that answers sooner (two_choices), or always the same for what is equal (hash)";
    hash_by: Field<String> = Kind::Text("WHAT"), "", UPSTREAM, Reload, "",
        "What `hash` goes by: client (its address), path, header NAME, or cookie NAME; requests without it take turns";
    hash_load: Field<u64> = count("101", "10000"), "", UPSTREAM, Reload, "",
        "With `hash`, the most requests that a server may have, in per cent of its share of all; others go to another server";
    sticky: Field<Values> = Kind::Table(&UPSTREAM_STICKY), "", UPSTREAM, Reload, "",
        "A cookie by which a client comes back to its server; none unless it is there";
    slow_start: Duration = time("0s", "1h"), "0s", UPSTREAM, Reload, "",
        "Time in which the share of a server that is new, or up again, grows from a tenth to the whole; 0s for the whole at once";
    protocol: Field<UpstreamProtocol> = Kind::Word(words::<UpstreamProtocol>), "", UPSTREAM, Reload, "",
        "HTTP/1.1 (h1), or HTTP/2 (h2): over TLS by ALPN, in clear text by prior knowledge [default: h2 for h2c:// servers, else h1]";
    proxy_protocol: ProxyProtocolOut = Kind::Word(words::<ProxyProtocolOut>), "off", UPSTREAM, Reload, "",
        "Begin connections to servers with a PROXY protocol header that names the client; each then serves one client only";
    send_host: SendHost = Kind::Word(words::<SendHost>), "client", UPSTREAM, Reload, "",
        "The Host that servers get: the client's, or their own as in `servers`";
    lenient: Field<Texts> = Kind::Texts("WORD"), "", UPSTREAM, Reload, "",
        "What is forgiven in responses of old servers (HTTP/1.1): bare-lf, chunk-padding, equal-lengths, 204-framing; each has a risk";
    tls: Field<Values> = Kind::Table(&UPSTREAM_TLS), "", UPSTREAM, Reload, "", "TLS with those of these servers that are https://";
    resolve: Field<Values> = Kind::Table(&UPSTREAM_RESOLVE), "", UPSTREAM, Reload, "", "How names of servers are resolved";
    health: Field<Values> = Kind::Table(&UPSTREAM_HEALTH), "", UPSTREAM, Reload, "", "Checks of these servers; none unless it is there";
    ejection: Field<Values> = Kind::Table(&UPSTREAM_EJECTION), "", UPSTREAM, Reload, "",
        "When a server that fails requests gets none for a time";
    breaker: Field<Values> = Kind::Table(&UPSTREAM_BREAKER), "", UPSTREAM, Reload, "",
        "When requests to these servers are refused at once";
    retry: Field<Values> = Kind::Table(&RETRY), "", UPSTREAM, Reload, "", "Retries with these servers, instead of the global settings";
    timeouts: Field<Values> = Kind::Table(&TIMEOUTS), "", UPSTREAM, Reload, "", "Timeouts of these servers, instead of the global ones";
    limits: Field<Values> = Kind::Table(&LIMITS), "", UPSTREAM, Reload, "", "Limits of these servers, instead of the global ones";
}

section! {
    /// A server with settings of its own, behind the other keys of its `[[upstream]]`.
    UpstreamServerKeys, UPSTREAM_SERVERS, "upstream.server", "Servers":

    url: Field<String> = Kind::Text("URL"), "", UPSTREAM, Reload, "",
        "The server, as in `servers`";
    weight: u32 = count("0", "1000"), "1", UPSTREAM, Reload, "",
        "Its share of requests, in comparison with the other servers; 0 for none but those whose cookie names it";
    backup: bool = Kind::Boolean, "false", UPSTREAM, Reload, "",
        "Whether it gets requests only while no other server can";
    connections: Field<u32> = count("0", "1000000"), "", UPSTREAM, Reload, "",
        "Most connections of all shards together to it, tunnels among them; 0 for no limit [default: limits.upstream_connections]";
    zone: Field<String> = Kind::Text("NAME"), "", UPSTREAM, Reload, "",
        "Its zone, which is compared with the `zone` of this proxy";
}

section! {
    /// The cookie by which a client comes back to its server, in that `[[upstream]]`: `sticky.cookie = "srv"`, or a table
    /// `[upstream.sticky]` behind it.
    StickyKeys, UPSTREAM_STICKY, "upstream.sticky", "Sticky cookies":

    cookie: Field<String> = Kind::Text("NAME"), "", UPSTREAM, Reload, "",
        "Its name";
    path: String = Kind::Text("PATH"), "/", UPSTREAM, Reload, "",
        "Its Path";
    domain: Field<String> = Kind::Text("HOST"), "", UPSTREAM, Reload, "",
        "Its Domain; none if it is left out, so that it is sent to the same host only";
    max_age: Field<Duration> = time("1s", "8760h"), "", UPSTREAM, Reload, "",
        "Its Max-Age; none if it is left out, so that it ends with the browser's session";
    secure: bool = Kind::Boolean, "false", UPSTREAM, Reload, "",
        "Whether it is Secure: sent over https:// only";
    http_only: bool = Kind::Boolean, "true", UPSTREAM, Reload, "",
        "Whether it is HttpOnly: not shown to scripts";
    same_site: SameSite = Kind::Word(words::<SameSite>), "lax", UPSTREAM, Reload, "",
        "Its SameSite: to which requests of other sites it is added";
    secret: Field<String> = Kind::Text("TEXT"), "", UPSTREAM, Reload, "",
        "What the ids of servers are made with, so that an id does not give an address away; the same on all proxies of a site";
}

section! {
    /// TLS with the servers of an upstream, in that `[[upstream]]`: `tls.ca = "FILE"`, or a table `[upstream.tls]` behind it.
    UpstreamTlsKeys, UPSTREAM_TLS, "upstream.tls", "TLS with servers":

    verify: bool = Kind::Boolean, "true", UPSTREAM, Reload, "",
        "Whether servers need a certificate for their name, from a known authority";
    ca: Field<PathBuf> = Kind::Path("FILE"), "", UPSTREAM, Reload, "",
        "Certificates of the authorities that servers' certificates come from, PEM, instead of those of this system";
    server_name: Field<String> = Kind::Text("HOST"), "", UPSTREAM, Reload, "",
        "The name that servers are asked for (SNI) and that their certificates must have; their host in `servers` if it is left out";
    pins: Field<Texts> = Kind::Texts("PIN"), "", UPSTREAM, Reload, "",
        "Public keys, as sha256/BASE64: a certificate of the server's chain must have one of them";
    cert: Field<PathBuf> = Kind::Path("FILE"), "", UPSTREAM, Reload, "",
        "Our certificate and its chain, PEM, for servers that ask for one";
    key: Field<PathBuf> = Kind::Path("FILE"), "", UPSTREAM, Reload, "",
        "Its key, PEM; in the file of the certificate if it is left out";
    min_version: MinVersion = Kind::Word(words::<MinVersion>), "1.2", UPSTREAM, Reload, "",
        "The oldest version of TLS that servers may use";
}

section! {
    /// How the names of an upstream's servers are resolved, and resolved again, in that `[[upstream]]`: `resolve = { each = true }`,
    /// or a table `[upstream.resolve]` behind it.
    ResolveKeys, UPSTREAM_RESOLVE, "upstream.resolve", "Names of servers":

    min: Duration = time("100ms", "24h"), "1s", UPSTREAM, Reload, "",
        "Shortest time until a name is resolved again, whatever its TTL is";
    max: Duration = time("100ms", "24h"), "5m", UPSTREAM, Reload, "",
        "Longest time until a name is resolved again, whatever its TTL is";
    each: bool = Kind::Boolean, "false", UPSTREAM, Reload, "",
        "Whether each address of a name is a server of its own, or all of them together are one";
    nameservers: Field<Texts> = Kind::Texts("IP"), "", UPSTREAM, Reload, "",
        "Name servers to ask, with or without a port; those of /etc/resolv.conf if it is left out";
}

section! {
    /// Health checks of the servers of an upstream, in that `[[upstream]]`: `health.path = "/healthz"`, or a table
    /// `[upstream.health]` behind it. Its presence turns checks on.
    HealthKeys, UPSTREAM_HEALTH, "upstream.health", "Health checks":

    check: CheckKind = Kind::Word(words::<CheckKind>), "http", UPSTREAM, Reload, "",
        "A GET request (http), a connection only (tcp), or grpc.health.v1.Health/Check (grpc)";
    path: Field<String> = Kind::Text("PATH"), "", UPSTREAM, Reload, "",
        "Path and query of the request [default: /]";
    host: Field<String> = Kind::Text("HOST"), "", UPSTREAM, Reload, "",
        "Its Host, or :authority; that of the server in `servers` if it is left out";
    status: Field<Texts> = Kind::Statuses, "", UPSTREAM, Reload, "",
        "Statuses that pass: 200, \"200-399\", or a list of these [default: 200-399]";
    service: Field<String> = Kind::Text("NAME"), "", UPSTREAM, Reload, "",
        "The service that a gRPC server is asked about; all of it if it is left out";
    interval: Duration = time("10ms", "24h"), "2s", UPSTREAM, Reload, "",
        "Time from the start of a check to that of the next, of which up to a tenth is added or left out at random";
    timeout: Duration = time("1ms", "24h"), "2s", UPSTREAM, Reload, "",
        "Longest time for a check, from its connection to the end of the response";
    rise: u32 = count("1", "1000"), "2", UPSTREAM, Reload, "",
        "Checks in a row that have to pass before a server that is down is up";
    fall: u32 = count("1", "1000"), "3", UPSTREAM, Reload, "",
        "Checks in a row that have to fail before a server that is up is down";
    port: Field<u64> = count("1", "65535"), "", UPSTREAM, Reload, "",
        "The port that is checked, instead of that of the server";
    tls: Field<bool> = Kind::Boolean, "", UPSTREAM, Reload, "",
        "Whether checks are made over TLS, by the rules of [upstream.tls]; as the server's scheme says if it is left out";
    all_down: AllDown = Kind::Word(words::<AllDown>), "refuse", UPSTREAM, Reload, "",
        "While all servers are down: answer with 503 (refuse), or send requests as if there were no checks (try)";
}

section! {
    /// Ejection of servers by their responses, in that `[[upstream]]`: `ejection.failures = 3`, or a table `[upstream.ejection]`
    /// behind it. It is on without it, by these defaults, where an upstream has several servers.
    EjectionKeys, UPSTREAM_EJECTION, "upstream.ejection", "Ejection":

    failures: u32 = count("0", "1000"), "5", UPSTREAM, Reload, "",
        "Failures in a row after which a server is ejected: no connection, or a connection that ends before the response, no \
         response in time, or one of `statuses`; 0 ejects for none of them";
    statuses: Field<Texts> = Kind::Statuses, "", UPSTREAM, Reload, "",
        "Statuses that are failures: 503, \"502-504\", or a list of these; none if it is left out";
    silence: Duration = time("0s", "24h"), "1s", UPSTREAM, Reload, "",
        "A request that waits for so long, and for four times what its server takes on average, while that server begins no \
         response at all, is a failure, once in each such time; 0s for none";
    latency: u32 = count("0", "1000"), "0", UPSTREAM, Reload, "",
        "Eject a server that takes so many times as long for a response as the others do on average; 0 for never";
    time: Duration = time("10ms", "24h"), "10s", UPSTREAM, Reload, "",
        "How long a server is ejected for; twice as long each time it fails again";
    time_max: Duration = time("10ms", "24h"), "5m", UPSTREAM, Reload, "",
        "The longest that it is ejected for";
    percent_max: u32 = count("0", "100"), "50", UPSTREAM, Reload, "",
        "How many servers of the upstream may be ejected at once, in per cent: one at least unless it is 0, and never the last one that is up";
}

section! {
    /// The circuit breaker of an upstream, in that `[[upstream]]`: `breaker.failure_percent = 50`, or a table `[upstream.breaker]`
    /// behind it. Requests that it refuses get 503 at once.
    BreakerKeys, UPSTREAM_BREAKER, "upstream.breaker", "Circuit breaker":

    requests: u64 = count("0", "100000000"), "0", UPSTREAM, Reload, "",
        "Most requests and tunnels under way to these servers, of all shards together; 0 for no limit";
    failure_percent: u32 = count("0", "100"), "0", UPSTREAM, Reload, "",
        "Open when so many per cent of the last `window` requests on a shard have failed; 0 for never";
    window: u32 = count("10", "10000"), "100", UPSTREAM, Reload, "",
        "How many requests are looked at";
    statuses: Field<Texts> = Kind::Statuses, "", UPSTREAM, Reload, "",
        "Statuses that are failures, beside requests that no server answers [default: 500-599]";
    time: Duration = time("10ms", "24h"), "5s", UPSTREAM, Reload, "",
        "How long it is open before one request is let through: one that does not fail closes it";
}

section! {
    /// Which requests go to which upstream.
    RouteKeys, ROUTES, "route", "Routes":

    host: Field<String> = Kind::Text("HOST"), "", ROUTE, Reload, "",
        "Host name: example.com, *.example.com for any name below it; any host if it is left out";
    hosts: Field<Texts> = Kind::Texts("HOST"), "", ROUTE, Reload, "",
        "The same for several hosts";
    path: Field<String> = Kind::Text("PATH"), "", ROUTE, Reload, "",
        "Path: /users/{id} with one segment for {id}, /static/{*rest} with any rest";
    path_prefix: Field<String> = Kind::Text("PATH"), "", ROUTE, Reload, "",
        "Beginning of a path, by segments: /v1 is /v1 and everything below it";
    path_regex: Field<String> = Kind::Text("REGEX"), "", ROUTE, Reload, "",
        "Regular expression that finds something in the path, such as ^/img/(?<id>[0-9]+)$";
    methods: Field<Texts> = Kind::Texts("METHOD"), "", ROUTE, Reload, "",
        "Methods; all if it is left out. GET includes HEAD";
    when: Field<Texts> = Kind::Texts("CONDITION"), "", ROUTE, Reload, "",
        "Conditions that must all hold: header NAME, query NAME or cookie NAME, alone or with = VALUE or ~ REGEX; client CIDR; \
         not before any of them";
    upstream: Field<String> = Kind::Text("NAME"), "", ROUTE, Reload, "",
        "The upstream that gets the requests; instead of it, `split`, `redirect` or `respond`";
    split: Field<Rc<[Values]>> = Kind::Tables(&ROUTE_SPLIT), "", ROUTE, Reload, "",
        "Several upstreams that share the requests by weight, instead of upstream";
    split_by: Field<String> = Kind::Text("PART"), "", ROUTE, Reload, "",
        "Part of a request by which the split stays the same for a client: header NAME, cookie NAME, or client for the address [default: by turns]";
    send_host: Field<SendHost> = Kind::Word(words::<SendHost>), "", ROUTE, Reload, "",
        "The Host that servers get, instead of the upstream's setting";
    on_client_close: Field<OnClientClose> = Kind::Word(words::<OnClientClose>), "", ROUTE, Reload, "",
        "When a client ends its side while it waits for a response here, instead of what the file says: finish, or cancel";
    strip_prefix: Field<String> = Kind::Text("PATH"), "", ROUTE, Reload, "",
        "First segments of the path that the server does not get: with /api it gets /x for /api/x";
    rewrite: Field<String> = Kind::Text("TEMPLATE"), "", ROUTE, Reload, "",
        "Path for the server, and its query; without a `?` the query stays: /v2/${path.id}";
    set_host: Field<String> = Kind::Text("TEMPLATE"), "", ROUTE, Reload, "",
        "Host for the server, with a port or without: ${path.tenant}.internal";
    redirect: Field<String> = Kind::Text("TEMPLATE"), "", ROUTE, Reload, "",
        "Where clients are sent, instead of an upstream: https://${host}${uri}";
    redirect_status: Field<u32> = count("301", "308"), "", ROUTE, Reload, "",
        "Status of the redirect: 301, 302, 303, 307 or 308 [default: 302]";
    respond: Field<Values> = Kind::Table(&ROUTE_RESPOND), "", ROUTE, Reload, "", "An answer of this proxy, instead of an upstream";
    request_headers: Field<Values> = Kind::Table(&REQUEST_HEADERS), "", ROUTE, Reload, "", "Fields of requests, besides the global changes";
    response_headers: Field<Values> = Kind::Table(&RESPONSE_HEADERS), "", ROUTE, Reload, "", "Fields of responses, besides the global changes";
    error_pages: Rc<[Values]> = Kind::Tables(&ERROR_PAGES), "", ROUTE, Reload, "", "Pages for errors here, in front of the global ones";
    mirror: Field<Values> = Kind::Table(&ROUTE_MIRROR), "", ROUTE, Reload, "", "A second upstream that gets copies of requests";
    upgrade: Field<Texts> = Kind::Texts("PROTOCOL"), "", ROUTE, Reload, "",
        "Protocols that clients may change to by Upgrade, such as websocket";
    connect: Field<Texts> = Kind::Ports, "", ROUTE, Reload, "",
        "Ports, or first and last (8000-8999), that clients may reach by CONNECT";
    websocket: Field<Values> = Kind::Table(&ROUTE_WEBSOCKET), "", ROUTE, Reload, "", "WebSocket whose frames are read";
    grpc_web: bool = Kind::Boolean, "false", ROUTE, Reload, "",
        "Translate calls of gRPC-Web into gRPC for the server, and its answers back";
    client_certificate: bool = Kind::Boolean, "false", ROUTE, Reload, "",
        "Refuse requests of clients that have shown no certificate (403)";
    hsts: Field<String> = Kind::Text("VALUE"), "", ROUTE, Reload, "",
        "Strict-Transport-Security of responses over TLS: max-age=31536000; includeSubDomains; preload";
    timeouts: Field<Values> = Kind::Table(&TIMEOUTS), "", ROUTE, Reload, "", "Timeouts here, instead of those of the upstream";
    limits: Field<Values> = Kind::Table(&LIMITS), "", ROUTE, Reload, "", "Limits here, instead of the global ones";
    paths: Field<Values> = Kind::Table(&PATHS), "", ROUTE, Reload, "", "Treatment of paths here, instead of the global one";
    retry: Field<Values> = Kind::Table(&RETRY), "", ROUTE, Reload, "", "Retries here, instead of those of the upstream";
}

section! {
    /// The share of an upstream in the requests of a `[[route]]`: `split = [{ upstream = "a", weight = 95 }, { upstream = "b", weight = 5 }]`.
    RouteSplitKeys, ROUTE_SPLIT, "route.split", "Split":

    upstream: Field<String> = Kind::Text("NAME"), "", ROUTE, Reload, "",
        "The upstream that gets them";
    weight: u32 = count("0", "1000000"), "1", ROUTE, Reload, "",
        "Its share, in relation to the others'; 0 for none";
}

section! {
    /// WebSocket whose frames are read, in a `[[route]]` with `upgrade = ["websocket"]`: a table `[route.websocket]` behind it. Without
    /// `frames`, `message_bytes`, `message_rate` or `ping_idle` frames pass unread.
    RouteWebSocketKeys, ROUTE_WEBSOCKET, "route.websocket", "WebSocket":

    frames: bool = Kind::Boolean, "false", ROUTE, Reload, "",
        "Whether frames are read also without a limit: broken ones are stopped (1002), and a drain closes with 1001 (RFC 6455, section 7.4)";
    message_bytes: u64 = bytes("0", "8589934591GiB"), "0", ROUTE, Reload, "",
        "Largest message of either side, as it is sent, also compressed (closed with 1009 above it); 0 for no limit";
    message_rate: u32 = count("0", "1000000"), "0", ROUTE, Reload, "",
        "Messages and control frames of a client per second (closed with 1008 above it); 0 for no limit";
    message_burst: u32 = count("0", "1000000"), "0", ROUTE, Reload, "",
        "Most of them at once; 0 for as many as message_rate";
    ping_idle: Duration = time("0s", "24h"), "0s", ROUTE, Reload, "",
        "A client or server gets a Ping after so long a silence of its own (RFC 6455, section 5.5.2); 0s for never";
    ping_timeout: Duration = time("1ms", "24h"), "10s", ROUTE, Reload, "",
        "Time in which it has to send anything; both connections are closed after it";
    close_timeout: Duration = time("1ms", "24h"), "5s", ROUTE, Reload, "",
        "Time in which a peer has to answer a Close frame and to end its connection (RFC 6455, section 7.1.1)";
}

section! {
    /// The answer of a route without an upstream: `respond = { status = 200, body = "ok" }`, or a table `[route.respond]` behind it.
    RouteRespondKeys, ROUTE_RESPOND, "route.respond", "Answers without a server":

    status: u32 = count("200", "599"), "200", ROUTE, Reload, "",
        "Status";
    r#type: Field<String> = Kind::Text("TYPE"), "", ROUTE, Reload, "",
        "Content-Type [default: text/plain for `body`, by its name for `file`]";
    body: Field<String> = Kind::Text("TEXT"), "", ROUTE, Reload, "",
        "Body; none if `file` is left out too";
    file: Field<PathBuf> = Kind::Path("FILE"), "", ROUTE, Reload, "",
        "File that is the body, read at the start, up to 64KiB";
}

section! {
    /// Copies of a route's requests: `mirror = { upstream = "shadow", percent = 10 }`, or a table `[route.mirror]` behind it.
    RouteMirrorKeys, ROUTE_MIRROR, "route.mirror", "Mirrors":

    upstream: Field<String> = Kind::Text("NAME"), "", ROUTE, Reload, "",
        "The upstream that gets the copies; its responses are read and dropped";
    percent: u32 = count("1", "100"), "100", ROUTE, Reload, "",
        "Of a hundred requests, so many are copied";
}

section! {
    /// Changes to the fields of requests, as servers get them: fields are removed, then set, then added. Those of a route come on top of
    /// the global ones.
    RequestHeadersKeys, REQUEST_HEADERS, "request_headers", "Fields of requests":

    set: Field<Texts> = Kind::Texts("NAME: TEMPLATE"), "", PER_ROUTE, Reload, "",
        "Fields that replace all of their name: X-Client: ${client.ip}";
    add: Field<Texts> = Kind::Texts("NAME: TEMPLATE"), "", PER_ROUTE, Reload, "",
        "Fields beside those that there are of their name";
    remove: Field<Texts> = Kind::Texts("NAME"), "", PER_ROUTE, Reload, "",
        "Names of fields that are left out";
}

section! {
    /// Changes to the fields of responses, as clients get them, our own among them: fields are removed, then set, then added. Those of a
    /// route come on top of the global ones.
    ResponseHeadersKeys, RESPONSE_HEADERS, "response_headers", "Fields of responses":

    set: Field<Texts> = Kind::Texts("NAME: TEMPLATE"), "", PER_ROUTE, Reload, "",
        "Fields that replace all of their name: X-Request-Id: ${request.id}";
    add: Field<Texts> = Kind::Texts("NAME: TEMPLATE"), "", PER_ROUTE, Reload, "",
        "Fields beside those that there are of their name";
    remove: Field<Texts> = Kind::Texts("NAME"), "", PER_ROUTE, Reload, "",
        "Names of fields that are left out";
}

section! {
    /// Pages for responses of this proxy itself, such as 502, 503 and 504, in place of one line of text: `[[error_pages]]`, or
    /// `[[route.error_pages]]` behind a route.
    ErrorPagesKeys, ERROR_PAGES, "error_pages", "Pages for errors":

    status: Field<Texts> = Kind::Statuses, "", PER_ROUTE, Reload, "",
        "Statuses: 404, \"502-504\", or a list of these, from 400 on";
    r#type: Field<String> = Kind::Text("TYPE"), "", PER_ROUTE, Reload, "",
        "Content-Type [default: text/plain for `body`, by its name for `file`]";
    body: Field<String> = Kind::Text("TEXT"), "", PER_ROUTE, Reload, "",
        "The page";
    file: Field<PathBuf> = Kind::Path("FILE"), "", PER_ROUTE, Reload, "",
        "File that is the page, read at the start, up to 64KiB";
}

/// Every section.
pub static SECTIONS: &[&Section] = &[
    &TOP,
    &TIMEOUTS,
    &LIMITS,
    &PATHS,
    &FORWARDING,
    &HTTP2,
    &RETRY,
    &TLS,
    &ACME,
    &CERTIFICATES,
    &LISTENERS,
    &UPSTREAMS,
    &UPSTREAM_SERVERS,
    &UPSTREAM_STICKY,
    &UPSTREAM_TLS,
    &UPSTREAM_RESOLVE,
    &UPSTREAM_HEALTH,
    &UPSTREAM_EJECTION,
    &UPSTREAM_BREAKER,
    &ROUTES,
    &ROUTE_SPLIT,
    &ROUTE_WEBSOCKET,
    &ROUTE_RESPOND,
    &ROUTE_MIRROR,
    &REQUEST_HEADERS,
    &RESPONSE_HEADERS,
    &ERROR_PAGES,
];

/// Every key with a flag, in the order of the manual.
pub fn flags() -> impl Iterator<Item = (&'static Section, &'static Key)> {
    let all = SECTIONS.iter().copied().flat_map(|section| section.keys.iter().map(move |key| (section, key)));
    all.filter(|(_, key)| !key.flag.is_empty())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::list_flags;
    use super::super::values::Value;
    use super::*;

    fn all() -> impl Iterator<Item = (&'static Section, &'static Key)> {
        SECTIONS.iter().copied().flat_map(|section| section.keys.iter().map(move |key| (section, key)))
    }

    #[test]
    fn ranges_have_two_ends_and_defaults_lie_within() {
        for (section, Key { name, kind, default, .. }) in all() {
            let name = section.full_name(name);
            if let Some((least, most)) = kind.range() {
                let (least, most) = (kind.ours(least).plain(), kind.ours(most).plain());
                assert!(least < most, "{name}: from {least} to {most}");
            }
            if !default.is_empty() {
                Value::parse(kind, default).unwrap_or_else(|fault| panic!("{name}: default: {fault}"));
            }
            if let Kind::Word(words) = kind {
                let words = words();
                let distinct: BTreeSet<_> = words.iter().collect();
                assert!(distinct.len() == words.len() && words.len() > 1, "{name}: {words:?}");
            }
        }
    }

    /// What is settled of a section of which nothing is written: it panics where a key without a default needs one, or where the
    /// kind of a key is not for the type of its field.
    #[test]
    fn every_section_settles_without_a_word() {
        let _ = (Top::default(), Timeouts::default(), Limits::default(), Paths::default(), Http2::default());
        let _ = (
            ForwardingKeys::default(),
            ListenerKeys::default(),
            UpstreamKeys::default(),
            RouteKeys::default(),
        );
        let _ =
            (TlsKeys::default(), AcmeKeys::default(), CertificateKeys::default(), UpstreamTlsKeys::default());
        let _ = RouteWebSocketKeys::default();
        let _ = ResolveKeys::default();
        let _ = (RouteMirrorKeys::default(), RouteRespondKeys::default(), ErrorPagesKeys::default());
        let _ = (RequestHeadersKeys::default(), ResponseHeadersKeys::default());
        let _ = HealthKeys::default();
        let _ = EjectionKeys::default();
        let _ = BreakerKeys::default();
        let _ = RetryKeys::default();
        let _ = (HealthKeys::default(), UpstreamServerKeys::default(), StickyKeys::default());
    }

    #[test]
    fn names_are_distinct_and_flags_are_named_after_keys() {
        let mut names = BTreeSet::new();
        let mut flags: BTreeSet<&str> = ["--config", "--set", "--test", "--help", "--version"].into();
        flags.extend(list_flags().map(|flag| flag.flag));
        for (section, key) in all() {
            let name = section.full_name(key.name);
            assert!(names.insert(name.clone()), "{name} is there twice");
            let is_plain =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._".contains(&byte);
            assert!(name.bytes().all(is_plain), "{name}");
            assert!(
                !key.doc.is_empty() && !key.doc.ends_with('.') && !key.doc.contains('\n'),
                "{name}: {}",
                key.doc
            );
            if key.flag.is_empty() {
                continue;
            }
            let before = match section.name {
                "" => "--",
                "timeouts" => "--timeout-",
                "limits" => "--limit-",
                "paths" => "--path-",
                "forwarding" => "--forwarding-",
                "http2" => "--http2-",
                "tls" => "--tls-",
                name => panic!("[[{name}]] has a flag: {}", key.flag),
            };
            let after_key = format!("{before}{}", key.name.replace('_', "-"));
            assert!(
                key.flag == after_key || ["--trusted-proxy", "--tls-kernel"].contains(&key.flag),
                "{name}: {}, not {after_key}",
                key.flag
            );
            assert!(flags.insert(key.flag), "{} is there twice", key.flag);
        }
    }

    #[test]
    fn keys_of_tables_are_global_too() {
        for (section, key) in all() {
            let own = section.scope();
            assert!(key.scopes.has(own), "{}: {}", section.full_name(key.name), key.scopes);
            if own != GLOBAL {
                assert!(key.scopes == own && key.flag.is_empty(), "{}", section.full_name(key.name));
            }
        }
    }
}
