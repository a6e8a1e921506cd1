//! Regular expressions of the configuration, by the `regex` crate: a search takes time linear in the text, whatever the expression.
//!
//! Compiled once, when the configuration is checked. They read bytes, and their classes are those of ASCII: paths are percent-encoded,
//! and fields need not be UTF-8. An expression that takes more memory than [`COMPILED_BYTES_MAX`] is refused.

use std::fmt;

use regex::bytes::{Regex, RegexBuilder};

use super::problem::Fault;

/// Longest expression as written.
const TEXT_BYTES_MAX: usize = 4096;
/// Most memory of a compiled expression.
const COMPILED_BYTES_MAX: usize = 1 << 20;
/// Most memory in which one shard keeps what it has learnt of texts that it searched by one expression.
const SEARCH_BYTES_MAX: usize = 1 << 18;

/// A compiled expression, which is the same as another if it is written the same.
#[derive(Clone)]
pub struct Expression {
    text: String,
    regex: Regex,
}

impl Expression {
    /// Compiles an expression.
    ///
    /// # Errors
    /// Its syntax is broken, or it is too large.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Fault::new(format!("the expression is longer than {TEXT_BYTES_MAX} bytes")));
        }
        let built = RegexBuilder::new(text)
            .unicode(false)
            .size_limit(COMPILED_BYTES_MAX)
            .dfa_size_limit(SEARCH_BYTES_MAX)
            .build();
        match built {
            Ok(regex) => Ok(Self { text: text.to_owned(), regex }),
            Err(regex::Error::CompiledTooBig(bytes)) => {
                let fault =
                    Fault::new(format!("`{text}`: the expression takes more than {bytes} bytes of memory"));
                Err(fault.hint("use smaller repetitions"))
            }
            Err(error) => Err(syntax_fault(text, &error)),
        }
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The compiled form. A thread that searches often takes a clone: the memory of searches belongs to one thread at a time.
    pub fn regex(&self) -> &Regex {
        &self.regex
    }

    /// The names of its groups, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.regex.capture_names().flatten()
    }
}

/// The crate's message of several lines, which draws where the fault is, as one line.
fn syntax_fault(text: &str, error: &regex::Error) -> Fault {
    let message = error.to_string();
    let what = message.lines().rev().find_map(|line| line.trim().strip_prefix("error: ").map(str::to_owned));
    let fault = Fault::new(format!("`{text}` is not a regular expression: {}", what.unwrap_or(message)));
    if ["(?=", "(?!", "(?<=", "(?<!"].iter().any(|look| text.contains(look)) {
        return fault.hint("look-around is not possible, since it does not search in linear time");
    }
    fault
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

impl std::hash::Hash for Expression {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_one_line_and_say_what_to_do() {
        for (text, words) in [
            ("(", "`(` is not a regular expression: unclosed group"),
            ("^/(?!admin)", "look-around"),
            ("(?:a{1000}){1000}", "more than 1048576 bytes of memory (hint: use smaller repetitions)"),
            (&"a".repeat(4097), "longer than 4096 bytes"),
        ] {
            let fault = Expression::parse(text).unwrap_err().to_string();
            assert!(fault.contains(words) && !fault.contains('\n'), "{fault}");
        }
    }

    #[test]
    fn classes_are_ascii_and_texts_need_not_be_utf8() {
        let is_match = |text: &str, bytes: &[u8]| Expression::parse(text).unwrap().regex().is_match(bytes);
        assert!(
            is_match("^.$", b"\xff") && is_match("^\\w+$", b"a_1") && !is_match("\\d", "\u{663}".as_bytes())
        );
        assert!(is_match("(?i)^ABC$", b"aBc"));
        let named = Expression::parse("(?<id>[0-9]+)-([a-z])-(?P<lang>..)").unwrap();
        assert_eq!(named.names().collect::<Vec<_>>(), ["id", "lang"]);
    }
}
