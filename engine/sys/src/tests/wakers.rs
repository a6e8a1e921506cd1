//! Tasks that are woken by other tasks, by other threads, or by several things at once.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::mpsc::channel;
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use super::{buf, pair, run, small};
use crate::driver;
use crate::*;

/// A wait that would be far too long: a task that still sleeps then was not woken.
const LONG_MS: u64 = 20_000;

/// An event as any library could have it: it knows of no runtime, only of the waker that it was polled with.
#[derive(Clone, Default)]
struct Event(Rc<RefCell<(bool, Option<Waker>)>>);

impl Event {
    fn happen(&self) {
        let mut event = self.0.borrow_mut();
        event.0 = true;
        if let Some(waker) = event.1.take() {
            waker.wake();
        }
    }

    async fn happened(&self) {
        poll_fn(|context| {
            let mut event = self.0.borrow_mut();
            if event.0 {
                return Poll::Ready(());
            }
            event.1 = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// A limit for the whole test, which also ends a sleep that should not be.
async fn within_limit<T>(wait: impl Future<Output = T>) -> T {
    let limit = Timer::new(LONG_MS);
    let mut wait = pin!(wait);
    poll_fn(|context| {
        let polled = wait.as_mut().poll(context);
        // Also a wait that is over: one that was found so by the limit's own wake is late.
        assert!(limit.poll_expired().is_pending(), "nothing has woken the task");
        polled
    })
    .await
}

/// Polls all of several futures whenever one of them may have got on, until all are done.
async fn all(mut futures: Vec<Pin<Box<dyn Future<Output = ()>>>>) {
    poll_fn(|context| {
        futures.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if futures.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[test]
fn a_waker_that_was_kept_wakes_its_task() {
    let left = run(&small(), async {
        let event = Event::default();
        let happens = event.clone();
        spawn(async move { happens.happen() });
        within_limit(event.happened()).await;
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn a_task_waits_for_two_sockets_a_timer_and_a_waker_at_once() {
    let left = run(&small(), async {
        let ((one, mut one_peer), (two, mut two_peer)) = (pair().await, pair().await);
        let event = Event::default();
        let done = Rc::new(RefCell::new(Vec::new()));
        let note = |what: &'static str| {
            let done = done.clone();
            move || done.borrow_mut().push(what)
        };
        let (heard_one, heard_two, heard_event, heard_time) =
            (note("one"), note("two"), note("event"), note("time"));
        let waited = event.clone();
        spawn(all(vec![
            Box::pin(async move {
                drop(one.receive().await.expect("receive").expect("bytes"));
                heard_one();
            }),
            Box::pin(async move {
                drop(two.receive().await.expect("receive").expect("bytes"));
                heard_two();
            }),
            Box::pin(async move {
                waited.happened().await;
                heard_event();
            }),
            Box::pin(async move {
                sleep(200).await;
                heard_time();
            }),
        ]));
        let until = async |count: usize| {
            let limit = Timer::new(LONG_MS);
            while done.borrow().len() < count {
                assert!(limit.poll_expired().is_pending(), "only {:?}", done.borrow());
                sleep(1).await;
            }
        };
        event.happen();
        until(1).await;
        two_peer.write_all(b"2").expect("write");
        until(2).await;
        one_peer.write_all(b"1").expect("write");
        until(4).await;
        assert_eq!(*done.borrow(), ["event", "two", "one", "time"]);
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn all_tasks_that_wait_for_the_same_thing_are_woken() {
    let left = run(&small(), async {
        let (conn, mut peer) = pair().await;
        let conn = Rc::new(conn);
        let (received, failed, flushed) =
            (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        // The one that waits last is not the one that is waited for.
        let (reads, seen) = (conn.clone(), received.clone());
        spawn(async move {
            while let Ok(Some(_)) = reads.receive().await {
                seen.set(seen.get() + 1);
            }
        });
        for _ in 0..2 {
            let (watches, seen) = (conn.clone(), failed.clone());
            spawn(async move {
                let _ = watches.failed().await;
                seen.set(seen.get() + 1);
            });
        }
        sleep(1).await;
        let mut big = Buf::large();
        big.resize(32 << 20, 7);
        let sending = conn.send(big, 0);
        let (sends, seen) = (conn.clone(), flushed.clone());
        spawn(async move {
            let _ = sending.await;
            seen.set(seen.get() + 1);
            drop(sends);
        });
        for _ in 0..2 {
            let (waits, seen) = (conn.clone(), flushed.clone());
            spawn(async move {
                waits.flushed().await;
                seen.set(seen.get() + 1);
            });
        }
        sleep(1).await;
        peer.write_all(b"x").expect("write");
        within_limit(until(|| received.get() == 1)).await;
        assert_eq!((failed.get(), flushed.get()), (0, 0));
        let drain = thread::spawn(move || {
            std::io::copy(&mut (&peer).take(32 << 20), &mut std::io::sink()).expect("read");
            peer
        });
        within_limit(until(|| flushed.get() == 3)).await;
        // The peer closes with something unread, so with a reset.
        let peer = drain.join().expect("the peer");
        let _ = conn.send(buf(b"unread"), 0).await;
        sleep(1).await;
        drop(peer);
        within_limit(until(|| failed.get() == 2)).await;
    });
    assert_eq!(left, Outstanding::default());
}

/// Looks again and again; for what no task is woken for.
async fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        sleep(1).await;
    }
}

#[test]
fn a_wait_outlives_another_wait_for_the_same_send() {
    let left = run(&small(), async {
        let (conn, mut peer) = pair().await;
        let conn = Rc::new(conn);
        let mut big = Buf::large();
        big.resize(32 << 20, 7);
        let mut sending = Box::pin(conn.send(big, 0));
        let flushed = Rc::new(Cell::new(false));
        let (waits, seen) = (conn.clone(), flushed.clone());
        spawn(async move {
            waits.flushed().await;
            seen.set(true);
        });
        sleep(1).await;
        // Both wait, and one of them gives up.
        super::start(sending.as_mut()).await;
        drop(sending);
        let drain = thread::spawn(move || peer.read_exact(&mut vec![0; 32 << 20]));
        within_limit(until(|| flushed.get())).await;
        drain.join().expect("the peer").expect("all of it");
    });
    assert_eq!(left, Outstanding::default());
}

/// A task that counts its polls and never ends, until it is to.
fn counted(polls: &Rc<Cell<u32>>, waker: &Rc<RefCell<Option<Waker>>>, ends: &Rc<Cell<bool>>) {
    let (polls, waker, ends) = (polls.clone(), waker.clone(), ends.clone());
    spawn(poll_fn(move |context| {
        polls.set(polls.get() + 1);
        *waker.borrow_mut() = Some(context.waker().clone());
        if ends.get() { Poll::Ready(()) } else { Poll::Pending }
    }));
}

#[test]
fn a_waker_of_an_ended_task_does_not_wake_the_next_one() {
    let left = run(&small(), async {
        let (polls, waker, ends) = (Rc::default(), Rc::default(), Rc::new(Cell::new(true)));
        counted(&polls, &waker, &ends);
        sleep(1).await;
        assert_eq!(polls.get(), 1);
        let stale = waker.take().expect("it was polled");
        // The slot is free ...
        stale.wake_by_ref();
        sleep(1).await;
        // ... and taken again.
        ends.set(false);
        counted(&polls, &waker, &ends);
        sleep(1).await;
        let current = waker.take().expect("it was polled");
        assert_eq!(polls.get(), 2);
        stale.wake();
        sleep(1).await;
        assert_eq!(polls.get(), 2, "the slot has another task by now");
        current.wake_by_ref();
        sleep(1).await;
        assert_eq!(polls.get(), 3, "whose own waker works");
        // Is the number in the queue for the tenant that ends, the next one is not the worse for it.
        ends.set(true);
        current.wake();
        sleep(1).await;
        assert_eq!(polls.get(), 4);
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn waking_takes_no_memory() {
    let left = run(&small(), async {
        let wakers: Rc<RefCell<Vec<Waker>>> = Rc::default();
        for _ in 0..100 {
            let wakers = wakers.clone();
            spawn(poll_fn(move |context| {
                wakers.borrow_mut().push(context.waker().clone());
                Poll::Pending
            }));
        }
        sleep(1).await;
        let mut room = None;
        for _ in 0..50 {
            let all = wakers.take();
            assert_eq!(all.len(), 100);
            let allocations = allocations_of_this_thread();
            for waker in &all {
                drop(waker.clone());
                (0..20).for_each(|_| waker.wake_by_ref());
            }
            // Only the queue grows, as long as it has never been that long.
            let is_first = room.is_none();
            assert!(is_first || allocations_of_this_thread() == allocations);
            let capacity = driver::with(|driver| driver.waits.ready_capacity());
            assert_eq!(*room.get_or_insert(capacity), capacity);
            drop(all);
            sleep(1).await;
        }
        assert!(room.is_some_and(|room| room < 400), "each is queued once: {room:?}");
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn another_thread_wakes_a_task_of_a_shard_that_sleeps() {
    let left = run(&small(), async {
        let (sender, receiver) = channel::<Waker>();
        let (ready, tell) = channel();
        // It answers each waker with a word, then wakes, and drops it last.
        let other = thread::spawn(move || {
            for waker in receiver {
                ready.send(()).expect("the task is there");
                waker.wake_by_ref();
                drop(waker.clone());
                waker.wake();
            }
        });
        for _ in 0..100 {
            let mut is_sent = false;
            within_limit(poll_fn(|context| {
                if !is_sent {
                    is_sent = true;
                    sender.send(context.waker().clone()).expect("the thread is there");
                }
                if tell.try_recv().is_ok() { Poll::Ready(()) } else { Poll::Pending }
            }))
            .await;
        }
        drop(sender);
        other.join().expect("the thread");
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn a_shard_wakes_the_task_of_another() {
    let (sender, receiver) = channel::<Waker>();
    let other = thread::spawn(move || {
        run(&small(), async move {
            receiver.recv().expect("a waker").wake();
        })
    });
    let left = run(&small(), async move {
        let mut polls = 0;
        within_limit(poll_fn(|context| {
            polls += 1;
            if polls == 1 {
                sender.send(context.waker().clone()).expect("the thread is there");
                return Poll::Pending;
            }
            Poll::Ready(())
        }))
        .await;
    });
    assert_eq!((left, other.join().expect("the thread")), (Outstanding::default(), Outstanding::default()));
}

/// Wakes when it is dropped, where code has no business to be: inside the driver.
struct WakesAtItsEnd(Waker);

impl Drop for WakesAtItsEnd {
    fn drop(&mut self) {
        self.0.wake_by_ref();
    }
}

#[test]
fn a_wake_inside_the_driver_is_not_lost() {
    let left = run(&small(), async {
        let mut polls = 0;
        within_limit(poll_fn(|context| {
            polls += 1;
            if polls == 1 {
                let wakes = WakesAtItsEnd(context.waker().clone());
                driver::with(move |_| drop(wakes));
                return Poll::Pending;
            }
            Poll::Ready(())
        }))
        .await;
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn a_waker_that_outlives_its_runtime_wakes_nothing_in_the_next() {
    thread::spawn(|| {
        let kept: Rc<RefCell<Option<Waker>>> = Rc::default();
        let (keep, ends) = (kept.clone(), Rc::new(Cell::new(false)));
        run(&small(), async move {
            let polls = Rc::default();
            counted(&polls, &keep, &ends);
            sleep(1).await;
        });
        let stale = kept.take().expect("it was polled");
        stale.wake_by_ref();
        run(&small(), async move {
            let (polls, waker, ends) = (Rc::default(), Rc::default(), Rc::new(Cell::new(false)));
            counted(&polls, &waker, &ends);
            sleep(1).await;
            assert_eq!(polls.get(), 1);
            // The same number of the same generation, but for the runtime.
            stale.wake_by_ref();
            sleep(1).await;
            assert_eq!(polls.get(), 1);
        });
    })
    .join()
    .expect("no panic");
}

/// A worker that gives back what it receives.
async fn echo() {
    loop {
        let conn = next_connection().await;
        while let Some(lease) = conn.receive_ready() {
            conn.send_lease(lease, 0).detach();
        }
        let _ = conn.park(LONG_MS);
    }
}

/// Ends the tasks of a test that would go on for ever if nothing else got a turn.
#[derive(Clone)]
struct Patience(Instant, Rc<Cell<bool>>);

impl Patience {
    fn new() -> Patience {
        Patience(Instant::now() + Duration::from_millis(LONG_MS), Rc::default())
    }

    fn is_over(&self) -> bool {
        assert!(Instant::now() < self.0, "nothing else gets a turn");
        self.1.get()
    }
}

/// Serves twenty round trips of a client while `busy` runs.
fn served_beside(busy: impl FnOnce(Patience) + 'static) {
    let bound = BoundListener::bind(super::LOOPBACK, 16).expect("bind");
    let address = bound.local().expect("address");
    let main = async move {
        let _listener = Listener::start(bound, 0);
        let patience = Patience::new();
        busy(patience.clone());
        let client = thread::spawn(move || {
            let mut client = TcpStream::connect(address).expect("connect");
            client.set_read_timeout(Some(Duration::from_millis(LONG_MS))).expect("timeout");
            for round in 0..20_u8 {
                client.write_all(&[round]).expect("write");
                let mut got = [0];
                client.read_exact(&mut got).expect("an answer");
                assert_eq!(got, [round]);
            }
        });
        // Which also needs a timer to go off.
        until(|| client.is_finished()).await;
        client.join().expect("the client");
        patience.1.set(true);
    };
    let left = Runtime::new(&small()).expect("a runtime").run(main, echo).expect("a ring");
    assert_eq!(left, Outstanding::default());
}

#[test]
fn tasks_that_wake_each_other_for_ever_leave_the_ring_its_turns() {
    served_beside(|patience| {
        let wakers: Rc<RefCell<[Option<Waker>; 2]>> = Rc::default();
        for me in 0..2 {
            let (wakers, patience) = (wakers.clone(), patience.clone());
            spawn(poll_fn(move |context| {
                let mut wakers = wakers.borrow_mut();
                wakers[me] = Some(context.waker().clone());
                if let Some(other) = wakers[1 - me].take() {
                    other.wake();
                }
                if patience.is_over() { Poll::Ready(()) } else { Poll::Pending }
            }));
        }
    });
}

#[test]
fn a_task_that_wakes_itself_for_ever_leaves_the_ring_its_turns() {
    served_beside(|patience| {
        spawn(poll_fn(move |context| {
            context.waker().wake_by_ref();
            if patience.is_over() { Poll::Ready(()) } else { Poll::Pending }
        }));
    });
}

#[test]
fn tasks_that_spawn_each_other_for_ever_leave_the_ring_its_turns() {
    fn go_on(patience: Patience) {
        if !patience.is_over() {
            spawn(async { go_on(patience) });
        }
    }
    served_beside(go_on);
}

#[test]
fn nothing_sleeps_while_a_task_is_ready() {
    let left = run(&small(), async {
        for _ in 0..10 {
            let event = Event::default();
            let happens = event.clone();
            // Polled for the first time right before the loop enters the kernel, when nothing is left to complete.
            spawn(async move { happens.happen() });
            let turns = stats().loop_iterations;
            within_limit(event.happened()).await;
            assert_eq!(stats().loop_iterations, turns + 1, "in the next turn");
            let (event, nested) = (Event::default(), Event::default());
            let (happens, inner) = (event.clone(), nested.clone());
            spawn(async move {
                spawn(async move { inner.happen() });
                happens.happen();
            });
            within_limit(event.happened()).await;
            within_limit(nested.happened()).await;
        }
    });
    assert_eq!(left, Outstanding::default());
}

#[test]
fn tasks_that_a_connection_has_left_are_not_woken_for_it() {
    for watchers in [1, 2] {
        run(&small(), async move {
            let (conn, mut peer) = pair().await;
            let (conn, polls) = (Rc::new(conn), Rc::new(Cell::new(0)));
            for _ in 0..watchers {
                let (conn, polls) = (conn.clone(), polls.clone());
                spawn(poll_fn(move |context| {
                    polls.set(polls.get() + 1);
                    // A task that is polled again for bytes leaves them to others.
                    if conn.is_quiet() {
                        assert!(pin!(conn.receive()).poll(context).is_pending());
                    }
                    Poll::Pending
                }));
            }
            within_limit(async {
                while polls.get() < watchers {
                    sleep(1).await;
                }
            })
            .await;
            conn.forget_waiters();
            peer.write_all(b"x").expect("write");
            assert_eq!(&*within_limit(conn.receive()).await.expect("receive").expect("bytes"), b"x");
            // What was woken beside this task was polled before this turn ended.
            sleep(1).await;
            assert_eq!(polls.get(), watchers, "none but this task");
        });
    }
}
