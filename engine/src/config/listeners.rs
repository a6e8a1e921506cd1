//! `listen` and `[[listener]]`: where connections are accepted, and what each of them begins with.

use sluice_sys::Address;

use super::address::parse_listen;
use super::choices::ProxyProtocolIn;
use super::networks::Networks;
use super::problem::{Fault, Located, Origin, Report};
use super::table::{Http2, ListenerKeys, TlsKeys, Top};
use super::tls::{
    ClientCertificatesMode, ListenerFacts, ListenerTls, TlsMode, check_listener_tls, check_redirect,
    plain_listener_tls,
};
use super::values::{Field, Values};

/// Listeners have a number of one byte.
const LISTENERS_MAX: usize = 128;

/// The permissions of the file of a Unix socket where none are written: its user and its group may connect.
const MODE: u32 = 0o660;

/// An address to accept connections on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The address.
    pub address: Address,
    /// The permissions of the file of a Unix socket.
    pub mode: u32,
    /// What a connection begins with.
    pub proxy_protocol: ProxyProtocolIn,
    /// Who may send a PROXY protocol header; any peer if it is empty.
    pub proxy_protocol_from: Networks,
    /// TLS; `None` for clear text.
    pub tls: Option<ListenerTls>,
    /// Requests without TLS are answered with 308 to `https://` at this port.
    pub https_redirect: Option<u16>,
    /// Whether clients may use HTTP/2.
    pub http2: bool,
}

/// All listeners: those of `listen` and `listen_tls` first.
pub(super) fn check_listeners(
    top: &Top,
    (defaults, http2): (&TlsKeys, &Http2),
    whole: &Origin,
    report: &mut Report,
) -> (Vec<Listener>, ListenerFacts) {
    let raws = &top.listener;
    let mut listeners = Vec::new();
    let mut facts = ListenerFacts::default();
    let plain = [(&top.listen, "listen", None), (&top.listen_tls, "listen_tls", Some(TlsMode::On))];
    for (field, key, tls) in plain {
        facts.some_unread |= *field == Field::Faulty;
        for text in field.value().into_iter().flatten() {
            match tls {
                None => facts.takes_clear_text = true,
                Some(_) => _ = facts.tls_at.get_or_insert((text.at.clone(), key)),
            }
            let tls = tls.map(|_| plain_listener_tls(defaults));
            let own = Own { tls, http2: http2.enabled, mode: MODE, ..Own::default() };
            check_address(&mut listeners, text, key, own, report);
        }
    }
    for raw in raws.iter() {
        if raw.is_faulty {
            facts.some_unread = true;
        } else {
            check_listener(raw, (defaults, http2), &mut listeners, &mut facts, report);
        }
    }
    let is_empty = |field: &Field<Vec<_>>| match field {
        Field::Faulty => false,
        field => field.value().is_none_or(Vec::is_empty),
    };
    if raws.is_empty() && is_empty(&top.listen) && is_empty(&top.listen_tls) {
        let at = top.listen.given().map_or(whole, |given| &given.at);
        let hint = match whole {
            Origin::CommandLine => "--listen 127.0.0.1:8080",
            _ => "listen = [\"127.0.0.1:8080\"]",
        };
        report.error(at, "listen", Fault::new("nothing to listen on").hint(format!("add {hint}")));
    }
    if listeners.len() > LISTENERS_MAX {
        let fault = Fault::new(format!("{} addresses to listen on are too many", listeners.len()));
        report.error(
            whole,
            "listen",
            fault.hint(format!("at most {LISTENERS_MAX}; 0.0.0.0 and [::] stand for all")),
        );
    }
    (listeners, facts)
}

/// What a listener has apart from its address.
#[derive(Default)]
struct Own {
    proxy_protocol: ProxyProtocolIn,
    proxy_protocol_from: Networks,
    tls: Option<ListenerTls>,
    https_redirect: Option<u16>,
    http2: bool,
    mode: u32,
}

