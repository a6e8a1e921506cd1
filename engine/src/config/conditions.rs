//! The conditions of a route, key `when`: what a request must have besides host, path and method. All of them must hold.
//!
//! One condition is a text: `header NAME`, `query NAME` or `cookie NAME`, alone (it is there), with `= VALUE` (it is this) or with
//! `~ REGEX` (it is like this); or `client NETWORK ...` (an address in one of these). `not ` before it turns it around. Names of header
//! fields are compared in any case, all else byte by byte. Where a request repeats a name, one of its values must fit.
//!
//! `route::conditions` evaluates them.

use std::fmt;

use super::expressions::Expression;
use super::networks::Networks;
use super::problem::{Fault, Report, closest};
use super::values::Field;

/// Longest condition, in bytes.
const TEXT_BYTES_MAX: usize = 8192;
/// Most conditions of one route.
const COUNT_MAX: usize = 64;
/// The words that a condition begins with.
const SUBJECTS: [&str; 4] = ["header", "query", "cookie", "client"];

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// It holds where the rest does not.
    pub is_not: bool,
    /// What it looks at.
    pub subject: Subject,
    /// What that must be.
    pub test: Test,
}

/// The part of a request that a condition looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The header fields of this name, in lower case.
    Header(String),
    /// The parameters of this name in the query, decoded.
    Query(String),
    /// The cookies of this name.
    Cookie(String),
    /// The client's address, by the networks as they were written.
    Client(Networks, String),
}

/// What a value must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// Any: that it is there is enough.
    Present,
    /// This one.
    Equals(String),
    /// One in which this expression finds something.
    Matches(Expression),
}

impl Condition {
    /// Reads a condition as it is written in a file.
    ///
    /// # Errors
    /// Something that is none, or that no request can have.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Fault::new(format!("the condition is longer than {TEXT_BYTES_MAX} bytes")));
        }
        let trimmed = text.trim();
        let (is_not, positive) = match trimmed.strip_prefix("not ") {
            Some(positive) => (true, positive.trim_start()),
            None => (false, trimmed),
        };
        let (word, rest) = positive.split_once([' ', '\t']).unwrap_or((positive, ""));
        let rest = rest.trim_start();
        if word == "client" {
            return Ok(Self { is_not, subject: parse_client(text, rest)?, test: Test::Present });
        }
        if !SUBJECTS.contains(&word) {
            return Err(unknown_subject(text, word, rest));
        }
        check_quotes(text, rest)?;
        let (name, test) = split_test(text, word, rest)?;
        let subject = match word {
            "header" => Subject::Header(check_header(text, name)?),
            "query" => Subject::Query(check_name(text, word, name)?),
            _ => Subject::Cookie(check_cookie(text, name)?),
        };
        Ok(Self { is_not, subject, test })
    }

    /// Whether each request for which this one holds is one for which `other` holds too. May say no where it is so.
    pub(super) fn implies(&self, other: &Self) -> bool {
        if self == other {
            return true;
        }
        match (self.is_not, other.is_not) {
            (false, false) => self.is_narrower(other),
            (true, true) => other.is_narrower(self),
            // A name can have several values, an address is one.
            (false, true) => match (&self.subject, &other.subject) {
                (Subject::Client(one, _), Subject::Client(two, _)) => !one.overlaps(two),
                _ => false,
            },
            (true, false) => false,
        }
    }

    /// Whether both cannot hold for one request. May say no where it is so.
    pub(super) fn excludes(&self, other: &Self) -> bool {
        match (self.is_not, other.is_not) {
            (false, true) => self.is_narrower(other),
            (true, false) => other.excludes(self),
            (false, false) => match (&self.subject, &other.subject) {
                (Subject::Client(one, _), Subject::Client(two, _)) => !one.overlaps(two),
                _ => false,
            },
            (true, true) => false,
        }
    }

    /// The same for what stands behind `not`.
    fn is_narrower(&self, other: &Self) -> bool {
        if let (Subject::Client(one, _), Subject::Client(two, _)) = (&self.subject, &other.subject) {
            return one.is_subset(two);
        }
        self.subject == other.subject
            && match (&self.test, &other.test) {
                (_, Test::Present) => true,
                (Test::Equals(value), Test::Matches(expression)) => {
                    expression.regex().is_match(value.as_bytes())
                }
                (one, two) => one == two,
            }
    }
}

