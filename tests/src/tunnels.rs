//! Tunnels over HTTP/2 by hand: clients that open them with the frames of an extended CONNECT (RFC 8441), and scripted servers of
//! both versions, named by what they do when a client has spoken.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    client::Raw,
    http2::{
        Answer, Ended, Http2,
        frames::{self, code, flag},
    },
    origin::{Http2Origin, Origin, Peer},
    proxy::{Counters, Proxy},
    sides::Side,
    tls::Authority,
};

/// What a route has that lets WebSocket through.
pub const WS_ROUTE: &str = "upgrade = [\"websocket\"]";

/// A group for servers of this side.
pub fn group(name: &str, side: Side, address: SocketAddr, authority: &Authority) -> String {
    match side {
        Side::H1 | Side::H1Tls => {
            format!("[[upstream]]\nname = \"{name}\"\nservers = [\"http://{address}\"]\n")
        }
        Side::H2 => format!("[[upstream]]\nname = \"{name}\"\nservers = [\"h2c://{address}\"]\n"),
        Side::H2Tls => format!(
            "[[upstream]]\nname = \"{name}\"\nservers = [\"https://{address}\"]\nprotocol = \"h2\"\n\
             tls = {{ ca = \"{}\", server_name = \"localhost\" }}\n",
            authority.ca_file().display()
        ),
    }
}

/// A proxy with a route for WebSocket and CONNECT to servers of this side, and their authority.
pub async fn proxy_to(side: Side, address: SocketAddr, more: &str) -> (Proxy, Authority) {
    let authority = Authority::new();
    let proxy = proxy_with(&authority, side, address, more).await;
    (proxy, authority)
}

/// The same, with servers of this authority.
pub async fn proxy_with(authority: &Authority, side: Side, address: SocketAddr, more: &str) -> Proxy {
    let group = group("app", side, address, authority);
    Proxy::configured(
        1,
        &format!("{more}{group}[[route]]\nupstream = \"app\"\n{WS_ROUTE}\nconnect = [443]\n"),
    )
    .await
}

/// No tunnel is open, and so many were.
pub async fn until_over(proxy: &Proxy, opened: u64) -> Counters {
    let is_over = |now: &Counters| now.named("tunnels") == 0 && now.named("tunnels_opened") == opened;
    proxy.counters_until("all tunnels are over", is_over).await
}

/// The same, and so many of them were aborted.
pub async fn assert_over(proxy: &Proxy, opened: u64, aborted: u64) {
    let after = until_over(proxy, opened).await;
    assert_eq!(after.named("tunnels_aborted"), aborted, "{after:?}");
}

/// Fields of an extended CONNECT.
pub fn extended<'a>(protocol: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let fixed = [
        (":method", "CONNECT"),
        (":protocol", protocol),
        (":scheme", "http"),
        (":authority", "test"),
        (":path", "/chat"),
        ("sec-websocket-version", "13"),
    ];
    fixed.into_iter().chain(more.iter().copied()).collect()
}

/// Asks for a WebSocket, with these fields as well.
pub async fn offer_with(client: &mut Http2, fields: &[(&str, &str)]) -> u32 {
    let stream = client.next_stream();
    client.send(frames::headers(stream, 0, frames::block(&extended("websocket", fields)))).await;
    stream
}

/// Asks for a WebSocket.
pub async fn offer(client: &mut Http2) -> u32 {
    offer_with(client, &[]).await
}

/// A tunnel that is open.
pub async fn open(client: &mut Http2) -> u32 {
    let stream = offer(client).await;
    client.until("the head", |all| all.stream(stream).is_some_and(|one| one.status() != 0)).await;
    assert_eq!(client.stream(stream).map(Answer::status), Some(200), "{client:?}");
    stream
}

/// Waits for so many bytes; all that have come.
pub async fn hear(client: &mut Http2, stream: u32, bytes: usize) -> Vec<u8> {
    client.until("bytes", |all| all.stream(stream).is_some_and(|one| one.body.len() >= bytes)).await;
    client.streams[&stream].body.clone()
}

