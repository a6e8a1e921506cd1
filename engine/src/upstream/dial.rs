//! Making the transport of a connection to a server: which of its addresses and of ours, several addresses at once where one does not
//! answer, and what the log says of those that cannot be used.

use std::any::Any;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::Poll;

use sluice_sys::{Address, Conn, ConnectCause, ConnectError, Timer, now_ms};

use crate::log;
use crate::upstream::capacity::{Full, Place, Turn};
use crate::upstream::group::GroupRules;
use crate::upstream::server::Server;

/// So long a shard is silent about a server that cannot be connected to, after it has said so.
const SILENCE_MS: u64 = 10_000;

/// How long an address has to answer before the next one is tried beside it.
//= https://www.rfc-editor.org/rfc/rfc8305#section-8
// "Connection Attempt Delay [...] The recommended value for a default delay is 250 milliseconds."
const ATTEMPT_DELAY_MS: u64 = 250;

/// So many addresses are tried at once.
const ATTEMPTS_MAX: usize = 8;

/// What a shard remembers of the addresses of one server.
#[derive(Debug, Default)]
pub(crate) struct Dialer {
    /// The address that worked last.
    preferred: Cell<usize>,
    /// The source address whose turn it is.
    next_source: Cell<usize>,
    /// Until when nothing more is said about failures.
    silent_until_ms: Cell<u64>,
}

impl Dialer {
    /// The addresses are others now.
    pub(super) fn forget_order(&self) {
        self.preferred.set(0);
    }
}

type Attempt<'a> = Pin<Box<dyn Future<Output = Result<Conn, ConnectError>> + 'a>>;

/// A connection to one of the server's addresses, within the time to connect.
///
/// Each attempt has a place of its own, where the server's connections are counted: one that has failed may be on its way yet.
///
/// # Errors
/// That of the last address.
pub(super) async fn dial(
    server: &Server,
    rules: &GroupRules,
    place: Option<Place>,
) -> Result<Conn, ConnectError> {
    match &*server.key.addresses {
        [only] if rules.sources.is_empty() => {
            Conn::connect_holding(held(place), None, only, rules.connect_ms).await
        }
        // Boxed: the usual connection has no use for its state.
        [_] => Box::pin(attempt(server, rules, 0, rules.connect_ms, place)).await,
        _ => Box::pin(race(server, rules, place)).await,
    }
}

/// What goes with the socket of an attempt.
fn held(place: Option<Place>) -> Option<Box<dyn Any>> {
    place.map(|place| Box::new(place) as Box<dyn Any>)
}

