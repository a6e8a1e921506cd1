//! The budget of a connection of HTTP/2 for frames that the protocol allows, that cost us work, and that are abuse when repeated: a bucket
//! of points that fills again with time. Requests that end in refusals are counted elsewhere (`crate::abuse`).

use sluice_proto::h2::Abuse;

use crate::counters::{Counter, Counters};

/// How many points a connection has at once, and how many it gets back every second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AbuseRules {
    /// 0 for no limit.
    pub(crate) burst: u32,
    pub(crate) per_second: u32,
}

/// The points that a connection has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AbuseBudget {
    used: u32,
    /// When that was, in the shard's milliseconds.
    at_ms: u32,
}

/// An exchange that went through gives so many points back.
const FORGIVEN: u32 = 2;

/// What a refused request costs: 100 at once.
const GUESS: u32 = 10;

impl AbuseBudget {
    /// Uses up points for what has come; says whether there were enough.
    pub(crate) fn spend(
        &mut self,
        abuses: &[u16; Abuse::COUNT],
        now_ms: u64,
        rules: AbuseRules,
        counters: &Counters,
    ) -> bool {
        self.refill(now_ms, rules);
        for (abuse, count) in Abuse::ALL.into_iter().zip(abuses) {
            counter(abuse, counters).add(u64::from(*count));
            self.used = self.used.saturating_add(points(abuse) * u32::from(*count));
        }
        self.is_enough(rules)
    }

    /// The same for a request that was refused, and may be one of a client that guesses what there is.
    #[cold]
    pub(crate) fn spend_on_guess(&mut self, now_ms: u64, rules: AbuseRules, counters: &Counters) -> bool {
        counters.abuse_refusals.increment();
        self.refill(now_ms, rules);
        self.used = self.used.saturating_add(GUESS);
        self.is_enough(rules)
    }

    fn refill(&mut self, now_ms: u64, rules: AbuseRules) {
        let now_ms = now_ms as u32;
        let passed_ms = u64::from(now_ms.wrapping_sub(self.at_ms));
        let returned = passed_ms.saturating_mul(u64::from(rules.per_second)) / 1_000;
        if returned > 0 {
            self.used = u32::try_from(u64::from(self.used).saturating_sub(returned)).unwrap_or(0);
            self.at_ms = now_ms;
        }
    }

    fn is_enough(&self, rules: AbuseRules) -> bool {
        rules.burst == 0 || self.used <= rules.burst
    }

    /// An exchange went as it should.
    pub(crate) fn forgive(&mut self) {
        self.used = self.used.saturating_sub(FORGIVEN);
    }
}

/// What one of them costs.
fn points(abuse: Abuse) -> u32 {
    match abuse {
        Abuse::Ignored | Abuse::TinyData | Abuse::TinyWindow => 1,
        Abuse::Ping | Abuse::Empty => 2,
        Abuse::Settings | Abuse::Reset | Abuse::Refused => 5,
        Abuse::Broken => 10,
    }
}

fn counter(abuse: Abuse, counters: &Counters) -> &Counter {
    match abuse {
        Abuse::Ping => &counters.h2_pings,
        Abuse::Settings => &counters.h2_settings,
        Abuse::Ignored => &counters.h2_frames_ignored,
        Abuse::Empty => &counters.h2_frames_empty,
        Abuse::Reset => &counters.h2_resets,
        Abuse::Broken => &counters.h2_streams_broken,
        Abuse::TinyWindow => &counters.h2_windows_tiny,
        Abuse::Refused => &counters.h2_streams_refused,
        Abuse::TinyData => &counters.h2_data_tiny,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: AbuseRules = AbuseRules { burst: 100, per_second: 10 };

    fn pings(count: u16) -> [u16; Abuse::COUNT] {
        let mut abuses = [0; Abuse::COUNT];
        abuses[Abuse::Ping as usize] = count;
        abuses
    }

    #[test]
    fn a_flood_uses_it_up_and_time_fills_it() {
        let (mut budget, counters) = (AbuseBudget::default(), Counters::default());
        assert!(budget.spend(&pings(50), 0, RULES, &counters));
        assert!(!budget.spend(&pings(1), 0, RULES, &counters));
        assert!(budget.spend(&pings(1), 1_000, RULES, &counters), "ten points came back");
        assert_eq!(counters.h2_pings.value(), 52);
    }

    #[test]
    fn a_ping_every_few_seconds_is_no_abuse_for_years() {
        let (mut budget, counters) = (AbuseBudget::default(), Counters::default());
        for nth in 0..1_000_000_u64 {
            assert!(budget.spend(&pings(1), nth * 5_000, RULES, &counters));
        }
    }

    #[test]
    fn exchanges_pay_for_what_comes_with_them_and_no_limit_is_none() {
        let (mut budget, counters) = (AbuseBudget::default(), Counters::default());
        for _ in 0..10_000 {
            assert!(budget.spend(&pings(1), 0, RULES, &counters));
            budget.forgive();
        }
        assert!(budget.spend(&pings(60_000), 0, AbuseRules { burst: 0, per_second: 0 }, &counters));
    }
}