/// A `[[listener]]`.
fn check_listener(
    raw: &Values,
    (defaults, http2): (&TlsKeys, &Http2),
    listeners: &mut Vec<Listener>,
    facts: &mut ListenerFacts,
    report: &mut Report,
) {
    let keys = ListenerKeys::settle(raw);
    let (proxy_protocol, proxy_protocol_from) = check_proxy_protocol(raw, &keys, report);
    let tls = check_listener_tls(raw, &keys, defaults, report);
    note_facts(raw, &keys, facts);
    let port =
        keys.address.value().and_then(|text| parse_listen(text).ok()).and_then(|address| address.inet());
    let port = port.map(|address| address.port());
    let mode = check_mode(&keys, report);
    let https_redirect = check_redirect(&keys, port, report);
    let http2 = keys.http2.value().copied().unwrap_or(http2.enabled);
    let own = Own { proxy_protocol, proxy_protocol_from, tls, https_redirect, http2, mode };
    match &keys.address {
        Field::Given(address) => check_address(listeners, address, "listener.address", own, report),
        Field::Faulty => {}
        Field::Absent => {
            let fault = Fault::new("a listener needs an address");
            report.error(&raw.at, "listener.address", fault.hint("add address = \"127.0.0.1:8080\""));
        }
    }
}

