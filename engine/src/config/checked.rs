//! The configuration as the engine sees it: complete, consistent, nothing left to parse.
//!
//! `Config::check` is the only way to make one from what was written. It goes on after an error, so that its report is complete.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::acme::{Acme, check_acme};
use super::address::parse_listen_tcp;
use super::certificates::{CertificateFiles, check_certificates};
use super::forwarding::Forwarding;
use super::host::Host;
use super::listeners::{Listener, check_listeners};
use super::policy::check_global;
use super::problem::{ConfigErrors, Fault, Origin, Problem, Report};
use super::raw::Raw;
use super::retry;
use super::routes::{Route, check_routes};
use super::shards::ShardChoice;
use super::table::{ForwardingKeys, Http2, Limits, Paths, Timeouts, TlsKeys, Top};
use super::tls::{self, TlsSettings};
use super::upstreams::{UpstreamGroup, check_upstreams};
use super::values::{Field, Values};
use crate::log::Log;
use crate::policy::fixed::ErrorPages;

/// A checked configuration. Immutable; what a reload brings is another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to accept connections; at least one.
    pub listeners: Vec<Listener>,
    /// Which CPUs get a shard.
    pub shards: ShardChoice,
    /// How shards use the machine.
    pub host: Host,
    /// How long a drain may take; zero ends at once.
    pub drain_timeout: Duration,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// Where ticket keys, and the account and certificates of ACME, are kept.
    pub state_dir: Option<PathBuf>,
    /// Which messages are written, and how.
    pub log: Log,
    /// How long to wait for peers.
    pub timeouts: Timeouts,
    /// How much to take from peers.
    pub limits: Limits,
    /// How to read paths.
    pub paths: Paths,
    /// What servers learn of clients.
    pub forwarding: Forwarding,
    /// HTTP/2, of all listeners and upstreams.
    pub http2: Http2,
    /// What listeners with TLS have in common.
    pub tls: TlsSettings,
    /// Certificates shown to clients; the first one is for clients that ask for no name, or for one that none has.
    pub certificates: Vec<CertificateFiles>,
    /// Where more certificates come from.
    pub acme: Option<Acme>,
    /// Groups of servers; at least one.
    pub upstreams: Vec<UpstreamGroup>,
    /// Routes in the order of the file; at least one. The index is the route's number everywhere.
    pub routes: Vec<Route>,
    /// Pages for errors of all routes.
    pub error_pages: ErrorPages,
    /// What is allowed and probably not meant; to be logged.
    pub warnings: Vec<Problem>,
}

impl Config {
    /// Checks everything in `raw` and settles every default.
    ///
    /// # Errors
    /// Everything that is wrong, also what was found while reading, in the order of the file; flags first.
    pub fn check(raw: &Raw) -> Result<Self, ConfigErrors> {
        let mut report = raw.report.clone();
        let whole = raw.file.clone().unwrap_or(Origin::CommandLine);
        let top = Top::settle(&raw.top);
        let limits = Limits::settle(&top.limits);
        check_head_limits(&top.limits, &limits, &mut report);
        let tls_keys = TlsKeys::settle(&top.tls);
        let tls = tls::check_settings(&tls_keys, &mut report);
        tls::check_tickets(&top.tls, &tls, &mut report);
        let http2 = Http2::settle(&top.http2);
        let (listeners, facts) = check_listeners(&top, (&tls_keys, &http2), &whole, &mut report);
        let certificates = check_certificates(&top, &mut report);
        tls::check_together(&top, &facts, &mut report);
        tls::check_forwarded(&top.forwarding, &facts, &mut report);
        let state_dir = check_state_dir(&top, &mut report);
        retry::check_global(&top.retry, &mut report);
        let upstreams = check_upstreams(&top, &whole, &mut report);
        let paths = Paths::settle(&top.paths);
        let global = check_global(&top, &mut report);
        let routes = check_routes(&top, &upstreams, &paths, (&whole, &facts, &global), &mut report);
        let config = Self {
            listeners,
            shards: ShardChoice::check(&top, &mut report),
            host: Host::check(&top, &mut report),
            drain_timeout: top.drain_timeout,
            metrics: None,
            acme: check_acme(&top, &facts, state_dir.as_deref(), &mut report),
            state_dir,
            log: Log { format: top.log_format, level: top.log_level },
            timeouts: Timeouts::settle(&top.timeouts),
            limits,
            paths,
            forwarding: Forwarding::check(&ForwardingKeys::settle(&top.forwarding), &mut report),
            http2,
            tls,
            certificates,
            upstreams: upstreams.groups,
            routes,
            error_pages: global.pages,
            warnings: Vec::new(),
        };
        let metrics = check_metrics(&top.metrics, &config.listeners, &mut report);
        let config = Self { metrics, ..config };
        report.sort();
        if report.errors.is_empty() {
            Ok(Self { warnings: report.warnings, ..config })
        } else {
            Err(report.into_errors())
        }
    }

