//! What workers are given: streams beside connections, and connections with the state that they were parked with.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::thread;

use super::{LOOPBACK, buf, pair, small};
use crate::driver;
use crate::executor::TRIMMED_PER_TURN;
use crate::table::Flags;
use crate::*;

/// Longer than any of this takes.
const LONG_MS: u64 = 20_000;

/// Waits until something is so, but not for ever.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let limit = Timer::new(LONG_MS);
    while !is_so() {
        assert!(limit.poll_expired().is_pending(), "waited in vain: {what}");
        sleep(1).await;
    }
}

fn run(main: impl Future<Output = ()> + 'static, worker: impl AsyncFn() + Clone + 'static) {
    let worker = move || {
        let worker = worker.clone();
        async move { worker().await }
    };
    let left = Runtime::new(&small()).expect("a runtime").run(main, worker).expect("a ring");
    assert_eq!(left, Outstanding::default());
}

/// A session of which the streams are held until they are let go.
#[derive(Default)]
struct Session {
    begun: RefCell<Vec<u64>>,
    /// As many as are to be served at once.
    holds: Cell<usize>,
}

/// Serves streams of a [`Session`], and connections by echo.
async fn serve(made: &Cell<u32>) {
    made.set(made.get() + 1);
    loop {
        match next_work().await {
            Work::Stream(session, stream) => {
                let session = session.downcast::<Session>().expect("a session");
                session.begun.borrow_mut().push(stream);
                while session.begun.borrow().len() < session.holds.get() {
                    sleep(1).await;
                }
            }
            Work::Connection(conn, None) => {
                while let Some(lease) = conn.receive_ready() {
                    conn.send_lease(lease, 0).detach();
                }
                let _ = conn.park(LONG_MS);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_hundred_streams_are_served_at_once_by_recycled_workers() {
    let made: Rc<Cell<u32>> = Rc::default();
    let seen = made.clone();
    let main = async move {
        let session = Rc::new(Session::default());
        let hand_all = |streams: std::ops::Range<u64>| {
            session.begun.borrow_mut().clear();
            streams.for_each(|stream| hand_to_worker(session.clone(), stream));
        };
        let done = || until("all streams", || Rc::strong_count(&session) == 1);
        // One after the other: one worker is enough.
        hand_all(0..100);
        done().await;
        assert_eq!((seen.get(), workers_busy()), (1, 0));
        assert!(session.begun.borrow().iter().copied().eq(0..100), "in the order in which they were given");
        // All at once.
        session.holds.set(100);
        hand_all(100..200);
        done().await;
        assert_eq!(seen.get(), 100);
        // From now on there is nothing to make.
        for round in 2..10 {
            let allocations = allocations_of_this_thread();
            hand_all(round * 100..(round + 1) * 100);
            done().await;
            assert_eq!((seen.get(), allocations_of_this_thread() - allocations), (100, 0));
        }
        assert_eq!(workers_busy(), 0);
    };
    run(main, async move || serve(&made).await);
}

#[test]
fn the_workers_of_a_peak_go_in_steps_without_sleep() {
    const PEAK: u32 = 2_000;
    let kept = Settings::default().workers_kept as u32;
    let main = async move {
        let session = Rc::new(Session::default());
        session.holds.set(PEAK as usize);
        (0..PEAK).for_each(|stream| hand_to_worker(session.clone(), stream.into()));
        until("all streams", || Rc::strong_count(&session) == 1).await;
        let look = || {
            driver::with(|driver| (driver.workers, driver.stats.loop_iterations, driver.workers_trim_in_ms))
        };
        let mut last = look();
        assert_eq!(last.0, PEAK);
        until("they go", || {
            let (workers, turns, trim_in_ms) = look();
            let dropped = u64::from(last.0 - workers);
            assert!(
                dropped <= TRIMMED_PER_TURN as u64 * (turns - last.1),
                "{dropped} in {} turns",
                turns - last.1
            );
            assert!(workers == PEAK || workers == kept || trim_in_ms == Some(0), "{workers}: {trim_in_ms:?}");
            last = (workers, turns, trim_in_ms);
            workers == kept
        })
        .await;
    };
    let made = Rc::default();
    run(main, async move || serve(&made).await);
}

#[test]
fn the_worker_that_parked_last_gets_the_next_stream() {
    // Which worker parks, and which one has got a stream.
    let parks: Rc<RefCell<Vec<u32>>> = Rc::default();
    let made: Rc<Cell<u32>> = Rc::default();
    let seen = parks.clone();
    let main = async move {
        let session: Rc<dyn Any> = Rc::new(());
        // Three that wait, the first one the longest, and so the last to park.
        for wait_ms in [120, 60, 1] {
            hand_to_worker(session.clone(), wait_ms);
        }
        until("all have parked again", || seen.borrow().len() == 6).await;
        assert_eq!(*seen.borrow(), [1, 2, 3, 3, 2, 1]);
        for stream in 0..5 {
            hand_to_worker(session.clone(), 0);
            until("it was served", || seen.borrow().len() == 7 + stream).await;
        }
        assert_eq!(seen.borrow()[6..], [1; 5]);
    };
    run(main, async move || {
        made.set(made.get() + 1);
        let me = made.get();
        loop {
            parks.borrow_mut().push(me);
            let Work::Stream(_, wait_ms) = next_work().await else { panic!("a stream") };
            if wait_ms > 0 {
                sleep(wait_ms).await;
            }
        }
    });
}

#[test]
fn connections_and_streams_share_the_warmest_worker() {
    let made: Rc<Cell<u32>> = Rc::default();
    let seen = made.clone();
    let bound = BoundListener::bind(LOOPBACK, 16).expect("bind");
    let address = bound.local().expect("address");
    let main = async move {
        let _listener = Listener::start(bound, 0);
        let session = Rc::new(Session::default());
        let mut client = TcpStream::connect(address).expect("connect");
        for stream in 0..20 {
            hand_to_worker(session.clone(), stream);
            until("the stream", || Rc::strong_count(&session) == 1).await;
            client.write_all(b"x").expect("write");
            client.set_nonblocking(true).expect("a mode");
            until("an echo", || client.read(&mut [0]).is_ok()).await;
        }
        assert_eq!((seen.get(), workers_busy(), connections_idle()), (1, 0, 1));
    };
    run(main, async move || serve(&made).await);
}

#[test]
fn streams_that_make_streams_for_ever_leave_the_ring_its_turns() {
    let is_over: Rc<Cell<bool>> = Rc::default();
    let (over, started) = (is_over.clone(), std::time::Instant::now());
    let main = async move {
        hand_to_worker(Rc::new(()), 0);
        // What another thread does with a socket, and a timer.
        let (conn, mut peer) = pair().await;
        let client = thread::spawn(move || peer.write_all(b"x"));
        assert_eq!(&*conn.receive().await.expect("receive").expect("bytes"), b"x");
        client.join().expect("the peer").expect("write");
        sleep(5).await;
        over.set(true);
    };
    run(main, async move || {
        loop {
            let Work::Stream(session, stream) = next_work().await else { panic!("a stream") };
            assert!(started.elapsed().as_millis() < u128::from(LONG_MS), "nothing else gets a turn");
            if !is_over.get() {
                hand_to_worker(session, stream + 1);
            }
        }
    });
}

#[test]
fn nothing_sleeps_while_a_stream_waits_for_a_worker() {
    let waker: Rc<RefCell<Option<Waker>>> = Rc::default();
    let waits = waker.clone();
    let main = async move {
        let limit = Timer::new(LONG_MS);
        // Polled for the first time right before the loop enters the kernel.
        spawn(async { hand_to_worker(Rc::new(()), 1) });
        let mut is_waiting = false;
        poll_fn(|context| {
            assert!(limit.poll_expired().is_pending(), "it slept");
            match waits.replace(Some(context.waker().clone())) {
                // The worker has taken it.
                None if is_waiting => Poll::Ready(()),
                _ => {
                    is_waiting = true;
                    Poll::Pending
                }
            }
        })
        .await;
    };
    run(main, async move || {
        drop(next_work().await);
        waker.take().expect("it waits").wake();
    });
}

#[test]
fn a_worker_that_takes_connections_alone_gets_no_stream() {
    let ended = thread::spawn(|| {
        let main = async {
            hand_to_worker(Rc::new(()), 0);
            sleep(LONG_MS).await;
        };
        run(main, async || drop(next_connection().await));
    });
    assert!(ended.join().is_err(), "it says so");
}

/// What a session may have, and give back when it ends: in its destructor, by calls of the driver.
struct State {
    number: u32,
    other: Option<Conn>,
    _lease: Lease,
    _timer: Timer,
    dropped: Rc<RefCell<Vec<u32>>>,
}

impl State {
    /// With a connection of its own, whose other end is returned.
    async fn boxed(number: u32, dropped: &Rc<RefCell<Vec<u32>>>) -> (Box<dyn Any>, TcpStream) {
        let (other, mut peer) = pair().await;
        peer.write_all(b"held").expect("write");
        let lease = other.receive().await.expect("receive").expect("bytes");
        let dropped = dropped.clone();
        (
            Box::new(State {
                number,
                other: Some(other),
                _lease: lease,
                _timer: Timer::new(LONG_MS),
                dropped,
            }),
            peer,
        )
    }
}

impl Drop for State {
    fn drop(&mut self) {
        assert!(driver::try_with(|_| ()).is_some(), "inside the driver");
        let other = self.other.take().expect("it has one");
        other.send(buf(b"bye"), 0).detach();
        spawn(async move {
            other.flushed().await;
            drop(other);
        });
        self.dropped.borrow_mut().push(self.number);
    }
}

/// Parks every new connection with the next state of those that wait for one, and every known one again with its own. Asks
/// for each to be given to another shard, which does nothing where there is none.
async fn park_with_states(
    states: &RefCell<Vec<Box<dyn Any>>>,
    idle_ms: u64,
    seen: &RefCell<Vec<(u32, usize)>>,
) {
    loop {
        let (conn, state) = match next_work().await {
            Work::Connection(conn, None) => (conn, states.borrow_mut().remove(0)),
            Work::Session(conn, state) => (conn, state),
            other => panic!("{other:?}"),
        };
        if conn.is_late() {
            continue;
        }
        drop(conn.receive_ready());
        let known = state.downcast_ref::<State>().expect("a state");
        seen.borrow_mut().push((known.number, std::ptr::from_ref(known).addr()));
        let id = conn.id();
        conn.park_with_state(state, idle_ms).expect("nothing has come");
        hand_over(id, 1);
    }
}

type States = Rc<RefCell<Vec<Box<dyn Any>>>>;
type Seen = Rc<RefCell<Vec<(u32, usize)>>>;

/// Clients of a listener whose connections are parked with states, numbered from 0, and the other ends of what those have.
async fn parked(
    count: u32,
    address: SocketAddr,
    states: &States,
    dropped: &Rc<RefCell<Vec<u32>>>,
) -> (Vec<TcpStream>, Vec<TcpStream>) {
    let (mut clients, mut others) = (Vec::new(), Vec::new());
    for number in 0..count {
        let (state, other) = State::boxed(number, dropped).await;
        states.borrow_mut().push(state);
        others.push(other);
        let mut client = TcpStream::connect(address).expect("connect");
        client.write_all(b"x").expect("write");
        until("it is parked", || connections_with_state() == number as usize + 1).await;
        clients.push(client);
    }
    (clients, others)
}

/// Runs `main` with the address of a listener, and workers that park connections with states.
fn with_states<F: Future<Output = ()> + 'static>(
    idle_ms: u64,
    main: impl FnOnce(SocketAddr, States, Seen) -> F,
) {
    let (states, seen) = (States::default(), Seen::default());
    let bound = BoundListener::bind(LOOPBACK, 16).expect("bind");
    let main = main(bound.local().expect("address"), states.clone(), seen.clone());
    let listened = async move {
        let _listener = Listener::start(bound, 0);
        main.await;
    };
    run(listened, async move || park_with_states(&states, idle_ms, &seen).await);
}

#[test]
fn a_parked_connection_comes_back_with_its_state() {
    let dropped: Rc<RefCell<Vec<u32>>> = Rc::default();
    let end = dropped.clone();
    with_states(LONG_MS, async move |address, states, seen| {
        let (mut clients, _others) = parked(3, address, &states, &dropped).await;
        for _ in 0..3 {
            for client in &mut clients {
                client.write_all(b"x").expect("write");
            }
            let count = seen.borrow().len();
            until("all are served", || seen.borrow().len() == count + 3).await;
        }
        let mut seen = seen.borrow().clone();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1, 2], "one place each");
        assert_eq!((connections_with_state(), workers_busy(), dropped.borrow().len()), (3, 0, 0));
        assert_eq!((connections_idle(), connections_partial()), (3, 0));
    });
    let mut end = end.borrow().clone();
    end.sort_unstable();
    assert_eq!(end, [0, 1, 2], "the runtime's end drops them");
}

#[test]
fn the_state_of_a_closed_connection_is_dropped_outside_the_driver() {
    let dropped: Rc<RefCell<Vec<u32>>> = Rc::default();
    let end = dropped.clone();
    with_states(LONG_MS, async move |address, states, _| {
        let (mut clients, mut others) = parked(5, address, &states, &dropped).await;
        let gone = async |numbers: &[u32]| {
            until("the state is dropped", || dropped.borrow().len() == numbers.len()).await;
            assert_eq!(*dropped.borrow(), *numbers);
            assert_eq!(connections_with_state(), 5 - numbers.len());
        };
        // By the peer's end.
        clients[1].shutdown(Shutdown::Write).expect("an end");
        gone(&[1]).await;
        // By the peer's reset.
        socket_that_resets(clients.remove(0));
        gone(&[1, 0]).await;
        // By a drain, which leaves a connection that has something to read.
        assert_eq!(close_idle(), 3);
        until("all are dropped", || dropped.borrow().len() == 5).await;
        let mut all = dropped.borrow().clone();
        all.sort_unstable();
        assert_eq!((all, connections_open(), connections_with_state()), (vec![0, 1, 2, 3, 4], 0, 0));
        // Their own connections were used in their ends.
        for other in &mut others {
            let mut received = Vec::new();
            let mut look = || match other.read_to_end(&mut received) {
                Ok(_) => true,
                Err(error) => error.kind() != ErrorKind::WouldBlock,
            };
            until("its end", &mut look).await;
            assert_eq!(received, b"bye");
        }
    });
    assert_eq!(end.borrow().len(), 5);
}

/// Closes a client's socket with a reset.
fn socket_that_resets(client: TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let bytes = size_of_val(&linger) as libc::socklen_t;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&client);
    // SAFETY: the option's value is a `linger` of the given size.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), bytes) };
    drop(client);
}

