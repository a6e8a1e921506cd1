//! Which tasks wait for what, and which are to be polled although nothing of theirs has completed in the kernel.
//!
//! What can be waited for (a socket's entry, an operation, messages) has one place for a waiter: the number of the task, which
//! is all there is in nearly all cases. Where several tasks wait for the same thing, the place has a list of them instead; all
//! are polled. A task may wait for any number of things; what it does not wait for any more may have its number all the same,
//! and a task that has ended may have left it: polls without a cause are harmless, polls that are missing are not.
//!
//! Every wait begins with a look at what is waited for, so a task that was polled and still waits is back in its place.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

use super::Wake;
use crate::key::NONE;
use crate::waker::{GENERATION_MASK, Registration, TASKS_MAX, TaskRef};

/// In the place of a waiter, with the number of its first node: a list. [`NONE`] has this bit, too.
const LIST: u32 = 1 << 31;
const _: () = assert!(TASKS_MAX <= LIST);

/// Of a list of tasks that wait for the same thing, or of the free nodes.
struct Node {
    task: u32,
    next: u32,
}

/// A task's number: how many tenants it has had, and whether it is in the queue.
#[derive(Clone, Copy, Default)]
struct Number {
    generation: u32,
    is_ready: bool,
}

pub(crate) struct Waits {
    registration: Registration,
    /// Tasks to poll, each of them once.
    ready: VecDeque<u32>,
    numbers: Vec<Number>,
    nodes: Vec<Node>,
    free: u32,
}

impl Waits {
    /// # Errors
    /// The error of eventfd(2).
    pub(crate) fn new() -> io::Result<Waits> {
        Ok(Waits {
            registration: Registration::new()?,
            ready: VecDeque::new(),
            numbers: Vec::new(),
            nodes: Vec::new(),
            free: NONE,
        })
    }

    // ---- tasks ----

    /// There is one more number for tasks.
    pub(crate) fn add_number(&mut self) {
        assert!(self.numbers.len() < TASKS_MAX as usize, "a task's number fits into a waker");
        self.numbers.push(Number::default());
    }

    /// The number gets another tenant: wakers of this one are of no effect any more.
    pub(crate) fn end_task(&mut self, task: u32) {
        let number = &mut self.numbers[task as usize];
        number.generation = (number.generation + 1) & GENERATION_MASK;
    }

    pub(crate) fn task_ref(&self, task: u32) -> TaskRef {
        TaskRef::new(self.registration.runtime, self.numbers[task as usize].generation, task)
    }

    /// Whether the task is one of this runtime's; it is in the queue then, unless it has ended.
    pub(crate) fn wake(&mut self, task: TaskRef) -> bool {
        if task.runtime() != self.registration.runtime {
            return false;
        }
        if self.task_ref(task.task()) == task {
            self.make_ready(task.task());
        }
        true
    }

    // ---- the queue ----

    /// The task is polled soon, and nothing sleeps before.
    pub(crate) fn make_ready(&mut self, task: u32) {
        let number = &mut self.numbers[task as usize];
        if !number.is_ready {
            number.is_ready = true;
            self.ready.push_back(task);
        }
    }

    pub(crate) fn next_ready(&mut self) -> Option<u32> {
        let task = self.ready.pop_front()?;
        self.numbers[task as usize].is_ready = false;
        Some(task)
    }

    /// The task that is polled so many later; [`NONE`] if there is none yet.
    #[inline]
    pub(crate) fn ready_behind(&self, count: usize) -> u32 {
        self.ready.get(count).copied().unwrap_or(NONE)
    }

    pub(crate) fn is_any_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// How many tasks the queue takes before it grows.
    #[cfg(test)]
    pub(crate) fn ready_capacity(&self) -> usize {
        self.ready.capacity()
    }

    // ---- places of waiters ----

    /// The task waits, beside others that do already. Nothing waits where code outside of tasks looks, such as a destructor's.
    #[inline]
    pub(crate) fn add(&mut self, place: &mut u32, task: u32) {
        if *place == NONE || *place == task {
            *place = task;
        } else {
            self.add_beside(place, task);
        }
    }

    #[cold]
    fn add_beside(&mut self, place: &mut u32, task: u32) {
        if task == NONE {
            return;
        }
        if *place & LIST == 0 {
            *place = LIST | self.insert(*place, NONE);
        }
        let first = *place & !LIST;
        if !self.list(first).any(|waiting| waiting == task) {
            *place = LIST | self.insert(task, first);
        }
    }

    /// Whom to poll now that it has happened. One of several is polled at once and the others in the same turn.
    #[inline]
    pub(crate) fn take(&mut self, place: &mut u32) -> Wake {
        match std::mem::replace(place, NONE) {
            NONE => Wake::NoTask,
            task if task & LIST == 0 => Wake::Task(task),
            list => {
                self.ready_all(list);
                Wake::NoTask
            }
        }
    }

