//! The nodes of the path trees, and the walk down to the most specific place of a path.

use super::{NONE, RouteTable, hash};

/// A node of a path tree: what can follow after some segments.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    /// Node behind a `{param}` segment.
    pub(super) param: u32,
    /// Place if the path ends here.
    pub(super) end: u32,
    /// Place if a slash and anything follow.
    pub(super) rest: u32,
    /// Place if the path ends here or a slash and anything follow; weakest of all.
    pub(super) prefix: u32,
    /// Whether any literal segment leads on: spares the hash where none does.
    pub(super) has_literals: bool,
    /// Whether it is the root of a tree with expressions.
    pub(super) has_regexes: bool,
}

impl Node {
    pub(super) const EMPTY: Self =
        Self { param: NONE, end: NONE, rest: NONE, prefix: NONE, has_literals: false, has_regexes: false };
}

impl RouteTable {
    /// Walks down from a node; `rest` is what follows the slash, none if the path ends here. Calls itself only
    /// where a literal and a parameter are both possible, so at most once per level of the pattern tree.
    pub(super) fn walk(&self, mut number: u32, mut rest: Option<&str>) -> u32 {
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
pub(super) fn split_segment(text: &str) -> (&str, Option<&str>) {
    match hash::find_byte(text.as_bytes(), b'/') {
        Some(slash) => (&text[..slash], Some(&text[slash + 1..])),
        None => (text, None),
    }
}
