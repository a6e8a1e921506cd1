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
//! routes with conditions at one place, are tried one by one. `segments` and `hosts` are its two hash tables, `node` the trees
//! and the walk down, `places` and `conditions` what tells routes of one place apart, `wider` the walk past the first place, `build`
//! fills them, `reference` (tests only) is the specification.

mod build;
mod conditions;
#[cfg(feature = "cli")]
pub(crate) mod explain;
mod hash;
mod hosts;
mod methods;
mod node;
mod parts;
mod places;
mod segments;
mod split;
mod wider;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;

use regex::bytes::Regex;

pub use conditions::{Asked, Matchers};
pub(crate) use hosts::bare_name;
pub use parts::{cookie_values, decoded, query_values};
pub(crate) use split::Split;

use hosts::Hosts;
use node::Node;
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

impl RouteTable {
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
            Place::Any(route) => Some(Lookup::Found(route.target())),
            Place::Lone(route) => self.guarded.lookup_lone(route, asked, matchers),
            Place::Open(methods) => Some(methods.lookup(asked.method)),
            Place::Guarded(first, end) => {
                self.guarded.lookup(self.guarded.range(*first, *end), asked, matchers)
            }
        }
    }
}
