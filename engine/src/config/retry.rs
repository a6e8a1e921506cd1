//! `[retry]`, of all, of an `[[upstream]]` or of a `[[route]]`: when a request is sent again.

use std::time::Duration;

use super::health::parse_statuses;
use super::problem::{Fault, Located, Report, closest};
use super::table::RetryKeys;
use super::values::{Field, Values};

/// When a request is sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Most times that it is sent.
    pub attempts: u32,
    /// What sends it again.
    pub on: RetryCauses,
    /// The statuses among these causes, as ranges.
    pub statuses: Vec<(u16, u16)>,
    /// Whether methods count that are not idempotent.
    pub non_idempotent: bool,
    /// The longest wait for a response head, 0 for that of `timeouts`.
    pub per_try_timeout: Duration,
    /// The largest body that is kept for it.
    pub body_bytes: usize,
    /// When a second server is asked too, 0 for never.
    pub hedge_after: Duration,
    /// Most of them, in per cent of all requests.
    pub budget: u32,
    /// As many per second in any case.
    pub budget_min: u32,
}

/// A cause to send a request again that is no status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryCause {
    /// A connection could not be made.
    Connect,
    /// A kept connection was closed by its server.
    Stale,
    /// The server has refused the stream unseen, as HTTP/2 can say.
    Refused,
    /// A new connection ended before the response, or its stream was reset.
    Reset,
    /// No response head came in time.
    Timeout,
}

/// A set of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryCauses(u8);

const CAUSES: [(&str, RetryCause); 5] = [
    ("connect", RetryCause::Connect),
    ("stale", RetryCause::Stale),
    ("refused", RetryCause::Refused),
    ("reset", RetryCause::Reset),
    ("timeout", RetryCause::Timeout),
];

impl RetryCauses {
    const NONE: RetryCauses = RetryCauses(0);
    /// Those of which another server can make good without the client's knowledge, at little cost.
    const DEFAULT: RetryCauses = RetryCauses::NONE
        .and(RetryCause::Connect)
        .and(RetryCause::Stale)
        .and(RetryCause::Refused)
        .and(RetryCause::Reset);

    const fn and(self, cause: RetryCause) -> RetryCauses {
        RetryCauses(self.0 | 1 << cause as u8)
    }

    /// As they are written.
    pub(crate) fn words(self) -> impl Iterator<Item = &'static str> {
        CAUSES.iter().filter(move |(_, cause)| self.has(*cause)).map(|(word, _)| *word)
    }

    /// Whether this one is among them.
    pub const fn has(self, cause: RetryCause) -> bool {
        self.0 & 1 << cause as u8 != 0
    }
}

/// The words for causes that are no statuses.
pub(super) fn retry_causes() -> Vec<&'static str> {
    CAUSES.iter().map(|(word, _)| *word).collect()
}

#[cfg(test)]
impl Default for Retry {
    fn default() -> Retry {
        Retry::settle(&Values::empty(&super::table::RETRY, super::problem::Origin::CommandLine))
    }
}

impl Retry {
    /// What is written of it; what is at fault is left out.
    pub(super) fn settle(values: &Values) -> Retry {
        let keys = RetryKeys::settle(values);
        let (mut on, mut statuses) = (RetryCauses::NONE, Vec::new());
        match keys.on.given() {
            None => on = RetryCauses::DEFAULT,
            Some(given) => {
                for text in &given.value {
                    match parse_cause(&text.value) {
                        Ok(Cause::Named(cause)) => on = on.and(cause),
                        Ok(Cause::Statuses(range)) => statuses.push(range),
                        Err(_) => {}
                    }
                }
            }
        }
        Retry {
            attempts: keys.attempts,
            on,
            statuses,
            non_idempotent: keys.non_idempotent,
            per_try_timeout: keys.per_try_timeout,
            body_bytes: keys.body_bytes,
            hedge_after: keys.hedge_after,
            budget: keys.budget,
            budget_min: keys.budget_min,
        }
    }
}

impl Retry {
    /// That of a route, with its own keys over those of its upstream, whose retry this is.
    pub(super) fn of_route(&self, own: &Field<Values>, wider: &Values, report: &mut Report) -> Retry {
        match own.given() {
            Some(own) => Retry::settle(&check_written(Some(own), wider, report)),
            None => self.clone(),
        }
    }
}

enum Cause {
    Named(RetryCause),
    Statuses((u16, u16)),
}

fn parse_cause(text: &str) -> Result<Cause, Fault> {
    if let Some((_, cause)) = CAUSES.iter().find(|(word, _)| *word == text) {
        return Ok(Cause::Named(*cause));
    }
    if text.starts_with(|first: char| first.is_ascii_digit()) {
        let (first, last) = parse_statuses(text)?;
        if first < 400 {
            let fault = Fault::new(format!(
                "`{text}`: only statuses of failure are a reason to send a request again"
            ));
            return Err(fault.hint("write statuses from 400 on, such as 503"));
        }
        return Ok(Cause::Statuses((first, last)));
    }
    let words = retry_causes();
    let fault = Fault::new(format!("`{text}` is none of {}, or a status", words.join(", ")));
    let foreign = match text {
        "error" | "conn-failure" | "connect-failure" => Some("connect"),
        "invalid_header" | "empty-response" | "junk-response" => Some("reset"),
        "refused-stream" => Some("refused"),
        "response-timeout" | "0rtt-rejected" => Some("timeout"),
        "5xx" | "gateway-error" => return Err(fault.hint("write \"502-504\", or \"500-599\"")),
        _ => text.strip_prefix("http_").filter(|status| parse_statuses(status).is_ok()),
    };
    Err(match foreign.or_else(|| closest(text, words.iter().copied())) {
        Some(near) => fault.hint(format!("did you mean `{near}`")),
        None => fault.hint("write [\"connect\", \"stale\", \"refused\", \"reset\"], which is the default, and what is missing"),
    })
}

