//! The patterns of a route: hosts and paths, parsed and refused if they could never match.
//!
//! Host: `example.com`, `*.example.com` (any name below it, however deep), or none for any host.
//! Path: `/a/b` (exactly that), `/users/{id}/posts` (`{id}` is one segment, not empty), `/static/{*rest}`
//! (everything below `/static/`, and `/static/` itself), or the prefix `/api` (`/api` itself and everything
//! below `/api/`), or a regular expression (`path_regex`), in which something in the path must be found.
//!
//! Literal segments are kept in the form in which paths are compared (`sluice_proto::path`), so that `/%61` in a file is the
//! path `/a`.

use std::fmt;

use sluice_proto::Fault as PathFault;
use sluice_proto::path::{
    DotSegments, EncodedControls, Parameters, PathRules, PathStore, RepeatedSlashes, SlashLike, normalize,
};

use super::expressions::Expression;
use super::problem::Fault;
use super::punycode;

/// Longest host name, in bytes: RFC 1035's 255 octets on the wire are 253 characters.
pub const HOST_BYTES_MAX: usize = 253;
/// Most segments in a path pattern; bounds how deep a lookup goes.
const SEGMENTS_MAX: usize = 64;
/// Longest path pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 4096;

/// Under these a segment of a pattern can have any byte; whether a request can have it is [`PathPattern::check_reachable`]'s
/// question.
const LENIENT: PathRules = PathRules {
    dot_segments: DotSegments::Refuse,
    repeated_slashes: RepeatedSlashes::Keep,
    encoded_slash: SlashLike::Keep,
    backslash: SlashLike::Keep,
    encoded_controls: EncodedControls::Keep,
    parameters: Parameters::Keep,
};

/// Which hosts a route answers to. Names are in lower case, without port and without trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// This name (or address literal) only.
    Exact(String),
    /// Every name that ends in `.` and this: `*.example.com` is `Suffix("example.com")`.
    Suffix(String),
    /// Every host, and requests that name none.
    Any,
}

impl HostPattern {
    /// Reads a pattern as written in a file.
    ///
    /// # Errors
    /// Something that no Host field could match.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        // nginx and others write every host as `_` or `default`.
        if matches!(text, "*" | "_" | "default") {
            return Err(
                Fault::new(format!("`{text}` is not a host")).hint("leave `host` out to match every host")
            );
        }
        if text.starts_with(['~', '^']) || text.contains(['\\', '(', '$']) {
            let fault = Fault::new(format!("`{text}`: a host is no regular expression"));
            return Err(fault.hint("write a name, or *.example.com for every name below example.com"));
        }
        if text.contains("://") {
            return Err(Fault::new(format!("`{text}` is a URL")).hint("write the name alone"));
        }
        let (name, suffix) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if let Some(parent) = name.strip_prefix('.').filter(|parent| !suffix && check_name(parent).is_ok()) {
            let fault = Fault::new(format!("`{text}` is not a host name: it starts with a dot"));
            let hint =
                format!("*.{parent} is every name below {parent}; {parent} itself needs a route of its own");
            return Err(fault.hint(hint));
        }
        if name.contains('*') {
            let fault = Fault::new(format!("`{text}`: a `*` can only stand first"));
            return Err(fault.hint("write *.example.com for every name below example.com"));
        }
        if !suffix && name.starts_with('[') {
            return match parse_ipv6_literal(&name) {
                Some(literal) => Ok(Self::Exact(literal)),
                None => Err(Fault::new(format!("`{text}` is not an IPv6 address in brackets"))),
            };
        }
        if let Some((host, _)) = name.split_once(':') {
            let fault = Fault::new(format!("`{text}`: a host pattern has no port"));
            return Err(fault.hint(format!("every port matches: write {host}")));
        }
        check_name(&name).map_err(|why| {
            let fault = Fault::new(format!("`{text}` is not a host name: {why}"));
            match punycode::ascii_name(&name) {
                Some(ascii) if suffix => {
                    fault.hint(format!("clients send it in ASCII: did you mean *.{ascii}"))
                }
                Some(ascii) => fault.hint(format!("clients send it in ASCII: did you mean {ascii}")),
                None if !name.is_ascii() => {
                    fault.hint("write what clients send: its form in ASCII, with xn--")
                }
                None if name.contains([' ', ',']) => fault.hint("write one name"),
                None => fault,
            }
        })?;
        Ok(if suffix { Self::Suffix(name) } else { Self::Exact(name) })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(name) => write!(f, "*.{name}"),
            Self::Any => f.write_str("any host"),
        }
    }
}

