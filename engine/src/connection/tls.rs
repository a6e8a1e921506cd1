//! A connection over TLS: received records are opened in the buffer they lie in, sent bytes are sealed straight from their source.
//!
//! Between two requests only a [`TlsSession`] is left of it. What the ciphers work with, and the part of a record that has not
//! all arrived, exist while the connection is busy ([`Busy`]) and come from a stock of the shard.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io;
use std::mem::MaybeUninit;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use sluice_proto::h1::{CertificateIdentity, TlsIdentity};
use sluice_sys::{Buf, Conn, LEASES_MAX, Lease, Leases, Patience, SealingKeys, Sending};
use sluice_tls::certificates::PeerCertificate;
use sluice_tls::handshake::{Alpn, CertificateId, ClientTickets, Established};
use sluice_tls::record::{self, Contexts, Control, Direction, Fault, HEADER_BYTES, Opened, Version};

use super::link::Data;

/// Room that the body of a record in pieces begins with.
const PIECES_BYTES_MIN: usize = 4 * 1024;

/// Memory for so many sessions is allocated at once.
const SPARE_SESSIONS: usize = 128;

/// Why there is always a session.
const LENT: &str = "a session is lent for the time of one call, which does not ask for it again";

thread_local! {
    static STOCK: RefCell<Stock> = const { RefCell::new(Stock { all: Vec::new(), free: Vec::new() }) };
    static WAITING_BYTES: Cell<usize> = const { Cell::new(0) };
    /// Memory of the next sessions. Allocated many at once, since a session outlives the handshake among whose thousand pieces it
    /// would lie otherwise: holes that nothing else fits into.
    // Boxed, since each becomes a session's own.
    #[allow(clippy::vec_box)]
    static SPARE: RefCell<Vec<Box<MaybeUninit<TlsSession>>>> = const { RefCell::new(Vec::new()) };
}

/// One end of a connection over TLS, after the handshake.
pub(crate) struct Tls {
    conn: Conn,
    /// Gone while it is lent out. A cell with a flag would make an idle connection larger by that.
    session: Cell<Option<Box<TlsSession>>>,
    /// A cell hides the values that its content cannot have, by which `Link` would tell its kinds apart: this has some to spare.
    _niche: Niche,
}

/// Takes one value of a byte that would be padding.
#[repr(u8)]
enum Niche {
    Taken = 1,
}

/// What a connection keeps while it is idle: 232 bytes, of which 200 are secrets.
struct TlsSession {
    records: record::Session,
    /// What few connections have.
    aside: Option<Box<Aside>>,
    /// The name that the client asked for, if any.
    server_name: Option<NameHash>,
    /// The certificate that this name led to.
    certificate: CertificateId,
    place: Place,
}

/// Which of the stock a session uses as long as bytes are on their way, in 31 bits, and whether its protocol is HTTP/2, in the highest
/// one. A field of its own for that would make each idle connection larger by 8 bytes.
#[derive(Clone, Copy)]
struct Place(u32);

impl Place {
    const HTTP2: u32 = 1 << 31;
    /// The number of no [`Busy`]: [`Stock::take`] gives lower ones.
    const NONE: u32 = Place::HTTP2 - 1;

    fn new(is_http2: bool) -> Place {
        Place(Place::NONE | if is_http2 { Place::HTTP2 } else { 0 })
    }

    fn is_http2(self) -> bool {
        self.0 & Place::HTTP2 != 0
    }

    fn number(self) -> Option<u32> {
        Some(self.0 & Place::NONE).filter(|&number| number != Place::NONE)
    }

    /// Sets the number and returns the last one.
    fn replace(&mut self, number: Option<u32>) -> Option<u32> {
        let last = self.number();
        self.0 = self.0 & Place::HTTP2 | number.unwrap_or(Place::NONE);
        last
    }
}

/// A server name as a number, which is the same for the same name in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NameHash(pub(crate) NonZeroU64);

/// The name that a client has asked for (SNI).
#[derive(Clone, Copy, Debug)]
pub(crate) struct AskedName {
    pub(crate) name: NameHash,
    /// The certificate that it led to when the connection was opened.
    pub(crate) certificate: CertificateId,
}

