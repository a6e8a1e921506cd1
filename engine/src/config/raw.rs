//! The configuration as written: from a file, from flags, or from a file with flags on top.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::choices::{Choice, ProxyProtocolIn};
use super::key::{Scopes, Section};
use super::load::{self, Loaded};
use super::problem::{ConfigErrors, Fault, Located, Origin, Report, closest};
use super::source::Sources;
use super::table::{self, CERTIFICATES, LISTENERS, ROUTES, SECTIONS, TOP, UPSTREAMS};
use super::values::{Field, Reader, Value, Values};

/// What the upstream of `--upstream` is called.
pub const FLAG_UPSTREAM: &str = "command-line";

/// A configuration as written.
#[derive(Debug, Clone)]
pub struct Raw {
    /// The file, if there is one.
    pub file: Option<Origin>,
    /// What is written.
    pub top: Values,
    /// Errors met while reading, and warnings.
    pub report: Report,
}

impl Default for Raw {
    fn default() -> Raw {
        Raw { file: None, top: Values::empty(&TOP, Origin::CommandLine), report: Report::default() }
    }
}

/// What the command line says of the configuration.
#[derive(Debug, Clone, Default)]
pub struct CommandLine {
    /// The file, `-` for standard input.
    pub config: Option<PathBuf>,
    /// Flags and their values, in order.
    pub flags: Vec<(Cow<'static, str>, String)>,
    /// `section.key=value`, in order.
    pub set: Vec<String>,
}

impl CommandLine {
    /// Adds a flag.
    #[must_use]
    pub fn with(mut self, flag: &'static str, value: impl Into<String>) -> CommandLine {
        self.flags.push((flag.into(), value.into()));
        self
    }

    /// Whether there is no flag at all, apart from those that say how messages are written.
    pub fn says_nothing(&self) -> bool {
        let is_about_messages = |(flag, _): &(Cow<'_, str>, String)| flag.starts_with("--log-");
        self.config.is_none() && self.flags.iter().all(is_about_messages) && self.set.is_empty()
    }

    fn has(&self, flags: &[&str]) -> bool {
        self.flags.iter().any(|(flag, _)| flags.contains(&flag.as_ref()))
    }

    fn values<'a>(&'a self, wanted: &'a str) -> impl Iterator<Item = &'a str> {
        self.flags.iter().filter(move |(flag, _)| flag == wanted).map(|(_, value)| value.as_str())
    }
}

/// A flag that makes a part of a section that is a list of tables.
#[derive(Debug)]
pub struct ListFlag {
    /// With the dashes.
    pub flag: &'static str,
    /// What stands for its value in help texts.
    pub placeholder: &'static str,
    /// What it does.
    pub doc: &'static str,
    /// It has no meaning without this one.
    pub requires: &'static str,
    /// Its key in the table that it belongs to; with a dot, that in a table of this table.
    key: &'static str,
}

/// These make a `[[listener]]`.
const LISTENER_FLAGS: [ListFlag; 2] = [
    ListFlag {
        flag: "--listen-proxy-protocol",
        placeholder: "ADDR:PORT",
        doc: "The same as --listen, where every connection begins with a PROXY protocol header; repeatable",
        requires: "",
        key: "address",
    },
    ListFlag {
        flag: "--proxy-protocol-from",
        placeholder: "CIDR",
        doc: "Address or network (CIDR) that may send PROXY protocol headers there [default: any]; repeatable",
        requires: "--listen-proxy-protocol",
        key: "proxy_protocol_from",
    },
];

/// The flags that name an address of their own to listen on.
const LISTEN_FLAGS: [&str; 3] = ["--listen", "--listen-tls", "--listen-proxy-protocol"];

/// These make a `[[certificate]]`.
const CERTIFICATE_FLAGS: [ListFlag; 2] = [
    ListFlag {
        flag: "--tls-cert",
        placeholder: "FILE",
        doc: "Certificate and its chain for TLS with clients, PEM; repeatable: clients get the one for the name they ask for",
        requires: "",
        key: "cert",
    },
    ListFlag {
        flag: "--tls-key",
        placeholder: "FILE",
        doc: "Key of the --tls-cert before it, PEM; repeatable [default: the file of the certificate]",
        requires: "--tls-cert",
        key: "key",
    },
];

/// These make an `[[upstream]]`.
const UPSTREAM_FLAGS: [ListFlag; 5] = [
    ListFlag {
        flag: "--upstream",
        placeholder: "URL",
        doc: "Server for every request, as http://host:port, https://host:port or h2c://host:port; repeatable: round robin. Replaces upstreams and routes of the file",
        requires: "",
        key: "servers",
    },
    ListFlag {
        flag: "--upstream-protocol",
        placeholder: "h1|h2",
        doc: "HTTP/1.1, or HTTP/2: over TLS by ALPN, in clear text by prior knowledge [default: h2 for h2c:// servers, else h1]",
        requires: "--upstream",
        key: "protocol",
    },
    ListFlag {
        flag: "--upstream-proxy-protocol",
        placeholder: "off|v1|v2",
        doc: "Begin connections to these servers with a PROXY protocol header; each then serves one client only [default: off]",
        requires: "--upstream",
        key: "proxy_protocol",
    },
    ListFlag {
        flag: "--upstream-host",
        placeholder: "client|server",
        doc: "The Host that these servers get, the client's or their own [default: client]",
        requires: "--upstream",
        key: "send_host",
    },
    ListFlag {
        flag: "--upstream-ca",
        placeholder: "FILE",
        doc: "Certificates of the authorities that https:// servers are verified by, PEM [default: those of this system]",
        requires: "--upstream",
        key: "tls.ca",
    },
];

/// These make a `[[route]]`.
const ROUTE_FLAGS: [ListFlag; 2] = [
    ListFlag {
        flag: "--upgrade",
        placeholder: "PROTOCOL",
        doc: "Protocol that clients may change to by Upgrade, such as websocket; repeatable [default: none]",
        requires: "--upstream",
        key: "upgrade",
    },
    ListFlag {
        flag: "--connect",
        placeholder: "PORTS",
        doc: "Port, or first and last, that clients may reach by CONNECT through the server, such as 443 or 8000-8999; repeatable [default: none]",
        requires: "--upstream",
        key: "connect",
    },
];

/// Every flag that makes a part of a list of tables.
pub fn list_flags() -> impl Iterator<Item = &'static ListFlag> {
    LISTENER_FLAGS.iter().chain(&CERTIFICATE_FLAGS).chain(&UPSTREAM_FLAGS).chain(&ROUTE_FLAGS)
}

impl Raw {
    /// The routes as they are written, in the order of the file.
    pub fn routes(&self) -> impl Iterator<Item = &Values> {
        let tables = match self.top.field("route").given().map(|given| &given.value) {
            Some(Value::Tables(tables)) => &tables[..],
            _ => &[],
        };
        tables.iter()
    }

