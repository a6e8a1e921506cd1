//! `origin`: a server that answers from memory, so cheaply that it is not what a measurement measures.
//!
//! A connection without a request under way is an entry of the ring crate's socket table and nothing else; bytes
//! give it a worker, which answers all requests they hold with as few sends as possible and lets go of it again.

mod answer;
mod delayed;
mod http2;
mod route;
mod session;
mod websocket;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use sluice_sys::{BoundListener, Conn, Listener, Runtime, next_connection, raise_descriptor_limit, spawn};

use crate::Failure;
use crate::interrupt::Interrupt;
use crate::lanes::{self, Lane, LaneArgs};
use crate::units::parse_duration;
use answer::Answers;
use delayed::Delayed;
use session::{IdleTime, STALL_MS, Session, Site};

/// Connections that may wait to be accepted; net.core.somaxconn has the last word.
const BACKLOG: u32 = 65_535;

const PATHS: &str = "\
Paths:
  /           a short text
  /bytes/N    N bytes
  /chunked/N  N bytes, chunked
  /delay/MS   a short text after so many milliseconds (to the millisecond for the last request received)
  /echo       the request's body
  /status/N   that status (200-599)
  /reset      a reset instead of an answer; /reset/N: after N of 2N bytes
  /stall      no answer at all; /stall/N: nothing after N of 2N bytes
Anything else is answered 404. Other request bodies are read and dropped.
On any path: an offer of WebSocket is taken up, and each message sent back. HTTP/2 by prior knowledge is for messages alone:
calls of gRPC and WebSockets by extended CONNECT (RFC 8441), of which each message is sent back; other requests are answered 404.";

/// Flags of `origin`.
#[derive(Clone, Debug, Args)]
#[command(after_help = PATHS)]
pub struct OriginArgs {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9000")]
    pub listen: SocketAddr,
    /// Close each connection that is idle after an answer, at a random moment within this time, as servers do under a proxy
    /// that keeps connections for longer than they
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub close_idle: Option<Duration>,
    /// The threads that serve.
    #[command(flatten)]
    pub lanes: LaneArgs,
}

/// Serves until a signal comes.
///
/// # Errors
/// When the address cannot be listened on or the host cannot run a ring.
pub fn run(args: &OriginArgs) -> Result<(), Failure> {
    let interrupt = Interrupt::catch()?;
    let (_, descriptors) = raise_descriptor_limit().unwrap_or((0, 1 << 20));
    let lanes = args.lanes.lanes();
    let listeners = bind(args.listen, lanes.len())?;
    if let Some(Ok(address)) = listeners.first().map(BoundListener::local) {
        eprintln!("sluice-bench: origin listening on {address}");
    }
    lanes::run(&lanes, listeners, |_: Lane, bound| {
        serve(bound, descriptors, IdleTime::new(args.close_idle), interrupt.clone())
    })?;
    Ok(())
}

/// One listener per lane, all on the same port.
fn bind(address: SocketAddr, count: usize) -> Result<Vec<BoundListener>, Failure> {
    let fail = |error| Failure::Usage(format!("cannot listen on {address}: {error}"));
    let first = BoundListener::bind(address, BACKLOG).map_err(fail)?;
    let address = first.local().map_err(fail)?;
    let mut listeners = vec![first];
    for _ in 1..count {
        listeners.push(BoundListener::bind(address, BACKLOG).map_err(fail)?);
    }
    Ok(listeners)
}

fn serve(bound: BoundListener, sockets: u64, idle: IdleTime, interrupt: Interrupt) -> Result<(), Failure> {
    let runtime = Runtime::new(&lanes::settings(sockets))?;
    let site = Rc::new(Site { answers: RefCell::new(Answers::new()), delayed: Delayed::new()?, idle });
    let its = site.clone();
    let main = async move {
        let _listener = Listener::start(bound, 0);
        while !interrupt.is_set() {
            its.delayed.tick().await;
            while let Some((conn, out)) = its.delayed.next_due() {
                conn.send(out, STALL_MS).detach();
                if let Err(conn) = conn.park(its.idle.next_ms()) {
                    spawn(serve_one(its.clone(), conn));
                }
            }
        }
    };
    runtime.run(main, move || worker(site.clone()))?;
    Ok(())
}

async fn worker(site: Rc<Site>) {
    let mut session = Session::new(site);
    loop {
        session.serve(next_connection().await).await;
    }
}

/// Goes on with a connection on which something arrived while its answer was waiting.
async fn serve_one(site: Rc<Site>, conn: Conn) {
    Session::new(site).serve(conn).await;
}
