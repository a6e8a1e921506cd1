//! The configuration as written: from a file, from flags, or from a file with flags on top.
//!
//! Knows the schema's keys and types, nothing of what values mean together; that is `checked`'s job. Every
//! value keeps its origin, so that the check can point at it. A value of the wrong type is reported here and
//! stays behind as [`Field::Faulty`], so that nobody later calls it missing.

use std::path::Path;
use std::time::Duration;

use super::choices::{Choice, PathForward, RawPaths};
use super::forwarding::RawForwarding;
use super::host::RawHost;
use super::listeners::RawListener;
use super::problem::{ConfigErrors, Fault, Located, Origin, Report, closest};
use super::settings::{Bytes, Kind, RawLimits, RawTimeouts, Time};
use super::shards::RawShards;
use super::source::{Format, Key, Node, Source, Value};
use super::tunnels;
use super::upstreams::{ProxyProtocolOut, SendHost};
use crate::cli::RunArgs;
use sluice_proto::path::SlashLike;

/// A key's value: not there, there but unusable (and reported), or there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Field<T> {
    /// Not written.
    #[default]
    Absent,
    /// Written, of the wrong type, and reported.
    Faulty,
    /// Written.
    Given(Located<T>),
}

impl<T> Field<T> {
    /// A value that came by a flag.
    pub(crate) fn flag(flag: &'static str, value: T) -> Self {
        Self::Given(Located::new(value, Origin::Flag(flag)))
    }

    /// The value, if one was written and could be read.
    pub fn given(&self) -> Option<&Located<T>> {
        match self {
            Self::Given(given) => Some(given),
            Self::Absent | Self::Faulty => None,
        }
    }
}

/// A configuration as written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Raw {
    /// The file, if there is one.
    pub file: Option<Origin>,
    /// `listen`.
    pub listen: Field<Vec<Located<String>>>,
    /// `[[listener]]`.
    pub listeners: Vec<RawListener>,
    /// `shards`, `placement` and what belongs to them.
    pub shards: RawShards,
    /// `pinning`, `steering`, `huge_pages`, `busy_poll`.
    pub host: RawHost,
    /// `drain_timeout`.
    pub drain_timeout: Field<Duration>,
    /// `metrics`.
    pub metrics: Field<String>,
    /// `[timeouts]`.
    pub timeouts: RawTimeouts,
    /// `[limits]`.
    pub limits: RawLimits,
    /// `[paths]`.
    pub paths: RawPaths,
    /// `[forwarding]`.
    pub forwarding: RawForwarding,
    /// `[[upstream]]`.
    pub upstreams: Vec<RawUpstream>,
    /// `[[route]]`.
    pub routes: Vec<RawRoute>,
    /// Type errors met while reading, and warnings met while merging.
    pub report: Report,
}

/// One `[[upstream]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawUpstream {
    /// Where its table starts.
    pub at: Origin,
    /// `name`.
    pub name: Field<String>,
    /// `servers`.
    pub servers: Field<Vec<Located<String>>>,
    /// `proxy_protocol`.
    pub proxy_protocol: Field<ProxyProtocolOut>,
    /// `send_host`.
    pub send_host: Field<SendHost>,
}

/// One `[[route]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRoute {
    /// Where its table starts.
    pub at: Origin,
    /// `host`.
    pub host: Field<String>,
    /// `path`.
    pub path: Field<String>,
    /// `path_prefix`.
    pub path_prefix: Field<String>,
    /// `methods`.
    pub methods: Field<Vec<Located<String>>>,
    /// `path_forward`.
    pub path_forward: Field<PathForward>,
    /// `path_encoded_slash`.
    pub path_encoded_slash: Field<SlashLike>,
    /// `upstream`.
    pub upstream: Field<String>,
    /// `body_bytes`.
    pub body_bytes: Field<u64>,
    /// `request_timeout`.
    pub request_timeout: Field<Duration>,
    /// `send_host`.
    pub send_host: Field<SendHost>,
    /// `upgrade`.
    pub upgrade: Field<Vec<Located<String>>>,
    /// `connect`, numbers as text.
    pub connect: Field<Vec<Located<String>>>,
}