    /// Reads a file. Values of the wrong type and unknown keys are in [`Raw::report`], so that the check can
    /// add its own findings to them.
    ///
    /// # Errors
    /// The file cannot be read, or its syntax is broken.
    pub fn load(file: &Path) -> Result<Self, ConfigErrors> {
        let (mut sources, mut report) = (Sources::default(), Report::default());
        let root = load::load(file, &mut sources, &mut report);
        Self::read(file, &sources, root, report)
    }

    /// Reads the text of a file; its name decides the format (`.json` is JSON, everything else TOML).
    ///
    /// # Errors
    /// The syntax is broken.
    pub fn parse(file: &Path, text: String) -> Result<Self, ConfigErrors> {
        let (mut sources, mut report) = (Sources::default(), Report::default());
        let root = load::parse(file, text, &mut sources, &mut report);
        Self::read(file, &sources, root, report)
    }

    fn read(
        file: &Path,
        sources: &Sources,
        loaded: Option<Loaded>,
        report: Report,
    ) -> Result<Self, ConfigErrors> {
        let Some(Loaded { root, is_whole }) = loaded else { return Err(report.into_errors()) };
        let mut reader = Reader { sources, sections: SECTIONS, report };
        let top = reader.read(&TOP, Scopes::GLOBAL, &root);
        // Whatever the missing part says would now be called missing.
        if !is_whole {
            return Err(reader.report.into_errors());
        }
        Ok(Raw { file: Some(Origin::WholeFile(file.into())), top, report: reader.report })
    }

