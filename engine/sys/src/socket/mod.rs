//! Handles on sockets: what connection code works with. A handle is an index into the socket table; dropping it
//! closes the socket.
//!
//! Sockets are non-blocking, for splice(2), which looks at the socket's mode and not at its own flag. The ring waits all
//! the same: its sends and receives heed MSG_DONTWAIT only (checked by a test on 6.1, 6.12 and 6.18).

mod calls;
mod listener;
mod operation;
mod timer;
mod unix;

use std::any::Any;
use std::future::poll_fn;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::task::{Poll, ready};

pub(crate) use self::calls::{
    Peeked, accept_queued, check, disconnect, is_connected, peek, peer_of, set_option, shutdown_both,
    shutdown_write,
};
use self::calls::{bind, has_ended, has_hung_up, name_of, tcp_socket, unacknowledged};
pub(crate) use self::listener::{BEHIND_BALANCER, SHARED};
pub use self::listener::{BoundListener, ListenOn, Listener};
use self::operation::Operation;
pub use self::operation::{Ready, Receive, Sending, Sent};
pub use self::timer::{Timer, sleep};
pub use self::unix::SocketFile;
use crate::address::Address;
use crate::buf::Buf;
use crate::connect_error::ConnectError;
use crate::driver;
use crate::lease::{Lease, Part};
use crate::op::Payload;
use crate::patience::Patience;
use crate::side_tables::ProxiedAddresses;
use crate::table::Flags;

/// How often a connection that cannot be watched by its receive is looked at.
const HANG_UP_LOOK_MS: u64 = 250;

/// A connection. Eight bytes or less, on its own thread; everything else about it is in the socket table.
pub struct Conn {
    index: u32,
    _on_this_thread: PhantomData<*const u8>,
}

impl Conn {
    pub(crate) fn from_index(index: u32) -> Conn {
        Conn { index, _on_this_thread: PhantomData }
    }

    /// Connects to an address, within `timeout_ms` (0: as long as the kernel tries).
    ///
    /// # Errors
    /// The errors of socket(2) and connect(2); ETIMEDOUT also when the time is over.
    pub async fn connect(address: SocketAddr, timeout_ms: u64) -> Result<Conn, ConnectError> {
        Conn::connect_with(None, None, address, timeout_ms).await
    }

    /// Like [`Conn::connect`], from a source address (port 0: any).
    ///
    /// # Errors
    /// As [`Conn::connect`], or what bind(2) says.
    pub async fn connect_from(
        source: Option<SocketAddr>,
        address: SocketAddr,
        timeout_ms: u64,
    ) -> Result<Conn, ConnectError> {
        Conn::connect_with(None, source, address, timeout_ms).await
    }

    async fn connect_with(
        held: Option<Box<dyn Any>>,
        source: Option<SocketAddr>,
        address: SocketAddr,
        timeout_ms: u64,
    ) -> Result<Conn, ConnectError> {
        let fd = tcp_socket(&address)?;
        set_option(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
        set_option(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_OOBINLINE, 1)?;
        if let Some(source) = source {
            // The port is picked when the peer is known, so that ports can serve several peers.
            set_option(fd.as_raw_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
            bind(fd.as_raw_fd(), &source)?;
        }
        let raw = std::os::fd::IntoRawFd::into_raw_fd(fd);
        let conn = Conn::from_index(driver::with(|driver| driver.open_socket(raw)));
        if let Some(held) = held {
            driver::with(|driver| driver.hold(conn.index, held));
        }
        let op = driver::with(|driver| driver.connect(conn.index, &address, timeout_ms));
        let (result, _) = Operation::new(op).await;
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result).into());
        }
        // Not before: connecting does heed the mode.
        // SAFETY: F_SETFL takes an int; sockets have no other status flag that we set.
        unsafe { libc::fcntl(conn.fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        Ok(conn)
    }

    /// Connects to an address of any kind, over TCP from `source` if there is one (see [`Conn::connect_from`]).
    ///
    /// # Errors
    /// As [`Conn::connect_from`]. A Unix socket: ENOENT and EACCES of its path, and ECONNREFUSED when nothing listens there.
    pub async fn connect_to(
        source: Option<SocketAddr>,
        address: &Address,
        timeout_ms: u64,
    ) -> Result<Conn, ConnectError> {
        Conn::connect_holding(None, source, address, timeout_ms).await
    }

    /// Like [`Conn::connect_to`], with something that is kept as long as the peer may have the connection, or an attempt at one: until
    /// it has ended it too, or was reset because it had not done so in time. It is dropped by the loop of this thread.
    ///
    /// # Errors
    /// As [`Conn::connect_to`].
    pub async fn connect_holding(
        held: Option<Box<dyn Any>>,
        source: Option<SocketAddr>,
        address: &Address,
        timeout_ms: u64,
    ) -> Result<Conn, ConnectError> {
        match address {
            Address::Inet(address) => Conn::connect_with(held, source, *address, timeout_ms).await,
            // Boxed: the usual connection has no use for its state.
            Address::Unix(address) => Box::pin(unix::connect(held, address, timeout_ms)).await,
        }
    }

    /// The next bytes, in a buffer the kernel picked; `None` once the peer has finished sending.
    ///
    /// # Errors
    /// `TimedOut` when the deadline has passed, else what recv(2) says.
    pub fn receive(&self) -> Receive<'_> {
        Receive { conn: self }
    }

