//! The relay on monoio with io_uring.

use std::io;
use std::net::SocketAddr;

use ::monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use ::monoio::net::{TcpListener, TcpStream};

use super::RelayArgs;
use super::head::rewrite;
use crate::http::response::ResponseReader;

const BUFFER_BYTES: usize = 16 * 1024;

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
    let peer = peer.ip().to_string();
    let (mut input, mut read) = (Vec::new(), Vec::with_capacity(BUFFER_BYTES));
    let (mut out, mut back) = (Vec::new(), Vec::with_capacity(BUFFER_BYTES));
    let mut reader = ResponseReader::default();
    loop {
        let used = loop {
            match rewrite(&input, &peer, &mut out).map_err(|_| io::ErrorKind::InvalidData)? {
                Some(used) => break used,
                None => {
                    read.clear();
                    let (result, filled) = client.read(read).await;
                    read = filled;
                    if result? == 0 {
                        return Ok(());
                    }
                    input.extend_from_slice(&read);
                }
            }
        };
        input.drain(..used);
        let (result, sent) = upstream.write_all(out).await;
        result?;
        out = sent;
        out.clear();
        reader.start(false);
        loop {
            back.clear();
            let (result, filled) = upstream.read(back).await;
            if result? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let answer = reader.read(&filled).map_err(|_| io::ErrorKind::InvalidData)?;
            let (result, sent) = client.write_all(filled).await;
            result?;
            back = sent;
            if answer.is_some() {
                break;
            }
        }
    }
}