    /// Lays the command line over what the file says. A flag replaces its key; a list of CPUs replaces the other keys of placement;
    /// `--upstream` replaces all upstreams and routes, because the routes of the file name upstreams of the file.
    pub fn apply(&mut self, line: &CommandLine) {
        self.make_room_for_placement(line);
        self.set_listeners(line);
        self.set_certificates(line);
        for (flag, value) in &line.flags {
            if let Some((section, key)) = table::flags().find(|(_, key)| key.flag == flag) {
                self.set(section.name, key.name, value, &Origin::Flag(flag.clone()));
            }
        }
        self.set_upstream(line);
        line.set.iter().for_each(|assignment| self.assign(assignment));
    }

    fn set(&mut self, section: &str, key: &str, value: &str, at: &Origin) {
        let values = if section.is_empty() { &mut self.top } else { self.top.table_mut(section) };
        if let Err(fault) = values.set(key, value, at) {
            let name = values.section().full_name(key);
            self.report.error(at, &name, fault);
        }
    }

    /// A list of CPUs replaces everything else of placement, and anything else a list.
    fn make_room_for_placement(&mut self, line: &CommandLine) {
        let is_list = |placement: &str| placement.starts_with("cpus=");
        if line.has(&["--cpus"]) || line.values("--placement").any(is_list) {
            for key in ["shards", "placement", "cpus", "smt", "reserve"] {
                *self.top.field_mut(key) = Field::Absent;
            }
        } else if line.has(&["--shards", "--smt", "--reserve", "--placement"]) {
            *self.top.field_mut("cpus") = Field::Absent;
            let placement = self.top.field_mut("placement");
            if matches!(placement.given(), Some(Located { value: Value::Text(text), .. }) if is_list(text)) {
                *placement = Field::Absent;
            }
        }
    }

    /// Listeners of flags replace all of the file.
    fn set_listeners(&mut self, line: &CommandLine) {
        let addresses: Vec<&str> = line.values("--listen-proxy-protocol").collect();
        if !line.has(&LISTEN_FLAGS) {
            return;
        }
        *self.top.field_mut("listen") = Field::Absent;
        *self.top.field_mut("listen_tls") = Field::Absent;
        let at = Origin::Flag("--listen-proxy-protocol".into());
        let of_flag = |address: &&str| {
            let mut listener = Values::empty(&LISTENERS, at.clone());
            let set = listener.set("address", address, &at);
            let set =
                set.and_then(|()| listener.set("proxy_protocol", ProxyProtocolIn::Required.word(), &at));
            debug_assert!(set.is_ok(), "text is text");
            set_list(&mut listener, &LISTENER_FLAGS[1..], line);
            listener
        };
        let listeners = Value::Tables(addresses.iter().map(of_flag).collect());
        *self.top.field_mut("listener") = Field::Given(Located::new(listeners, at.clone()));
    }

    /// Certificates of flags replace all of the file.
    fn set_certificates(&mut self, line: &CommandLine) {
        if !line.has(&["--tls-cert"]) {
            return;
        }
        let at = Origin::Flag("--tls-cert".into());
        let count = self.tables("certificate");
        if count > 0 {
            let what = format!("replaces the {count} certificates of the file");
            self.report.warn(&at, "certificate", Fault::new(what));
        }
        let mut certificates: Vec<Values> = Vec::new();
        let mut keys = Vec::new();
        for (flag, value) in &line.flags {
            match flag.as_ref() {
                "--tls-cert" => {
                    let mut certificate = Values::empty(&CERTIFICATES, at.clone());
                    self.set_in(&mut certificate, "cert", value, &at);
                    certificates.push(certificate);
                }
                // Behind the certificate that it belongs to; or in front, where each certificate has one.
                "--tls-key" => keys.push((certificates.len(), value)),
                _ => {}
            }
        }
        let is_in_turn = keys.len() == certificates.len();
        let key_at = Origin::Flag("--tls-key".into());
        for (number, (before, value)) in keys.iter().enumerate() {
            let owner = if is_in_turn { number } else { before.saturating_sub(1) };
            if certificates[owner].field("key").given().is_some() {
                let fault = Fault::new(format!("`{value}` is a second key of one certificate"));
                self.report.error(
                    &key_at,
                    "certificate.key",
                    fault.hint("write each --tls-key behind its --tls-cert"),
                );
            } else {
                self.set_in(&mut certificates[owner], "key", value, &key_at);
            }
        }
        *self.top.field_mut("certificate") =
            Field::Given(Located::new(Value::Tables(certificates.into()), at));
    }