/// As it would be written; the same for conditions that are the same.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_not { "not " } else { "" })?;
        match &self.subject {
            Subject::Header(name) => write!(f, "header {name}"),
            Subject::Query(name) => write!(f, "query {name}"),
            Subject::Cookie(name) => write!(f, "cookie {name}"),
            Subject::Client(_, networks) => write!(f, "client {networks}"),
        }?;
        match &self.test {
            Test::Present => Ok(()),
            Test::Equals(value) => write!(f, " = {value}"),
            Test::Matches(expression) => write!(f, " ~ {}", expression.text()),
        }
    }
}

/// The conditions of a route, without those that repeat another one; `None` if one of them is wrong, which is reported.
pub(super) fn check_conditions(
    field: &Field<Vec<super::Located<String>>>,
    report: &mut Report,
) -> Option<Vec<Condition>> {
    let key = "route.when";
    let given = match field {
        Field::Absent => return Some(Vec::new()),
        Field::Faulty => return None,
        Field::Given(given) => given,
    };
    if given.value.len() > COUNT_MAX {
        report.error(&given.at, key, Fault::new(format!("a route has at most {COUNT_MAX} conditions")));
        return None;
    }
    let mut conditions: Vec<Condition> = Vec::new();
    for text in &given.value {
        match Condition::parse(&text.value) {
            Err(fault) => report.error(&text.at, key, fault),
            Ok(condition) if conditions.contains(&condition) => {
                report.error(&text.at, key, Fault::new(format!("`{condition}` is there twice")));
            }
            Ok(condition) => {
                if let Some(other) = conditions.iter().find(|other| condition.excludes(other)) {
                    let fault = Fault::new(format!("`{condition}` never holds together with `{other}`"));
                    report.error(&text.at, key, fault.hint("all conditions of a route must hold"));
                }
                conditions.push(condition);
            }
        }
    }
    (conditions.len() == given.value.len()).then_some(conditions)
}

fn unknown_subject(text: &str, word: &str, rest: &str) -> Fault {
    let fault = Fault::new(format!("`{text}` is not a condition"));
    let wanted = "a condition is header NAME, query NAME or cookie NAME, alone or with = VALUE or ~ REGEX, or client NETWORK";
    match word {
        "host" => fault.hint("hosts have keys of their own: host and hosts"),
        "method" | "methods" => fault.hint("methods have a key of their own: methods"),
        "path" => fault.hint("paths have keys of their own: path, path_prefix and path_regex"),
        "src" | "remote_addr" | "remote_ip" | "ip" | "address" | "source" => {
            let network = if rest.is_empty() { "10.0.0.0/8" } else { rest.trim_start_matches(['=', ' ']) };
            fault.hint(format!("did you mean `client {network}`"))
        }
        _ if word.starts_with('!') => fault.hint(format!("did you mean `not {} {rest}`", &word[1..])),
        _ => match closest(&word.to_ascii_lowercase(), SUBJECTS) {
            Some(near) => fault.hint(format!("did you mean `{near} {rest}`")),
            None => fault.hint(wanted),
        },
    }
}

