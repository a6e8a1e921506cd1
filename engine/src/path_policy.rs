//! Policy for the spelling of paths: refuse, compare with routes, forward.
//!
//! `sluice_proto::path` reads a path; the configuration says which readings are wanted, for all routes and for single ones.
//! `exchange` asks twice: before the route is looked up, and when it is found.

use sluice_proto::path::{PathForms, PathRules, SlashLike};
use sluice_proto::{Fault, RequestHead};

use crate::config::{Config, PathForward, RoutePaths};
use crate::counters::Counters;

/// The rules that apply before the route is known.
pub(crate) fn rules_before_route(config: &Config) -> PathRules {
    let mut rules = config.paths.rules();
    // One route that takes encoded slashes is enough for all to be let through to the routes, where the others refuse them.
    if config.routes.iter().any(|route| route.paths.encoded_slash == SlashLike::Keep) {
        rules.encoded_slash = SlashLike::Keep;
    }
    rules
}

/// The head as the server of a route with this policy gets it; `None` for the head as it is.
pub(crate) fn normalized<'h>(
    policy: &RoutePaths,
    head: &RequestHead<'h>,
    forms: &PathForms<'h>,
    counters: &Counters,
) -> Result<Option<RequestHead<'h>>, Fault> {
    if forms.is_as_received && !forms.has_encoded_slash {
        return Ok(None);
    }
    if forms.has_encoded_slash && policy.encoded_slash != SlashLike::Keep {
        return Err(Fault::EncodedSlash);
    }
    if forms.is_as_received {
        return Ok(None);
    }
    if policy.forward == PathForward::Received {
        // The server would have to resolve them just as we did.
        return if forms.had_dot_segments { Err(Fault::DotSegment) } else { Ok(None) };
    }
    counters.paths_normalised.increment();
    let mut head = *head;
    head.path_and_query = forms.path_and_query;
    head.path = forms.path;
    Ok(Some(head))
}

/// Counts a request that was refused for its path.
pub(crate) fn count_refused(fault: Fault, counters: &Counters) {
    let by_cause = match fault {
        Fault::PathAboveRoot | Fault::DotSegment | Fault::HiddenDotSegment => &counters.paths_refused_dots,
        Fault::EncodedSlash | Fault::Backslash | Fault::RepeatedSlash => &counters.paths_refused_slashes,
        Fault::PathParameter => &counters.paths_refused_parameters,
        _ => &counters.paths_refused_bytes,
    };
    by_cause.increment();
}
