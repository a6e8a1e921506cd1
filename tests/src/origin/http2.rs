//! Scripted origins over HTTP/2, each named by what it does wrong, or does rarely.
//!
//! Owns [`Http2Origin`], which runs a script on each connection, and the scripts. A script sees the connection as
//! [`Http2`]: requests are in its `streams`, fields and bodies together.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    net::TcpStream,
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::{Go, listen};
use crate::{
    http2::{
        Answer, Http2,
        frames::{self, code, flag, kind, setting},
    },
    within,
};

/// An origin that speaks HTTP/2 by prior knowledge; it stops when dropped.
#[derive(Debug)]
pub struct Http2Origin {
    /// Where it listens.
    pub address: SocketAddr,
    /// How many connections were accepted.
    pub connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Http2Origin {
    /// How many connections were accepted.
    pub fn accepted(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Runs `script` on every connection, whose number it gets, after the preface and these settings. Errors end the script of
    /// that connection only.
    pub async fn scripted<F, S>(settings: &'static [(u16, u32)], script: F) -> Self
    where
        F: Fn(usize, Http2) -> S + Clone + Send + Sync + 'static,
        S: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = listen().await;
        let address = listener.local_addr().expect("bound");
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let accepting = tokio::spawn(async move {
            let mut scripts = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let nth = counted.fetch_add(1, Ordering::Relaxed);
                scripts.spawn(play(nth, stream, settings, script.clone()));
                while scripts.try_join_next().is_some() {}
            }
        });
        Self { address, connections, accepting }
    }
}

impl Drop for Http2Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn play<F, S>(
    nth: usize,
    stream: TcpStream,
    settings: &'static [(u16, u32)],
    script: F,
) -> io::Result<()>
where
    F: Fn(usize, Http2) -> S + Sync,
    S: Future<Output = io::Result<()>>,
{
    let http = Http2::accept(stream, settings).await?;
    script(nth, http).await
}

/// A response with this body.
pub fn answer(stream: u32, body: &str) -> Vec<u8> {
    let length = body.len().to_string();
    let block = frames::block(&[(":status", "200"), ("content-length", &length)]);
    [frames::headers(stream, 0, block), frames::data(stream, flag::END_STREAM, body)].concat()
}

/// Answers each request that is complete by `answer_to`, and goes on until the proxy leaves.
async fn serve(mut http: Http2, answer_to: impl Fn(u32) -> Vec<u8>) -> io::Result<()> {
    loop {
        if !http.more().await? {
            return Ok(());
        }
        let complete: Vec<u32> =
            http.streams.iter().filter(|(_, request)| request.is_complete).map(|(id, _)| *id).collect();
        for stream in complete {
            http.streams.remove(&stream);
            http.try_send(answer_to(stream)).await?;
        }
    }
}

/// What has arrived at an origin that [`reacts`].
#[derive(Debug, Clone, Default)]
pub struct Arrivals {
    /// Requests, by the number of their connection and their stream.
    pub requests: BTreeMap<(usize, u32), Answer>,
    /// Codes of the last GOAWAY of connections.
    pub go_aways: BTreeMap<usize, u32>,
    /// Connections that the proxy has closed.
    pub ended: BTreeSet<usize>,
}

/// An origin that [`reacts`], and what has arrived.
#[derive(Debug)]
pub struct Reacting {
    /// It stops when dropped.
    pub origin: Http2Origin,
    arrivals: Arc<watch::Sender<Arrivals>>,
}

impl Reacting {
    /// What has arrived so far.
    pub fn arrivals(&self) -> Arrivals {
        self.arrivals.borrow().clone()
    }

