//! The specification of a lookup: try every route, keep the most specific. Slow and plainly right; the table is
//! tested against it.

use std::cmp::Ordering;
use std::net::IpAddr;

use proptest::prelude::*;

use super::tests::with_head;
use super::{Asked, Lookup, RouteTable, RouteTarget};
use crate::config::{
    Condition, Config, Expression, Forwarding, Host, HostPattern, Http2, Limits, Methods, PathForward,
    PathPattern, Paths, Route, RoutePaths, Segment, SendHost, ShardChoice, Subject, Tail, Test, Timeouts,
};

/// How routes treat paths by default.
pub(super) const ORDINARY: RoutePaths =
    RoutePaths { forward: PathForward::Normal, encoded_slash: sluice_proto::path::SlashLike::Refuse };

/// A configuration of nothing but routes.
pub(super) fn config_of(routes: Vec<Route>) -> Config {
    Config {
        listeners: Vec::new(),
        shards: ShardChoice::default(),
        host: Host::default(),
        drain_timeout: std::time::Duration::ZERO,
        metrics: None,
        state_dir: None,
        tls: crate::config::TlsSettings::default(),
        certificates: Vec::new(),
        acme: None,
        log: crate::log::Log::default(),
        timeouts: Timeouts::default(),
        limits: Limits::default(),
        paths: Paths::default(),
        forwarding: Forwarding::default(),
        http2: Http2::default(),
        upstreams: Vec::new(),
        routes,
        error_pages: crate::policy::fixed::ErrorPages::default(),
        warnings: Vec::new(),
    }
}

/// A route for every request with such a path.
pub(super) fn route_for(path: PathPattern) -> Route {
    Route {
        hosts: vec![HostPattern::Any],
        path,
        methods: Methods::Any,
        conditions: Vec::new(),
        paths: ORDINARY,
        upstream: 0,
        split: None,
        timeouts: Timeouts::default(),
        limits: Limits::default(),
        send_host: SendHost::Client,
        on_client_close: Default::default(),
        retry: crate::config::Retry::default(),
        tunnels: crate::config::RouteTunnels::default(),
        grpc_web: false,
        client_certificate: false,
        hsts: None,
        policy: None,
    }
}

fn host_matches(pattern: &HostPattern, host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let host = host.split(':').next().unwrap_or_default();
    let host = host.strip_suffix('.').unwrap_or(host);
    match pattern {
        HostPattern::Any => true,
        HostPattern::Exact(name) => host == name,
        HostPattern::Suffix(name) => {
            host.strip_suffix(name.as_str()).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
        }
    }
}

fn path_matches(pattern: &PathPattern, path: &str) -> bool {
    if *pattern == PathPattern::any() {
        return true;
    }
    let Some(after_slash) = path.strip_prefix('/') else { return false };
    let parts: Vec<&str> = after_slash.split('/').collect();
    let fits = |segments: &[Segment], parts: &[&str]| {
        segments.len() == parts.len()
            && segments.iter().zip(parts).all(|(segment, part)| match segment {
                Segment::Literal(text) => text == part,
                Segment::Param(_) => !part.is_empty(),
            })
    };
    let n = pattern.segments.len();
    match &pattern.tail {
        Tail::Regex(expression) => expression.regex().is_match(path.as_bytes()),
        Tail::End => fits(&pattern.segments, &parts),
        Tail::Rest(_) => parts.len() > n && fits(&pattern.segments, &parts[..n]),
        Tail::Prefix => parts.len() >= n && fits(&pattern.segments, &parts[..n]),
    }
}

/// Hosts by how specific they are; `Less` is more specific.
fn compare_hosts(a: &Route, b: &Route) -> Ordering {
    let rank = |route: &Route| match &route.hosts[0] {
        HostPattern::Exact(_) => (0, 0),
        // Longest suffix first.
        HostPattern::Suffix(name) => (1, usize::MAX - name.len()),
        HostPattern::Any => (2, 0),
    };
    rank(a).cmp(&rank(b))
}

/// The same for paths that are no expressions.
fn compare_paths(a: &Route, b: &Route) -> Ordering {
    let rank = |route: &Route| {
        let segments = route.path.segments.iter().map(|segment| match segment {
            Segment::Literal(_) => 1,
            Segment::Param(_) => 2,
        });
        let tail = match route.path.tail {
            Tail::End => 0,
            Tail::Rest(_) => 3,
            Tail::Prefix => 4,
            Tail::Regex(_) => unreachable!(),
        };
        segments.chain([tail]).collect::<Vec<_>>()
    };
    rank(a).cmp(&rank(b))
}

