//! What is compared: a few kinds of work, and what is read off each.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::lanes::LaneArgs;
use crate::load::{LoadArgs, Report as Loaded, Target};
use crate::messages::MessageArgs;
use crate::tls::{NAME, TlsArgs};

/// More time before the measurement for each connection.
const OPENING: Duration = Duration::from_micros(250);
/// The same with a handshake.
const OPENING_TLS: Duration = Duration::from_micros(1_000);

/// The answer of most cases.
const SMALL: &str = "bytes/1024";

/// What a server speaks to its clients, and to its origin where that is not HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Front {
    /// HTTP/1.1 in clear text.
    Clear,
    /// HTTP/1.1 over TLS.
    Tls,
    /// HTTP/2 in clear text, by prior knowledge.
    H2c,
    /// HTTP/2 over TLS.
    H2s,
    /// HTTP/2 in clear text on both sides.
    H2h2,
    /// WebSocket over HTTP/1.1 in clear text.
    Ws,
    /// WebSocket over HTTP/2 in clear text; over HTTP/1.1 to the origin.
    WsH2,
    /// gRPC: HTTP/2 in clear text on both sides.
    Grpc,
}

impl Front {
    /// Whether it has a certificate.
    pub fn is_tls(self) -> bool {
        matches!(self, Front::Tls | Front::H2s)
    }

    /// Whether its clients speak HTTP/2.
    pub fn is_http2(self) -> bool {
        matches!(self, Front::H2c | Front::H2s | Front::H2h2 | Front::WsH2 | Front::Grpc)
    }

    /// Whether its origin speaks HTTP/2.
    pub fn has_http2_origin(self) -> bool {
        matches!(self, Front::H2h2 | Front::Grpc)
    }
}

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Case {
    /// 1 KB answers on 64 kept connections
    Small64,
    /// 1 KB answers on 300 kept connections
    Small300,
    /// 1 KB answers on 500 kept connections
    Small500,
    /// 1 KB answers on 1,000 kept connections
    Small1000,
    /// 1 KB answers on 4,000 kept connections
    Small4000,
    /// 1 KB answers, each on a new connection
    NewConnection,
    /// 100 KB answers on 64 kept connections
    Body100k,
    /// 10 MB answers on 8 kept connections
    Body10m,
    /// 100 KB answers in chunks on 32 kept connections
    Chunked100k,
    /// Requests with bodies of 10 KB on 32 kept connections
    Post10k,
    /// Requests with bodies of 1 MB on 8 kept connections
    Post1m,
    /// 1 KB answers at a fixed rate (open loop)
    FixedRate,
    /// Memory of idle kept connections
    Idle,
    /// 1 KB answers by TLS on 64 kept connections
    Tls1k,
    /// 1 KB answers by TLS on 1,000 kept connections
    Tls1k1000,
    /// 1 KB answers by TLS, each on a new connection with a full handshake
    #[value(name = "tlsfull")]
    #[serde(rename = "tlsfull")]
    TlsFull,
    /// 1 KB answers by TLS, each on a new connection with a resumed session
    #[value(name = "tlsresumed")]
    #[serde(rename = "tlsresumed")]
    TlsResumed,
    /// 10 MB answers by TLS on 8 kept connections
    Tls10m,
    /// Memory of idle kept connections with TLS, after a request on each
    #[value(name = "tlsidle")]
    #[serde(rename = "tlsidle")]
    TlsIdle,
    /// HTTP/2 in clear text: 1 KB answers, 32 connections with 32 streams each
    #[value(name = "h2c32x32")]
    #[serde(rename = "h2c32x32")]
    H2c32x32,
    /// HTTP/2 in clear text: 1 KB answers, 32 connections with one stream each
    #[value(name = "h2c32x1")]
    #[serde(rename = "h2c32x1")]
    H2c32x1,
    /// HTTP/2 over TLS: 1 KB answers, 32 connections with 32 streams each
    #[value(name = "h2s32x32")]
    #[serde(rename = "h2s32x32")]
    H2s32x32,
    /// HTTP/2 in clear text: 10 MB answers, 8 connections with one stream each
    #[value(name = "h2c10m")]
    #[serde(rename = "h2c10m")]
    H2c10m,
    /// HTTP/2 over TLS: 10 MB answers, 8 connections with one stream each
    #[value(name = "h2s10m")]
    #[serde(rename = "h2s10m")]
    H2s10m,
    /// HTTP/2 in clear text on both sides (origin: nghttpd): 1 KB answers, 32 connections with 32 streams each
    #[value(name = "h2h2")]
    #[serde(rename = "h2h2")]
    H2h2,
    /// Messages of 100 bytes and their echoes on 64 WebSockets
    Ws64,
    /// Messages of 100 bytes and their echoes on 1,000 WebSockets
    Ws1000,
    /// WebSocket over HTTP/2 (RFC 8441), over HTTP/1.1 to the origin: 100 bytes, 32 connections with 32 streams each
    #[value(name = "wsh2")]
    #[serde(rename = "wsh2")]
    WsH2,
    /// Messages of 1 KB and their echoes on 1,000 calls of gRPC, 10 client connections with 100 each
    Grpc1000,
    /// The same at a fixed rate (open loop)
    GrpcRate,
}

