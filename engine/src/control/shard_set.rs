//! The running shards, as the control thread sees them: what it sends to them, and what it reports about them.

use std::fmt::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use sluice_sys::{HostUnsupported, LoadBoard, MsgRingSender, Outstanding, RingFailed};

use super::Message;
use super::acme::AcmeEvent;
use super::health::HealthChanged;
use super::live::{self, Live, LiveServer};
use super::member::Member;
use super::names::MembersChanged;
use super::numa_overflow::NumaOverflow;
use super::outliers;
use super::signals::{EndBy, Ending, Request, SECOND_SIGNAL_AFTER};
use super::tls_upkeep::{self, Occasion, TlsUpkeep};
use crate::balance::{self, ShardPeers};
use crate::config::{Config, Scheme, server_url};
use crate::launch_error::LaunchError;
use crate::listen::SocketFiles;
use crate::log::{self, Level};
use crate::placement::ShardPlace;
use crate::steering::Steering;
use crate::tls::files::now_s;
use crate::upstream::board::{Report, ServerBoard, ServerHealth};

/// How long a shard may take to bring its counters up to date for a report.
const PUBLISH_PATIENCE: Duration = Duration::from_millis(500);

/// How long to wait before the counters are looked at again.
const PUBLISH_STEP: Duration = Duration::from_millis(2);

/// How often a machine with several nodes is asked whether memory had to be taken from the wrong one.
const SPILL_LOOK: Duration = Duration::from_secs(5);

/// An event that the control thread waits for.
pub(crate) enum Event {
    Asked(Request),
    Ready(Box<Member>),
    CannotStart(LaunchError),
    /// `sluice topology --live` asks for the shards.
    Live(UnixStream),
    /// So does a monitoring system.
    Metrics(Sender<Live>),
    /// An authority has made a certificate, or wants to see something.
    Acme(AcmeEvent),
    /// Checks say something else of a server.
    Health(HealthChanged),
    /// A shard has ejected a server, or has it back.
    Upstream(Report),
    /// A group has other servers.
    Members(MembersChanged),
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

impl From<UnixStream> for Event {
    fn from(stream: UnixStream) -> Self {
        Event::Live(stream)
    }
}

impl From<Sender<Live>> for Event {
    fn from(reply: Sender<Live>) -> Self {
        Event::Metrics(reply)
    }
}

impl From<AcmeEvent> for Event {
    fn from(event: AcmeEvent) -> Self {
        Event::Acme(event)
    }
}

impl From<MembersChanged> for Event {
    fn from(changed: MembersChanged) -> Self {
        Event::Members(changed)
    }
}

impl From<HealthChanged> for Event {
    fn from(changed: HealthChanged) -> Self {
        Event::Health(changed)
    }
}

/// The running shards, in the order of their numbers.
// Boxed, and never unboxed: a box is a block of its shard's heap. Were it freed here, this thread would use the block for its
// own, grow it, and so be the first to write to pages of that heap, from another node.
#[allow(clippy::vec_box)]
pub(crate) struct ShardSet {
    members: Vec<Box<Member>>,
    ring_sender: MsgRingSender,
    steering: Steering,
    /// How connections are steered.
    steered_by: &'static str,
    /// What the process knows of servers.
    servers: Arc<ServerBoard>,
    /// Those of Unix sockets that are listened on.
    files: Option<SocketFiles>,
}

impl ShardSet {
    pub(crate) fn new(
        steering: Steering,
        steered_by: &'static str,
        servers: Arc<ServerBoard>,
    ) -> Result<ShardSet, HostUnsupported> {
        let ring_sender = MsgRingSender::new()?;
        Ok(ShardSet { members: Vec::new(), ring_sender, steering, steered_by, servers, files: None })
    }

    /// These are removed when a drain begins: clients find no socket then, and another process may make its own.
    pub(crate) fn keep_files(&mut self, files: SocketFiles) {
        self.files = Some(files);
    }

