//! Routes: what a checked one holds, and the checking of each by itself, then against upstreams and against each other.

use std::collections::{BTreeSet, HashMap};

use sluice_proto::path::{PathRules, SlashLike};

use super::choices::{OnClientClose, PathForward, SendHost};
use super::conditions::{Condition, check_conditions};
use super::hsts::Hsts;
use super::mirror::check_mirror;
use super::pattern::{HostPattern, PathPattern};
use super::policy::{GlobalPolicy, check_policy, is_local};
use super::problem::{Fault, Located, Origin, Report, closest};
use super::retry::Retry;
use super::shadows::note_shadows;
use super::splits::{Split, check_split};
use super::table::{Limits, Paths, RouteKeys, Timeouts, Top};
use super::tls::ListenerFacts;
use super::tunnels::{RouteTunnels, check_tunnels};
use super::upstreams::Upstreams;
use super::values::{Field, Values};
use crate::policy::{MirrorRule, RoutePolicy};

/// Methods in use, to tell a typing error from an extension method.
const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Which requests go to which group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The hosts it answers to; at least one.
    pub hosts: Vec<HostPattern>,
    /// The paths it answers to.
    pub path: PathPattern,
    /// The methods it answers to.
    pub methods: Methods,
    /// What else must hold for a request.
    pub conditions: Vec<Condition>,
    /// What is special about its paths.
    pub paths: RoutePaths,
    /// Index into [`Config::upstreams`]; the first one of a split, and 0 for a route that answers itself.
    pub upstream: usize,
    /// Several upstreams that share its requests.
    pub split: Option<Split>,
    /// Its own timeouts, those of its upstream, and the global ones.
    pub timeouts: Timeouts,
    /// Its own limits, those of its upstream, and the global ones.
    pub limits: Limits,
    /// When a request is sent again: its own settings, those of its upstream, and the global ones.
    pub retry: Retry,
    /// Which Host the server gets.
    pub send_host: SendHost,
    /// What becomes of requests whose clients end their side before the response.
    pub on_client_close: OnClientClose,
    /// What may leave HTTP here.
    pub tunnels: RouteTunnels,
    /// Calls of gRPC-Web are translated into gRPC.
    pub grpc_web: bool,
    /// Clients must have shown a certificate.
    pub client_certificate: bool,
    /// Strict-Transport-Security of responses over TLS.
    pub hsts: Option<Hsts>,
    /// What is changed about its requests and responses, or its answer.
    pub policy: Option<Box<RoutePolicy>>,
}

impl Route {
    /// Who gets copies of its requests.
    pub fn mirror(&self) -> Option<&MirrorRule> {
        self.policy.as_ref()?.mirror.as_ref()
    }

    /// Whether it answers itself, and no upstream gets its requests.
    pub fn is_local(&self) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.answer.is_some())
    }
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
    top: &Top,
    upstreams: &Upstreams,
    paths: &Paths,
    (whole, listeners, global): (&Origin, &ListenerFacts, &GlobalPolicy),
    report: &mut Report,
) -> Vec<Route> {
    let raws = &top.route;
    // On the command line --upstream brings its route along, so its absence has been reported.
    if raws.is_empty() && *whole != Origin::CommandLine {
        report_no_route(whole, upstreams, report);
    }
    let mut routes = Vec::new();
    let mut origins = Vec::new();
    let mut used = BTreeSet::new();
    let mut taken = Taken::default();
    let mut some_unread = false;
    for raw in raws.iter() {
        let keys = RouteKeys::settle(raw);
        some_unread |= raw.is_faulty || keys.upstream == Field::Faulty || keys.split == Field::Faulty;
        if raw.is_faulty {
            continue;
        }
        let target = if is_local(raw) { None } else { check_target(raw, &keys, upstreams, report) };
        if let Some((upstream, split)) = &target {
            used.insert(*upstream);
            used.extend(split.iter().flat_map(|split| &split.shares).map(|(upstream, _)| *upstream));
        }
        let upstream = target.as_ref().map(|(upstream, _)| *upstream);
        let hosts = check_route_hosts(&keys, report);
        let hsts = check_route_tls(raw, &keys, listeners, report);
        let of_route = check_route_paths(&keys, paths, report);
        let path = check_route_path(&keys, &of_route.rules(paths), report);
        let methods = check_route_methods(&keys, report);
        let conditions = check_conditions(&keys.when, report);
        let (Some(hosts), Some(path), Some(methods)) = (hosts, path, methods) else { continue };
        let Some(conditions) = conditions else { continue };
        check_duplicate(raw, (&hosts, &path), &methods, &conditions, &mut taken, report);
        let tunnels = check_tunnels(&keys, &path, &methods, report);
        let rules = of_route.rules(paths);
        let mirror = check_mirror(&keys, upstreams, upstream, report);
        used.extend(mirror.map(|mirror| mirror.upstream));
        let policy = check_policy(&keys, raw, (&path, &rules), (global, mirror), report);
        // An unknown upstream is reported; the route is kept out of a configuration that will not be used.
        if upstream.is_none() && !is_local(raw) {
            continue;
        }
        let group = upstream.map(|upstream| &upstreams.groups[upstream]);
        let (timeouts, limits, retry) = check_route_scopes(&keys, top, upstreams, upstream, report);
        let send_host = keys.send_host.value().copied();
        let send_host = send_host.or(group.map(|group| group.send_host)).unwrap_or_default();
        origins.push(raw.at.clone());
        routes.push(Route {
            hosts,
            path,
            methods,
            conditions,
            paths: of_route,
            upstream: upstream.unwrap_or_default(),
            split: target.and_then(|(_, split)| split),
            timeouts,
            limits,
            retry,
            send_host,
            on_client_close: keys.on_client_close.given().map_or(top.on_client_close, |given| given.value),
            tunnels,
            grpc_web: keys.grpc_web,
            client_certificate: keys.client_certificate,
            hsts,
            policy,
        });
    }
    if !upstreams.some_unnamed && !some_unread {
        note_unused(upstreams, &used, report);
    }
    note_shadows(&routes, &origins, report);
    routes
}

