//! The configuration as written: for each key of a section, whether it was written, where, and what.
//!
//! Reads the tree of a file (or the text of a flag) by the table of keys, without a line of its own for any of them; what values
//! mean together is judged by `checked`. A value of the wrong type is reported here and stays behind as [`Field::Faulty`], so
//! that nothing later calls it missing.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::choices::Choice;
use super::foreign;
use super::key::{Key, Kind, Number, Scopes, Section};
use super::problem::{Fault, Located, Origin, Report, closest, parse_word};
use super::source::{self, Node, Place, Sources};
use super::tls::HttpsRedirect;

/// A key's value: not there, there but unusable (and reported), or there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Field<T> {
    /// Not written.
    #[default]
    Absent,
    /// Written, of the wrong type or out of range, and reported.
    Faulty,
    /// Written.
    Given(Located<T>),
}

impl<T> Field<T> {
    /// A value that came by a flag.
    #[cfg(test)]
    pub(crate) fn flag(flag: &'static str, value: T) -> Self {
        Self::Given(Located::new(value, Origin::Flag(flag.into())))
    }

    /// The value, if one was written and could be read.
    pub fn given(&self) -> Option<&Located<T>> {
        match self {
            Self::Given(given) => Some(given),
            Self::Absent | Self::Faulty => None,
        }
    }

    /// The value, if one was written and could be read; without its place.
    pub(crate) fn value(&self) -> Option<&T> {
        self.given().map(|given| &given.value)
    }

    fn map<U>(&self, convert: impl FnOnce(&T) -> U) -> Field<U> {
        match self {
            Self::Absent => Field::Absent,
            Self::Faulty => Field::Faulty,
            Self::Given(given) => Field::Given(Located::new(convert(&given.value), given.at.clone())),
        }
    }
}

/// What a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Number(Number),
    Boolean(bool),
    Text(String),
    Texts(Vec<Located<String>>),
    /// Absolute.
    Path(PathBuf),
    Table(Values),
    /// Shared, since there may be thousands.
    Tables(Rc<[Values]>),
}

/// One section as written.
#[derive(Debug, Clone)]
pub struct Values {
    section: &'static Section,
    /// Where its table starts.
    pub at: Origin,
    /// It is no table at all, which is reported: nothing in it is missing.
    pub(crate) is_faulty: bool,
    fields: Vec<Field<Value>>,
}

impl PartialEq for Values {
    fn eq(&self, other: &Values) -> bool {
        std::ptr::eq(self.section, other.section) && self.fields == other.fields
    }
}

impl Eq for Values {}

impl Values {
    /// A section of which nothing is written.
    pub(crate) fn empty(section: &'static Section, at: Origin) -> Values {
        let fields = section.keys.iter().map(|_| Field::Absent).collect();
        Values { section, at, is_faulty: false, fields }
    }