/// What only some connections keep.
#[derive(Default)]
struct Aside {
    peer: Option<Arc<PeerDetails>>,
    waiting: Option<Waiting>,
}

/// What servers may be told about a client, by TLS.
#[derive(Default)]
pub(crate) struct PeerDetails {
    pub(crate) certificate: Option<PeerCertificate>,
    pub(crate) ja4: Option<Box<str>>,
}

impl PeerDetails {
    /// The same as requests say it to servers.
    pub(crate) fn identity(&self) -> TlsIdentity<'_> {
        let certificate = self.certificate.as_ref().map(|certificate| CertificateIdentity {
            subject: &certificate.subject,
            alt_names: &certificate.alt_names,
            fingerprint: &certificate.fingerprint,
        });
        TlsIdentity { certificate, ja4: self.ja4.as_deref() }
    }
}

/// The beginning of a message, between two parts of it: bytes that were opened, and the part of a record behind them.
struct Waiting {
    plaintext: Box<[u8]>,
    record: Box<[u8]>,
    pieces: u32,
}

/// What a connection needs while bytes are on their way.
#[derive(Default)]
struct Busy {
    contexts: Contexts,
    /// Received and not opened.
    received: Received,
    /// Data that was opened in search of the peer's end, for the next receive.
    ahead: Option<Buf>,
    /// A record that came in pieces.
    pieces: Pieces,
    tickets: Option<ClientTickets>,
    /// How the peer's side has ended, if it has.
    end: Option<PeerEnd>,
    /// Neither alerts nor data follow what was sent.
    is_closed: bool,
}

/// Those of a shard.
struct Stock {
    // Boxed, since they stay where they are as others are added.
    #[allow(clippy::vec_box)]
    all: Vec<Box<Busy>>,
    free: Vec<u32>,
}

/// How a peer's side has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PeerEnd {
    /// By its alert for that.
    Closed,
    /// By an alert of another kind, which says that it has given up.
    Aborted,
    /// By what it has sent.
    Fault(Fault),
}

/// Bytes that were received.
#[derive(Default)]
enum Received {
    #[default]
    Nothing,
    /// In the buffer they came in.
    Lease(Lease),
    /// Copied from there, without the first `start` ones.
    Copied { buf: Buf, start: usize },
}

/// A record that came in pieces: its header, and as much of its body as there is.
#[derive(Default)]
struct Pieces {
    header: [u8; HEADER_BYTES],
    header_bytes: usize,
    body: Option<Buf>,
}

/// What is owed to the peer.
enum Reply {
    Sealed(Buf),
    ForKernel(Control),
}

/// What is next among the bytes that were received.
enum Next {
    Data(Data),
    /// The peer has ended its side properly.
    End,
    /// More bytes are needed.
    Nothing,
}

impl Tls {
    /// A connection whose handshake is over; `rest` of the received bytes belongs to the session.
    pub(crate) fn new(
        conn: Conn,
        established: Established,
        asked: Option<AskedName>,
        peer: PeerDetails,
        rest: &[u8],
    ) -> Tls {
        let has_details = peer.certificate.is_some() || peer.ja4.is_some();
        let aside = || Box::new(Aside { peer: Some(Arc::new(peer)), waiting: None });
        let mut session = TlsSession {
            records: established.session,
            aside: has_details.then(aside),
            server_name: asked.map(|asked| asked.name),
            certificate: asked.map_or_else(CertificateId::default, |asked| asked.certificate),
            place: Place::new(established.alpn == Some(Alpn::Http2)),
        };
        session.with_busy(|_, busy| {
            busy.tickets = established.tickets;
            busy.received = Received::copy(rest);
        });
        Tls::over(conn, session.boxed())
    }

    /// A connection that was parked with a session.
    ///
    /// # Errors
    /// Hands both back if that is of another kind.
    pub(crate) fn resume(conn: Conn, state: Box<dyn Any>) -> Result<Tls, (Conn, Box<dyn Any>)> {
        match state.downcast() {
            Ok(session) => Ok(Tls::over(conn, session)),
            Err(state) => Err((conn, state)),
        }
    }

