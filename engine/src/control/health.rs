//! Health checks: each server of an `[[upstream]]` with `health` is asked on its own, once for the process, whatever the number of
//! shards.
//!
//! A thread of its own runs a task for each server, on an event loop of tokio: checks are few, so that a foreign library may allocate
//! for them. What they say goes to the board (`upstream::health`), and an event has the control thread send shards there. So many
//! checks at once are bounded, and those of servers that do not answer in time have places of their own: they delay each other, and
//! none of the others.

mod bounded;
mod http;
mod probe;
mod tally;
mod target;

use std::hash::{BuildHasher as _, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::thread;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{Instant, sleep, sleep_until};

use self::probe::{Outcome, probe};
use self::tally::{Change, Tally};
use self::target::{Checked, CheckedGroup, Target, TlsSettings};
use crate::blueprint::Blueprint;
use crate::config::AllDown;
use crate::log::{self, Level};
use crate::upstream::board::{ServerEntry, ServerHealth};
use crate::upstream::members::Member;

/// The first checks are spread over so long, or over the interval if that is shorter.
const FIRST_CHECKS: Duration = Duration::from_secs(1);

/// The interval is changed at random by so many per cent at most, in either direction.
const JITTER_PERCENT: u32 = 10;

/// How often the control thread is reminded of a change while it has no time for it.
const REMINDER: Duration = Duration::from_millis(5);

/// So long nothing more is said of checks that could not be made.
const SILENCE: Duration = Duration::from_secs(10);

/// Checks say something else of a server: the board has it.
pub(crate) struct HealthChanged;

/// Begins to check the servers that are to be checked, at most `places` at once.
///
/// # Errors
/// One line: a certificate that cannot be used, or no thread.
pub(crate) fn start<E>(
    blueprint: &Arc<Blueprint>,
    places: usize,
    changes: watch::Receiver<()>,
    events: SyncSender<E>,
) -> Result<(), String>
where
    E: From<HealthChanged> + Send + 'static,
{
    if blueprint.config.upstreams.iter().all(|group| group.health.is_none()) {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(|error| format!("cannot make an event loop for health checks: {error}"))?;
    let settings = target::tls_settings(blueprint)?;
    let blueprint = blueprint.clone();
    let live = move || {
        LocalSet::new().block_on(&runtime, check_all(blueprint, settings, places, changes, events));
    };
    let started = thread::Builder::new().name("health".into()).spawn(live);
    started.map(drop).map_err(|error| format!("cannot start a thread for health checks: {error}"))
}

/// Checks all servers, until the control thread has ended.
async fn check_all<E: From<HealthChanged>>(
    blueprint: Arc<Blueprint>,
    settings: Vec<Option<TlsSettings>>,
    places: usize,
    changes: watch::Receiver<()>,
    events: SyncSender<E>,
) {
    let checker = Rc::new(Checker {
        prompt: Semaphore::new(places.div_ceil(2)),
        slow: Semaphore::new(places.div_ceil(2)),
        changed: Notify::new(),
    });
    spawn_local(follow(blueprint, settings, checker.clone(), changes));
    loop {
        checker.changed.notified().await;
        loop {
            match events.try_send(HealthChanged.into()) {
                Ok(()) => break,
                // It must not be waited for here: checks go on.
                Err(TrySendError::Full(_)) => sleep(REMINDER).await,
                Err(TrySendError::Disconnected(_)) => return,
            }
        }
    }
}

/// The servers of a group that are checked, and the task of each.
type Watched = Vec<(Member, JoinHandle<()>)>;

/// Checks the servers that there are at the moment: begins with those that come, and ends with those that go.
async fn follow(
    blueprint: Arc<Blueprint>,
    settings: Vec<Option<TlsSettings>>,
    checker: Rc<Checker>,
    mut changes: watch::Receiver<()>,
) {
    let mut groups: Vec<(Checked, Watched)> =
        target::groups(&blueprint, settings).into_iter().map(|checked| (checked, Vec::new())).collect();
    loop {
        for (checked, watched) in &mut groups {
            let members = checked.members(&blueprint);
            watched.retain(|(member, task)| {
                let stays = members.iter().any(|other| other.is_same(member));
                if !stays {
                    task.abort();
                }
                stays
            });
            let mut entries = Vec::new();
            for member in &*members {
                let (entry, target) = checked.target(&blueprint, member);
                entries.push(entry.clone());
                if watched.iter().any(|(known, _)| known.is_same(member)) {
                    continue;
                }
                let watch = Watch { checker: checker.clone(), group: checked.group.clone(), entry, target };
                watched.push((member.clone(), spawn_local(watch.run())));
            }
            checked.group.servers.replace(entries);
        }
        if changes.changed().await.is_err() {
            // No name and no file can change: what is checked goes on.
            return;
        }
    }
}

/// What all checks have in common.
struct Checker {
    /// Places for checks of servers whose last check was over in time.
    prompt: Semaphore,
    /// Places for the others.
    slow: Semaphore,
    changed: Notify,
}

/// One server under watch.
struct Watch {
    checker: Rc<Checker>,
    group: Rc<CheckedGroup>,
    entry: Arc<ServerEntry>,
    target: Target,
}

impl Watch {
    async fn run(self) {
        let check = &self.group.check;
        let health = self.health();
        let mut tally = Tally::new(check.rise, check.fall, health.is_down());
        let (mut is_slow, mut silent_until) = (false, Instant::now());
        sleep(check.interval.min(FIRST_CHECKS).mul_f64(random())).await;
        loop {
            let due = Instant::now();
            let places = if is_slow { &self.checker.slow } else { &self.checker.prompt };
            let place = places.acquire().await;
            if due.elapsed() > check.interval {
                health.count_late();
            }
            // The task of a server that is not checked at the moment is small.
            let outcome = Box::pin(probe(&self.target, check)).await;
            drop(place);
            is_slow = outcome.is_late();
            match outcome {
                Outcome::NotMade(why) if Instant::now() >= silent_until => {
                    silent_until = Instant::now() + SILENCE;
                    log::warn(format_args!(
                        "upstream {}: {} was not checked: {why}",
                        self.group.name, self.target.url
                    ));
                }
                Outcome::NotMade(_) => {}
                Outcome::Passed => self.note(&mut tally, None),
                Outcome::Failed { why, .. } => self.note(&mut tally, Some(&why)),
            }
            sleep_until(due + jittered(check.interval)).await;
        }
    }

    fn health(&self) -> &ServerHealth {
        &self.entry.health
    }

    /// A check has passed, or failed for this reason.
    fn note(&self, tally: &mut Tally, failure: Option<&str>) {
        let health = self.health();
        health.count(failure.is_none());
        if let Some(why) = failure {
            log::debug(format_args!(
                "upstream {}: {} failed a check: {why}",
                self.group.name, self.target.url
            ));
        }
        let Some(change) = tally.note(failure.is_none()) else { return };
        health.set_down(change.is_down);
        self.checker.changed.notify_one();
        self.say(change, failure.unwrap_or_default());
    }

    fn say(&self, change: Change, why: &str) {
        let (all, up) = self.group.count();
        let count = match up {
            0 => format!("none of {all} servers is up: {}", consequence(self.group.check.all_down)),
            1 => format!("1 of {all} servers is up"),
            up => format!("{up} of {all} servers are up"),
        };
        let (what, level, verdict) = match (change.is_down, change.checks) {
            (true, 1) => ("down", Level::Warn, format!("a check failed: {why}")),
            (true, checks) => {
                ("down", Level::Warn, format!("{checks} checks in a row failed, the last one: {why}"))
            }
            (false, 1) => ("up", Level::Info, "a check passed".to_owned()),
            (false, checks) => ("up", Level::Info, format!("{checks} checks in a row passed")),
        };
        let (name, server) = (self.group.name.as_str(), self.target.url.as_str());
        log::write(
            level,
            format_args!("upstream {name}: {server} is {what}: {verdict}; {count}"),
            &[
                ("upstream", name.into()),
                ("server", server.into()),
                ("up", (!change.is_down).into()),
                ("reason", why.into()),
                ("servers_up", up.into()),
                ("servers", all.into()),
            ],
        );
    }
}

fn consequence(all_down: AllDown) -> &'static str {
    match all_down {
        AllDown::Refuse => "requests get 503",
        AllDown::Try => "requests are sent as if there were no checks",
    }
}

/// A time that differs from this one by a tenth at most: checks of many servers, or by many proxies, do not come together.
fn jittered(interval: Duration) -> Duration {
    let part = f64::from(JITTER_PERCENT) / 100.0;
    interval.mul_f64(1.0 - part + 2.0 * part * random())
}

/// From 0 to 1.
fn random() -> f64 {
    f64::from(RandomState::new().hash_one(()) as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_differ_by_a_tenth_at_most() {
        let interval = Duration::from_secs(10);
        let all: Vec<Duration> = (0..1_000).map(|_| jittered(interval)).collect();
        let (least, most) = (all.iter().min().unwrap(), all.iter().max().unwrap());
        assert!(*least >= Duration::from_secs(9) && *least < Duration::from_millis(9_200), "{least:?}");
        assert!(*most <= Duration::from_secs(11) && *most > Duration::from_millis(10_800), "{most:?}");
    }
}