/// A figure, and how to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// CPU time of the server per answered request.
    CpuUsPerRequest,
    /// Requests answered per second.
    RequestsPerS,
    /// Handshakes, with a request each, per second of the server's CPU time.
    HandshakesPerCpuS,
    /// Gigabytes of answers per second of the server's CPU time.
    GbPerCpuS,
    /// Latency: half of the requests,
    P50Us,
    /// 99 of a hundred,
    P99Us,
    /// 999 of a thousand.
    P99_9Us,
    /// Resident memory just after the start.
    RssStartKib,
    /// Resident memory per idle connection.
    BytesPerConnection,
}

impl Case {
    /// All of them.
    pub const ALL: [Case; 30] = [
        Case::Small64,
        Case::Small300,
        Case::Small500,
        Case::Small1000,
        Case::Small4000,
        Case::NewConnection,
        Case::Body100k,
        Case::Body10m,
        Case::Chunked100k,
        Case::Post10k,
        Case::Post1m,
        Case::FixedRate,
        Case::Idle,
        Case::Tls1k,
        Case::Tls1k1000,
        Case::TlsFull,
        Case::TlsResumed,
        Case::Tls10m,
        Case::TlsIdle,
        Case::H2c32x32,
        Case::H2c32x1,
        Case::H2s32x32,
        Case::H2c10m,
        Case::H2s10m,
        Case::H2h2,
        Case::Ws64,
        Case::Ws1000,
        Case::WsH2,
        Case::Grpc1000,
        Case::GrpcRate,
    ];

    /// What its servers speak.
    pub fn front(self) -> Front {
        match self {
            Case::H2c32x32 | Case::H2c32x1 | Case::H2c10m => Front::H2c,
            Case::H2s32x32 | Case::H2s10m => Front::H2s,
            Case::H2h2 => Front::H2h2,
            Case::Ws64 | Case::Ws1000 => Front::Ws,
            Case::WsH2 => Front::WsH2,
            Case::Grpc1000 | Case::GrpcRate => Front::Grpc,
            _ if self.tls_args().tls => Front::Tls,
            _ => Front::Clear,
        }
    }

    /// Messages in place of requests: connections, streams on each over HTTP/2, bytes of a message.
    fn messages(self) -> Option<(u64, Option<u16>, u64)> {
        match self {
            Case::Ws64 => Some((64, None, 100)),
            Case::Ws1000 => Some((1_000, None, 100)),
            Case::WsH2 => Some((32, Some(32), 100)),
            // Each of these servers takes 100 streams on a connection by default.
            Case::Grpc1000 | Case::GrpcRate => Some((10, Some(100), 1_024)),
            _ => None,
        }
    }

    /// Whether requests are due at a fixed rate.
    pub(super) fn has_rate(self) -> bool {
        matches!(self, Case::FixedRate | Case::GrpcRate)
    }