/// A tunnel of an HTTP/1.1 client.
pub async fn upgraded(proxy: &Proxy) -> Raw {
    let mut client = Raw::connect(proxy.address).await;
    client
        .send(
            "GET /chat HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )
        .await;
    let head = client.head().await;
    assert_eq!(head.status().expect("a status"), 101, "{head:?}");
    assert_eq!(head.fields.first("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(head.fields.first("upgrade"), Some("websocket"));
    client
}

/// The key in a request, and what answers it.
pub async fn accept_offer(peer: &mut Peer) -> io::Result<()> {
    let request = peer.request().await?;
    let key = request.head.fields.first("sec-websocket-key").expect("a key").to_owned();
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket";
    peer.send(format!("{head}\r\nSec-WebSocket-Accept: {accept}\r\nX-Own: 1\r\n\r\n")).await
}

/// How often a server was told of a reset.
#[derive(Clone, Debug, Default)]
pub struct Resets(Arc<AtomicUsize>);

impl Resets {
    /// Counts one.
    pub fn note(&self, is_reset: bool) {
        self.0.fetch_add(usize::from(is_reset), Ordering::Relaxed);
    }

    /// Waits for the first.
    pub async fn until_one(&self) {
        crate::eventually("the server learns of a reset", || async { self.0.load(Ordering::Relaxed) == 1 })
            .await;
    }
}

/// What a server does when its client has spoken.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Sends it back, and its end.
    Echo,
    /// Says goodbye and finishes, and goes on to listen.
    Finish,
    /// Resets the stream or the connection.
    Reset,
    /// Reads nothing any more.
    Nothing,
}

/// An HTTP/1.1 server that opens tunnels, by hand.
pub async fn h1_server(act: Act, resets: Resets) -> Origin {
    Origin::scripted(move |mut peer: Peer| {
        let resets = resets.clone();
        async move {
            accept_offer(&mut peer).await?;
            if matches!(act, Act::Nothing) {
                std::future::pending::<()>().await;
            }
            let mut heard = 0;
            while let Some(bytes) = peer
                .some()
                .await
                .inspect_err(|error| resets.note(error.kind() == io::ErrorKind::ConnectionReset))?
            {
                heard += bytes.len();
                match act {
                    Act::Echo => peer.send(bytes).await?,
                    Act::Finish if heard == 5 => {
                        peer.send("bye").await?;
                        peer.half_close().await?;
                    }
                    Act::Reset => return peer.reset(),
                    Act::Finish | Act::Nothing => {}
                }
            }
            if matches!(act, Act::Finish) {
                return Ok(());
            }
            peer.half_close().await
        }
    })
    .await
}

/// SETTINGS_ENABLE_CONNECT_PROTOCOL.
pub const CONNECTS: &[(u16, u32)] = &[(8, 1)];

/// The same over HTTP/2: each stream is a tunnel.
pub async fn h2_server(act: Act, resets: Resets) -> Http2Origin {
    Http2Origin::scripted(CONNECTS, move |_, mut http| {
        let resets = resets.clone();
        async move {
            let mut done = std::collections::BTreeMap::<u32, (usize, bool)>::new();
            let mut reset = std::collections::BTreeSet::new();
            if matches!(act, Act::Nothing) {
                http.gives_credit = false;
                http.try_send(frames::settings_ack()).await?;
            }
            loop {
                let mut out = Vec::new();
                for (&stream, one) in &http.streams {
                    if matches!(one.ended, Some(Ended::Reset(_))) {
                        resets.note(one.ended == Some(Ended::Reset(code::CANCEL)) && reset.insert(stream));
                        continue;
                    }
                    let is_new = !done.contains_key(&stream);
                    let (heard, has_ended) = done.entry(stream).or_default();
                    if is_new {
                        out.extend(frames::headers(
                            stream,
                            0,
                            frames::block(&[(":status", "200"), ("x-own", "1")]),
                        ));
                    }
                    let fresh = &one.body[*heard..];

                    *heard = one.body.len();
                    match act {
                        Act::Echo => {
                            out.extend(fresh.chunks(16_384).flat_map(|piece| frames::data(stream, 0, piece)));
                        }
                        Act::Finish if *heard >= 5 && !*has_ended => {
                            out.extend(frames::data(stream, flag::END_STREAM, "bye"));
                            *has_ended = true;
                        }
                        Act::Reset if !fresh.is_empty() => out.extend(frames::reset(stream, code::CANCEL)),
                        Act::Finish | Act::Reset | Act::Nothing => {}
                    }
                    if one.is_complete && !*has_ended && matches!(act, Act::Echo) {
                        out.extend(frames::data(stream, flag::END_STREAM, ""));
                        *has_ended = true;
                    }
                }
                if !out.is_empty() {
                    http.try_send(out).await?;
                }
                if !http.more().await? {
                    return Ok(());
                }
            }
        }
    })
    .await
}

/// Keeps a server of either protocol.
pub enum Script {
    /// Of HTTP/1.1.
    H1(Origin, Resets),
    /// Of HTTP/2.
    H2(Http2Origin, Resets),
}

impl Script {
    /// A server of this side that does this.
    pub async fn new(side: Side, act: Act) -> Self {
        let resets = Resets::default();
        match side {
            Side::H1 | Side::H1Tls => Self::H1(h1_server(act, resets.clone()).await, resets),
            Side::H2 | Side::H2Tls => Self::H2(h2_server(act, resets.clone()).await, resets),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::H1(origin, _) => origin.address,
            Self::H2(origin, _) => origin.address,
        }
    }

    /// The resets that it has noticed.
    pub fn resets(&self) -> &Resets {
        let (Self::H1(_, resets) | Self::H2(_, resets)) = self;
        resets
    }
}

/// Both versions in clear text.
pub const TEXT: [Side; 2] = [Side::H1, Side::H2];
