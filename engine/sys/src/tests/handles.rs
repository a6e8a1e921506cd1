//! Handles that outlive what they are for, and what ends beside them: none may reach another runtime, another connection or
//! wait for ever.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use super::{LOOPBACK, buf, no_worker, pair, run, small};
use crate::driver;
use crate::socket::accept_queued;
use crate::*;

/// Does not compile if a type can go to another thread: there would be two candidates for the trait then.
macro_rules! stay_on_their_thread {
    ($($handle:ty),*) => {
        const _: () = {
            trait IsSend<Which> {
                const CHECKED: () = ();
            }
            struct OfEveryType;
            struct OfTypesThatAreSend;
            impl<T: ?Sized> IsSend<OfEveryType> for T {}
            impl<T: ?Sized + Send> IsSend<OfTypesThatAreSend> for T {}
            $(let () = <$handle as IsSend<_>>::CHECKED;)*
        };
    };
}

stay_on_their_thread!(Conn, Lease, Listener, Ready<'static>, Receive<'static>, Runtime, Sending, Timer);

/// Whether this thread can have another runtime.
fn takes_a_runtime() -> bool {
    catch_unwind(|| drop(Runtime::new(&small()).expect("a runtime"))).is_ok()
}

/// Waits until something is so, but not for ever.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let limit = Timer::new(20_000);
    while !is_so() {
        assert!(limit.poll_expired().is_pending(), "waited in vain: {what}");
        sleep(1).await;
    }
}

/// What a task kept for the time behind its runtime.
type Left<T> = Rc<RefCell<Option<T>>>;

/// Runs a runtime whose task keeps a handle, and says whether the thread can have another one.
fn takes_one_after<T: 'static>(make: impl AsyncFnOnce() -> T + 'static) -> bool {
    let left: Left<T> = Rc::default();
    let keep = left.clone();
    run(&small(), async move {
        let handle = make().await;
        *keep.borrow_mut() = Some(handle);
    });
    assert!(left.borrow().is_some());
    takes_a_runtime()
}

/// A kind of handle, and whether a thread on which one is left gets another runtime.
type Row = (&'static str, fn() -> bool);

#[test]
#[expect(
    clippy::async_yields_async,
    reason = "the handles that are left are futures, and nothing awaits them"
)]
fn a_thread_with_handles_of_an_ended_runtime_gets_no_other() {
    let in_a_thread = |test: fn() -> bool| thread::spawn(test).join().expect("no panic");
    let rows: [Row; 7] = [
        ("a send that is over", || {
            takes_one_after(async || {
                let (conn, mut peer) = pair().await;
                let sending = conn.send(buf(b"x"), 0);
                sleep(40).await;
                peer.read_exact(&mut [0]).expect("read");
                sending
            })
        }),
        ("a send behind another one", || {
            takes_one_after(async || {
                let (conn, _peer) = pair().await;
                let mut big = Buf::large();
                big.resize(64 << 20, 7);
                conn.send(big, 0).detach();
                conn.send(buf(b"x"), 0)
            })
        }),
        ("a connection", || takes_one_after(async || pair().await.0)),
        ("a timer", || takes_one_after(async || Timer::new(20_000))),
        ("a listener", || {
            takes_one_after(async || Listener::start(BoundListener::bind(LOOPBACK, 1).expect("bind"), 0))
        }),
        ("a lease", || {
            takes_one_after(async || {
                let (conn, mut peer) = pair().await;
                peer.write_all(b"x").expect("write");
                conn.receive().await.expect("receive").expect("bytes")
            })
        }),
        ("a driver that panicked", || {
            let runtime = Runtime::new(&small()).expect("a runtime");
            catch_unwind(|| driver::with(|_| panic!("half way"))).expect_err("a panic");
            drop(runtime);
            takes_a_runtime()
        }),
    ];
    let taken: Vec<&str> =
        rows.into_iter().filter(|&(_, test)| in_a_thread(test)).map(|(what, _)| what).collect();
    assert_eq!(taken, [""; 0]);
    // The control: nothing is left.
    assert!(in_a_thread(|| {
        run(&small(), async {
            let (conn, _peer) = pair().await;
            let _timer = Timer::new(20_000);
            conn.send(buf(b"x"), 0).detach();
        });
        run(&small(), async {
            let bound = BoundListener::bind(LOOPBACK, 1).expect("bind");
            let _client = TcpStream::connect(bound.local().expect("address")).expect("connect");
            let _listener = Listener::start(bound, 0);
            until("a connection", || connections_idle() == 1).await;
        });
        takes_a_runtime()
    }));
}

