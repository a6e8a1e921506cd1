//! Fills a [`RouteTable`], route by route.

use std::collections::HashMap;

use super::node::Node;
use super::{NONE, RouteTable, RouteTarget, conditions, hosts, places, segments};
use crate::config::{Config, HostPattern, PathPattern, Segment, Tail};

impl RouteTable {
    /// Builds the table for a checked configuration.
    pub fn build(config: &Config) -> Self {
        Self::build_with_places(config).0
    }

    /// The same, and the routes of each place.
    pub(super) fn build_with_places(config: &Config) -> (Self, Vec<Vec<usize>>) {
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
        let number_of = |node: u32| self.nodes[node as usize].as_leaf().unwrap_or(node);
        let segments = self.segments.finish(number_of);
        let with_leaves = |node: &Node| match node.param {
            NONE => *node,
            param => Node { param: number_of(param), ..*node },
        };
        RouteTable {
            hosts: self.hosts.finish(),
            any_host: self.any_host.unwrap_or(NONE),
            nodes: self.nodes.iter().map(with_leaves).collect(),
            segments,
            places,
            guarded,
            regex_places,
            regexes,
            path_regexes: self.path_regexes,
        }
    }
}