    /// Parks the connection between two messages. Hands it back when there is more to read after all.
    pub(crate) fn park(self, idle_ms: u64) -> Result<(), Tls> {
        if self.has_received() || self.has_ended() {
            return Err(self);
        }
        let mut session = self.session.into_inner().expect(LENT);
        session.rest();
        let parked = self.conn.park_session(session, idle_ms);
        parked.map_err(|(conn, session)| Tls::resumed(conn, session))
    }

    /// The socket, and the state that [`Tls::resume`] wants with it; hands it back when there is more to read.
    pub(crate) fn into_parts(self) -> Result<(Conn, Box<dyn Any>), Tls> {
        if self.has_received() || self.has_ended() {
            return Err(self);
        }
        let mut session = self.session.into_inner().expect(LENT);
        session.rest();
        Ok((self.conn, session))
    }

    /// Parks it in the middle of a message, of which these bytes were opened. Its deadline stays.
    pub(crate) fn park_waiting(self, plaintext: &[u8], pieces: u32) -> Result<(), Tls> {
        if !self.conn.is_quiet() || self.conn.is_late() || self.has_ended() {
            return Err(self);
        }
        let mut session = self.session.into_inner().expect(LENT);
        session.keep_waiting(plaintext, pieces);
        let left_ms = self.conn.deadline_in_ms();
        let parked = self.conn.park_with_state(session, left_ms);
        parked.map_err(|(conn, session)| Tls::resumed(conn, session))
    }

    fn resumed(conn: Conn, session: Box<dyn Any>) -> Tls {
        Tls::over(conn, session.downcast().expect("what could not be parked comes back"))
    }

    fn over(conn: Conn, session: Box<TlsSession>) -> Tls {
        Tls { conn, session: Cell::new(Some(session)), _niche: Niche::Taken }
    }

    fn with_session<R>(&self, work: impl FnOnce(&mut TlsSession) -> R) -> R {
        let mut session = self.session.take().expect(LENT);
        let result = work(&mut session);
        self.session.set(Some(session));
        result
    }

    /// The beginning of a message that it was parked with.
    pub(crate) fn take_waiting(&self) -> Option<(Buf, u32)> {
        let waiting = self.with_session(|session| {
            let waiting = session.aside.as_mut()?.waiting.take()?;
            if !waiting.record.is_empty() {
                session.with_busy(|_, busy| busy.received = Received::copy(&waiting.record));
            }
            Some(waiting)
        })?;
        let mut plaintext = Buf::tiny(waiting.plaintext.len());
        plaintext.extend_from_slice(&waiting.plaintext);
        Some((plaintext, waiting.pieces))
    }

    pub(crate) fn conn(&self) -> &Conn {
        &self.conn
    }

    pub(crate) fn into_conn(self) -> Conn {
        self.conn
    }

    /// Whether HTTP/2 was agreed on by ALPN.
    //= https://www.rfc-editor.org/rfc/rfc9113#section-3.2
    pub(crate) fn is_http2(&self) -> bool {
        self.with_session(|session| session.place.is_http2())
    }

    /// The name that the client has asked for.
    pub(crate) fn asked(&self) -> Option<AskedName> {
        self.with_session(|session| {
            Some(AskedName { name: session.server_name?, certificate: session.certificate })
        })
    }

    /// What servers may be told about the client; nothing of most.
    pub(crate) fn peer(&self) -> Option<Arc<PeerDetails>> {
        self.with_session(|session| session.aside.as_ref()?.peer.clone())
    }

    /// Whether bytes were received that are not opened yet, such as a part of a record.
    pub(crate) fn has_received(&self) -> bool {
        self.with_session(|session| session.is_busy() && session.with_busy(|_, busy| busy.has_received()))
    }

    /// Whether the peer's side is known to have ended: no further byte would say so to a connection that is parked.
    pub(crate) fn has_ended(&self) -> bool {
        self.with_session(|session| session.is_busy() && session.with_busy(|_, busy| busy.end.is_some()))
    }