#[test]
fn a_handle_without_a_runtime_does_nothing_as_it_is_dropped() {
    let left: Left<(Conn, Sending, Lease)> = Rc::default();
    let keep = left.clone();
    run(&small(), async move {
        let (conn, mut peer) = pair().await;
        peer.write_all(b"x").expect("write");
        let lease = conn.receive().await.expect("receive").expect("bytes");
        let sending = conn.send(buf(b"x"), 0);
        *keep.borrow_mut() = Some((conn, sending, lease));
    });
    let (conn, sending, lease) = left.take().expect("they were kept");
    catch_unwind(AssertUnwindSafe(|| lease[0])).expect_err("there is no memory to look into");
    catch_unwind(AssertUnwindSafe(|| sending.has_begun())).expect_err("there is no operation");
    drop((conn, sending, lease));
}

/// Spawns another task when it is dropped, which does the same, so many times, and keeps a handle.
struct SpawnsAtItsEnd(u32, Option<Timer>);

impl Drop for SpawnsAtItsEnd {
    fn drop(&mut self) {
        if self.0 > 0 {
            let next = SpawnsAtItsEnd(self.0 - 1, self.1.take());
            spawn(async move { drop(next) });
        }
    }
}

#[test]
fn tasks_that_are_spawned_by_the_end_of_others_end_too() {
    run(&small(), async {
        let last = SpawnsAtItsEnd(10, Some(Timer::new(20_000)));
        spawn(async move {
            let _last = last;
            sleep(20_000).await;
        });
        sleep(1).await;
    });
    assert!(takes_a_runtime(), "the timer is gone");
}

#[test]
fn a_driver_in_use_is_not_entered_again() {
    let _runtime = Runtime::new(&small()).expect("a runtime");
    let nested = driver::with(|_| driver::try_with(|_| ()));
    assert_eq!(nested, None);
    assert_eq!(driver::try_with(|_| ()), Some(()));
}

