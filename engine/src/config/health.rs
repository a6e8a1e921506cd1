//! `health` of an `[[upstream]]`: how its servers are checked.

use std::time::Duration;

use http::uri::PathAndQuery;

use super::address::UpstreamServer;
use super::choices::{AllDown, CheckKind};
use super::problem::{Fault, Located, Report};
use super::servers::is_whole;
use super::table::{HealthKeys, UpstreamKeys};
use super::units::parse_count;
use super::values::{Field, Values};

/// The longest name of a service.
const SERVICE_BYTES_MAX: usize = 1_024;

/// How the servers of an upstream are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What a check is.
    pub check: Check,
    /// From the start of a check to that of the next.
    pub interval: Duration,
    /// The longest time for a check.
    pub timeout: Duration,
    /// Checks in a row that have to pass before a server is up.
    pub rise: u32,
    /// Checks in a row that have to fail before a server is down.
    pub fall: u32,
    /// The port that is checked, if it is another one.
    pub port: Option<u16>,
    /// Whether checks are made over TLS, if that is not as the server's scheme says.
    pub tls: Option<bool>,
    /// What requests get while all servers are down.
    pub all_down: AllDown,
}

/// What a check is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// A GET request.
    Http(HttpCheck),
    /// A connection.
    Tcp,
    /// grpc.health.v1.Health/Check.
    Grpc {
        /// The service that is asked about; empty for all of the server.
        service: String,
        /// The :authority, if it is not the server's own.
        host: Option<String>,
    },
}

/// A GET request that a server has to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCheck {
    /// Path and query.
    pub path: String,
    /// The Host, if it is not the server's own.
    pub host: Option<String>,
    /// The statuses that pass.
    pub statuses: Statuses,
}

/// Statuses of HTTP, as ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statuses(pub(super) Vec<(u16, u16)>);

/// A Unix socket has no port beside it.
fn check_port(of_health: &HealthKeys, servers: &[UpstreamServer], report: &mut Report) {
    let Some(port) = of_health.port.given() else { return };
    if let Some(server) = servers.iter().find(|server| server.unix.is_some()) {
        let fault = Fault::new(format!("{} has no port", server.url()));
        report.error(
            &port.at,
            "upstream.health.port",
            fault.hint("put servers on Unix sockets into another upstream"),
        );
    }
}

#[cfg(test)]
impl Default for HealthCheck {
    fn default() -> HealthCheck {
        HealthCheck {
            check: Check::Tcp,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
            port: None,
            tls: None,
            all_down: AllDown::Refuse,
        }
    }
}

impl Default for Statuses {
    fn default() -> Statuses {
        Statuses(vec![(200, 399)])
    }
}

impl Statuses {
    /// Whether this one is among them.
    pub fn has(&self, status: u16) -> bool {
        self.0.iter().any(|&(first, last)| (first..=last).contains(&status))
    }

    /// The lowest of them.
    pub fn least(&self) -> Option<u16> {
        self.0.iter().map(|&(first, _)| first).min()
    }

    /// None at all.
    pub const fn none() -> Statuses {
        Statuses(Vec::new())
    }

    /// Those from the first to the last.
    pub fn range(first: u16, last: u16) -> Statuses {
        Statuses(vec![(first, last)])
    }
}

/// What `health` of an upstream comes to; `None` where there is none.
pub(super) fn check_health(
    keys: &UpstreamKeys,
    servers: &[UpstreamServer],
    report: &mut Report,
) -> Option<HealthCheck> {
    let written = keys.health.given()?;
    let of_health = HealthKeys::settle(&written.value);
    check_use(&of_health, &written.value, report);
    check_tls(keys, &of_health, servers, report);
    check_port(&of_health, servers, report);
    let host = check_host(&of_health.host, report);
    let check = match of_health.check {
        CheckKind::Http => Check::Http(HttpCheck {
            path: check_path(&of_health.path, report),
            host,
            statuses: check_statuses(
                &of_health.status,
                "upstream.health.status",
                "leave `status` out for 200-399",
                report,
            )
            .unwrap_or_default(),
        }),
        CheckKind::Tcp => Check::Tcp,
        CheckKind::Grpc => Check::Grpc { service: check_service(&of_health.service, report), host },
    };
    Some(HealthCheck {
        check,
        interval: of_health.interval,
        timeout: of_health.timeout,
        rise: of_health.rise,
        fall: of_health.fall,
        port: of_health.port.value().and_then(|port| u16::try_from(*port).ok()),
        tls: of_health.tls.value().copied(),
        all_down: of_health.all_down,
    })
}

