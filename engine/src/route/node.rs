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

    /// What stands for this node in the one above it, if it is nothing but one place: most nodes are, and a walk reads one line less.
    pub(super) fn as_leaf(&self) -> Option<u32> {
        let is_inner = self.has_literals || self.has_regexes || self.param != NONE;
        let (kind, place) = match (self.end, self.rest, self.prefix) {
            (place, NONE, NONE) => (LEAF_END, place),
            (NONE, place, NONE) => (LEAF_REST, place),
            (NONE, NONE, place) => (LEAF_PREFIX, place),
            _ => return None,
        };
        (!is_inner && place < LEAF_END).then_some(kind | place)
    }

    /// The node of such a number.
    fn of_leaf(number: u32) -> Self {
        let place = number & !LEAF_KINDS;
        let if_is = |kind| if number & LEAF_KINDS == kind { place } else { NONE };
        Self { end: if_is(LEAF_END), rest: if_is(LEAF_REST), prefix: if_is(LEAF_PREFIX), ..Self::EMPTY }
    }
}

/// In these bits of a node's number, what kind of leaf it is; the others are the number of its place. All clear: it is in the vector,
/// which has fewer: the routes for so many nodes would be gigabytes of text.
const LEAF_KINDS: u32 = 0b11 << 30;
const LEAF_END: u32 = 0b01 << 30;
const LEAF_REST: u32 = 0b10 << 30;
const LEAF_PREFIX: u32 = 0b11 << 30;

impl RouteTable {
    /// The node of this number.
    pub(super) fn node(&self, number: u32) -> Node {
        match number & LEAF_KINDS {
            0 => self.nodes[number as usize],
            _ => Node::of_leaf(number),
        }
    }

    /// Walks down from a node that is no leaf; `rest` is what follows the slash, none if the path ends here. Calls itself only
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
                    let place = match literal & LEAF_KINDS {
                        0 => self.walk(literal, after),
                        _ => leaf_place(literal, after).unwrap_or(NONE),
                    };
                    if place != NONE {
                        return place;
                    }
                    param
                }
            };
            if number & LEAF_KINDS != 0 {
                return leaf_place(number, after).unwrap_or(wider);
            }
            rest = after;
        }
    }
}

/// The place of a leaf, if it is one for what follows.
#[inline]
fn leaf_place(number: u32, rest: Option<&str>) -> Option<u32> {
    let is_its = match number & LEAF_KINDS {
        LEAF_END => rest.is_none(),
        LEAF_REST => rest.is_some(),
        _ => true,
    };
    is_its.then_some(number & !LEAF_KINDS)
}

/// The first segment and what follows its slash.
pub(super) fn split_segment(text: &str) -> (&str, Option<&str>) {
    match hash::find_byte(text.as_bytes(), b'/') {
        Some(slash) => (&text[..slash], Some(&text[slash + 1..])),
        None => (text, None),
    }
}