    pub(crate) fn section(&self) -> &'static Section {
        self.section
    }

    /// Keys and what is written for them, in the order of the table.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static Key, &Field<Value>)> {
        self.section.keys.iter().zip(&self.fields)
    }

    /// What is written for a key of the section.
    ///
    /// # Panics
    /// When the section has no such key, which is a mistake of ours.
    pub(crate) fn field(&self, name: &str) -> &Field<Value> {
        &self.fields[self.number(name)]
    }

    pub(crate) fn field_mut(&mut self, name: &str) -> &mut Field<Value> {
        let number = self.number(name);
        &mut self.fields[number]
    }

    fn number(&self, name: &str) -> usize {
        let found = self.section.find(name);
        found.unwrap_or_else(|| panic!("[{}] has no key {name}", self.section.name)).0
    }

    /// A table in it, to be written to.
    pub(crate) fn table_mut(&mut self, name: &str) -> &mut Values {
        let number = self.number(name);
        let Kind::Table(section) = self.section.keys[number].kind else { panic!("{name} is no table") };
        let field = &mut self.fields[number];
        if field.given().is_none() {
            let empty = Values::empty(section, self.at.clone());
            *field = Field::Given(Located::new(Value::Table(empty), self.at.clone()));
        }
        match field {
            Field::Given(Located { value: Value::Table(values), .. }) => values,
            _ => unreachable!("what the table of keys calls a table is read as one"),
        }
    }

    /// These values, and those of a wider scope where nothing is written here.
    pub(crate) fn over(&self, wider: &Values) -> Values {
        let fields = self.fields.iter().zip(&wider.fields);
        let narrowest = |(own, wider): (&Field<Value>, &Field<Value>)| match own {
            Field::Absent => wider.clone(),
            own => own.clone(),
        };
        let fields = fields.map(narrowest).collect();
        Values { section: self.section, at: self.at.clone(), is_faulty: self.is_faulty, fields }
    }

    /// The same where a whole table may be missing.
    pub(crate) fn scoped(own: &Field<Values>, wider: &Values) -> Values {
        own.value().map_or_else(|| wider.clone(), |own| own.over(wider))
    }

    /// As a table on one line.
    fn show_inline(&self) -> String {
        let written = self.iter().filter_map(|(key, field)| {
            let given = field.given()?;
            Some(format!("{} = {}", key.name, given.value.show(&key.kind)))
        });
        format!("{{ {} }}", written.collect::<Vec<_>>().join(", "))
    }

    /// Sets a key to what a flag says. A list grows with every flag of the same name.
    ///
    /// # Errors
    /// Why the text cannot be read.
    pub(crate) fn set(&mut self, name: &str, text: &str, at: &Origin) -> Result<(), Fault> {
        let number = self.number(name);
        let kind = &self.section.keys[number].kind;
        let field = &mut self.fields[number];
        if kind.is_list() {
            let item = Located::new(text.to_owned(), at.clone());
            match field {
                Field::Given(Located { value: Value::Texts(items), at: earlier }) if earlier == at => {
                    items.push(item);
                }
                field => *field = Field::Given(Located::new(Value::Texts(vec![item]), at.clone())),
            }
            return Ok(());
        }
        let value = Value::parse(kind, text).inspect_err(|_| *field = Field::Faulty)?;
        *field = Field::Given(Located::new(value, at.clone()));
        Ok(())
    }
}

impl Value {
    /// Reads the text form of a value that is no list and no table.
    pub(crate) fn parse(kind: &Kind, text: &str) -> Result<Value, Fault> {
        match kind {
            Kind::Time { .. } | Kind::Bytes { .. } | Kind::Count { .. } => {
                let number = kind.parse_number(text)?;
                kind.check_range(number).map(|()| Value::Number(number))
            }
            Kind::Boolean => match text {
                "true" => Ok(Value::Boolean(true)),
                "false" => Ok(Value::Boolean(false)),
                _ => Err(Fault::new(format!("`{text}` is neither true nor false"))),
            },
            Kind::Word(words) => parse_word(&words(), text).map(|()| Value::Text(text.to_owned())),
            Kind::PortOrTrue => HttpsRedirect::parse(text).map(|_| Value::Text(text.to_owned())),
            Kind::Path(_) => absolute(Path::new(""), text).map(Value::Path),
            _ => Ok(Value::Text(text.to_owned())),
        }
    }

    /// The value that holds where none is written.
    pub(crate) fn default_of(key: &Key) -> Value {
        let ours = |fault| panic!("default of {}: {fault}", key.name);
        match key.kind {
            Kind::Texts(_) | Kind::Ports | Kind::Statuses | Kind::RetryCauses => Value::Texts(Vec::new()),
            Kind::Table(section) => Value::Table(Values::empty(section, Origin::CommandLine)),
            Kind::Tables(_) => Value::Tables(Rc::default()),
            _ => Value::parse(&key.kind, key.default).unwrap_or_else(ours),
        }
    }

