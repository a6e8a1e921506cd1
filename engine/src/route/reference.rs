//! The specification of a lookup: try every route, keep the most specific. Slow and plainly right; the table is
//! tested against it.

use std::cmp::Ordering;

use proptest::prelude::*;

use super::{Lookup, RouteTable, RouteTarget};
use crate::config::{
    Config, Forwarding, Host, HostPattern, Http2, Limits, Methods, PathForward, PathPattern, Paths, Route,
    RoutePaths, Segment, SendHost, ShardChoice, Tail, Timeouts,
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
        warnings: Vec::new(),
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
    match pattern.tail {
        Tail::End => fits(&pattern.segments, &parts),
        Tail::Rest(_) => parts.len() > n && fits(&pattern.segments, &parts[..n]),
        Tail::Prefix => parts.len() >= n && fits(&pattern.segments, &parts[..n]),
    }
}

/// `Less` is more specific.
fn compare(a: &Route, b: &Route) -> Ordering {
    let host = |route: &Route| match &route.hosts[0] {
        HostPattern::Exact(_) => (0, 0),
        // Longest suffix first.
        HostPattern::Suffix(name) => (1, usize::MAX - name.len()),
        HostPattern::Any => (2, 0),
    };
    let path = |route: &Route| {
        let segments = route.path.segments.iter().map(|segment| match segment {
            Segment::Literal(_) => 1,
            Segment::Param(_) => 2,
        });
        let tail = match route.path.tail {
            Tail::End => 0,
            Tail::Rest(_) => 3,
            Tail::Prefix => 4,
        };
        segments.chain([tail]).collect::<Vec<_>>()
    };
    host(a).cmp(&host(b)).then_with(|| path(a).cmp(&path(b)))
}

fn naive_lookup(routes: &[Route], host: &str, path: &str, method: &str) -> Result<usize, Option<String>> {
    let mut matching: Vec<usize> = (0..routes.len())
        .filter(|&i| host_matches(&routes[i].hosts[0], host) && path_matches(&routes[i].path, path))
        .collect();
    matching.sort_by(|&a, &b| compare(&routes[a], &routes[b]).then(a.cmp(&b)));
    let Some(&best) = matching.first() else { return Err(None) };
    let place: Vec<usize> =
        matching.into_iter().filter(|&i| compare(&routes[i], &routes[best]) == Ordering::Equal).collect();
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
        1 => Just(Tail::Prefix)
    ];
    (prop::collection::vec(segment(), 0..4), tail, any::<bool>()).prop_map(|(mut segments, tail, slash)| {
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
    (host, path_pattern(), methods, 0..3usize).prop_map(|(host, path, methods, upstream)| Route {
        hosts: vec![host],
        path,
        methods,
        paths: ORDINARY,
        upstream,
        timeouts: Timeouts::default(),
        limits: Limits::default(),
        send_host: SendHost::Client,
        on_client_close: Default::default(),
        tunnels: crate::config::RouteTunnels::default(),
        grpc_web: false,
        client_certificate: false,
        hsts: None,
    })
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
        requests in prop::collection::vec(request(), 1..24),
    ) {
        let table = RouteTable::build(&config_of(routes.clone()));
        for (host, path, method) in requests {
            let want = naive_lookup(&routes, &host, &path, &method);
            let got = table.lookup(&host, &path, &method);
            let agree = match (&want, got) {
                (Ok(route), Lookup::Found(RouteTarget { route: found, upstream })) => {
                    *route == found && upstream == routes[found].upstream
                }
                (Err(None), Lookup::NotFound) => true,
                (Err(Some(want)), Lookup::MethodNotAllowed { allow }) => {
                    let mut names: Vec<&str> = allow.split(", ").collect();
                    names.sort_unstable();
                    names.join(", ") == *want
                }
                _ => false,
            };
            prop_assert!(agree, "{host} {path} {method}: want {want:?}, got {got:?}");
        }
    }
}