const TOP_KEYS: &[&str] = &[
    "listen",
    "shards",
    "placement",
    "cpus",
    "smt",
    "reserve",
    "pinning",
    "steering",
    "huge_pages",
    "busy_poll",
    "drain_timeout",
    "metrics",
    "timeouts",
    "limits",
    "paths",
    "forwarding",
    "listener",
    "upstream",
    "route",
];
pub(super) const UPSTREAM_KEYS: &[&str] = &["name", "servers", "proxy_protocol", "send_host"];
pub(super) const ROUTE_KEYS: &[&str] = &[
    "host",
    "path",
    "path_prefix",
    "methods",
    "path_forward",
    "path_encoded_slash",
    "upstream",
    "body_bytes",
    "request_timeout",
    "send_host",
    "upgrade",
    "connect",
];

/// The keys of every section, to tell where a misplaced one belongs.
const SECTIONS: &[(&str, &[&str])] = &[
    ("", TOP_KEYS),
    ("timeouts", RawTimeouts::KEYS),
    ("limits", RawLimits::KEYS),
    ("paths", RawPaths::KEYS),
    ("forwarding", RawForwarding::KEYS),
    ("listener", RawListener::KEYS),
    ("upstream", UPSTREAM_KEYS),
    ("route", ROUTE_KEYS),
];

/// What flags with upstreams call their group.
pub const FLAG_UPSTREAM: &str = "command-line";

