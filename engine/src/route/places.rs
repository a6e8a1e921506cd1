//! The routes of one place (a host and a path), told apart by their methods and conditions.
//!
//! Without conditions that is a [`MethodMap`]. With them, the routes that hold are found one by one; they are kept in the order in
//! which they are tried: more conditions before fewer, then as in the file.

use std::borrow::Cow;

use super::conditions::{Asked, Conditions, Matchers, Span};
use super::methods::{self, MethodMap, MethodSets};
use super::{Lookup, RouteTarget};
use crate::config::Methods;

/// The routes of a place.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// Its only route, which takes all.
    Any(AnyRoute),
    /// Its only route: here, where it is read with the place.
    Lone(GuardedRoute),
    /// No route has conditions.
    Open(Box<MethodMap>),
    /// The numbers of its routes among the guarded ones, from the first to behind the last.
    Guarded(u32, u32),
}

const _: () = assert!(size_of::<Place>() == 24, "a lookup reads one, of as many as there are routes");

/// A route for all methods that has no conditions.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnyRoute {
    upstream: u32,
    route: u32,
}

impl AnyRoute {
    #[inline]
    pub(super) fn target(self) -> RouteTarget {
        RouteTarget { upstream: self.upstream as usize, route: self.route as usize }
    }
}

/// The routes of all places where some have conditions, place by place.
#[derive(Debug, Clone, Default)]
pub(super) struct GuardedRoutes {
    routes: Vec<GuardedRoute>,
    conditions: Conditions,
    methods: MethodSets,
}

/// A route that is alone at its place, or at one where some have conditions.
#[derive(Debug, Clone, Copy)]
pub(super) struct GuardedRoute {
    upstream: u32,
    route: u32,
    /// Which set of methods.
    methods: u32,
    conditions: Span,
}

impl GuardedRoute {
    fn target(&self) -> RouteTarget {
        RouteTarget { upstream: self.upstream as usize, route: self.route as usize }
    }
}

impl GuardedRoutes {
    /// The routes of these numbers.
    pub(super) fn range(&self, first: u32, end: u32) -> &[GuardedRoute] {
        &self.routes[first as usize..end as usize]
    }

    /// The answer of the only route of a place; `None` if its conditions do not hold.
    #[inline(never)]
    pub(super) fn lookup_lone(
        &self,
        route: &GuardedRoute,
        asked: &Asked<'_>,
        matchers: &Matchers,
    ) -> Option<Lookup<'_>> {
        let holds =
            route.conditions.count == 0 || self.conditions.all_hold(route.conditions, asked, matchers);
        if !holds {
            return None;
        }
        match self.methods.rank(route.methods, asked.method) {
            Some(_) => Some(Lookup::Found(route.target())),
            None => {
                Some(Lookup::MethodNotAllowed { allow: Cow::Borrowed(self.methods.allow_of(route.methods)) })
            }
        }
    }

    /// The answer of these routes of a place to a request; `None` if the conditions of none hold.
    #[inline(never)]
    pub(super) fn lookup(
        &self,
        routes: &[GuardedRoute],
        asked: &Asked<'_>,
        matchers: &Matchers,
    ) -> Option<Lookup<'_>> {
        let mut best = None;
        for route in routes {
            let Some(rank) = self.methods.rank(route.methods, asked.method) else { continue };
            let is_better = best.is_none_or(|(best, _)| rank < best);
            if is_better && self.conditions.all_hold(route.conditions, asked, matchers) {
                best = Some((rank, route));
                if rank == methods::Rank::Named {
                    break;
                }
            }
        }
        match best {
            Some((_, route)) => Some(Lookup::Found(route.target())),
            None => self.refuse(routes, asked, matchers),
        }
    }

    /// No route holds that has the method: 405 with the methods of those that hold.
    #[cold]
    fn refuse(&self, routes: &[GuardedRoute], asked: &Asked<'_>, matchers: &Matchers) -> Option<Lookup<'_>> {
        let holding = routes.iter().filter(|route| {
            let is_tried = self.methods.rank(route.methods, asked.method).is_some();
            !is_tried && self.conditions.all_hold(route.conditions, asked, matchers)
        });
        let sets: Vec<u32> = holding.map(|route| route.methods).collect();
        let allow = Cow::Owned(self.methods.allow(&sets));
        (!sets.is_empty()).then_some(Lookup::MethodNotAllowed { allow })
    }
}

/// The places of a table being filled.
#[derive(Default)]
pub(super) struct Builder {
    places: Vec<Vec<Entry>>,
}

struct Entry {
    target: RouteTarget,
    methods: Methods,
    conditions: Span,
}

impl Builder {
    /// The number of a new place.
    pub(super) fn push(&mut self) -> u32 {
        self.places.push(Vec::new());
        self.places.len() as u32 - 1
    }

    /// Adds a route to a place.
    pub(super) fn add(&mut self, place: u32, methods: &Methods, target: RouteTarget, conditions: Span) {
        self.places[place as usize].push(Entry { target, methods: methods.clone(), conditions });
    }

    /// The routes of each place, in the order of the file.
    pub(super) fn routes(&self) -> Vec<Vec<usize>> {
        let numbers = |place: &Vec<Entry>| place.iter().map(|entry| entry.target.route).collect();
        self.places.iter().map(numbers).collect()
    }

    pub(super) fn finish(self, conditions: Conditions) -> (Vec<Place>, GuardedRoutes) {
        let mut routes = Vec::new();
        let mut sets = methods::SetsBuilder::default();
        let places = self.places.into_iter().map(|mut place| {
            if place.len() > 1 && place.iter().all(|entry| entry.conditions.count == 0) {
                let mut map = methods::Builder::default();
                place.iter().for_each(|entry| map.add(&entry.methods, entry.target));
                return Place::Open(Box::new(map.finish()));
            }
            // Stable: those with as many stay in the order of the file.
            place.sort_by_key(|entry| std::cmp::Reverse(entry.conditions.count));
            let mut guarded = |entry: Entry| GuardedRoute {
                upstream: entry.target.upstream as u32,
                route: entry.target.route as u32,
                methods: sets.add(&entry.methods),
                conditions: entry.conditions,
            };
            if place.len() == 1 {
                let route = guarded(place.remove(0));
                return match route.methods == methods::ALL && route.conditions.count == 0 {
                    true => Place::Any(AnyRoute { upstream: route.upstream, route: route.route }),
                    false => Place::Lone(route),
                };
            }
            let first = routes.len() as u32;
            routes.extend(place.into_iter().map(guarded));
            Place::Guarded(first, routes.len() as u32)
        });
        let places = places.collect();
        (places, GuardedRoutes { routes, conditions, methods: sets.finish() })
    }
}