    /// Waits until what has arrived satisfies `condition`.
    pub async fn wait_for(&self, what: &str, mut condition: impl FnMut(&Arrivals) -> bool) -> Arrivals {
        let mut receiver = self.arrivals.subscribe();
        within(what, receiver.wait_for(|all| condition(all))).await.expect("the sender lives").clone()
    }
}

/// Has `react` look at every request as often as more of any has come, by the number of its connection, its stream and what has
/// come of it; sends what it returns, once for each request.
pub async fn reacts<R>(settings: &'static [(u16, u32)], react: R) -> Reacting
where
    R: Fn(usize, u32, &Answer) -> Option<Vec<u8>> + Clone + Send + Sync + 'static,
{
    let arrivals = Arc::new(watch::Sender::new(Arrivals::default()));
    let log = arrivals.clone();
    let script = move |nth, mut http: Http2| {
        let (log, react) = (log.clone(), react.clone());
        async move {
            let mut answered = BTreeSet::new();
            let mut is_open = true;
            while is_open {
                is_open = matches!(http.more().await, Ok(true));
                log.send_modify(|all| note(all, nth, &http, is_open));
                for (&stream, request) in &http.streams.clone() {
                    if !answered.contains(&stream)
                        && let Some(bytes) = react(nth, stream, request)
                    {
                        answered.insert(stream);
                        http.try_send(bytes).await?;
                    }
                }
            }
            Ok(())
        }
    };
    Reacting { origin: Http2Origin::scripted(settings, script).await, arrivals }
}

fn note(all: &mut Arrivals, nth: usize, http: &Http2, is_open: bool) {
    for (stream, request) in &http.streams {
        all.requests.insert((nth, *stream), request.clone());
    }
    if let Some((_, code)) = http.go_aways.last() {
        all.go_aways.insert(nth, *code);
    }
    if !is_open {
        all.ended.insert(nth);
    }
}

/// Resets every request with this code, before a response.
pub async fn resets_requests(code: u32) -> Http2Origin {
    Http2Origin::scripted(&[], move |_, http| serve(http, move |stream| frames::reset(stream, code))).await
}

/// Begins each response with a head and 100 bytes, and then resets it with this code.
pub async fn resets_responses(code: u32) -> Http2Origin {
    Http2Origin::scripted(&[], move |_, http| {
        serve(http, move |stream| {
            let head = frames::headers(stream, 0, frames::block(&[(":status", "200")]));
            [head, frames::data(stream, 0, [b'x'; 100]), frames::reset(stream, code)].concat()
        })
    })
    .await
}

/// Refuses every request of the first connection (REFUSED_STREAM), and answers those of others with their number.
pub async fn refuses_on_the_first_connection() -> Http2Origin {
    Http2Origin::scripted(&[], |nth, http| {
        serve(http, move |stream| match nth {
            0 => frames::reset(stream, code::REFUSED_STREAM),
            _ => answer(stream, &nth.to_string()),
        })
    })
    .await
}

/// Leaves (GOAWAY) after the first request of each connection, which it answers on a signal; later requests on it are not
/// processed, and it says so.
pub async fn leaves_after_the_first_request(go: Go) -> Http2Origin {
    Http2Origin::scripted(&[], move |nth, mut http| {
        let go = go.clone();
        async move {
            http.wait(|http| http.streams.get(&1).is_some_and(|request| request.is_complete)).await?;
            http.try_send(frames::go_away(1, code::NO_ERROR)).await?;
            go.wait().await?;
            http.try_send(answer(1, &nth.to_string())).await?;
            while http.more().await? {}
            Ok(())
        }
    })
    .await
}

/// Takes whatever comes and answers nothing; SETTINGS are not acknowledged either.
pub async fn http2_only_listens() -> Http2Origin {
    Http2Origin::scripted(&[], |_, mut http| async move {
        http.gives_credit = false;
        while http.more().await? {}
        Ok(())
    })
    .await
}

/// Sends its settings and reads nothing after the preface, until a signal.
pub async fn never_reads(go: Go) -> Http2Origin {
    Http2Origin::scripted(&[], move |_, http| {
        let go = go.clone();
        async move {
            go.wait().await?;
            drop(http);
            Ok(())
        }
    })
    .await
}

/// Has windows of 0 bytes for uploads, and opens them by `step` bytes on a signal; then answers with the length.
pub async fn has_no_window(step: u32, go: Go) -> Http2Origin {
    Http2Origin::scripted(&[(setting::INITIAL_WINDOW_SIZE, 0)], move |_, mut http| {
        let go = go.clone();
        async move {
            http.wait(|http| http.streams.contains_key(&1)).await?;
            while !http.streams[&1].is_complete {
                go.wait().await?;
                let before = http.streams[&1].body.len();
                http.try_send(frames::window_update(1, step)).await?;
                http.wait(|http| http.streams[&1].body.len() > before || http.streams[&1].is_complete)
                    .await?;
            }
            let length = http.streams[&1].body.len();
            http.try_send(answer(1, &length.to_string())).await?;
            while http.more().await? {}
            Ok(())
        }
    })
    .await
}

/// Permits so few streams that the others have to wait, and answers each on a signal with the name of its connection.
pub async fn permits_two_streams(go: Go) -> Http2Origin {
    Http2Origin::scripted(&[(setting::MAX_CONCURRENT_STREAMS, 2)], move |nth, mut http| {
        let go = go.clone();
        async move {
            let mut answered = 0;
            loop {
                http.wait(|http| http.streams.range(answered + 1..).any(|(_, one)| one.is_complete)).await?;
                go.wait().await?;
                let open: Vec<u32> = http.streams.range(answered + 1..).map(|(id, _)| *id).collect();
                assert!(open.len() <= 2, "more streams than were permitted");
                answered = open[0];
                http.try_send(answer(answered, &nth.to_string())).await?;
            }
        }
    })
    .await
}

/// Sends one frame that breaks a rule of the connection after the first request, before its response.
pub async fn breaks_the_connection() -> Http2Origin {
    Http2Origin::scripted(&[], |_, mut http| async move {
        http.wait(|http| http.streams.contains_key(&1)).await?;
        http.try_send(frames::frame(kind::DATA, 0, 0, "of no stream")).await?;
        while http.more().await? {}
        Ok(())
    })
    .await
}

/// Promises a stream to the client, which has not permitted it.
pub async fn pushes() -> Http2Origin {
    Http2Origin::scripted(&[], |_, mut http| async move {
        http.wait(|http| http.streams.get(&1).is_some_and(|request| request.is_complete)).await?;
        let promise = [&2_u32.to_be_bytes()[..], &frames::get("/pushed")].concat();
        http.try_send(frames::frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, promise)).await?;
        http.try_send(answer(1, "pushed")).await?;
        while http.more().await? {}
        Ok(())
    })
    .await
}

/// Ends each call with a message of three bytes and `grpc-status: 0` in the trailers.
pub async fn ends_calls() -> Http2Origin {
    Http2Origin::scripted(&[], move |_, http| {
        serve(http, move |stream| {
            let head = frames::block(&[(":status", "200"), ("content-type", "application/grpc")]);
            let trailers = frames::block(&[("grpc-status", "0"), ("grpc-message", "fine")]);
            [
                frames::headers(stream, 0, head),
                frames::data(stream, 0, b"\0\0\0\0\x03abc"),
                frames::headers(stream, flag::END_STREAM, trailers),
            ]
            .concat()
        })
    })
    .await
}