fn note_unused(upstreams: &Upstreams, used: &BTreeSet<usize>, report: &mut Report) {
    for (i, group) in upstreams.groups.iter().enumerate().filter(|(i, _)| !used.contains(i)) {
        let fault = Fault::new(format!("no route leads to upstream `{}`", group.name));
        report.warn(&upstreams.origins[i], "upstream.name", fault);
    }
}

fn report_no_route(whole: &Origin, upstreams: &Upstreams, report: &mut Report) {
    let hint = match upstreams.groups.first() {
        Some(group) => format!("add [[route]] with upstream = \"{}\"", group.name),
        None => "add [[route]]".to_owned(),
    };
    report.error(whole, "route", Fault::new("no route: every request would be answered with 404").hint(hint));
}

/// Its own timeouts and limits, over those of its upstream, if it has one, or of the file.
fn check_route_scopes(
    keys: &RouteKeys,
    top: &Top,
    upstreams: &Upstreams,
    upstream: Option<usize>,
    report: &mut Report,
) -> (Timeouts, Limits, Retry) {
    let wider = upstream.map(|upstream| (&upstreams.scopes[upstream], &upstreams.groups[upstream]));
    let (times, limits, retry) = match wider {
        Some(((times, limits, retry), _)) => (times, limits, retry),
        None => (&top.timeouts, &top.limits, &top.retry),
    };
    let timeouts = match (keys.timeouts.value(), wider) {
        (None, Some((_, group))) => group.timeouts.clone(),
        (own, _) => Timeouts::settle(&own.map_or_else(|| times.clone(), |own| own.over(times))),
    };
    let limits = match (keys.limits.value(), wider) {
        (None, Some((_, group))) => group.limits.clone(),
        (own, _) => Limits::settle(&own.map_or_else(|| limits.clone(), |own| own.over(limits))),
    };
    let retry = match wider {
        Some((_, group)) => group.retry.of_route(&keys.retry, retry, report),
        None => Retry::settle(retry),
    };
    (timeouts, limits, retry)
}

/// The upstream that gets the requests, or the first of those that share them.
fn check_target(
    raw: &Values,
    keys: &RouteKeys,
    upstreams: &Upstreams,
    report: &mut Report,
) -> Option<(usize, Option<Split>)> {
    match (&keys.upstream, &keys.split) {
        (Field::Faulty, _) | (_, Field::Faulty) => None,
        (Field::Given(_), Field::Given(split)) => {
            let fault = Fault::new("`upstream` and `split` exclude each other").hint("keep one of them");
            report.error(&split.at, "route.split", fault);
            None
        }
        (Field::Absent, Field::Given(split)) => {
            let split = check_split(split, &keys.split_by, upstreams, report)?;
            let first = split.shares.first()?.0;
            Some((first, Some(split)))
        }
        (Field::Absent, Field::Absent) => {
            report.error(
                &raw.at,
                "route.upstream",
                Fault::new("a route needs an upstream to lead to, or `redirect` or `respond`"),
            );
            None
        }
        (Field::Given(given), Field::Absent) => {
            if let Some(by) = keys.split_by.given() {
                let fault = Fault::new("there is nothing to split").hint("add split, or leave split_by out");
                report.error(&by.at, "route.split_by", fault);
            }
            Some((find_upstream(given, "route.upstream", upstreams, report)?, None))
        }
    }
}

