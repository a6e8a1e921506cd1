//! Queries and cookies as conditions of routes read them: the same values as a slow reading that copies, and a condition holds just
//! where its opposite does not.
//!
//! The input is a name, a query and a cookie field, with line ends in between.

#![no_main]

use std::net::Ipv4Addr;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sluice::config::{Config, Raw};
use sluice::route::{Asked, Lookup, RouteTable, cookie_values, decoded, query_values};
use sluice_proto::HeadLimits;
use sluice_proto::h1::{HeadStore, Parsed, parse_request};

fuzz_target!(|input: &[u8]| {
    let mut lines = input.splitn(3, |&byte| byte == b'\n');
    let (Some(name), Some(query), Some(cookies)) = (lines.next(), lines.next(), lines.next()) else { return };
    let (Ok(name), Ok(query)) = (str::from_utf8(name), str::from_utf8(query)) else { return };

    let found: Vec<Vec<u8>> = query_values(query, name).map(|value| decoded(value).collect()).collect();
    assert_eq!(found, slow_query(query, name), "{name:?} in {query:?}");

    let request =
        [b"GET /?", query.as_bytes(), b" HTTP/1.1\r\nHost: a\r\nCookie: ", cookies, b"\r\n\r\n"].concat();
    let mut store = HeadStore::default();
    let Ok(Parsed::Complete { head, .. }) = parse_request(&request, &mut store, &HeadLimits::default())
    else {
        return;
    };
    if head.field_list().len() != 2 || name.is_empty() {
        return;
    }
    let fields = head.field_list();
    for value in cookie_values(&fields, name) {
        let is_part = value.is_empty() || cookies.windows(value.len()).any(|window| window == value);
        assert!(is_part && !value.contains(&b';'));
    }

    // One of the two routes holds, or the name can stand in no condition.
    for subject in ["query", "cookie"] {
        let Some(config) = config(subject, name) else { continue };
        let table = RouteTable::build(&config);
        let matchers = table.matchers();
        let target = head.path_and_query;
        let client = Ipv4Addr::LOCALHOST.into();
        let asked = Asked { host: "a", path: "/", method: "GET", target, fields, client };
        let Lookup::Found(found) = table.lookup(&asked, &matchers) else {
            panic!("neither {subject} {name}")
        };
        let is_there = match subject {
            "query" => {
                query_values(target.split_once('?').map_or("", |(_, query)| query), name).next().is_some()
            }
            _ => cookie_values(&fields, name).next().is_some(),
        };
        assert_eq!(found.route == 0, is_there, "{subject} {name:?}");
    }
});

/// Two routes: with the condition, and with its opposite.
fn config(subject: &str, name: &str) -> Option<Config> {
    // What ends a name in a condition, is decoded, or would be put in place by the reader of files.
    if name.contains(|c: char| c.is_whitespace() || c.is_control() || "=~%${}".contains(c)) {
        return None;
    }
    let condition = serde_json::Value::from(format!("{subject} {name}"));
    let opposite = serde_json::Value::from(format!("not {subject} {name}"));
    let text = format!(
        "{{\"listen\": [\"127.0.0.1:0\"], \"upstream\": [{{\"name\": \"u\", \"servers\": [\"http://a\"]}}], \"route\": [\
         {{\"upstream\": \"u\", \"when\": [{condition}]}}, {{\"upstream\": \"u\", \"when\": [{opposite}]}}]}}"
    );
    Config::check(&Raw::parse(Path::new("f.json"), text).ok()?).ok()
}

fn slow_query(query: &str, name: &str) -> Vec<Vec<u8>> {
    let parameters = query.split('&').filter(|parameter| !parameter.is_empty());
    let pairs = parameters.map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")));
    pairs
        .filter(|(key, _)| slow_decode(key) == name.as_bytes())
        .map(|(_, value)| slow_decode(value))
        .collect()
}

fn slow_decode(text: &str) -> Vec<u8> {
    let bytes = text.replace('+', " ").into_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        match digits.filter(|_| bytes[at] == b'%') {
            Some(digits) => {
                let digits = str::from_utf8(digits).expect("digits");
                out.push(u8::from_str_radix(digits, 16).expect("digits"));
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}
