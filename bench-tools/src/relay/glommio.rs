//! The relay on glommio.

use std::io;
use std::net::SocketAddr;

use ::glommio::net::{TcpListener, TcpStream};
use futures_lite::{AsyncReadExt, AsyncWriteExt};

use super::RelayArgs;
use super::session::{BUFFER_BYTES, Session};

pub(super) fn run(args: &RelayArgs) -> io::Result<()> {
    let (listen, origin) = (args.listen, args.origin);
    let executor = ::glommio::LocalExecutorBuilder::default()
        .make()
        .map_err(|error| io::Error::other(error.to_string()))?;
    executor.run(async move {
        let listener = TcpListener::bind(listen)?;
        loop {
            let client = listener.accept().await?;
            // An end or an error on either side ends both connections.
            ::glommio::spawn_local(relay(client, origin)).detach();
        }
    })
}

async fn relay(mut client: TcpStream, origin: SocketAddr) -> io::Result<()> {
    let mut upstream = TcpStream::connect(origin).await?;
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    let mut session = Session::new(client.peer_addr()?.ip());
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
