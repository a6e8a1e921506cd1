//! A configuration file as a tree of values, each with the place it was written at.
//!
//! Two formats, one tree: the rest of the program does not see whether a key came from TOML or JSON. The grammars are
//! those of `toml` and `serde_json`; this file only keeps the positions that a typed parse would throw away,
//! because without them only the first error could be reported with its line.

use std::path::Path;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Fault, Origin, Report};

/// What messages call a configuration that is read from standard input.
pub(crate) const STANDARD_INPUT: &str = "standard input";

/// Deepest nesting read from JSON; the schema needs four levels. A bound, because reading recurses.
const DEPTH_MAX: usize = 32;

/// Most errors of syntax reported: a parser that goes on after one finds more than were made.
const SYNTAX_ERRORS_MAX: usize = 20;

/// A byte of one of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Which file.
    pub(crate) file: usize,
    /// Byte offset into it.
    pub(crate) offset: usize,
}

/// A value and where it starts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    /// Where it starts.
    pub(crate) at: Place,
    /// The value.
    pub(crate) value: Value,
    /// A part of it came from the environment or from another file.
    pub(crate) is_expanded: bool,
    /// A text with `${`, as it is for keys whose variables are filled in for each request.
    pub(crate) template: Option<Box<TemplateText>>,
}

/// A text that may have variables of requests.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TemplateText {
    /// What is of the environment is in its place; `$${` is left as it is.
    pub(crate) text: String,
    /// The first variable of requests.
    pub(crate) variable: Option<String>,
}

/// What both formats can say.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// Text.
    Text(String),
    /// A whole number that is not negative: the only kind the schema knows.
    Number(u64),
    /// True or false.
    Boolean(bool),
    /// Some list.
    List(Vec<Node>),
    /// A table, in the order of the file.
    Table(Vec<(Key, Node)>),
    /// Anything the schema has no use for, by its name: "a fraction".
    Other(&'static str),
    /// It was to come from the environment or from another file, and did not; that is reported.
    Unknown,
}

impl Value {
    /// The kind of value, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Number(_) => "a number",
            Self::Boolean(_) => "a boolean",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
            Self::Unknown => "nothing",
        }
    }
}

/// A key and where it starts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Key {
    /// Where it starts.
    pub(crate) at: Place,
    /// The key.
    pub(crate) name: String,
}

/// The syntax of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// TOML 1.1.
    Toml,
    /// JSON, RFC 8259.
    Json,
}

impl Format {
    /// JSON for `*.json` and for an object on standard input, TOML for everything else.
    fn of(file: &Path, text: &str) -> Self {
        match file.extension() {
            Some(ext) if ext.eq_ignore_ascii_case("json") => Self::Json,
            None if file == Path::new(STANDARD_INPUT) && text.trim_start().starts_with('{') => Self::Json,
            _ => Self::Toml,
        }
    }
}

/// The files of a configuration.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    all: Vec<Source>,
}

impl Sources {
    /// Adds a file and parses it; syntax errors go to the report.
    pub(crate) fn add(&mut self, file: &Path, text: String, report: &mut Report) -> Option<Node> {
        let format = Format::of(file, &text);
        self.all.push(Source::new(self.all.len(), file, text));
        self.all.last().expect("just added").parse(format, report)
    }

    /// Line and column of a place.
    pub(crate) fn origin(&self, place: Place) -> Origin {
        self.all[place.file].at(place.offset)
    }

    /// The name of the file of a place.
    pub(crate) fn file(&self, place: Place) -> &Path {
        &self.all[place.file].file
    }
}

/// A file's name and its text, to turn offsets into lines.
#[derive(Debug)]
struct Source {
    number: usize,
    file: Arc<Path>,
    text: String,
    line_starts: Vec<usize>,
}

impl Source {
    /// Takes the text of `file`.
    fn new(number: usize, file: &Path, text: String) -> Self {
        let after_newlines = text.bytes().enumerate().filter(|&(_, b)| b == b'\n').map(|(i, _)| i + 1);
        let line_starts = std::iter::once(0).chain(after_newlines).collect();
        Self { number, file: file.into(), text, line_starts }
    }

    /// Line and column of a byte offset.
    fn at(&self, offset: usize) -> Origin {
        let offset = offset.min(self.text.len());
        let line = self.line_starts.partition_point(|&start| start <= offset);
        let before = &self.text.as_bytes()[self.line_starts[line - 1]..offset];
        // Characters, not bytes: every byte that does not continue one.
        let column = 1 + before.iter().filter(|&&b| b & 0xC0 != 0x80).count();
        Origin::File { file: Arc::clone(&self.file), line, column }
    }

