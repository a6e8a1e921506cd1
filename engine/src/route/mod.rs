//! From host, path and method to a route.
//!
//! A route's host and path name a place; the most specific place that matches a request decides, and only then
//! its methods: a method the place does not have is 405, never a fall back to a wider route, so that limiting
//! the methods of `/admin` cannot be undone by a catch-all.
//!
//! Most specific, in this order:
//! 1. host: the name itself, then `*.suffix` with the longest suffix first, then any host. A host whose routes
//!    do not match the path does not hide the wider ones.
//! 2. path, segment by segment from the left: literal, `{param}`, `{*rest}`, prefix. Where a branch comes to
//!    nothing, the next one is tried, so the order holds for all routes together.
//! 3. method: routes that name it, then (HEAD only) those that name GET, then those for any method.
//!
//! `RouteTable` is immutable and mostly flat: nodes are numbers in a vector, so that a walk touches few lines,
//! and a clone per shard lies on the shard's own node. A lookup hashes each segment once, allocates nothing and does not depend on the number
//! of routes. `segments` and `hosts` are its two hash tables, `reference` (tests only) its specification.

mod hash;
mod hosts;
mod methods;
mod segments;

#[cfg(test)]
mod reference;

use crate::config::{Config, HostPattern, PathPattern, Segment, Tail};
pub(crate) use hosts::bare_name;

use hosts::Hosts;
use methods::MethodMap;
use segments::Segments;
use sluice_proto::path::{PathStore, normalize};

/// "No such node" or "no such place" in the tables.
const NONE: u32 = u32::MAX;

/// The result of a lookup. Borrows from the table for the Allow field only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup<'t> {
    /// A route takes the request.
    Found(RouteTarget),
    /// The path is known and the method is not: 405 with this Allow field.
    MethodNotAllowed {
        /// Value of the Allow field, such as `GET, HEAD`.
        allow: &'t str,
    },
    /// No route: 404.
    NotFound,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteTarget {
    /// Index into [`Config::upstreams`].
    pub upstream: usize,
    /// Index into [`Config::routes`].
    pub route: usize,
}

/// Every route, ready for lookups. A clone shares nothing with its original.
#[derive(Debug, Clone)]
pub struct RouteTable {
    hosts: Hosts,
    /// Root of the tree for any host; [`NONE`] if every route names one.
    any_host: u32,
    nodes: Vec<Node>,
    segments: Segments,
    /// A host and a path; the routes there differ in their methods.
    places: Vec<MethodMap>,
}

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
}

impl Node {
    const EMPTY: Self = Self { param: NONE, end: NONE, rest: NONE, prefix: NONE, has_literals: false };
}

/// The number of the route that a request comes to, as people write one: `GET host/path`, the method left out for GET.
///
/// # Errors
/// The response that it gets where it comes to none.
pub fn find(config: &Config, request: &str) -> Result<usize, String> {
    let (method, target) = request.split_once(' ').unwrap_or(("GET", request));
    let target = target.trim_start_matches("http://");
    let (host, path) = target.find('/').map_or((target, "/"), |at| target.split_at(at));
    let path = path.split('?').next().unwrap_or_default();
    let mut store = PathStore::default();
    let rules = crate::path_policy::rules_before_route(config);
    let forms = normalize(path, path, &rules, &mut store).map_err(|fault| format!("400: {fault}"))?;
    match RouteTable::build(config).lookup(host, forms.matching, method) {
        Lookup::Found(target) => Ok(target.route),
        Lookup::MethodNotAllowed { allow } => {
            Err(format!("405, Allow: {allow}: the most specific route for this path has other methods"))
        }
        Lookup::NotFound => Err("404: no route has this host and path".to_owned()),
    }
}

impl RouteTable {
    /// Builds the table for a checked configuration.
    pub fn build(config: &Config) -> Self {
        let mut builder = Builder::default();
        for (number, route) in config.routes.iter().enumerate() {
            let target = RouteTarget { upstream: route.upstream, route: number };
            for host in &route.hosts {
                let place = builder.place(host, &route.path);
                builder.places[place].add(&route.methods, target);
            }
        }
        builder.finish()
    }

