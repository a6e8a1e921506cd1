//! What can be wrong with a configuration, and where.
//!
//! Owns the words an operator reads: a place (file, line, column or flag), the key, what is wrong and what to
//! do about it. Every check reports here and goes on, so that one run shows every error.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In a file; line and column count from 1, the column in characters.
    File {
        /// The file as it was named on the command line.
        file: Arc<Path>,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
    },
    /// The file as a whole: it cannot be read, or something is missing from it.
    WholeFile(Arc<Path>),
    /// By a flag such as `--listen`.
    Flag(Cow<'static, str>),
    /// Nowhere in particular: the command line as a whole.
    CommandLine,
}

impl Origin {
    fn order(&self) -> (u8, &Path, usize, usize) {
        match self {
            Origin::Flag(_) => (0, Path::new(""), 0, 0),
            Origin::File { file, line, column } => (1, file, *line, *column),
            Origin::WholeFile(_) | Origin::CommandLine => (2, Path::new(""), 0, 0),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line, column } => write!(f, "{}:{line}:{column}", file.display()),
            Self::WholeFile(file) => write!(f, "{}", file.display()),
            Self::Flag(flag) => f.write_str(flag),
            Self::CommandLine => f.write_str("command line"),
        }
    }
}

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it was written.
    pub at: Origin,
}

impl<T> Located<T> {
    /// Ties `value` to the place it was written at.
    pub fn new(value: T, at: Origin) -> Self {
        Self { value, at }
    }
}

/// What is wrong with one value, before it is known where the value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl Fault {
    /// A fault with nothing to suggest.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), hint: None }
    }

    /// Adds what to write instead.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.hint {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}

/// One error or warning, complete with its place: `file:line:col: key: what is wrong (hint: ...)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where the value was written.
    pub at: Origin,
    /// The key's full name (`timeouts.request_head`); empty when the file as a whole is meant.
    pub key: String,
    /// What is wrong and what to do.
    pub fault: Fault,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.at)?;
        // A flag already names itself; "--listen: listen: ..." would say it twice.
        if !self.key.is_empty() && !matches!(self.at, Origin::Flag(_)) {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}", self.fault)
    }
}

/// The errors and warnings found so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What makes the configuration unusable.
    pub errors: Vec<Problem>,
    /// What is allowed and probably not meant.
    pub warnings: Vec<Problem>,
}

impl Report {
    /// Notes an error.
    pub fn error(&mut self, at: &Origin, key: &str, fault: Fault) {
        self.errors.push(Problem { at: at.clone(), key: key.to_owned(), fault });
    }

    /// What is wrong, in the order of the files, flags first.
    pub(crate) fn into_errors(mut self) -> ConfigErrors {
        self.sort();
        ConfigErrors { errors: self.errors, warnings: self.warnings }
    }

    /// Flags first, then the files from top to bottom. What has no line keeps its place behind what has one.
    pub(crate) fn sort(&mut self) {
        for problems in [&mut self.errors, &mut self.warnings] {
            problems.sort_by(|one, other| one.at.order().cmp(&other.at.order()));
        }
    }

    /// Notes a warning.
    pub fn warn(&mut self, at: &Origin, key: &str, fault: Fault) {
        self.warnings.push(Problem { at: at.clone(), key: key.to_owned(), fault });
    }
}

/// Everything that is wrong with a configuration; never empty of errors.
///
/// Displays as one line per error, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    /// At least one error.
    pub errors: Vec<Problem>,
    /// What was also worth saying.
    pub warnings: Vec<Problem>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.errors.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// # Errors
/// The words that there are, where `text` is none of them.
pub(crate) fn parse_word(words: &[&'static str], text: &str) -> Result<(), Fault> {
    if words.contains(&text) {
        return Ok(());
    }
    let fault = Fault::new(format!("`{text}` is none of {}", words.join(", ")));
    Err(match closest(text, words.iter().copied()) {
        Some(near) => fault.hint(format!("did you mean `{near}`")),
        None => fault,
    })
}

/// The candidate that `word` was probably meant to be, if one is close.
pub(crate) fn closest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    // One slip per three letters: "shard" finds "shards", "x" finds nothing.
    let slips_max = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|&(slips, candidate)| slips <= slips_max && slips < candidate.len())
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_reads_place_key_fault_hint() {
        let at = Origin::File { file: Path::new("a.toml").into(), line: 3, column: 7 };
        let problem =
            Problem { at, key: "listen".into(), fault: Fault::new("no port").hint("did you mean :80") };
        assert_eq!(problem.to_string(), "a.toml:3:7: listen: no port (hint: did you mean :80)");
    }

    #[test]
    fn flag_is_not_named_twice() {
        let problem = Problem {
            at: Origin::Flag("--listen".into()),
            key: "listen".into(),
            fault: Fault::new("no port"),
        };
        assert_eq!(problem.to_string(), "--listen: no port");
    }

    #[test]
    fn closest_finds_slips_only() {
        assert_eq!(closest("shard", ["listen", "shards"]), Some("shards"));
        assert_eq!(closest("upsteram", ["upstream"]), Some("upstream"));
        assert_eq!(closest("x", ["y", "listen"]), None);
        assert_eq!(closest("zebra", ["listen"]), None);
    }
}
