//! From host, path, method and conditions to a route.
//!
//! A route's host and path name a place; the most specific place that matches a request decides, and only then the methods and
//! conditions of its routes: a method the place does not have is 405, never a fall back to a wider route, so that limiting the methods
//! of `/admin` cannot be undone by a catch-all. A route whose conditions do not hold is as if it were not there, and so is a place
//! without any other.
//!
//! The order of precedence, which docs/configuration.md has for users and `sluice explain` prints:
//! 1. host: the name itself, then `*.suffix` with the longest suffix first, then any host. A host whose routes do not match the path
//!    does not hide the wider ones.
//! 2. path, segment by segment from the left: literal, `{param}`, `{*rest}`, prefix. Where a branch comes to nothing, the next one is
//!    tried, so the order holds for all routes together. Expressions come, in the order of the file, before the first `{*rest}` or
//!    prefix: like these they are about many paths, of which they say more; and a path that is written out in full says more still.
//! 3. method: routes that name it, then (HEAD only) those that name GET, then those for any method.
//! 4. conditions: more before fewer.
//! 5. the order of the file.
//!
//! `RouteTable` is immutable and mostly flat: nodes are numbers in a vector, so that a walk touches few lines, and it lies on the node
//! of its shards. A lookup hashes each segment once, allocates nothing and does not depend on the number of routes; expressions, and
//! routes with conditions at one place, are tried one by one. `segments` and `hosts` are its two hash tables, `places` and `conditions`
//! what tells routes of one place apart, `wider` the walk past the first place, `reference` (tests only) the specification.

mod conditions;
#[cfg(feature = "cli")]
pub(crate) mod explain;
mod hash;
mod hosts;
mod methods;
mod parts;
mod places;
mod segments;
mod split;
mod wider;

#[cfg(test)]
mod reference;

use std::borrow::Cow;
use std::collections::HashMap;

use regex::bytes::Regex;

use crate::config::{Config, HostPattern, PathPattern, Segment, Tail};
pub use conditions::{Asked, Matchers};
pub(crate) use hosts::bare_name;
pub use parts::{cookie_values, decoded, query_values};
pub(crate) use split::Split;

use hosts::Hosts;
use places::{GuardedRoutes, Place};
use segments::Segments;

/// "No such node" or "no such place" in the tables.
const NONE: u32 = u32::MAX;

/// The result of a lookup. Borrows from the table for the Allow field only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup<'t> {
    /// A route takes the request.
    Found(RouteTarget),
    /// The path is known and the method is not: 405 with this Allow field.
    MethodNotAllowed {
        /// Value of the Allow field, such as `GET, HEAD`.
        allow: Cow<'t, str>,
    },
    /// No route: 404.
    NotFound,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteTarget {
    /// Index into [`Config::upstreams`]; the first one of a split.
    pub upstream: usize,
    /// Index into [`Config::routes`].
    pub route: usize,
}

/// Every route, ready for lookups.
#[derive(Debug, Clone)]
pub struct RouteTable {
    hosts: Hosts,
    /// Root of the tree for any host; [`NONE`] if every route names one.
    any_host: u32,
    nodes: Vec<Node>,
    segments: Segments,
    /// A host and a path; the routes there differ in their methods or conditions.
    places: Vec<Place>,
    guarded: GuardedRoutes,
    /// By the root of a tree, the expressions of its host with their places; sorted.
    regex_places: Vec<(u32, RegexPlaces)>,
    /// The expressions of paths and conditions. They are searched by in clones ([`Matchers`]).
    regexes: Vec<Regex>,
    /// By the number of a route, that of the expression of its path; empty where none has one.
    path_regexes: HashMap<u32, u32>,
}

/// Expressions by their numbers, with their places; in the order of the file.
type RegexPlaces = Box<[(u32, u32)]>;

/// A node of a path tree: what can follow after some segments.
#[derive(Debug, Clone, Copy)]
struct Node {
    /// Node behind a `{param}` segment.
    param: u32,
    /// Place if the path ends here.
    end: u32,
    /// Place if a slash and anything follow.
    rest: u32,
    /// Place if the path ends here or a slash and anything follow; weakest of all.
    prefix: u32,
    /// Whether any literal segment leads on: spares the hash where none does.
    has_literals: bool,
    /// Whether it is the root of a tree with expressions.
    has_regexes: bool,
}

