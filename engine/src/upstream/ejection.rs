//! Ejection: a server that fails requests loses its turn for a time, without any check.
//!
//! Each attempt to have a request answered is noted once: its response head, its failure, or that its server was silent while it
//! waited. Enough failures in a row eject the server on this shard and, by the board, on all others. When its time is over one
//! request is let through (a trial): a response ends the ejection, a failure begins a longer one.
//!
//! A hung server neither answers nor fails: the kernel goes on accepting for it. So a request that has waited for a while looks
//! whether anything at all came from its server since it was sent. If not, that is a failure too, as long as other servers are not
//! silent as well: where all are, the cause is what they share.

use std::cell::Cell;
use std::rc::Rc;

use super::board::{EjectionWord, ServerChange};
use super::group::Group;
use super::server::Server;
use crate::config::{Ejection, Statuses};

/// A server may be silent for so many times what responses take on average.
const PATIENCE_TIMES: u64 = 4;

/// The weight of one response in the average is one part of so many.
const AVERAGE_OF: u64 = 16;

/// So many responses have to be known before a server is compared with others.
const SAMPLES_MIN: u32 = 32;

/// A server that answers within this time is not slow, whatever the others do.
const SLOW_MS_MIN: u64 = 20;

/// The time of an ejection is doubled so many times at most.
const DOUBLINGS_MAX: u32 = 20;

/// A group's rules for ejecting its servers, times in milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct EjectionRules {
    failures: u32,
    statuses: Statuses,
    /// The lowest of them, above all statuses if there is none.
    status_min: u16,
    silence_ms: u64,
    latency: u32,
    time_ms: u64,
    time_max_ms: u64,
    percent_max: u32,
}

/// Why an attempt has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection could be made.
    Connection,
    /// The connection or stream ended before the response.
    Closed,
    /// The response was malformed.
    Malformed,
    /// The response did not come within `timeouts.upstream_response`.
    Timeout,
    /// The server has begun no response at all for a while.
    Silence,
    /// Its responses take much longer than those of others.
    Slow,
    /// The response has a status that counts as a failure.
    Status(u16),
}

/// What a shard knows of the attempts on one server.
#[derive(Debug, Default)]
pub(crate) struct Outlier {
    /// In a row, up to now.
    failures: Cell<u32>,
    /// Waits without any sign of life, since the last one.
    silences: Cell<u32>,
    /// When the last response head came.
    heard_ms: Cell<u64>,
    /// How long requests have waited that were given up for the response of another server, and until when: since it was heard.
    unheard: Cell<(u64, u64)>,
    average: Average,
    /// Which ejection in a row this is; 0 if it is not ejected.
    level: Cell<u8>,
    until_ms: Cell<u64>,
    /// How long the last ejection was.
    time_ms: Cell<u64>,
    /// A request was let through to see whether the server is back.
    is_on_trial: Cell<bool>,
    was_silent: Cell<bool>,
    /// The level of the ejection that has ended last, and when its end is forgotten.
    last: Cell<(u8, u64)>,
}

/// A moving average of times in milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Average {
    /// In parts of a millisecond.
    parts: Cell<u64>,
    samples: Cell<u32>,
}

impl Average {
    #[inline]
    fn add(&self, ms: u64) {
        let samples = self.samples.get();
        let parts = self.parts.get();
        self.parts.set(if samples == 0 { ms * AVERAGE_OF } else { parts - parts / AVERAGE_OF + ms });
        self.samples.set(samples.saturating_add(1));
    }

    fn ms(&self) -> u64 {
        self.parts.get() / AVERAGE_OF
    }
}

impl EjectionRules {
    pub(crate) fn new(keys: &Ejection) -> EjectionRules {
        let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        EjectionRules {
            failures: keys.failures,
            status_min: keys.statuses.least().unwrap_or(u16::MAX),
            statuses: keys.statuses.clone(),
            silence_ms: ms(keys.silence),
            latency: keys.latency,
            time_ms: ms(keys.time),
            time_max_ms: ms(keys.time_max),
            percent_max: keys.percent_max,
        }
    }

