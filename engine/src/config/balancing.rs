//! `balance`, `hash_by`, `hash_load`, `sticky` and `slow_start` of an `[[upstream]]`: which of its servers gets a request.

use std::time::Duration;

use super::choices::{BalancePolicy, Choice, SameSite};
use super::pattern::check_name;
use super::problem::{Fault, Located, Report};
use super::table::{StickyKeys, UpstreamKeys};
use super::values::{Field, Values};

/// Which server of a group gets a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Balancing {
    /// The rule.
    pub policy: BalancePolicy,
    /// What a hash goes by.
    pub hash_by: Option<HashBy>,
    /// The most requests of one server, in per cent of its share.
    pub hash_load: Option<u32>,
    /// The cookie that names a server.
    pub sticky: Option<Sticky>,
    /// In which time the share of a server that is new grows.
    pub slow_start: Duration,
}

/// What a hash goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashBy {
    /// The client's address; of IPv6 its network of 64 bits.
    Client,
    /// The path in its normal form, without the query.
    Path,
    /// The first field of this name.
    Header(String),
    /// The first cookie of this name.
    Cookie(String),
}

/// The cookie that names a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sticky {
    /// Its name.
    pub cookie: String,
    /// What follows its value: `; Path=/; HttpOnly`.
    pub attributes: String,
    /// What ids of servers are made with.
    pub secret: String,
}

pub(super) fn check_balancing(raw: &Values, keys: &UpstreamKeys, report: &mut Report) -> Balancing {
    let is_hash = keys.balance == BalancePolicy::Hash;
    let hash_by = keys.hash_by.given().and_then(|given| {
        let read = parse_hash_by(&given.value);
        read.map_err(|fault| report.error(&given.at, "upstream.hash_by", fault)).ok()
    });
    let is_faulty = *raw.field("balance") == Field::Faulty;
    if is_hash && keys.hash_by == Field::Absent {
        let at = raw.field("balance").given().map_or(&raw.at, |given| &given.at);
        let hint = "add hash_by = \"client\", \"path\", \"header NAME\" or \"cookie NAME\"";
        report.error(at, "upstream.balance", Fault::new("a hash of what is not said").hint(hint));
    }
    for name in ["hash_by", "hash_load"] {
        if let Some(given) = raw.field(name).given()
            && !is_hash
            && !is_faulty
        {
            let fault = Fault::new(format!("`{}` makes no use of it", keys.balance.word()));
            report.error(&given.at, &format!("upstream.{name}"), fault.hint("write balance = \"hash\""));
        }
    }
    Balancing {
        policy: keys.balance,
        hash_by,
        hash_load: keys.hash_load.value().and_then(|&load| u32::try_from(load).ok()),
        sticky: keys.sticky.given().and_then(|table| check_sticky(table, report)),
        slow_start: keys.slow_start,
    }
}

fn parse_hash_by(text: &str) -> Result<HashBy, Fault> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let hint = "write client, path, header NAME or cookie NAME";
    match words[..] {
        ["client"] => Ok(HashBy::Client),
        ["path"] => Ok(HashBy::Path),
        ["header", name] if is_token(name) => Ok(HashBy::Header(name.to_owned())),
        ["cookie", name] if is_token(name) => Ok(HashBy::Cookie(name.to_owned())),
        ["header" | "cookie", name] => {
            Err(Fault::new(format!("`{name}` is no name of a {}", words[0])).hint(hint))
        }
        ["header" | "cookie"] => Err(Fault::new("the name is missing").hint(hint)),
        _ => Err(Fault::new(format!("`{text}` is nothing that a hash can go by")).hint(hint)),
    }
}

//= https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2
fn is_token(name: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_tchar)
}