    /// The next bytes; `None` once the peer has ended its side properly.
    pub(crate) fn poll_receive(&self, context: &mut Context<'_>) -> Poll<io::Result<Option<Data>>> {
        loop {
            match self.open_next()? {
                Next::Data(data) => return Poll::Ready(Ok(Some(data))),
                Next::End => return Poll::Ready(Ok(None)),
                Next::Nothing => {}
            }
            match ready!(Pin::new(&mut self.conn.receive()).poll(context))? {
                Some(lease) => self.received(lease),
                // Without its alert, an end may be an attacker's: it ends no message.
                //= https://www.rfc-editor.org/rfc/rfc8446#section-6.1
                None => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            }
        }
    }

    /// The same for a connection that is silent most of the time: while it is, it needs no more than an idle one.
    pub(crate) fn poll_receive_or_rest(&self, context: &mut Context<'_>) -> Poll<io::Result<Option<Data>>> {
        let polled = self.poll_receive(context);
        if polled.is_pending() && !self.has_received() {
            self.with_session(TlsSession::rest);
        }
        polled
    }

    /// Bytes that have arrived already, if any.
    pub(crate) fn receive_ready(&self) -> Option<Data> {
        loop {
            // An end and a fault are found again by a receive that waits.
            match self.open_next().ok()? {
                Next::Data(data) => return Some(data),
                Next::End => return None,
                Next::Nothing => {}
            }
            self.received(self.conn.receive_ready()?);
        }
    }

    /// Whether the peer has ended its side, properly or not, as far as what has arrived tells. Data before that stays for the next
    /// receive; behind data the end is not looked for.
    #[cold]
    pub(crate) fn has_end_arrived(&self) -> bool {
        if self.with_session(|session| session.is_busy() && session.with_busy(|_, busy| busy.ahead.is_some()))
        {
            return false;
        }
        let keep = |data: &Data| {
            let mut ahead = Buf::with_room(data.bytes().len());
            ahead.extend_from_slice(data.bytes());
            self.with_session(|session| session.with_busy(|_, busy| busy.ahead = Some(ahead)));
        };
        loop {
            match self.open_next() {
                Ok(Next::Data(data)) => {
                    keep(&data);
                    return false;
                }
                Ok(Next::End) | Err(_) => return true,
                Ok(Next::Nothing) => {}
            }
            match self.conn.receive_ready() {
                Some(lease) => self.received(lease),
                None => return false,
            }
        }
    }

    /// Moves what was received and is still sealed to memory of its own.
    pub(crate) fn release_buffers(&self) {
        self.with_session(|session| {
            if !session.is_busy() {
                return;
            }
            session.with_busy(|_, busy| {
                if let Received::Lease(lease) = &busy.received {
                    busy.received = Received::copy(lease);
                }
            });
        });
    }

    /// Gives up what only a busy connection needs, if nothing was received that is not taken yet.
    pub(crate) fn rest(&self) -> bool {
        // A ticket may be left behind a message.
        if !matches!(self.open_next(), Ok(Next::Nothing)) || self.has_received() {
            return false;
        }
        self.with_session(TlsSession::rest);
        true
    }

    fn received(&self, lease: Lease) {
        self.with_session(|session| session.with_busy(|_, busy| busy.received = Received::Lease(lease)));
    }

    /// Opens records until one has data.
    fn open_next(&self) -> io::Result<Next> {
        let (next, reply) = self.with_session(|session| {
            if !session.is_busy() {
                return (Ok(Next::Nothing), None);
            }
            let is_sending = || self.conn.is_sending();
            session.with_busy(|records, busy| {
                let next = busy.open_next(records);
                let reply = busy.reply(records, next.as_ref().err(), is_sending);
                (next, reply)
            })
        });
        match reply {
            None => {}
            Some(Reply::Sealed(reply)) => self.conn.send(reply, super::LINGER_MS).detach(),
            Some(Reply::ForKernel(control)) => self.send_control(control),
        }
        next.map_err(PeerEnd::into_error)
    }