/// The number of an upstream by its name.
pub(super) fn find_upstream(
    given: &Located<String>,
    key: &str,
    upstreams: &Upstreams,
    report: &mut Report,
) -> Option<usize> {
    let number = upstreams.numbers.get(&given.value).copied();
    // Without any upstream that is what is wrong, and reported.
    if number.is_none() && !upstreams.some_unnamed && !upstreams.numbers.is_empty() {
        let fault = Fault::new(format!("there is no upstream `{}`", given.value));
        let names = || upstreams.numbers.keys().map(String::as_str);
        let fault = match closest(&given.value, names()) {
            Some(near) => fault.hint(format!("did you mean `{near}`")),
            None => {
                let list: Vec<_> = names().take(5).map(|name| format!("`{name}`")).collect();
                fault.hint(match upstreams.numbers.len() {
                    1 => format!("the only upstream is {}", list[0]),
                    count if count > list.len() => format!("the upstreams are {}, ...", list.join(", ")),
                    _ => format!("the upstreams are {}", list.join(", ")),
                })
            }
        };
        report.error(&given.at, key, fault);
    }
    number
}

fn check_route_hosts(keys: &RouteKeys, report: &mut Report) -> Option<Vec<HostPattern>> {
    let (key, given) = match (&keys.host, &keys.hosts) {
        (Field::Absent, Field::Absent) => return Some(vec![HostPattern::Any]),
        (Field::Faulty, _) | (_, Field::Faulty) => return None,
        (Field::Given(host), Field::Absent) => ("route.host", std::slice::from_ref(host)),
        (Field::Absent, Field::Given(hosts)) => ("route.hosts", &*hosts.value),
        (Field::Given(_), Field::Given(hosts)) => {
            let fault = Fault::new("`host` and `hosts` exclude each other").hint("keep one of them");
            report.error(&hosts.at, "route.hosts", fault);
            return None;
        }
    };
    if given.is_empty()
        && let Field::Given(hosts) = &keys.hosts
    {
        let fault = Fault::new("no host is left").hint("leave `hosts` out for all of them");
        report.error(&hosts.at, key, fault);
        return None;
    }
    let mut hosts = Vec::new();
    for host in given {
        match HostPattern::parse(&host.value) {
            Err(fault) => report.error(&host.at, key, fault),
            Ok(pattern) if hosts.contains(&pattern) => {
                report.error(&host.at, key, Fault::new(format!("`{}` is there twice", host.value)));
            }
            Ok(pattern) => hosts.push(pattern),
        }
    }
    (hosts.len() == given.len()).then_some(hosts)
}

/// What a route has of TLS, and whether any listener has it too.
fn check_route_tls(
    raw: &Values,
    keys: &RouteKeys,
    listeners: &ListenerFacts,
    report: &mut Report,
) -> Option<Hsts> {
    if let Some(given) = raw.field("client_certificate").given().filter(|_| keys.client_certificate)
        && !listeners.asks_for_certificates
        && !listeners.some_unread
    {
        let fault =
            Fault::new("no listener asks clients for certificates, so this route would refuse every request");
        let hint = "add client_certificates = \"optional\" and client_ca to a [[listener]] with TLS";
        report.error(&given.at, "route.client_certificate", fault.hint(hint));
    }
    let given = keys.hsts.given()?;
    let hsts =
        Hsts::parse(&given.value).map_err(|fault| report.error(&given.at, "route.hsts", fault)).ok()?;
    if listeners.has_no_tls() {
        // RFC 6797 section 7.2 forbids the field elsewhere.
        let fault = Fault::new("the field is sent over TLS only, and no listener has TLS");
        report.warn(&given.at, "route.hsts", fault);
    }
    if let Some(fault) = hsts.check_preload() {
        report.warn(&given.at, "route.hsts", fault);
    }
    Some(hsts)
}

