//! `[forwarding]`: what servers learn of the client of a request, and which proxies are trusted to name it.

use std::net::{IpAddr, SocketAddr};

use sluice_proto::authority::Authority;
use sluice_proto::forwarded::HopList;
use sluice_proto::h1::{IdentityPolicy, TlsFields};

use super::address::split_port;
use super::choices::FieldsSent;
use super::networks::Networks;
use super::problem::{Fault, Report};
use super::table::ForwardingKeys;
use super::values::Field;

/// What `[forwarding]` comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// Proxies that are trusted to name the client.
    pub trusted_proxies: Networks,
    /// Which fields are sent.
    pub policy: IdentityPolicy,
}

impl Forwarding {
    /// Settles every key.
    pub(crate) fn check(keys: &ForwardingKeys, report: &mut Report) -> Self {
        let default = IdentityPolicy::default();
        let fields = keys.fields;
        let sent_list =
            if fields == FieldsSent::Forwarded { HopList::Forwarded } else { HopList::XForwardedFor };
        let policy = IdentityPolicy {
            x_forwarded: matches!(fields, FieldsSent::XForwarded | FieldsSent::Both),
            forwarded: matches!(fields, FieldsSent::Forwarded | FieldsSent::Both),
            trusted_list: keys.trusted_field.given().map_or(sent_list, |given| given.value),
            real_ip: keys.real_ip,
            request_id: keys.request_id,
            via: check_text(&keys.via, "forwarding.via", report, check_via).unwrap_or(default.via),
            by: check_text(&keys.by, "forwarding.by", report, check_by).unwrap_or(default.by),
            tls: TlsFields { client_certificate: keys.client_certificate, ja4: keys.ja4 },
        };
        let trusted_proxies = Networks::check(&keys.trusted_proxies, "forwarding.trusted_proxies", report);
        Self { trusted_proxies, policy }
    }
}

fn check_text(
    field: &Field<String>,
    key: &str,
    report: &mut Report,
    check: impl Fn(&str) -> Result<String, Fault>,
) -> Option<String> {
    let given = field.given()?;
    check(&given.value).map_err(|fault| report.error(&given.at, key, fault)).ok()
}

/// `received-by`: a pseudonym or host and port.
//= https://www.rfc-editor.org/rfc/rfc9110#section-7.6.3
fn check_via(text: &str) -> Result<String, Fault> {
    if is_token(text) || Authority::parse(text).is_some() {
        return Ok(text.to_owned());
    }
    Err(Fault::new(format!("`{text}` cannot stand in a Via field"))
        .hint("a word such as edge-1, or host:port, without spaces"))
}

/// A node of RFC 7239 as it stands in the field; the empty text for none.
//= https://www.rfc-editor.org/rfc/rfc7239#section-6
fn check_by(text: &str) -> Result<String, Fault> {
    let is_obfuscated = text.strip_prefix('_').is_some_and(|name| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    });
    if text == "none" {
        return Ok(String::new());
    }
    if is_obfuscated || text == "unknown" {
        return Ok(text.to_owned());
    }
    match (text.parse::<IpAddr>(), text.parse::<SocketAddr>()) {
        (Ok(IpAddr::V4(v4)), _) => Ok(v4.to_string()),
        (Ok(IpAddr::V6(v6)), _) => Ok(format!("\"[{v6}]\"")),
        (_, Ok(address)) if address.port() != 0 => Ok(format!("\"{address}\"")),
        _ => {
            let fault = Fault::new(format!("`{text}` cannot stand behind by= in a Forwarded field"));
            Err(fault.hint(instead_of(text)))
        }
    }
}

/// What `text` behind by= was probably meant to be.
fn instead_of(text: &str) -> String {
    let (host, port) = split_port(text).unwrap_or((text, None));
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match (bare.parse::<IpAddr>(), port) {
        (Ok(_), Some(port)) => format!("`{port}` is no port (1 to 65535)"),
        (Ok(address), None) => format!("\"{address}\", without brackets"),
        (Err(_), _) => {
            let name: String =
                text.chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).collect();
            let name = Some(name.trim_start_matches('_')).filter(|name| !name.is_empty()).unwrap_or("edge-1");
            format!("an address, \"unknown\", or a name that begins with an underscore: \"_{name}\"")
        }
    }
}