#[test]
fn a_worker_gets_the_state_of_a_connection_that_is_late() {
    let dropped: Rc<RefCell<Vec<u32>>> = Rc::default();
    with_states(300, async move |address, states, _| {
        let (_clients, _others) = parked(1, address, &states, &dropped).await;
        until("its time is over", || !dropped.borrow().is_empty()).await;
        assert_eq!((stats().idle_expired, connections_open(), connections_with_state()), (1, 0, 0));
    });
}

#[test]
fn a_connection_with_a_state_stays_on_its_shard() {
    let dropped: Rc<RefCell<Vec<u32>>> = Rc::default();
    with_states(LONG_MS, async move |address, states, seen| {
        let mine = Doorbell::of_this_thread().expect("a doorbell");
        join_shard_set(0, Arc::new(LoadBoard::new(2)), vec![mine, Doorbell::out_of_order()], Vec::new());
        // Each is to be given away when it is parked (see `park_with_states`).
        let (mut clients, _others) = parked(2, address, &states, &dropped).await;
        for client in &mut clients {
            client.write_all(b"x").expect("write");
        }
        until("both are served", || seen.borrow().len() == 4).await;
        assert_eq!(
            (stats().connections_migrated_out, connections_with_state(), dropped.borrow().len()),
            (0, 2, 0)
        );
    });
}