/// The address in the form in which clients write it, with brackets.
fn parse_ipv6_literal(text: &str) -> Option<String> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    inner.parse::<std::net::Ipv6Addr>().ok().map(|address| format!("[{address}]"))
}

/// Letters, digits, `-` and `_` in labels of 1 to 63 bytes. Underscores are no host names by RFC 952, and in
/// use all the same.
pub(crate) fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.len() > HOST_BYTES_MAX {
        return Err("it is longer than 253 bytes");
    }
    for label in name.split('.') {
        match label.len() {
            0 => return Err("there is an empty part between dots"),
            1..=63 => {}
            _ => return Err("a part between dots is longer than 63 bytes"),
        }
        if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err("only letters, digits, `-`, `_` and dots are possible");
        }
    }
    Ok(())
}

/// One segment of a path pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Segment {
    /// This text; empty only as the last segment, for a trailing slash.
    Literal(String),
    /// `{name}`: any one segment that is not empty.
    Param(String),
}

/// How a path pattern ends.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Tail {
    /// The path ends where the segments end.
    End,
    /// `{*name}`: a slash and anything, or nothing, after it.
    Rest(String),
    /// The path ends here, or goes on with a slash.
    Prefix,
    /// There are no segments: the expression finds something in the path as a whole.
    Regex(Expression),
}

/// Which paths a route answers to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathPattern {
    /// What stands between the slashes.
    pub segments: Vec<Segment>,
    /// How the pattern ends.
    pub tail: Tail,
}

impl PathPattern {
    /// Every path, and `OPTIONS *`.
    pub fn any() -> Self {
        Self { segments: Vec::new(), tail: Tail::Prefix }
    }

