//! All places that match a request, in the order of precedence, where the first one is not the whole answer: there are expressions, or
//! the conditions of its routes do not hold, or the order is to be explained.

#[cfg(feature = "cli")]
use super::conditions::Asked;
use super::conditions::Matchers;
use super::node::split_segment;
use super::{NONE, RouteTable};

/// What is done with a place; an answer ends the walk.
type Ask<'a, R> = &'a mut dyn FnMut(u32) -> Option<R>;

impl RouteTable {
    /// Asks the places of all hosts that match.
    #[cfg(feature = "cli")]
    pub(super) fn each_place<R>(&self, asked: &Asked<'_>, matchers: &Matchers, ask: Ask<'_, R>) -> Option<R> {
        let by_host = self.hosts.find(asked.host, |root| self.each_below(root, asked.path, matchers, ask));
        by_host.or_else(|| match self.any_host {
            NONE => None,
            root => self.each_below(root, asked.path, matchers, ask),
        })
    }

    /// The same for the tree of one host: expressions come behind paths that end, and before all others.
    #[cold]
    pub(super) fn each_below<R>(
        &self,
        root: u32,
        path: &str,
        matchers: &Matchers,
        ask: Ask<'_, R>,
    ) -> Option<R> {
        let Some(after_slash) = path.strip_prefix('/') else {
            // `OPTIONS *`, or no path at all.
            return some(self.nodes[root as usize].prefix).and_then(ask);
        };
        let of_root = self.regex_places.binary_search_by_key(&root, |(root, _)| *root);
        let regexes = of_root.map_or(&[][..], |at| &self.regex_places[at].1);
        let mut walk = Walk { table: self, regexes, path, matchers, ask };
        walk.below(root, Some(after_slash)).or_else(|| walk.regexes())
    }
}

struct Walk<'a, 'q, R> {
    table: &'a RouteTable,
    /// Expressions that are still to be tried, with their places.
    regexes: &'a [(u32, u32)],
    path: &'q str,
    matchers: &'a Matchers,
    ask: Ask<'a, R>,
}

impl<R> Walk<'_, '_, R> {
    /// `rest` is what follows the slash, none if the path ends here. No deeper than the patterns.
    fn below(&mut self, number: u32, rest: Option<&str>) -> Option<R> {
        let node = self.table.node(number);
        let Some(after_slash) = rest else {
            return self.end(node.end).or_else(|| self.wide(node.prefix));
        };
        let (segment, after) = split_segment(after_slash);
        if node.has_literals {
            let literal = self.table.segments.find(number, segment);
            if literal != NONE
                && let Some(found) = self.below(literal, after)
            {
                return Some(found);
            }
        }
        if node.param != NONE
            && !segment.is_empty()
            && let Some(found) = self.below(node.param, after)
        {
            return Some(found);
        }
        self.wide(node.rest).or_else(|| self.wide(node.prefix))
    }

    fn end(&mut self, place: u32) -> Option<R> {
        some(place).and_then(&mut *self.ask)
    }

    /// A place that takes all paths below it.
    fn wide(&mut self, place: u32) -> Option<R> {
        let place = some(place)?;
        self.regexes().or_else(|| (self.ask)(place))
    }

    /// The places of expressions, once.
    fn regexes(&mut self) -> Option<R> {
        let regexes = std::mem::take(&mut self.regexes);
        let matching =
            regexes.iter().filter(|(regex, _)| self.matchers.is_match(*regex, self.path.as_bytes()));
        matching.map(|(_, place)| *place).find_map(&mut *self.ask)
    }
}

fn some(place: u32) -> Option<u32> {
    (place != NONE).then_some(place)
}
