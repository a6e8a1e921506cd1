//! The relays on our own ring.

use std::net::SocketAddr;
use std::rc::Rc;

use sluice_sys::{BoundListener, Buf, Conn, Listener, Runtime, Settings, next_connection, sleep, spawn};

use super::head::rewrite;
use super::{Kind, RelayArgs, failed};
use crate::Failure;
use crate::http::response::ResponseReader;

/// How long connecting to the origin may take.
pub(super) const CONNECT_MS: u64 = 5_000;

pub(super) fn run(args: &RelayArgs) -> Result<(), Failure> {
    let bound = BoundListener::bind(args.listen, 65_535).map_err(|error| failed(args, &error))?;
    let runtime = Runtime::new(&Settings::default())?;
    let main = async move {
        let _listener = Listener::start(bound, 0);
        loop {
            sleep(3_600_000).await;
        }
    };
    let (kind, origin) = (args.runtime, args.origin);
    runtime.run(main, move || worker(kind, origin))?;
    Ok(())
}

async fn worker(kind: Kind, origin: SocketAddr) {
    loop {
        let client = next_connection().await;
        // An end or an error on either side ends both connections.
        let _ = if kind == Kind::Bare { pass(client, origin).await } else { relay(client, origin).await };
    }
}

async fn connect(origin: SocketAddr) -> std::io::Result<Conn> {
    let upstream = Conn::connect(origin, CONNECT_MS).await?;
    // Else the connection would end when that time is over.
    upstream.clear_deadline();
    Ok(upstream)
}

/// Bytes in both directions, from the buffers they came in.
async fn pass(client: Conn, origin: SocketAddr) -> std::io::Result<()> {
    let upstream = Rc::new(connect(origin).await?);
    let client = Rc::new(client);
    spawn(pump(upstream.clone(), client.clone()));
    pump(client, upstream).await;
    Ok(())
}

async fn pump(from: Rc<Conn>, to: Rc<Conn>) {
    while let Ok(Some(lease)) = from.receive().await {
        to.send_lease(lease, 0).detach();
    }
    to.shutdown_write();
}

/// Request heads there, answers back.
async fn relay(client: Conn, origin: SocketAddr) -> std::io::Result<()> {
    let upstream = connect(origin).await?;
    let peer = client.peer()?.ip().to_string();
    let mut reader = ResponseReader::default();
    let mut carry: Vec<u8> = Vec::new();
    while let Some(lease) = client.receive().await? {
        let mut bytes: &[u8] = &lease;
        if !carry.is_empty() {
            carry.extend_from_slice(bytes);
            bytes = &carry;
        }
        let mut out = Buf::small();
        while let Some(used) = rewrite(bytes, &peer, &mut out).map_err(|_| std::io::ErrorKind::InvalidData)? {
            bytes = &bytes[used..];
            upstream.send(std::mem::replace(&mut out, Buf::small()), 0).detach();
            reader.start(false);
            answer(&upstream, &client, &mut reader).await?;
        }
        carry = bytes.to_vec();
    }
    Ok(())
}

async fn answer(upstream: &Conn, client: &Conn, reader: &mut ResponseReader) -> std::io::Result<()> {
    loop {
        let lease = upstream.receive().await?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let answer = reader.read(&lease).map_err(|_| std::io::ErrorKind::InvalidData)?;
        client.send_lease(lease, 0).detach();
        if answer.is_some() {
            return Ok(());
        }
    }
}
