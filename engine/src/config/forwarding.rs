//! `[forwarding]`: what servers are told about the client of a request, and whose word on it is taken.

use std::net::{IpAddr, SocketAddr};

use sluice_proto::authority::Authority;
use sluice_proto::forwarded::HopList;
use sluice_proto::h1::{IdentityPolicy, RealIp, RequestId};

use super::address::split_port;
use super::choices::Choice;
use super::networks::Networks;
use super::problem::{Fault, Located, Origin, Report};
use super::raw::{Field, Walk};
use super::source::Node;

/// What `[forwarding]` comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// Proxies whose word is taken.
    pub trusted_proxies: Networks,
    /// Which fields are sent.
    pub policy: IdentityPolicy,
}

/// Which fields tell servers about the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldsSent {
    /// X-Forwarded-For, -Proto, -Host and -Port.
    XForwarded,
    /// Forwarded.
    Forwarded,
    /// All of them.
    Both,
    /// None of them.
    None,
}

impl Choice for FieldsSent {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("x-forwarded", Self::XForwarded),
        ("forwarded", Self::Forwarded),
        ("both", Self::Both),
        ("none", Self::None),
    ];
}

impl Choice for HopList {
    const WORDS: &'static [(&'static str, Self)] =
        &[("x-forwarded-for", Self::XForwardedFor), ("forwarded", Self::Forwarded)];
}

impl Choice for RealIp {
    const WORDS: &'static [(&'static str, Self)] =
        &[("trusted", Self::Trusted), ("set", Self::Set), ("remove", Self::Remove)];
}

impl Choice for RequestId {
    const WORDS: &'static [(&'static str, Self)] =
        &[("make", Self::Make), ("pass", Self::Pass), ("remove", Self::Remove)];
}

macro_rules! forwarding {
    ($( $field:ident: $ty:ty, read $read:ident, parse $parse:expr, $flag:literal, $words:literal, $default:literal, $doc:literal; )*) => {
        /// Key, flag and default of each row, for the manual and for tests.
        #[cfg(test)]
        const ROWS: &[(&str, &str, &str)] =
            &[$( (stringify!($field), concat!("--", $flag), $default) ),*];

        /// The `[forwarding]` section as written.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct RawForwarding {
            /// Addresses and networks of proxies whose word is taken.
            pub trusted_proxies: Field<Vec<Located<String>>>,
            $( #[doc = $doc] pub $field: Field<$ty>, )*
        }

        impl RawForwarding {
            /// The keys of the section.
            pub(crate) const KEYS: &'static [&'static str] = &["trusted_proxies", $( stringify!($field) ),*];

            /// Reads the section.
            pub(crate) fn read(walk: &mut Walk<'_>, table: &Node) -> Self {
                let fields = walk.table(table, "forwarding", Self::KEYS);
                Self {
                    trusted_proxies: fields.texts(walk, "trusted_proxies"),
                    $( $field: fields.$read(walk, stringify!($field)), )*
                }
            }

            /// Takes over what the flags say.
            pub(crate) fn set(&mut self, flags: &ForwardingFlags) {
                if !flags.trusted_proxies.is_empty() {
                    let at = Origin::Flag("--trusted-proxy");
                    let located = |text: &String| Located::new(text.clone(), at.clone());
                    self.trusted_proxies =
                        Field::flag("--trusted-proxy", flags.trusted_proxies.iter().map(located).collect());
                }
                $( if let Some(value) = flags.$field.clone() {
                    self.$field = Field::flag(concat!("--", $flag), value);
                } )*
            }
        }

        /// Flags for the `[forwarding]` section.
        #[derive(Debug, Clone, Default, clap::Args)]
        #[command(next_help_heading = "Forwarding")]
        pub struct ForwardingFlags {
            /// Address or network (CIDR) of a proxy whose word on the client is taken; repeatable
            #[arg(long = "trusted-proxy", value_name = "CIDR")]
            pub trusted_proxies: Vec<String>,
            $( #[doc = $doc]
               #[arg(
                   id = $flag,
                   long = $flag,
                   value_name = $words,
                   value_parser = $parse,
                   help = concat!($doc, " [default: ", $default, "]")
               )]
               pub $field: Option<$ty>, )*
        }
    };
}

