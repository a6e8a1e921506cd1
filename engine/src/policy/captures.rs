//! The parameters of a route's path (`{id}`, `{*rest}`) as they are in a request's path.
//!
//! Lookups keep none of them. Where a route has a text that names one, its pattern is laid over the path once more, in the normal
//! form that servers get: segments are the same in both forms, so that a parameter is found by counting slashes.

use crate::config::{Expression, Fault, PathPattern, Segment, Tail, closest};

/// The parameters of one pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captures {
    pattern: PathPattern,
}

/// The names of a pattern's parameters, by their numbers: of segments and the rest, or of the groups of an expression.
fn names(pattern: &PathPattern) -> impl Iterator<Item = &str> {
    let params = pattern.segments.iter().filter_map(|segment| match segment {
        Segment::Param(name) => Some(name.as_str()),
        Segment::Literal(_) => None,
    });
    let rest = match &pattern.tail {
        Tail::Rest(name) => Some(name.as_str()),
        Tail::End | Tail::Prefix | Tail::Regex(_) => None,
    };
    let groups = match &pattern.tail {
        Tail::Regex(expression) => Some(expression.names()),
        Tail::End | Tail::Prefix | Tail::Rest(_) => None,
    };
    params.chain(rest).chain(groups.into_iter().flatten())
}

/// The number of the parameter with this name.
///
/// # Errors
/// The path has none, or there is no path.
pub(super) fn number(pattern: Option<&PathPattern>, name: &str) -> Result<u16, Fault> {
    let Some(pattern) = pattern else {
        let fault = Fault::new(format!("`${{path.{name}}}`: only a route has a path with parameters"));
        return Err(fault.hint("write it in the [[route]]"));
    };
    if let Some(number) = names(pattern).position(|known| known == name) {
        return Ok(u16::try_from(number).unwrap_or(u16::MAX));
    }
    let fault = Fault::new(format!("`${{path.{name}}}`: the path of this route has no {{{name}}}"));
    if name.bytes().all(|byte| byte.is_ascii_digit()) && matches!(pattern.tail, Tail::Regex(_)) {
        let all: Vec<_> = names(pattern).map(|name| format!("${{path.{name}}}")).collect();
        let hint = "parameters have names: write (?<id>...) in path_regex, and ${path.id} here";
        return Err(fault.hint(match all.is_empty() {
            true => hint.to_owned(),
            false => format!("{hint}; there is {}", all.join(", ")),
        }));
    }
    let all: Vec<_> = names(pattern).map(|name| format!("${{path.{name}}}")).collect();
    Err(match (closest(name, names(pattern)), all.is_empty()) {
        (Some(near), _) => fault.hint(format!("did you mean ${{path.{near}}}")),
        (None, true) => {
            fault.hint(format!("write path = \"/.../{{{name}}}\", or ${{path}} for the whole path"))
        }
        (None, false) => fault.hint(format!("there is {}", all.join(", "))),
    })
}

impl Captures {
    /// Those of a pattern.
    pub(crate) fn new(pattern: &PathPattern) -> Captures {
        Captures { pattern: pattern.clone() }
    }

    /// The value of a parameter in a path that the pattern matches; empty in any other.
    pub(super) fn find<'p>(&self, path: &'p str, number: u16) -> &'p str {
        if let Tail::Regex(expression) = &self.pattern.tail {
            return find_group(expression, path, number).unwrap_or_default();
        }
        let mut left = number;
        let mut rest = path;
        for segment in &self.pattern.segments {
            let Some(behind) = rest.strip_prefix('/') else { return "" };
            let end = behind.find('/').unwrap_or(behind.len());
            match segment {
                Segment::Param(_) if left == 0 => return &behind[..end],
                Segment::Param(_) => left -= 1,
                Segment::Literal(_) => {}
            }
            rest = &behind[end..];
        }
        rest.strip_prefix('/').unwrap_or(rest)
    }
}

/// What a named group of an expression finds. The search for groups takes memory of its own, unlike that of a lookup.
#[cold]
fn find_group<'p>(expression: &Expression, path: &'p str, number: u16) -> Option<&'p str> {
    let name = expression.names().nth(usize::from(number))?;
    let found = expression.regex().captures(path.as_bytes())?.name(name)?;
    path.get(found.range())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_by_their_places() {
        let pattern = PathPattern::parse("/users/{id}/posts/{post}/{*rest}").unwrap();
        let number = |name: &str| number(Some(&pattern), name);
        let captures = Captures::new(&pattern);
        for (path, id, post, rest) in [
            ("/users/7/posts/a%2Fb/c/d", "7", "a%2Fb", "c/d"),
            ("/users/7/posts/8/", "7", "8", ""),
            ("/users/%40/posts/./x", "%40", ".", "x"),
        ] {
            let found = ["id", "post", "rest"].map(|name| captures.find(path, number(name).unwrap()));
            assert_eq!(found, [id, post, rest], "{path}");
        }
        for path in ["*", "", "/", "/users", "/users/7"] {
            let _ = ["id", "post", "rest"].map(|name| captures.find(path, number(name).unwrap()));
        }
        assert!(number("ids").unwrap_err().hint.unwrap().contains("${path.id}"));
        assert!(
            number("zzz")
                .unwrap_err()
                .hint
                .unwrap()
                .contains("there is ${path.id}, ${path.post}, ${path.rest}")
        );
        assert!(super::number(None, "id").is_err());
        let expression = Expression::parse("^/img/(?<id>[0-9]+)/(?<name>[^/]+)$").unwrap();
        let pattern = PathPattern { segments: Vec::new(), tail: Tail::Regex(expression) };
        let captures = Captures::new(&pattern);
        let found = ["id", "name"]
            .map(|name| captures.find("/img/7/a%2Fb", super::number(Some(&pattern), name).unwrap()));
        assert_eq!(found, ["7", "a%2Fb"]);
        assert_eq!(captures.find("/other", 0), "");
    }
}