/// Checks what is written for all.
pub(super) fn check_global(written: &Values, report: &mut Report) {
    check(written, written, report);
}

/// Checks what is written for an upstream or a route; that, over what a wider scope says.
pub(super) fn check_written(own: Option<&Located<Values>>, wider: &Values, report: &mut Report) -> Values {
    let Some(own) = own else { return wider.clone() };
    let merged = own.value.over(wider);
    check(&own.value, &merged, report);
    merged
}

fn check(own: &Values, merged: &Values, report: &mut Report) {
    let keys = RetryKeys::settle(own);
    for text in keys.on.value().into_iter().flatten() {
        if let Err(fault) = parse_cause(&text.value) {
            report.error(&text.at, "retry.on", fault);
        }
    }
    let settled = Retry::settle(merged);
    if let Some(given) = own.field("per_try_timeout").given()
        && !settled.per_try_timeout.is_zero()
        && !settled.on.has(RetryCause::Timeout)
        && *merged.field("on") != Field::Faulty
    {
        let fault = Fault::new(
            "no request is sent again for a timeout, so that this one would only make requests fail",
        );
        report.error(
            &given.at,
            "retry.per_try_timeout",
            fault.hint("add \"timeout\" to `on`, or set timeouts.upstream_response"),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, Raw};

    /// With `global` at the top, and keys of the upstream and of the route.
    fn check(global: &str, upstream: &str, route: &str) -> Result<Config, String> {
        let text = format!(
            "listen = [\"127.0.0.1:1\"]\n{global}\n[[upstream]]\nname = \"a\"\nservers = [\"http://b\"]\n\
             {upstream}\n[[route]]\nupstream = \"a\"\n{route}"
        );
        let raw = Raw::parse(Path::new("f.toml"), text).map_err(|errors| errors.to_string())?;
        Config::check(&raw).map_err(|errors| errors.to_string())
    }

    #[test]
    fn what_is_not_written_is_as_it_was_before_there_were_keys() {
        let retry = check("", "", "").unwrap().routes.remove(0).retry;
        assert_eq!((retry.attempts, retry.non_idempotent, retry.body_bytes), (4, false, 48 * 1024));
        assert_eq!((retry.on, retry.statuses), (RetryCauses::DEFAULT, Vec::new()));
        assert!(!RetryCauses::DEFAULT.has(RetryCause::Timeout));
        assert!(retry.per_try_timeout.is_zero() && retry.hedge_after.is_zero());
    }

    #[test]
    fn a_route_goes_over_its_upstream_and_that_over_all() {
        let config = check(
            "retry = { attempts = 2, body_bytes = 5 }",
            "retry = { attempts = 3, on = [\"reset\", 503], budget = 5 }",
            "retry.on = [\"timeout\", \"502-504\", \"429\"]",
        )
        .unwrap();
        let (group, route) = (&config.upstreams[0].retry, &config.routes[0].retry);
        assert_eq!((group.attempts, group.budget, route.attempts, route.body_bytes), (3, 5, 3, 5));
        assert_eq!((&*group.statuses, &*route.statuses), (&[(503, 503)][..], &[(502, 504), (429, 429)][..]));
        assert_eq!(group.on, RetryCauses::NONE.and(RetryCause::Reset));
        assert_eq!(route.on, RetryCauses::NONE.and(RetryCause::Timeout));
        let none = check("", "retry.on = []", "").unwrap();
        assert_eq!(none.routes[0].retry.on, RetryCauses::NONE);
    }

    #[test]
    fn every_slip_is_one_error() {
        let mut wrong = Vec::new();
        for (route, words) in [
            (
                "retry = true",
                "9:9: route.retry: expected a table, found a boolean (hint: this is a table, such",
            ),
            ("retry.on = \"reset\"", "expected a list of causes"),
            (
                "retry.on = [\"rest\"]",
                "9:13: retry.on: `rest` is none of connect, stale, refused, reset, timeout, or a status (hint: did you mean `reset`)",
            ),
            ("retry.on = [\"http_503\"]", "(hint: did you mean `503`)"),
            (
                "retry.on = [\"5xx\"]",
                "`5xx` is neither a status (100 to 999) nor a range of them (hint: did you mean 500-599)",
            ),
            ("retry.on = [\"gateway-error\"]", "(hint: write \"502-504\", or \"500-599\")"),
            ("retry.on = [\"error\"]", "(hint: did you mean `connect`)"),
            ("retry.on = [200]", "`200`: only statuses of failure are a reason to send a request again"),
            ("retry.on = [true]", "expected a cause, found a boolean"),
            ("retry.attempts = 0", "0 is too small (hint: at least 1)"),
            ("retry.budget = 5", "unknown key"),
            ("retry.per_try_timeout = \"1s\"", "no request is sent again for a timeout"),
            ("retry.body_bytes = \"2MiB\"", "2MiB is too large"),
        ] {
            let errors = check("", "", route).err().unwrap_or_default();
            if errors.lines().count() != 1 || !errors.contains(words) {
                wrong.push(format!("{route}: {errors}, not {words}"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        for (global, upstream) in [("retry.on = [\"x\"]", ""), ("", "retry.on = [\"x\"]")] {
            let errors = check(global, upstream, "").unwrap_err();
            assert_eq!(errors.lines().count(), 1, "{errors}");
        }
        check("retry.on = [\"timeout\"]", "", "retry.per_try_timeout = \"1s\"").unwrap();
    }
}