fn check_sticky(table: &Located<Values>, report: &mut Report) -> Option<Sticky> {
    if table.value.is_faulty {
        return None;
    }
    let keys = StickyKeys::settle(&table.value);
    let refuse = |name: &str, fault: Fault, report: &mut Report| {
        let at = table.value.field(name).given().map_or(&table.at, |given| &given.at);
        report.error(at, &format!("upstream.sticky.{name}"), fault);
    };
    if keys.cookie == Field::Absent {
        refuse("cookie", Fault::new("a cookie needs a name").hint("add cookie = \"srv\""), report);
    }
    let cookie = keys.cookie.value()?;
    if !is_token(cookie) {
        refuse("cookie", Fault::new(format!("`{cookie}` is no name of a cookie")), report);
    }
    //= https://www.rfc-editor.org/rfc/rfc6265#section-4.1.1
    let is_value = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b';';
    if !keys.path.starts_with('/') || !keys.path.bytes().all(is_value) {
        refuse("path", Fault::new(format!("`{}` is no path of a cookie", keys.path)), report);
    }
    let domain = keys.domain.value().map(|domain| domain.trim_start_matches('.'));
    if let Some(domain) = domain.filter(|domain| check_name(domain).is_err()) {
        refuse("domain", Fault::new(format!("`{domain}` is not a host name")), report);
    }
    if keys.same_site == SameSite::None && !keys.secure {
        let fault = Fault::new("browsers drop a cookie with SameSite=None that is not Secure");
        refuse("same_site", fault.hint("add secure = true"), report);
    }
    let mut attributes = format!("; Path={}", keys.path);
    if let Some(domain) = domain {
        attributes.push_str(&format!("; Domain={domain}"));
    }
    if let Some(age) = keys.max_age.value() {
        attributes.push_str(&format!("; Max-Age={}", age.as_secs()));
    }
    if keys.secure {
        attributes.push_str("; Secure");
    }
    if keys.http_only {
        attributes.push_str("; HttpOnly");
    }
    attributes.push_str(match keys.same_site {
        SameSite::Strict => "; SameSite=Strict",
        SameSite::Lax => "; SameSite=Lax",
        SameSite::None => "; SameSite=None",
    });
    let secret = keys.secret.value().cloned().unwrap_or_default();
    Some(Sticky { cookie: cookie.clone(), attributes, secret })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, Raw};

    fn check(upstream: &str) -> Result<Balancing, String> {
        let text = format!(
            "listen = [\"127.0.0.1:1\"]\n[[route]]\nupstream = \"a\"\n[[upstream]]\nname = \"a\"\n\
             servers = [\"http://a\", \"http://b\"]\n{upstream}"
        );
        let raw = Raw::parse(Path::new("f.toml"), text).map_err(|errors| errors.to_string())?;
        let config = Config::check(&raw).map_err(|errors| errors.to_string())?;
        Ok(config.upstreams[0].balancing.clone())
    }

    #[test]
    fn what_is_written_is_what_is_meant() {
        assert_eq!(check("").unwrap(), Balancing::default());
        for (text, wanted) in [
            ("client", HashBy::Client),
            ("path", HashBy::Path),
            ("header  X-User", HashBy::Header("X-User".into())),
            ("cookie sid", HashBy::Cookie("sid".into())),
        ] {
            let read = check(&format!("balance = \"hash\"\nhash_by = \"{text}\"\nhash_load = 125"));
            let read = read.unwrap();
            assert_eq!((read.hash_by, read.hash_load), (Some(wanted), Some(125)));
        }
        let attributes = |keys: &str| {
            check(&format!("sticky = {{ cookie = \"s\"{keys} }}")).unwrap().sticky.unwrap().attributes
        };
        assert_eq!(attributes(""), "; Path=/; HttpOnly; SameSite=Lax");
        assert_eq!(
            attributes(
                ", path = \"/a\", domain = \".a.example\", max_age = \"1h\", secure = true, http_only = false, \
                 same_site = \"none\""
            ),
            "; Path=/a; Domain=a.example; Max-Age=3600; Secure; SameSite=None"
        );
    }

    #[test]
    fn each_mistake_is_one_error_at_its_place() {
        for (upstream, wanted) in [
            (
                "balance = \"hash\"",
                "f.toml:7:11: upstream.balance: a hash of what is not said (hint: add hash_by = \"client\"",
            ),
            (
                "hash_by = \"client\"",
                "f.toml:7:11: upstream.hash_by: `round_robin` makes no use of it (hint: write balance = \"hash\")",
            ),
            (
                "balance = \"least_requests\"\nhash_load = 120",
                "f.toml:8:13: upstream.hash_load: `least_requests` makes no use of it",
            ),
            ("balance = \"hash\"\nhash_by = \"header\"", "upstream.hash_by: the name is missing"),
            (
                "balance = \"hash\"\nhash_by = \"ip\"",
                "upstream.hash_by: `ip` is nothing that a hash can go by",
            ),
            (
                "balance = \"hash\"\nhash_by = \"cookie a;b\"",
                "upstream.hash_by: `a;b` is no name of a cookie",
            ),
            (
                "balance = \"hash\"\nhash_by = \"path\"\nhash_load = 100",
                "upstream.hash_load: 100 is too small (hint: at least 101)",
            ),
            ("balance = \"leastconn\"", "upstream.balance: `leastconn` is none of round_robin,"),
            (
                "sticky = \"srv\"",
                "upstream.sticky: expected a table, found a string (hint: this is a table, such as { cookie",
            ),
            ("sticky = {}", "f.toml:7:10: upstream.sticky.cookie: a cookie needs a name"),
            ("sticky = { cookie = \"a=b\" }", "upstream.sticky.cookie: `a=b` is no name of a cookie"),
            ("sticky = { cookie = \"a\", path = \"x\" }", "upstream.sticky.path: `x` is no path of a cookie"),
            (
                "sticky = { cookie = \"a\", path = \"/;Secure\" }",
                "upstream.sticky.path: `/;Secure` is no path of a cookie",
            ),
            ("sticky = { cookie = \"a\", domain = \"a b\" }", "`a b` is not a host name"),
            (
                "sticky = { cookie = \"a\", same_site = \"none\" }",
                "upstream.sticky.same_site: browsers drop a cookie with SameSite=None that is not Secure",
            ),
            ("slow_start = \"2h\"", "upstream.slow_start: 2h is too large"),
        ] {
            let errors = check(upstream).unwrap_err();
            assert!(errors.lines().count() == 1 && errors.contains(wanted), "{upstream}: {errors}");
        }
    }
}