    /// Has the kernel seal what is sent from now on, where so many bytes are about to be. Says whether it does, which is no news
    /// if it did before; nothing changes while something else has to be sent first.
    ///
    /// # Errors
    /// Those of [`Conn::offload_sending`]; sending goes on as before.
    pub(crate) fn offload(&self, bytes: u64) -> io::Result<bool> {
        self.with_session(|session| {
            if !session.records.may_go_to_kernel(bytes) || session.is_closed() || self.conn.is_sending() {
                return Ok(false);
            }
            let keys = session.records.kernel_keys(Direction::Sealing);
            self.conn.offload_sending(&SealingKeys {
                version: if keys.version == Version::Tls13 { 0x0304 } else { 0x0303 },
                algorithm: keys.suite.algorithm(),
                key: keys.key,
                iv: keys.iv,
                sequence: keys.sequence,
            })?;
            session.records.go_to_kernel();
            Ok(true)
        })
    }

    /// Whether the kernel seals what is sent.
    pub(crate) fn is_offloaded(&self) -> bool {
        self.with_session(|session| session.records.is_in_kernel())
    }

    /// The socket for so many bytes as they are, which are counted; `None` if they have to be sealed here, or may not be sent.
    pub(crate) fn offloaded(&self, bytes: usize) -> Option<&Conn> {
        self.with_session(|session| session.records.count_in_kernel(bytes as u64)).then_some(&self.conn)
    }

    /// Whether the kernel's key, which it keeps, should get no further response to seal.
    pub(crate) fn is_key_worn(&self) -> bool {
        self.with_session(|session| session.records.is_in_kernel() && session.records.is_key_half_used())
    }

    fn send_control(&self, control: Control) {
        let mut content = Buf::tiny(control.content.len());
        content.extend_from_slice(&control.content);
        self.conn.send_record(control.content_type, content, super::LINGER_MS).detach();
    }

    /// Sends bytes, sealed into as few records as they take; says also how many bytes go out.
    pub(crate) fn send(&self, parts: &[&[u8]], patience: Patience) -> (Sending, usize) {
        let sealed = self.with_session(|session| session.seal(parts));
        let Some(sealed) = sealed else {
            // The key is worn out, which takes 16 million records: nothing more can be sent.
            self.conn.shutdown_write();
            return (self.conn.send(Buf::tiny(0), patience), 0);
        };
        let count = sealed.len();
        (self.conn.send(sealed, patience), count)
    }

    /// Sends a head, if there is one, and received bytes behind it.
    pub(crate) fn send_behind(&self, head: Option<&Buf>, mut parts: Leases, patience: Patience) -> Sending {
        let count = parts.len();
        // The last one comes first.
        let leases: [Option<Lease>; LEASES_MAX] = std::array::from_fn(|_| parts.pop());
        let mut all: [&[u8]; LEASES_MAX + 1] = [&[]; LEASES_MAX + 1];
        all[0] = head.map_or(&[][..], |head| head);
        for (at, lease) in leases[..count].iter().rev().enumerate() {
            all[at + 1] = lease.as_deref().unwrap_or_default();
        }
        self.send(&all[..=count], patience).0
    }

    /// Sends the last bytes of the connection, and the alert that ends our side.
    pub(crate) fn send_last(&self, bytes: &[u8], patience: Patience) -> Sending {
        let sealed = self.with_session(|session| {
            let mut sealed = session.seal(&[bytes]).unwrap_or_else(|| Buf::tiny(0));
            session.append_close(&mut sealed);
            sealed
        });
        self.conn.send_last(sealed, patience)
    }

    /// Ends our side: nothing is sent any more.
    pub(crate) fn close(&self) {
        if self.is_offloaded() {
            let control = self.with_session(TlsSession::close_in_kernel);
            return control.into_iter().for_each(|control| self.send_control(control));
        }
        let mut alert = Buf::tiny(64);
        self.with_session(|session| session.append_close(&mut alert));
        if !alert.is_empty() {
            self.conn.send(alert, super::LINGER_MS).detach();
        }
    }
}

impl TlsSession {
    fn boxed(self) -> Box<TlsSession> {
        let spare = SPARE.with_borrow_mut(|spare| {
            if spare.is_empty() {
                spare.extend((0..SPARE_SESSIONS).map(|_| Box::new_uninit()));
            }
            spare.pop().expect("some were just made")
        });
        Box::write(spare, self)
    }