/// Routes that match, in groups of the same host and path, from specific to wide.
fn places(routes: &[Route], host: &str, path: &str) -> Vec<Vec<usize>> {
    let mut matching: Vec<usize> = (0..routes.len())
        .filter(|&i| host_matches(&routes[i].hosts[0], host) && path_matches(&routes[i].path, path))
        .collect();
    matching.sort_by(|&a, &b| compare_hosts(&routes[a], &routes[b]));
    let mut places: Vec<Vec<usize>> = Vec::new();
    for of_host in matching.chunk_by(|&a, &b| compare_hosts(&routes[a], &routes[b]).is_eq()) {
        let is_regex = |&i: &usize| matches!(routes[i].path.tail, Tail::Regex(_));
        let (regexes, mut others): (Vec<usize>, Vec<usize>) = of_host.iter().copied().partition(is_regex);
        others.sort_by(|&a, &b| compare_paths(&routes[a], &routes[b]));
        // Before the first that takes all below it.
        let ending = others.iter().take_while(|&&i| routes[i].path.tail == Tail::End).count();
        let mut by_regex: Vec<Vec<usize>> = Vec::new();
        for i in regexes {
            match by_regex.iter_mut().find(|place| routes[place[0]].path == routes[i].path) {
                Some(place) => place.push(i),
                None => by_regex.push(vec![i]),
            }
        }
        let grouped = |routes_of: &[usize]| -> Vec<Vec<usize>> {
            let groups = routes_of.chunk_by(|&a, &b| compare_paths(&routes[a], &routes[b]).is_eq());
            groups.map(<[usize]>::to_vec).collect()
        };
        places.extend(grouped(&others[..ending]));
        places.extend(by_regex);
        places.extend(grouped(&others[ending..]));
    }
    places
}

fn naive_lookup(
    routes: &[Route],
    (host, path, method): (&str, &str, &str),
    details: &Details,
) -> Result<usize, Option<String>> {
    let holds = |i: &usize| routes[*i].conditions.iter().all(|condition| details.holds(condition));
    let holding =
        places(routes, host, path).into_iter().map(|place| place.into_iter().filter(holds).collect());
    let Some(mut place) = holding.into_iter().find(|place: &Vec<usize>| !place.is_empty()) else {
        return Err(None);
    };
    place.sort_by_key(|&i| std::cmp::Reverse(routes[i].conditions.len()));
    let names = |i: usize, wanted: &str| match &routes[i].methods {
        Methods::Any => false,
        Methods::Only(methods) => methods.iter().any(|method| method == wanted),
    };
    let by_name = |wanted: &str| place.iter().copied().find(|&i| names(i, wanted));
    let found = by_name(method)
        .or_else(|| by_name("GET").filter(|_| method == "HEAD"))
        .or_else(|| place.iter().copied().find(|&i| routes[i].methods == Methods::Any));
    found.ok_or_else(|| {
        let mut allow: Vec<&str> = Vec::new();
        for &i in &place {
            if let Methods::Only(methods) = &routes[i].methods {
                allow.extend(methods.iter().map(String::as_str).filter(|m| *m != "HEAD"));
            }
        }
        allow.sort_unstable();
        allow.dedup();
        let head = by_name("HEAD").or(by_name("GET")).map(|_| "HEAD");
        allow.extend(head);
        allow.sort_unstable();
        Some(allow.join(", "))
    })
}

fn segment() -> impl Strategy<Value = Segment> {
    prop_oneof![
        3 => "[ab]{1,2}".prop_map(Segment::Literal),
        1 => Just(Segment::Literal("a-rather-long-segment-name".into())),
        2 => Just(Segment::Param("p".into())),
    ]
}

fn path_pattern() -> impl Strategy<Value = PathPattern> {
    let tail = prop_oneof![
        3 => Just(Tail::End),
        1 => Just(Tail::Rest("rest".into())),
        1 => Just(Tail::Prefix),
        1 => prop::sample::select(vec!["^/a", "b$", "^/[ab]/[ab]$", "/"])
            .prop_map(|text| Tail::Regex(Expression::parse(text).unwrap())),
    ];
    (prop::collection::vec(segment(), 0..4), tail, any::<bool>()).prop_map(|(mut segments, tail, slash)| {
        if matches!(tail, Tail::Regex(_)) {
            segments.clear();
        }
        // A path that ends has at least one segment; an empty last one is its trailing slash.
        if tail == Tail::End && (slash || segments.is_empty()) {
            segments.push(Segment::Literal(String::new()));
        }
        PathPattern { segments, tail }
    })
}

