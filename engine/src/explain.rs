//! `sluice explain`: the route that a request comes to and why, the servers it leads to, and the head that these get.
//!
//! The request is read, its path normalised, its route looked up and its head written by the same code as those of clients. Nothing is
//! sent, and no server is asked.

use std::fmt::Write as _;
use std::net::IpAddr;

use sluice_proto::forwarded::client_address;
use sluice_proto::h1::{
    ClientIdentity, Forwarding, HeadStore, Parsed, Trust, parse_request, write_request, write_upgrade_request,
};
use sluice_proto::path::{PathForms, PathRules, PathStore, normalize};
use sluice_proto::{Fault, HeadLimits, Method, RequestHead, TargetText};

use crate::config::{
    Condition, Config, Methods, Origin, Raw, RawUtf8, Retry, Route, SendHost, SplitBy, UpstreamGroup,
    show_duration,
};
use crate::counters::Counters;
use crate::path_policy;
use crate::policy::apply::{Changed, Misfit, PolicyStore};
use crate::policy::variables::Facts;
use crate::policy::{RouteAnswer, RoutePolicy};
use crate::route::Asked;
use crate::route::explain::{Considered, Verdict, consider};

/// The order of precedence, as it is printed.
pub(crate) const PRECEDENCE: &str = "\
Which route gets a request is decided by, in this order:
  1. host: the name itself, then *.suffix with the longest first, then any host
  2. path, by segments from the left: literal, {param}, then path_regex, {*rest}, path_prefix
  3. method: routes that name it, then (for HEAD) those that name GET, then those for all methods
  4. conditions (when): more before fewer
  5. the order in the file
A route whose conditions do not hold is passed over. A method that the host and path lack is 405.
";

/// A request as it is asked about.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    /// Method and URL: `GET http://host/path`; `GET` and the scheme may be left out.
    pub(crate) request: String,
    /// Header fields, `name: value` each.
    pub(crate) headers: Vec<String>,
    /// The address of the connection.
    pub(crate) client: IpAddr,
}

impl Question {
    /// A request without fields, of a client on this host.
    pub(crate) fn plain(request: &str) -> Question {
        let client = std::net::Ipv4Addr::LOCALHOST.into();
        Question { request: request.to_owned(), headers: Vec::new(), client }
    }
}

/// A request in the parts that a head is written from.
struct Parts<'q> {
    method: &'q str,
    scheme: &'static str,
    host: &'q str,
    target: String,
}

impl<'q> Parts<'q> {
    fn of(request: &'q str) -> Parts<'q> {
        let (method, url) = request.trim().split_once(' ').unwrap_or(("GET", request));
        let url = url.trim();
        let (scheme, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => ("https", rest),
            (None, Some(rest)) => ("http", rest),
            (None, None) => ("http", url),
        };
        if method == "CONNECT" {
            return Parts { method, scheme, host: rest, target: rest.to_owned() };
        }
        if rest == "*" {
            return Parts { method, scheme, host: "", target: "*".to_owned() };
        }
        let (host, target) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
        let slash = if target.starts_with('/') { "" } else { "/" };
        Parts { method, scheme, host, target: format!("{slash}{target}") }
    }
}

/// The index of the route that a request without fields comes to.
///
/// # Errors
/// The response that it gets where it comes to none.
pub(crate) fn find(config: &Config, request: &str) -> Result<usize, String> {
    ask(config, &Question::plain(request), |asked| match consider(config, &asked.asked()).1 {
        Ok(route) => Ok(route),
        Err(refused) => Err(refusal(refused.as_deref())),
    })?
}

/// What there is to say of a request.
pub(crate) struct Explained {
    /// For people: the route, why, where to, and what is sent.
    pub(crate) text: String,
    /// No route gets it, or the one that does refuses it.
    pub(crate) is_refused: bool,
}

/// The route of a request, why, where to, and what is sent.
///
/// # Errors
/// Why the request is refused before its route is looked for.
pub(crate) fn explain(raw: &Raw, config: &Config, question: &Question) -> Result<Explained, String> {
    let origins: Vec<Origin> = raw.routes().map(|route| route.at.clone()).collect();
    ask(config, question, |request| {
        let (considered, answer) = consider(config, &request.asked());
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{} {}://{}{}",
            request.head.method, request.scheme, request.head.authority, request.head.path_and_query
        );
        if let Some(paths) = request.paths.filter(|paths| paths.matching != request.head.path) {
            let _ = writeln!(out, "  compared with routes as {}", paths.matching);
        }
        let _ = writeln!(out, "  from {}\n", request.client);
        match &answer {
            Ok(route) => write_winner(&mut out, config, *route, &origins),
            Err(refused) => {
                let _ = writeln!(out, "{}", refusal(refused.as_deref()));
            }
        }
        write_others(&mut out, config, &considered, &origins);
        let is_sent = answer.is_ok_and(|route| write_sent(&mut out, config, route, &request));
        let _ = write!(out, "\n{PRECEDENCE}");
        Explained { text: out, is_refused: !is_sent }
    })
}

