//! One check of one server: a connection, its TLS, and the request, all within the time of a check.

use std::cell::Cell;
use std::error::Error as StdError;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sluice_sys::{Address, ConnectCause, ConnectError};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, UnixStream};
use tokio::time::{Instant, sleep, timeout};

use super::bounded::Bounded;
use super::http::{self, Verdict};
use super::target::Target;
use crate::config::{Check, HealthCheck, show_duration};

/// The most bytes that are taken from a server, with TLS and the frames of HTTP/2.
const RECEIVED_BYTES_MAX: usize = 256 << 10;

/// How long to wait before a Unix socket whose queue is full is tried again.
const FULL_WAIT: Duration = Duration::from_millis(20);

/// The result of a check.
#[derive(Debug)]
pub(super) enum Outcome {
    Passed,
    Failed {
        why: String,
        /// The time was over.
        is_late: bool,
    },
    /// Not by the server's fault: this host has no descriptor, port or memory for it.
    NotMade(String),
}

impl Outcome {
    pub(super) fn is_late(&self) -> bool {
        matches!(self, Outcome::Failed { is_late: true, .. })
    }
}

/// A connection of any kind.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Io for S {}

/// Checks a server once.
pub(super) async fn probe(target: &Target, check: &HealthCheck) -> Outcome {
    let waits_for = Cell::new("connection");
    match timeout(check.timeout, run(target, check, &waits_for)).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let why = format!("no {} within {}", waits_for.get(), show_duration(check.timeout));
            Outcome::Failed { why, is_late: true }
        }
    }
}

async fn run(target: &Target, check: &HealthCheck, waits_for: &Cell<&'static str>) -> Outcome {
    let mut stream = match connect(target, check.timeout).await {
        Ok(stream) => stream,
        Err(error) => return not_connected(error, check.timeout),
    };
    if let Err(error) = stream.write_all(target.proxy_header).await {
        return Outcome::Failed { why: reason(&error), is_late: false };
    }
    let stream = Bounded::new(stream, RECEIVED_BYTES_MAX);
    let Some((connector, name)) = &target.tls else { return ask(target, check, stream, waits_for).await };
    waits_for.set("TLS handshake");
    match connector.connect(name.clone(), stream).await {
        Ok(stream) => {
            let is_agreed = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            // As for traffic: a server that does not know ALPN would take what follows for HTTP/1.1.
            if target.is_http2 && !is_agreed && check.check != Check::Tcp {
                let why = "TLS: the server has not selected HTTP/2 (h2, by ALPN)".to_owned();
                return Outcome::Failed { why, is_late: false };
            }
            ask(target, check, stream, waits_for).await
        }
        Err(error) => Outcome::Failed { why: format!("TLS: {}", reason(&error)), is_late: false },
    }
}

async fn ask(
    target: &Target,
    check: &HealthCheck,
    stream: impl Io + 'static,
    waits_for: &Cell<&'static str>,
) -> Outcome {
    waits_for.set("response");
    let verdict = match &check.check {
        Check::Tcp => Verdict::Ok(()),
        Check::Http(of_http) => http::check(target, of_http, stream).await,
        Check::Grpc { service, .. } => http::check_grpc(target, service, check.timeout, stream).await,
    };
    match verdict {
        Ok(()) => Outcome::Passed,
        Err(why) => Outcome::Failed { why, is_late: false },
    }
}

/// Tries the server's addresses, the one that worked last first. Each has an equal part of the time that is left.
async fn connect(target: &Target, within: Duration) -> io::Result<Box<dyn Io>> {
    let until = Instant::now() + within;
    let count = target.addresses.len();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for turn in 0..count {
        let at = (target.preferred.get() + turn) % count;
        let part = until.saturating_duration_since(Instant::now()) / (count - turn) as u32;
        match timeout(part, connect_to(&target.sources, &target.addresses[at])).await {
            Ok(Ok(stream)) => {
                target.preferred.set(at);
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

async fn connect_to(sources: &[IpAddr], address: &Address) -> io::Result<Box<dyn Io>> {
    let socket = match address {
        Address::Inet(address) => {
            let source = sources.iter().find(|source| source.is_ipv4() == address.is_ipv4());
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            source.map_or(Ok(()), |source| socket.bind(SocketAddr::new(*source, 0)))?;
            return Ok(Box::new(socket.connect(*address).await?));
        }
        Address::Unix(socket) => socket,
    };
    loop {
        match UnixStream::connect(socket.as_os_str()).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(FULL_WAIT).await,
            connected => return Ok(Box::new(connected?)),
        }
    }
}

/// A lack of our own is not the server's fault and may pass.
fn not_connected(error: io::Error, within: Duration) -> Outcome {
    let is_late = error.kind() == io::ErrorKind::TimedOut;
    let why = match is_late {
        true => format!("no connection within {}", show_duration(within)),
        false => reason(&error),
    };
    match ConnectError::from(error).cause() {
        ConnectCause::OutOfDescriptors | ConnectCause::OutOfPorts | ConnectCause::OutOfMemory => {
            Outcome::NotMade(why)
        }
        ConnectCause::TimedOut | ConnectCause::Refused => Outcome::Failed { why, is_late },
    }
}

/// What an error and those that it comes from say, in one line: once each, without the code of the system.
pub(super) fn reason(error: &(dyn StdError + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        let text = text.split(" (os error ").next().unwrap_or_default().replace(char::is_control, " ");
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    parts.join(": ")
}
