//! Warnings about routes that get no request, or not the requests that they are there for, because other routes take them.
//!
//! What is found for sure and at little cost: a route whose conditions hold only where those of an earlier one at the same place hold;
//! a path below what an expression takes; a route for all paths beside `/{*rest}`; and ordinary requests that a `connect` route keeps
//! from a wider one. `route` has the order of precedence that all of this follows.

use std::collections::HashMap;

use super::conditions::{Condition, Test};
use super::pattern::{HostPattern, PathPattern, Segment, Tail};
use super::problem::{Fault, Origin, Report};
use super::routes::{Methods, Route};

/// Most pairs of routes that are compared, so that a check takes no longer than a moment.
const PAIRS_MAX: usize = 2_000_000;

/// Routes of one host and path, by their numbers.
type Places<'r> = HashMap<(&'r HostPattern, String), Vec<usize>>;

/// Notes what gets no request.
pub(super) fn note_shadows(routes: &[Route], origins: &[Origin], report: &mut Report) {
    let mut places: Places<'_> = HashMap::new();
    for (number, route) in routes.iter().enumerate() {
        let shape = route.path.shape();
        for host in &route.hosts {
            places.entry((host, shape.clone())).or_default().push(number);
        }
    }
    let mut notes = Notes { routes, origins, report, is_noted: vec![false; routes.len()] };
    notes.note_conditions(&places);
    notes.note_expressions();
    notes.note_rests(&places);
    notes.note_connects(&places);
}

struct Notes<'r> {
    routes: &'r [Route],
    origins: &'r [Origin],
    report: &'r mut Report,
    /// One warning for each route is enough.
    is_noted: Vec<bool>,
}

