//! Why a route gets a request: every route whose host and path match, with what speaks for it or against it.

use super::conditions::failing;
use super::{Asked, Lookup, RouteTable};
use crate::config::{Condition, Config, Methods};

/// A route whose host and path match a request.
pub(crate) struct Considered<'c> {
    /// Index into [`Config::routes`].
    pub(crate) route: usize,
    pub(crate) verdict: Verdict<'c>,
}

/// What becomes of such a route. The reasons are in the order of precedence.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict<'c> {
    /// It gets the request.
    Wins,
    /// These conditions do not hold.
    Fails(Vec<&'c Condition>),
    /// A route of a more specific host has the request.
    WiderHost,
    /// One of a more specific path has it.
    WiderPath,
    /// It lacks the method, and its host and path have the request.
    OtherMethods,
    /// Another one of the same host and path names the method.
    UnnamedMethod,
    /// Another one has more conditions.
    FewerConditions,
    /// Another one is earlier.
    Later,
}

/// All routes whose host and path match, in the order of precedence, and the answer of the table.
pub(crate) fn consider<'c>(
    config: &'c Config,
    asked: &Asked<'_>,
) -> (Vec<Considered<'c>>, Result<usize, Option<String>>) {
    let (table, routes) = RouteTable::build_with_places(config);
    let matchers = table.matchers();
    let answer = match table.lookup(asked, &matchers) {
        Lookup::Found(target) => Ok(target.route),
        Lookup::MethodNotAllowed { allow } => Err(Some(allow.into_owned())),
        Lookup::NotFound => Err(None),
    };
    let mut considered = Vec::new();
    // The place that has the request, once it is found.
    let mut deciding = None;
    table.each_place(asked, &matchers, &mut |place| {
        let holds = |&route: &usize| failing(&config.routes[route].conditions, asked).is_empty();
        let numbers = &routes[place as usize];
        if deciding.is_none() && numbers.iter().any(holds) {
            deciding = Some(place);
        }
        for &route in numbers {
            // By another of its hosts, which is more specific.
            if considered.iter().any(|known: &Considered<'_>| known.route == route) {
                continue;
            }
            let fails = failing(&config.routes[route].conditions, asked);
            let verdict = if !fails.is_empty() {
                Verdict::Fails(fails)
            } else if deciding == Some(place) {
                against(config, route, &answer, asked)
            } else {
                let winner = deciding.and_then(|place: u32| routes[place as usize].first());
                let is_other_host = winner
                    .is_some_and(|&winner| host_of(config, winner, asked) != host_of(config, route, asked));
                if is_other_host { Verdict::WiderHost } else { Verdict::WiderPath }
            };
            considered.push(Considered { route, verdict });
        }
        None::<()>
    });
    (considered, answer)
}

/// What speaks against a route that holds, at the place that decides.
fn against<'c>(
    config: &Config,
    route: usize,
    answer: &Result<usize, Option<String>>,
    asked: &Asked<'_>,
) -> Verdict<'c> {
    let rank = |route: usize| match &config.routes[route].methods {
        Methods::Any => Some(2),
        Methods::Only(names) if names.iter().any(|name| name == asked.method) => Some(0),
        Methods::Only(names) => {
            (asked.method == "HEAD" && names.iter().any(|name| name == "GET")).then_some(1)
        }
    };
    let (Ok(winner), Some(own)) = (answer, rank(route)) else { return Verdict::OtherMethods };
    let conditions = |route: usize| config.routes[route].conditions.len();
    if *winner == route {
        Verdict::Wins
    } else if rank(*winner) != Some(own) {
        Verdict::UnnamedMethod
    } else if conditions(*winner) != conditions(route) {
        Verdict::FewerConditions
    } else {
        Verdict::Later
    }
}

/// The most specific of a route's hosts that matches.
fn host_of(config: &Config, route: usize, asked: &Asked<'_>) -> Option<String> {
    use crate::config::HostPattern;
    let name = String::from_utf8_lossy(super::bare_name(asked.host)).to_ascii_lowercase();
    let matching = config.routes[route].hosts.iter().filter(|host| match host {
        HostPattern::Any => true,
        HostPattern::Exact(exact) => *exact == name,
        HostPattern::Suffix(suffix) => {
            name.strip_suffix(suffix.as_str()).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
        }
    });
    let specific = |host: &&HostPattern| match host {
        HostPattern::Exact(_) => usize::MAX,
        HostPattern::Suffix(suffix) => suffix.len(),
        HostPattern::Any => 0,
    };
    matching.max_by_key(specific).map(ToString::to_string)
}
