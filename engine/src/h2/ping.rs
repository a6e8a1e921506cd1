//! Finds peers that are gone without a FIN: asks one that was silent for a while by PING, and ends the connection if no answer comes.
//!
//! Runs only while a connection has streams: one that rests is the concern of its idle time. Any byte is an answer.

use sluice_sys::{Timer, now_ms};

use crate::message::Side;

/// How long peers may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PingRules {
    /// Clients and servers are asked after this silence; 0 for never.
    pub(crate) client_idle_ms: u64,
    pub(crate) server_idle_ms: u64,
    /// The time for the answer.
    pub(crate) timeout_ms: u64,
}

/// The silence of one connection.
pub(super) struct Silence {
    idle_ms: u64,
    timeout_ms: u64,
    /// When bytes last came, or the first stream began.
    heard_ms: u64,
    /// The peer was asked.
    is_asked: bool,
    /// Goes off when there may be something to do; gone while there are no streams.
    timer: Option<Timer>,
}

/// What a silence calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Ping,
    /// The peer is dead.
    End,
}

impl Silence {
    /// `None` where peers on this side are not asked.
    pub(super) fn new(rules: PingRules, side: Side) -> Option<Silence> {
        let idle_ms = match side {
            Side::Downstream => rules.client_idle_ms,
            Side::Upstream => rules.server_idle_ms,
        };
        let timeout_ms = rules.timeout_ms;
        (idle_ms > 0).then_some(Silence { idle_ms, timeout_ms, heard_ms: 0, is_asked: false, timer: None })
    }

    /// Bytes have come.
    pub(super) fn break_off(&mut self) {
        self.heard_ms = now_ms();
        if std::mem::take(&mut self.is_asked)
            && let Some(timer) = &self.timer
        {
            timer.reset(self.idle_ms);
        }
    }

    /// Looks at the time; the task is polled again when something is due.
    pub(super) fn poll_due(&mut self, has_streams: bool) -> Due {
        if !has_streams {
            (self.timer, self.is_asked) = (None, false);
            return Due::Nothing;
        }
        if self.timer.is_none() {
            self.heard_ms = now_ms();
        }
        let timer = self.timer.get_or_insert_with(|| Timer::new(self.idle_ms));
        while timer.poll_expired().is_ready() {
            let silent_ms = now_ms() - self.heard_ms;
            match due(silent_ms, self.is_asked, self.idle_ms, self.timeout_ms) {
                (due @ (Due::Nothing | Due::Ping), again_ms) => {
                    timer.reset(again_ms);
                    if due == Due::Ping {
                        self.is_asked = true;
                        return due;
                    }
                }
                (Due::End, _) => return Due::End,
            }
        }
        Due::Nothing
    }
}

/// What is due after such a silence, and when to look again.
fn due(silent_ms: u64, is_asked: bool, idle_ms: u64, timeout_ms: u64) -> (Due, u64) {
    let left_ms = |end_ms: u64| (end_ms - silent_ms).max(1);
    match is_asked {
        false if silent_ms < idle_ms => (Due::Nothing, left_ms(idle_ms)),
        false => (Due::Ping, timeout_ms),
        true if silent_ms < idle_ms + timeout_ms => (Due::Nothing, left_ms(idle_ms + timeout_ms)),
        true => (Due::End, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_peer_is_asked_once_and_given_up_after_its_time() {
        assert_eq!(due(0, false, 30, 10), (Due::Nothing, 30));
        assert_eq!(due(29, false, 30, 10), (Due::Nothing, 1));
        assert_eq!(due(30, false, 30, 10), (Due::Ping, 10));
        assert_eq!(due(39, true, 30, 10), (Due::Nothing, 1));
        assert_eq!(due(40, true, 30, 10), (Due::End, 0));
    }

    #[test]
    fn sides_have_times_of_their_own() {
        let rules = PingRules { client_idle_ms: 0, server_idle_ms: 5, timeout_ms: 1 };
        assert!(Silence::new(rules, Side::Downstream).is_none());
        assert!(Silence::new(rules, Side::Upstream).is_some_and(|silence| silence.idle_ms == 5));
    }
}