    /// Reads the value of `path`.
    ///
    /// # Errors
    /// Something that no request path could match, or a wildcard that stands in the wrong place.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let after_slash = check_path(text)?;
        let mut pattern = Self { segments: Vec::new(), tail: Tail::End };
        let mut parts = after_slash.split('/').peekable();
        while let Some(part) = parts.next() {
            let last = parts.peek().is_none();
            if let Some(inner) = part.strip_prefix("{*").and_then(|part| part.strip_suffix('}')) {
                check_param(text, part, inner)?;
                if !last {
                    return Err(Fault::new(format!("`{text}`: {part} can only stand last")));
                }
                pattern.tail = Tail::Rest(inner.to_owned());
            } else if part.contains(['{', '}', '*']) {
                pattern.segments.push(Segment::Param(parse_param(text, part)?));
            } else if part.is_empty() && !last {
                return Err(Fault::new(format!("`{text}` has an empty segment (`//`)")));
            } else {
                pattern.segments.push(parse_literal(text, part)?);
            }
        }
        pattern.check_sizes(text)?;
        pattern.check_names(text)?;
        Ok(pattern)
    }

    /// Reads the value of `path_prefix`.
    ///
    /// # Errors
    /// Like [`PathPattern::parse`]; wildcards have no place in a prefix.
    pub fn parse_prefix(text: &str) -> Result<Self, Fault> {
        let after_slash = check_path(text)?;
        if after_slash.contains(['{', '}', '*']) {
            let fault = Fault::new(format!("`{text}`: a prefix has no wildcards"));
            let before = text.trim_end_matches('*');
            return Err(if before != text && !before.contains(['{', '}', '*']) {
                fault.hint(format!("everything below is meant in any case: write {before}"))
            } else {
                fault.hint("use `path` with {param} and a trailing {*rest}")
            });
        }
        // `/api/` means what `/api` means: a prefix that ends at a border between segments.
        let trimmed = after_slash.strip_suffix('/').unwrap_or(after_slash);
        let mut segments = Vec::new();
        if !trimmed.is_empty() {
            for part in trimmed.split('/') {
                if part.is_empty() {
                    return Err(Fault::new(format!("`{text}` has an empty segment (`//`)")));
                }
                segments.push(parse_literal(text, part)?);
            }
        } else if !after_slash.is_empty() {
            return Err(Fault::new(format!("`{text}` has an empty segment (`//`)")));
        }
        let pattern = Self { segments, tail: Tail::Prefix };
        pattern.check_sizes(text)?;
        Ok(pattern)
    }

    /// Reads the value of `path_regex`.
    ///
    /// # Errors
    /// No expression, or one whose names cannot be variables.
    pub fn parse_regex(text: &str) -> Result<Self, Fault> {
        if let Some(expression) = text.strip_prefix('~') {
            let expression = expression.trim_start_matches('*').trim();
            let fault = Fault::new(format!("`{text}` begins with the operator of another proxy"));
            let ignored = if text.starts_with("~*") { "(?i)" } else { "" };
            return Err(fault.hint(format!("write path_regex = '{ignored}{expression}'")));
        }
        if text.is_empty() {
            return Err(Fault::new("the expression is empty").hint("leave it out to match every path"));
        }
        Ok(Self { segments: Vec::new(), tail: Tail::Regex(Expression::parse(text)?) })
    }

    /// The names of what it finds in a path: of parameters, of the rest, of groups of an expression.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let params = self.segments.iter().filter_map(|segment| match segment {
            Segment::Param(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        });
        let (rest, groups) = match &self.tail {
            Tail::Rest(name) => (Some(name.as_str()), None),
            Tail::Regex(expression) => (None, Some(expression.names())),
            Tail::End | Tail::Prefix => (None, None),
        };
        params.chain(rest).chain(groups.into_iter().flatten())
    }

    /// Checks that there are requests for this pattern under `rules`; `text` is how it was written.
    ///
    /// # Errors
    /// A segment that no request has when its route is looked for.
    pub(crate) fn check_reachable(&self, text: &str, rules: &PathRules) -> Result<(), Fault> {
        let mut store = PathStore::default();
        for segment in &self.segments {
            let Segment::Literal(literal) = segment else { continue };
            let path = format!("/{literal}");
            match normalize(&path, &path, rules, &mut store) {
                Ok(forms) if forms.matching == path => {}
                Ok(forms) => {
                    let fault =
                        Fault::new(format!("`{text}`: no request gets here with `{path}` in its path"));
                    return Err(fault.hint(format!("[paths] makes it `{}`", forms.matching)));
                }
                Err(fault) => {
                    let told = Fault::new(format!("`{text}`: no request gets here: {fault} is refused"));
                    return Err(match key_that_keeps(fault) {
                        Some(key) => told.hint(format!("add {key} = \"keep\"")),
                        None => told,
                    });
                }
            }
        }
        Ok(())
    }

    /// Whether both match the same paths: parameter names make no difference.
    pub fn same_shape(&self, other: &Self) -> bool {
        self.shape() == other.shape()
    }

    /// The pattern without the names of its parameters, for comparing.
    pub(crate) fn shape(&self) -> String {
        let mut shape = String::new();
        for segment in &self.segments {
            shape.push('/');
            shape.push_str(match segment {
                Segment::Literal(text) => text,
                // Braces cannot stand in a literal, so neither form can be mistaken for one.
                Segment::Param(_) => "{}",
            });
        }
        shape.push_str(match &self.tail {
            Tail::End => "",
            Tail::Rest(_) => "/{*}",
            Tail::Prefix => "{**}",
            // No path begins with a tilde.
            Tail::Regex(_) => "~",
        });
        if let Tail::Regex(expression) = &self.tail {
            shape.push_str(expression.text());
        }
        shape
    }

    fn check_sizes(&self, text: &str) -> Result<(), Fault> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(Fault::new(format!("the pattern is longer than {PATTERN_BYTES_MAX} bytes")));
        }
        if self.segments.len() > SEGMENTS_MAX {
            return Err(Fault::new(format!("the pattern has more than {SEGMENTS_MAX} segments")));
        }
        Ok(())
    }

    fn check_names(&self, text: &str) -> Result<(), Fault> {
        let mut seen: Vec<&str> = Vec::new();
        for name in self.names() {
            if seen.contains(&name) {
                return Err(Fault::new(format!("`{text}`: the name `{name}` is there twice")));
            }
            seen.push(name);
        }
        Ok(())
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => write!(f, "/{text}")?,
                Segment::Param(name) => write!(f, "/{{{name}}}")?,
            }
        }
        match &self.tail {
            Tail::End => Ok(()),
            Tail::Rest(name) => write!(f, "/{{*{name}}}"),
            Tail::Prefix if self.segments.is_empty() => f.write_str("any path"),
            Tail::Prefix => f.write_str(" and below"),
            Tail::Regex(expression) => write!(f, "~ {}", expression.text()),
        }
    }
}