fn refusal(allow: Option<&str>) -> String {
    match allow {
        Some(allow) => {
            format!("405, Allow: {allow}: the most specific route for this path has other methods")
        }
        None => "404: no route has this host and path".to_owned(),
    }
}

/// A request as routes see it.
struct Request<'r> {
    head: RequestHead<'r>,
    paths: Option<PathForms<'r>>,
    scheme: &'static str,
    peer: IpAddr,
    client: IpAddr,
}

impl<'r> Request<'r> {
    fn asked(&self) -> Asked<'r> {
        Asked {
            host: self.head.authority,
            path: self.paths.map_or("", |paths| paths.matching),
            method: self.head.method.as_str(),
            target: self.head.path_and_query,
            fields: self.head.field_list(),
            client: self.client,
        }
    }
}

/// Reads the request, and gives it with its path normalised.
fn ask<R>(config: &Config, question: &Question, answer: impl FnOnce(Request<'_>) -> R) -> Result<R, String> {
    let parts = Parts::of(&question.request);
    let mut text = format!("{} {} HTTP/1.1\r\n", parts.method, parts.target);
    let has_host = question.headers.iter().any(|line| line.to_ascii_lowercase().starts_with("host:"));
    if !has_host {
        let _ = write!(text, "Host: {}\r\n", parts.host);
    }
    question.headers.iter().for_each(|line| text.push_str(&format!("{}\r\n", line.trim())));
    text.push_str("\r\n");
    let limits = HeadLimits {
        request_line_bytes_max: config.limits.request_line_bytes,
        head_bytes_max: config.limits.head_bytes,
        fields_max: config.limits.header_fields,
    };
    let refused = |fault: Fault| format!("{}: {fault}", fault.status());
    let mut store = HeadStore::default();
    let head = match parse_request(text.as_bytes(), &mut store, &limits) {
        Ok(Parsed::Complete { head, .. }) => head,
        Ok(Parsed::Partial) => return Err("400: this is not a request".to_owned()),
        Err(fault) => return Err(refused(fault)),
    };
    if head.target_text == TargetText::Utf8 && config.paths.raw_utf8 == RawUtf8::Refuse {
        return Err(refused(Fault::RawUtf8));
    }
    let mut path_store = PathStore::default();
    let paths = match head.method {
        Method::Connect => None,
        _ => {
            let rules = path_policy::rules_before_route(config);
            Some(normalize(head.path_and_query, head.path, &rules, &mut path_store).map_err(refused)?)
        }
    };
    let peer = question.client;
    let trusted = &config.forwarding.trusted_proxies;
    let client = match trusted.contains(peer) {
        true => client_address(&head.field_list(), config.forwarding.policy.trusted_list, peer, |ip| {
            trusted.contains(ip)
        }),
        false => peer,
    };
    Ok(answer(Request { head, paths, scheme: parts.scheme, peer, client }))
}

/// A route as it is called in messages: its number, and the place where it is written.
fn name_of(route: usize, origins: &[Origin]) -> String {
    match origins.get(route) {
        Some(at) => format!("route {} ({at})", route + 1),
        None => format!("route {}", route + 1),
    }
}

/// What a route asks of a request, on one line.
fn asks(route: &Route) -> String {
    let hosts: Vec<String> = route.hosts.iter().map(ToString::to_string).collect();
    let methods = match &route.methods {
        Methods::Any => "all methods".to_owned(),
        Methods::Only(methods) => methods.join(", "),
    };
    let mut text = format!("{}; {}; {methods}", hosts.join(", "), route.path);
    for (i, condition) in route.conditions.iter().enumerate() {
        let _ = write!(text, "{}{condition}", if i == 0 { "; when " } else { ", " });
    }
    text
}

fn write_winner(out: &mut String, config: &Config, number: usize, origins: &[Origin]) {
    let route = &config.routes[number];
    let _ = writeln!(out, "{} gets it\n  {}", name_of(number, origins), asks(route));
    if route.is_local() {
        return;
    }
    write_upstreams(out, config, route);
    if let Some(mirror) = route.mirror() {
        let _ = writeln!(
            out,
            "  copies of {} % to upstream {}",
            mirror.percent,
            group_of(config, mirror.upstream)
        );
    }
    let _ = writeln!(out, "  {}", retries_of(&route.retry));
}

/// A group, with its servers.
fn group_of(config: &Config, upstream: usize) -> String {
    let group = &config.upstreams[upstream];
    let servers =
        group.servers.iter().map(|server| format!("{}://{}", server.scheme.as_str(), server.authority));
    format!("{} ({})", group.name, servers.collect::<Vec<_>>().join(", "))
}

/// When a request of a route is sent again, on one line.
fn retries_of(retry: &Retry) -> String {
    let mut text = match retry.attempts {
        0 | 1 => "sent once".to_owned(),
        attempts => {
            let statuses = retry.statuses.iter().map(|&(first, last)| match first == last {
                true => first.to_string(),
                false => format!("{first}-{last}"),
            });
            let causes: Vec<String> = retry.on.words().map(str::to_owned).chain(statuses).collect();
            let which = if retry.non_idempotent { "whatever its method is" } else { "if it is idempotent" };
            format!("sent {attempts} times at most, again for {}, {which}", causes.join(", "))
        }
    };
    if !retry.per_try_timeout.is_zero() {
        let _ = write!(text, "; each time for {}", show_duration(retry.per_try_timeout));
    }
    if !retry.hedge_after.is_zero() {
        let _ = write!(text, "; to a second server too after {}", show_duration(retry.hedge_after));
    }
    text
}

fn write_upstreams(out: &mut String, config: &Config, route: &Route) {
    let group = |upstream| group_of(config, upstream);
    let Some(split) = &route.split else {
        let _ = writeln!(out, "  upstream {}", group(route.upstream));
        return;
    };
    let by = match &split.by {
        SplitBy::Turns => "by turns".to_owned(),
        SplitBy::Client => "by the client's address".to_owned(),
        SplitBy::Header(name) => format!("by header {name}, by turns without it"),
        SplitBy::Cookie(name) => format!("by cookie {name}, by turns without it"),
    };
    let _ = writeln!(out, "  split {by}:");
    let total: u64 = split.shares.iter().map(|(_, weight)| u64::from(*weight)).sum();
    for (upstream, weight) in &split.shares {
        let percent = f64::from(*weight) * 100.0 / total as f64;
        let _ = writeln!(out, "    {percent:.1} % upstream {}", group(*upstream));
    }
}

fn write_others(out: &mut String, config: &Config, considered: &[Considered<'_>], origins: &[Origin]) {
    let others: Vec<_> = considered.iter().filter(|considered| considered.verdict != Verdict::Wins).collect();
    if others.is_empty() {
        return;
    }
    let _ = writeln!(out, "\nother routes with this host and path:");
    for Considered { route, verdict } in others {
        let _ = writeln!(out, "  {}: {}", name_of(*route, origins), reason(verdict));
        let _ = writeln!(out, "    {}", asks(&config.routes[*route]));
    }
}

fn reason(verdict: &Verdict<'_>) -> String {
    match verdict {
        Verdict::Wins => "gets it",
        Verdict::Fails(conditions) => {
            let texts: Vec<String> =
                conditions.iter().map(|condition| Condition::to_string(condition)).collect();
            return format!("passed over: {} does not hold", texts.join(", "));
        }
        Verdict::WiderHost => "lost by host (1): the other's is more specific",
        Verdict::WiderPath => "lost by path (2): the other's is more specific",
        Verdict::OtherMethods => "lost by method (3): it has others",
        Verdict::UnnamedMethod => "lost by method (3): the other one names it",
        Verdict::FewerConditions => "lost by conditions (4): the other one has more",
        Verdict::Later => "lost by order (5): the other one is earlier",
    }
    .to_owned()
}

/// The head as servers get it, and what becomes of their responses; says whether that is so, and the route refuses nothing. What
/// changes heads on a route has its place in [`sent_head`].
fn write_sent(out: &mut String, config: &Config, number: usize, request: &Request<'_>) -> bool {
    let route = &config.routes[number];
    if route.is_local() {
        let answer = own_answer(config, route, request);
        let is_answered = answer.is_ok();
        let answer = answer.unwrap_or_else(|why| format!("400: {why}"));
        let _ = writeln!(out, "\nanswered by this proxy: {answer}");
        write_response_fields(out, config, route, request);
        return is_answered;
    }
    let upstreams: Vec<usize> = match &route.split {
        None => vec![route.upstream],
        Some(split) => {
            split.shares.iter().filter(|(_, weight)| *weight > 0).map(|(upstream, _)| *upstream).collect()
        }
    };
    for upstream in upstreams {
        let group = &config.upstreams[upstream];
        match sent_head(config, route, group, request) {
            Err(refused) => {
                let _ = writeln!(out, "\nrefused on this route: {refused}");
                return false;
            }
            Ok(head) => {
                let _ = writeln!(out, "\nsent to upstream {}:", group.name);
                head.lines()
                    .filter(|line| !line.is_empty())
                    .for_each(|line| out.push_str(&format!("  {line}\n")));
            }
        }
        // With the client's Host they all get the same.
        if sends_host(route, request) == SendHost::Client {
            break;
        }
    }
    write_response_fields(out, config, route, request);
    true
}

/// What the route does to the fields of responses.
fn write_response_fields(out: &mut String, config: &Config, route: &Route, request: &Request<'_>) {
    let Some(policy) = route.policy.as_ref().filter(|policy| !policy.response.is_empty()) else { return };
    let (peer, client) = (request.peer.to_canonical().to_string(), request.client.to_canonical().to_string());
    let identity = identity(config, request, (&peer, &client));
    let _ = writeln!(out, "\nfields of the response:");
    for line in policy.response.describe(&facts(config, policy, request, &identity)) {
        let _ = writeln!(out, "  {line}");
    }
}

/// Which Host servers get; a client of HTTP/1.0 need not name one.
fn sends_host(route: &Route, request: &Request<'_>) -> SendHost {
    match request.head.authority {
        _ if route.policy.as_ref().is_some_and(|policy| policy.host.is_some()) => SendHost::Client,
        "" => SendHost::Server,
        _ if request.head.method == Method::Connect => SendHost::Client,
        _ => route.send_host,
    }
}

/// Who asks, as the fields of a request say it.
fn identity<'t>(
    config: &Config,
    request: &Request<'_>,
    (peer, client): (&'t str, &'t str),
) -> ClientIdentity<'t> {
    let is_trusted = config.forwarding.trusted_proxies.contains(request.peer);
    ClientIdentity {
        peer: peer.as_bytes(),
        client: client.as_bytes(),
        trust: if is_trusted { Trust::Trusted } else { Trust::Untrusted },
        proto: if request.scheme == "https" { "https" } else { "http" },
        request_id: 0,
        tls: None,
    }
}