/// token of RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::super::problem::{Located, Origin};
    use super::*;

    fn given<T>(value: T) -> Field<T> {
        Field::flag("--x", value)
    }

    #[test]
    fn the_list_that_is_sent_is_the_one_that_is_trusted() {
        let trusted = |fields, field: Option<HopList>| {
            let raw = ForwardingKeys {
                fields,
                trusted_field: field.map_or(Field::Absent, given),
                ..ForwardingKeys::default()
            };
            Forwarding::check(&raw, &mut Report::default()).policy.trusted_list
        };
        for fields in [FieldsSent::XForwarded, FieldsSent::Both, FieldsSent::None] {
            assert_eq!(trusted(fields, None), HopList::XForwardedFor);
            assert_eq!(trusted(fields, Some(HopList::Forwarded)), HopList::Forwarded);
        }
        assert_eq!(trusted(FieldsSent::Forwarded, None), HopList::Forwarded);
        assert_eq!(trusted(FieldsSent::Forwarded, Some(HopList::XForwardedFor)), HopList::XForwardedFor);
        let nothing = Forwarding::check(&ForwardingKeys::default(), &mut Report::default());
        assert_eq!(nothing, Forwarding::default());
    }

    #[test]
    fn names_are_checked_and_quoted() {
        for (by, written) in [
            ("_edge-1", "_edge-1"),
            ("unknown", "unknown"),
            ("none", ""),
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1:80", "\"192.0.2.1:80\""),
            ("2001:db8::1", "\"[2001:db8::1]\""),
            ("[2001:db8::1]:80", "\"[2001:db8::1]:80\""),
        ] {
            assert_eq!(check_by(by).as_deref(), Ok(written));
        }
        for (by, hint) in [
            ("", "\"_edge-1\""),
            ("edge", "\"_edge\""),
            ("_", "\"_edge-1\""),
            ("_a b", "\"_ab\""),
            ("a\"b", "\"_ab\""),
            ("example.com", "\"_example.com\""),
            ("1.2.3.4:99999", "`99999` is no port (1 to 65535)"),
            ("1.2.3.4:", "`` is no port"),
            ("[2001:db8::1]:x", "`x` is no port"),
            ("[2001:db8::1]", "\"2001:db8::1\", without brackets"),
            ("1.2.3.4:0", "`0` is no port"),
            ("1.2.3.400", "an address, \"unknown\""),
        ] {
            let fault = check_by(by).unwrap_err().to_string();
            assert!(fault.contains(hint), "{by}: {fault}");
        }
        for via in ["sluice", "edge-1", "proxy.example:8080", "[::1]:80"] {
            assert_eq!(check_via(via).as_deref(), Ok(via));
        }
        for via in ["", "a b", "a\r\nX: y", "a,b", "(comment)"] {
            assert!(check_via(via).is_err(), "{via}");
        }
    }

    #[test]
    fn everything_wrong_is_reported() {
        let mut report = Report::default();
        let raw = ForwardingKeys {
            trusted_proxies: Field::flag(
                "--trusted-proxy",
                vec![
                    Located::new("10.0.0.1/8".into(), Origin::Flag("--trusted-proxy".into())),
                    Located::new("lb".into(), Origin::Flag("--trusted-proxy".into())),
                ],
            ),
            via: given("a b".to_owned()),
            by: given("me".to_owned()),
            ..ForwardingKeys::default()
        };
        Forwarding::check(&raw, &mut report);
        let words = ["Via", "\"_me\"", "did you mean 10.0.0.0/8", "names are not looked up"];
        assert_eq!(report.errors.len(), words.len(), "{:#?}", report.errors);
        for (error, words) in report.errors.iter().zip(words) {
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