/// Checks what all path patterns share; gives what follows the first slash.
fn check_path(text: &str) -> Result<&str, Fault> {
    if let Some(fault) = other_syntax(text) {
        return Err(fault);
    }
    let Some(after_slash) = text.strip_prefix('/') else {
        let fault = Fault::new(format!("`{text}` does not start with a slash"));
        return Err(if text.contains("://") {
            fault.hint("write the path alone; the host goes into `host`")
        } else {
            fault.hint(format!("did you mean /{text}"))
        });
    };
    if text.contains(['?', '#']) {
        let fault = Fault::new(format!("`{text}`: a route has no query and no fragment"));
        return Err(fault.hint("requests match whatever their query is"));
    }
    check_bytes(text)?;
    if after_slash.split('/').any(|part| part == "." || part == "..") {
        return Err(Fault::new(format!("`{text}` has a `.` or `..` segment")));
    }
    Ok(after_slash)
}

/// Checks that a request's path can have these bytes.
fn check_bytes(text: &str) -> Result<(), Fault> {
    // pchar of RFC 3986 section 3.3, and what wildcards are written with.
    let is_possible = |c: char| c.is_ascii_alphanumeric() || "%/-._~!$&'()*+,;=:@{}".contains(c);
    if let Some(char) = text.chars().find(|&c| !is_possible(c)) {
        let fault = Fault::new(format!("`{text}`: {char:?} cannot stand in a path"));
        let mut encoded = String::new();
        for c in text.chars() {
            if is_possible(c) {
                encoded.push(c);
            } else {
                let mut bytes = [0; 4];
                c.encode_utf8(&mut bytes).bytes().for_each(|byte| encoded.push_str(&format!("%{byte:02X}")));
            }
        }
        return Err(fault.hint(format!("percent-encoded, as clients send it: {encoded}")));
    }
    for (i, _) in text.match_indices('%') {
        let digits = text.as_bytes().get(i + 1..i + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            let shown: String = text[i..].chars().take(3).collect();
            let fault = Fault::new(format!("`{text}`: `{shown}` is not a percent-encoded byte"));
            return Err(
                fault.hint("two hexadecimal digits follow a %, as in %20; a percent sign itself is %25")
            );
        }
    }
    Ok(())
}