    /// As it would be written in a TOML file.
    pub(crate) fn show(&self, kind: &Kind) -> String {
        match self {
            Value::Number(number) => match (kind, kind.show(*number)) {
                (Kind::Count { .. }, text) => text,
                (_, text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text,
                (_, text) => format!("\"{text}\""),
            },
            Value::Boolean(is_so) => is_so.to_string(),
            Value::Text(text) if matches!(kind, Kind::PortOrTrue) => text.clone(),
            Value::Path(path) => toml::Value::from(&*path.to_string_lossy()).to_string(),
            Value::Text(text) => toml::Value::from(text.as_str()).to_string(),
            Value::Texts(items) => {
                let items: Vec<_> =
                    items.iter().map(|item| toml::Value::from(item.value.as_str()).to_string()).collect();
                format!("[{}]", items.join(", "))
            }
            Value::Table(_) => String::new(),
            Value::Tables(tables) => {
                let tables: Vec<_> = tables.iter().map(Values::show_inline).collect();
                format!("[{}]", tables.join(", "))
            }
        }
    }
}

/// A file as it is opened: its name is relative to the directory of the file that names it, and to the one that Sluice is started
/// in where a flag does. The whole name means the same wherever it is printed.
fn absolute(directory: &Path, name: &str) -> Result<PathBuf, Fault> {
    if name.is_empty() {
        return Err(Fault::new("the name of the file is empty"));
    }
    std::path::absolute(directory.join(name)).map_err(|error| Fault::new(format!("`{name}`: {error}")))
}

// ---- from values to the types of Rust ----

/// A type that a value becomes.
pub(crate) trait FromValue: Sized {
    /// # Panics
    /// When the kind of the key is not for this type, which is a mistake of ours.
    fn from_value(value: &Value) -> Self;
}

fn mismatch(value: &Value) -> ! {
    panic!("the table of keys gives this type another kind: {value:?}")
}

impl FromValue for Duration {
    fn from_value(value: &Value) -> Duration {
        let Value::Number(Number::Time(time)) = value else { mismatch(value) };
        *time
    }
}

macro_rules! from_numbers {
    ($($ty:ty),*) => { $(
        impl FromValue for $ty {
            fn from_value(value: &Value) -> $ty {
                let Value::Number(Number::Plain(number)) = value else { mismatch(value) };
                <$ty>::try_from(*number).expect("in range, so it fits")
            }
        }
    )* };
}
from_numbers!(u8, u32, u64, usize);

impl FromValue for bool {
    fn from_value(value: &Value) -> bool {
        let Value::Boolean(is_so) = value else { mismatch(value) };
        *is_so
    }
}

impl FromValue for String {
    fn from_value(value: &Value) -> String {
        let Value::Text(text) = value else { mismatch(value) };
        text.clone()
    }
}

impl FromValue for PathBuf {
    fn from_value(value: &Value) -> PathBuf {
        let Value::Path(path) = value else { mismatch(value) };
        path.clone()
    }
}

impl FromValue for HttpsRedirect {
    fn from_value(value: &Value) -> HttpsRedirect {
        let Value::Text(text) = value else { mismatch(value) };
        HttpsRedirect::parse(text).unwrap_or_else(|_| mismatch(value))
    }
}

impl FromValue for Vec<Located<String>> {
    fn from_value(value: &Value) -> Vec<Located<String>> {
        let Value::Texts(items) = value else { mismatch(value) };
        items.clone()
    }
}

impl FromValue for Values {
    fn from_value(value: &Value) -> Values {
        let Value::Table(values) = value else { mismatch(value) };
        values.clone()
    }
}

impl FromValue for Rc<[Values]> {
    fn from_value(value: &Value) -> Rc<[Values]> {
        let Value::Tables(tables) = value else { mismatch(value) };
        tables.clone()
    }
}

impl<C: Choice> FromValue for C {
    fn from_value(value: &Value) -> C {
        let Value::Text(word) = value else { mismatch(value) };
        C::parse(word).unwrap_or_else(|_| mismatch(value))
    }
}

/// What a key comes to: with its default where nothing is written, or as it was written.
pub(crate) trait Settle {
    fn settle(key: &Key, field: &Field<Value>) -> Self;
}

impl<T: FromValue> Settle for T {
    fn settle(key: &Key, field: &Field<Value>) -> T {
        field
            .given()
            .map_or_else(|| T::from_value(&Value::default_of(key)), |given| T::from_value(&given.value))
    }
}

impl<T: FromValue> Settle for Field<T> {
    fn settle(_: &Key, field: &Field<Value>) -> Field<T> {
        field.map(T::from_value)
    }
}

// ---- reading a file ----

/// A text for this key: as it is, or as templates have it where its variables are those of requests.
fn text_of(key: &Key, node: &Node, text: &str) -> Result<String, Fault> {
    let Some(template) = &node.template else { return Ok(text.to_owned()) };
    match &template.variable {
        _ if key.kind.takes_variables() => Ok(template.text.clone()),
        None => Ok(text.to_owned()),
        Some(name) => {
            let fault = Fault::new(format!(
                "`${{{name}}}` is known with each request, and this key is settled before"
            ));
            Err(fault.hint("name a variable of the environment, without a dot; $${ for the two characters"))
        }
    }
}

/// Whether a key is a status, as other proxies have it for pages.
fn is_status((key, _): &(source::Key, Node)) -> bool {
    key.name.len() == 3 && key.name.bytes().all(|byte| byte.is_ascii_digit())
}

/// By this key a JSON file names its schema, for editors. It says nothing to us.
const SCHEMA: &str = "$schema";

/// Reads the tree of a configuration by the table of keys, and collects what is wrong.
pub(crate) struct Reader<'s> {
    pub(crate) sources: &'s Sources,
    /// Every section, to tell where a key belongs.
    pub(crate) sections: &'s [&'static Section],
    pub(crate) report: Report,
}

