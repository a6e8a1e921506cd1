//! What is known of a key of the configuration: everything that reading, checking, the manual, the schema and the command line
//! need. The keys themselves are in `table`.

use std::fmt;
use std::time::Duration;

use super::problem::Fault;
use super::units;

/// One key.
#[derive(Debug)]
pub struct Key {
    /// Its name in its section.
    pub name: &'static str,
    /// How its value is written.
    pub kind: Kind,
    /// What holds where it is not written, as it would be written; empty where nothing is.
    pub default: &'static str,
    /// Where it may be written.
    pub scopes: Scopes,
    /// What a change of it takes.
    pub change: Change,
    /// Its flag, with the dashes; empty where only `--set` sets it.
    pub flag: &'static str,
    /// What it is, in one line.
    pub doc: &'static str,
}

/// A table of keys.
#[derive(Debug)]
pub struct Section {
    /// Its name in the file; empty for the top of the file.
    pub name: &'static str,
    /// What it is called over the help of its flags.
    pub heading: &'static str,
    /// What it is.
    pub doc: &'static str,
    /// Its keys, in the order of the manual.
    pub keys: &'static [Key],
}

impl Section {
    /// The key of this name, and its number.
    pub fn find(&self, name: &str) -> Option<(usize, &'static Key)> {
        self.keys.iter().enumerate().find(|(_, key)| key.name == name)
    }

    /// The scope of what is written in it, where it is a list of tables, or a table in one (`upstream.tls`).
    pub(crate) fn scope(&self) -> Scopes {
        let named = Scopes::NAMES.iter().find(|(_, name)| Some(*name) == self.name.split('.').next());
        named.map_or(Scopes::GLOBAL, |(scope, _)| *scope)
    }

    /// A table that belongs to one list of tables alone.
    pub(crate) fn is_nested(&self) -> bool {
        self.name.contains('.')
    }

    /// Whether it is a list of tables, wherever it stands.
    pub(crate) fn is_list(&self) -> bool {
        let is_this = |key: &Key| matches!(key.kind, Kind::Tables(inner) if std::ptr::eq(inner, self));
        super::table::SECTIONS.iter().any(|section| section.keys.iter().any(is_this))
    }

    /// Its head in a file: `[limits]`, `[[route]]`.
    pub(crate) fn title(&self) -> String {
        if self.is_list() { format!("[[{}]]", self.name) } else { format!("[{}]", self.name) }
    }

    /// The full name of one of its keys: `limits.head_bytes`.
    pub fn full_name(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }
}

/// The parts of a configuration that a key may be written in. A narrower one inherits from the wider ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// The file as a whole.
    pub const GLOBAL: Scopes = Scopes(1);
    /// One `[[listener]]`.
    pub const LISTENER: Scopes = Scopes(2);
    /// One `[[upstream]]`.
    pub const UPSTREAM: Scopes = Scopes(4);
    /// One `[[route]]`.
    pub const ROUTE: Scopes = Scopes(8);
    /// One `[[certificate]]`.
    pub const CERTIFICATE: Scopes = Scopes(16);

    const NAMES: [(Scopes, &'static str); 5] = [
        (Scopes::GLOBAL, "global"),
        (Scopes::LISTENER, "listener"),
        (Scopes::UPSTREAM, "upstream"),
        (Scopes::ROUTE, "route"),
        (Scopes::CERTIFICATE, "certificate"),
    ];

    /// These and those.
    pub const fn and(self, other: Scopes) -> Scopes {
        Scopes(self.0 | other.0)
    }

    /// Whether all of `other` are among these.
    pub const fn has(self, other: Scopes) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> =
            Self::NAMES.iter().filter(|(scope, _)| self.has(*scope)).map(|(_, name)| *name).collect();
        f.write_str(&names.join(", "))
    }
}

/// What a change of a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It belongs to what is replaced as a whole, under load.
    Reload,
    /// It decides what exists: sockets, shards, their memory.
    Restart,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Change::Reload => "reload",
            Change::Restart => "restart",
        })
    }
}