    /// The time of the ejection that is the nth in a row.
    fn time_ms(&self, level: u8) -> u64 {
        let doublings = u32::from(level.saturating_sub(1)).min(DOUBLINGS_MAX);
        self.time_ms.saturating_mul(1 << doublings).min(self.time_max_ms)
    }
}

impl Outlier {
    /// Whether it is ejected, also while a trial is under way or due.
    #[inline]
    pub(crate) fn is_ejected(&self) -> bool {
        self.level.get() > 0
    }

    /// Whether only a request that can be sent again may be its trial: nothing is lost with it. Where none comes, others may after
    /// as long again.
    #[inline]
    pub(crate) fn is_for_repeatable_only(&self, now_ms: u64) -> bool {
        self.is_ejected() && now_ms < self.until_ms.get().saturating_add(self.time_ms.get())
    }

    fn eject(&self, ejection: EjectionWord) {
        self.level.set(ejection.level);
        self.until_ms.set(ejection.until_ms);
        self.time_ms.set(ejection.time_ms);
        self.is_on_trial.set(false);
        self.failures.set(0);
        self.unheard.set((0, self.unheard.get().1));
    }

    /// A request has waited from `since_ms` to now. How long the server has had requests and has not been heard, all in all; times of
    /// requests that waited together count once.
    fn add_unheard(&self, since_ms: u64, now_ms: u64) -> u64 {
        let (before_ms, until_ms) = self.unheard.get();
        let before_ms = if self.heard_ms.get() > until_ms { 0 } else { before_ms };
        let unheard_ms = before_ms + now_ms.saturating_sub(since_ms.max(until_ms));
        self.unheard.set((unheard_ms, now_ms));
        unheard_ms
    }

    fn restore(&self) {
        // A server that fails again soon is out for longer.
        let until_ms = self.until_ms.get().saturating_add(2 * self.time_ms.get());
        self.last.set((self.level.get(), until_ms));
        self.eject(EjectionWord::default());
        self.silences.set(0);
    }

    fn next_level(&self, now_ms: u64) -> u8 {
        let (last, until_ms) = self.last.get();
        let before = match self.level.get() {
            0 if now_ms < until_ms => last,
            level => level,
        };
        before.saturating_add(1)
    }
}

impl Server {
    /// A request was given to it. If it is ejected, that one is its trial: the others wait for the outcome, or for as long as an
    /// ejection takes.
    #[cold]
    pub(crate) fn begin_trial(&self, now_ms: u64) {
        self.outlier.is_on_trial.set(true);
        self.pass_over_until(now_ms + self.outlier.time_ms.get());
    }

    /// Takes over what the board says of its ejection.
    pub(crate) fn look_at_ejection(&self) {
        let (ejection, outlier) = (self.entry().ejection(), &self.outlier);
        if ejection.level == 0 && outlier.is_ejected() {
            outlier.restore();
            self.pass_over_no_more();
        } else if ejection.level > 0 && ejection.until_ms > outlier.until_ms.get() {
            outlier.eject(ejection);
            self.pass_over_until(ejection.until_ms);
        }
    }
}

impl Group {
    /// How long a request waits for its response before it looks whether its server is silent.
    #[inline]
    pub(crate) fn patience_ms(&self) -> u64 {
        let rules = &self.rules.ejection;
        if rules.silence_ms == 0 || rules.failures == 0 || self.members().len() < 2 {
            return u64::MAX;
        }
        rules.silence_ms.max(self.average.ms() * PATIENCE_TIMES)
    }

    /// The head of a response has come from a server, after so long.
    #[inline]
    pub(crate) fn note_answer(&self, server: &Rc<Server>, status: u16, (now_ms, waited_ms): (u64, u64)) {
        let (outlier, rules) = (&server.outlier, &self.rules.ejection);
        outlier.heard_ms.set(now_ms);
        outlier.average.add(waited_ms);
        self.average.add(waited_ms);
        let is_marked = outlier.failures.get() > 0 || outlier.silences.get() > 0 || outlier.is_ejected();
        if is_marked || status >= rules.status_min || rules.latency > 0 {
            self.judge_answer(server, status, now_ms);
        }
    }