/// Keys of another kind of check would have no effect.
fn check_use(keys: &HealthKeys, written: &Values, report: &mut Report) {
    let (useless, kind): (&[&str], _) = match keys.check {
        CheckKind::Http => (&["service"], "http"),
        CheckKind::Tcp => (&["path", "host", "status", "service"], "tcp"),
        CheckKind::Grpc => (&["path", "status"], "grpc"),
    };
    if *written.field("check") == Field::Faulty {
        return;
    }
    for name in useless {
        let Some(given) = written.field(name).given() else { continue };
        let fault = Fault::new(format!("a check by {kind} has no use for `{name}`"));
        let meant = if *name == "service" { "grpc" } else { "http" };
        report.error(
            &given.at,
            &format!("upstream.health.{name}"),
            fault.hint(format!("leave it out, or write check = \"{meant}\"")),
        );
    }
}

/// The rules of TLS are those of the servers that are `https://`: without one there are none.
fn check_tls(keys: &UpstreamKeys, of_health: &HealthKeys, servers: &[UpstreamServer], report: &mut Report) {
    let has_tls = servers.iter().any(|server| server.scheme.is_secure());
    let is_whole = is_whole(keys, servers);
    if let Some(given) = of_health.tls.given()
        && given.value
        && !has_tls
        && is_whole
    {
        let fault = Fault::new("no server of this upstream has TLS");
        report.error(&given.at, "upstream.health.tls", fault.hint("write the servers as https://"));
    }
}

fn check_path(field: &Field<String>, report: &mut Report) -> String {
    let Some(given) = field.given() else { return "/".to_owned() };
    let why = match given.value.as_str() {
        path if !path.starts_with('/') => Some("a path begins with `/`"),
        path if path.contains('#') => Some("a request has no fragment (`#`)"),
        path if !path.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Some("other bytes than visible ASCII are written as %20 and the like")
        }
        path if PathAndQuery::try_from(path).is_err() => Some("this is not a path with an optional query"),
        _ => None,
    };
    refuse(given, "path", why, report);
    given.value.clone()
}

fn check_host(field: &Field<String>, report: &mut Report) -> Option<String> {
    let given = field.given()?;
    let server = UpstreamServer::parse(&format!("http://{}", given.value));
    let is_good = server.is_ok_and(|server| server.authority == given.value);
    refuse(given, "host", (!is_good).then_some("this is not a host name with an optional port"), report);
    Some(given.value.clone())
}

fn check_service(field: &Field<String>, report: &mut Report) -> String {
    let Some(given) = field.given() else { return String::new() };
    let is_plain = given.value.len() <= SERVICE_BYTES_MAX && !given.value.contains(char::is_control);
    let why = "this is not the name of a service, such as shop.v1.Orders";
    refuse(given, "service", (!is_plain).then_some(why), report);
    given.value.clone()
}

fn refuse(given: &Located<String>, name: &str, why: Option<&str>, report: &mut Report) {
    if let Some(why) = why {
        let fault = Fault::new(format!("`{}`: {why}", given.value));
        report.error(&given.at, &format!("upstream.health.{name}"), fault);
    }
}

/// Statuses as written, if there are any; an empty list gets the hint.
pub(super) fn check_statuses(
    field: &Field<Vec<Located<String>>>,
    key: &str,
    hint: &str,
    report: &mut Report,
) -> Option<Statuses> {
    let given = field.given()?;
    if given.value.is_empty() {
        report.error(&given.at, key, Fault::new("the list is empty").hint(hint));
    }
    let mut ranges = Vec::new();
    for text in &given.value {
        match parse_statuses(&text.value) {
            Ok(range) => ranges.push(range),
            Err(fault) => report.error(&text.at, key, fault),
        }
    }
    Some(Statuses(ranges))
}

