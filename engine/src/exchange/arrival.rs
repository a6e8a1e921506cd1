//! Whether a request came the right way: over TLS where requests have to, and by a connection that was opened for its host. What
//! did not is answered before it has a route.

use sluice_proto::{Method, RequestHead};

use super::decision::Refusal;
use crate::answer::Answer;
use crate::config::HTTPS_PORT;
use crate::connection::link::Link;
use crate::connection::tls::Tls;
use crate::downstream::Afterwards;
use crate::route::bare_name;
use crate::shard::Shard;
use crate::snapshot::Snapshot;

/// Refuses a request that came another way than it should have.
#[inline]
pub(super) fn check(
    shard: &Shard,
    snapshot: &Snapshot,
    head: &RequestHead<'_>,
    link: &Link,
) -> Result<(), Refusal<'static>> {
    match link {
        Link::Plain(conn) => match snapshot.https_redirect(conn.listener()) {
            Some(port) => Err(redirect(shard, head, port)),
            None => Ok(()),
        },
        Link::Tls(tls) => check_host(shard, tls, head),
    }
}

/// Refuses a request for a host that the connection was not opened for.
//= https://www.rfc-editor.org/rfc/rfc9110#section-15.5.20
fn check_host(shard: &Shard, tls: &Tls, head: &RequestHead<'_>) -> Result<(), Refusal<'static>> {
    // A request of HTTP/1.0 may name no host, and CONNECT names the end of the tunnel.
    if head.authority.is_empty() || head.method == Method::Connect {
        return Ok(());
    }
    // A client that has asked for no name has got a certificate that is for all hosts.
    let (Some(asked), Some(listener)) = (tls.asked(), shard.tls.of(tls.conn().listener())) else {
        return Ok(());
    };
    if listener.serves_both(asked, head.authority) {
        return Ok(());
    }
    shard.counters.requests_misdirected.increment();
    Err(Refusal::new(head, Answer::MISDIRECTED))
}

/// Sends a client to the same place over TLS. Host and target were validated: neither holds a line end, nor anything that ends a
/// host before the path.
#[cold]
fn redirect(shard: &Shard, head: &RequestHead<'_>, port: u16) -> Refusal<'static> {
    if head.method == Method::Connect {
        shard.counters.tunnels_refused.increment();
        return Refusal::new(head, Answer::NoTunnel);
    }
    let host = str::from_utf8(bare_name(head.authority)).unwrap_or_default();
    if host.is_empty() {
        shard.counters.bad_requests.increment();
        return Refusal::then(Answer::REDIRECT_WITHOUT_HOST, Afterwards::Close);
    }
    shard.counters.https_redirects.increment();
    let port = if port == HTTPS_PORT { String::new() } else { format!(":{port}") };
    // The server as a whole has no path.
    let target = if head.path_and_query == "*" { "" } else { head.path_and_query };
    Refusal::to_https(head, &format!("https://{host}{port}{target}"))
}