    /// The index of the line that a byte is in.
    fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= offset) - 1
    }

    fn text_of(&self, line: usize) -> &str {
        let end = self.line_starts.get(line + 1).copied().unwrap_or(self.text.len());
        self.text[self.line_starts[line]..end].trim()
    }

    /// The file without a place in it.
    fn whole(&self) -> Origin {
        Origin::WholeFile(Arc::clone(&self.file))
    }

    /// Parses the text; syntax errors go to the report.
    fn parse(&self, format: Format, report: &mut Report) -> Option<Node> {
        match format {
            Format::Toml => self.parse_toml(report),
            Format::Json => self.parse_json(report),
        }
    }

    fn parse_toml(&self, report: &mut Report) -> Option<Node> {
        let (table, mut errors) = DeTable::parse_recoverable(&self.text);
        errors.sort_by_key(|error| error.span().map(|span| span.start));
        let is_empty = errors.is_empty();
        let other = other_syntax(&self.text);
        // The parser goes on behind a slip and stumbles again over the rest of its line.
        let line = |error: &toml::de::Error| error.span().map(|span| self.line(span.start));
        errors.dedup_by_key(|error| line(error));
        if other.is_some() {
            errors.truncate(1);
        }
        for error in errors.iter().take(SYNTAX_ERRORS_MAX) {
            // Of all errors only nesting without an end has no place.
            let at = self.at(error.span().map_or_else(|| self.most_nested_line(), |span| span.start));
            let fault = Fault::new(format!("not valid TOML: {}", error.message()));
            let fault = match other.or_else(|| line(error).and_then(|line| slip_in(self.text_of(line)))) {
                Some(hint) => fault.hint(hint),
                None => fault,
            };
            report.error(&at, "", fault);
        }
        if errors.len() > SYNTAX_ERRORS_MAX {
            let more = errors.len() - SYNTAX_ERRORS_MAX;
            report.error(
                &self.whole(),
                "",
                Fault::new(format!("not valid TOML: {more} more errors of syntax")),
            );
        }
        is_empty.then(|| self.toml_table(table.span().start, table.get_ref()))
    }

    /// The start of the line that nests most: it has the most brackets, or dots in a key.
    fn most_nested_line(&self) -> usize {
        let nesting = |&line: &usize| {
            let line = self.text[line..].lines().next().unwrap_or_default();
            line.bytes().filter(|byte| b"[{.".contains(byte)).count()
        };
        self.line_starts.iter().copied().max_by_key(nesting).unwrap_or(0)
    }

    fn parse_json(&self, report: &mut Report) -> Option<Node> {
        // The first pass checks the grammar of the whole file; the walk after it cannot fail on syntax.
        let root = match serde_json::from_str::<&RawValue>(&self.text) {
            Ok(root) => root,
            Err(error) => {
                let line_start =
                    self.line_starts[error.line().saturating_sub(1).min(self.line_starts.len() - 1)];
                // serde_json counts bytes and points just behind the byte it stumbled over.
                let at = self.at(line_start + error.column().saturating_sub(1));
                let words = error.to_string();
                let words = words.split(" at line ").next().unwrap_or_default();
                report.error(&at, "", Fault::new(format!("not valid JSON: {words}")));
                return None;
            }
        };
        match self.json_node(root, 0) {
            Ok(node) => Some(node),
            Err((offset, words)) => {
                report.error(&self.at(offset), "", Fault::new(format!("not valid JSON: {words}")));
                None
            }
        }
    }

    fn json_node(&self, raw: &RawValue, depth: usize) -> Result<Node, (usize, String)> {
        let text = raw.get();
        let offset = self.offset_of(text);
        let failed = |error: serde_json::Error| (offset, error.to_string());
        if depth > DEPTH_MAX {
            return Err((offset, "nested too deeply".to_owned()));
        }
        let value = match text.as_bytes().first() {
            Some(b'"') => Value::Text(serde_json::from_str(text).map_err(failed)?),
            Some(b'{') => {
                let Entries(entries) = serde_json::from_str(text).map_err(failed)?;
                let entry = |(key, value): (&RawValue, &RawValue)| {
                    let name = serde_json::from_str(key.get()).map_err(failed)?;
                    let key = Key { at: self.place(self.offset_of(key.get())), name };
                    Ok((key, self.json_node(value, depth + 1)?))
                };
                Value::Table(entries.into_iter().map(entry).collect::<Result<_, _>>()?)
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(text).map_err(failed)?;
                Value::List(
                    items
                        .into_iter()
                        .map(|item| self.json_node(item, depth + 1))
                        .collect::<Result<_, _>>()?,
                )
            }
            Some(b't' | b'f') => Value::Boolean(serde_json::from_str(text).map_err(failed)?),
            Some(b'n') => Value::Other("null"),
            _ => text.parse().map_or(Value::Other(odd_number(text)), Value::Number),
        };
        Ok(self.node(offset, value))
    }

    fn place(&self, offset: usize) -> Place {
        Place { file: self.number, offset }
    }

    fn node(&self, offset: usize, value: Value) -> Node {
        Node { at: self.place(offset), value, is_expanded: false, template: None }
    }

    /// Where a slice of the text starts in it. Raw JSON values borrow from the text they were parsed from.
    fn offset_of(&self, slice: &str) -> usize {
        slice.as_ptr().addr() - self.text.as_ptr().addr()
    }

    fn toml_table(&self, offset: usize, table: &DeTable<'_>) -> Node {
        let mut entries: Vec<(Key, Node)> = table
            .iter()
            .map(|(key, value)| {
                let key = Key { at: self.place(key.span().start), name: key.get_ref().to_string() };
                (key, self.toml_node(value))
            })
            .collect();
        // The parser sorts by name; people read from top to bottom.
        entries.sort_by_key(|(key, _)| key.at.offset);
        self.node(offset, Value::Table(entries))
    }

    fn toml_node(&self, node: &Spanned<DeValue<'_>>) -> Node {
        let offset = node.span().start;
        let value = match node.get_ref() {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix())
                .map_or(Value::Other(odd_number(number.as_str())), Value::Number),
            DeValue::Float(_) => Value::Other("a fraction"),
            DeValue::Boolean(is_so) => Value::Boolean(*is_so),
            DeValue::Datetime(_) => Value::Other("a date"),
            DeValue::Array(items) => Value::List(items.iter().map(|item| self.toml_node(item)).collect()),
            DeValue::Table(table) => return self.toml_table(offset, table),
        };
        self.node(offset, value)
    }
}