    /// Lends it what it needs while bytes are on their way, which it keeps until it rests.
    fn with_busy<R>(&mut self, work: impl FnOnce(&mut record::Session, &mut Busy) -> R) -> R {
        STOCK.with_borrow_mut(|stock| {
            let number = self.place.number().unwrap_or_else(|| stock.take());
            self.place.replace(Some(number));
            work(&mut self.records, &mut stock.all[number as usize])
        })
    }

    fn is_busy(&self) -> bool {
        self.place.number().is_some()
    }

    /// Gives up all that an idle connection does not need.
    fn rest(&mut self) {
        if let Some(number) = self.place.replace(None) {
            // A thread that is ending has no stock any more.
            let left = STOCK.try_with(|stock| stock.borrow_mut().give_back(number));
            // Leases go back to the ring while nothing is borrowed.
            drop(left);
        }
    }

    /// Keeps the beginning of a message, and as little beside it as an idle connection.
    fn keep_waiting(&mut self, plaintext: &[u8], pieces: u32) {
        let record =
            if self.is_busy() { self.with_busy(|_, busy| busy.take_record()) } else { Box::default() };
        self.rest();
        let waiting = Waiting::new(plaintext.into(), record, pieces);
        self.aside.get_or_insert_default().waiting = Some(waiting);
    }

    /// The parts in records; `None` if nothing can be sent any more.
    fn seal(&mut self, parts: &[&[u8]]) -> Option<Buf> {
        self.with_busy(|records, busy| {
            let bytes = parts.iter().map(|part| records.sealed_bytes_max(part.len())).sum();
            let mut sealed = Buf::with_room(bytes);
            let is_open = !busy.is_closed;
            let is_open = is_open && !records.is_in_kernel();
            (is_open && records.seal_parts(&mut busy.contexts, parts, &mut sealed).is_ok()).then_some(sealed)
        })
    }

    /// Neither alerts nor data follow what was sent.
    fn is_closed(&mut self) -> bool {
        self.is_busy() && self.with_busy(|_, busy| busy.is_closed)
    }

    fn close_in_kernel(&mut self) -> Option<Control> {
        self.with_busy(|records, busy| {
            let was_closed = std::mem::replace(&mut busy.is_closed, true);
            records.close_in_kernel().filter(|_| !was_closed)
        })
    }

    fn append_close(&mut self, out: &mut Buf) {
        self.with_busy(|records, busy| {
            if !std::mem::replace(&mut busy.is_closed, true) {
                records.close(&mut busy.contexts, out);
            }
        });
    }
}

impl Drop for TlsSession {
    fn drop(&mut self) {
        self.rest();
    }
}

impl Stock {
    fn take(&mut self) -> u32 {
        if let Some(number) = self.free.pop() {
            return number;
        }
        self.all.push(Box::default());
        self.free.reserve(self.all.capacity());
        let number = self.all.len() as u32 - 1;
        assert!(number < Place::NONE, "more connections than there can be descriptors");
        number
    }

    /// Takes it back; returns what is left of the connection's in it.
    fn give_back(&mut self, number: u32) -> (Received, Pieces, Option<ClientTickets>) {
        let busy = &mut self.all[number as usize];
        busy.contexts.clear();
        (busy.end, busy.is_closed) = (None, false);
        let left =
            (std::mem::take(&mut busy.received), std::mem::take(&mut busy.pieces), busy.tickets.take());
        self.free.push(number);
        left
    }
}

impl Busy {
    /// Opens records until one has data.
    fn open_next(&mut self, records: &mut record::Session) -> Result<Next, PeerEnd> {
        if let Some(data) = self.ahead.take() {
            return Ok(Next::Data(Data::Buf(data)));
        }
        if let Some(end) = self.end {
            return if end == PeerEnd::Closed { Ok(Next::End) } else { Err(end) };
        }
        let next = self.open_until_data(records);
        self.end = match &next {
            Ok(Next::End) => Some(PeerEnd::Closed),
            Ok(_) => None,
            Err(end) => Some(*end),
        };
        next
    }