/// Reads `200` or `200-399`.
pub(super) fn parse_statuses(text: &str) -> Result<(u16, u16), Fault> {
    let status = |text: &str| {
        let number = parse_count(text).ok().and_then(|number| u16::try_from(number).ok());
        number.filter(|status| (100..=999).contains(status))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (status(first), status(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        (Some(first), Some(last)) => {
            let fault = Fault::new(format!("`{text}` runs backwards"));
            Err(fault.hint(format!("did you mean {last}-{first}")))
        }
        _ => {
            let fault = Fault::new(format!("`{text}` is neither a status (100 to 999) nor a range of them"));
            Err(match text.as_bytes() {
                [class @ b'1'..=b'9', b'x' | b'X', b'x' | b'X'] => {
                    let class = char::from(*class);
                    fault.hint(format!("did you mean {class}00-{class}99"))
                }
                _ => fault.hint("write 200, or \"200-399\""),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, Raw};

    fn check(server: &str, health: &str) -> Result<Option<HealthCheck>, String> {
        let text = format!(
            "listen = [\"127.0.0.1:1\"]\n[[route]]\nupstream = \"a\"\n[[upstream]]\nname = \"a\"\nservers = [\"{server}\"]\n{health}"
        );
        let raw = Raw::parse(Path::new("f.toml"), text).map_err(|errors| errors.to_string())?;
        let config = Config::check(&raw).map_err(|errors| errors.to_string())?;
        Ok(config.upstreams[0].health.clone())
    }

    fn of(health: &str) -> HealthCheck {
        check("https://a", health).unwrap_or_else(|errors| panic!("{health}: {errors}")).expect("checks")
    }

    #[test]
    fn checks_are_off_until_they_are_written() {
        assert_eq!(check("http://a", "").unwrap(), None);
        let http = HttpCheck { path: "/".into(), host: None, statuses: Statuses::default() };
        let plain = HealthCheck { check: Check::Http(http), ..HealthCheck::default() };
        assert_eq!(of("health = {}"), plain);
        assert_eq!(of("[upstream.health]\nport = 81\ntls = false").port, Some(81));
        let grpc = of("health = { check = \"grpc\", service = \"a.B\", host = \"h:1\" }");
        assert_eq!(grpc.check, Check::Grpc { service: "a.B".into(), host: Some("h:1".into()) });
    }

    #[test]
    fn statuses_are_numbers_ranges_and_lists() {
        let has = |status: &str, number| {
            let Check::Http(http) = of(&format!("health.status = {status}")).check else {
                panic!("{status}")
            };
            http.statuses.has(number)
        };
        assert!(has("204", 204) && !has("204", 200));
        assert!(has("\"200-999\"", 999) && has("600", 600));
        assert!(has("\"200-299\"", 299) && !has("\"200-299\"", 300));
        assert!(has("[200, \"400-404\"]", 403) && !has("[200, \"400-404\"]", 301));
    }

    #[test]
    fn every_slip_is_one_error() {
        let mut wrong = Vec::new();
        for (health, words) in [
            ("health = true", "7:10: upstream.health: expected a table, found a boolean (hint: this is"),
            ("health.check = \"htp\"", "`htp` is none of http, tcp, grpc (hint: did you mean `http`)"),
            ("health.path = \"healthz\"", "upstream.health.path: `healthz`: a path begins with `/`"),
            ("health.path = \"/a b\"", "`/a b`: other bytes than visible ASCII"),
            ("health.path = \"/a#b\"", "`/a#b`: a request has no fragment"),
            ("health.host = \"a b\"", "upstream.health.host: `a b`: this is not a host name"),
            ("health.host = \"u@a\"", "`u@a`: this is not a host name"),
            ("health.host = \"a:b\"", "`a:b`: this is not a host name"),
            (
                "health.status = \"2xx\"",
                "`2xx` is neither a status (100 to 999) nor a range of them (hint: did you mean 200-299)",
            ),
            ("health.status = \"399-200\"", "`399-200` runs backwards (hint: did you mean 200-399)"),
            ("health.status = [200, 1000]", "7:23: upstream.health.status: `1000` is neither"),
            ("health.status = []", "the list is empty"),
            ("health.status = true", "expected a status, a range"),
            ("health.rise = 0", "0 is too small (hint: at least 1)"),
            ("health.interval = \"1ms\"", "1ms is too small (hint: at least 10ms)"),
            ("health.interval = 5", "a duration needs a unit (hint: did you mean \"5s\")"),
            ("health.port = 0", "0 is too small"),
            ("health.port = 65536", "65536 is too large"),
            (
                "health.service = \"a\"",
                "a check by http has no use for `service` (hint: leave it out, or write check = \"grpc\")",
            ),
            ("health = { check = \"tcp\", path = \"/\" }", "a check by tcp has no use for `path`"),
            ("health = { check = \"grpc\", status = 200 }", "a check by grpc has no use for `status`"),
            ("health = { check = \"grpc\", service = \"a\\tb\" }", "`a\tb`: this is not the name"),
            ("health.fal = 2", "unknown key (hint: did you mean `fall`)"),
            ("health.all_down = \"503\"", "`503` is none of refuse, try"),
        ] {
            let errors = check("https://a", health).unwrap_err();
            if errors.lines().count() != 1 || !errors.contains(words) {
                wrong.push(format!("{health}: {errors}, not {words}"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        let errors = check("http://a", "health.tls = true").unwrap_err();
        assert!(errors.contains("7:14: upstream.health.tls: no server of this upstream has TLS"), "{errors}");
        check("http://a", "health.tls = false").unwrap();
    }
}
