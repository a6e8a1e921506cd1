//! Routes: what a checked one holds, and the checking of each by itself, then against upstreams and against each other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sluice_proto::path::{PathRules, SlashLike};

use super::choices::{PathForward, Paths};
use super::pattern::{HostPattern, PathPattern};
use super::problem::{Fault, Origin, Report, closest};
use super::raw::{Field, RawRoute};
use super::settings::{self, Bytes, Time, in_range};
use super::tunnels::{RouteTunnels, check_tunnels};
use super::upstreams::{SendHost, Upstreams};

/// Methods in use, to tell a typing error from an extension method.
const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Which requests go to which group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The hosts it answers to.
    pub host: HostPattern,
    /// The paths it answers to.
    pub path: PathPattern,
    /// The methods it answers to.
    pub methods: Methods,
    /// What is special about its paths.
    pub paths: RoutePaths,
    /// Index into [`Config::upstreams`].
    pub upstream: usize,
    /// Largest request body here, 0 for no limit; `None` for what [`Limits::body_bytes`] says.
    pub body_bytes: Option<u64>,
    /// Longest time for a request here, zero for no limit; `None` for what [`Timeouts::request`] says.
    pub request_timeout: Option<Duration>,
    /// Which Host the server gets.
    pub send_host: SendHost,
    /// What may leave HTTP here.
    pub tunnels: RouteTunnels,
}

/// Those of the settings in [`Paths`] that a route can have for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoutePaths {
    /// Which path the server gets.
    pub forward: PathForward,
    /// What becomes of `%2F`.
    pub encoded_slash: SlashLike,
}

/// The methods of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Methods {
    /// All of them.
    Any,
    /// These; at least one, none twice. GET includes HEAD unless another route of the same host and path
    /// names HEAD.
    Only(Vec<String>),
}

/// Checks every route by itself and against the others.
pub(super) fn check_routes(
    raws: &[RawRoute],
    upstreams: &Upstreams,
    paths: &Paths,
    whole: &Origin,
    report: &mut Report,
) -> Vec<Route> {
    // On the command line --upstream brings its route along, so its absence has been told.
    if raws.is_empty() && *whole != Origin::CommandLine {
        let hint = match upstreams.groups.first() {
            Some(group) => format!("add [[route]] with upstream = \"{}\"", group.name),
            None => "add [[route]]".to_owned(),
        };
        report.error(
            whole,
            "route",
            Fault::new("no route: every request would be answered with 404").hint(hint),
        );
    }
    let mut routes = Vec::new();
    let mut used = BTreeSet::new();
    // What is taken, by place and method, and where it was taken; `None` stands for every method.
    let mut taken: BTreeMap<(HostPattern, String, Option<String>), Origin> = BTreeMap::new();
    for raw in raws {
        let upstream = check_route_upstream(raw, upstreams, report);
        used.extend(upstream);
        let host = check_route_host(raw, report);
        let of_route = check_route_paths(raw, paths, report);
        let path = check_route_path(raw, &of_route.rules(paths), report);
        let methods = check_route_methods(raw, report);
        let (Some(host), Some(path), Some(methods)) = (host, path, methods) else { continue };
        check_duplicate(raw, &host, &path, &methods, &mut taken, report);
        let (body, time) = (settings::row("limits.body_bytes"), settings::row("timeouts.request"));
        let body_bytes = in_range::<Bytes>(body, "route.body_bytes", &raw.body_bytes, report);
        let request_timeout = in_range::<Time>(time, "route.request_timeout", &raw.request_timeout, report);
        let tunnels = check_tunnels(raw, &path, &methods, report);
        // An unknown upstream is reported; the route is kept out of a configuration that will not be used.
        if let Some(upstream) = upstream {
            let send_host =
                raw.send_host.given().map_or(upstreams.groups[upstream].send_host, |given| given.value);
            routes.push(Route {
                host,
                path,
                methods,
                paths: of_route,
                upstream,
                body_bytes,
                request_timeout,
                send_host,
                tunnels,
            });
        }
    }
    if !upstreams.some_unnamed && !raws.iter().any(|raw| raw.upstream == Field::Faulty) {
        for (i, group) in upstreams.groups.iter().enumerate().filter(|(i, _)| !used.contains(i)) {
            let fault = Fault::new(format!("no route leads to upstream `{}`", group.name));
            report.warn(&upstreams.origins[i], "upstream.name", fault);
        }
    }
    routes
}

fn check_route_upstream(raw: &RawRoute, upstreams: &Upstreams, report: &mut Report) -> Option<usize> {
    let key = "route.upstream";
    let given = match &raw.upstream {
        Field::Given(given) => given,
        Field::Faulty => return None,
        Field::Absent => {
            report.error(&raw.at, key, Fault::new("a route needs an upstream to lead to"));
            return None;
        }
    };
    let number = upstreams.numbers.get(&given.value).copied();
    if number.is_none() && !upstreams.some_unnamed {
        let fault = Fault::new(format!("there is no upstream `{}`", given.value));
        let names = || upstreams.numbers.keys().map(String::as_str);
        let fault = match closest(&given.value, names()) {
            Some(near) => fault.hint(format!("did you mean `{near}`")),
            None if upstreams.numbers.is_empty() => fault,
            None => {
                let mut list: Vec<_> = names().take(5).collect();
                if upstreams.numbers.len() > list.len() {
                    list.push("...");
                }
                fault.hint(format!("there are {}", list.join(", ")))
            }
        };
        report.error(&given.at, key, fault);
    }
    number
}

