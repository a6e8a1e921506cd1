//! The relay on tokio, current thread.

use std::io;
use std::net::SocketAddr;

use ::tokio::io::{AsyncReadExt, AsyncWriteExt};
use ::tokio::net::{TcpListener, TcpStream};

use super::RelayArgs;
use super::head::rewrite;
use crate::http::response::ResponseReader;

const BUFFER_BYTES: usize = 16 * 1024;

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
    let peer = peer.ip().to_string();
    let (mut input, mut filled) = (vec![0; BUFFER_BYTES], 0);
    let (mut out, mut back) = (Vec::new(), vec![0; BUFFER_BYTES]);
    let mut reader = ResponseReader::default();
    loop {
        let used = loop {
            match rewrite(&input[..filled], &peer, &mut out).map_err(|_| io::ErrorKind::InvalidData)? {
                Some(used) => break used,
                None => match client.read(&mut input[filled..]).await? {
                    0 => return Ok(()),
                    bytes => filled += bytes,
                },
            }
        };
        input.copy_within(used..filled, 0);
        filled -= used;
        upstream.write_all(&out).await?;
        out.clear();
        reader.start(false);
        loop {
            let bytes = upstream.read(&mut back).await?;
            if bytes == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let answer = reader.read(&back[..bytes]).map_err(|_| io::ErrorKind::InvalidData)?;
            client.write_all(&back[..bytes]).await?;
            if answer.is_some() {
                break;
            }
        }
    }
}
