//! `ejection` and `breaker` of an `[[upstream]]`: which failures keep requests from a server, or from all of them.

use std::time::Duration;

use super::health::{Statuses, check_statuses};
use super::problem::{Fault, Report};
use super::table::{BreakerKeys, EjectionKeys, UpstreamKeys};

/// When a server that fails requests gets none for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ejection {
    /// Failures in a row that eject it; 0 for none.
    pub failures: u32,
    /// Statuses that are failures.
    pub statuses: Statuses,
    /// How long a server may begin no response while one is owed; zero for any time.
    pub silence: Duration,
    /// How many times as long as others it may take; 0 for any time.
    pub latency: u32,
    /// How long it is out for the first time.
    pub time: Duration,
    /// How long at most.
    pub time_max: Duration,
    /// How many of its group may be out at once.
    pub percent_max: u32,
}

impl Default for Ejection {
    fn default() -> Ejection {
        Ejection::of(&EjectionKeys::default(), Statuses::none())
    }
}

impl Ejection {
    fn of(keys: &EjectionKeys, statuses: Statuses) -> Ejection {
        Ejection {
            failures: keys.failures,
            statuses,
            silence: keys.silence,
            latency: keys.latency,
            time: keys.time,
            time_max: keys.time_max,
            percent_max: keys.percent_max,
        }
    }
}

/// When requests to a group are refused at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    /// Most requests under way; 0 for no limit.
    pub requests: u64,
    /// How many of the last requests may fail; 0 for all.
    pub failure_percent: u32,
    /// How many requests are looked at.
    pub window: u32,
    /// Statuses that are failures.
    pub statuses: Statuses,
    /// How long it is open.
    pub time: Duration,
}

/// What `ejection` of an upstream comes to.
pub(super) fn check_ejection(keys: &UpstreamKeys, report: &mut Report) -> Ejection {
    let written = keys.ejection.given();
    let of_ejection = written.map_or_else(EjectionKeys::default, |given| EjectionKeys::settle(&given.value));
    if let Some(given) = written
        && of_ejection.time_max < of_ejection.time
    {
        let fields = [given.value.field("time_max"), given.value.field("time")];
        let at = fields.iter().find_map(|field| field.given()).map_or(&given.at, |given| &given.at);
        let fault = Fault::new("the longest time is shorter than the first one (`time`)");
        report.error(
            at,
            "upstream.ejection.time_max",
            fault.hint("write time_max = \"5m\", or a shorter `time`"),
        );
    }
    let hint = "leave `statuses` out if responses are no failures";
    let statuses = check_statuses(&of_ejection.statuses, "upstream.ejection.statuses", hint, report);
    Ejection::of(&of_ejection, statuses.unwrap_or(Statuses::none()))
}

/// What `breaker` of an upstream comes to; `None` where it never opens.
pub(super) fn check_breaker(keys: &UpstreamKeys, report: &mut Report) -> Option<Breaker> {
    let given = keys.breaker.given()?;
    let of_breaker = BreakerKeys::settle(&given.value);
    let key = "upstream.breaker.statuses";
    let statuses = check_statuses(&of_breaker.statuses, key, "leave `statuses` out for 500-599", report);
    for name in ["window", "statuses", "time"] {
        if of_breaker.failure_percent == 0
            && let Some(useless) = given.value.field(name).given()
        {
            let fault = Fault::new(format!("without `failure_percent`, `{name}` has no effect"));
            let key = format!("upstream.breaker.{name}");
            report.error(&useless.at, &key, fault.hint("add failure_percent = 50"));
        }
    }
    let is_used = of_breaker.requests > 0 || of_breaker.failure_percent > 0;
    is_used.then_some(Breaker {
        requests: of_breaker.requests,
        failure_percent: of_breaker.failure_percent,
        window: of_breaker.window,
        statuses: statuses.unwrap_or_else(|| Statuses::range(500, 599)),
        time: of_breaker.time,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Config, Raw, UpstreamGroup};

    fn check(keys: &str) -> Result<UpstreamGroup, String> {
        let text = format!(
            "listen = [\"127.0.0.1:1\"]\n[[route]]\nupstream = \"a\"\n[[upstream]]\nname = \"a\"\nservers = [\"http://b\"]\n{keys}"
        );
        let raw = Raw::parse(Path::new("f.toml"), text).map_err(|errors| errors.to_string())?;
        let config = Config::check(&raw).map_err(|errors| errors.to_string())?;
        Ok(config.upstreams[0].clone())
    }

    #[test]
    fn ejection_is_on_and_the_breaker_off_unless_they_are_written() {
        let group = check("").unwrap();
        assert_eq!((group.ejection.failures, group.ejection.silence.as_secs()), (5, 1));
        assert!(!group.ejection.statuses.has(503) && group.breaker.is_none());
        let group = check("ejection = { failures = 2, statuses = [\"502-504\", 500] }").unwrap();
        let has = [500, 501, 503].map(|status| group.ejection.statuses.has(status));
        assert_eq!((group.ejection.failures, has), (2, [true, false, true]));
        assert!(check("breaker = {}").unwrap().breaker.is_none(), "nothing opens it");
        let breaker = check("breaker.failure_percent = 50").unwrap().breaker.expect("it is written");
        assert_eq!((breaker.window, breaker.requests), (100, 0));
        assert!(breaker.statuses.has(500) && !breaker.statuses.has(499));
        assert!(check("breaker = { requests = 10 }").unwrap().breaker.is_some());
    }

    #[test]
    fn every_slip_is_one_error() {
        let mut wrong = Vec::new();
        for (keys, words) in [
            ("ejection.failures = 2000", "upstream.ejection.failures: 2000 is too large"),
            ("ejection.statuses = []", "upstream.ejection.statuses: the list is empty"),
            ("ejection.statuses = \"5xx\"", "did you mean 500-599"),
            ("ejection.percent_max = 101", "101 is too large"),
            (
                "ejection = { time = \"1m\", time_max = \"1s\" }",
                "the longest time is shorter than the first one",
            ),
            ("ejection.time = \"10m\"", "upstream.ejection.time_max: the longest time is shorter"),
            ("ejection.silence = 5", "a duration needs a unit"),
            ("breaker.failure_percent = 101", "101 is too large"),
            ("breaker = { requests = 1, window = 50 }", "without `failure_percent`, `window` has no effect"),
            (
                "breaker = { failure_percent = 50, statuses = [] }",
                "upstream.breaker.statuses: the list is empty",
            ),
            ("breaker.percent = 5", "unknown key"),
        ] {
            let errors = check(keys).unwrap_err();
            if errors.lines().count() != 1 || !errors.contains(words) {
                wrong.push(format!("{keys}: {errors}, not {words}"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