impl Raw {
    /// Reads a file. Values of the wrong type and unknown keys are in [`Raw::report`], so that the check can
    /// add its own findings to them.
    ///
    /// # Errors
    /// The file cannot be read, or its syntax is broken.
    pub fn load(file: &Path) -> Result<Self, ConfigErrors> {
        let text = std::fs::read(file).and_then(|bytes| {
            String::from_utf8(bytes)
                .map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, "not UTF-8 text"))
        });
        match text {
            Ok(text) => Self::parse(file, text),
            Err(error) => {
                let mut report = Report::default();
                report.error(
                    &Origin::WholeFile(file.into()),
                    "",
                    Fault::new(format!("cannot read: {error}")),
                );
                Err(ConfigErrors { errors: report.errors, warnings: report.warnings })
            }
        }
    }

    /// Reads the text of a file; its name decides the format (`.json` is JSON, everything else TOML).
    ///
    /// # Errors
    /// The syntax is broken.
    pub fn parse(file: &Path, text: String) -> Result<Self, ConfigErrors> {
        let source = Source::new(file, text);
        let mut report = Report::default();
        let Some(root) = source.parse(Format::of(file), &mut report) else {
            return Err(ConfigErrors { errors: report.errors, warnings: report.warnings });
        };
        let mut walk = Walk { source: &source, report };
        let mut raw = Self::read(&mut walk, &root);
        raw.file = Some(source.whole());
        raw.report = walk.report;
        Ok(raw)
    }

    fn read(walk: &mut Walk<'_>, root: &Node) -> Self {
        let top = walk.table(root, "", TOP_KEYS);
        let mut raw = Self {
            listen: top.texts(walk, "listen"),
            shards: RawShards::read(walk, &top),
            host: RawHost::read(walk, &top),
            drain_timeout: top.number::<Time>(walk, "drain_timeout"),
            metrics: top.text(walk, "metrics"),
            ..Self::default()
        };
        if let Some(node) = top.find("timeouts") {
            raw.timeouts = RawTimeouts::read(walk, node);
        }
        if let Some(node) = top.find("limits") {
            raw.limits = RawLimits::read(walk, node);
        }
        if let Some(node) = top.find("paths") {
            raw.paths = RawPaths::read(walk, node);
        }
        if let Some(node) = top.find("forwarding") {
            raw.forwarding = RawForwarding::read(walk, node);
        }
        for node in top.tables(walk, "listener") {
            let fields = walk.table(node, "listener", RawListener::KEYS);
            let at = walk.source.at(node.offset);
            raw.listeners.push(RawListener::read(walk, at, &fields));
        }
        for node in top.tables(walk, "upstream") {
            let fields = walk.table(node, "upstream", UPSTREAM_KEYS);
            raw.upstreams.push(RawUpstream {
                at: walk.source.at(node.offset),
                name: fields.text(walk, "name"),
                servers: fields.texts(walk, "servers"),
                proxy_protocol: fields.choice(walk, "proxy_protocol"),
                send_host: fields.choice(walk, "send_host"),
            });
        }
        for node in top.tables(walk, "route") {
            let fields = walk.table(node, "route", ROUTE_KEYS);
            raw.routes.push(RawRoute {
                at: walk.source.at(node.offset),
                host: fields.text(walk, "host"),
                path: fields.text(walk, "path"),
                path_prefix: fields.text(walk, "path_prefix"),
                methods: fields.texts(walk, "methods"),
                path_forward: fields.choice(walk, "path_forward"),
                path_encoded_slash: fields.choice(walk, "path_encoded_slash"),
                upstream: fields.text(walk, "upstream"),
                body_bytes: fields.number::<Bytes>(walk, "body_bytes"),
                request_timeout: fields.number::<Time>(walk, "request_timeout"),
                send_host: fields.choice(walk, "send_host"),
                upgrade: fields.texts(walk, "upgrade"),
                connect: fields.ports(walk, "connect"),
            });
        }
        raw
    }

    /// Lays the flags over what the file says. A flag replaces its key; a list of CPUs
    /// replaces the other keys of placement; `--upstream` replaces all upstreams and routes, because the routes of the file name
    /// upstreams of the file.
    pub fn merge(&mut self, flags: &RunArgs) {
        let texts = |flag: &'static str, values: &[String]| {
            let located =
                values.iter().map(|value| Located::new(value.clone(), Origin::Flag(flag))).collect();
            Field::flag(flag, located)
        };
        self.set_listeners(flags);
        self.shards.set(&flags.shards);
        if let Some(timeout) = flags.drain_timeout {
            self.drain_timeout = Field::flag("--drain-timeout", timeout);
        }
        if let Some(address) = &flags.metrics {
            self.metrics = Field::flag("--metrics", address.clone());
        }
        self.host.set(&flags.host);
        self.timeouts.set(&flags.timeouts);
        self.limits.set(&flags.limits);
        self.paths.set(&flags.paths);
        self.forwarding.set(&flags.forwarding);
        if flags.upstream.is_empty() {
            return;
        }
        let at = Origin::Flag("--upstream");
        if !self.upstreams.is_empty() || !self.routes.is_empty() {
            let what = format!(
                "replaces the {} upstreams and {} routes of the file",
                self.upstreams.len(),
                self.routes.len()
            );
            self.report.warn(&at, "upstream", Fault::new(what));
        }
        self.upstreams = vec![RawUpstream {
            at: at.clone(),
            name: Field::flag("--upstream", FLAG_UPSTREAM.to_owned()),
            servers: texts("--upstream", &flags.upstream),
            proxy_protocol: flags
                .upstream_proxy_protocol
                .map_or(Field::Absent, |version| Field::flag("--upstream-proxy-protocol", version)),
            send_host: flags.upstream_host.map_or(Field::Absent, |host| Field::flag("--upstream-host", host)),
        }];
        self.routes = vec![RawRoute {
            at,
            host: Field::Absent,
            path: Field::Absent,
            path_prefix: Field::Absent,
            methods: Field::Absent,
            path_forward: Field::Absent,
            path_encoded_slash: Field::Absent,
            upstream: Field::flag("--upstream", FLAG_UPSTREAM.to_owned()),
            body_bytes: Field::Absent,
            request_timeout: Field::Absent,
            send_host: Field::Absent,
            upgrade: tunnels::of_flag("--upgrade", &flags.upgrade),
            connect: tunnels::of_flag("--connect", &flags.connect),
        }];
    }

    /// Listeners of flags replace all of the file.
    fn set_listeners(&mut self, flags: &RunArgs) {
        let texts = |flag: &'static str, values: &[String]| {
            let located =
                values.iter().map(|value| Located::new(value.clone(), Origin::Flag(flag))).collect();
            Field::flag(flag, located)
        };
        if flags.listen.is_empty() && flags.listen_proxy_protocol.is_empty() {
            return;
        }
        self.listen = if flags.listen.is_empty() { Field::Absent } else { texts("--listen", &flags.listen) };
        let from = match &*flags.proxy_protocol_from {
            [] => Field::Absent,
            networks => texts("--proxy-protocol-from", networks),
        };
        let of_flag = |address: &String| RawListener::of_flag(address, &from);
        self.listeners = flags.listen_proxy_protocol.iter().map(of_flag).collect();
    }
}

/// A walk over the tree of one file: turns offsets into places and collects what is wrong.
pub(crate) struct Walk<'s> {
    source: &'s Source,
    report: Report,
}