    #[cold]
    fn judge_answer(&self, server: &Rc<Server>, status: u16, now_ms: u64) {
        let outlier = &server.outlier;
        outlier.silences.set(0);
        if self.rules.ejection.statuses.has(status) {
            return self.note_failure(server, Failure::Status(status), now_ms);
        }
        outlier.failures.set(0);
        if outlier.is_ejected() {
            // The response to a request of before says nothing about a server that failed others.
            if outlier.is_on_trial.get() || outlier.was_silent.get() {
                self.restore(server, now_ms);
            }
            return;
        }
        if self.rules.ejection.latency > 0 && outlier.average.samples.get() >= SAMPLES_MIN {
            self.judge_latency(server, now_ms);
        }
    }

    /// A sign of life that is no response yet: an interim one.
    #[cold]
    pub(crate) fn note_life(&self, server: &Rc<Server>, now_ms: u64) {
        server.outlier.heard_ms.set(now_ms);
        server.outlier.silences.set(0);
    }

    /// An attempt has failed.
    #[cold]
    pub(crate) fn note_failure(&self, server: &Rc<Server>, failure: Failure, now_ms: u64) {
        let (outlier, rules) = (&server.outlier, &self.rules.ejection);
        server.numbers.failures.increment();
        if outlier.is_ejected() {
            if outlier.is_on_trial.get() {
                self.eject(
                    server,
                    &format!("the trial request failed: {}", failure.text()),
                    (failure, now_ms),
                );
            }
            return;
        }
        let failures = outlier.failures.get().saturating_add(1);
        outlier.failures.set(failures);
        if rules.failures > 0 && failures >= rules.failures {
            let what = match failures {
                1 => format!("a request failed: {}", failure.text()),
                _ => format!("{failures} requests in a row failed, the last one: {}", failure.text()),
            };
            self.eject(server, &what, (failure, now_ms));
        }
    }

    /// A kept connection was dead, which says nothing about the server: another request may be its trial.
    #[cold]
    pub(crate) fn note_stale(&self, server: &Rc<Server>) {
        if server.outlier.is_on_trial.replace(false) {
            server.pass_over_no_more();
        }
    }

    /// A request that was sent at `sent_ms` has waited for its patience. Says whether its server is ejected, and has begun no
    /// response since.
    #[cold]
    pub(crate) fn judge_silence(&self, server: &Rc<Server>, (now_ms, sent_ms): (u64, u64)) -> bool {
        let outlier = &server.outlier;
        if outlier.heard_ms.get() > sent_ms {
            return false;
        }
        outlier.silences.set(outlier.silences.get().saturating_add(1));
        let is_heard = |other: &Rc<Server>| {
            !Rc::ptr_eq(other, server)
                && !other.is_down()
                && !other.outlier.is_ejected()
                && other.outlier.silences.get() == 0
        };
        let are_others_heard = self.members().iter().any(is_heard);
        if are_others_heard || outlier.is_on_trial.get() {
            self.note_failure(server, Failure::Silence, now_ms);
        }
        outlier.is_ejected()
    }

    /// A request was given up, since another server has answered it meanwhile. That is a failure as soon as such requests have waited
    /// for as long as the group has patience, and nothing has come: each of them alone is given up long before.
    #[cold]
    pub(crate) fn note_given_up(&self, server: &Rc<Server>, (now_ms, sent_ms): (u64, u64)) {
        let outlier = &server.outlier;
        if outlier.heard_ms.get() > sent_ms {
            return;
        }
        if outlier.add_unheard(sent_ms, now_ms) >= self.patience_ms() {
            self.judge_silence(server, (now_ms, sent_ms));
        } else if outlier.is_ejected() {
            // Too short for a trial: another request may be one.
            self.note_stale(server);
        }
    }