#[test]
fn a_connection_that_cannot_be_parked_comes_back_with_its_state() {
    let main = async {
        let (conn, mut peer) = pair().await;
        conn.set_deadline(LONG_MS);
        peer.write_all(b"x").expect("write");
        assert_eq!(&*conn.receive().await.expect("receive").expect("bytes"), b"x");
        peer.write_all(b"y").expect("write");
        until("more bytes", || !conn.is_quiet()).await;
        let (conn, state) = conn.park_with_state(Box::new(7_u8), LONG_MS).expect_err("bytes are there");
        assert_eq!((state.downcast_ref(), connections_with_state()), (Some(&7_u8), 0));
        assert_eq!(&*conn.receive().await.expect("receive").expect("bytes"), b"y");
    };
    run(main, async || drop(next_work().await));
}

/// Wakes its task when it is dropped.
struct Wakes(Waker);

impl Drop for Wakes {
    fn drop(&mut self) {
        self.0.wake_by_ref();
    }
}

#[test]
fn nothing_sleeps_before_a_state_is_dropped() {
    let main = async {
        let (conn, _peer) = pair().await;
        let limit = Timer::new(LONG_MS);
        let mut conn = Some(conn);
        poll_fn(|context| {
            let Some(conn) = conn.take() else { return Poll::Ready(()) };
            conn.park_with_state(Box::new(Wakes(context.waker().clone())), LONG_MS)
                .expect("nothing has come");
            // Polled for the first time right before the loop enters the kernel.
            spawn(async {
                let parked = driver::with(|driver| driver.table().with_flag(Flags::IDLE));
                driver::with(|driver| driver.close(parked[0]));
                // The end of its receive would wake the loop, too, but there need not be one.
                assert!(driver::with(|driver| driver.has_errands()));
            });
            let _ = limit.poll_expired();
            Poll::Pending
        })
        .await;
        assert!(limit.poll_expired().is_pending(), "it slept");
    };
    run(main, async || drop(next_work().await));
}