/// What to write in place of a pattern in the language of another proxy or of a framework.
fn other_syntax(text: &str) -> Option<Fault> {
    let fault = |what: &str| Fault::new(format!("`{text}`: {what}"));
    if matches!(text, "*" | "**") {
        return Some(fault("this is not a path").hint("leave `path` out to match every path"));
    }
    // nginx: `= /exact`, `^~ /prefix`, `~ regex`, `~* regex`.
    if let Some(path) = text.strip_prefix('=').map(str::trim).filter(|path| path.starts_with('/')) {
        return Some(fault("`path` is exact by itself").hint(format!("write path = \"{path}\"")));
    }
    if let Some(path) = text.strip_prefix("^~").map(str::trim).filter(|path| path.starts_with('/')) {
        return Some(fault("a prefix has a key of its own").hint(format!("write path_prefix = \"{path}\"")));
    }
    let is_expression = text.starts_with(['~', '^'])
        || text.contains(".*")
        || text.contains(".+")
        || text.contains(['\\', '[', '|']) && !text.contains("://");
    if is_expression {
        let expression = text.trim_start_matches(['~', '*', ' ', '^']);
        let is_literal = |c: char| c.is_ascii_alphanumeric() || "/-_".contains(c);
        let end = expression.find(|c| !is_literal(c)).unwrap_or(expression.len());
        // Up to the last whole segment: `^/v[0-9]+` is not about /v.
        let is_whole = matches!(expression[end..].chars().next(), None | Some('$' | '('))
            || expression[..end].ends_with('/');
        let whole = if is_whole { end } else { expression[..end].rfind('/').unwrap_or(0) };
        let prefix = match expression[..whole].trim_end_matches('/') {
            prefix if prefix.starts_with('/') => prefix,
            _ => "/api",
        };
        let hint = format!(
            "path_prefix = \"{prefix}\" is {prefix} and everything below; in `path`, {{name}} is one segment and \
             {{*rest}} all that follow; path_regex takes an expression"
        );
        return Some(fault("a path is no regular expression").hint(hint));
    }
    text.split('/').find_map(|part| {
        let name = framework_parameter(part)?;
        let meant = text.replace(part, &name);
        let literal = if part.starts_with(':') { "; a colon as such is %3A" } else { "" };
        Some(fault(&format!("`{part}` is not a wildcard")).hint(format!("did you mean {meant}{literal}")))
    })
}

/// Our form of `:id`, `<id>`, `<int:id>`, `*rest`, `{id:int}`, `{**rest}`.
fn framework_parameter(part: &str) -> Option<String> {
    let is_name = |name: &&str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let one = |name: &str| format!("{{{name}}}");
    if let Some(name) = part.strip_prefix(':').filter(is_name) {
        return Some(one(name));
    }
    if let Some(rest) = part.strip_prefix('*').filter(is_name) {
        return Some(format!("{{*{rest}}}"));
    }
    if let Some(inner) = part.strip_prefix('<').and_then(|part| part.strip_suffix('>')) {
        let name = inner.rsplit(':').next().filter(is_name)?;
        return Some(if inner.starts_with("path:") { format!("{{*{name}}}") } else { one(name) });
    }
    let inner = part.strip_prefix('{')?.strip_suffix('}')?;
    if let Some(rest) = inner.strip_prefix("**").filter(is_name) {
        return Some(format!("{{*{rest}}}"));
    }
    inner.split_once(':').map(|(name, _)| name).filter(is_name).map(one)
}

/// A segment without wildcards.
fn parse_literal(text: &str, part: &str) -> Result<Segment, Fault> {
    let path = format!("/{part}");
    let mut store = PathStore::default();
    match normalize(&path, &path, &LENIENT, &mut store) {
        Ok(forms) => Ok(Segment::Literal(forms.matching[1..].to_owned())),
        Err(fault) => Err(Fault::new(format!("`{text}`: {fault}"))),
    }
}

/// The key that lets such paths pass, with its place.
fn key_that_keeps(fault: PathFault) -> Option<&'static str> {
    match fault {
        PathFault::EncodedSlash => Some("paths.encoded_slash"),
        PathFault::Backslash => Some("paths.backslash"),
        PathFault::EncodedControl => Some("paths.encoded_controls"),
        PathFault::PathParameter => Some("paths.parameters"),
        _ => None,
    }
}