    /// Bytes that have arrived already, if any.
    pub fn receive_ready(&self) -> Option<Lease> {
        let lease = driver::with(|driver| driver.receive_ready(self.index))?;
        Some(Lease::from_raw(lease))
    }

    /// Whether no bytes and no end have arrived that are not taken yet.
    pub fn is_quiet(&self) -> bool {
        driver::with(|driver| driver.is_quiet(self.index))
    }

    /// The same also of what no receive has taken out of the socket, by a system call.
    pub fn is_quiet_by_peek(&self) -> bool {
        self.is_quiet() && peek(self.fd()) == Peeked::Nothing
    }

    /// Whether the peer has sent bytes that were not taken, in a buffer or still in the socket: what closing would answer
    /// with a reset. By a system call, unless the answer is known without one.
    pub fn has_unread(&self) -> bool {
        driver::with(|driver| driver.has_unread(self.index))
    }

    /// Sends all of a buffer, after earlier sends of this connection. Starts at once; the future is for its end.
    /// Dropping the future lets the send go on. Cancelled when it takes longer than `patience`: a number of milliseconds
    /// without progress (0: never), or a [`Patience`].
    pub fn send(&self, buf: Buf, patience: impl Into<Patience>) -> Sending {
        self.start_send(Payload::SendBuf { buf, sent: 0 }, patience.into())
    }

    /// Like [`Conn::send`], for the last bytes of a connection: they wait in the socket for its end, and both go out in one
    /// segment. To be closed or shut as soon as they are sent. What the peer says meanwhile pushes them out, so it cannot make a
    /// reset of the end that discards them.
    pub fn send_last(&self, buf: Buf, patience: impl Into<Patience>) -> Sending {
        let (payload, patience) = (Payload::SendBuf { buf, sent: 0 }, patience.into());
        Sending(Operation::new(driver::with(|driver| driver.send_last(self.index, payload, patience))))
    }

    /// Like [`Conn::send`], for received bytes: they go out of the buffer they came in.
    pub fn send_lease(&self, lease: Lease, patience: impl Into<Patience>) -> Sending {
        self.start_send(Payload::SendLease(lease.into_raw()), patience.into())
    }

    /// Like [`Conn::send`], for a head and what follows it in other buffers, in one operation: the bytes of `body` go out of
    /// the buffers they are in. The head comes back with the end of the send; the body is dropped then.
    pub fn send_with(&self, head: Buf, body: impl Into<Part>, patience: impl Into<Patience>) -> Sending {
        self.start_send(body.into().behind(head), patience.into())
    }

    pub(crate) fn start_send(&self, payload: Payload, patience: Patience) -> Sending {
        Sending(Operation::new(driver::with(|driver| driver.send(self.index, payload, patience))))
    }

