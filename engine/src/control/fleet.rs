//! The running shards, as the control thread sees them: what it tells them, and what it reports about them.

use std::fmt::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::thread;
use std::time::Duration;

use crossbeam_utils::CachePadded;
use sluice_sys::{Board, Courier, Doorbell, Outstanding, RingFailed, ShardMemory, Unfit};

use super::Message;
use super::live::{self, Live};
use super::signals::Request;
use super::spill::Spill;
use crate::balance::{self, Team};
use crate::config::Config;
use crate::counters::Counters;
use crate::launch::LaunchError;
use crate::placement::ShardPlace;
use crate::steering::Steering;

/// How long a shard may take to bring its counters up to date for a report.
const PUBLISH_PATIENCE: Duration = Duration::from_millis(500);

/// How often a machine with several nodes is asked whether memory had to be taken from the wrong one.
const SPILL_LOOK: Duration = Duration::from_secs(5);

/// What the control thread waits for.
pub(crate) enum Event {
    Asked(Request),
    Ready(Box<Member>),
    CannotStart(LaunchError),
    /// Somebody wants to see the shards.
    Live(UnixStream),
    /// So does a monitoring system.
    Metrics(Sender<Live>),
    /// A shard has ended, with what it could not give back or since its ring has failed.
    Ended {
        shard: usize,
        outcome: Result<Outstanding, RingFailed>,
    },
}

impl From<Request> for Event {
    fn from(request: Request) -> Self {
        Event::Asked(request)
    }
}

/// A running shard. All of it was made on the shard's own thread.
pub(crate) struct Member {
    pub(crate) place: ShardPlace,
    /// The node its memory comes from.
    pub(crate) memory_node: usize,
    pub(crate) doorbell: Doorbell,
    pub(crate) counters: Arc<CachePadded<Counters>>,
    pub(crate) memory: ShardMemory,
    /// The kernel's number of its thread.
    pub(crate) thread: i32,
    /// What the operator should know.
    pub(crate) warning: Option<String>,
}

/// The running shards, in the order of their numbers.
pub(crate) struct Fleet {
    members: Vec<Member>,
    courier: Courier,
    steering: Steering,
    /// What steers.
    steered_by: &'static str,
}

impl Fleet {
    pub(crate) fn new(steering: Steering, steered_by: &'static str) -> Result<Fleet, Unfit> {
        Ok(Fleet { members: Vec::new(), courier: Courier::new()?, steering, steered_by })
    }

    pub(crate) fn add(&mut self, member: Member) {
        if let Some(warning) = &member.warning
            && !self.members.iter().any(|other| other.warning.as_ref() == Some(warning))
        {
            eprintln!("sluice: warning: shard {}: {warning}", member.place.shard);
        }
        let at = self.members.partition_point(|other| other.place.shard < member.place.shard);
        self.members.insert(at, member);
    }

    /// What a shard needs to share connections with the others.
    pub(crate) fn team(&self, shard: usize, board: &Arc<Board>) -> Team {
        let places: Vec<_> = self.members.iter().map(|member| &member.place).collect();
        Team {
            me: shard,
            board: board.clone(),
            doorbells: self.members.iter().map(|member| member.doorbell.clone()).collect(),
            circles: balance::circles(&places, shard),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// Does what signals and visitors ask for until all shards have ended.
    ///
    /// # Errors
    /// When a shard's ring has failed: the other shards are not waited for.
    pub(crate) fn command(&mut self, inbox: &Receiver<Event>, config: &Config) -> Result<(), LaunchError> {
        let (drain_timeout, is_pinned) = (config.drain_timeout, config.host.pinning);
        let mut running = self.members.len();
        let mut left = Outstanding::default();
        let mut is_draining = false;
        let mut spill = if is_pinned { Spill::watch(&self.members) } else { None };
        while running > 0 {
            match next_event(inbox, spill.is_some()) {
                Some(Event::Asked(Request::Report)) => self.report(),
                Some(Event::Live(stream)) => live::answer(stream, &self.live()),
                // Who asked may have lost patience.
                Some(Event::Metrics(reply)) => drop(reply.send(self.live())),
                Some(Event::Asked(Request::End)) if is_draining => {
                    eprintln!("sluice: ended at once, by a second signal");
                    return Ok(());
                }
                Some(Event::Asked(Request::End)) => {
                    is_draining = true;
                    eprintln!("sluice: draining for at most {drain_timeout:?}; a second signal ends at once");
                    self.tell_all(Message::Drain);
                }
                Some(Event::Ended { shard, outcome }) => {
                    let outstanding = outcome.map_err(|error| LaunchError::RingFailed { shard, error })?;
                    running -= 1;
                    left.sockets += outstanding.sockets;
                    left.buffers += outstanding.buffers;
                    left.in_flight += outstanding.in_flight;
                }
                Some(Event::Ready(_) | Event::CannotStart(_)) => {}
                None => spill.iter_mut().for_each(|spill| spill.look(&self.members)),
            }
        }
        self.say_leftover(&left);
        eprintln!("sluice: stopped");
        Ok(())
    }

    fn tell_all(&mut self, message: Message) {
        for member in &self.members {
            // A shard that has ended needs no telling.
            let _ = self.courier.ring(&member.doorbell, message as i32);
        }
    }

    /// Has every shard bring its counters up to date.
    fn publish(&mut self) {
        let published =
            |fleet: &Fleet| fleet.members.iter().map(|shard| shard.counters.published.value()).sum::<u64>();
        let before = published(self);
        self.tell_all(Message::Publish);
        let step = Duration::from_millis(2);
        let mut waited = Duration::ZERO;
        while published(self) < before + self.members.len() as u64 && waited < PUBLISH_PATIENCE {
            thread::sleep(step);
            waited += step;
        }
    }

    /// Prints the counters of all shards, summed up, as one line of JSON.
    fn report(&mut self) {
        self.publish();
        let mut line = String::new();
        for (name, value) in self.totals() {
            let _ = write!(line, "{}\"{name}\":{value}", if line.is_empty() { "" } else { "," });
        }
        eprintln!("sluice: counters {{{line}}}");
    }

    /// Everything about every shard.
    fn live(&mut self) -> Live {
        self.publish();
        Live {
            pid: std::process::id(),
            steering: self.steering.word().to_owned(),
            steered_by: self.steered_by.to_owned(),
            shards: self.members.iter().map(live::look_at).collect(),
        }
    }

    fn totals(&self) -> Vec<(&'static str, u64)> {
        let mut totals: Vec<(&'static str, u64)> = Vec::new();
        for shard in &self.members {
            for (at, (name, value)) in shard.counters.values().enumerate() {
                match totals.get_mut(at) {
                    Some((_, total)) => *total += value,
                    None => totals.push((name, value)),
                }
            }
        }
        totals.push(("descriptors", std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as u64));
        totals
    }

    fn say_leftover(&self, left: &Outstanding) {
        let total = |name: &str| {
            self.totals().iter().find(|(known, _)| *known == name).map_or(0, |(_, value)| *value)
        };
        eprintln!(
            "sluice: leftover connections={} upstream_connections={} tasks_busy={} buffers_held={}",
            total("connections"),
            total("upstream_connections"),
            total("tasks_busy"),
            u64::from(left.buffers).max(total("buffers_held")),
        );
    }
}

/// The next event; `None` when it is time to look whether memory spilled.
fn next_event(inbox: &Receiver<Event>, is_watching: bool) -> Option<Event> {
    // This thread does not end before the one that hears signals, so there is always a sender.
    if !is_watching {
        return inbox.recv().ok();
    }
    inbox.recv_timeout(SPILL_LOOK).ok()
}