fn check_route_host(raw: &RawRoute, report: &mut Report) -> Option<HostPattern> {
    match &raw.host {
        Field::Absent => Some(HostPattern::Any),
        Field::Faulty => None,
        Field::Given(given) => HostPattern::parse(&given.value)
            .map_err(|fault| report.error(&given.at, "route.host", fault))
            .ok(),
    }
}

fn check_route_paths(raw: &RawRoute, paths: &Paths, report: &mut Report) -> RoutePaths {
    let mut of_route = RoutePaths { forward: paths.forward, encoded_slash: paths.encoded_slash };
    if let Some(given) = raw.path_forward.given() {
        of_route.forward = given.value;
    }
    if let Some(given) = raw.path_encoded_slash.given() {
        let key = "route.path_encoded_slash";
        if given.value == SlashLike::Slash {
            let fault = Fault::new("a route cannot read an encoded slash as a slash");
            let hint = "which route it is depends on it: set paths.encoded_slash";
            report.error(&given.at, key, fault.hint(hint));
        } else if paths.encoded_slash == SlashLike::Slash {
            let fault = Fault::new("no encoded slash comes here: paths.encoded_slash reads it as a slash");
            report.error(&given.at, key, fault.hint("keep one of the two"));
        } else {
            of_route.encoded_slash = given.value;
        }
    }
    of_route
}

impl RoutePaths {
    /// The rules by which a path must pass to get to this route.
    fn rules(&self, paths: &Paths) -> PathRules {
        PathRules { encoded_slash: self.encoded_slash, ..paths.rules() }
    }
}

fn check_route_path(raw: &RawRoute, rules: &PathRules, report: &mut Report) -> Option<PathPattern> {
    let (given, key, parsed) = match (&raw.path, &raw.path_prefix) {
        (Field::Absent, Field::Absent) => return Some(PathPattern::any()),
        (Field::Given(_), Field::Given(prefix)) => {
            let fault = Fault::new("`path` and `path_prefix` exclude each other").hint("keep one of them");
            report.error(&prefix.at, "route.path_prefix", fault);
            return None;
        }
        (Field::Given(path), Field::Absent) => (path, "route.path", PathPattern::parse(&path.value)),
        (Field::Absent, Field::Given(prefix)) => {
            (prefix, "route.path_prefix", PathPattern::parse_prefix(&prefix.value))
        }
        (Field::Faulty, _) | (_, Field::Faulty) => return None,
    };
    let reachable = parsed.and_then(|pattern| pattern.check_reachable(&given.value, rules).map(|()| pattern));
    reachable.map_err(|fault| report.error(&given.at, key, fault)).ok()
}

fn check_route_methods(raw: &RawRoute, report: &mut Report) -> Option<Methods> {
    let key = "route.methods";
    let given = match &raw.methods {
        Field::Absent => return Some(Methods::Any),
        Field::Faulty => return None,
        Field::Given(given) => given,
    };
    if given.value.is_empty() {
        let fault = Fault::new("no method is left").hint("leave `methods` out for all of them");
        report.error(&given.at, key, fault);
        return None;
    }
    let mut methods: Vec<String> = Vec::new();
    for method in &given.value {
        let text = method.value.as_str();
        let upper = text.to_ascii_uppercase();
        if text == "*" {
            // A method by the letter of RFC 9110, and certainly not meant as one.
            let fault = Fault::new("`*` does not stand for every method");
            report.error(&method.at, key, fault.hint("leave `methods` out for all of them"));
        } else if text.is_empty() || !text.bytes().all(is_token_byte) {
            report.error(&method.at, key, Fault::new(format!("`{text}` is not a method")));
        } else if text != upper && METHODS.contains(&upper.as_str()) {
            // Methods are case-sensitive: RFC 9110 section 9.1.
            let fault = Fault::new(format!("`{text}` is not the method {upper}"));
            report.error(&method.at, key, fault.hint(format!("did you mean \"{upper}\"")));
        } else if methods.iter().any(|earlier| earlier == text) {
            report.error(&method.at, key, Fault::new(format!("`{text}` is there twice")));
        } else {
            if !METHODS.contains(&text)
                && let Some(near) = closest(text, METHODS.iter().copied())
            {
                let fault = Fault::new(format!("`{text}` is not a method in common use"));
                report.warn(&method.at, key, fault.hint(format!("did you mean \"{near}\"")));
            }
            methods.push(text.to_owned());
        }
    }
    Some(Methods::Only(methods))
}

fn check_duplicate(
    raw: &RawRoute,
    host: &HostPattern,
    path: &PathPattern,
    methods: &Methods,
    taken: &mut BTreeMap<(HostPattern, String, Option<String>), Origin>,
    report: &mut Report,
) {
    let wanted: Vec<Option<String>> = match methods {
        Methods::Any => vec![None],
        Methods::Only(methods) => methods.iter().cloned().map(Some).collect(),
    };
    let shape = path.shape();
    let mut reported = false;
    for method in wanted {
        let key = (host.clone(), shape.clone(), method);
        if let Some(first) = taken.get(&key) {
            if !reported {
                let method = key.2.as_deref().unwrap_or("every method");
                let fault = Fault::new(format!("a second route for {method} on {host}, {path}"));
                report.error(&raw.at, "route", fault.hint(format!("the first is at {first}; keep one")));
            }
            reported = true;
        } else {
            taken.insert(key, raw.at.clone());
        }
    }
}

/// tchar of RFC 9110 section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
