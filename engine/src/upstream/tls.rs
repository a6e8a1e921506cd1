//! TLS on a new connection to a server: the handshake, and what the log and the client learn of one that fails.

use std::cell::Cell;

use sluice_sys::{Buf, Conn, now_ms};
use sluice_tls::handshake::{
    Alpn, ClientConfig, ClientHandshake, FailureKind, HandshakeFailure, Progress, ServerName,
};

use crate::answer::Answer;
use crate::config::{Scheme, UpstreamProtocol, UpstreamServer, UpstreamTls, server_url};
use crate::connection::link::Link;
use crate::connection::tls::{PeerDetails, Tls};
use crate::log;
use crate::shard::Shard;
use crate::upstream::server::Server;

/// So long a shard is silent about a server whose handshakes fail, after it has said so.
const SILENCE_MS: u64 = 10_000;

/// The alert of a server that speaks none of the protocols on offer.
//= https://www.rfc-editor.org/rfc/rfc7301#section-3.2
const NO_APPLICATION_PROTOCOL: FailureKind = FailureKind::Alert(120);

/// How connections to a server are secured.
pub(crate) struct ServerTls {
    config: ClientConfig,
    /// The name that is asked for and verified.
    name: ServerName<'static>,
    /// Until when nothing more is said about failures.
    silent_until_ms: Cell<u64>,
}

impl ServerTls {
    pub(crate) fn new(config: &ClientConfig, server: &UpstreamServer, tls: &UpstreamTls) -> ServerTls {
        let name = tls.server_name.as_deref().unwrap_or(&server.host);
        let name = ServerName::try_from(name.to_owned()).expect("the configuration was checked");
        ServerTls { config: config.clone(), name, silent_until_ms: Cell::new(0) }
    }

    /// Does the handshake on a connection that was just opened.
    ///
    /// # Errors
    /// The answer for the client when it fails.
    pub(crate) async fn secure(
        &self,
        shard: &Shard,
        conn: Conn,
        server: &Server,
        until_ms: u64,
    ) -> Result<Link, Answer<'static>> {
        conn.set_deadline(until_ms.saturating_sub(now_ms()).max(1));
        match self.shake(shard, conn, server.key.protocol).await {
            Ok(link) => {
                link.transport().clear_deadline();
                Ok(link)
            }
            Err(failure) => {
                shard.counters.upstream_tls_failures.increment();
                self.report(server, &failure);
                Err(answer_for(&failure))
            }
        }
    }

    async fn shake(
        &self,
        shard: &Shard,
        conn: Conn,
        protocol: UpstreamProtocol,
    ) -> Result<Link, HandshakeFailure> {
        let mut out = Buf::small();
        let mut handshake = ClientHandshake::new(&self.config, self.name.clone(), &mut out)?;
        let mut rest = Vec::new();
        loop {
            if !out.is_empty() {
                conn.send(out, conn.deadline_in_ms().max(1)).detach();
            }
            match conn.receive().await {
                Ok(Some(lease)) => rest.extend_from_slice(&lease),
                Ok(None) => return Err(handshake.interrupted()),
                Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                    let reason = "the handshake was not complete within timeouts.upstream_connect".into();
                    return Err(HandshakeFailure { kind: FailureKind::Late, reason });
                }
                Err(_) => return Err(handshake.interrupted()),
            }
            out = Buf::small();
            let (used, result) = handshake.advance(&rest, &mut out);
            rest.drain(..used);
            if result != Ok(Progress::More) && !out.is_empty() {
                conn.send(std::mem::replace(&mut out, Buf::tiny(0)), conn.deadline_in_ms().max(1)).detach();
            }
            match result {
                Ok(Progress::More) => {}
                Ok(Progress::Done) => break,
                Err(failure) => {
                    // The alert goes out before the connection does.
                    conn.flushed().await;
                    return Err(failure);
                }
            }
        }
        let established = handshake.finish()?;
        // A server that does not know ALPN selects nothing, and takes what follows for HTTP/1.1.
        //= https://www.rfc-editor.org/rfc/rfc9113#section-3.2
        if protocol == UpstreamProtocol::H2 && established.alpn != Some(Alpn::Http2) {
            let reason = "the server has not selected HTTP/2 (h2, by ALPN)".into();
            return Err(HandshakeFailure { kind: NO_APPLICATION_PROTOCOL, reason });
        }
        if established.is_resumed {
            shard.counters.upstream_tls_resumptions.increment();
        }
        let tls = Tls::new(conn, established, None, PeerDetails::default(), &rest);
        Ok(Link::Tls(tls))
    }

    fn report(&self, server: &Server, failure: &HandshakeFailure) {
        let now_ms = now_ms();
        if now_ms < self.silent_until_ms.get() {
            return;
        }
        self.silent_until_ms.set(now_ms + SILENCE_MS);
        log::warn(format_args!(
            "upstream {}: TLS with {}: {}",
            server.key.group,
            server_url(Scheme::Https, &server.key.authority),
            failure.reason
        ));
    }
}

/// What the client learns: that it failed, and at which kind of check. The log has the particulars.
fn answer_for(failure: &HandshakeFailure) -> Answer<'static> {
    match failure.kind {
        FailureKind::Late => Answer::UpstreamTimeout,
        FailureKind::Certificate => {
            Answer::BadUpstream { why: "the certificate of the server is not accepted" }
        }
        NO_APPLICATION_PROTOCOL => {
            Answer::BadUpstream { why: "the server and this proxy have no protocol in common" }
        }
        _ => Answer::BadUpstream { why: "the server and this proxy found no way to speak TLS" },
    }
}