/// Tries the addresses in turn: the next one when one has failed, or has not answered within a quarter of a second. The first that
/// answers is taken, and the others are given up.
//= https://www.rfc-editor.org/rfc/rfc8305#section-5
async fn race<'a>(
    server: &'a Server,
    rules: &'a GroupRules,
    place: Option<Place>,
) -> Result<Conn, ConnectError> {
    let mut first_place = Some(place);
    let until_ms = now_ms() + rules.connect_ms;
    let order = order(&server.key.addresses, server.dialer.preferred.get());
    let delay_ms = ATTEMPT_DELAY_MS.min(rules.connect_ms / order.len().max(1) as u64).max(1);
    let mut next = order.into_iter();
    let mut pending: Vec<(usize, Attempt<'a>)> = Vec::new();
    let timer = Timer::new(0);
    let mut last = ConnectError::from(io::Error::from(io::ErrorKind::AddrNotAvailable));
    let mut begin = |pending: &mut Vec<(usize, Attempt<'a>)>| {
        let Some(at) = next.next() else { return false };
        let place = match first_place.take() {
            Some(place) => place,
            None => match server.take_place(Turn::Waited) {
                Ok(place) => place,
                Err(Full) => return false,
            },
        };
        let left_ms = until_ms.saturating_sub(now_ms()).max(1);
        pending.push((at, Box::pin(attempt(server, rules, at, left_ms, place))));
        timer.reset(delay_ms);
        true
    };
    begin(&mut pending);
    let (at, conn) = poll_fn(|context| {
        loop {
            let mut has_failed = false;
            let mut first = 0;
            while let Some((at, attempt)) = pending.get_mut(first) {
                match attempt.as_mut().poll(context) {
                    Poll::Ready(Ok(conn)) => return Poll::Ready(Some((*at, conn))),
                    Poll::Ready(Err(error)) => {
                        last = error;
                        has_failed = true;
                        drop(pending.remove(first));
                    }
                    Poll::Pending => first += 1,
                }
            }
            let is_due = has_failed || (pending.len() < ATTEMPTS_MAX && timer.poll_expired().is_ready());
            if !is_due || !begin(&mut pending) {
                return if pending.is_empty() { Poll::Ready(None) } else { Poll::Pending };
            }
        }
    })
    .await
    .ok_or(last)?;
    server.dialer.preferred.set(at);
    Ok(conn)
}

/// The numbers of the addresses in the order in which they are tried: the one that worked last, then one of the other family, and so
/// on by turns, each family in the order of the resolver.
//= https://www.rfc-editor.org/rfc/rfc8305#section-4
fn order(addresses: &[Address], preferred: usize) -> Vec<usize> {
    let count = addresses.len();
    let preferred = if preferred < count { preferred } else { 0 };
    let is_v6 = |at: &usize| addresses[*at].inet().is_some_and(|address| address.is_ipv6());
    let others = (0..count).map(|turn| (preferred + turn) % count);
    let (same, other): (Vec<_>, Vec<_>) = others.partition(|at| is_v6(at) == is_v6(&preferred));
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    let mut order = Vec::with_capacity(count);
    while order.len() < count {
        order.extend(same.next());
        order.extend(other.next());
    }
    order
}

/// Connects to one address: from the source address whose turn it is, or from the next one, if that has no port left.
async fn attempt(
    server: &Server,
    rules: &GroupRules,
    at: usize,
    timeout_ms: u64,
    place: Option<Place>,
) -> Result<Conn, ConnectError> {
    let address = &server.key.addresses[at];
    let Some(inet) = address.inet().filter(|_| !rules.sources.is_empty()) else {
        return Conn::connect_holding(held(place), None, address, timeout_ms).await;
    };
    let mut first_place = Some(place);
    let count = rules.sources.len();
    let first = server.dialer.next_source.get();
    server.dialer.next_source.set((first + 1) % count);
    let mut last = ConnectError::from(io::Error::from(io::ErrorKind::AddrNotAvailable));
    for turn in 0..count {
        let source = rules.sources[(first + turn) % count];
        if source.is_ipv4() != inet.is_ipv4() {
            continue;
        }
        let place = match first_place.take() {
            Some(place) => place,
            None => match server.take_place(Turn::Waited) {
                Ok(place) => place,
                Err(Full) => break,
            },
        };
        let source = Some(SocketAddr::new(source, 0));
        match Conn::connect_holding(held(place), source, address, timeout_ms).await {
            Err(error) if error.cause() == ConnectCause::OutOfPorts => last = error,
            connected => return connected,
        }
    }
    Err(last)
}

/// Has the log say why a server cannot be connected to, where that is mostly the configuration or the permissions of a file: a Unix
/// socket, or source addresses.
#[cold]
pub(super) fn report(server: &Server, rules: &GroupRules, error: &ConnectError) {
    let dialer = &server.dialer;
    let Some(hint) = hint(server, rules, error) else { return };
    if now_ms() < dialer.silent_until_ms.get() {
        return;
    }
    dialer.silent_until_ms.set(now_ms() + SILENCE_MS);
    let (group, name) = (&server.key.group, &server.key.authority);
    log::warn(format_args!("upstream {group}: cannot connect to {name}: {error} (hint: {hint})"));
}

fn hint(server: &Server, rules: &GroupRules, error: &ConnectError) -> Option<String> {
    let is_unix = server.key.addresses.iter().any(|address| matches!(address, Address::Unix(_)));
    if !is_unix {
        let sources: Vec<String> = rules.sources.iter().map(IpAddr::to_string).collect();
        return (error.kind() == io::ErrorKind::AddrNotAvailable && !sources.is_empty()).then(|| {
            let sources = sources.join(", ");
            format!("source_addresses {sources}: none of its family is one of this host and has a port left")
        });
    }
    let hint = match error.kind() {
        _ if error.cause() != ConnectCause::Refused => return None,
        io::ErrorKind::NotFound => "the server has not made it, or elsewhere",
        io::ErrorKind::PermissionDenied => {
            "this user needs write permission for it, and search permission for its directories"
        }
        io::ErrorKind::ConnectionRefused => "nothing listens on it: the server has ended, or not begun",
        _ => "see connect(2)",
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_from_the_address_that_worked_last() {
        let addresses: Vec<Address> = ["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1", "127.0.0.2:1"]
            .map(|text| Address::Inet(text.parse().expect("an address")))
            .into();
        assert_eq!(order(&addresses, 0), [0, 3, 1, 4, 2]);
        assert_eq!(order(&addresses, 4), [4, 0, 3, 1, 2]);
        assert_eq!(order(&addresses, 9), order(&addresses, 0), "there are fewer now");
        assert_eq!(order(&addresses[3..], 1), [1, 0]);
    }
}