    fn open_until_data(&mut self, records: &mut record::Session) -> Result<Next, PeerEnd> {
        while let Some((opened, data)) = self.open_record(records)? {
            match opened {
                Opened::Data(_) if data.bytes().is_empty() => {}
                Opened::Data(_) => return Ok(Next::Data(data)),
                Opened::Nothing => {}
                Opened::Ticket(message) => {
                    let further = std::iter::from_fn(|| records.next_ticket());
                    if let Some(tickets) = &mut self.tickets {
                        std::iter::once(message).chain(further).for_each(|ticket| tickets.store(&ticket));
                    }
                }
                Opened::Closed => return Ok(Next::End),
                Opened::Aborted(_) => return Err(PeerEnd::Aborted),
            }
        }
        Ok(Next::Nothing)
    }

    /// What is owed to the peer and has to be sent by itself: a reply, or the alert for its fault.
    fn reply(
        &mut self,
        records: &mut record::Session,
        end: Option<&PeerEnd>,
        is_sending: impl FnOnce() -> bool,
    ) -> Option<Reply> {
        // A reply can wait for what is sent next, and does behind what the peer takes slowly.
        let is_due = end.is_some() || (records.owes_reply() && !is_sending());
        if !is_due || self.is_closed {
            return None;
        }
        self.is_closed = end.is_some();
        if let (Some(PeerEnd::Fault(fault)), true) = (end, records.is_in_kernel()) {
            return records.alert_in_kernel(*fault).map(Reply::ForKernel);
        }
        let mut out = Buf::tiny(128);
        match end {
            None => records.reply(&mut self.contexts, &mut out),
            Some(PeerEnd::Fault(fault)) => records.alert(&mut self.contexts, *fault, &mut out),
            Some(_) => return None,
        }
        Some(Reply::Sealed(out))
    }

    fn has_received(&self) -> bool {
        !self.received.bytes().is_empty() || self.pieces.header_bytes > 0 || self.ahead.is_some()
    }

    /// Opens the record at the front; `None` if it is not all there.
    fn open_record(&mut self, records: &mut record::Session) -> Result<Option<(Opened, Data)>, Fault> {
        match self.take_whole()? {
            Some(lease) => self.open_in_place(records, lease).map(Some),
            None => self.open_pieces(records),
        }
    }

    /// The record at the front, if all of it lies in one receive buffer.
    fn take_whole(&mut self) -> Result<Option<Lease>, Fault> {
        let Received::Lease(lease) = &mut self.received else { return Ok(None) };
        if self.pieces.header_bytes > 0 {
            return Ok(None);
        }
        let Some(bytes) = record::record_bytes(lease)?.filter(|&bytes| bytes <= lease.len()) else {
            return Ok(None);
        };
        let whole = lease.split_to(bytes);
        if lease.is_empty() {
            self.received = Received::Nothing;
        }
        Ok(Some(whole))
    }

    fn open_in_place(
        &mut self,
        records: &mut record::Session,
        mut lease: Lease,
    ) -> Result<(Opened, Data), Fault> {
        let opened = records.open(&mut self.contexts, &mut lease)?;
        if let Opened::Data(range) = &opened {
            lease.truncate(range.end);
            lease.advance(range.start);
        }
        Ok((opened, Data::Lease(lease)))
    }

    /// The same for a record that came in pieces: they are copied together, and opened there.
    fn open_pieces(&mut self, records: &mut record::Session) -> Result<Option<(Opened, Data)>, Fault> {
        let used = self.pieces.add(self.received.bytes())?;
        self.received.advance(used);
        let Some((header, mut body)) = self.pieces.take_whole()? else { return Ok(None) };
        let opened = records.open_body(&mut self.contexts, header, &mut body)?;
        if let Opened::Data(range) = &opened {
            body.truncate(range.end);
            // Behind the explicit nonce of TLS 1.2.
            body.drain(..range.start);
        }
        Ok(Some((opened, Data::Buf(body))))
    }

    /// What was received of a record.
    fn take_record(&mut self) -> Box<[u8]> {
        let header = &self.pieces.header[..self.pieces.header_bytes];
        let body = self.pieces.body.as_ref().map_or(&[][..], |body| body);
        let record = [header, body, self.received.bytes()].concat().into();
        self.pieces = Pieces::default();
        self.received = Received::Nothing;
        record
    }
}