forwarding! {
    fields: FieldsSent, read choice, parse FieldsSent::parse,
        "forwarding-fields", "x-forwarded|forwarded|both|none", "x-forwarded",
        "Fields that tell servers about the client";
    trusted_field: HopList, read choice, parse HopList::parse,
        "forwarding-trusted-field", "x-forwarded-for|forwarded", "the one that is sent",
        "The list that trusted proxies maintain";
    real_ip: RealIp, read choice, parse RealIp::parse,
        "forwarding-real-ip", "trusted|set|remove", "trusted",
        "X-Real-IP: passed on from trusted proxies only, set to the client's address, or removed";
    request_id: RequestId, read choice, parse RequestId::parse,
        "forwarding-request-id", "make|pass|remove", "make",
        "X-Request-Id: made unless a trusted proxy sent one, left as it came, or removed";
    via: String, read text, parse clap::value_parser!(String),
        "forwarding-via", "NAME", "sluice",
        "Our name in Via: a word, or host:port";
    by: String, read text, parse clap::value_parser!(String),
        "forwarding-by", "NODE", "none",
        "Our name in Forwarded (by=): an address, unknown, or _anything";
}

impl Forwarding {
    /// Settles every key.
    pub(crate) fn check(raw: &RawForwarding, report: &mut Report) -> Self {
        let default = IdentityPolicy::default();
        let fields = chosen(&raw.fields, FieldsSent::XForwarded);
        let first_list =
            if fields == FieldsSent::Forwarded { HopList::Forwarded } else { HopList::XForwardedFor };
        let policy = IdentityPolicy {
            x_forwarded: matches!(fields, FieldsSent::XForwarded | FieldsSent::Both),
            forwarded: matches!(fields, FieldsSent::Forwarded | FieldsSent::Both),
            trusted_list: chosen(&raw.trusted_field, first_list),
            real_ip: chosen(&raw.real_ip, default.real_ip),
            request_id: chosen(&raw.request_id, default.request_id),
            via: check_text(&raw.via, "forwarding.via", report, check_via).unwrap_or(default.via),
            by: check_text(&raw.by, "forwarding.by", report, check_by).unwrap_or(default.by),
        };
        let trusted_proxies = Networks::check(&raw.trusted_proxies, "forwarding.trusted_proxies", report);
        Self { trusted_proxies, policy }
    }
}

fn chosen<C: Choice>(field: &Field<C>, default: C) -> C {
    field.given().map_or(default, |given| given.value)
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

/// What somebody who wrote `text` behind by= may have meant.
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
    use super::*;

    fn given<T>(value: T) -> Field<T> {
        Field::flag("--x", value)
    }

    #[test]
    fn the_list_that_is_sent_is_the_one_that_is_believed() {
        let trusted = |fields, field: Option<HopList>| {
            let raw = RawForwarding {
                fields: given(fields),
                trusted_field: field.map_or(Field::Absent, given),
                ..RawForwarding::default()
            };
            Forwarding::check(&raw, &mut Report::default()).policy.trusted_list
        };
        for fields in [FieldsSent::XForwarded, FieldsSent::Both, FieldsSent::None] {
            assert_eq!(trusted(fields, None), HopList::XForwardedFor);
            assert_eq!(trusted(fields, Some(HopList::Forwarded)), HopList::Forwarded);
        }
        assert_eq!(trusted(FieldsSent::Forwarded, None), HopList::Forwarded);
        assert_eq!(trusted(FieldsSent::Forwarded, Some(HopList::XForwardedFor)), HopList::XForwardedFor);
        let nothing = Forwarding::check(&RawForwarding::default(), &mut Report::default());
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
    fn everything_wrong_is_told() {
        let mut report = Report::default();
        let raw = RawForwarding {
            trusted_proxies: Field::flag(
                "--trusted-proxy",
                vec![
                    Located::new("10.0.0.1/8".into(), Origin::Flag("--trusted-proxy")),
                    Located::new("lb".into(), Origin::Flag("--trusted-proxy")),
                ],
            ),
            via: given("a b".to_owned()),
            by: given("me".to_owned()),
            ..RawForwarding::default()
        };
        Forwarding::check(&raw, &mut report);
        let words = ["Via", "\"_me\"", "did you mean 10.0.0.0/8", "names are not looked up"];
        assert_eq!(report.errors.len(), words.len(), "{:#?}", report.errors);
        for (error, words) in report.errors.iter().zip(words) {
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn the_manual_and_the_example_have_every_key() {
        let manual = include_str!("../../../docs/configuration.md");
        let example = include_str!("../../../examples/sluice.toml");
        assert!(manual.contains("| `trusted_proxies` | `--trusted-proxy CIDR` (repeatable) |"));
        for (key, flag, default) in ROWS {
            let row = format!("| `{key}` | `{flag}` | {default} |");
            assert!(manual.contains(&row), "not in docs/configuration.md: {row}");
            assert!(
                example.contains(&format!("\n{key} = ")) || example.contains(&format!("\n# {key} = ")),
                "{key}"
            );
        }
    }
}