impl Walk<'_> {
    /// The entries of a table; complains about unknown and repeated keys, and about anything but a table.
    pub(crate) fn table<'n>(&mut self, node: &'n Node, section: &'static str, known: &[&str]) -> Fields<'n> {
        let Value::Table(entries) = &node.value else {
            let what = format!("expected a table, found {}", node.value.kind());
            self.report.error(&self.source.at(node.offset), section, Fault::new(what));
            return Fields { section, entries: &[] };
        };
        for (i, (key, _)) in entries.iter().enumerate() {
            if !known.contains(&key.name.as_str()) {
                self.unknown_key(key, section, known);
            // TOML forbids a repeated key, JSON lets it through and leaves open which one counts.
            } else if entries[..i].iter().any(|(earlier, _)| earlier.name == key.name) {
                let at = self.source.at(key.offset);
                self.report.error(&at, &full_key(section, &key.name), Fault::new("is there twice"));
            }
        }
        Fields { section, entries }
    }

    fn unknown_key(&mut self, key: &Key, section: &str, known: &[&str]) {
        let fault = Fault::new("unknown key");
        let elsewhere = SECTIONS.iter().find(|(_, keys)| keys.contains(&key.name.as_str()));
        let fault = if let Some(near) = closest(&key.name, known.iter().copied()) {
            fault.hint(format!("did you mean `{near}`"))
        } else if let Some((place, _)) = elsewhere {
            match *place {
                "" => fault.hint(format!("`{}` belongs at the top of the file", key.name)),
                place => fault.hint(format!("`{}` belongs into [{place}]", key.name)),
            }
        } else {
            fault.hint(format!("the keys here are {}", known.join(", ")))
        };
        self.report.error(&self.source.at(key.offset), &full_key(section, &key.name), fault);
    }

    fn wrong_type<T>(&mut self, node: &Node, key: &str, wanted: &str) -> Field<T> {
        let what = format!("expected {wanted}, found {}", node.value.kind());
        self.report.error(&self.source.at(node.offset), key, Fault::new(what));
        Field::Faulty
    }
}

/// The entries of one table, to be asked for by key.
pub(crate) struct Fields<'n> {
    section: &'static str,
    entries: &'n [(Key, Node)],
}

