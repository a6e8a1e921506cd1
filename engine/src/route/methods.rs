//! The routes of one place, distinguished by method.

use std::borrow::Cow;
use std::collections::HashMap;

use super::{Lookup, RouteTarget};
use crate::config::Methods;

/// Which route of a place answers which method.
#[derive(Debug, Clone)]
pub(super) struct MethodMap {
    /// The route for every method that no other one names.
    any: Option<RouteTarget>,
    /// Methods that are named, with their routes. HEAD is among them wherever GET is. Few, so a search in a
    /// row is the fastest.
    named: Box<[(Box<str>, RouteTarget)]>,
    /// The Allow field, if not every method is answered.
    allow: Box<str>,
}

impl MethodMap {
    /// The answer to a method; it is compared with its case (RFC 9110 section 9.1).
    #[inline]
    pub(super) fn lookup(&self, method: &str) -> Lookup<'_> {
        for (name, target) in &self.named {
            if **name == *method {
                return Lookup::Found(*target);
            }
        }
        match self.any {
            Some(target) => Lookup::Found(target),
            None => Lookup::MethodNotAllowed { allow: Cow::Borrowed(&self.allow) },
        }
    }
}

/// A place being filled.
#[derive(Default)]
pub(super) struct Builder {
    any: Option<RouteTarget>,
    named: Vec<(Box<str>, RouteTarget)>,
}

impl Builder {
    /// Adds a route. Of two for the same method the first stays; a checked configuration has no such two.
    pub(super) fn add(&mut self, methods: &Methods, target: RouteTarget) {
        match methods {
            Methods::Any => {
                self.any.get_or_insert(target);
            }
            Methods::Only(methods) => {
                for method in methods {
                    if self.named(method).is_none() {
                        self.named.push((method.as_str().into(), target));
                    }
                }
            }
        }
    }

    fn named(&self, method: &str) -> Option<usize> {
        self.named.iter().position(|(name, _)| **name == *method)
    }

    pub(super) fn finish(mut self) -> MethodMap {
        // Every server must support HEAD wherever it supports GET: RFC 9110 section 9.1.
        if let (Some(get), None) = (self.named("GET"), self.named("HEAD")) {
            let target = self.named[get].1;
            self.named.insert(get + 1, ("HEAD".into(), target));
        }
        let names: Vec<&str> = self.named.iter().map(|(name, _)| &**name).collect();
        let allow = if self.any.is_some() { String::new() } else { names.join(", ") };
        MethodMap { any: self.any, named: self.named.into(), allow: allow.into() }
    }
}

/// How well the methods of a route suit a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// They name its method.
    Named,
    /// It is HEAD, and they name GET.
    Get,
    /// They are all methods.
    Any,
}

/// The number of the set of all methods.
pub(super) const ALL: u32 = 0;

/// Sets of methods, each once; the first is that of all methods.
#[derive(Debug, Clone, Default)]
pub(super) struct MethodSets {
    sets: Vec<Box<[Box<str>]>>,
    /// The Allow field of each by itself.
    allow: Vec<Box<str>>,
}

impl MethodSets {
    /// How well a set suits a method, if it has it.
    #[inline]
    pub(super) fn rank(&self, set: u32, method: &str) -> Option<Rank> {
        if set == ALL {
            return Some(Rank::Any);
        }
        let names = &self.sets[set as usize];
        if names.iter().any(|name| **name == *method) {
            return Some(Rank::Named);
        }
        (method == "HEAD" && names.iter().any(|name| **name == *"GET")).then_some(Rank::Get)
    }

    /// The Allow field for one set.
    pub(super) fn allow_of(&self, set: u32) -> &str {
        &self.allow[set as usize]
    }

    /// The Allow field for these sets together, none of which is that of all methods.
    pub(super) fn allow(&self, sets: &[u32]) -> String {
        let mut names: Vec<&str> = Vec::new();
        for name in sets.iter().flat_map(|&set| &self.sets[set as usize]) {
            let implied = (**name == *"GET").then_some("HEAD");
            for name in [Some(&**name), implied].into_iter().flatten() {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names.join(", ")
    }
}

/// Sets being gathered.
#[derive(Default)]
pub(super) struct SetsBuilder {
    sets: Vec<Box<[Box<str>]>>,
    known: HashMap<Vec<String>, u32>,
}

impl SetsBuilder {
    /// The number of a set.
    pub(super) fn add(&mut self, methods: &Methods) -> u32 {
        let Methods::Only(names) = methods else { return ALL };
        let next = self.sets.len() as u32 + 1;
        *self.known.entry(names.clone()).or_insert_with(|| {
            self.sets.push(names.iter().map(|name| name.as_str().into()).collect());
            next
        })
    }

    pub(super) fn finish(mut self) -> MethodSets {
        self.sets.insert(0, Box::default());
        let mut sets = MethodSets { sets: self.sets, allow: Vec::new() };
        sets.allow = (0..sets.sets.len() as u32).map(|set| sets.allow(&[set]).into()).collect();
        sets
    }
}