/// Permissions in octal, which only the file of a Unix socket has.
fn check_mode(keys: &ListenerKeys, report: &mut Report) -> u32 {
    let Some(given) = keys.mode.given() else { return MODE };
    let is_file =
        keys.address.value().and_then(|text| parse_listen(text).ok()).map(|address| match address {
            Address::Unix(socket) => socket.path().is_some(),
            Address::Inet(_) => false,
        });
    let is_octal = given.value.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mode = u32::from_str_radix(&given.value, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
    match (is_file, mode) {
        (Some(false), _) => {
            let fault = Fault::new("only the file of a Unix socket has permissions");
            report.error(
                &given.at,
                "listener.mode",
                fault.hint("leave it out, or write address = \"unix:/path\""),
            );
        }
        (_, None) => {
            let fault = Fault::new(format!("`{}` is not a mode", given.value));
            report.error(&given.at, "listener.mode", fault.hint("octal digits, such as \"0660\""));
        }
        (_, Some(_)) => {}
    }
    mode.unwrap_or(MODE)
}

fn note_facts(raw: &Values, keys: &ListenerKeys, facts: &mut ListenerFacts) {
    let is_faulty = |key| *raw.field(key) == Field::Faulty;
    facts.some_unread |= is_faulty("tls") || is_faulty("client_certificates");
    facts.takes_clear_text |= keys.tls != Some(TlsMode::On);
    facts.asks_for_certificates |=
        keys.tls.is_some() && keys.client_certificates != ClientCertificatesMode::Off;
    if keys.tls.is_some() && facts.tls_at.is_none() {
        facts.tls_at = raw.field("tls").given().map(|given| (given.at.clone(), "listener.tls"));
    }
}

fn check_address(
    listeners: &mut Vec<Listener>,
    text: &Located<String>,
    key: &str,
    own: Own,
    report: &mut Report,
) {
    let Own { proxy_protocol, proxy_protocol_from, tls, https_redirect, http2, mode } = own;
    match parse_listen(&text.value) {
        Err(fault) => report.error(&text.at, key, fault),
        // Port 0 asks for any free port, and may do so twice.
        Ok(address)
            if address.inet().is_none_or(|inet| inet.port() != 0)
                && listeners.iter().any(|known| known.address == address) =>
        {
            report.error(&text.at, key, Fault::new(format!("`{address}` is there twice")));
        }
        Ok(address) => {
            listeners.push(Listener {
                address,
                mode,
                proxy_protocol,
                proxy_protocol_from,
                tls,
                https_redirect,
                http2,
            });
        }
    }
}

fn check_proxy_protocol(
    raw: &Values,
    keys: &ListenerKeys,
    report: &mut Report,
) -> (ProxyProtocolIn, Networks) {
    let from = Networks::check(&keys.proxy_protocol_from, "listener.proxy_protocol_from", report);
    match (keys.proxy_protocol, &keys.proxy_protocol_from, raw.field("proxy_protocol")) {
        (ProxyProtocolIn::Off, Field::Given(given), Field::Given(_) | Field::Absent) => {
            let fault = Fault::new("this listener expects no PROXY protocol header");
            let key = "listener.proxy_protocol_from";
            report.error(&given.at, key, fault.hint("add proxy_protocol = \"required\""));
        }
        (ProxyProtocolIn::Required, Field::Given(given), _) if given.value.is_empty() => {
            let fault = Fault::new("every connection needs the header, and no address may send it");
            let key = "listener.proxy_protocol_from";
            report.error(&given.at, key, fault.hint("name the balancers, or leave it out"));
        }
        (ProxyProtocolIn::Required, Field::Absent, _) => {
            let fault = Fault::new("any peer that reaches this listener can claim any client address");
            let hint = match raw.at {
                Origin::Flag(_) => "add --proxy-protocol-from with the balancer's address",
                _ => "add proxy_protocol_from = [...] with the balancers' addresses",
            };
            report.warn(&raw.at, "listener.proxy_protocol", fault.hint(hint));
        }
        _ => {}
    }
    (keys.proxy_protocol, from)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, Raw};

    const REST: &str = "[[upstream]]\nname = \"a\"\nservers = [\"http://a\"]\n[[route]]\nupstream = \"a\"\n";

    fn check(text: &str) -> Result<Config, String> {
        let raw = Raw::parse(Path::new("f.toml"), format!("{text}\n{REST}"))
            .map_err(|errors| errors.to_string())?;
        Config::check(&raw).map_err(|errors| errors.to_string())
    }

    #[test]
    fn listeners_add_up() {
        let config = check(
            "listen = [\"127.0.0.1:1\"]\n[[listener]]\naddress = \"[::1]:2\"\nproxy_protocol = \"required\"\n\
             proxy_protocol_from = [\"10.0.0.0/8\"]\n[[listener]]\naddress = \"127.0.0.1:3\"",
        )
        .unwrap();
        let seen: Vec<_> = config
            .listeners
            .iter()
            .map(|one| (one.address.inet().unwrap().port(), one.proxy_protocol))
            .collect();
        assert_eq!(
            seen,
            [(1, ProxyProtocolIn::Off), (2, ProxyProtocolIn::Required), (3, ProxyProtocolIn::Off)]
        );
        assert!(config.listeners[1].proxy_protocol_from.contains("10.1.1.1".parse().unwrap()));
        assert_eq!(config.warnings, []);
        assert_eq!(check("[[listener]]\naddress = \"127.0.0.1:0\"").unwrap().listeners.len(), 1);
    }

    #[test]
    fn http2_is_on_unless_the_listener_or_all_say_otherwise() {
        let own = |key: &str| format!("[[listener]]\naddress = \"127.0.0.1:2\"\n{key}");
        let off = "[http2]\nenabled = false\n";
        for (text, wanted) in [
            (own(""), [true, true]),
            (own("http2 = false"), [true, false]),
            (format!("{off}{}", own("")), [false, false]),
            (format!("{off}{}", own("http2 = true")), [false, true]),
        ] {
            let config = check(&format!("listen = [\"127.0.0.1:1\"]\n{text}")).unwrap();
            let seen: Vec<_> = config.listeners.iter().map(|listener| listener.http2).collect();
            assert_eq!(seen, wanted, "{text}");
        }
    }

    #[test]
    fn errors_have_their_place() {
        for (text, words) in [
            ("", "listen: nothing to listen on"),
            ("[[listener]]", "f.toml:1:1: listener.address: a listener needs an address"),
            ("[[listener]]\naddress = \"localhost:1\"", "did you mean 127.0.0.1:1"),
            (
                "listen = [\"127.0.0.1:1\"]\n[[listener]]\naddress = \"127.0.0.1:1\"",
                "`127.0.0.1:1` is there twice",
            ),
            (
                "[[listener]]\naddress = \"127.0.0.1:1\"\nproxy_protocol = \"v2\"",
                "f.toml:3:18: listener.proxy_protocol: `v2` is none of off, required",
            ),
            (
                "[[listener]]\naddress = \"127.0.0.1:1\"\nproxy_protocol_from = [\"10.0.0.1\"]",
                "add proxy_protocol = \"required\"",
            ),
            (
                "[[listener]]\naddress = \"127.0.0.1:1\"\nproxy_protocol = \"required\"\nproxy_protocol_from = []",
                "name the balancers",
            ),
            (
                "[[listener]]\naddress = \"127.0.0.1:1\"\nproxy_protocol = \"required\"\nproxy_protocol_from = [\"lb\"]",
                "f.toml:4:24: listener.proxy_protocol_from: `lb` is not an address",
            ),
        ] {
            let errors = check(text).unwrap_err();
            assert!(errors.lines().count() == 1 && errors.contains(words), "{text}: {errors}");
        }
    }

    #[test]
    fn a_listener_that_trusts_every_peer_is_a_warning() {
        let config = check("[[listener]]\naddress = \"127.0.0.1:1\"\nproxy_protocol = \"required\"").unwrap();
        assert!(config.warnings[0].to_string().contains("can claim any client address"));
    }
}