/// How a value is written. Ranges are those of the values as written.
#[derive(Debug)]
pub enum Kind {
    /// `10s`.
    Time {
        /// The shortest.
        least: &'static str,
        /// The longest.
        most: &'static str,
    },
    /// `16KiB`, or a plain number of bytes.
    Bytes {
        /// The smallest.
        least: &'static str,
        /// The largest.
        most: &'static str,
    },
    /// `100`.
    Count {
        /// The smallest.
        least: &'static str,
        /// The largest.
        most: &'static str,
    },
    /// `true` or `false`.
    Boolean,
    /// One of a few words.
    Word(fn() -> Vec<&'static str>),
    /// Text, judged later; with what stands for it in help texts.
    Text(&'static str),
    /// A list of texts.
    Texts(&'static str),
    /// A list of ports, which may be numbers or texts.
    Ports,
    /// A status, or first and last (`200-399`), or a list of these.
    Statuses,
    /// A list of causes to send a request again, which are words and statuses.
    RetryCauses,
    /// A port, or `true` for the usual one.
    PortOrTrue,
    /// The name of a file or a directory, relative to the file that it is written in; with what stands for it in help texts.
    Path(&'static str),
    /// A table.
    Table(&'static Section),
    /// A list of tables.
    Tables(&'static Section),
}

/// A number as it was meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Number {
    Time(Duration),
    Plain(u64),
}

impl Number {
    /// The number itself, milliseconds of a time.
    pub(crate) fn plain(self) -> u64 {
        u64::try_from(self.size()).unwrap_or(u64::MAX)
    }

    /// For comparing two of the same kind.
    fn size(self) -> u128 {
        match self {
            Number::Time(time) => time.as_millis(),
            Number::Plain(number) => u128::from(number),
        }
    }
}

impl Kind {
    /// What stands for the value in help texts.
    pub fn placeholder(&self) -> String {
        match self {
            Kind::Time { .. } => "DURATION".to_owned(),
            Kind::Bytes { .. } => "SIZE".to_owned(),
            Kind::Count { .. } => "N".to_owned(),
            Kind::Boolean => "true|false".to_owned(),
            Kind::Word(words) => words().join("|"),
            Kind::Text(placeholder) | Kind::Texts(placeholder) | Kind::Path(placeholder) => {
                (*placeholder).to_owned()
            }
            Kind::Ports => "PORTS".to_owned(),
            Kind::Statuses => "STATUS|list of STATUS".to_owned(),
            Kind::RetryCauses => "list of CAUSE".to_owned(),
            Kind::PortOrTrue => "PORT|true".to_owned(),
            Kind::Table(_) | Kind::Tables(_) => String::new(),
        }
    }

    /// What is expected, in words.
    pub(crate) fn expected(&self) -> &'static str {
        match self {
            Kind::Time { .. } => "a duration",
            Kind::Bytes { .. } => "a size",
            Kind::Count { .. } => "a whole number",
            Kind::Boolean => "true or false",
            Kind::Word(_) | Kind::Text(_) | Kind::Path(_) => "a string",
            Kind::Texts(_) => "a list of strings",
            Kind::Ports => "a list of ports",
            Kind::Statuses => "a status, a range such as \"200-399\", or a list of these",
            Kind::RetryCauses => "a list of causes, such as [\"connect\", \"stale\", 503]",
            Kind::PortOrTrue => "a port or true",
            Kind::Table(_) => "a table",
            Kind::Tables(_) => "a list of tables",
        }
    }

    /// Smallest and largest value, as they would be written.
    pub fn range(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Kind::Time { least, most } | Kind::Bytes { least, most } | Kind::Count { least, most } => {
                Some((least, most))
            }
            _ => None,
        }
    }

    /// Whether it takes several values.
    pub fn is_list(&self) -> bool {
        matches!(self, Kind::Texts(_) | Kind::Ports | Kind::Statuses | Kind::RetryCauses)
    }

    /// Whether its texts may have variables that are filled in for each request.
    pub(crate) fn takes_variables(&self) -> bool {
        matches!(self, Kind::Text(placeholder) | Kind::Texts(placeholder) if placeholder.ends_with("TEMPLATE"))
    }

    /// Whether what an included file says is added to it.
    pub(crate) fn grows(&self) -> bool {
        self.is_list() || matches!(self, Kind::Table(_) | Kind::Tables(_))
    }

    /// Reads a number written as text.
    pub(crate) fn parse_number(&self, text: &str) -> Result<Number, Fault> {
        match self {
            Kind::Time { .. } => units::parse_duration(text).map(Number::Time),
            Kind::Bytes { .. } => units::parse_bytes(text).map(Number::Plain),
            _ => units::parse_count(text).map(Number::Plain),
        }
    }

    /// A number of ours, in a default or a range.
    pub(crate) fn ours(&self, text: &str) -> Number {
        self.parse_number(text).unwrap_or_else(|fault| panic!("table of keys: {fault}"))
    }

    /// Writes a number the way it is read.
    pub(crate) fn show(&self, number: Number) -> String {
        match (self, number) {
            (_, Number::Time(time)) => units::show_duration(time),
            (Kind::Bytes { .. }, Number::Plain(bytes)) => units::show_bytes(bytes),
            (_, Number::Plain(number)) => number.to_string(),
        }
    }

    /// Whether a number lies in the range.
    ///
    /// # Errors
    /// On which side it does not.
    pub(crate) fn check_range(&self, number: Number) -> Result<(), Fault> {
        let Some((least, most)) = self.range() else { return Ok(()) };
        if number.size() < self.ours(least).size() {
            return Err(
                Fault::new(format!("{} is too small", self.show(number))).hint(format!("at least {least}"))
            );
        }
        if number.size() > self.ours(most).size() {
            return Err(
                Fault::new(format!("{} is too large", self.show(number))).hint(format!("at most {most}"))
            );
        }
        Ok(())
    }
}