    /// Waits until no send of this connection is under way, detached ones included.
    pub async fn flushed(&self) {
        poll_fn(|_| self.poll_flushed()).await;
    }

    /// The same for a task that has no room for a future; while one is under way, it is polled again when that has ended.
    pub fn poll_flushed(&self) -> Poll<()> {
        driver::with(|driver| driver.poll_flushed(self.index))
    }

    /// Whether a send is under way.
    pub fn is_sending(&self) -> bool {
        driver::with(|driver| driver.is_sending(self.index))
    }

    /// The connection belongs to another task from now on: those that have waited for its bytes or its failure do not any more,
    /// and are not woken for them.
    pub fn forget_waiters(&self) {
        driver::with(|driver| driver.forget_waiters(self.index));
    }

    /// Receives into a buffer of ours instead of the kernel's choice: for large bodies. [`Conn::disarm`] comes first.
    /// An empty buffer is the peer's end.
    ///
    /// # Errors
    /// `TimedOut` after `stall_ms` without bytes, else what recv(2) says.
    pub async fn fill(&self, buf: Buf, bytes_max: usize, stall_ms: u64) -> io::Result<Buf> {
        let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX);
        let op = driver::with(|driver| driver.fill(self.index, buf, bytes_max, stall_ms));
        let (result, payload) = Operation::new(op).await;
        let Payload::Fill(mut buf, _) = payload else { unreachable!("fill owns a buffer") };
        let bytes = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))?;
        // SAFETY: the kernel wrote this many bytes from the start of the buffer's memory, within its capacity.
        unsafe { buf.set_len(bytes) };
        Ok(buf)
    }

    /// Takes the receive out of the kernel's hands; bytes that arrive meanwhile stay queued for [`Conn::receive`].
    /// The next `receive` puts it back.
    pub async fn disarm(&self) {
        poll_fn(|_| self.poll_disarmed()).await;
    }

    /// The same for a task that has no room for a future; until the receive is out of the kernel's hands, it is polled again when
    /// that is so. It may stop polling, or close the connection: there is nothing to cancel, since the receive belongs to the
    /// table, and a completion that comes after the close finds another generation there.
    pub fn poll_disarmed(&self) -> Poll<()> {
        driver::with(|driver| driver.poll_disarmed(self.index))
    }

    /// Waits until the connection has failed, such as by the peer's reset, for a task that waits for something else
    /// too. Bytes and the peer's end are no failure.
    pub async fn failed(&self) -> io::Error {
        let mut look = None;
        poll_fn(|_| self.poll_failed(&mut look)).await
    }

    /// The same for a task that has no room for a future; `look` is `None` at first, and goes from call to call.
    pub fn poll_failed(&self, look: &mut Option<Timer>) -> Poll<io::Error> {
        self.poll_over(look, |fd| has_hung_up(fd).then(|| io::Error::from_raw_os_error(libc::ECONNRESET)))
    }

    /// The same, where the end of what the peer sends is a failure too, whatever it has sent before: `UnexpectedEof`. Noticed at
    /// once if a receive is armed, which costs nothing more.
    pub fn poll_left(&self, look: &mut Option<Timer>) -> Poll<io::Error> {
        let left = || io::ErrorKind::UnexpectedEof.into();
        if driver::with(|driver| driver.table().at(self.index).flags.has(Flags::ENDED)) {
            return Poll::Ready(left());
        }
        self.poll_over(look, |fd| has_ended(fd).then(left))
    }

    fn poll_over(
        &self,
        look: &mut Option<Timer>,
        check: impl Fn(RawFd) -> Option<io::Error>,
    ) -> Poll<io::Error> {
        loop {
            if look.is_none()
                && let Some(errno) = ready!(driver::with(|driver| driver.poll_failed(self.index)))
            {
                return Poll::Ready(io::Error::from_raw_os_error(errno));
            }
            // No receive is armed: the peer has finished sending, or has sent ahead. The ring's poll cannot wait for a
            // hang-up alone (it reports the end of the peer's sending too, again and again), so look now and then.
            ready!(look.get_or_insert_with(|| Timer::new(HANG_UP_LOOK_MS)).poll_expired());
            *look = None;
            if let Some(error) = check(self.fd()) {
                return Poll::Ready(error);
            }
        }
    }

    /// Waits until the socket can be read: `TimedOut` after `stall_ms`, else what the kernel says.
    pub fn readable(&self, stall_ms: u64) -> Ready<'_> {
        self.ready(libc::POLLIN | libc::POLLRDHUP, stall_ms.into())
    }

    /// Waits until the socket can be written, like [`Conn::readable`].
    pub fn writable(&self, patience: impl Into<Patience>) -> Ready<'_> {
        self.ready(libc::POLLOUT, patience.into())
    }

    fn ready(&self, events: libc::c_short, patience: Patience) -> Ready<'_> {
        let op = driver::with(|driver| driver.poll_ready(self.index, events as u32, patience));
        Ready { operation: Operation::new(op), _conn: PhantomData }
    }

    /// A receive that waits longer than this from now on fails with `TimedOut`.
    pub fn set_deadline(&self, after_ms: u64) {
        driver::with(|driver| driver.set_deadline(self.index, after_ms));
    }

    /// Milliseconds until the deadline; the most there are if there is none.
    pub fn deadline_in_ms(&self) -> u64 {
        driver::with(|driver| driver.deadline_in_ms(self.index))
    }

    /// Whether the deadline has passed.
    pub fn is_late(&self) -> bool {
        driver::with(|driver| driver.table().at(self.index).flags.has(Flags::EXPIRED))
    }

    /// The same; if it has not, the task is polled again when it does, whatever else it waits for.
    pub fn poll_late(&self) -> Poll<()> {
        driver::with(|driver| driver.poll_expired(self.index))
    }

    /// Receives wait without limit.
    pub fn clear_deadline(&self) {
        driver::with(|driver| driver.clear_deadline(self.index));
    }

    /// Leaves the connection to the shard until bytes arrive, which give it to a worker (see
    /// [`next_connection`](crate::next_connection)); after `idle_ms` without any it is closed.
    ///
    /// # Errors
    /// Hands the connection back when bytes, an end or an error are there already.
    pub fn park(self, idle_ms: u64) -> Result<(), Conn> {
        if driver::with(|driver| driver.park(self.index, idle_ms)) {
            std::mem::forget(self);
            Ok(())
        } else {
            Err(self)
        }
    }

    /// Like [`Conn::park`], in the middle of a message: the worker that gets the connection next is given with it the bytes
    /// of the message that have arrived and how often it was parked with them (see
    /// [`next_partial_connection`](crate::next_partial_connection)). The deadline stays as it was set; once it has passed, a
    /// worker gets the connection although there are no bytes.
    ///
    /// # Errors
    /// Hands the connection back when bytes, an end or an error are there already, or the deadline has passed.
    pub fn park_with(self, bytes: &[u8], pieces: u32) -> Result<(), Conn> {
        if driver::with(|driver| driver.park_with(self.index, bytes, pieces)) {
            std::mem::forget(self);
            Ok(())
        } else {
            Err(self)
        }
    }

    /// Like [`Conn::park`], with a state such as a session of TLS or HTTP/2: the worker that gets the connection next gets both
    /// (see [`next_work`](crate::next_work)). Once the deadline has passed, and in a drain ([`close_idle`]), a worker gets them
    /// although there are no bytes, to end the connection properly ([`Conn::is_late`]). When the peer closes the connection
    /// instead, the state is dropped soon after, where its destructor may use connections, leases and timers. A connection with a
    /// state stays on its shard.
    ///
    /// # Errors
    /// Hands both back when bytes, an end or an error are there already.
    pub fn park_with_state(self, state: Box<dyn Any>, idle_ms: u64) -> Result<(), (Conn, Box<dyn Any>)> {
        match driver::with(|driver| driver.park_with_state(self.index, state, idle_ms)) {
            Ok(()) => {
                std::mem::forget(self);
                Ok(())
            }
            Err(state) => Err((self, state)),
        }
    }

    /// Like [`Conn::park_with_state`], with a state that goes with the connection to other shards: its destructor must not use
    /// connections or other things of a shard.
    ///
    /// # Errors
    /// Hands both back when bytes, an end or an error are there already.
    pub fn park_session(
        self,
        session: Box<dyn Any + Send>,
        idle_ms: u64,
    ) -> Result<(), (Conn, Box<dyn Any + Send>)> {
        match driver::with(|driver| driver.park_session(self.index, session, idle_ms)) {
            Ok(()) => {
                std::mem::forget(self);
                Ok(())
            }
            Err(session) => Err((self, session)),
        }
    }

    /// Keeps a connection for later: bytes, an end or `idle_ms` without use close its socket by itself. Says no when
    /// that is the case already.
    pub fn keep_idle(&self, idle_ms: u64) -> bool {
        driver::with(|driver| driver.keep_idle(self.index, idle_ms))
    }

    /// Takes a connection back into use; says whether it is still good.
    pub fn reuse(&self) -> bool {
        driver::with(|driver| driver.reuse(self.index))
    }

    /// The id of the listener that accepted the connection.
    pub fn listener(&self) -> u8 {
        driver::with(|driver| driver.table().at(self.index).listener)
    }

    /// Two numbers that stay with the connection while it is parked, on whatever shard, for its owner's use; 0 at first.
    pub fn owner_data(&self) -> (u32, u8) {
        driver::with(|driver| {
            let entry = driver.table().at(self.index);
            (entry.owner_word, entry.owner_byte)
        })
    }

    /// Sets the numbers that stay with the connection.
    pub fn set_owner_data(&self, owner_word: u32, owner_byte: u8) {
        driver::with(|driver| {
            let entry = driver.table().at(self.index);
            (entry.owner_word, entry.owner_byte) = (owner_word, owner_byte);
        });
    }

    /// Notes the ends of the connection that this one is a part of: those that a proxy in front of us has announced, or
    /// those that were announced to a server. From now on [`Conn::peer`] is `source`.
    pub fn set_proxied(&self, source: SocketAddr, destination: SocketAddr) {
        let announced = ProxiedAddresses { source, destination };
        driver::with(|driver| driver.set_proxied(self.index, announced));
    }

    /// Source and destination as they were announced, if they were.
    pub fn proxied(&self) -> Option<(SocketAddr, SocketAddr)> {
        let announced = driver::with(|driver| driver.table().proxied(self.index))?;
        Some((announced.source, announced.destination))
    }

    /// Source and destination as they were announced, else the peer's address and our own. The kernel is asked once, so
    /// that the ends cost no system call with every message; they are kept beside the table then, as if announced.
    ///
    /// # Errors
    /// The errors of getpeername(2) and getsockname(2).
    pub fn ends(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        if let Some(announced) = self.proxied() {
            return Ok(announced);
        }
        let (peer, local) = (self.peer()?, self.local()?);
        self.set_proxied(peer, local);
        Ok((peer, local))
    }

    /// The peer's address, asked of the kernel once.
    ///
    /// # Errors
    /// The error of getpeername(2).
    pub fn peer(&self) -> io::Result<SocketAddr> {
        if let Some(peer) = driver::with(|driver| driver.table().peer(self.index)) {
            return Ok(peer);
        }
        let peer = peer_of(self.fd())?;
        self.set_peer(peer);
        Ok(peer)
    }

    /// The address at the other end of the socket, whatever was announced: by a system call.
    ///
    /// # Errors
    /// The error of getpeername(2).
    pub fn remote(&self) -> io::Result<SocketAddr> {
        peer_of(self.fd())
    }

    /// Sets the peer, as a proxy in front of us announced it: from now on [`Conn::peer`] returns it, and the connection
    /// counts for that address.
    pub(crate) fn set_peer(&self, peer: SocketAddr) {
        driver::with(|driver| driver.set_peer(self.index, peer));
    }

    /// Connections that the peer's address has now, over all shards, this one included; 0 where they are not counted (see
    /// [`Runtime::count_peers`](crate::Runtime::count_peers)).
    pub fn connections_of_peer(&self) -> u32 {
        driver::with(|driver| driver.connections_of_peer(self.index))
    }

    /// Our own address on this connection.
    ///
    /// # Errors
    /// The error of getsockname(2).
    pub fn local(&self) -> io::Result<SocketAddr> {
        name_of(self.fd(), libc::getsockname)
    }

    /// Finishes sending; the peer sees the end after what was sent.
    pub fn shutdown_write(&self) {
        // SAFETY: shutdown takes no memory; a failure means the connection is gone, which receiving will tell.
        unsafe { libc::shutdown(self.fd(), libc::SHUT_WR) };
    }

    /// Closes with a reset: the peer must not take what it got for complete.
    pub fn abort(self) {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        // SAFETY: the option's value is a `linger` of the given size.
        unsafe {
            libc::setsockopt(
                self.fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const linger).cast(),
                size_of::<libc::linger>() as libc::socklen_t,
            );
        }
    }

    /// How much is received ahead of [`Conn::receive`]. From the next receive on.
    pub fn set_read_ahead(&self, ahead: ReadAhead) {
        driver::with(|driver| driver.set_read_ahead(self.index, ahead));
    }

    /// Whether the peer's kernel has acknowledged everything that was sent on this connection.
    ///
    /// # Errors
    /// The error of ioctl(2) for SIOCOUTQ.
    pub fn is_acknowledged(&self) -> io::Result<bool> {
        Ok(!self.is_sending() && unacknowledged(self.fd())? == 0)
    }

    /// Bytes the kernel has sent on this connection that the peer's kernel has not acknowledged, or not sent at all.
    ///
    /// # Errors
    /// The error of getsockopt(2) for TCP_INFO.
    pub fn unacknowledged_bytes(&self) -> io::Result<u64> {
        crate::tcp_info::unacknowledged(self.fd())
    }

    #[cfg(test)]
    pub(crate) fn id(&self) -> crate::ConnectionId {
        driver::with(|driver| driver.connection_id(self.index))
    }

    pub(crate) fn fd(&self) -> RawFd {
        driver::with(|driver| driver.table().at(self.index).fd)
    }
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Conn({})", self.index)
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        driver::try_with(|driver| driver.close(self.index));
    }
}