    #[cold]
    fn judge_latency(&self, server: &Rc<Server>, now_ms: u64) {
        let (mut sum, mut count) = (0, 0);
        for other in &*self.members() {
            let average = &other.outlier.average;
            if !Rc::ptr_eq(other, server)
                && average.samples.get() >= SAMPLES_MIN
                && !other.outlier.is_ejected()
            {
                (sum, count) = (sum + average.parts.get(), count + 1);
            }
        }
        if count == 0 {
            return;
        }
        let (ms, others_ms) = (server.outlier.average.ms(), sum / count / AVERAGE_OF);
        if ms >= SLOW_MS_MIN && ms >= others_ms.max(1) * u64::from(self.rules.ejection.latency) {
            let what = format!("responses take {ms} ms on average, those of other servers {others_ms} ms");
            if self.eject(server, &what, (Failure::Slow, now_ms)) {
                // It is judged by what it does after its return.
                server.outlier.average.samples.set(0);
            }
        }
    }

    /// Whether one more may be out. Asks the board, since other shards eject too.
    fn may_eject(&self, server: &Rc<Server>) -> bool {
        let members = self.members();
        let (mut out, mut left) = (0, 0);
        for other in members.iter().filter(|other| !Rc::ptr_eq(other, server)) {
            let is_out = other.entry().is_ejected();
            out += usize::from(is_out);
            left += usize::from(!is_out && !other.is_down());
        }
        let percent = self.rules.ejection.percent_max as usize;
        let most = if percent == 0 { 0 } else { (members.len() * percent / 100).max(1) };
        left > 0 && out < most
    }

    /// Takes a server's turn from it; says whether it has.
    fn eject(&self, server: &Rc<Server>, why: &str, (failure, now_ms): (Failure, u64)) -> bool {
        let (outlier, rules, entry) = (&server.outlier, &self.rules.ejection, server.entry());
        let is_again = outlier.is_ejected();
        if !is_again && !self.may_eject(server) {
            return false;
        }
        let level = outlier.next_level(now_ms);
        let time_ms = rules.time_ms(level);
        let ejection = EjectionWord { until_ms: now_ms + time_ms, level, time_ms };
        entry.set_ejection(ejection);
        // Another shard may have ejected another server at this moment: both look again, so that none takes the last one.
        if !is_again && !self.may_eject(server) {
            entry.set_ejection(EjectionWord::default());
            return false;
        }
        outlier.eject(ejection);
        outlier.was_silent.set(failure == Failure::Silence);
        server.pass_over_until(ejection.until_ms);
        server.numbers.ejections.increment();
        let members = self.members();
        let out = members.iter().filter(|member| member.entry().is_ejected()).count();
        entry.report(now_ms, ServerChange::Ejected { why: why.to_owned(), time_ms, out, of: members.len() });
        true
    }

    fn restore(&self, server: &Rc<Server>, now_ms: u64) {
        server.outlier.restore();
        server.pass_over_no_more();
        server.entry().set_ejection(EjectionWord::default());
        server.entry().report(now_ms, ServerChange::Restored);
    }
}