impl Notes<'_> {
    fn note(&mut self, number: usize, fault: Fault) {
        if !std::mem::replace(&mut self.is_noted[number], true) {
            self.report.warn(&self.origins[number], "route", fault);
        }
    }

    /// Routes at one place that hold only where an earlier one does.
    fn note_conditions(&mut self, places: &Places<'_>) {
        let mut pairs = 0;
        let mut places: Vec<_> = places.values().filter(|numbers| numbers.len() > 1).collect();
        places.sort_unstable();
        for numbers in places {
            // One that asks for values alone hides nothing but its like, which is an error.
            let is_wide =
                |condition: &Condition| condition.is_not || !matches!(condition.test, Test::Equals(_));
            let wide: Vec<usize> = numbers
                .iter()
                .copied()
                .filter(|&number| self.routes[number].conditions.iter().any(is_wide))
                .collect();
            pairs += wide.len() * numbers.len();
            if pairs > PAIRS_MAX {
                return;
            }
            for &number in numbers {
                if let Some(first) = self.hiding(number, &wide) {
                    let fault = Fault::new(
                        "no request comes here: the same host, path and methods, and conditions that hold \
                                            wherever these do, are earlier",
                    );
                    let hint = format!("it is at {}; put the narrower route first", self.origins[first]);
                    self.note(number, fault.hint(hint));
                }
            }
        }
    }

    /// The first of those routes that together take every method of this one. Of several for one method, the one with more
    /// conditions comes first, then the earlier one.
    fn hiding(&self, number: usize, others: &[usize]) -> Option<usize> {
        let route = &self.routes[number];
        let hides = |&other: &usize, method: Option<&String>| {
            let first = &self.routes[other];
            let comes_first =
                (first.conditions.len(), number) >= (route.conditions.len(), other) && other != number;
            let has_method = match (&first.methods, method) {
                (Methods::Any, None) => true,
                (Methods::Only(methods), Some(method)) => methods.contains(method),
                _ => false,
            };
            let is_implied =
                |wider: &Condition| route.conditions.iter().any(|condition| condition.implies(wider));
            comes_first && has_method && first.conditions.iter().all(is_implied)
        };
        match &route.methods {
            Methods::Any => others.iter().copied().find(|other| hides(other, None)),
            Methods::Only(methods) => {
                let mut found = methods
                    .iter()
                    .map(|method| others.iter().copied().find(|other| hides(other, Some(method))));
                let first = found.next()??;
                found.all(|other| other.is_some()).then_some(first)
            }
        }
    }

    /// Paths below what an expression takes whole.
    fn note_expressions(&mut self) {
        // What is taken: by host, the beginnings of the paths.
        let mut taken: HashMap<&HostPattern, Vec<(usize, String)>> = HashMap::new();
        for (number, route) in self.routes.iter().enumerate() {
            let Tail::Regex(expression) = &route.path.tail else { continue };
            if let (Some(beginning), []) = (beginning_of(expression.text()), &*route.conditions) {
                for host in &route.hosts {
                    taken.entry(host).or_default().push((number, beginning.clone()));
                }
            }
        }
        let mut pairs = 0;
        for (number, route) in self.routes.iter().enumerate() {
            let Some(own) = every_beginning(&route.path) else { continue };
            let is_regex = matches!(route.path.tail, Tail::Regex(_));
            let mut first = None;
            for host in &route.hosts {
                let taken = taken.get(host).map_or(&[][..], |taken| taken);
                pairs += taken.len();
                if pairs > PAIRS_MAX {
                    return;
                }
                let hides = |(other, beginning): &&(usize, String)| {
                    let comes_first =
                        !is_regex || (*other < number && self.routes[*other].path != route.path);
                    comes_first && own.starts_with(beginning.as_str())
                };
                match taken.iter().find(hides) {
                    None => {
                        first = None;
                        break;
                    }
                    found => first = first.or(found.map(|(other, _)| *other)),
                }
            }
            if let Some(first) = first {
                let fault = Fault::new(format!(
                    "no request comes here: {} takes all of these paths",
                    self.routes[first].path
                ));
                let hint = format!(
                    "it is at {}, and path_regex comes before {{*rest}} and path_prefix",
                    self.origins[first]
                );
                self.note(number, fault.hint(hint));
            }
        }
    }

    /// A route for all paths beside one for `/{*rest}`, which leaves it none.
    fn note_rests(&mut self, places: &Places<'_>) {
        let rest = PathPattern { segments: Vec::new(), tail: Tail::Rest(String::new()) }.shape();
        let any = PathPattern::any();
        for number in 0..self.routes.len() {
            let route = &self.routes[number];
            if route.path != any || !route.tunnels.connect.is_empty() {
                continue;
            }
            let beside = |host| {
                let numbers: &Vec<usize> = places.get(&(host, rest.clone()))?;
                numbers.iter().copied().find(|&other| self.routes[other].conditions.is_empty())
            };
            let beside: Option<Vec<usize>> = route.hosts.iter().map(beside).collect();
            if let Some(first) = beside.and_then(|beside| beside.first().copied()) {
                let fault = Fault::new("only OPTIONS * and CONNECT come here: another route takes all paths");
                let hint = format!("it is at {}; keep one", self.origins[first]);
                self.note(number, fault.hint(hint));
            }
        }
    }

    /// A route with `connect` has no path, so it is the one for all other paths of its hosts too.
    fn note_connects(&mut self, places: &Places<'_>) {
        let any = PathPattern::any().shape();
        // The widest hosts first: few, where there may be many of the others.
        let wide: Vec<usize> = (0..self.routes.len())
            .filter(|&number| {
                let route = &self.routes[number];
                route.tunnels.connect.is_empty()
                    && route.hosts.iter().any(|host| !matches!(host, HostPattern::Exact(_)))
            })
            .take(1_000)
            .collect();
        for number in 0..self.routes.len() {
            let route = &self.routes[number];
            if route.tunnels.connect.is_empty()
                || route.path != PathPattern::any()
                || !route.conditions.is_empty()
            {
                continue;
            }
            let lost = route.hosts.iter().find_map(|host| {
                let has_ordinary = places[&(host, any.clone())].iter().any(|&other| {
                    self.routes[other].tunnels.connect.is_empty() && self.routes[other].conditions.is_empty()
                });
                let is_wider =
                    |&other: &usize| self.routes[other].hosts.iter().any(|wider| covers(wider, host));
                let wider = wide.iter().copied().find(is_wider).filter(|_| !has_ordinary)?;
                Some((host, wider))
            });
            let Some((host, wider)) = lost else { continue };
            let what = match &route.methods {
                Methods::Any => {
                    format!("takes the ordinary requests of {host} too, and sends them on as they are")
                }
                Methods::Only(_) => format!("answers other methods for {host} with 405, whatever their path"),
            };
            let fault = Fault::new(format!("this route with `connect`, which has no path, {what}"));
            let hint = format!(
                "the route at {} gets none of them; give {host} a route without a path for the methods of its own",
                self.origins[wider]
            );
            self.note(number, fault.hint(hint));
        }
    }
}