    fn set_in(&mut self, values: &mut Values, key: &str, value: &str, at: &Origin) {
        if let Err(fault) = values.set(key, value, at) {
            self.report.error(at, &values.section().full_name(key), fault);
        }
    }

    /// How many tables the file has of a list.
    fn tables(&self, key: &str) -> usize {
        match self.top.field(key).given() {
            Some(Located { value: Value::Tables(tables), .. }) => tables.len(),
            _ => 0,
        }
    }

    fn set_upstream(&mut self, line: &CommandLine) {
        if !line.has(&["--upstream"]) {
            return;
        }
        let at = Origin::Flag("--upstream".into());
        let (upstreams, routes) = (self.tables("upstream"), self.tables("route"));
        if upstreams + routes > 0 {
            let what = format!("replaces the {upstreams} upstreams and {routes} routes of the file");
            self.report.warn(&at, "upstream", Fault::new(what));
        }
        let mut upstream = Values::empty(&UPSTREAMS, at.clone());
        let mut route = Values::empty(&ROUTES, at.clone());
        let named =
            upstream.set("name", FLAG_UPSTREAM, &at).and_then(|()| route.set("upstream", FLAG_UPSTREAM, &at));
        debug_assert!(named.is_ok(), "text is text");
        let faults =
            [set_list(&mut upstream, &UPSTREAM_FLAGS, line), set_list(&mut route, &ROUTE_FLAGS, line)];
        for (origin, key, fault) in faults.into_iter().flatten() {
            self.report.error(&origin, &key, fault);
        }
        *self.top.field_mut("upstream") =
            Field::Given(Located::new(Value::Tables([upstream].into()), at.clone()));
        *self.top.field_mut("route") = Field::Given(Located::new(Value::Tables([route].into()), at));
    }

    /// Sets what `--set` says.
    fn assign(&mut self, assignment: &str) {
        let (name, value) = assignment.split_once('=').unwrap_or((assignment, ""));
        let at = Origin::Flag(format!("--set {name}").into());
        let (section, key) = name.split_once('.').unwrap_or(("", name));
        let is_name = !name.starts_with('.');
        let is_settable = |section: &&Section| section.scope() == Scopes::GLOBAL && !section.is_list();
        let settable = || SECTIONS.iter().copied().filter(is_settable);
        let found =
            settable().find(|known| is_name && known.name == section).and_then(|section| section.find(key));
        match found {
            _ if !assignment.contains('=') => {
                let fault = Fault::new("there is no value").hint(format!("write --set {name}=VALUE"));
                self.report.error(&at, name, fault);
            }
            Some((_, known)) if known.name == "include" => {
                let fault =
                    Fault::new("only a file includes others").hint("write it into a file, or use --config");
                self.report.error(&at, name, fault);
            }
            Some((_, known)) if known.kind.placeholder().is_empty() => {
                let fault =
                    Fault::new(format!("`{name}` is a table")).hint("set its keys one by one, or use a file");
                self.report.error(&at, name, fault);
            }
            Some((_, known)) if known.kind.is_list() => {
                value.split(',').for_each(|item| self.set(section, key, item.trim(), &at));
            }
            Some(_) => self.set(section, key, value, &at),
            None => {
                let names: Vec<String> = settable()
                    .flat_map(|section| section.keys.iter().map(|key| section.full_name(key.name)))
                    .collect();
                let fault = Fault::new("unknown key");
                let fault = match closest(name, names.iter().map(String::as_str)) {
                    Some(near) => fault.hint(format!("did you mean `{near}`")),
                    None => fault.hint("`sluice config --effective` lists the keys; those of listeners, upstreams and routes need a file"),
                };
                self.report.error(&at, name, fault);
            }
        }
    }
}

/// Sets the keys of a table that flags make; returns what could not be read.
fn set_list(values: &mut Values, flags: &[ListFlag], line: &CommandLine) -> Vec<(Origin, String, Fault)> {
    let mut faults = Vec::new();
    for ListFlag { flag, key, .. } in flags {
        for value in line.values(flag) {
            let at = Origin::Flag((*flag).into());
            let (table, key) = match key.split_once('.') {
                Some((table, key)) => (values.table_mut(table), key),
                None => (&mut *values, *key),
            };
            if let Err(fault) = table.set(key, value, &at) {
                faults.push((at, table.section().full_name(key), fault));
            }
        }
    }
    faults
}