/// The name in `{name}`, or what was probably meant by something like it.
fn parse_param<'p>(text: &str, part: &'p str) -> Result<String, Fault> {
    let fault = Fault::new(format!("`{text}`: `{part}` is not a wildcard"));
    if part == "*" || part == "**" {
        return Err(fault.hint("write {name} for one segment, {*rest} for all that follow"));
    }
    let inner = part.strip_prefix('{').and_then(|part| part.strip_suffix('}'));
    let Some(inner) = inner.filter(|inner| !inner.contains(['{', '}'])) else {
        return Err(fault.hint("a wildcard is a whole segment: {name}, or {*rest} as the last one"));
    };
    let name: &'p str = inner;
    if let Some(name) = name.strip_suffix("...").or_else(|| name.strip_suffix('*')) {
        return Err(fault.hint(format!("did you mean {{*{name}}}")));
    }
    check_param(text, part, name)?;
    Ok(name.to_owned())
}

fn check_param(text: &str, part: &str, name: &str) -> Result<(), Fault> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if name.is_empty() || !name.bytes().all(fits) {
        let fault = Fault::new(format!("`{text}`: `{part}` needs a name"));
        return Err(fault.hint("of letters, digits, `_` and `-`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        use HostPattern::{Exact, Suffix};
        for (text, want) in [
            ("Example.COM", Exact("example.com".into())),
            ("example.com.", Exact("example.com".into())),
            ("*.example.com", Suffix("example.com".into())),
            ("127.0.0.1", Exact("127.0.0.1".into())),
            ("[0:0::1]", Exact("[::1]".into())),
            ("my_host", Exact("my_host".into())),
        ] {
            assert_eq!(HostPattern::parse(text), Ok(want), "{text}");
        }
        for (text, words) in [
            ("*", "leave `host` out"),
            ("_", "leave `host` out"),
            (".example.com", "*.example.com is every name below example.com"),
            ("~^www\\d+\\.example\\.com$", "no regular expression"),
            ("a.example b.example", "write one name"),
            ("*.Bücher.example", "did you mean *.xn--bcher-kva.example"),
            ("bu\u{308}cher.example", "with xn--"),
            ("http://a", "URL"),
            ("a:80", "write a"),
            ("a.*.b", "can only stand first"),
            ("*a", "can only stand first"),
            ("", "it is empty"),
            ("a..b", "empty part"),
            ("a b", "only letters"),
            ("[::g]", "IPv6"),
            ("bücher.example", "clients send it in ASCII: did you mean xn--bcher-kva.example"),
        ] {
            let fault = HostPattern::parse(text).unwrap_err().to_string();
            assert!(fault.contains(words), "{text}: {fault}");
        }
        assert!(HostPattern::parse(&"a".repeat(64)).is_err());
        assert!(HostPattern::parse(&"a.".repeat(200)).is_err());
    }

    #[test]
    fn paths() {
        let literal = |text: &str| Segment::Literal(text.into());
        let param = |text: &str| Segment::Param(text.into());
        for (text, segments, tail) in [
            ("/", vec![literal("")], Tail::End),
            ("/a/b", vec![literal("a"), literal("b")], Tail::End),
            ("/a/", vec![literal("a"), literal("")], Tail::End),
            ("/users/{id}/posts", vec![literal("users"), param("id"), literal("posts")], Tail::End),
            ("/static/{*rest}", vec![literal("static")], Tail::Rest("rest".into())),
            ("/{*all}", vec![], Tail::Rest("all".into())),
            ("/a%20b", vec![literal("a%20b")], Tail::End),
            ("/a;x/@b/%2F%5C%C3%A9", vec![literal("a;x"), literal("@b"), literal("%2F%5C%C3%A9")], Tail::End),
        ] {
            let pattern = PathPattern::parse(text).unwrap();
            assert_eq!(pattern, PathPattern { segments, tail }, "{text}");
            assert_eq!(pattern.to_string(), text);
        }
        // Patterns are spelled like paths, and come down to the same form.
        for (text, same) in [
            ("/%61%2d%7E", "/a-~"),
            ("/%40me/{x}", "/@me/{x}"),
            ("/a%3bb", "/a;b"),
            ("/%3Ax", "/%3ax"),
            ("/%c3%a9", "/%C3%A9"),
        ] {
            assert_eq!(PathPattern::parse(text), PathPattern::parse(same), "{text}");
        }
        for (text, words) in [
            ("a/b", "did you mean /a/b"),
            ("http://a/b", "path alone"),
            ("/a?x=1", "query"),
            ("/a b", "percent-encoded, as clients send it: /a%20b"),
            ("/ä", "'ä' cannot stand in a path (hint: percent-encoded, as clients send it: /%C3%A4)"),
            ("/a%2", "`%2` is not a percent-encoded byte"),
            ("/%zz", "two hexadecimal digits follow a %"),
            ("/%é", "'é'"),
            ("*", "leave `path` out"),
            ("= /a", "write path = \"/a\""),
            ("^~ /a", "write path_prefix = \"/a\""),
            ("~ ^/api", "no regular expression (hint: path_prefix = \"/api\" is /api and everything below"),
            ("~* \\.(png|jpg)$", "in `path`, {name} is one segment"),
            ("^/v[0-9]+/", "path_prefix = \"/api\""),
            ("^/a/v[0-9]+/", "path_prefix = \"/a\""),
            ("/u/.*", "path_prefix = \"/u\""),
            ("/u/:id", "did you mean /u/{id}; a colon as such is %3A"),
            ("/u/<int:id>/x", "did you mean /u/{id}/x"),
            ("/u/<path:rest>", "did you mean /u/{*rest}"),
            ("/u/*rest", "did you mean /u/{*rest}"),
            ("/u/{**rest}", "did you mean /u/{*rest}"),
            ("/u/{id:int}", "did you mean /u/{id}"),
            ("/a//b", "empty segment"),
            ("/a/../b", ".."),
            ("/a/%2e%2E/b", "dot segment"),
            ("/a/..;/b", "dot segment"),
            ("/a/%2e%2e%2fb", "dot segment"),
            ("/a%00", "control"),
            ("/a%c0%af", "overlong"),
            ("/a/*", "{*rest}"),
            ("/a/{rest...}", "{*rest}"),
            ("/a/{x}y", "whole segment"),
            ("/a/{}", "needs a name"),
            ("/a/{*}", "needs a name"),
            ("/a/{x y}", "percent-encoded"),
            ("/{*rest}/a", "stand last"),
            ("/{a}/{a}", "twice"),
            ("/{a}/{*a}", "twice"),
        ] {
            let fault = PathPattern::parse(text).unwrap_err().to_string();
            assert!(fault.contains(words), "{text}: {fault}");
        }
    }

    #[test]
    fn prefixes() {
        let of = |text| PathPattern::parse_prefix(text).unwrap();
        assert_eq!(of("/"), PathPattern::any());
        assert_eq!(of("/api"), of("/api/"));
        assert_eq!(of("/api/v1").segments.len(), 2);
        for bad in ["api", "//", "/a//", "/a//b", "/{x}", "/a/*"] {
            assert!(PathPattern::parse_prefix(bad).is_err(), "{bad}");
        }
        for (text, words) in [
            ("/a/*", "any case: write /a/"),
            ("/a*", "any case: write /a"),
            ("/{x}/*", "use `path`"),
            ("~ ^/a", "no regular expression"),
        ] {
            let fault = PathPattern::parse_prefix(text).unwrap_err().to_string();
            assert!(fault.contains(words), "{text}: {fault}");
        }
        // What a wildcard of others looks like can be a literal by its encoding, or inside of a segment.
        assert_eq!(PathPattern::parse("/%3Aid").unwrap().segments, [Segment::Literal(":id".into())]);
        assert!(PathPattern::parse("/v1/jobs:cancel").is_ok());
    }

    #[test]
    fn shapes_ignore_names_only() {
        let of = |text| PathPattern::parse(text).unwrap();
        assert!(of("/a/{x}").same_shape(&of("/a/{y}")));
        assert!(!of("/a/{x}").same_shape(&of("/a/x")));
        assert!(!of("/a").same_shape(&of("/a/")));
        assert!(!of("/a/{*x}").same_shape(&PathPattern::parse_prefix("/a").unwrap()));
    }
}