/// Whether a pattern matches all that the other one does, and more.
fn covers(wider: &HostPattern, host: &HostPattern) -> bool {
    let is_below = |name: &str, suffix: &str| {
        name.strip_suffix(suffix).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
    };
    match (wider, host) {
        (HostPattern::Any, HostPattern::Any) => false,
        (HostPattern::Any, _) => true,
        (HostPattern::Suffix(suffix), HostPattern::Exact(name) | HostPattern::Suffix(name)) => {
            is_below(name, suffix)
        }
        _ => false,
    }
}

/// The beginning of all paths that a pattern matches, for those that come behind expressions.
fn every_beginning(path: &PathPattern) -> Option<String> {
    let before_wildcard = || {
        let mut beginning = String::new();
        for segment in &path.segments {
            beginning.push('/');
            match segment {
                Segment::Literal(text) => beginning.push_str(text),
                Segment::Param(_) => return (beginning, true),
            }
        }
        (beginning, false)
    };
    match &path.tail {
        Tail::End => None,
        Tail::Prefix if path.segments.is_empty() => None,
        Tail::Prefix => Some(before_wildcard().0),
        Tail::Rest(_) => {
            let (beginning, is_cut) = before_wildcard();
            Some(if is_cut { beginning } else { beginning + "/" })
        }
        Tail::Regex(expression) => {
            beginning_of(expression.text()).or_else(|| literal_start(expression.text()))
        }
    }
}

/// The beginning, if an expression matches all paths with it and no other.
fn beginning_of(expression: &str) -> Option<String> {
    let core =
        expression.strip_suffix('$').map_or(Some(expression), |open| open.ends_with(".*").then_some(open))?;
    let core = core.strip_suffix(".*").unwrap_or(core);
    match core.strip_prefix('^') {
        Some(literal) => is_literal(literal).then(|| literal.to_owned()),
        // Every path has a slash.
        None => matches!(core, "" | "/").then(String::new),
    }
}

/// The literal that all matches of an expression begin with.
fn literal_start(expression: &str) -> Option<String> {
    let rest = expression.strip_prefix('^')?;
    // What is chosen from may begin differently.
    if rest.contains('|') {
        return None;
    }
    let end = rest.find(|c: char| !is_literal_char(c)).unwrap_or(rest.len());
    // What is repeated may be missing.
    let is_repeated = rest[end..].starts_with(['*', '?', '{']);
    let end = if is_repeated { end.saturating_sub(1) } else { end };
    Some(rest[..end].to_owned())
}

fn is_literal(text: &str) -> bool {
    text.chars().all(is_literal_char)
}

