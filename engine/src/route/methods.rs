//! The routes of one place, distinguished by method.

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
            None => Lookup::MethodNotAllowed { allow: &self.allow },
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