    /// The same where no completion is at hand: all are polled in this turn.
    pub(crate) fn make_waiting_ready(&mut self, place: &mut u32) {
        if let Wake::Task(task) = self.take(place) {
            self.make_ready(task);
        }
    }

    #[cold]
    fn ready_all(&mut self, list: u32) {
        let mut node = list & !LIST;
        while node != NONE {
            let Node { task, next } = self.nodes[node as usize];
            self.remove(node);
            self.make_ready(task);
            node = next;
        }
    }

    /// The object of a wait is gone, and its waiters with it.
    #[inline]
    pub(crate) fn forget(&mut self, place: &mut u32) {
        let list = std::mem::replace(place, NONE);
        if list != NONE && list & LIST != 0 {
            let mut node = list & !LIST;
            while node != NONE {
                let next = self.nodes[node as usize].next;
                self.remove(node);
                node = next;
            }
        }
    }

    /// The tasks in a place.
    pub(crate) fn tasks(&self, place: u32) -> impl Iterator<Item = u32> {
        let is_list = place != NONE && place & LIST != 0;
        let one = (!is_list && place != NONE).then_some(place);
        one.into_iter().chain(self.list(if is_list { place & !LIST } else { NONE }))
    }

    fn list(&self, first: u32) -> impl Iterator<Item = u32> {
        let nodes =
            std::iter::successors(self.nodes.get(first as usize), |node| self.nodes.get(node.next as usize));
        nodes.map(|node| node.task)
    }

    fn insert(&mut self, task: u32, next: u32) -> u32 {
        let node = Node { task, next };
        match self.free {
            NONE => {
                self.nodes.push(node);
                self.nodes.len() as u32 - 1
            }
            index => {
                self.free = self.nodes[index as usize].next;
                self.nodes[index as usize] = node;
                index
            }
        }
    }

    fn remove(&mut self, index: u32) {
        self.nodes[index as usize].next = self.free;
        self.free = index;
    }

    // ---- what was woken on other threads ----

    pub(crate) fn eventfd(&self) -> RawFd {
        self.registration.eventfd()
    }

    pub(crate) fn fetch_woken(&mut self) {
        let woken = self.registration.take_woken();
        for &task in &woken {
            self.wake(task);
        }
        self.registration.reuse(woken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(tasks: u32) -> Waits {
        let mut waits = Waits::new().expect("an eventfd");
        (0..tasks).for_each(|_| waits.add_number());
        waits
    }

    fn ready(waits: &mut Waits) -> Vec<u32> {
        let mut ready: Vec<u32> = std::iter::from_fn(|| waits.next_ready()).collect();
        ready.sort_unstable();
        ready
    }

    #[test]
    fn all_tasks_in_a_place_are_woken() {
        let mut waits = waits(5);
        let mut places = [NONE; 2];
        waits.add(&mut places[0], 3);
        waits.add(&mut places[0], 3);
        assert_eq!(waits.take(&mut places[0]), Wake::Task(3), "once, whatever it waits for");
        for round in 0..100 {
            for task in [0, 1, 4, 1, 0] {
                waits.add(&mut places[round % 2], task);
            }
            waits.add(&mut places[1 - round % 2], 2);
            assert_eq!(waits.tasks(places[round % 2]).count(), 3);
            assert_eq!(waits.take(&mut places[round % 2]), Wake::NoTask);
            assert_eq!(ready(&mut waits), [0, 1, 4]);
            assert_eq!(waits.take(&mut places[1 - round % 2]), Wake::Task(2));
            assert_eq!(places, [NONE; 2]);
            waits.add(&mut places[0], 1);
            waits.add(&mut places[0], 2);
            waits.forget(&mut places[0]);
            assert_eq!((places[0], ready(&mut waits).len()), (NONE, 0));
        }
        assert_eq!(waits.nodes.len(), 3, "nodes are used again");
    }

    #[test]
    fn a_task_is_in_the_queue_once() {
        let mut waits = waits(2);
        let task = waits.task_ref(1);
        (0..1_000).for_each(|_| assert!(waits.wake(task)));
        assert_eq!(ready(&mut waits), [1]);
        assert!(waits.wake(task), "and again after it was taken out");
        assert_eq!(ready(&mut waits), [1]);
    }

    #[test]
    fn a_waker_of_an_ended_task_has_no_effect() {
        let mut waits = waits(1);
        let ended = waits.task_ref(0);
        waits.end_task(0);
        assert!(waits.wake(ended));
        assert_eq!(ready(&mut waits), []);
        let tenant = waits.task_ref(0);
        assert!(waits.wake(tenant));
        assert_eq!(ready(&mut waits), [0]);
        // Another runtime's.
        let other = TaskRef::new(tenant.runtime().wrapping_add(1), tenant.generation(), 0);
        assert!(!waits.wake(other));
        assert_eq!(ready(&mut waits), []);
        (0..=GENERATION_MASK).for_each(|_| waits.end_task(0));
        assert_eq!(waits.task_ref(0), tenant, "generations wrap within their bits");
    }
}