    /// One line for people: what was understood.
    pub fn summary(&self) -> String {
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let listen: Vec<_> = self.listeners.iter().map(tls::describe).collect();
        let servers = self.upstreams.iter().map(|group| group.servers.len()).sum();
        format!(
            "listening on {}; {} to {} with {}",
            listen.join(", "),
            count(self.routes.len(), "route"),
            count(self.upstreams.len(), "upstream"),
            count(servers, "server"),
        )
    }
}

/// The directory that is written, or the one that the service manager gives.
fn check_state_dir(top: &Top, report: &mut Report) -> Option<PathBuf> {
    let given = match &top.state_dir {
        Field::Given(given) => given,
        Field::Faulty => return None,
        // systemd lists all that `StateDirectory=` names, with colons in between.
        Field::Absent => {
            let all = std::env::var_os("STATE_DIRECTORY")?;
            return std::env::split_paths(&all).find(|path| path.is_absolute());
        }
    };
    if given.value.exists() && !given.value.is_dir() {
        let fault = Fault::new(format!("{} is not a directory", given.value.display()));
        report.error(&given.at, "state_dir", fault);
    }
    Some(given.value.clone())
}

fn check_metrics(field: &Field<String>, listeners: &[Listener], report: &mut Report) -> Option<SocketAddr> {
    let given = field.given()?;
    let checked = parse_listen_tcp(&given.value).and_then(|address| {
        let is_same = |listener: &&Listener| {
            address.port() != 0 && listener.address.inet().is_some_and(|listen| overlaps(listen, address))
        };
        match listeners.iter().find(is_same) {
            Some(listener) => {
                Err(Fault::new(format!("clients are accepted on {} already", listener.address))
                    .hint("give metrics a port of their own, such as 127.0.0.1:9145"))
            }
            None => Ok(address),
        }
    });
    checked.map_err(|fault| report.error(&given.at, "metrics", fault)).ok()
}

/// Whether a connection could mean either.
fn overlaps(one: SocketAddr, other: SocketAddr) -> bool {
    let is_any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && (one.ip() == other.ip() || (is_any && one.is_ipv4() == other.is_ipv4()))
}