impl<'n> Fields<'n> {
    fn find(&self, name: &str) -> Option<&'n Node> {
        self.entries.iter().find(|(key, _)| key.name == name).map(|(_, node)| node)
    }

    pub(crate) fn text(&self, walk: &mut Walk<'_>, name: &str) -> Field<String> {
        match self.find(name) {
            None => Field::Absent,
            Some(node) => match &node.value {
                Value::Text(text) => Field::Given(Located::new(text.clone(), walk.source.at(node.offset))),
                _ => walk.wrong_type(node, &full_key(self.section, name), "a string"),
            },
        }
    }

    /// True or false.
    pub(crate) fn boolean(&self, walk: &mut Walk<'_>, name: &str) -> Field<bool> {
        match self.find(name) {
            None => Field::Absent,
            Some(node) => match node.value {
                Value::Boolean(is_so) => Field::Given(Located::new(is_so, walk.source.at(node.offset))),
                _ => walk.wrong_type(node, &full_key(self.section, name), "true or false"),
            },
        }
    }

    /// One of a few words.
    pub(crate) fn choice<C: Choice>(&self, walk: &mut Walk<'_>, name: &str) -> Field<C> {
        match self.text(walk, name) {
            Field::Absent => Field::Absent,
            Field::Faulty => Field::Faulty,
            Field::Given(Located { value, at }) => match C::parse(&value) {
                Ok(choice) => Field::Given(Located::new(choice, at)),
                Err(fault) => {
                    walk.report.error(&at, &full_key(self.section, name), fault);
                    Field::Faulty
                }
            },
        }
    }

    /// A list of strings.
    pub(crate) fn texts(&self, walk: &mut Walk<'_>, name: &str) -> Field<Vec<Located<String>>> {
        self.list(walk, name, "a string", |value| match value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        })
    }

    /// A list of ports, which may be written as numbers.
    fn ports(&self, walk: &mut Walk<'_>, name: &str) -> Field<Vec<Located<String>>> {
        self.list(walk, name, "a port", |value| match value {
            Value::Text(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        })
    }

    fn list(
        &self,
        walk: &mut Walk<'_>,
        name: &str,
        what: &str,
        read: impl Fn(&Value) -> Option<String>,
    ) -> Field<Vec<Located<String>>> {
        let Some(node) = self.find(name) else { return Field::Absent };
        let key = full_key(self.section, name);
        let Value::List(items) = &node.value else {
            return walk.wrong_type(node, &key, &format!("a list of {}s", what.trim_start_matches("a ")));
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match read(&item.value) {
                Some(text) => texts.push(Located::new(text, walk.source.at(item.offset))),
                None => {
                    walk.wrong_type::<()>(item, &key, what);
                }
            }
        }
        // One bad item must not hide the others, but a list of nothing but bad items is no empty list.
        if texts.is_empty() && !items.is_empty() {
            return Field::Faulty;
        }
        Field::Given(Located::new(texts, walk.source.at(node.offset)))
    }

    /// A time, size or count.
    pub(crate) fn number<K: Kind>(&self, walk: &mut Walk<'_>, name: &str) -> Field<K::Raw> {
        let Some(node) = self.find(name) else { return Field::Absent };
        let key = full_key(self.section, name);
        let parsed = match &node.value {
            Value::Text(text) => K::parse(text),
            Value::Number(number) => K::from_number(*number),
            _ => return walk.wrong_type(node, &key, K::NAME),
        };
        let at = walk.source.at(node.offset);
        match parsed {
            Ok(value) => Field::Given(Located::new(value, at)),
            Err(fault) => {
                walk.report.error(&at, &key, fault);
                Field::Faulty
            }
        }
    }

    /// A list of tables (`[[name]]`).
    fn tables(&self, walk: &mut Walk<'_>, name: &str) -> &'n [Node] {
        let Some(node) = self.find(name) else { return &[] };
        match &node.value {
            Value::List(items) => items,
            // The commonest slip in TOML: one pair of brackets. Read it as a list of one after saying so.
            Value::Table(_) => {
                let fault = Fault::new("expected a list of tables, found one table")
                    .hint(format!("write [[{name}]] (in JSON: [{{...}}])"));
                walk.report.error(&walk.source.at(node.offset), name, fault);
                std::slice::from_ref(node)
            }
            _ => {
                walk.wrong_type::<()>(node, name, "a list of tables");
                &[]
            }
        }
    }
}

fn full_key(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(name: &str, text: &str) -> Vec<String> {
        match Raw::parse(Path::new(name), text.to_owned()) {
            Ok(raw) => raw.report.errors.iter().map(ToString::to_string).collect(),
            Err(errors) => errors.to_string().lines().map(str::to_owned).collect(),
        }
    }

    #[test]
    fn every_wrong_type_and_unknown_key_is_told() {
        let text = r#"
listne = ["127.0.0.1:80"]
shards = "two"
header_fields = 3
[timeouts]
request_head = 10
body_idle = "soon"
reqest_head = "1s"
[limits]
head_bytes = true
abuse_score = -1
[[upstream]]
name = 1
servers = ["http://a", 2]
[[route]]
pathprefix = "/"
"#;
        assert_eq!(
            errors("f.toml", text),
            [
                "f.toml:2:1: listne: unknown key (hint: did you mean `listen`)",
                "f.toml:4:1: header_fields: unknown key (hint: `header_fields` belongs into [limits])",
                "f.toml:3:10: shards: `two` is not a whole number",
                "f.toml:8:1: timeouts.reqest_head: unknown key (hint: did you mean `request_head`)",
                "f.toml:6:16: timeouts.request_head: a duration needs a unit (hint: did you mean \"10s\")",
                "f.toml:7:13: timeouts.body_idle: `soon` is not a duration (hint: write a whole number and a unit: \
                 500ms, 10s, 2m or 1h)",
                "f.toml:10:14: limits.head_bytes: expected a size, found a boolean",
                "f.toml:11:15: limits.abuse_score: expected a whole number, found a negative number",
                "f.toml:13:8: upstream.name: expected a string, found a number",
                "f.toml:14:24: upstream.servers: expected a string, found a number",
                "f.toml:16:1: route.pathprefix: unknown key (hint: did you mean `path_prefix`)",
            ]
        );
    }

    #[test]
    fn json_repeated_key_and_single_table() {
        let text = "{\"listen\": [],\n\"listen\": [],\n\"route\": {\"upstream\": \"a\"}}";
        assert_eq!(
            errors("f.json", text),
            [
                "f.json:2:1: listen: is there twice",
                "f.json:3:10: route: expected a list of tables, found one table (hint: write [[route]] (in JSON: \
                 [{...}]))",
            ]
        );
    }

    #[test]
    fn unreadable_file_is_one_line() {
        let errors = Raw::load(Path::new("/nonexistent/x.toml")).unwrap_err().to_string();
        assert_eq!(errors, "/nonexistent/x.toml: cannot read: No such file or directory (os error 2)");
    }
}