impl Reader<'_> {
    /// Reads a table as this section, written in this scope. Complains about unknown and repeated keys, and about anything but
    /// a table.
    pub(crate) fn read(&mut self, section: &'static Section, scope: Scopes, node: &Node) -> Values {
        let mut values = Values::empty(section, self.origin(node.at));
        let source::Value::Table(entries) = &node.value else {
            self.wrong_type(node, section.name, "a table");
            values.is_faulty = true;
            return values;
        };
        let (mut misspelled, mut foreign) = (Vec::new(), Vec::new());
        for (key, value) in entries {
            if section.name.is_empty() && key.name == SCHEMA {
                if !matches!(value.value, source::Value::Text(_)) {
                    self.wrong_type(value, SCHEMA, "a string");
                }
                continue;
            }
            let known = section.find(&key.name).filter(|(_, known)| known.scopes.has(scope));
            let Some((number, known)) = known else {
                if let Some(ours) = self.foreign_key(key, section) {
                    foreign.extend(section.find(ours).map(|(number, _)| number));
                    continue;
                }
                let meant = self.unknown_key(key, section, scope);
                misspelled.extend(meant.and_then(|name| section.find(name)).map(|meant| (meant, value)));
                continue;
            };
            // TOML forbids a repeated key, JSON lets it through and leaves open which one counts.
            let first = entries
                .iter()
                .find(|(first, _)| first.name == key.name)
                .map_or(key.at, |(first, _)| first.at);
            let read = self.read_value(section, scope, known, value);
            if first == key.at {
                values.fields[number] = read;
            } else if first.file == key.at.file || !known.kind.grows() {
                let fault =
                    Fault::new("is there twice").hint(format!("the first is at {}", self.origin(first)));
                self.report.error(&self.origin(key.at), &section.full_name(&key.name), fault);
            }
            // What is left is a list or a table of one file and something else of another, which is reported already.
        }
        // What stands there by another name is not missing.
        for number in foreign {
            if values.fields[number] == Field::Absent {
                values.fields[number] = Field::Faulty;
            }
        }
        // One slip, one error: its value is read as what was meant, so that it is not called missing too.
        for ((number, meant), value) in misspelled {
            if values.fields[number] == Field::Absent {
                values.fields[number] = self.read_value(section, scope, meant, value);
            }
        }
        values
    }

    fn read_value(&mut self, section: &Section, scope: Scopes, key: &Key, node: &Node) -> Field<Value> {
        // Made for what is wrong only: there may be thousands of tables.
        let name = || section.full_name(key.name);
        let at = self.origin(node.at);
        let read = match (&key.kind, &node.value) {
            (_, source::Value::Text(text)) if node.template.is_some() => match text_of(key, node, text) {
                Ok(text) => {
                    let node = Node { value: source::Value::Text(text), template: None, ..*node };
                    return self.read_value(section, scope, key, &node);
                }
                Err(fault) => Err(fault),
            },
            (Kind::Table(inner), source::Value::Table(_)) => Ok(Value::Table(self.read(inner, scope, node))),
            (Kind::Tables(inner), _) => return self.read_tables(inner, node, at),
            (kind, source::Value::List(items)) if kind.is_list() => {
                return self.read_list(&name, key, items, at);
            }
            (Kind::Statuses, source::Value::Number(_) | source::Value::Text(_)) => {
                return self.read_list(&name, key, std::slice::from_ref(node), at);
            }
            (Kind::Boolean, source::Value::Boolean(is_so)) => Ok(Value::Boolean(*is_so)),
            (Kind::Bytes { .. } | Kind::Count { .. }, source::Value::Number(number)) => {
                let number = Number::Plain(*number);
                key.kind.check_range(number).map(|()| Value::Number(number))
            }
            (Kind::Time { .. }, source::Value::Number(number)) => {
                Err(Fault::new("a duration needs a unit").hint(format!("did you mean \"{number}s\"")))
            }
            (Kind::Boolean, source::Value::Text(text)) if node.is_expanded => Value::parse(&key.kind, text),
            (Kind::PortOrTrue, source::Value::Boolean(is_so)) => Value::parse(&key.kind, &is_so.to_string()),
            (Kind::PortOrTrue, source::Value::Number(port)) => Value::parse(&key.kind, &port.to_string()),
            (Kind::Path(_), source::Value::Text(text)) => {
                let directory = self.sources.file(node.at).parent().unwrap_or(Path::new(""));
                absolute(directory, text).map(Value::Path)
            }
            (kind, _) if kind.is_list() || matches!(kind, Kind::Boolean | Kind::Table(_)) => {
                self.wrong_type(node, &name(), key.kind.expected());
                return Field::Faulty;
            }
            (kind, source::Value::Text(text)) => {
                Value::parse(kind, text).map_err(|fault| match foreign::value_hint(key.name, text) {
                    Some(hint) if fault.hint.is_none() => fault.hint(hint),
                    _ => fault,
                })
            }
            (kind, _) => {
                self.wrong_type(node, &name(), kind.expected());
                return Field::Faulty;
            }
        };
        match read {
            Ok(value) => Field::Given(Located::new(value, at)),
            Err(fault) => {
                self.report.error(&at, &name(), fault);
                Field::Faulty
            }
        }
    }

    /// A list of tables (`[[name]]`).
    fn read_tables(&mut self, section: &'static Section, node: &Node, at: Origin) -> Field<Value> {
        let scope = section.scope();
        let name = section.name;
        let tables: Vec<Values> = match &node.value {
            source::Value::List(items) => items.iter().map(|item| self.read(section, scope, item)).collect(),
            // Others write them by status.
            source::Value::Table(entries) if name == "error_pages" && entries.iter().any(is_status) => {
                let fault = Fault::new("expected a list of tables, found one table");
                let hint = "write [[error_pages]], or [[route.error_pages]] behind a route, with status = \"502\" and file = \"502.html\", once for each page";
                self.report.error(&at, name, fault.hint(hint));
                return Field::Faulty;
            }
            // The commonest slip in TOML: one pair of brackets. Read it as a list of one after saying so.
            source::Value::Table(_) => {
                let fault = Fault::new("expected a list of tables, found one table");
                self.report.error(&at, name, fault.hint(format!("write [[{name}]] (in JSON: [{{...}}])")));
                vec![self.read(section, scope, node)]
            }
            _ => {
                self.wrong_type(node, name, "a list of tables");
                vec![Values { is_faulty: true, ..Values::empty(section, at.clone()) }]
            }
        };
        Field::Given(Located::new(Value::Tables(tables.into()), at))
    }

    fn read_list(
        &mut self,
        name: &dyn Fn() -> String,
        key: &Key,
        items: &[Node],
        at: Origin,
    ) -> Field<Value> {
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            let text = match (&key.kind, &item.value) {
                (_, source::Value::Text(text)) => match text_of(key, item, text) {
                    Ok(text) => text,
                    Err(fault) => {
                        self.report.error(&self.origin(item.at), &name(), fault);
                        continue;
                    }
                },
                (Kind::Ports | Kind::Statuses | Kind::RetryCauses, source::Value::Number(number)) => {
                    number.to_string()
                }
                (kind, _) => {
                    let wanted = match kind {
                        Kind::Ports => "a port",
                        Kind::Statuses => "a status",
                        Kind::RetryCauses => "a cause",
                        _ => "a string",
                    };
                    self.wrong_type(item, &name(), wanted);
                    continue;
                }
            };
            texts.push(Located::new(text, self.origin(item.at)));
        }
        // One bad item must not hide the others, but a list of nothing but bad items is no empty list.
        if texts.is_empty() && !items.is_empty() {
            return Field::Faulty;
        }
        Field::Given(Located::new(Value::Texts(texts), at))
    }

    fn origin(&self, place: Place) -> Origin {
        self.sources.origin(place)
    }

    fn wrong_type(&mut self, node: &Node, key: &str, wanted: &str) {
        if node.value == source::Value::Unknown {
            return;
        }
        let fault = Fault::new(format!("expected {wanted}, found {}", node.value.kind()));
        let fault =
            match (&node.value, wanted) {
                (source::Value::Boolean(_), _) if key == "listener.tls" => {
                    fault.hint("write \"on\", \"off\" or \"detect\"")
                }
                (source::Value::Boolean(_) | source::Value::Text(_), _) if key == "tls" => {
                    fault.hint("write listen_tls = [\"127.0.0.1:8443\"], or tls = \"on\" in a [[listener]]")
                }
                (source::Value::Boolean(_) | source::Value::Text(_), _) if key == "upstream.tls" => fault
                    .hint("servers written as https:// have TLS; this is a table, such as { ca = \"FILE\" }"),
                (source::Value::Table(_), _) if key == "upstream.servers" => fault.hint(
                    "write `server` for servers with settings of their own: server = [{ url = \"http://10.0.0.9:80\", weight = 2 }]",
                ),
                (source::Value::Text(text), _) if key == "route.mirror" => {
                    fault.hint(format!("this is a table, such as {{ upstream = \"{text}\" }}"))
                }
                (source::Value::List(_) | source::Value::Text(_), _) if key.ends_with("_headers") => fault
                    .hint("this is a table, such as { set = [\"Name: value\"] }, with `add` and `remove` beside `set`"),
                (source::Value::Text(text), _) if key == "upstream.server" => {
                    fault.hint(format!("write servers = [\"{text}\"], or server = [{{ url = \"{text}\" }}]"))
                }
                (source::Value::Boolean(_) | source::Value::Text(_), _) if key == "upstream.sticky" => {
                    fault.hint("this is a table, such as { cookie = \"srv\" }")
                }
                (source::Value::Boolean(_) | source::Value::Text(_), _) if key == "upstream.health" => {
                    fault.hint("this is a table, such as { check = \"http\", path = \"/healthz\" }")
                }
                (source::Value::Boolean(_) | source::Value::Number(_), _) if key.ends_with("retry") => {
                    fault.hint("this is a table, such as { attempts = 2 }; attempts = 1 sends nothing again")
                }
                (source::Value::Boolean(_), _) if key == "route.websocket" => fault
                    .hint("write upgrade = [\"websocket\"]; this is a table of what is asked of its frames"),
                (source::Value::Text(text), "a list of strings" | "a list of ports") => {
                    fault.hint(format!("write [\"{text}\"]"))
                }
                (source::Value::List(items), _) if items.len() == 1 => {
                    fault.hint("write the value without the brackets")
                }
                (source::Value::List(_), _) if key == "route.host" => fault.hint("write `hosts` for several"),
                (source::Value::Other("a negative number"), _) => fault.hint("write 0 or more"),
                (source::Value::Other("a fraction"), "a duration") => {
                    fault.hint("write a whole number and a unit, such as \"1500ms\"")
                }
                _ => fault,
            };
        self.report.error(&self.origin(node.at), key, fault);
    }

    /// Reports a key that others have for one of this section; returns ours, which is empty where there is no such one.
    fn foreign_key(&mut self, key: &source::Key, section: &Section) -> Option<&'static str> {
        let (ours, hint) = foreign::hint_in(section.name, &key.name)?;
        let fault = Fault::new("unknown key").hint(hint);
        self.report.error(&self.origin(key.at), &section.full_name(&key.name), fault);
        Some(ours)
    }

    /// Reports a key that is not known here; returns the one that was probably meant.
    fn unknown_key(&mut self, key: &source::Key, section: &Section, scope: Scopes) -> Option<&'static str> {
        let fault = Fault::new("unknown key");
        let known: Vec<_> =
            section.keys.iter().filter(|known| known.scopes.has(scope)).map(|known| known.name).collect();
        let near = closest(&key.name, known.iter().copied()).filter(|_| section.find(&key.name).is_none());
        let fault = if section.find(&key.name).is_some() {
            fault.hint(format!("`{}` is set for all in [{}], not for one {scope}", key.name, section.name))
        } else if let Some(near) = near {
            fault.hint(format!("did you mean `{near}`"))
        } else if let Some(place) = self.place_of(&key.name, section) {
            match place.name {
                "" => fault.hint(format!("`{}` belongs at the top of the file", key.name)),
                _ => fault.hint(format!("`{}` belongs in {}", key.name, place.title())),
            }
        } else if let Some(hint) = foreign::hint(&key.name) {
            fault.hint(hint)
        } else {
            fault.hint(format!("the keys here are {}", known.join(", ")))
        };
        self.report.error(&self.origin(key.at), &section.full_name(&key.name), fault);
        near
    }

    /// The section that a key which is not one of `section` belongs in. A table in a list of tables is meant only there:
    /// elsewhere its names are those that other proxies have for other things.
    fn place_of(&self, key: &str, section: &Section) -> Option<&'static Section> {
        let is_meant = |other: &Section| {
            other.find(key).is_some() && (!other.is_nested() || other.scope() == section.scope())
        };
        self.sections.iter().copied().find(|other| is_meant(other))
    }
}