/// The name, and what is asked of its values.
fn split_test<'t>(text: &str, word: &str, rest: &'t str) -> Result<(&'t str, Test), Fault> {
    let end = rest.find([' ', '\t', '=', '~']).unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    if name.is_empty() {
        let fault = Fault::new(format!("`{text}` has no name"));
        return Err(fault.hint(format!("write `{word} NAME`")));
    }
    let after = after.trim_start();
    let test = match after.as_bytes() {
        [] => Test::Present,
        [b'=', b'=' | b'~', ..] => {
            let fault = Fault::new(format!("`{text}`: `{}` compares nothing", &after[..2]));
            return Err(fault.hint("write = for a value, ~ for a regular expression"));
        }
        [b'=', ..] => Test::Equals(after[1..].trim().to_owned()),
        [b'~', ..] => {
            let expression = after[1..].trim();
            if expression.is_empty() {
                return Err(Fault::new(format!("`{text}`: there is no expression behind ~")));
            }
            Test::Matches(Expression::parse(expression)?)
        }
        [b'!', ..] => {
            let fault = Fault::new(format!("`{text}`: `!` is not known here"));
            return Err(fault.hint(format!("did you mean `not {word} {name} = VALUE`")));
        }
        _ => {
            let fault = Fault::new(format!("`{text}`: neither = nor ~ behind the name"));
            let name = name.trim_end_matches(':');
            return Err(fault.hint(format!("did you mean `{word} {name} = {after}`")));
        }
    };
    Ok((name, test))
}

/// Quotes would be a part of the value.
fn check_quotes(text: &str, rest: &str) -> Result<(), Fault> {
    let Some((_, value)) = rest.split_once(['=', '~']) else { return Ok(()) };
    let value = value.trim();
    let is_quoted = |quote| value.len() > 1 && value.starts_with(quote) && value.ends_with(quote);
    if is_quoted('"') || is_quoted('\'') {
        let fault = Fault::new(format!("`{text}`: the quotes would be a part of the value"));
        return Err(fault.hint(format!("write {} without them", &value[1..value.len() - 1])));
    }
    Ok(())
}

fn check_header(text: &str, name: &str) -> Result<String, Fault> {
    let name = name.strip_suffix(':').unwrap_or(name).to_ascii_lowercase();
    if !name.bytes().all(super::routes::is_token_byte) || name.is_empty() {
        return Err(Fault::new(format!("`{text}`: `{name}` is not the name of a header field")));
    }
    let fault = |what: &str| Err(Fault::new(format!("`{text}`: {what}")));
    match name.as_str() {
        // HTTP/2 has it in :authority, and clients that send both may send two.
        "host" => fault("the host has keys of its own").map_err(|fault| fault.hint("write host = \"NAME\"")),
        // HTTP/2 may split it.
        "cookie" => {
            fault("cookies are looked at one by one").map_err(|fault| fault.hint("write `cookie NAME`"))
        }
        _ => Ok(name),
    }
}

/// Names in a query can have any bytes, but in this text they end at a space, `=` or `~`.
fn check_name(text: &str, word: &str, name: &str) -> Result<String, Fault> {
    if name.contains('%') {
        let fault =
            Fault::new(format!("`{text}`: names and values of a {word} are compared as they are decoded"));
        return Err(fault.hint("write them without percent-encoding"));
    }
    Ok(name.to_owned())
}

//= https://www.rfc-editor.org/rfc/rfc6265#section-4.1.1
fn check_cookie(text: &str, name: &str) -> Result<String, Fault> {
    if !name.bytes().all(super::routes::is_token_byte) {
        return Err(Fault::new(format!("`{text}`: `{name}` is not the name of a cookie")));
    }
    Ok(name.to_owned())
}