/// The request as texts of its route see it.
fn facts<'a>(
    config: &'a Config,
    policy: &'a RoutePolicy,
    request: &'a Request<'_>,
    client: &'a ClientIdentity<'a>,
) -> Facts<'a> {
    Facts {
        head: &request.head,
        path: request.paths.as_ref().map_or("", |paths| paths.path),
        client,
        port: 0,
        identity: &config.forwarding.policy,
        captures: policy.captures.as_ref(),
    }
}

/// The answer of a route without a server.
fn own_answer(config: &Config, route: &Route, request: &Request<'_>) -> Result<String, &'static str> {
    let Some(policy) = &route.policy else { return Ok(String::new()) };
    let (peer, client) = (request.peer.to_canonical().to_string(), request.client.to_canonical().to_string());
    let identity = identity(config, request, (&peer, &client));
    match &policy.answer {
        Some(RouteAnswer::Redirect { status, location }) => {
            let mut written = Vec::new();
            let facts = facts(config, policy, request, &identity);
            location.write(&mut written, &facts).map_err(|unfit| Misfit::Text(unfit).why())?;
            Ok(format!("{status}, Location: {}", String::from_utf8_lossy(&written)))
        }
        Some(RouteAnswer::Fixed(fixed)) => {
            Ok(format!("{}, {} bytes", fixed.status, fixed.content.bytes.len()))
        }
        None => Ok(String::new()),
    }
}

fn sent_head(
    config: &Config,
    route: &Route,
    group: &UpstreamGroup,
    request: &Request<'_>,
) -> Result<String, String> {
    let refused = |fault: Fault| format!("{}: {fault}", fault.status());
    let normalized = match &request.paths {
        None => None,
        Some(paths) => path_policy::normalized(&route.paths, &request.head, paths, &Counters::default())
            .map_err(refused)?,
    };
    let mut head = normalized.unwrap_or(request.head);
    let (peer, client) = (request.peer.to_canonical().to_string(), request.client.to_canonical().to_string());
    let identity = identity(config, request, (&peer, &client));
    let mut store = PolicyStore::default();
    let mut changed = Changed { target: None, host: None, edits: None };
    if let Some(policy) = &route.policy {
        let rules = PathRules { encoded_slash: route.paths.encoded_slash, ..config.paths.rules() };
        let matching = request.paths.as_ref().map_or("", |paths| paths.matching);
        let made = policy.change(&mut store, &facts(config, policy, request, &identity), (matching, rules));
        changed = made.map_err(|misfit| format!("400: {}", misfit.why()))?;
    }
    if let Some((path_and_query, path)) = changed.target {
        (head.path_and_query, head.path) = (path_and_query, path);
    }
    let send_host = sends_host(route, request);
    let forwarding = Forwarding {
        identity: &config.forwarding.policy,
        sender: identity,
        host: changed.host.unwrap_or(if send_host == SendHost::Client { head.authority } else { "" }),
        body: head.body,
        edits: changed.edits,
    };
    let offered = head.offers().find_map(|offer| {
        route.tunnels.upgrade.iter().find(|protocol| protocol.as_bytes().eq_ignore_ascii_case(offer))
    });
    let mut written = Vec::new();
    let mut spans = match offered {
        Some(protocol) => write_upgrade_request(&mut written, &head, &forwarding, protocol),
        None => write_request(&mut written, &head, &forwarding),
    };
    if send_host == SendHost::Server {
        spans.set_authority(&mut written, &group.servers[0].authority);
    }
    let made_id = format!("{:032x}", 0);
    let text = String::from_utf8_lossy(&written).replace(&made_id, "(a new one)");
    Ok(text)
}