/// The members of a JSON object in order, repeated names included.
struct Entries<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// Why a number is none that the schema knows.
fn odd_number(text: &str) -> &'static str {
    if text.starts_with('-') {
        "a negative number"
    } else if text.contains(['.', 'e', 'E']) {
        "a fraction"
    } else {
        "a number out of range"
    }
}

/// What to do about a file in another language than TOML.
fn other_syntax(text: &str) -> Option<&'static str> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    if lines.clone().next().is_some_and(|line| line.starts_with('{')) {
        return Some("this looks like JSON: give the file a name that ends in .json");
    }
    let is_block = |line: &str| {
        line.starts_with(|c: char| c.is_ascii_alphabetic()) && line.ends_with('{') && !line.contains('=')
    };
    lines.any(is_block).then_some(
        "this looks like the file of another proxy: Sluice reads TOML or JSON, as in examples/minimal.toml",
    )
}

/// What to write in place of a line that is no TOML.
fn slip_in(line: &str) -> Option<&'static str> {
    let is_key = |key: &str| !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let (key, value) = line.split_once(['=', ':'])?;
    let is_colon = line.as_bytes().get(key.len()) == Some(&b':');
    match value.trim() {
        _ if !is_key(key.trim()) => None,
        _ if is_colon => Some("write key = value"),
        value if value.ends_with(';') => Some("a line has no semicolon at its end"),
        value if !value.contains(['"', '\'']) => Some("text stands between quotation marks, such as \"10s\""),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, text: &str) -> (Option<Node>, Report) {
        let mut report = Report::default();
        let node = Sources::default().add(Path::new(name), text.to_owned(), &mut report);
        (node, report)
    }

    /// The tree without positions.
    fn strip(node: &Node) -> String {
        match &node.value {
            Value::Text(text) => format!("{text:?}"),
            Value::Number(number) => number.to_string(),
            Value::Boolean(is_so) => is_so.to_string(),
            Value::Other(kind) => format!("<{kind}>"),
            Value::Unknown => "<unknown>".to_owned(),
            Value::List(items) => format!("[{}]", items.iter().map(strip).collect::<Vec<_>>().join(" ")),
            Value::Table(entries) => {
                let entries: Vec<_> =
                    entries.iter().map(|(key, node)| format!("{}={}", key.name, strip(node))).collect();
                format!("{{{}}}", entries.join(" "))
            }
        }
    }

    #[test]
    fn both_formats_give_one_tree() {
        let toml =
            "z = \"x\\ty\"\na = [1, 0x10, 1_000, -1, 1.5, true]\n[t]\nk = {}\n[[r]]\nn = 1\n[[r]]\nn = 2\n";
        let json = "{\"z\": \"x\\ty\", \"a\": [1, 16, 1000, -1, 1.5, true],\n \"t\": {\"k\": {}},
            \"r\": [{\"n\": 1}, {\"n\": 2}]}";
        let want =
            "{z=\"x\\ty\" a=[1 16 1000 <a negative number> <a fraction> true] t={k={}} r=[{n=1} {n=2}]}";
        assert_eq!(strip(&parse("a.toml", toml).0.unwrap()), want);
        assert_eq!(strip(&parse("a.json", json).0.unwrap()), want);
    }

    #[test]
    fn positions_count_lines_and_characters() {
        let text = "{\n  \"é\": \"ü\", \"k\": 1 }";
        let mut sources = Sources::default();
        let node = sources.add(Path::new("a.json"), text.to_owned(), &mut Report::default()).unwrap();
        let Value::Table(entries) = node.value else { panic!("a table") };
        assert_eq!(sources.origin(entries[1].0.at).to_string(), "a.json:2:13");
        assert_eq!(sources.origin(entries[1].1.at).to_string(), "a.json:2:18");
    }

    #[test]
    fn every_toml_syntax_error_is_reported() {
        let (node, report) = parse("a.toml", "a = \nb = 1\nc = ]\nb = 2\n");
        assert!(node.is_none());
        let lines: Vec<_> = report.errors.iter().map(ToString::to_string).collect();
        assert!(lines.iter().any(|line| line.starts_with("a.toml:1:")), "{lines:?}");
        assert!(lines.iter().any(|line| line.starts_with("a.toml:3:")), "{lines:?}");
    }

    #[test]
    fn a_file_that_is_not_toml_gets_few_errors() {
        let (_, report) = parse("a.toml", &"no toml\n".repeat(500));
        assert_eq!(report.errors.len(), SYNTAX_ERRORS_MAX + 1);
        assert!(report.errors.last().unwrap().to_string().contains("more errors of syntax"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[\\[\\]{}\"',:=#.\\\\a-c0-9 \\n\u{e9}-]{0,60}|\\PC{0,30}") {
            for name in ["a.toml", "a.json"] {
                let (node, report) = parse(name, &text);
                proptest::prop_assert_eq!(node.is_none(), !report.errors.is_empty());
            }
        }
    }

    #[test]
    fn nesting_without_an_end_has_its_place() {
        for (name, text) in [
            ("f.toml", format!("shards = 1\na = {}1", "[".repeat(1000))),
            ("f.toml", format!("shards = 1\na{} = 1", ".a".repeat(1000))),
            ("f.toml", format!("shards = 1\n[a{}]", ".a".repeat(1000))),
            ("f.json", format!("{{\n\"a\": {}1", "[".repeat(1000))),
        ] {
            let (mut sources, mut report) = (Sources::default(), Report::default());
            assert_eq!(sources.add(Path::new(name), text, &mut report), None);
            let lines: Vec<_> = report.errors.iter().map(ToString::to_string).collect();
            assert!(lines.len() == 1 && lines[0].starts_with(&format!("{name}:2:")), "{lines:?}");
        }
    }

    #[test]
    fn json_syntax_error_has_its_place() {
        let (node, report) = parse("a.json", "{\n  \"a\": 1,\n  \"b\" 2\n}");
        assert!(node.is_none());
        assert_eq!(report.errors[0].to_string(), "a.json:3:7: not valid JSON: expected `:`");
        assert!(parse("a.json", "").1.errors[0].to_string().starts_with("a.json:1:1: not valid JSON: EOF"));
        assert!(parse("a.json", "{} {}").1.errors[0].to_string().contains("trailing"));
    }

    #[test]
    fn depth_is_bounded() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let (node, report) = parse("a.json", &deep);
        assert!(node.is_none());
        assert!(report.errors[0].to_string().contains("nested too deeply"));
    }

    #[test]
    fn a_slip_of_syntax_is_one_error_with_what_to_write() {
        for (text, errors) in [
            ("listen: [\"a\"]\n", "1:7 write key = value"),
            ("a = 12.5MiB\nb = \"x\"\n", "1:9 text stands between quotation marks"),
            ("a = app\nb = app\n", "1:5 text stands between quotation marks\n2:5 text stands between"),
            ("a = \"x\";\n", "1:8 a line has no semicolon"),
            ("server {\n  listen 80;\n}\n", "1:8 this looks like the file of another proxy"),
            ("{\"listen\": []}", "1:1 this looks like JSON"),
        ] {
            let mut report = Report::default();
            let source = Source::new(0, Path::new("f"), text.to_owned());
            assert_eq!(source.parse(Format::Toml, &mut report), None);
            let found = report.errors.iter().map(|error| format!("{error}")).collect::<Vec<_>>();
            assert_eq!(found.len(), errors.lines().count(), "{found:#?}");
            for (found, (at, hint)) in
                found.iter().zip(errors.lines().filter_map(|line| line.split_once(' ')))
            {
                assert!(found.starts_with(&format!("f:{at}: not valid TOML")), "{found}");
                assert!(found.contains(&format!("(hint: {hint}")), "{found}");
            }
        }
    }
}