    /// Connections and streams of a load by h2load, and what is asked for; `None` for the others, which [`Case::load`] has.
    pub(super) fn streams(self) -> Option<(u64, u64, &'static str)> {
        match self {
            Case::H2c32x32 | Case::H2s32x32 | Case::H2h2 => Some((32, 32, SMALL)),
            Case::H2c32x1 => Some((32, 1, SMALL)),
            Case::H2c10m | Case::H2s10m => Some((8, 1, "bytes/10000000")),
            _ => None,
        }
    }

    /// Whether clients speak TLS.
    pub fn is_tls(self) -> bool {
        matches!(self.front(), Front::Tls | Front::H2s)
    }

    /// Whether memory is what it measures.
    pub(super) fn is_idle(self) -> bool {
        matches!(self, Case::Idle | Case::TlsIdle)
    }

    /// Whether each request has a connection of its own.
    pub(super) fn has_new_connections(self) -> bool {
        matches!(self, Case::NewConnection | Case::TlsFull | Case::TlsResumed)
    }

    /// The TLS of its clients.
    pub(super) fn tls_args(self) -> TlsArgs {
        match self {
            Case::Tls1k
            | Case::Tls1k1000
            | Case::TlsFull
            | Case::TlsResumed
            | Case::Tls10m
            | Case::TlsIdle => TlsArgs {
                tls: true,
                server_name: Some(NAME.into()),
                resume: self == Case::TlsResumed,
                ..TlsArgs::default()
            },
            _ => TlsArgs::default(),
        }
    }