fn is_literal_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "/-_~%@,;=&!".contains(c)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Config, Raw};

    /// The warnings about these routes: the line of the route, and what is said; lines count from 1 for the first route.
    fn warnings(routes: &str) -> Vec<String> {
        let head =
            "listen = [\"127.0.0.1:0\"]\n[[upstream]]\nname = \"u\"\nservers = [\"http://127.0.0.1:1\"]\n";
        let tables = routes
            .split(" | ")
            .map(|keys| format!("[[route]]\nupstream = \"u\"\n{}\n", keys.replace("; ", "\n")));
        let raw = Raw::parse(Path::new("f"), head.to_owned() + &tables.collect::<String>()).unwrap();
        let config = Config::check(&raw).unwrap_or_else(|errors| panic!("{errors}"));
        config.warnings.iter().map(ToString::to_string).collect()
    }

    fn assert_one(routes: &str, at: &str, words: &[&str]) {
        let warnings = warnings(routes);
        assert_eq!(warnings.len(), 1, "{routes}: {warnings:?}");
        assert!(warnings[0].starts_with(at), "{routes}: {warnings:?}");
        words.iter().for_each(|words| assert!(warnings[0].contains(words), "{words}: {warnings:?}"));
    }

    #[test]
    fn narrower_conditions_behind_wider_ones() {
        let no_request = "no request comes here";
        assert_one(
            "when = ['header v'] | when = ['header v = 1']",
            "f:8:1: route:",
            &[no_request, "it is at f:5:1"],
        );
        assert_one(
            "when = ['client 10.0.0.0/8'] | when = ['client 10.1.0.0/16']",
            "f:8:1",
            &[no_request, "f:5:1"],
        );
        assert_one(
            "methods = ['GET']; when = ['header v'] | methods = ['PUT']; when = ['header v'] | \
             methods = ['PUT', 'GET']; when = ['header v = 1']",
            "f:13:1",
            &[no_request, "it is at f:9:1"],
        );
        for none in [
            // More conditions come first.
            "when = ['header v'] | when = ['header v = 1', 'header w']",
            "when = ['header v = 1'] | when = ['header v']",
            "when = ['header v'] | when = ['cookie v = 1']",
            "methods = ['GET']; when = ['header v'] | methods = ['GET', 'PUT']; when = ['header v = 1']",
            "methods = ['GET']; when = ['header v'] | when = ['header v = 1']",
            "when = ['header v'] | methods = ['GET']; when = ['header v = 1']",
            "path = '/a'; when = ['header v'] | path = '/b'; when = ['header v = 1']",
            "host = 'a'; when = ['header v'] | host = 'b'; when = ['header v = 1']",
        ] {
            assert_eq!(warnings(none), [""; 0], "{none}");
        }
    }

    #[test]
    fn paths_below_what_an_expression_takes() {
        let taken = |words| vec!["takes all of these paths", words];
        assert_one("path_prefix = '/api/v1' | path_regex = '^/api/'", "f:5:1", &taken("it is at f:8:1"));
        assert_one("path = '/api/{x}/{*rest}' | path_regex = '^/api'", "f:5:1", &taken("f:8:1"));
        assert_one("path_regex = '^/a.*$' | path_regex = '^/ab+$'", "f:8:1", &taken("f:5:1"));
        assert_one("path_regex = '^/a' | path_regex = '^/ab'", "f:8:1", &taken("f:5:1"));
        for none in [
            "path = '/api/v1' | path_regex = '^/api/'",
            "path_prefix = '/api' | path_regex = '^/api/'",
            "path_prefix = '/api' | path_regex = '^/api$'",
            "path_prefix = '/api' | path_regex = '/api/'",
            "path_prefix = '/api' | path_regex = '^/ap.'",
            "path_prefix = '/api' | path_regex = '^/api'; when = ['header v']",
            "path_regex = '^/ab' | path_regex = '^/a'",
            "path_regex = '^/ab' | path_regex = '^/ab?$'",
            "path_regex = '^/a' | path_regex = '^/ab|^/c'",
            "host = 'a'; path_prefix = '/api' | host = 'b'; path_regex = '^/api'",
            "hosts = ['a', 'b']; path_prefix = '/api' | host = 'b'; path_regex = '^/api'",
        ] {
            let found = warnings(none);
            assert_eq!(found, [""; 0], "{none}");
        }
    }

    #[test]
    fn routes_for_all_paths() {
        assert_one(
            "host = 'a' | host = 'a'; path = '/{*all}'",
            "f:5:1",
            &["only OPTIONS * and CONNECT", "f:8:1"],
        );
        assert_eq!(warnings("host = 'a' | path = '/{*all}'"), [""; 0]);
        assert_eq!(
            warnings("host = 'a'; connect = [443]; methods = ['CONNECT'] | host = 'a'; path = '/{*all}'"),
            [""; 0]
        );
    }

    #[test]
    fn connect_routes_stand_for_every_path_of_their_hosts() {
        let wider = "the route at f:9:1 gets none of them";
        assert_one(
            "host = 'a'; connect = [443] | path = '/x'",
            "f:5:1",
            &["takes the ordinary requests of a too", wider],
        );
        assert_one(
            "host = '*.b.a'; connect = [443]; methods = ['CONNECT'] | host = '*.a'",
            "f:5:1",
            &["answers other methods for *.b.a with 405", "the route at f:10:1"],
        );
        for none in [
            "connect = [443] | host = 'a'",
            "connect = [443]",
            "host = 'a'; connect = [443] | host = 'b'",
            "host = 'a'; connect = [443] | host = '*.a'",
            "host = 'a'; connect = [443]; methods = ['CONNECT'] | host = 'a' | path = '/x'",
        ] {
            assert_eq!(warnings(none), [""; 0], "{none}");
        }
    }
}