fn check_route_paths(keys: &RouteKeys, paths: &Paths, report: &mut Report) -> RoutePaths {
    let mut of_route = RoutePaths { forward: paths.forward, encoded_slash: paths.encoded_slash };
    let Some(written) = keys.paths.value() else { return of_route };
    let own = |name: &str| written.field(name).given().map(|given| given.at.clone());
    let settled = Paths::settle(written);
    if own("forward").is_some() {
        of_route.forward = settled.forward;
    }
    let Some(at) = own("encoded_slash") else { return of_route };
    let key = "route.paths.encoded_slash";
    if settled.encoded_slash == SlashLike::Slash {
        let fault = Fault::new("a route cannot read an encoded slash as a slash");
        let hint = "which route it is depends on it: set encoded_slash in [paths]";
        report.error(&at, key, fault.hint(hint));
    } else if paths.encoded_slash == SlashLike::Slash {
        let fault = Fault::new("no encoded slash comes here: [paths] reads it as a slash");
        report.error(&at, key, fault.hint("keep one of the two"));
    } else {
        of_route.encoded_slash = settled.encoded_slash;
    }
    of_route
}

impl Paths {
    /// The rules for reading paths.
    pub fn rules(&self) -> PathRules {
        PathRules {
            dot_segments: self.dot_segments,
            repeated_slashes: self.repeated_slashes,
            encoded_slash: self.encoded_slash,
            backslash: self.backslash,
            encoded_controls: self.encoded_controls,
            parameters: self.parameters,
        }
    }
}

impl RoutePaths {
    /// The rules by which a path must pass to get to this route.
    fn rules(&self, paths: &Paths) -> PathRules {
        PathRules { encoded_slash: self.encoded_slash, ..paths.rules() }
    }
}

fn check_route_path(keys: &RouteKeys, rules: &PathRules, report: &mut Report) -> Option<PathPattern> {
    let fields = [("path", &keys.path), ("path_prefix", &keys.path_prefix), ("path_regex", &keys.path_regex)];
    if fields.iter().any(|(_, field)| **field == Field::Faulty) {
        return None;
    }
    let mut written = fields.iter().filter_map(|(name, field)| Some((*name, field.given()?)));
    let Some((name, given)) = written.next() else { return Some(PathPattern::any()) };
    if let Some((other, second)) = written.next() {
        let fault = Fault::new(format!("`{name}` and `{other}` exclude each other")).hint("keep one of them");
        report.error(&second.at, &format!("route.{other}"), fault);
        return None;
    }
    let parsed = match name {
        "path" => PathPattern::parse(&given.value),
        "path_prefix" => PathPattern::parse_prefix(&given.value),
        _ => PathPattern::parse_regex(&given.value),
    };
    let reachable = parsed.and_then(|pattern| pattern.check_reachable(&given.value, rules).map(|()| pattern));
    reachable.map_err(|fault| report.error(&given.at, &format!("route.{name}"), fault)).ok()
}

fn check_route_methods(keys: &RouteKeys, report: &mut Report) -> Option<Methods> {
    let key = "route.methods";
    let given = match &keys.methods {
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

/// What routes have taken, by place, method and conditions, and where they did; no method stands for every one.
type Taken = HashMap<(HostPattern, String, Option<String>), Origin>;

fn check_duplicate(
    raw: &Values,
    (hosts, path): (&[HostPattern], &PathPattern),
    methods: &Methods,
    conditions: &[Condition],
    taken: &mut Taken,
    report: &mut Report,
) {
    let wanted: Vec<Option<String>> = match methods {
        Methods::Any => vec![None],
        Methods::Only(methods) => methods.iter().cloned().map(Some).collect(),
    };
    // In whatever order they are written.
    let mut texts: Vec<String> = conditions.iter().map(Condition::to_string).collect();
    texts.sort_unstable();
    let shape = texts.iter().fold(path.shape(), |shape, text| shape + "\n" + text);
    let mut reported = false;
    for (host, method) in hosts.iter().flat_map(|host| wanted.iter().map(move |method| (host, method))) {
        let key = (host.clone(), shape.clone(), method.clone());
        let Some(first) = taken.get(&key) else {
            taken.insert(key, raw.at.clone());
            continue;
        };
        if !std::mem::replace(&mut reported, true) {
            let method = key.2.as_deref().unwrap_or("every method");
            let when = if texts.is_empty() { String::new() } else { format!(", {}", texts.join(", ")) };
            let fault = Fault::new(format!("a second route for {method} on {host}, {path}{when}"));
            report.error(&raw.at, "route", fault.hint(format!("the first is at {first}; keep one")));
        }
    }
}

/// tchar of RFC 9110 section 5.6.2.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