    /// What it is, for people.
    pub fn title(self) -> &'static str {
        match self {
            Case::Small64 => "1 KB, 64 connections",
            Case::Small300 => "1 KB, 300 connections",
            Case::Small500 => "1 KB, 500 connections",
            Case::Small1000 => "1 KB, 1,000 connections",
            Case::Small4000 => "1 KB, 4,000 connections",
            Case::NewConnection => "1 KB, a new connection per request",
            Case::Body100k => "100 KB, 64 connections",
            Case::Body10m => "10 MB, 8 connections",
            Case::Chunked100k => "100 KB in chunks, 32 connections",
            Case::Post10k => "POST of 10 KB, 32 connections",
            Case::Post1m => "POST of 1 MB, 8 connections",
            Case::FixedRate => "1 KB at a fixed rate",
            Case::Idle => "idle connections",
            Case::Tls1k => "TLS: 1 KB, 64 connections",
            Case::Tls1k1000 => "TLS: 1 KB, 1,000 connections",
            Case::TlsFull => "TLS: 1 KB, a full handshake per request",
            Case::TlsResumed => "TLS: 1 KB, a resumed handshake per request",
            Case::Tls10m => "TLS: 10 MB, 8 connections",
            Case::TlsIdle => "TLS: idle connections",
            Case::H2c32x32 => "HTTP/2: 1 KB, 32 connections x 32 streams",
            Case::H2c32x1 => "HTTP/2: 1 KB, 32 connections x 1 stream",
            Case::H2s32x32 => "HTTP/2 over TLS: 1 KB, 32 connections x 32 streams",
            Case::H2c10m => "HTTP/2: 10 MB, 8 connections x 1 stream",
            Case::H2s10m => "HTTP/2 over TLS: 10 MB, 8 connections x 1 stream",
            Case::H2h2 => "HTTP/2 on both sides: 1 KB, 32 connections x 32 streams",
            Case::Ws64 => "WebSocket: 100 bytes, 64 connections",
            Case::Ws1000 => "WebSocket: 100 bytes, 1,000 connections",
            Case::WsH2 => "WebSocket over HTTP/2: 100 bytes, 32 connections x 32 streams",
            Case::Grpc1000 => "gRPC: messages of 1 KB, 1,000 bidirectional calls",
            Case::GrpcRate => "gRPC: messages of 1 KB at a fixed rate, 1,000 bidirectional calls",
        }
    }

    /// What is read off it; the first is the one that charts show.
    pub fn figures(self) -> &'static [Figure] {
        use Figure::{
            BytesPerConnection, CpuUsPerRequest, GbPerCpuS, HandshakesPerCpuS, P50Us, P99_9Us, P99Us,
            RequestsPerS, RssStartKib,
        };
        match self {
            Case::Small64
            | Case::Small300
            | Case::Small500
            | Case::Small1000
            | Case::Small4000
            | Case::NewConnection
            | Case::Tls1k
            | Case::Tls1k1000
            | Case::Post10k
            | Case::Post1m
            | Case::H2c32x32
            | Case::H2c32x1
            | Case::H2s32x32
            | Case::H2h2 => &[CpuUsPerRequest, RequestsPerS],
            Case::Ws64 | Case::Ws1000 | Case::WsH2 => &[CpuUsPerRequest, RequestsPerS, P99Us],
            Case::Grpc1000 | Case::GrpcRate => &[P99Us, P50Us, CpuUsPerRequest],
            Case::TlsFull | Case::TlsResumed => &[CpuUsPerRequest, HandshakesPerCpuS],
            Case::Body100k
            | Case::Body10m
            | Case::Chunked100k
            | Case::Tls10m
            | Case::H2c10m
            | Case::H2s10m => &[CpuUsPerRequest, GbPerCpuS],
            Case::FixedRate => &[CpuUsPerRequest, P50Us, P99Us, P99_9Us],
            Case::Idle | Case::TlsIdle => &[BytesPerConnection, RssStartKib],
        }
    }

    /// The load of this case; `None` for those that are no load, or that h2load makes.
    pub(super) fn load(self, shape: &Shape) -> Option<LoadArgs> {
        if let Some((connections, streams, message)) = self.messages() {
            let target = Target { path: "/messages".into(), ..shape.target.clone() };
            let load = self.load_of(target, connections * streams.map_or(1, u64::from), shape);
            let grpc = self.front() == Front::Grpc;
            let messages = MessageArgs { ws: !grpc, grpc, message };
            return Some(LoadArgs { connections, messages, h2: streams.is_some(), streams, ..load });
        }
        let (answer, body, connections) = match self {
            Case::Small64
            | Case::NewConnection
            | Case::FixedRate
            | Case::Tls1k
            | Case::TlsFull
            | Case::TlsResumed => (SMALL, 0, 64),
            Case::Small300 => (SMALL, 0, 300),
            Case::Small500 => (SMALL, 0, 500),
            Case::Small1000 | Case::Tls1k1000 => (SMALL, 0, 1_000),
            Case::Small4000 => (SMALL, 0, 4_000),
            Case::Body100k => ("bytes/100000", 0, 64),
            Case::Body10m | Case::Tls10m => ("bytes/10000000", 0, 8),
            Case::Chunked100k => ("chunked/100000", 0, 32),
            Case::Post10k => ("bytes/100", 10_000, 32),
            Case::Post1m => ("bytes/100", 1_000_000, 8),
            Case::Idle
            | Case::TlsIdle
            | Case::H2c32x32
            | Case::H2c32x1
            | Case::H2s32x32
            | Case::H2c10m
            | Case::H2s10m
            | Case::H2h2
            | Case::Ws64
            | Case::Ws1000
            | Case::WsH2
            | Case::Grpc1000
            | Case::GrpcRate => return None,
        };
        let url = Target { path: format!("/{answer}"), ..shape.target.clone() };
        Some(LoadArgs { body, ..self.load_of(url, connections, shape) })
    }

    /// What all loads on so many connections have in common.
    fn load_of(self, url: Target, connections: u64, shape: &Shape) -> LoadArgs {
        let brief = LoadArgs::brief(url, connections, Duration::from_secs(10), shape.lanes.clone());
        let opening = if self.is_tls() { OPENING_TLS } else { OPENING };
        LoadArgs {
            duration: shape.duration,
            // Until all connections are open, on both sides of the server.
            warmup: shape.warmup + opening * connections as u32,
            new_connections: self.has_new_connections(),
            tls: self.tls_args(),
            // A new connection each time leaves its port in TIME_WAIT: several addresses have more.
            sources: if self.has_new_connections() { 16 } else { 1 },
            rate: self.has_rate().then_some(shape.rate),
            ..brief
        }
    }
}

/// What the loads of a comparison have in common.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) target: Target,
    pub(super) lanes: LaneArgs,
    pub(super) duration: Duration,
    pub(super) warmup: Duration,
    pub(super) rate: u64,
}