    pub(crate) fn add(&mut self, member: Box<Member>) {
        if let Some(warning) = &member.warning
            && !self.members.iter().any(|other| other.warning.as_ref() == Some(warning))
        {
            log::warn(format_args!("shard {}: {warning}", member.place.shard));
        }
        let ShardPlace { shard, cpu, .. } = member.place;
        log::debug(format_args!("shard {shard} is ready: CPU {cpu}, memory of node {}", member.memory_node));
        let at = self.members.partition_point(|other| other.place.shard < member.place.shard);
        self.members.insert(at, member);
    }

    /// Everything a shard needs to share connections with the others.
    pub(crate) fn peers(&self, shard: usize, board: &Arc<LoadBoard>) -> ShardPeers {
        let places: Vec<_> = self.members.iter().map(|member| &member.place).collect();
        ShardPeers {
            me: shard,
            board: board.clone(),
            doorbells: self.members.iter().map(|member| member.doorbell.clone()).collect(),
            proximity: balance::proximity(&places, shard),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// Does what signals and visitors ask for until all shards have ended.
    ///
    /// # Errors
    /// When a shard's ring has failed: the other shards are not waited for.
    pub(crate) fn command(
        &mut self,
        inbox: &Receiver<Event>,
        config: &Config,
        mut tls: Option<&mut TlsUpkeep>,
    ) -> Result<(), LaunchError> {
        let (drain_timeout, is_pinned) = (config.drain_timeout, config.host.pinning);
        let mut running = self.members.len();
        let mut left = Outstanding::default();
        let mut ending = Ending::default();
        let mut numa_overflow = if is_pinned { NumaOverflow::watch(&self.members) } else { None };
        let mut looks = [
            numa_overflow.is_some().then(|| Every::new(SPILL_LOOK)),
            tls.is_some().then(|| Every::new(tls_upkeep::LOOK)),
        ];
        while running > 0 {
            match next_event(inbox, looks.iter().flatten().map(|look| look.next).min()) {
                Some(Event::Asked(Request::Report)) => self.report(),
                Some(Event::Asked(Request::Reload)) => self.reload(tls.as_deref_mut()),
                Some(Event::Live(stream)) => live::answer(stream, &self.live(tls.as_deref())),
                // The requester may have given up.
                Some(Event::Metrics(reply)) => drop(reply.send(self.live(tls.as_deref()))),
                Some(Event::Health(HealthChanged)) => self.tell_all(Message::Health),
                Some(Event::Upstream(report)) => {
                    outliers::say(&report);
                    self.tell_all(Message::Health);
                }
                Some(Event::Members(MembersChanged)) => self.tell_all(Message::Members),
                Some(Event::Acme(event)) => self.take_over(tls.as_deref_mut(), event),
                Some(Event::Asked(Request::End(at))) => match ending.signal(at) {
                    EndBy::Draining => {
                        log::info(format_args!(
                            "draining for at most {drain_timeout:?}; another signal, from {SECOND_SIGNAL_AFTER:?} on, ends at once"
                        ));
                        self.files.iter_mut().for_each(SocketFiles::remove);
                        self.tell_all(Message::Drain);
                    }
                    EndBy::Ignoring => log::info(format_args!(
                        "signal ignored: it came within {SECOND_SIGNAL_AFTER:?} of the first one"
                    )),
                    EndBy::Aborting => {
                        log::warn("ended at once, by a second signal");
                        return Ok(());
                    }
                },
                Some(Event::Ended { shard, outcome }) => {
                    let outstanding = outcome.map_err(|error| LaunchError::RingFailed { shard, error })?;
                    self.has_ended(shard);
                    running -= 1;
                    left.sockets += outstanding.sockets;
                    left.buffers += outstanding.buffers;
                    left.in_flight += outstanding.in_flight;
                }
                Some(Event::Ready(_) | Event::CannotStart(_)) | None => {}
            }
            let [numa_look, tls_look] = looks.each_mut().map(|look| look.as_mut().is_some_and(Every::is_due));
            numa_overflow.iter_mut().filter(|_| numa_look).for_each(|overflow| overflow.look(&self.members));
            tls.iter_mut().filter(|_| tls_look).for_each(|tls| self.look_at_tls(tls, Occasion::Time));
        }
        self.say_leftover(&left);
        log::info("stopped");
        Ok(())
    }

    /// Has shards take over certificates and keys of tickets, if there are new ones.
    fn look_at_tls(&mut self, tls: &mut TlsUpkeep, occasion: Occasion) {
        if tls.look(now_s(), occasion) {
            self.tell_all(Message::Renew);
        }
    }

    /// Has shards show what an authority has made or wants to see.
    fn take_over(&mut self, tls: Option<&mut TlsUpkeep>, event: AcmeEvent) {
        let Some(tls) = tls else { return };
        let reply = tls.take_over(event);
        self.tell_all(Message::Renew);
        if let Some(reply) = reply {
            // A shard takes messages in their order: one that has published has taken over before.
            self.publish();
            // The requester may have given up.
            let _ = reply.send(());
        }
    }

    /// SIGHUP.
    fn reload(&mut self, tls: Option<&mut TlsUpkeep>) {
        let cannot =
            "the configuration cannot be changed while Sluice runs (hint: restart to apply a new one)";
        match tls {
            None => log::warn(format_args!("SIGHUP ignored: {cannot}")),
            Some(tls) => {
                self.look_at_tls(tls, Occasion::Asked);
                log::warn(format_args!(
                    "SIGHUP: looked at the files of certificates, nothing else: {cannot}"
                ));
            }
        }
    }

    /// The counters of a shard that has ended are the last ones.
    fn has_ended(&mut self, shard: usize) {
        let members = self.members.iter_mut().filter(|member| member.place.shard == shard);
        members.for_each(|member| member.freshness.finish());
    }

    fn tell_all(&mut self, message: Message) {
        for member in &self.members {
            // A shard that has ended needs no telling.
            let _ = self.ring_sender.ring(&member.doorbell, message as i32);
        }
    }

    /// Has every shard bring its counters up to date. One that does not answer in time has old ones, which are shown as such.
    fn publish(&mut self) {
        let asked = Instant::now();
        self.look_at_counters();
        self.members.iter_mut().for_each(|member| member.freshness.ask());
        self.tell_all(Message::Publish);
        while !self.look_at_counters() && asked.elapsed() < PUBLISH_PATIENCE {
            thread::sleep(PUBLISH_STEP);
        }
    }

    /// Notes which shards have published; says whether all that were asked have.
    fn look_at_counters(&mut self) -> bool {
        let look = |member: &mut Box<Member>| member.freshness.look(&member.counters, Instant::now());
        // All of them, also behind one that has not answered.
        self.members.iter_mut().map(look).fold(true, |all, has_answered| all & has_answered)
    }

    /// Prints the counters of all shards, summed up, as one line of JSON.
    fn report(&mut self) {
        self.publish();
        let mut line = String::new();
        for (name, value) in self.totals().into_iter().chain(self.age()) {
            let _ = write!(line, "{}\"{name}\":{value}", if line.is_empty() { "" } else { "," });
        }
        log::write_object("counters", &format!("{{{line}}}"));
    }

    /// Everything about every shard.
    fn live(&mut self, tls: Option<&TlsUpkeep>) -> Live {
        self.publish();
        Live {
            tls: tls.map(|tls| tls.live(now_s())),
            pid: std::process::id(),
            steering: self.steering.word().to_owned(),
            steered_by: self.steered_by.to_owned(),
            shards: self.members.iter().map(|member| live::look_at(member)).collect(),
            servers: self.servers(),
        }
    }

    /// The servers that are checked.
    fn servers(&self) -> Vec<LiveServer> {
        let mut servers = Vec::new();
        self.for_each_checked(|group, scheme, authority, health| {
            let counts = health.counts();
            servers.push(LiveServer {
                upstream: group.to_owned(),
                server: server_url(scheme, authority),
                up: !health.is_down(),
                checks_passed: counts.passed,
                checks_failed: counts.failed,
                checks_late: counts.late,
            });
        });
        servers
    }

    fn for_each_checked(&self, mut f: impl FnMut(&str, Scheme, &str, &ServerHealth)) {
        self.servers.for_each(|group, scheme, authority, entry| {
            if entry.health.is_checked() {
                f(group, scheme, authority, &entry.health);
            }
        });
    }

    /// What checks and ejections come to, for the counters of the process.
    fn health_totals(&self) -> [(&'static str, u64); 6] {
        let (mut ejected, mut ejections) = (0, 0);
        self.servers.for_each_entry(|server| {
            ejected += u64::from(server.is_ejected());
            ejections += server.numbers().map(|numbers| numbers.ejections.value()).sum::<u64>();
        });
        let (mut checks, mut failed, mut late, mut down) = (0, 0, 0, 0);
        self.for_each_checked(|_, _, _, health| {
            let counts = health.counts();
            checks += counts.passed + counts.failed;
            failed += counts.failed;
            late += counts.late;
            down += u64::from(health.is_down());
        });
        [
            ("health_checks", checks),
            ("health_checks_failed", failed),
            ("health_checks_late", late),
            ("servers_down", down),
            ("servers_ejected", ejected),
            ("server_ejections", ejections),
        ]
    }

    /// How old the oldest counters are, and how many shards have not answered.
    fn age(&self) -> [(&'static str, u64); 2] {
        let oldest = self.members.iter().map(|member| member.freshness.age_ms()).max();
        let stale = self.members.iter().filter(|member| member.freshness.is_stale()).count();
        [("counters_age_ms", oldest.unwrap_or(0)), ("shards_stale", stale as u64)]
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
        totals.extend(self.health_totals());
        totals.push(("descriptors", std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as u64));
        totals
    }

    fn say_leftover(&self, left: &Outstanding) {
        let total = |name: &str| {
            self.totals().iter().find(|(known, _)| *known == name).map_or(0, |(_, value)| *value)
        };
        let left = [
            ("connections", total("connections")),
            ("upstream_connections", total("upstream_connections")),
            ("tasks_busy", total("tasks_busy")),
            ("buffers_held", u64::from(left.buffers).max(total("buffers_held"))),
        ];
        let text: String = left.iter().map(|(name, value)| format!(" {name}={value}")).collect();
        log::write(
            Level::Info,
            format_args!("leftover{text}"),
            &left.map(|(name, value)| (name, value.into())),
        );
    }
}

/// Something that is looked at in steps of this time.
struct Every {
    step: Duration,
    next: Instant,
}

impl Every {
    fn new(step: Duration) -> Every {
        Every { step, next: Instant::now() + step }
    }

    /// Whether it is time. Then the next time is a step from now.
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let is_due = now >= self.next;
        if is_due {
            self.next = now + self.step;
        }
        is_due
    }
}

/// The next event; `None` when it is time to look at something.
fn next_event(inbox: &Receiver<Event>, look: Option<Instant>) -> Option<Event> {
    // This thread does not end before the one that hears signals, so there is always a sender.
    match look {
        None => inbox.recv().ok(),
        Some(look) => inbox.recv_timeout(look.saturating_duration_since(Instant::now())).ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use crossbeam_utils::CachePadded;
    use sluice_sys::{Doorbell, Runtime, Settings, next_connection, next_message};

    use super::*;
    use crate::config::CommandLine;
    use crate::control::freshness::Freshness;
    use crate::counters::Counters;

    /// A shard that publishes as often as it is allowed to when it is asked, and then falls silent.
    fn shard(number: usize, answers: usize) -> (Box<Member>, Sender<()>) {
        let (tell, hear) = channel();
        let (end, may_end) = channel();
        thread::spawn(move || {
            let settings =
                Settings { submission_entries: 8, buffers: 8, buffer_bytes: 64, ..Settings::default() };
            let runtime = Runtime::new(&settings).unwrap();
            let counters: Arc<CachePadded<Counters>> = Arc::default();
            tell.send(Box::new(Member {
                place: ShardPlace {
                    shard: number,
                    cpu: 0,
                    node: 0,
                    memory_node: 0,
                    memory_fallbacks: Vec::new(),
                    l3_group: 0,
                },
                memory_node: 0,
                doorbell: Doorbell::of_this_thread().unwrap(),
                counters: counters.clone(),
                freshness: Freshness::new(Instant::now()),
                memory: sluice_sys::shard_memory(),
                thread: sluice_sys::thread_id(),
                warning: None,
            }))
            .unwrap();
            let main = async move {
                for _ in 0..answers {
                    next_message().await;
                    counters.published.increment();
                }
                // Stuck in a system call, as it were.
                let _ = may_end.recv();
            };
            runtime.run(main, async || drop(next_connection().await)).unwrap();
        });
        (hear.recv().unwrap(), end)
    }

    #[test]
    fn counters_of_a_shard_that_does_not_answer_are_marked_as_old() {
        let mut shard_set = ShardSet::new(Steering::Off, "hash", Arc::new(ServerBoard::new(2))).unwrap();
        let ends: Vec<Sender<()>> = [(0, usize::MAX), (1, 1)]
            .into_iter()
            .map(|(number, answers)| {
                let (member, end) = shard(number, answers);
                shard_set.add(member);
                end
            })
            .collect();
        let stale = |live: &Live| live.shards.iter().map(|shard| shard.counters_stale).collect::<Vec<_>>();
        assert_eq!(stale(&shard_set.live(None)), [false, false]);
        assert_eq!(shard_set.age()[1], ("shards_stale", 0));
        let silent_since = Instant::now();
        let live = shard_set.live(None);
        assert_eq!(stale(&live), [false, true]);
        let ages = [0, 1].map(|shard| live.shards[shard].counters_age_ms);
        assert!(u128::from(ages[1]) >= PUBLISH_PATIENCE.as_millis() && ages[1] > ages[0], "{ages:?}");
        // It is still old at the next look, and older.
        let [(_, oldest), stale_shards] = {
            shard_set.publish();
            shard_set.age()
        };
        assert!(u128::from(oldest) >= 2 * PUBLISH_PATIENCE.as_millis(), "{oldest}");
        assert!(u128::from(oldest) <= silent_since.elapsed().as_millis() + 1_000, "{oldest}");
        assert_eq!(stale_shards, ("shards_stale", 1));
        // One that has ended has last ones.
        shard_set.has_ended(1);
        let live = shard_set.live(None);
        assert_eq!((stale(&live), live.shards[1].counters_age_ms), (vec![false, false], 0));
        drop(ends);
    }

    #[test]
    fn a_ring_that_has_failed_ends_the_process_whatever_the_other_shards_do() {
        let mut shard_set = ShardSet::new(Steering::Off, "hash", Arc::new(ServerBoard::new(2))).unwrap();
        let (member, _end) = shard(0, usize::MAX);
        shard_set.add(member);
        let (events, inbox) = channel();
        // EBADR: completions were dropped.
        let outcome = Err(RingFailed::from_errno(53));
        events.send(Event::Ended { shard: 3, outcome }).unwrap();
        let flags =
            CommandLine::default().with("--listen", "127.0.0.1:1").with("--upstream", "http://127.0.0.1:1");
        let config = crate::config::resolve(&flags).unwrap();
        let failed = shard_set.command(&inbox, &config, None).unwrap_err();
        let said = failed.to_string();
        assert!(said.starts_with("shard 3 cannot go on: ") && said.contains("(EBADR)"), "{said}");
        assert_eq!(failed.exit().code(), 71);
    }
}
