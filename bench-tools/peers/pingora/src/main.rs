//! The least there is to a reverse proxy on Pingora, for `sluice-bench compare`: one worker thread, connections kept on
//! both sides, the same X-Forwarded fields as every other peer, no access log. See README.md one directory up.
#![forbid(unsafe_code)]

use std::net::SocketAddr;

use async_trait::async_trait;
use clap::Parser;
use pingora_core::Result;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

/// Idle connections to the origin that are kept.
const UPSTREAM_IDLE_MAX: usize = 1_024;
/// Idle clients are kept for longer than any measurement lasts.
const CLIENT_IDLE_S: u64 = 24 * 3_600;

/// Pingora as a plain reverse proxy.
#[derive(Parser)]
#[command(name = "pingora", version = pingora_version())]
struct Flags {
    /// Where to listen
    #[arg(long, value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// Where the origin listens
    #[arg(long, value_name = "ADDR:PORT")]
    origin: SocketAddr,
}

/// The version of Pingora that was locked, which it does not tell itself.
fn pingora_version() -> &'static str {
    let lock = include_str!("../Cargo.lock");
    let package = lock.split_once("name = \"pingora-proxy\"\nversion = \"");
    package.and_then(|(_, rest)| rest.split('"').next()).unwrap_or("unknown")
}

struct Proxy {
    origin: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn early_request_filter(&self, session: &mut Session, (): &mut ()) -> Result<()> {
        // Pingora closes idle clients after 60 s.
        session.set_keepalive(Some(CLIENT_IDLE_S));
        Ok(())
    }

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.origin, false, String::new())))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        (): &mut (),
    ) -> Result<()> {
        if let Some(client) = session.client_addr().and_then(|address| address.as_inet()) {
            request.append_header("X-Forwarded-For", client.ip().to_string())?;
        }
        request.insert_header("X-Forwarded-Proto", "http")?;
        if let Some(host) = request.headers.get("Host").cloned() {
            request.insert_header("X-Forwarded-Host", host)?;
        }
        Ok(())
    }
}

fn main() {
    let flags = Flags::parse();
    let conf = ServerConf {
        threads: 1,
        upstream_keepalive_pool_size: UPSTREAM_IDLE_MAX,
        // SIGTERM ends it at once; by default it goes on for five minutes.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Proxy { origin: flags.origin });
    service.add_tcp(&flags.listen.to_string());
    server.add_service(service);
    server.run_forever();
}