impl Figure {
    /// Name and unit, for people.
    pub fn title(self) -> &'static str {
        match self {
            Figure::CpuUsPerRequest => "CPU per request, µs",
            Figure::RequestsPerS => "requests/s",
            Figure::HandshakesPerCpuS => "handshakes per CPU-second",
            Figure::GbPerCpuS => "GB per CPU-second",
            Figure::P50Us => "p50, µs",
            Figure::P99Us => "p99, µs",
            Figure::P99_9Us => "p99.9, µs",
            Figure::RssStartKib => "RSS at start, KiB",
            Figure::BytesPerConnection => "RSS per connection, bytes",
        }
    }

    /// Reads it off a load.
    pub(super) fn of(self, loaded: &Loaded) -> Option<f64> {
        let server = loaded.server.as_ref();
        let us = |ns: u64| ns as f64 / 1e3;
        match self {
            Figure::CpuUsPerRequest => server.map(|server| server.cpu_us_per_request),
            Figure::RequestsPerS => Some(loaded.requests_per_s),
            Figure::HandshakesPerCpuS => {
                let handshakes = loaded.tls.as_ref()?.handshakes as f64;
                server.map(|server| handshakes / server.cpu_s.max(1e-9))
            }
            Figure::GbPerCpuS => server.map(|server| loaded.bytes as f64 / 1e9 / server.cpu_s.max(1e-9)),
            Figure::P50Us => Some(us(loaded.latency_ns.p50)),
            Figure::P99Us => Some(us(loaded.latency_ns.p99)),
            Figure::P99_9Us => Some(us(loaded.latency_ns.p99_9)),
            Figure::RssStartKib | Figure::BytesPerConnection => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::CONNECTIONS_MAX;
    use super::*;
    use crate::messages::Framing;

    #[test]
    fn cases_differ_where_they_should() {
        let shape = Shape {
            target: "http://127.0.0.1:1/".parse().expect("a URL"),
            lanes: LaneArgs::default(),
            duration: Duration::from_secs(2),
            warmup: Duration::ZERO,
            rate: 500,
        };
        let load = |case: Case| case.load(&shape).expect("a load");
        assert_eq!(load(Case::Body100k).url.to_string(), "http://127.0.0.1:1/bytes/100000");
        assert_eq!(load(Case::Small1000).connections, 1_000);
        assert_eq!(load(Case::Small4000).warmup, Duration::from_secs(1));
        let upload = load(Case::Post1m);
        assert_eq!((upload.body, upload.connections), (1_000_000, 8));
        assert_eq!(load(Case::Chunked100k).url.to_string(), "http://127.0.0.1:1/chunked/100000");
        assert!(
            Case::ALL
                .iter()
                .filter_map(|case| case.load(&shape))
                .all(|load| load.connections <= CONNECTIONS_MAX)
        );
        assert!(load(Case::NewConnection).new_connections && !load(Case::Small64).new_connections);
        assert_eq!((load(Case::FixedRate).rate, load(Case::Small64).rate), (Some(500), None));
        let (ws, calls) = (load(Case::WsH2), load(Case::GrpcRate));
        let framing = |load: &LoadArgs| load.messages.framing();
        assert_eq!((framing(&ws), framing(&calls)), (Some(Framing::WebSocket), Some(Framing::Grpc)));
        assert!(ws.h2 && calls.h2 && !load(Case::Ws64).h2 && framing(&load(Case::Small64)).is_none());
        assert_eq!((ws.connections, ws.streams, ws.messages.message, ws.rate), (32, Some(32), 100, None));
        assert_eq!((calls.connections, calls.streams, calls.rate), (10, Some(100), Some(500)));
        assert_eq!(calls.warmup, Duration::from_millis(250));
        assert!(Case::Idle.load(&shape).is_none() && Case::TlsIdle.load(&shape).is_none());
        let (full, resumed) = (load(Case::TlsFull), load(Case::TlsResumed));
        assert!(full.new_connections && full.tls.tls && !full.tls.resume && resumed.tls.resume);
        assert!(
            !load(Case::Small64).tls.tls && load(Case::Tls10m).tls.tls && !load(Case::Tls1k).new_connections
        );
    }
}
