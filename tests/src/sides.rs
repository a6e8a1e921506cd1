//! The protocols of the two sides of a proxy, and a proxy between them.

use std::{net::SocketAddr, path::Path};

use crate::{peers::text, proxy::Proxy, tls::Identity};

/// The protocol of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// HTTP/1.1 in clear text.
    H1,
    /// HTTP/1.1 over TLS.
    H1Tls,
    /// HTTP/2 in clear text, by prior knowledge.
    H2,
    /// HTTP/2 over TLS, by ALPN.
    H2Tls,
}

impl Side {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::H1, Self::H1Tls, Self::H2, Self::H2Tls];

    /// Whether it is encrypted.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::H1Tls | Self::H2Tls)
    }

    /// Whether it is HTTP/2.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::H2 | Self::H2Tls)
    }

    /// Its name in ALPN.
    pub fn alpn(self) -> &'static str {
        if self.is_http2() { "h2" } else { "http/1.1" }
    }
}

/// A proxy of one shard between these sides, with these flags as well: it shows `identity`, and trusts servers of the authority in
/// `ca`.
pub async fn between(
    downstream: Side,
    upstream: Side,
    origin: SocketAddr,
    identity: &Identity,
    ca: &Path,
    more: &[&str],
) -> Proxy {
    let scheme = match upstream {
        Side::H1 => "http",
        Side::H1Tls | Side::H2Tls => "https",
        Side::H2 => "h2c",
    };
    let listen = if downstream.is_tls() { "--listen-tls" } else { "--listen" };
    let target = format!("{scheme}://{origin}");
    let mut flags = vec![listen, "127.0.0.1:0", "--shards", "1", "--upstream", &target];
    if downstream.is_tls() {
        flags.extend(identity.flags());
    }
    if upstream.is_tls() {
        flags.extend(["--upstream-ca", text(ca)]);
    }
    if upstream == Side::H2Tls {
        flags.extend(["--upstream-protocol", "h2"]);
    }
    flags.extend(more);
    Proxy::start(&flags).await
}