/// A request line longer than the whole head is a limit that can never be met.
fn check_head_limits(written: &Values, limits: &Limits, report: &mut Report) {
    let is_faulty = |key| *written.field(key) == Field::Faulty;
    if limits.request_line_bytes <= limits.head_bytes
        || is_faulty("request_line_bytes")
        || is_faulty("head_bytes")
    {
        return;
    }
    let at = |key| written.field(key).given().map(|given| &given.at);
    let line = at("request_line_bytes").map(|at| (at, "limits.request_line_bytes"));
    let head = at("head_bytes").map(|at| (at, "limits.head_bytes"));
    let Some((at, key)) = line.or(head) else { return };
    let what = format!(
        "a request line of {} bytes does not fit into a head of {} bytes",
        limits.request_line_bytes, limits.head_bytes
    );
    report.error(at, key, Fault::new(what).hint("request_line_bytes must not be above head_bytes"));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sluice_proto::path::SlashLike;

    use super::*;
    use crate::config::key::{Key, Kind};
    use crate::config::table::{self, SECTIONS};
    use crate::config::{PathForward, PathPattern, Policy, RoutePaths, Segment, ShardPer, Tail};
    use crate::topology::CpuSet;

    fn check(name: &str, text: &str) -> Result<Config, ConfigErrors> {
        Config::check(&Raw::parse(Path::new(name), text.to_owned())?)
    }

    /// What is wrong with a file that is otherwise in order; without the file's name.
    fn errors(text: &str) -> Vec<String> {
        let lines = check("f.toml", text).unwrap_err().to_string();
        lines.lines().map(|line| line.trim_start_matches("f.toml:").to_owned()).collect()
    }

    fn only_error(text: &str) -> String {
        let errors = errors(text);
        assert_eq!(errors.len(), 1, "{errors:#?}");
        errors[0].clone()
    }

    /// A file that is in order, with `top` on its first lines and `bottom` at its end.
    fn file(top: &str, bottom: &str) -> String {
        let upstream = "[[upstream]]\nname = \"app\"\nservers = [\"http://a\"]";
        format!("{top}\nlisten = [\"127.0.0.1:80\"]\n{upstream}\n[[route]]\nupstream = \"app\"\n{bottom}")
    }

    fn warnings(text: &str) -> Vec<String> {
        check("f.toml", text).unwrap().warnings.iter().map(ToString::to_string).collect()
    }

    fn example(name: &str) -> Config {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name);
        crate::config::check_file(&path).unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn frames_are_read_where_something_is_asked_of_them() {
        let frames = |table: &str| {
            let text = file("", &format!("upgrade = [\"websocket\"]\n[route.websocket]\n{table}\n"));
            check("f.toml", &text).unwrap().routes.remove(0).tunnels.frames
        };
        for table in ["frames = true", "message_bytes = \"1KiB\"", "message_rate = 5", "ping_idle = \"30s\""]
        {
            assert!(frames(table).is_some(), "{table}");
        }
        let read = frames("message_rate = 5").unwrap();
        assert_eq!((read.message_bytes, read.message_rate, read.message_burst), (0, 5, 5));
        assert_eq!(
            (read.ping_timeout, read.close_timeout),
            (Duration::from_secs(10), Duration::from_secs(5))
        );
        assert_eq!(frames("message_rate = 5\nmessage_burst = 50").unwrap().message_burst, 50);
        assert_eq!(frames("ping_timeout = \"1s\""), None);
        let with = |bottom: &str| warnings(&file("", bottom));
        assert_eq!(
            with("upgrade = [\"websocket\"]\nwebsocket = { ping_timeout = \"1s\" }"),
            ["f.toml:9:13: route.websocket: frames pass unread (hint: add frames = true, message_bytes, \
              message_rate or ping_idle)"]
        );
        assert_eq!(
            with("upgrade = [\"websocket\"]\nwebsocket = { frames = true, message_burst = 5 }"),
            [
                "f.toml:9:13: route.websocket: message_burst has no effect without message_rate (hint: add message_rate, \
              or leave message_burst out)"
            ]
        );
        assert_eq!(
            with("upgrade = [\"own\"]\nwebsocket.frames = true"),
            [
                "f.toml:9:1: route.websocket: no client of this route may change to WebSocket (hint: add upgrade = \
              [\"websocket\"])"
            ]
        );
        let wrong = only_error(&file("", "websocket = true"));
        assert!(wrong.contains("expected a table") && wrong.contains("upgrade = [\"websocket\"]"), "{wrong}");
    }

    #[test]
    fn minimal_examples_say_the_same() {
        let config = example("minimal.toml");
        assert_eq!(config, example("minimal.json"));
        assert_eq!(config.shards, ShardChoice::default());
        assert_eq!(config.drain_timeout, Duration::from_secs(10));
        assert_eq!(config.timeouts, Timeouts::default());
        assert_eq!(config.routes[0].path, PathPattern::any());
        assert_eq!(config.summary(), "listening on 127.0.0.1:8080; 1 route to 1 upstream with 1 server");
    }

    #[test]
    fn full_example_has_every_key_with_its_default() {
        let config = example("sluice.toml");
        assert_eq!(config.warnings, []);
        assert_eq!(config.timeouts, Timeouts::default());
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.paths, Paths::default());
        assert_eq!(config.host, Host::default());
        assert_eq!(config.http2, Http2::default());
        assert_eq!(config.shards, ShardChoice { count: Some(2), ..ShardChoice::default() });
        assert_eq!(config.routes.len(), 9);
        assert_eq!(config.routes[1].path.segments[2], Segment::Param("id".into()));
        let ordinary = RoutePaths { forward: PathForward::Normal, encoded_slash: SlashLike::Refuse };
        assert_eq!(config.routes[1].paths, ordinary);
        let special = RoutePaths { forward: PathForward::Received, encoded_slash: SlashLike::Keep };
        assert_eq!(config.routes[2].paths, special);
        assert_eq!(config.routes[3].path.tail, Tail::Rest("rest".into()));
        assert_eq!(config.upstreams[0].servers[1].host, "::1");
        let text = include_str!("../../../examples/sluice.toml");
        let keys = SECTIONS.iter().copied().flat_map(|section| section.keys);
        for key in keys.filter(|key| !matches!(key.kind, Kind::Table(_) | Kind::Tables(_))) {
            let is_there = ["", "# ", "limits.", "timeouts."]
                .iter()
                .any(|before| text.contains(&format!("\n{before}{} = ", key.name)));
            assert!(is_there, "{} is not in the example", key.name);
        }
    }

    #[test]
    fn the_manual_names_every_key_with_flag_default_and_range() {
        let manual = include_str!("../../../docs/configuration.md");
        for (section, key) in table::flags().filter(|(section, _)| !section.name.is_empty()) {
            let Key { name, kind, default, flag, .. } = key;
            let start = match (kind, kind.range()) {
                (_, Some((least, most))) => {
                    format!("| `{name}` | `{flag}` | {default} | {least} to {most} |")
                }
                (Kind::Word(words), _) if section.name == "paths" => {
                    format!("| `{name}` | `{flag}` | `{default}` | `{}` |", words().join("`, `"))
                }
                (Kind::Texts(placeholder), _) => {
                    format!("| `{name}` | `{flag} {placeholder}` (repeatable) |")
                }
                // What holds instead of a default is explained in words.
                _ if default.is_empty() => format!("| `{name}` | `{flag}` | "),
                _ => format!("| `{name}` | `{flag}` | {default} |"),
            };
            assert!(manual.contains(&start), "not in docs/configuration.md: {start}");
        }
        let manual = [manual, include_str!("../../../docs/changing-requests.md")].concat();
        for key in SECTIONS.iter().copied().flat_map(|section| section.keys) {
            let ways = ["| `NAME`", "| `[[NAME]]`", "## `[NAME]`", "## `[[NAME]]`"];
            let is_there = ways.iter().any(|way| manual.contains(&way.replace("NAME", key.name)));
            assert!(
                is_there,
                "`{}` is in neither of docs/configuration.md and docs/changing-requests.md",
                key.name
            );
        }
    }

    #[test]
    fn the_reference_is_what_the_table_says() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference.md");
        let reference = crate::config::reference();
        if std::env::var_os("UPDATE_REFERENCE").is_some() {
            std::fs::write(&file, &reference).expect("docs can be written");
        }
        let written = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(written == reference, "run: UPDATE_REFERENCE=1 cargo test -p sluice the_reference_is");
    }

    #[test]
    fn everything_wrong_is_reported_in_the_order_of_the_file() {
        let text = "shards = 2
cpus = \"0\"
drain_timeout = \"25h\"
listen = [\"localhost:80\", \"127.0.0.1:1\", \"127.0.0.1:1\"]
[timeouts]
request_head = \"0s\"
[limits]
head_bytes = \"128KiB\"
request_line_bytes = \"32KiB\"
[[upstream]]
name = \"app\"
servers = [\"ftp://a\", \"http://b\", \"http://b\"]
[[upstream]]
servers = []
[[upstream]]
name = \"app\"
servers = [\"http://c\"]
[[route]]
path = \"a\"
path_prefix = \"/b\"
methods = []
host = \"*\"
";
        let lines = errors(text);
        let starts = [
            "2:8: cpus: `shards` and `cpus` exclude",
            "3:17: drain_timeout: 25h is too large",
            "4:11: listen: `localhost:80`",
            "4:42: listen: `127.0.0.1:1` is there twice",
            "6:16: timeouts.request_head: 0s is too small",
            "8:14: limits.head_bytes: 128KiB is too large (hint: at most 64KiB)",
            "12:12: upstream.servers: `ftp://a`: this scheme",
            "12:35: upstream.servers: `b` is there twice",
            "13:1: upstream.name: an upstream needs a name",
            "14:11: upstream.servers: an upstream needs at least one server",
            "16:8: upstream.name: a second upstream is called `app`",
            "18:1: route.upstream: a route needs an upstream",
            "20:15: route.path_prefix: `path` and `path_prefix` exclude",
            "21:11: route.methods: no method is left",
            "22:8: route.host: `*` is not a host",
        ];
        assert_eq!(lines.len(), starts.len(), "{lines:#?}");
        for (line, start) in lines.iter().zip(starts) {
            assert!(line.starts_with(start), "{line}\nwanted: {start}");
        }
    }

    #[test]
    fn one_slip_is_one_error_at_its_place() {
        let top_and_bottom = [
            ("route = 5", "", "1:9: route: expected a list of tables"),
            ("upstream = 5", "", "1:12: upstream: expected a list of tables"),
            ("listener = [5]", "", "1:13: listener: expected a table, found a number"),
            ("limits = 5", "", "1:10: limits: expected a table"),
            ("limits.head_bytes = 1", "", "1:21: limits.head_bytes: 1 is too small"),
            ("limits.request_line_bytes = \"x\"", "", "1:29: limits.request_line_bytes: `x` is not a size"),
            ("limits.connections = \"+2\"", "", "1:22: limits.connections: `+2` is not a whole number"),
            ("limits.connections = -2", "", "1:22: limits.connections: expected a whole number"),
            ("smt = \"true\"", "", "1:7: smt: expected true or false"),
            ("\"$schema\" = 1", "", "1:13: $schema: expected a string"),
            ("", "\"$schema\" = \"x\"", "8:1: route.$schema: unknown key"),
            (
                "",
                "limits.header_fields = 9",
                "8:8: limits.header_fields: unknown key (hint: `header_fields` is set for all in [limits], not for one route)",
            ),
            ("", "hosts = [\"a\"]\nhost = \"b\"", "8:9: route.hosts: `host` and `hosts` exclude each other"),
            ("", "hosts = [\"a.example\", \"A.Example\"]", "8:23: route.hosts: `A.Example` is there twice"),
            ("", "hosts = []", "8:9: route.hosts: no host is left"),
            ("", "hosts = [1]", "8:10: route.hosts: expected a string"),
            ("", "hosts = [\"a\", \"*\"]", "8:15: route.hosts: `*` is not a host"),
            ("", "timeouts = 5", "8:12: route.timeouts: expected a table"),
            ("", "timeouts.upstream_connect = \"1s\"", "8:10: timeouts.upstream_connect: unknown key"),
            (
                "",
                "hosts = [\"a\", \"b\"]\n[[route]]\nupstream = \"app\"\nhosts = [\"b\", \"a\"]",
                "9:1: route: a second route for every method on b",
            ),
            (
                "",
                "[[listener]]\naddress = \"127.0.0.1:1\"\ntimeouts.request = \"1s\"",
                "10:1: listener.timeouts: unknown key (hint: `timeouts` belongs at the top",
            ),
        ];
        let mut failed = Vec::new();
        for (top, bottom, wanted) in top_and_bottom {
            let mut text = file(top, bottom);
            // A key of the wrong type takes the place of its tables.
            if let Some(of) = ["route", "upstream"].into_iter().find(|name| top.starts_with(name)) {
                let (start, rest) = text.split_once(&format!("[[{of}]]")).expect("a table");
                text = format!("{start}{}", rest.find("[[").map_or("", |next| &rest[next..]));
            }
            let found = errors(&text);
            if found.len() != 1 || !found[0].starts_with(wanted) {
                failed.push((wanted, found));
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    }

    #[test]
    fn a_part_that_cannot_be_read_is_one_error() {
        let text = "listen = [\"127.0.0.1:80\"]\nroute = [5, { upstream = \"app\" }]\nupstream = [5]\n";
        let wanted = [
            "2:10: route: expected a table, found a number",
            "3:13: upstream: expected a table, found a number",
        ];
        assert_eq!(errors(text), wanted);
    }

    #[test]
    fn json_may_name_its_schema() {
        let text = include_str!("../../../examples/minimal.json").replacen(
            '{',
            "{\"$schema\": \"sluice.schema.json\",",
            1,
        );
        assert_eq!(check("f.json", &text).unwrap(), example("minimal.json"));
        let twice = text.replacen("\"listen\"", "\"shards\": 1, \"shards\": 2, \"listen\"", 1);
        let error = check("f.json", &twice).unwrap_err().to_string();
        assert_eq!(error, "f.json:2:16: shards: is there twice (hint: the first is at f.json:2:3)");
    }

    #[test]
    fn a_route_inherits_from_its_upstream_and_from_the_file() {
        let bottom = "timeouts.request = \"3s\"\n[[route]]\nupstream = \"app\"\nhost = \"b\"\n\
                      [[route]]\nupstream = \"other\"\nhost = \"c\"\nlimits.body_bytes = 1\n\
                      [[upstream]]\nname = \"other\"\nservers = [\"http://b\"]\n";
        let top = "timeouts = { request = \"1s\", upstream_connect = \"9s\" }\nlimits.body_bytes = 3";
        let text = file(top, bottom).replacen(
            "[\"http://a\"]",
            "[\"http://a\"]\ntimeouts = { request = \"2s\", upstream_response = \"8s\" }\nlimits.body_bytes = 2",
            1,
        );
        let config = check("f.toml", &text).unwrap();
        let of = |route: &Route| {
            (
                route.timeouts.request.as_secs(),
                route.timeouts.upstream_response.as_secs(),
                route.limits.body_bytes,
            )
        };
        assert_eq!(config.routes.iter().map(of).collect::<Vec<_>>(), [(3, 8, 2), (2, 8, 2), (1, 60, 1)]);
        assert!(config.upstreams.iter().all(|group| group.timeouts.upstream_connect.as_secs() == 9));
        // What the upstream says wrongly is one error, and no route inherits it as another.
        let error = only_error(&text.replace("request = \"2s\"", "request = \"2\""));
        assert!(error.contains("timeouts.request: `2` is not a duration"), "{error}");
    }

    #[test]
    fn an_empty_file_lacks_three_things() {
        assert_eq!(
            errors(""),
            [
                " listen: nothing to listen on (hint: add listen = [\"127.0.0.1:8080\"])",
                " upstream: no server to send requests to (hint: add [[upstream]] with name = \"app\" and \
                 servers = [\"http://127.0.0.1:9000\"])",
                " route: no route: every request would be answered with 404 (hint: add [[route]])",
            ]
        );
    }

    #[test]
    fn a_wrong_type_is_not_also_called_missing() {
        let text = "listen = 1\n[[upstream]]\nname = 1\nservers = 1\n[[route]]\nupstream = 1\n";
        assert_eq!(errors(text).len(), 4, "{:#?}", errors(text));
        // The unreadable name may well be the one that the route means.
        let text = file("", "").replace("name = \"app\"", "name = 1");
        assert!(only_error(&text).starts_with("4:8: upstream.name: expected a string"));
    }

    #[test]
    fn unknown_upstream_has_a_suggestion() {
        let text = file("", "[[route]]\npath = \"/x\"\nupstream = \"apq\"\n");
        let want = "10:12: route.upstream: there is no upstream `apq` (hint: did you mean `app`)";
        assert_eq!(only_error(&text), want);
        let text = file("", "[[route]]\npath = \"/x\"\nupstream = \"zebra\"\n");
        assert!(only_error(&text).ends_with("(hint: the only upstream is `app`)"));
    }

    #[test]
    fn duplicate_routes_are_found_by_shape_and_method() {
        let with = |first: &str, second: &str| {
            file(
                "",
                &format!("[[route]]\nupstream = \"app\"\n{first}\n[[route]]\nupstream = \"app\"\n{second}\n"),
            )
        };
        for (first, second) in [
            ("path = \"/u/{id}\"", "path = \"/u/{name}\""),
            ("path = \"/x\"\nmethods = [\"GET\", \"PUT\"]", "path = \"/x\"\nmethods = [\"POST\", \"PUT\"]"),
            ("path_prefix = \"/x\"", "path_prefix = \"/x/\""),
            ("path = \"/x\"\nhost = \"A.b\"", "path = \"/x\"\nhost = \"a.B.\""),
        ] {
            let error = only_error(&with(first, second));
            assert!(
                error.contains("a second route for") && error.contains("the first is at f.toml:8:1"),
                "{error}"
            );
        }
        for (first, second) in [
            ("path = \"/x\"\nmethods = [\"GET\"]", "path = \"/x\"\nmethods = [\"HEAD\"]"),
            ("path = \"/x\"\nmethods = [\"GET\"]", "path = \"/x\""),
            ("path = \"/x\"", "path_prefix = \"/x\""),
            ("path = \"/x/{*rest}\"", "path_prefix = \"/x\""),
            ("path = \"/x\"", "path = \"/x\"\nhost = \"a\""),
        ] {
            assert_eq!(warnings(&with(first, second)), [] as [&str; 0]);
        }
        assert!(
            only_error(&file("", "[[route]]\nupstream = \"app\"\n"))
                .contains("every method on any host, any path")
        );
    }

    #[test]
    fn methods_are_case_sensitive_and_slips_are_reported() {
        let with = |methods: &str| {
            file("", &format!("[[route]]\npath=\"/x\"\nupstream=\"app\"\nmethods={methods}\n"))
        };
        assert!(only_error(&with("[\"get\"]")).ends_with("(hint: did you mean \"GET\")"));
        assert!(only_error(&with("[\"*\"]")).contains("leave `methods` out"));
        assert!(only_error(&with("[\"A B\"]")).contains("is not a method"));
        assert!(only_error(&with("[\"PUT\", \"PUT\"]")).contains("twice"));
        assert!(warnings(&with("[\"PSOT\"]"))[0].ends_with("(hint: did you mean \"POST\")"));
        assert_eq!(warnings(&with("[\"PROPFIND\", \"PURGE\"]")), [] as [&str; 0]);
    }

    #[test]
    fn patterns_that_no_request_can_have_are_errors() {
        let with = |paths: &str, route: &str| {
            let text = file("", &format!("[[route]]\nupstream=\"app\"\n{route}\n[paths]\n{paths}\n"));
            check("f.toml", &text).map_err(|errors| errors.to_string())
        };
        for (paths, route, words) in [
            (
                "",
                "path=\"/a%2fb\"",
                "encoded slash in the path is refused (hint: add paths.encoded_slash = \"keep\"",
            ),
            (
                "",
                "path_prefix=\"/a%5cb\"",
                "backslash in the path is refused (hint: add paths.backslash = \"keep\"",
            ),
            ("", "path=\"/a%0a\"", "add paths.encoded_controls = \"keep\""),
            ("parameters=\"refuse\"", "path=\"/a;x\"", "add paths.parameters = \"keep\""),
            ("parameters=\"ignore\"", "path=\"/a;x/{y}\"", "[paths] makes it `/a`"),
            ("encoded_slash=\"slash\"", "path=\"/a%2Fb\"", "[paths] makes it `/a/b`"),
            ("encoded_slash=\"slash\"", "paths.encoded_slash=\"keep\"", "keep one of the two"),
            ("", "paths.encoded_slash=\"slash\"", "set encoded_slash in [paths]"),
            (
                "",
                "paths.encoded_slash=\"keeep\"",
                "is none of refuse, keep, slash (hint: did you mean `keep`)",
            ),
            ("forward=\"raw\"", "", "paths.forward: `raw` is none of normal, received"),
            ("forward=1", "", "paths.forward: expected a string"),
            ("slashes=\"keep\"", "", "paths.slashes: unknown key"),
        ] {
            let errors = with(paths, &format!("host=\"h\"\n{route}")).unwrap_err();
            assert!(errors.lines().count() == 1 && errors.contains(words), "{paths} {route}: {errors}");
        }
        for (paths, route) in [
            ("", "path=\"/a%2fb\"\npaths.encoded_slash=\"keep\""),
            ("encoded_slash=\"keep\"", "path=\"/a%2fb\""),
            ("backslash=\"keep\"\nencoded_controls=\"keep\"", "path=\"/a%5cb%0A\""),
        ] {
            with(paths, &format!("host=\"h\"\n{route}")).unwrap();
        }
        // Two spellings of one path are one path.
        let two = "path=\"/%61\"\n[[route]]\nupstream=\"app\"\npath=\"/a\"";
        assert!(with("", two).unwrap_err().contains("a second route for every method on any host, /a"));
    }

    #[test]
    fn unused_upstream_is_a_warning() {
        let text = file("", "[[upstream]]\nname = \"spare\"\nservers = [\"http://b\"]\n");
        assert_eq!(warnings(&text), ["f.toml:9:8: upstream.name: no route leads to upstream `spare`"]);
    }

    #[test]
    fn json_has_the_same_places() {
        let text = "{\"listen\": [\"127.0.0.1:80\"],\n \"upstream\": [{\"name\": \"app\", \"servers\": [\"http://a\"]}],\n \
                    \"route\": [{\"upstream\": \"ap\"}]}";
        let errors = check("f.json", text).unwrap_err();
        assert_eq!(
            errors.to_string(),
            "f.json:3:25: route.upstream: there is no upstream `ap` (hint: did you mean `app`)"
        );
    }

    proptest::proptest! {
        /// A slip anywhere in a good file is an error or a different configuration, never a panic; and every
        /// refusal names something.
        #[test]
        fn a_damaged_file_is_refused_or_read(at in 0..2000usize, with in "[\\[\\]{}\"/:=*a9.\\n-]{0,3}", cut in 0..4usize) {
            for (name, text) in [
                ("f.toml", include_str!("../../../examples/sluice.toml")),
                ("f.json", include_str!("../../../examples/minimal.json")),
            ] {
                let chars: Vec<char> = text.chars().collect();
                let at = at % chars.len();
                let front: String = chars[..at].iter().collect();
                let back: String = chars[(at + cut).min(chars.len())..].iter().collect();
                if let Err(errors) = check(name, &format!("{front}{with}{back}")) {
                    proptest::prop_assert!(!errors.errors.is_empty());
                    proptest::prop_assert!(errors.to_string().starts_with(name));
                }
            }
        }
    }

    #[test]
    fn shards_and_cpus() {
        let shards = |top: &str| check("f.toml", &file(top, "")).map(|config| config.shards);
        let plain = ShardChoice::default();
        assert_eq!(shards("shards = 3").unwrap(), ShardChoice { count: Some(3), ..plain.clone() });
        let list = || Policy::Cpus(CpuSet::parse("0-1,3").unwrap());
        assert_eq!(shards("cpus = \"3,0-1\"").unwrap(), ShardChoice { policy: list(), ..plain.clone() });
        assert_eq!(
            shards("placement = \"cpus=0-1,3\"").unwrap(),
            ShardChoice { policy: list(), ..plain.clone() }
        );
        let more = "placement = \"node=1\"\nsmt = true\nreserve = 1";
        let want = ShardChoice { policy: Policy::Node(1), per: ShardPer::Thread, reserve: 1, ..plain };
        assert_eq!(shards(more).unwrap(), want);
        for (top, words) in [
            ("shards = 0", "0 is too small (hint: at least 1)"),
            ("shards = 5000", "5000 is too large (hint: at most 4096)"),
            ("shards = -1", "a negative number"),
            ("cpus = \"\"", "the list is empty"),
            ("cpus = \"1-0\"", "runs backwards"),
            ("cpus = \"a\"", "not a number or a range"),
            ("placement = \"packed\"", "did you mean `pack`"),
            ("placement = \"pack\"\ncpus = \"0\"", "`placement` and `cpus` exclude"),
            ("smt = 1", "expected true or false, found a number"),
        ] {
            assert!(only_error(&file(top, "")).contains(words), "{top}");
        }
    }
}