#[test]
fn a_send_in_line_wakes_its_task_when_the_connection_goes() {
    let left = run(&small(), async {
        let (conn, peer) = pair().await;
        let mut big = Buf::large();
        big.resize(64 << 20, 7);
        conn.send(big, 0).detach();
        let behind = conn.send(buf(b"x"), 0);
        let ended = Rc::new(Cell::new(None));
        let seen = ended.clone();
        spawn(async move { seen.set(Some(behind.await.result.expect_err("not sent").raw_os_error())) });
        // It waits by now.
        sleep(1).await;
        spawn(async move { drop(conn) });
        until("its send has ended", || ended.get().is_some()).await;
        assert_eq!(ended.get(), Some(Some(libc::ECANCELED)));
        drop(peer);
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn a_task_that_was_woken_does_not_wait_for_something_else() {
    let left = run(&small(), async {
        // Nothing else happens on this ring before the timer goes off.
        let limit = Timer::new(20_000);
        let task = driver::with(|driver| driver.current);
        spawn(async move { driver::with(|driver| driver.waits.make_ready(task)) });
        let mut is_first = true;
        poll_fn(|_| if std::mem::take(&mut is_first) { Poll::Pending } else { Poll::Ready(()) }).await;
        assert!(limit.poll_expired().is_pending());
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn a_connection_given_to_a_runtime_that_has_ended_is_not_lost() {
    let (tell, hear) = channel();
    let (end, may_end) = channel::<()>();
    // The ring is still there and takes messages, but the last look at them has passed.
    let other = thread::spawn(move || {
        let runtime = Runtime::new(&small()).expect("a runtime");
        tell.send(Doorbell::of_this_thread().expect("a doorbell")).expect("send");
        let mut driver = driver::uninstall().expect("a driver");
        driver.wind_up(Duration::from_secs(2));
        tell.send(Doorbell::out_of_order()).expect("send");
        may_end.recv().expect("the end");
        drop((driver, runtime));
    });
    let doorbell = hear.recv().expect("a doorbell");
    hear.recv().expect("it has ended");
    let main = async move {
        let bound = BoundListener::bind(LOOPBACK, 16).expect("bind");
        let mut client = TcpStream::connect(bound.local().expect("address")).expect("connect");
        client.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
        let _listener = Listener::start(bound, 0);
        let mine = Doorbell::of_this_thread().expect("a doorbell");
        join_shard_set(0, Arc::new(LoadBoard::new(2)), vec![mine, doorbell], Vec::new());
        client.write_all(b"x").expect("write");
        until("its connection was accepted", || stats().accepted == 1).await;
        // Served here as before, whether it was refused or came back.
        for _ in 0..3 {
            client.write_all(b"x").expect("write");
            sleep(40).await;
        }
        end.send(()).expect("it waits");
        other.join().expect("no panic");
        sleep(40).await;
        client.shutdown(Shutdown::Write).expect("shutdown");
        until("its end", || connections_open() == 0).await;
        let mut echoed = Vec::new();
        client.read_to_end(&mut echoed).expect("an end");
        assert_eq!(echoed, b"xxxx");
    };
    let left = Runtime::new(&small()).expect("a runtime").run(main, give_away_and_echo).expect("a ring");
    assert_eq!(left, Outstanding::default());
}

/// A worker that wants to give its connections to the other shard after every answer.
async fn give_away_and_echo() {
    loop {
        let mut conn = next_connection().await;
        loop {
            match conn.receive().await {
                Ok(Some(lease)) => conn.send_lease(lease, 5_000).detach(),
                Ok(None) | Err(_) => break conn.flushed().await,
            }
            hand_over(conn.id(), 1);
            match conn.park(20_000) {
                Ok(()) => break,
                Err(back) => conn = back,
            }
        }
    }
}

#[test]
fn a_connection_on_its_way_to_a_runtime_that_ends_is_closed() {
    let doorbell = Doorbell::out_of_order();
    let bound = BoundListener::bind(LOOPBACK, 16).expect("bind");
    let mut clients: Vec<_> =
        (0..2).map(|_| TcpStream::connect(bound.local().expect("address")).expect("connect")).collect();
    let lay_down = || Box::new(driver::Handed::of_test(accept_queued(bound.raw_fd()).expect("a client")));
    let first = doorbell.put(lay_down()).expect("it is open");
    doorbell.close();
    // The one that was there is closed, a later one comes back.
    let refused = doorbell.put(lay_down()).expect_err("it is closed");
    assert!(doorbell.take_back(first).is_none() && doorbell.take().is_none());
    let mut end = |client: usize| {
        clients[client].set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
        clients[client].read(&mut [0]).map_err(|error| error.kind())
    };
    assert_eq!(end(0), Ok(0));
    drop(refused);
    assert_eq!(end(1), Ok(0));
}

#[test]
fn a_message_keeps_its_ring_open_until_it_is_sent() {
    let left = run(&small(), async {
        let mine = Doorbell::of_this_thread().expect("a doorbell");
        let other = Doorbell::out_of_order();
        let ring = other.ring_fd();
        other.ring(1);
        drop(other);
        // The number is not given to another file while the message waits to be submitted.
        let next = std::fs::File::open("/dev/null").expect("a file");
        assert_ne!(std::os::fd::AsRawFd::as_raw_fd(&next), ring);
        mine.ring(7);
        assert_eq!(next_message().await, 7);
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn stopping_a_listener_takes_no_longer_than_it_may() {
    let left = run(&small(), async {
        let bound = BoundListener::bind(LOOPBACK, 16).expect("bind");
        let address = bound.local().expect("address");
        let listener = Listener::start(bound, 0);
        sleep(1).await;
        // The kernel takes nothing, also not the cancel; it has finished long after the time given.
        driver::with(|driver| driver.ring().enter_errors.extend(std::iter::repeat_n(libc::EBUSY, 4 << 20)));
        let waiting = TcpStream::connect(address).expect("connect");
        listener.stop(40).await;
        assert!(driver::with(|driver| !driver.ring().enter_errors.is_empty()), "it waited for the kernel");
        driver::with(|driver| driver.ring().enter_errors.clear());
        until("the connection in the queue", || connections_idle() == 1).await;
        drop(waiting);
        until("its end", || connections_open() == 0).await;
        TcpStream::connect(address).expect_err("nothing listens");
    });
    assert_eq!(left, Outstanding::default());
}

/// What a runtime says whose kernel answers with this errno once.
fn ends_with(errno: i32) -> Result<Outstanding, String> {
    let main = async move {
        driver::with(|driver| driver.ring().enter_errors.push_back(errno));
        sleep(100).await;
    };
    Runtime::new(&small()).expect("a runtime").run(main, no_worker).map_err(|failed| failed.to_string())
}

#[test]
fn a_ring_that_has_failed_ends_its_runtime_with_the_reason() {
    for errno in [libc::ETIME, libc::EINTR, libc::EBUSY, libc::EAGAIN, libc::ENOMEM] {
        let ended = thread::spawn(move || ends_with(errno)).join().expect("no panic");
        assert_eq!(ended, Ok(Outstanding::default()), "{errno}");
    }
    for (errno, reason) in [
        (libc::EBADR, "(EBADR)"),
        (libc::EBADF, "io_uring_enter failed: "),
        (libc::EBADFD, "io_uring_enter failed: "),
        (libc::EEXIST, "io_uring_enter failed: "),
        (libc::ENXIO, "io_uring_enter failed: "),
        (libc::EPERM, "io_uring_enter failed: "),
    ] {
        let ended = thread::spawn(move || ends_with(errno)).join().expect("no panic");
        assert!(ended.as_ref().is_err_and(|message| message.contains(reason)), "{errno}: {ended:?}");
    }
}

#[test]
fn nothing_is_read_from_a_ring_that_has_lost_completions() {
    let ended = thread::spawn(|| {
        let seen = Rc::new(Cell::new(false));
        let its = seen.clone();
        let main = async move {
            let (conn, mut peer) = pair().await;
            spawn(async move {
                its.set(conn.receive().await.is_ok());
                sleep(20_000).await;
            });
            sleep(40).await;
            peer.write_all(b"behind a gap").expect("write");
            driver::with(|driver| driver.ring().is_lossy = true);
            sleep(20_000).await;
        };
        let ended = Runtime::new(&small()).expect("a runtime").run(main, no_worker);
        (ended.map_err(|failed| failed.to_string().contains("EBADR")), seen.get())
    });
    assert_eq!(ended.join().expect("no panic"), (Err(true), false));
}

#[test]
fn nothing_is_read_behind_a_loss_that_a_full_queue_brought_to_light() {
    let failed = thread::spawn(|| {
        let main = async {
            let (conn, mut peer) = pair().await;
            peer.write_all(b"x").expect("write");
            driver::with(|driver| {
                driver.ring().is_lossy = true;
                // Completed as they are submitted, which is when the queue of eight has no room for another one.
                for _ in 0..9 {
                    driver.poll_ready(0, libc::POLLIN as u32, 0.into());
                }
                assert!(driver.has_failed());
                let mut batch = [const { MaybeUninit::uninit() }; driver::BATCH];
                assert_eq!(driver.completions(&mut batch).len(), 0);
            });
            drop(conn);
            sleep(20_000).await;
        };
        Runtime::new(&small()).expect("a runtime").run(main, no_worker)
    });
    failed.join().expect("no panic").expect_err("it has failed");
}