/// How much of what arrives is received before it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadAhead {
    /// A client's first buffer, or [`Settings::read_ahead_bytes`](crate::Settings) of a server's: cheapest for small
    /// messages, since nothing has to be armed for the next.
    Buffers,
    /// One buffer: leaves a large body in the socket, where it can be moved by [`Pipe`](crate::Pipe).
    OneBuffer,
    /// One buffer, from those that bodies may have. They are the first to run out, so that a shard full of bodies still
    /// receives the beginnings of messages.
    Body,
    /// The same with [`Settings::read_ahead_bytes`](crate::Settings) in several buffers, for a body whose reader has taken all that
    /// came before. No more is received until that is asked for.
    BodyBuffers,
}

/// Closes the connections that are parked (see [`Conn::park`]); returns how many there were.
pub fn close_idle() -> usize {
    driver::with(driver::Driver::close_idle)
}

/// Accepted connections this shard has open.
pub fn connections_open() -> u32 {
    driver::with(|driver| driver.connections)
}

/// Connections that are parked in the middle of a message (see [`Conn::park_with`]).
pub fn connections_partial() -> usize {
    driver::with(|driver| driver.partials())
}

/// Connections that are parked with a state (see [`Conn::park_with_state`]).
pub fn connections_with_state() -> usize {
    driver::with(|driver| driver.states())
}

/// Bytes kept for connections that are parked in the middle of a message.
pub fn partial_bytes() -> usize {
    driver::with(|driver| driver.partial_bytes())
}

/// Sockets this shard has open: listeners, connections and timers.
pub fn sockets_open() -> u32 {
    driver::with(|driver| driver.table().open())
}

/// Parked connections; walks the table.
#[cfg(test)]
pub(crate) fn connections_idle() -> usize {
    driver::with(|driver| driver.table().with_flag(Flags::IDLE).len())
}