    /// Finds the route for a request.
    ///
    /// `host` is the authority as the request gives it, port and trailing dot allowed, empty if there is none;
    /// `path` is the path without its query (or `*`), in its matching form ([`sluice_proto::path::PathForms`]), which the
    /// patterns have too: here texts are compared, and spellings were dealt with before.
    pub fn lookup(&self, host: &str, path: &str, method: &str) -> Lookup<'_> {
        match self.find_place(host, path) {
            NONE => Lookup::NotFound,
            place => self.places[place as usize].lookup(method),
        }
    }

    fn find_place(&self, host: &str, path: &str) -> u32 {
        if !self.hosts.is_empty() {
            let place = self.find_by_host(host, path);
            if place != NONE {
                return place;
            }
        }
        match self.any_host {
            NONE => NONE,
            root => self.find_below(root, path),
        }
    }

    #[inline(never)]
    fn find_by_host(&self, host: &str, path: &str) -> u32 {
        self.hosts.find(host, |root| self.find_below(root, path))
    }

    /// The most specific place for a path in one host's tree.
    fn find_below(&self, root: u32, path: &str) -> u32 {
        match path.strip_prefix('/') {
            Some(after_slash) => self.walk(root, Some(after_slash)),
            // `OPTIONS *`, or no path at all: only a route for everything takes it.
            None => self.nodes[root as usize].prefix,
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
    places: Vec<methods::Builder>,
}

impl Builder {
    /// The number of the place that a host and a path name, made if it is new.
    fn place(&mut self, host: &HostPattern, path: &PathPattern) -> usize {
        let fresh = self.nodes.len() as u32;
        let mut node = match host {
            HostPattern::Any => *self.any_host.get_or_insert(fresh),
            HostPattern::Exact(name) => self.hosts.exact(name, fresh),
            HostPattern::Suffix(name) => self.hosts.suffix(name, fresh),
        };
        if node == fresh {
            self.nodes.push(Node::EMPTY);
        }
        for segment in &path.segments {
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
            node = next;
        }
        let node = &mut self.nodes[node as usize];
        let place = match path.tail {
            Tail::End => &mut node.end,
            Tail::Rest(_) => &mut node.rest,
            Tail::Prefix => &mut node.prefix,
        };
        if *place == NONE {
            *place = self.places.len() as u32;
            self.places.push(methods::Builder::default());
        }
        *place as usize
    }

    fn finish(self) -> RouteTable {
        RouteTable {
            hosts: self.hosts.finish(),
            any_host: self.any_host.unwrap_or(NONE),
            nodes: self.nodes,
            segments: self.segments.finish(),
            places: self.places.into_iter().map(methods::Builder::finish).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Methods, Route};

    /// A table from lines `METHODS HOST PATH`; `*` for any method or host, `PATH+` for a prefix. The upstream of
    /// a route is its number times ten.
    fn table(lines: &[&str]) -> RouteTable {
        let routes = lines.iter().enumerate().map(|(i, line)| {
            let [methods, host, path] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            Route {
                hosts: vec![if host == "*" { HostPattern::Any } else { HostPattern::parse(host).unwrap() }],
                path: match path.strip_suffix('+') {
                    Some(prefix) => PathPattern::parse_prefix(prefix).unwrap(),
                    None => PathPattern::parse(path).unwrap(),
                },
                methods: match methods {
                    "*" => Methods::Any,
                    list => Methods::Only(list.split(',').map(str::to_owned).collect()),
                },
                paths: reference::ORDINARY,
                upstream: i * 10,
                timeouts: crate::config::Timeouts::default(),
                limits: crate::config::Limits::default(),
                tunnels: crate::config::RouteTunnels::default(),
                send_host: crate::config::SendHost::Client,
                on_client_close: Default::default(),
                grpc_web: false,
                client_certificate: false,
                hsts: None,
            }
        });
        RouteTable::build(&reference::config_of(routes.collect()))
    }

    fn found(table: &RouteTable, host: &str, path: &str) -> Option<usize> {
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
            Lookup::MethodNotAllowed { allow } => Err(allow),
            Lookup::Found(target) => Ok(target.route),
            Lookup::NotFound => panic!("{path}"),
        };
        assert_eq!(allow("/a", "GET"), Ok(0));
        assert_eq!(allow("/a", "HEAD"), Ok(0));
        // The catch-all must not undo what /a forbids.
        assert_eq!(allow("/a", "DELETE"), Err("GET, HEAD, POST"));
        assert_eq!(allow("/a", "get"), Err("GET, HEAD, POST"));
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
}
