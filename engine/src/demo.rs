//! `sluice demo`: an origin of our own and a proxy in front of it, to see something in a second.

use std::fs::{self, DirBuilder};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::thread;

use sluice_proto::h1::{
    AnswerBody, ConnectionField, Framing, HeadStore, Parsed, parse_request, write_answer,
};
use sluice_proto::{HeadLimits, RequestKind};
use sluice_sys::{
    Address, BoundListener, Buf, HostUnsupported, Listener, Runtime, Settings, next_connection, next_message,
};

use crate::cert;
use crate::cli::{CertKind, CertMakeArgs};
use crate::clock::Clock;
use crate::connection::inbox::Inbox;
use crate::connection::link::Link;
use crate::h1::{BodyProgress, BodyReader};
use crate::launch_error::LaunchError;
use crate::log;
use crate::message::{BodySource, ChunkForm, Part, Side};
use crate::min_rate::MinRate;
use crate::tls::files::now_s;

/// How long the origin keeps an idle connection: longer than the proxy does.
const IDLE_MS: u64 = 120_000;

/// Starts the origin on a port of its own and says where.
///
/// # Errors
/// Why it cannot start.
pub fn start_origin() -> Result<SocketAddr, LaunchError> {
    let (sender, receiver) = channel();
    let origin = move || {
        let made = make_origin();
        match made {
            Ok((runtime, bound, address)) => {
                let _ = sender.send(Ok(address));
                if let Err(error) = runtime.run(accept(bound), worker) {
                    log::error(format_args!("the demo origin has ended: {error}"));
                }
            }
            Err(error) => drop(sender.send(Err(error))),
        }
    };
    let refused = |error: &dyn std::fmt::Display| {
        LaunchError::Refused(format!("cannot start the demo origin: {error}"))
    };
    thread::Builder::new().name("demo-origin".into()).spawn(origin).map_err(|error| refused(&error))?;
    match receiver.recv() {
        Ok(started) => started,
        Err(error) => Err(refused(&error)),
    }
}

/// A certificate for this run, in a folder that goes with it.
pub(crate) struct Pair {
    folder: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Pair {
    /// Makes one for localhost.
    ///
    /// # Errors
    /// One line: a folder or a file that cannot be written.
    pub(crate) fn make() -> Result<Pair, String> {
        let folder = std::env::temp_dir().join(format!("sluice-demo-{}", std::process::id()));
        let cannot = |error| format!("cannot make the folder {}: {error}", folder.display());
        DirBuilder::new().mode(0o700).create(&folder).map_err(cannot)?;
        let pair = Pair { cert: folder.join("cert.pem"), key: folder.join("key.pem"), folder };
        let args = CertMakeArgs {
            host: ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into(),
            make_ca: false,
            out: None,
            cert: Some(pair.cert.clone()),
            key: Some(pair.key.clone()),
            days: Some(7),
            key_type: CertKind::Ecdsa,
            ca: None,
            ca_key: None,
            force: false,
        };
        cert::make(&args, i64::try_from(now_s()).unwrap_or(i64::MAX)).map(|_| pair)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Commands to try, once the proxy listens.
pub(crate) fn introduction(listen: &Address, origin: SocketAddr, pair: Option<&Pair>) -> String {
    let (curl, url, bench) = match pair {
        None => ("curl -i".to_owned(), format!("http://{listen}/"), String::new()),
        Some(pair) => {
            let ca = pair.cert.display();
            (format!("curl -i --cacert {ca}"), format!("https://{listen}/"), format!(" --ca {ca}"))
        }
    };
    format!(
        "An origin answers on {origin}, Sluice listens on {listen} in front of it. Try:\n\
         \n    {curl} {url}\n    {curl} {url}any/path -d 'a body'\n    \
         {curl} {url} --http1.1 -H 'Transfer-Encoding: gzip'   # refused: not understood\n    \
         sluice-bench load --url {url}{bench} --duration 5s\n\nCtrl-C ends both."
    )
}

fn make_origin() -> Result<(Runtime, BoundListener, SocketAddr), LaunchError> {
    let settings =
        Settings { buffers: 256, sockets_expected: 1024, first_byte_ms: IDLE_MS, ..Settings::default() };
    let runtime = Runtime::new(&settings)?;
    let bind = || {
        let bound = BoundListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1024)?;
        let address = bound.local()?;
        std::io::Result::Ok((bound, address))
    };
    let (bound, address) = bind().map_err(|error| {
        LaunchError::HostUnsupported(HostUnsupported::new(
            format!("the demo origin cannot listen: {error}"),
            "free a port on 127.0.0.1",
        ))
    })?;
    Ok((runtime, bound, address))
}

/// Accepts for good: the process ends the origin.
async fn accept(bound: BoundListener) {
    let _listener = Listener::start(bound, 0);
    loop {
        next_message().await;
    }
}

async fn worker() {
    let mut store = HeadStore::default();
    let clock = Clock::new();
    loop {
        let conn = next_connection().await;
        serve(Link::Plain(conn), &mut store, &clock).await;
    }
}

/// Answers requests until the connection is idle or done. Only the proxy connects here, so bodies are what it frames.
async fn serve(link: Link, store: &mut HeadStore, clock: &Clock) {
    let mut inbox = Inbox::default();
    loop {
        let mut answer = Buf::small();
        let date = |head: &str, is_head: bool, answer: &mut Buf| {
            clock.with_date(sluice_sys::now_ms(), |date| {
                write_answer(answer, 200, &[], date, AnswerBody::text(head), ConnectionField::Omit, is_head);
            });
        };
        let parsed = match parse_request(inbox.unread(), store, &HeadLimits::default()) {
            Ok(Parsed::Complete { head, bytes }) => {
                let mut text = format!(
                    "Hello from the demo origin. You asked for {} {}\n",
                    head.method, head.path_and_query
                );
                for field in head.fields() {
                    text.push_str(&format!("  {}: {}\n", field.name, String::from_utf8_lossy(field.value)));
                }
                date(&text, RequestKind::from(head.method) == RequestKind::Head, &mut answer);
                Some((bytes, head.body))
            }
            Ok(Parsed::Partial) => None,
            Err(_) => return,
        };
        if let Some((bytes, length)) = parsed {
            inbox.consume(bytes);
            if !skip_body(&link, &mut inbox, length).await || link.send(answer, IDLE_MS).await.result.is_err()
            {
                return;
            }
        }
        if inbox.is_empty() {
            match link.transport().is_quiet() {
                true => return drop(link.into_transport().park(IDLE_MS)),
                false if !inbox.receive(&link).await.unwrap_or(false) => return,
                false => {}
            }
        } else if parsed.is_none() && !inbox.receive(&link).await.unwrap_or(false) {
            return;
        }
    }
}

async fn skip_body(link: &Link, inbox: &mut Inbox, length: sluice_proto::BodyLength) -> bool {
    let progress = BodyProgress::new(Framing::of_request(length), u64::MAX, MinRate::by_pauses(IDLE_MS));
    let mut body = BodyReader { link, inbox, progress, side: Side::Downstream };
    loop {
        match body.ready_part(ChunkForm::Decoded) {
            Ok(Some(Part::End)) => return true,
            Ok(Some(_)) => {}
            Ok(None) if body.more().await.is_ok() => {}
            _ => return false,
        }
    }
}
