//! The relay on glommio.

use std::io;
use std::net::SocketAddr;

use ::glommio::net::{TcpListener, TcpStream};
use futures_lite::{AsyncReadExt, AsyncWriteExt};

use super::RelayArgs;
use super::head::rewrite;
use crate::http::response::ResponseReader;

const BUFFER_BYTES: usize = 16 * 1024;

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
    let peer = client.peer_addr()?.ip().to_string();
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
