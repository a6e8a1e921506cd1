//! The relay on tokio, current thread.

use std::io;
use std::net::SocketAddr;

use ::tokio::io::{AsyncReadExt, AsyncWriteExt};
use ::tokio::net::{TcpListener, TcpStream};

use super::RelayArgs;
use super::session::{BUFFER_BYTES, Session};

pub(super) fn run(args: &RelayArgs) -> io::Result<()> {
    let runtime = ::tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(args.listen).await?;
        loop {
            let (client, peer) = listener.accept().await?;
            // An end or an error on either side ends both connections.
            ::tokio::spawn(relay(client, peer, args.origin));
        }
    })
}

async fn relay(mut client: TcpStream, peer: SocketAddr, origin: SocketAddr) -> io::Result<()> {
    let mut upstream = TcpStream::connect(origin).await?;
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    let mut session = Session::new(peer.ip());
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let Some(request) = session.request()? else {
            match client.read(&mut buffer).await? {
                0 => return Ok(()),
                bytes => session.take(&buffer[..bytes]),
            }
            continue;
        };
        upstream.write_all(&request).await?;
        session.sent(request);
        let mut is_over = false;
        while !is_over {
            let bytes = upstream.read(&mut buffer).await?;
            is_over = session.ends_answer(&buffer[..bytes])?;
            client.write_all(&buffer[..bytes]).await?;
        }
    }
}
