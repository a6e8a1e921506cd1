//! The relay on monoio with io_uring, which takes buffers and gives them back.

use std::io;
use std::net::SocketAddr;

use ::monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use ::monoio::net::{TcpListener, TcpStream};

use super::RelayArgs;
use super::session::{BUFFER_BYTES, Session};

pub(super) fn run(args: &RelayArgs) -> io::Result<()> {
    let mut runtime = ::monoio::RuntimeBuilder::<::monoio::IoUringDriver>::new().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(args.listen)?;
        loop {
            let (client, peer) = listener.accept().await?;
            // An end or an error on either side ends both connections.
            ::monoio::spawn(relay(client, peer, args.origin));
        }
    })
}

async fn relay(mut client: TcpStream, peer: SocketAddr, origin: SocketAddr) -> io::Result<()> {
    let mut upstream = TcpStream::connect(origin).await?;
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    let mut session = Session::new(peer.ip());
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    loop {
        let Some(request) = session.request()? else {
            buffer = read(&mut client, buffer).await?;
            if buffer.is_empty() {
                return Ok(());
            }
            session.take(&buffer);
            continue;
        };
        let (result, request) = upstream.write_all(request).await;
        result?;
        session.sent(request);
        let mut is_over = false;
        while !is_over {
            buffer = read(&mut upstream, buffer).await?;
            is_over = session.ends_answer(&buffer)?;
            let (result, sent) = client.write_all(buffer).await;
            result?;
            buffer = sent;
        }
    }
}

/// Fills a buffer anew; empty at the end.
async fn read(stream: &mut TcpStream, mut buffer: Vec<u8>) -> io::Result<Vec<u8>> {
    buffer.clear();
    let (result, buffer) = stream.read(buffer).await;
    result.map(|_| buffer)
}