impl Failure {
    fn text(self) -> String {
        match self {
            Failure::Connection => "no connection could be made".into(),
            Failure::Closed => "the connection ended before the response".into(),
            Failure::Malformed => "the response was malformed".into(),
            Failure::Timeout => "no response came within timeouts.upstream_response".into(),
            Failure::Silence => "the server began no response while requests waited".into(),
            Failure::Slow => "responses take too long".into(),
            Failure::Status(status) => format!("status {status}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Repeat;
    use crate::upstream::balance::affinity::Affinity;
    use crate::upstream::group::Wanted;
    use crate::upstream::group::tests::group;

    const FIRST_MS: u64 = 10_000;

    fn with(count: usize, change: impl FnOnce(&mut Ejection)) -> (Group, Vec<Rc<Server>>) {
        let mut keys = Ejection::default();
        change(&mut keys);
        let mut group = group(count);
        Rc::get_mut(&mut group.rules).expect("the only one").ejection = EjectionRules::new(&keys);
        let servers = group.members().to_vec();
        (group, servers)
    }

    fn fail(group: &Group, server: &Rc<Server>, times: usize, now_ms: u64) {
        (0..times).for_each(|_| group.note_failure(server, Failure::Closed, now_ms));
    }

    fn ejection(server: &Rc<Server>) -> (u64, u8) {
        let ejection = server.entry().ejection();
        (ejection.until_ms, ejection.level)
    }

    /// The server that a request gets, by its number.
    fn pick(group: &Group, servers: &[Rc<Server>], now_ms: u64, repeat: Repeat) -> Option<usize> {
        let wanted = Wanted { now_ms, not: None, repeat, affinity: Affinity::default() };
        let picked = group.pick(wanted, |server| Some(server.clone()))?;
        servers.iter().position(|server| Rc::ptr_eq(server, &picked))
    }

    fn picks(group: &Group, servers: &[Rc<Server>], now_ms: u64) -> Vec<usize> {
        (0..4).filter_map(|_| pick(group, servers, now_ms, Repeat::Possible)).collect()
    }

    #[test]
    fn failures_in_a_row_eject_and_a_trial_brings_back() {
        let (group, servers) = with(2, |_| {});
        fail(&group, &servers[1], 4, 100);
        group.note_answer(&servers[1], 200, (100, 1));
        fail(&group, &servers[1], 4, 100);
        assert!(!servers[1].outlier.is_ejected(), "a response between them");
        fail(&group, &servers[1], 1, 100);
        assert!(servers[1].outlier.is_ejected());
        assert_eq!(ejection(&servers[1]), (100 + FIRST_MS, 1));
        assert_eq!(servers[1].numbers.ejections.value(), 1);
        assert_eq!(picks(&group, &servers, 200), [0, 0, 0, 0]);
        // Responses to requests of before change nothing.
        group.note_answer(&servers[1], 200, (300, 1));
        assert!(servers[1].outlier.is_ejected());
        // One request is let through, and none after it before its outcome is known.
        let picked = picks(&group, &servers, 100 + FIRST_MS);
        assert_eq!(picked.iter().sum::<usize>(), 1, "{picked:?}");
        group.note_answer(&servers[1], 200, (101 + FIRST_MS, 1));
        assert!(!servers[1].outlier.is_ejected());
        assert_eq!(ejection(&servers[1]), (0, 0));
        assert_eq!(picks(&group, &servers, 102 + FIRST_MS).iter().sum::<usize>(), 2);
    }

    #[test]
    fn each_failed_trial_and_each_quick_return_doubles_the_time() {
        let (group, servers) = with(2, |_| {});
        fail(&group, &servers[1], 5, 0);
        let mut now_ms = 0;
        for times in [1, 2, 4, 8, 16, 30, 30] {
            assert_eq!(ejection(&servers[1]).0, now_ms + times * FIRST_MS, "{times}");
            now_ms += times * FIRST_MS;
            assert!(picks(&group, &servers, now_ms).contains(&1));
            fail(&group, &servers[1], 1, now_ms);
        }
        let (group, servers) = with(2, |_| {});
        fail(&group, &servers[1], 5, 0);
        assert!(picks(&group, &servers, FIRST_MS).contains(&1));
        group.note_answer(&servers[1], 200, (FIRST_MS, 1));
        fail(&group, &servers[1], 5, FIRST_MS + 1);
        assert_eq!(ejection(&servers[1]), (3 * FIRST_MS + 1, 2), "it flaps");
        let back_ms = 3 * FIRST_MS + 1;
        assert!(picks(&group, &servers, back_ms).contains(&1));
        group.note_answer(&servers[1], 200, (back_ms, 1));
        let later_ms = back_ms + 4 * FIRST_MS;
        fail(&group, &servers[1], 5, later_ms);
        assert_eq!(ejection(&servers[1]), (later_ms + FIRST_MS, 1), "long ago");
    }

    #[test]
    fn a_request_that_cannot_be_sent_again_is_no_trial_at_first() {
        let (group, servers) = with(2, |_| {});
        fail(&group, &servers[1], 5, 0);
        let once = |now_ms| {
            (0..4).filter_map(|_| pick(&group, &servers, now_ms, Repeat::Impossible)).collect::<Vec<_>>()
        };
        assert_eq!(once(FIRST_MS), [0, 0, 0, 0]);
        assert_eq!(once(2 * FIRST_MS), [1, 0, 0, 0]);
    }

    #[test]
    fn a_kept_connection_that_was_dead_leaves_the_trial_to_another_request() {
        let (group, servers) = with(2, |_| {});
        fail(&group, &servers[1], 5, 0);
        assert!(picks(&group, &servers, FIRST_MS).contains(&1));
        assert!(!picks(&group, &servers, FIRST_MS).contains(&1));
        group.note_stale(&servers[1]);
        assert!(picks(&group, &servers, FIRST_MS).contains(&1));
    }

    #[test]
    fn so_many_may_be_out_and_never_the_last_one() {
        for (count, percent, out) in
            [(1, 50, 0), (2, 50, 1), (3, 50, 1), (4, 50, 2), (4, 0, 0), (4, 1, 1), (4, 100, 3)]
        {
            let (group, servers) = with(count, |keys| keys.percent_max = percent);
            servers.iter().for_each(|server| fail(&group, server, 20, 0));
            let ejected = servers.iter().filter(|server| server.outlier.is_ejected()).count();
            assert_eq!(ejected, out, "{count} servers, {percent} %");
        }
        // One that checks hold down counts as out.
        let (group, servers) = with(2, |_| {});
        servers[0].entry().health.set_down(true);
        servers[0].heed_checks(true);
        fail(&group, &servers[1], 20, 0);
        assert!(!servers[1].outlier.is_ejected());
    }

    #[test]
    fn the_one_that_is_left_is_tried_whatever_happens_to_it() {
        let (group, servers) = with(2, |_| {});
        fail(&group, &servers[1], 5, 0);
        servers[0].pass_over(10);
        assert_eq!(picks(&group, &servers, 20), [0, 0, 0, 0]);
        // Checks hold it down: an ejected one is better than none.
        servers[0].entry().health.set_down(true);
        servers[0].heed_checks(true);
        assert_eq!(picks(&group, &servers, 30), [1, 1, 1, 1]);
    }

    #[test]
    fn a_server_that_is_silent_while_others_are_not_is_ejected() {
        let (group, servers) = with(2, |_| {});
        let silent = |server: usize| group.judge_silence(&servers[server], (1_000, 0));
        assert_eq!([0; 5].map(silent), [false, false, false, false, true]);
        // Any response is a sign of life, also one to a request that was sent long ago.
        group.note_answer(&servers[0], 200, (1_001, 900));
        assert!(!servers[0].outlier.is_ejected());
        assert!(!group.judge_silence(&servers[0], (2_000, 1_000)), "it has answered since");
        // Where all are silent, none is ejected.
        let (group, servers) = with(2, |_| {});
        for _ in 0..20 {
            assert!(!group.judge_silence(&servers[0], (1_000, 0)));
            assert!(!group.judge_silence(&servers[1], (1_000, 0)));
        }
    }

    #[test]
    fn requests_that_are_given_up_early_add_up_to_a_silence() {
        let lost = |group: &Group, server: &Rc<Server>, sent_ms: u64| {
            group.note_given_up(server, (sent_ms + 100, sent_ms));
            server.outlier.is_ejected()
        };
        let (group, servers) = with(2, |_| {});
        // Ten of 100 ms are a second; that one and four more are failures.
        let out: Vec<bool> = (1..=14).map(|nth| lost(&group, &servers[1], nth * 1_000)).collect();
        assert_eq!(out.iter().position(|&is_out| is_out), Some(13), "{out:?}");
        // Trials are as short, and the next one follows at once.
        let back_ms = ejection(&servers[1]).0;
        for nth in 0..9 {
            assert!(picks(&group, &servers, back_ms + nth * 100).contains(&1), "{nth}");
            assert!(lost(&group, &servers[1], back_ms + nth * 100));
            assert_eq!(ejection(&servers[1]).1, 1, "{nth}");
        }
        assert!(picks(&group, &servers, back_ms + 900).contains(&1));
        lost(&group, &servers[1], back_ms + 900);
        assert_eq!(ejection(&servers[1]).1, 2, "the trial has failed");
        // Those that wait at the same time say it once.
        let (group, servers) = with(2, |_| {});
        (0..1_000).for_each(|_| assert!(!lost(&group, &servers[1], 1_000)));
        // A response between them begins anew, and one to another request is one too.
        let (group, servers) = with(2, |_| {});
        for nth in 1..200 {
            if nth % 9 == 0 {
                group.note_answer(&servers[1], 200, (nth * 1_000 - 500, 400));
            }
            assert!(!lost(&group, &servers[1], nth * 1_000), "{nth}");
        }
    }

    #[test]
    fn patience_grows_with_the_time_that_responses_take() {
        let (group, servers) = with(2, |_| {});
        assert_eq!(group.patience_ms(), 1_000);
        (0..10).for_each(|_| group.note_answer(&servers[0], 200, (0, 5_000)));
        assert!((19_000..=20_000).contains(&group.patience_ms()), "{}", group.patience_ms());
        assert_eq!(with(1, |_| {}).0.patience_ms(), u64::MAX, "there is no other");
        assert_eq!(with(2, |keys| keys.silence = std::time::Duration::ZERO).0.patience_ms(), u64::MAX);
        assert_eq!(with(2, |keys| keys.failures = 0).0.patience_ms(), u64::MAX);
    }

    #[test]
    fn statuses_count_where_they_are_written() {
        let (group, servers) = with(2, |keys| keys.statuses = Statuses::range(502, 504));
        (0..5).for_each(|_| group.note_answer(&servers[0], 500, (0, 1)));
        assert!(!servers[0].outlier.is_ejected());
        (0..5).for_each(|_| group.note_answer(&servers[0], 503, (0, 1)));
        assert!(servers[0].outlier.is_ejected());
        let (group, servers) = with(2, |_| {});
        (0..50).for_each(|_| group.note_answer(&servers[0], 503, (0, 1)));
        assert!(!servers[0].outlier.is_ejected());
    }

    #[test]
    fn a_server_that_takes_many_times_as_long_is_ejected() {
        let answers = |factor, slow_ms| {
            let (group, servers) = with(3, |keys| keys.latency = factor);
            for _ in 0..100 {
                group.note_answer(&servers[0], 200, (0, 10));
                group.note_answer(&servers[1], 200, (0, 12));
                group.note_answer(&servers[2], 200, (0, slow_ms));
            }
            servers.iter().map(|server| server.outlier.is_ejected()).collect::<Vec<_>>()
        };
        assert_eq!(answers(5, 100), [false, false, true]);
        assert_eq!(answers(5, 40), [false; 3]);
        assert_eq!(answers(0, 1_000), [false; 3]);
    }

    #[test]
    fn another_shard_takes_over_what_the_board_says() {
        let (group, servers) = with(2, |_| {});
        servers[1].entry().set_ejection(EjectionWord { until_ms: 5_000, level: 3, time_ms: 4_000 });
        servers[1].look_at_ejection();
        assert!(servers[1].outlier.is_ejected());
        assert_eq!(picks(&group, &servers, 4_999), [0, 0, 0, 0]);
        assert!(picks(&group, &servers, 5_000).contains(&1));
        servers[1].entry().set_ejection(EjectionWord::default());
        servers[1].look_at_ejection();
        assert!(!servers[1].outlier.is_ejected());
    }

    #[test]
    fn two_shards_do_not_eject_the_last_two() {
        let (group, servers) = with(2, |_| {});
        // What another shard has ejected, and this one has not heard of yet.
        servers[1].entry().set_ejection(EjectionWord { until_ms: 5_000, level: 1, time_ms: 4_000 });
        fail(&group, &servers[0], 20, 1_000);
        assert!(!servers[0].outlier.is_ejected());
    }
}