fn parse_client(text: &str, rest: &str) -> Result<Subject, Fault> {
    let words: Vec<&str> = rest.split([' ', '\t', ',']).filter(|word| !word.is_empty()).collect();
    if words.is_empty() {
        let fault = Fault::new(format!("`{text}` has no address"));
        return Err(fault.hint("write `client 10.0.0.0/8`, with more networks behind it for any of them"));
    }
    let networks = Networks::parse(words.iter().copied())?;
    Ok(Subject::Client(networks, words.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Condition {
        Condition::parse(text).unwrap_or_else(|fault| panic!("{text}: {fault}"))
    }

    #[test]
    fn conditions_are_written_as_they_are_shown() {
        for (text, shown) in [
            ("header X-Version = 2", "header x-version = 2"),
            ("header X-Version:", "header x-version"),
            ("  not  header a ", "not header a"),
            ("header a=", "header a = "),
            ("header a = b = c ~ d", "header a = b = c ~ d"),
            ("query debug", "query debug"),
            ("query a.b=1 2", "query a.b = 1 2"),
            ("query q ~ ^[0-9]+$", "query q ~ ^[0-9]+$"),
            ("not cookie Beta = yes", "not cookie Beta = yes"),
            ("client 10.0.0.0/8, 2001:db8::/32", "client 10.0.0.0/8 2001:db8::/32"),
        ] {
            assert_eq!(parse(text).to_string(), shown, "{text}");
            assert_eq!(parse(shown), parse(text));
        }
    }

    #[test]
    fn what_is_no_condition_is_refused_with_a_hint() {
        for (text, words) in [
            ("", "a condition is header NAME"),
            ("headers x = 1", "did you mean `header x = 1`"),
            ("Cookie x", "did you mean `cookie x`"),
            ("!header x", "did you mean `not header x`"),
            ("host = a", "host and hosts"),
            ("method GET", "methods have a key"),
            ("path ~ ^/a", "path_regex"),
            ("header", "write `header NAME`"),
            ("query = 1", "write `query NAME`"),
            ("header x 1", "did you mean `header x = 1`"),
            ("header x != 1", "did you mean `not header x = VALUE`"),
            ("header x == 1", "write = for a value"),
            ("header x ~", "no expression"),
            ("header x ~ (", "unclosed group"),
            ("header x = \"2\"", "write 2 without them"),
            ("query v ~ '^2'", "write ^2 without them"),
            ("header (x)", "not the name of a header field"),
            ("header Host = a", "host = \"NAME\""),
            ("header cookie ~ a", "write `cookie NAME`"),
            ("cookie a;b", "not the name of a cookie"),
            ("query a%20b", "without percent-encoding"),
            ("client", "client 10.0.0.0/8"),
            ("client 10.0.0.1/8", "did you mean 10.0.0.0/8"),
            ("client lb", "names are not looked up"),
        ] {
            let fault = Condition::parse(text).unwrap_err().to_string();
            assert!(fault.contains(words), "{text}: {fault}");
        }
        assert!(Condition::parse(&format!("header a = {}", "x".repeat(9000))).is_err());
    }

    #[test]
    fn implied_and_excluded() {
        for (one, two, implies, excludes) in [
            ("header a = 1", "header a", true, false),
            ("header a", "header a = 1", false, false),
            ("header a = 1", "header b", false, false),
            ("header a = 12", "header a ~ ^1", true, false),
            ("header a = 2", "header a ~ ^1", false, false),
            // A field may be there twice.
            ("header a = 1", "header a = 2", false, false),
            ("not header a", "not header a = 1", true, false),
            ("not header a = 1", "not header a", false, false),
            ("header a", "not header a", false, true),
            ("header a = 1", "not header a", false, true),
            ("not header a = 1", "header a", false, false),
            ("client 10.1.0.0/16", "client 10.0.0.0/8", true, false),
            ("client 10.0.0.0/8", "client 10.1.0.0/16", false, false),
            ("client 10.0.0.0/8", "client 192.168.0.0/16", false, true),
            ("client 10.0.0.0/8", "not client 192.168.0.0/16 ::1", true, false),
            ("client 10.1.0.0/16", "not client 10.0.0.0/8", false, true),
            ("query a", "cookie a", false, false),
        ] {
            let (one, two) = (parse(one), parse(two));
            assert_eq!(one.implies(&two), implies, "{one} => {two}");
            assert_eq!(one.excludes(&two), excludes, "{one} >< {two}");
            assert_eq!(two.excludes(&one), excludes, "{two} >< {one}");
        }
    }
}