impl Node {
    const EMPTY: Self =
        Self { param: NONE, end: NONE, rest: NONE, prefix: NONE, has_literals: false, has_regexes: false };
}

impl RouteTable {
    /// Builds the table for a checked configuration.
    pub fn build(config: &Config) -> Self {
        Self::build_with_places(config).0
    }

    /// The same, and the routes of each place.
    fn build_with_places(config: &Config) -> (Self, Vec<Vec<usize>>) {
        let mut builder = Builder::default();
        for (number, route) in config.routes.iter().enumerate() {
            let target = RouteTarget { upstream: route.upstream, route: number };
            let conditions = builder.conditions.add(&route.conditions);
            if let Tail::Regex(expression) = &route.path.tail {
                let regex = builder.conditions.regex(expression);
                builder.path_regexes.insert(number as u32, regex);
            }
            for host in &route.hosts {
                let place = builder.place(host, &route.path);
                builder.places.add(place, &route.methods, target, conditions);
            }
        }
        let routes = builder.places.routes();
        (builder.finish(), routes)
    }

    /// What a shard needs for lookups beside the table.
    pub fn matchers(&self) -> Matchers {
        Matchers::new(&self.regexes)
    }

    /// The expression of a route's path, for the groups that it finds there; for the shard of these matchers only. A caller that keeps
    /// a `CaptureLocations` of it gets groups without allocating (`captures_read`).
    pub fn path_regex<'m>(&self, route: usize, matchers: &'m Matchers) -> Option<&'m Regex> {
        self.path_regexes.get(&(route as u32)).and_then(|&number| matchers.regex(number))
    }

    /// Finds the route for a request.
    pub fn lookup(&self, asked: &Asked<'_>, matchers: &Matchers) -> Lookup<'_> {
        if !self.hosts.is_empty()
            && let Some(found) = self.find_by_host(asked, matchers)
        {
            return found;
        }
        match self.any_host {
            NONE => Lookup::NotFound,
            root => self.find_below(root, asked, matchers).unwrap_or(Lookup::NotFound),
        }
    }

    #[inline(never)]
    fn find_by_host(&self, asked: &Asked<'_>, matchers: &Matchers) -> Option<Lookup<'_>> {
        self.hosts.find(asked.host, |root| self.find_below(root, asked, matchers))
    }

    /// The answer of the most specific place for a path in one host's tree, among those with a route whose conditions hold.
    #[inline]
    fn find_below(&self, root: u32, asked: &Asked<'_>, matchers: &Matchers) -> Option<Lookup<'_>> {
        if !self.nodes[root as usize].has_regexes {
            let place = match asked.path.strip_prefix('/') {
                Some(after_slash) => self.walk(root, Some(after_slash)),
                // `OPTIONS *`, or no path at all: only a route for everything takes it.
                None => self.nodes[root as usize].prefix,
            };
            if place == NONE {
                return None;
            }
            let answer = self.answer(place, asked, matchers);
            if answer.is_some() {
                return answer;
            }
        }
        self.each_below(root, asked.path, matchers, &mut |place| self.answer(place, asked, matchers))
    }

    /// The answer of a place; `None` if the conditions of none of its routes hold.
    #[inline]
    fn answer(&self, place: u32, asked: &Asked<'_>, matchers: &Matchers) -> Option<Lookup<'_>> {
        match &self.places[place as usize] {
            Place::Open(methods) => Some(methods.lookup(asked.method)),
            Place::Lone(route) => self.guarded.lookup(std::slice::from_ref(route), asked, matchers),
            Place::Guarded(first, end) => {
                self.guarded.lookup(self.guarded.range(*first, *end), asked, matchers)
            }
        }
    }

    /// Walks down from a node; `rest` is what follows the slash, none if the path ends here. Calls itself only
    /// where a literal and a parameter are both possible, so at most once per level of the pattern tree.
    fn walk(&self, mut number: u32, mut rest: Option<&str>) -> u32 {
        let mut wider = NONE;
        loop {
            let node = &self.nodes[number as usize];
            if node.prefix != NONE {
                wider = node.prefix;
            }
            let Some(after_slash) = rest else {
                return if node.end != NONE { node.end } else { wider };
            };
            if node.rest != NONE {
                wider = node.rest;
            }
            if !node.has_literals && node.param == NONE {
                return wider;
            }
            let (segment, after) = split_segment(after_slash);
            let literal = if node.has_literals { self.segments.find(number, segment) } else { NONE };
            let param = if segment.is_empty() { NONE } else { node.param };
            number = match (literal, param) {
                (NONE, NONE) => return wider,
                (only, NONE) | (NONE, only) => only,
                (literal, param) => {
                    let place = self.walk(literal, after);
                    if place != NONE {
                        return place;
                    }
                    param
                }
            };
            rest = after;
        }
    }
}

/// The first segment and what follows its slash.
fn split_segment(text: &str) -> (&str, Option<&str>) {
    match hash::find_byte(text.as_bytes(), b'/') {
        Some(slash) => (&text[..slash], Some(&text[slash + 1..])),
        None => (text, None),
    }
}

/// A table being filled.
#[derive(Default)]
struct Builder {
    hosts: hosts::Builder,
    any_host: Option<u32>,
    nodes: Vec<Node>,
    segments: segments::Builder,
    places: places::Builder,
    conditions: conditions::Builder,
    /// By root and number of the expression, the place; and by root, both in the order of the file.
    regex_places: HashMap<(u32, u32), u32>,
    regexes: HashMap<u32, Vec<(u32, u32)>>,
    path_regexes: HashMap<u32, u32>,
}

impl Builder {
    /// The number of the place that a host and a path name, made if it is new.
    fn place(&mut self, host: &HostPattern, path: &PathPattern) -> u32 {
        let fresh = self.nodes.len() as u32;
        let root = match host {
            HostPattern::Any => *self.any_host.get_or_insert(fresh),
            HostPattern::Exact(name) => self.hosts.exact(name, fresh),
            HostPattern::Suffix(name) => self.hosts.suffix(name, fresh),
        };
        if root == fresh {
            self.nodes.push(Node::EMPTY);
        }
        let mut node = root;
        for segment in &path.segments {
            node = self.child(node, segment);
        }
        let node = &mut self.nodes[node as usize];
        let place = match &path.tail {
            Tail::End => &mut node.end,
            Tail::Rest(_) => &mut node.rest,
            Tail::Prefix => &mut node.prefix,
            Tail::Regex(expression) => {
                node.has_regexes = true;
                let regex = self.conditions.regex(expression);
                return *self.regex_places.entry((root, regex)).or_insert_with(|| {
                    let place = self.places.push();
                    self.regexes.entry(root).or_default().push((regex, place));
                    place
                });
            }
        };
        if *place == NONE {
            *place = self.places.push();
        }
        *place
    }

    /// The node that a segment leads to, made if it is new.
    fn child(&mut self, node: u32, segment: &Segment) -> u32 {
        let fresh = self.nodes.len() as u32;
        let next = match segment {
            Segment::Literal(text) => {
                self.nodes[node as usize].has_literals = true;
                self.segments.child(node, text, fresh)
            }
            Segment::Param(_) => {
                let param = &mut self.nodes[node as usize].param;
                if *param == NONE {
                    *param = fresh;
                }
                *param
            }
        };
        if next == fresh {
            self.nodes.push(Node::EMPTY);
        }
        next
    }

    fn finish(self) -> RouteTable {
        let (conditions, regexes) = self.conditions.finish();
        let (places, guarded) = self.places.finish(conditions);
        let mut regex_places: Vec<_> =
            self.regexes.into_iter().map(|(root, places)| (root, places.into_boxed_slice())).collect();
        regex_places.sort_unstable_by_key(|(root, _)| *root);
        RouteTable {
            hosts: self.hosts.finish(),
            any_host: self.any_host.unwrap_or(NONE),
            nodes: self.nodes,
            segments: self.segments.finish(),
            places,
            guarded,
            regex_places,
            regexes,
            path_regexes: self.path_regexes,
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_proto::h1::{HeadStore, Parsed, parse_request};
    use sluice_proto::{HeadLimits, RequestHead};

    use super::*;
    use crate::config::{Condition, Methods, Route};

    /// A table with what a shard has beside it.
    struct Table(RouteTable, Matchers);

    /// A table from lines `METHODS HOST PATH CONDITIONS`; `*` for any method or host, `PATH+` for a prefix, `~PATH` for an expression,
    /// conditions with `;` in between. The upstream of a route is its number times ten.
    fn table(lines: &[&str]) -> Table {
        let routes = lines.iter().enumerate().map(|(i, line)| {
            let [methods, host, path, rest @ ..] = &line.splitn(4, ' ').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            let pattern = match (path.strip_suffix('+'), path.strip_prefix('~')) {
                (_, Some(expression)) => PathPattern::parse_regex(expression),
                (Some(prefix), _) => PathPattern::parse_prefix(prefix),
                (None, None) => PathPattern::parse(path),
            };
            let conditions = rest.iter().flat_map(|texts| texts.split(';'));
            Route {
                hosts: vec![if *host == "*" { HostPattern::Any } else { HostPattern::parse(host).unwrap() }],
                methods: match *methods {
                    "*" => Methods::Any,
                    list => Methods::Only(list.split(',').map(str::to_owned).collect()),
                },
                conditions: conditions.map(|text| Condition::parse(text).unwrap()).collect(),
                upstream: i * 10,
                ..reference::route_for(pattern.unwrap())
            }
        });
        let table = RouteTable::build(&reference::config_of(routes.collect()));
        let matchers = table.matchers();
        Table(table, matchers)
    }

    /// A request without fields, of a client that has no address.
    pub(super) fn plain<'r>(host: &'r str, path: &'r str, method: &'r str) -> Asked<'r> {
        let client = std::net::Ipv4Addr::UNSPECIFIED.into();
        Asked { host, path, method, target: path, fields: sluice_proto::fields::Fields::default(), client }
    }

    impl Table {
        fn lookup(&self, host: &str, path: &str, method: &str) -> Lookup<'_> {
            self.0.lookup(&plain(host, path, method), &self.1)
        }

        /// The route for a request with these field lines; the status where there is none.
        fn of(&self, method: &str, target: &str, lines: &str) -> Result<usize, String> {
            with_head(target, lines, |head| {
                let asked = Asked {
                    host: "a",
                    path: target.split('?').next().unwrap_or_default(),
                    method,
                    target,
                    fields: head.field_list(),
                    client: "10.1.2.3".parse().unwrap(),
                };
                match self.0.lookup(&asked, &self.1) {
                    Lookup::Found(target) => Ok(target.route),
                    Lookup::MethodNotAllowed { allow } => Err(format!("405 {allow}")),
                    Lookup::NotFound => Err("404".to_owned()),
                }
            })
        }
    }

    /// Gives a head with this target and these lines, each with its end.
    pub(super) fn with_head<R>(target: &str, lines: &str, use_it: impl FnOnce(&RequestHead<'_>) -> R) -> R {
        let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let mut store = HeadStore::default();
        match parse_request(text.as_bytes(), &mut store, &HeadLimits::default()) {
            Ok(Parsed::Complete { head, .. }) => use_it(&head),
            _ => panic!("not a head: {text}"),
        }
    }

    fn found(table: &Table, host: &str, path: &str) -> Option<usize> {
        match table.lookup(host, path, "GET") {
            Lookup::Found(target) => {
                assert_eq!(target.upstream, target.route * 10);
                Some(target.route)
            }
            Lookup::NotFound => None,
            Lookup::MethodNotAllowed { .. } => panic!("{path}"),
        }
    }

    #[test]
    fn catch_all_takes_everything() {
        let table = table(&["* * /+"]);
        for path in ["/", "/a", "/a/b/", "//", "*", ""] {
            assert_eq!(found(&table, "any.host", path), Some(0), "{path}");
        }
    }

    #[test]
    fn rest_needs_its_slash_and_prefix_does_not() {
        let table = table(&["* * /s/{*rest}", "* * /p+"]);
        for (path, want) in [
            ("/s", None),
            ("/s/", Some(0)),
            ("/s/a/b", Some(0)),
            ("/sa", None),
            ("/p", Some(1)),
            ("/p/", Some(1)),
            ("/p/a", Some(1)),
            ("/pa", None),
            ("*", None),
        ] {
            assert_eq!(found(&table, "", path), want, "{path}");
        }
    }

    #[test]
    fn literal_beats_param_beats_rest_beats_prefix() {
        let table = table(&["* * /a+", "* * /a/{*rest}", "* * /a/{x}", "* * /a/b", "* * /a"]);
        for (path, want) in [("/a", 4), ("/a/b", 3), ("/a/c", 2), ("/a/", 1), ("/a/b/c", 1)] {
            assert_eq!(found(&table, "", path), Some(want), "{path}");
        }
    }

    #[test]
    fn a_dead_end_is_left_again() {
        let table = table(&["* * /a/b/c", "* * /{x}/b/d", "* * /a/{y}/e", "* * /+"]);
        for (path, want) in [("/a/b/c", 0), ("/a/b/d", 1), ("/a/b/e", 2), ("/a/b/f", 3), ("/z/b/d", 1)] {
            assert_eq!(found(&table, "", path), Some(want), "{path}");
        }
    }

    #[test]
    fn param_is_one_segment_that_is_not_empty() {
        let table = table(&["* * /u/{id}/p"]);
        assert_eq!(found(&table, "", "/u/1/p"), Some(0));
        for path in ["/u//p", "/u/1/2/p", "/u/1/p/", "/u/1"] {
            assert_eq!(found(&table, "", path), None, "{path}");
        }
    }

    #[test]
    fn trailing_slash_is_another_path() {
        let table = table(&["* * /a", "* * /b/"]);
        assert_eq!(found(&table, "", "/a"), Some(0));
        assert_eq!(found(&table, "", "/a/"), None);
        assert_eq!(found(&table, "", "/b"), None);
        assert_eq!(found(&table, "", "/b/"), Some(1));
    }

    #[test]
    fn hosts_from_specific_to_wide_and_back() {
        let table = table(&["* * /+", "* *.b.c /+", "* *.a.b.c /x", "* x.b.c /x", "* [::1] /x"]);
        for (host, path, want) in [
            ("X.B.C:8080", "/x", 3),
            ("x.b.c.", "/x", 3),
            // The exact host has no such path: the wider patterns are asked.
            ("x.b.c", "/y", 1),
            ("q.a.b.c", "/x", 2),
            ("q.a.b.c", "/y", 1),
            ("a.b.c", "/x", 1),
            ("b.c", "/x", 0),
            ("", "/x", 0),
            ("[::1]:80", "/x", 4),
            ("[::1]:80", "/y", 0),
        ] {
            assert_eq!(found(&table, host, path), Some(want), "{host} {path}");
        }
    }

    #[test]
    fn methods_decide_after_the_place() {
        let table = table(&["GET,POST * /a", "* * /+", "HEAD * /h", "GET * /h", "PUT * /b", "* * /b"]);
        let allow = |path, method| match table.lookup("", path, method) {
            Lookup::MethodNotAllowed { allow } => Err(allow.into_owned()),
            Lookup::Found(target) => Ok(target.route),
            Lookup::NotFound => panic!("{path}"),
        };
        assert_eq!(allow("/a", "GET"), Ok(0));
        assert_eq!(allow("/a", "HEAD"), Ok(0));
        // The catch-all must not undo what /a forbids.
        assert_eq!(allow("/a", "DELETE"), Err("GET, HEAD, POST".to_owned()));
        assert_eq!(allow("/a", "get"), Err("GET, HEAD, POST".to_owned()));
        assert_eq!(allow("/h", "HEAD"), Ok(2));
        assert_eq!(allow("/h", "GET"), Ok(3));
        assert_eq!(allow("/b", "PUT"), Ok(4));
        assert_eq!(allow("/b", "PATCH"), Ok(5));
    }

    #[test]
    fn empty_table_finds_nothing() {
        assert_eq!(table(&[]).lookup("a", "/", "GET"), Lookup::NotFound);
    }

    #[test]
    fn hostile_paths_cost_no_more_than_the_pattern_tree() {
        let table = table(&["* * /{a}/{b}/{c}/x", "* * /a/{b}/c/x", "* * /a/a/{c}/x", "* * /{a}/a/a/x"]);
        let path = "/a".repeat(100_000);
        assert_eq!(found(&table, &".a".repeat(100_000), &path), None);
    }
    #[test]
    fn expressions_stand_between_paths_and_what_is_below_them() {
        let table = table(&[
            "* * /+",
            "* * /img/+",
            "* * ~^/img/[0-9]+$",
            "* * ~^/img/7",
            "* * /img/7",
            "* * /img/{id}/big",
            "* * /{*rest}",
            "* b ~x",
        ]);
        for (host, path, want) in [
            ("a", "/img/8", 2),
            ("a", "/img/7", 4),
            // Of two expressions the first in the file.
            ("a", "/img/77", 2),
            ("a", "/img/7x", 3),
            ("a", "/img/8/big", 5),
            ("a", "/img/7/big", 5),
            ("a", "/img/8/small", 1),
            ("a", "/other", 6),
            ("a", "*", 0),
            ("b", "/axe", 7),
            ("b", "/img/8", 2),
            ("b", "", 0),
        ] {
            assert_eq!(found(&table, host, path), Some(want), "{host} {path}");
        }
        let expression = table.0.path_regex(2, &table.1).expect("route 2 has one");
        assert!(expression.is_match(b"/img/1") && table.0.path_regex(0, &table.1).is_none());
    }

    #[test]
    fn conditions_choose_within_a_place_and_hide_nothing() {
        let table = table(&[
            "* * /+",
            "* * /x header v = 1",
            "* * /x header v = 1;cookie beta",
            "* * /x query q ~ ^[0-9]+$",
            "GET,PUT * /y client 10.0.0.0/8",
            "* * /y header v",
            "GET * /y header v = 2;cookie beta",
            "GET * /z not header v",
            "POST * /z",
        ]);
        for (method, target, lines, want) in [
            ("GET", "/x", "", Ok(0)),
            ("GET", "/x", "v: 1\r\n", Ok(1)),
            ("GET", "/x?q=1", "v: 1\r\n", Ok(1)),
            ("GET", "/x?q=1", "", Ok(3)),
            ("GET", "/x?q=a", "", Ok(0)),
            ("GET", "/x?q=%31", "v: 1\r\nCookie: beta=\r\n", Ok(2)),
            // Method before conditions before order: 4 and 6 name it, and 6 has more conditions.
            ("GET", "/y", "v: 2\r\n", Ok(4)),
            ("GET", "/y", "v: 2\r\nCookie: beta=1\r\n", Ok(6)),
            ("HEAD", "/y", "v: 2\r\nCookie: beta=1\r\n", Ok(6)),
            ("POST", "/y", "v: 2\r\n", Ok(5)),
            ("POST", "/y", "", Err("405 GET, HEAD, PUT")),
            // Only the methods of those that hold.
            ("PUT", "/z", "", Err("405 GET, HEAD, POST")),
            ("GET", "/z", "v: 1\r\n", Err("405 POST")),
            ("GET", "/z", "", Ok(7)),
        ] {
            let found = table.of(method, target, lines);
            assert_eq!(found.as_ref().copied().map_err(String::as_str), want, "{method} {target} {lines:?}");
        }
    }

    #[test]
    fn a_place_without_a_route_that_holds_gives_way_to_each_wider_one() {
        let table = table(&[
            "* * /+",
            "* a /+ header any",
            "* a /s/+ header prefix",
            "* a /s/{*rest} header rest",
            "* a ~^/s/.$ header regex",
            "* a /s/{p} header param",
            "* a /s/t header literal",
        ]);
        let all = ["any", "prefix", "rest", "regex", "param", "literal"];
        for count in 0..=all.len() {
            let lines: String = all[..count].iter().map(|name| format!("{name}: 1\r\n")).collect();
            assert_eq!(table.of("GET", "/s/t", &lines), Ok(count), "{lines}");
            let alone = all.get(count).map_or(String::new(), |name| format!("{name}: 1\r\n"));
            assert_eq!(table.of("GET", "/s/t", &alone), Ok((count + 1) % 7), "{alone}");
        }
    }
}