fn route() -> impl Strategy<Value = Route> {
    let host = prop_oneof![
        Just(HostPattern::Any),
        "[ab](\\.[ab]){0,2}".prop_map(HostPattern::Exact),
        "[ab](\\.[ab]){0,2}".prop_map(HostPattern::Suffix),
    ];
    let methods = prop_oneof![
        Just(Methods::Any),
        prop::sample::subsequence(vec!["GET", "HEAD", "POST", "X"], 1..3)
            .prop_map(|methods| Methods::Only(methods.into_iter().map(str::to_owned).collect())),
    ];
    let conditions = prop::sample::subsequence(CONDITIONS.to_vec(), 0..5)
        .prop_map(|texts| texts.into_iter().map(|text| Condition::parse(text).unwrap()).collect::<Vec<_>>());
    let conditions = prop_oneof![2 => Just(Vec::new()), 1 => conditions];
    (host, path_pattern(), methods, conditions, 0..3usize).prop_map(
        |(host, path, methods, conditions, upstream)| Route {
            hosts: vec![host],
            methods,
            conditions,
            upstream,
            ..route_for(path)
        },
    )
}

const CONDITIONS: [&str; 12] = [
    "header a",
    "header a = 1",
    "not header a = 2",
    "cookie b ~ ^[12]$",
    "not cookie b",
    "query c = 1",
    "client 10.0.0.0/8",
    "not client 10.0.0.0/9",
    "header a ~ ^[12]",
    "cookie b = 2",
    "not query c",
    "query c ~ ^[12]$",
];

/// Header lines, query and client of a request.
#[derive(Debug, Clone)]
struct Details {
    header: Option<&'static str>,
    cookie: Option<&'static str>,
    query: Option<&'static str>,
    client: IpAddr,
}

fn details() -> impl Strategy<Value = Details> {
    let value = || prop::option::of(prop::sample::select(vec!["1", "2", ""]));
    let client = prop::sample::select(vec!["10.1.1.1", "10.200.1.1", "11.1.1.1", "::1"]);
    (value(), value(), value(), client).prop_map(|(header, cookie, query, client)| Details {
        header,
        cookie,
        query,
        client: client.parse().unwrap(),
    })
}

impl Details {
    fn lines(&self) -> String {
        let header = self.header.map(|value| format!("a: {value}\r\n")).unwrap_or_default();
        header + &self.cookie.map(|value| format!("cookie: x=1; b={value}\r\n")).unwrap_or_default()
    }

    fn holds(&self, condition: &Condition) -> bool {
        let value = match &condition.subject {
            Subject::Header(_) => self.header,
            Subject::Cookie(_) => self.cookie,
            Subject::Query(_) => self.query,
            Subject::Client(networks, _) => return networks.contains(self.client) != condition.is_not,
        };
        let is_so = value.is_some_and(|value| match &condition.test {
            Test::Present => true,
            Test::Equals(wanted) => value == wanted,
            Test::Matches(expression) => expression.regex().is_match(value.as_bytes()),
        });
        is_so != condition.is_not
    }
}

fn request() -> impl Strategy<Value = (String, String, String)> {
    let host = "([abAB]\\.){0,3}[abAB]?\\.?(:80)?";
    let path = prop_oneof![
        8 => "(/([ab]{1,2}|a-rather-long-segment-name|)){1,5}",
        1 => "\\*|[ab]?"
    ];
    (host, path, "GET|HEAD|POST|X|get")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn table_does_what_the_specification_says(
        routes in prop::collection::vec(route(), 0..24),
        requests in prop::collection::vec((request(), details()), 1..24),
    ) {
        let table = RouteTable::build(&config_of(routes.clone()));
        let matchers = table.matchers();
        for ((host, path, method), details) in requests {
            let want = naive_lookup(&routes, (&host, &path, &method), &details);
            let target = details.query.map_or_else(|| path.clone(), |value| format!("{path}?x&c={value}"));
            let lines = details.lines();
            let agree = with_head("/", &lines, |head| {
                let fields = head.field_list();
                let asked =
                    Asked { host: &host, path: &path, method: &method, target: &target, fields, client: details.client };
                let got = table.lookup(&asked, &matchers);
                let is_same = match (&want, &got) {
                    (Ok(route), Lookup::Found(RouteTarget { route: found, upstream })) => {
                        route == found && *upstream == routes[*found].upstream
                    }
                    (Err(None), Lookup::NotFound) => true,
                    (Err(Some(want)), Lookup::MethodNotAllowed { allow }) => {
                        let mut names: Vec<&str> = allow.split(", ").collect();
                        names.sort_unstable();
                        names.join(", ") == *want
                    }
                    _ => false,
                };
                if is_same { Ok(()) } else { Err(format!("want {want:?}, got {got:?}")) }
            });
            prop_assert!(agree.is_ok(), "{host} {target} {method} {details:?}: {agree:?}");
        }
    }
}