impl Received {
    fn copy(bytes: &[u8]) -> Received {
        if bytes.is_empty() {
            return Received::Nothing;
        }
        let mut buf = Buf::tiny(bytes.len());
        buf.extend_from_slice(bytes);
        Received::Copied { buf, start: 0 }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Received::Nothing => &[],
            Received::Lease(lease) => lease,
            Received::Copied { buf, start } => &buf[*start..],
        }
    }

    /// The first `count` bytes are used.
    fn advance(&mut self, count: usize) {
        let is_used_up = count == self.bytes().len();
        match self {
            _ if is_used_up => *self = Received::Nothing,
            Received::Nothing => {}
            Received::Lease(lease) => lease.advance(count),
            Received::Copied { start, .. } => *start += count,
        }
    }
}

impl Pieces {
    /// Takes as many bytes as belong to the record off the front; says how many.
    fn add(&mut self, front: &[u8]) -> Result<usize, Fault> {
        let of_header = (HEADER_BYTES - self.header_bytes).min(front.len());
        self.header[self.header_bytes..][..of_header].copy_from_slice(&front[..of_header]);
        self.header_bytes += of_header;
        let Some(wanted) = self.body_bytes()? else { return Ok(of_header) };
        let front = &front[of_header..];
        let body = self.body.get_or_insert_with(|| {
            // Room as it comes: a length is only what the peer says.
            Buf::with_room(wanted.min(PIECES_BYTES_MIN.max(2 * front.len())))
        });
        let of_body = (wanted - body.len()).min(front.len());
        body.extend_from_slice(&front[..of_body]);
        Ok(of_header + of_body)
    }

    /// How many bytes the body has, as soon as the header is there.
    fn body_bytes(&self) -> Result<Option<usize>, Fault> {
        let bytes = record::record_bytes(&self.header[..self.header_bytes])?;
        Ok(bytes.map(|bytes| bytes - HEADER_BYTES))
    }

    /// The record, when all of it is there.
    fn take_whole(&mut self) -> Result<Option<([u8; HEADER_BYTES], Buf)>, Fault> {
        let Some(wanted) = self.body_bytes()? else { return Ok(None) };
        if self.body.as_ref().is_none_or(|body| body.len() < wanted) {
            return Ok(None);
        }
        self.header_bytes = 0;
        Ok(self.body.take().map(|body| (self.header, body)))
    }
}

impl Waiting {
    fn new(plaintext: Box<[u8]>, record: Box<[u8]>, pieces: u32) -> Waiting {
        WAITING_BYTES.set(WAITING_BYTES.get() + plaintext.len() + record.len());
        Waiting { plaintext, record, pieces }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let bytes = self.plaintext.len() + self.record.len();
        WAITING_BYTES.set(WAITING_BYTES.get() - bytes);
    }
}

impl From<Fault> for PeerEnd {
    fn from(fault: Fault) -> PeerEnd {
        PeerEnd::Fault(fault)
    }
}

impl PeerEnd {
    fn into_error(self) -> io::Error {
        match self {
            PeerEnd::Closed => io::ErrorKind::UnexpectedEof.into(),
            PeerEnd::Aborted => io::ErrorKind::ConnectionAborted.into(),
            PeerEnd::Fault(_) => io::ErrorKind::InvalidData.into(),
        }
    }
}

/// Bytes that parked connections of this shard have sent of messages that are not complete.
pub(crate) fn waiting_bytes() -> usize {
    WAITING_BYTES.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With the allocator's header these make 240 bytes, and with the entry in the ring's table and the place of the state 308 of
    /// an idle connection.
    #[test]
    fn an_idle_session_is_small() {
        let bytes = size_of::<TlsSession>();
        assert!(bytes <= 232, "{bytes}");
        assert!(size_of::<super::super::link::Link>() <= 16);
    }

    #[test]
    fn a_place_keeps_its_protocol_while_numbers_come_and_go() {
        for is_http2 in [false, true] {
            let mut place = Place::new(is_http2);
            let mut last = None;
            for number in [Some(0), Some(Place::NONE - 1), None, Some(7), None, None] {
                assert_eq!(place.replace(number), last);
                assert_eq!((place.number(), place.is_http2()), (number, is_http2));
                last = number;
            }
        }
    }
}
