//! Lookups in small tables, rule by rule.

use sluice_proto::h1::{HeadStore, Parsed, parse_request};
use sluice_proto::{HeadLimits, RequestHead};

use super::*;
use crate::config::{Condition, HostPattern, Methods, PathPattern, Route};

/// A table with what a shard has beside it.
struct Table(RouteTable, Matchers);

/// A table from lines `METHODS HOST PATH CONDITIONS`; `*` for any method or host, `PATH+` for a prefix, `~PATH` for an expression,
/// conditions with `;` in between. The upstream of a route is its number times ten.
fn table(lines: &[&str]) -> Table {
    let routes = lines.iter().enumerate().map(|(i, line)| {
        let [methods, host, path, rest @ ..] = &line.splitn(4, ' ').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let pattern = match (path.strip_suffix('+'), path.strip_prefix('~')) {
            (_, Some(expression)) => PathPattern::parse_regex(expression),
            (Some(prefix), _) => PathPattern::parse_prefix(prefix),
            (None, None) => PathPattern::parse(path),
        };
        let conditions = rest.iter().flat_map(|texts| texts.split(';'));
        Route {
            hosts: vec![if *host == "*" { HostPattern::Any } else { HostPattern::parse(host).unwrap() }],
            methods: match *methods {
                "*" => Methods::Any,
                list => Methods::Only(list.split(',').map(str::to_owned).collect()),
            },
            conditions: conditions.map(|text| Condition::parse(text).unwrap()).collect(),
            upstream: i * 10,
            ..reference::route_for(pattern.unwrap())
        }
    });
    let table = RouteTable::build(&reference::config_of(routes.collect()));
    let matchers = table.matchers();
    Table(table, matchers)
}

/// A request without fields, of a client that has no address.
pub(super) fn plain<'r>(host: &'r str, path: &'r str, method: &'r str) -> Asked<'r> {
    let client = std::net::Ipv4Addr::UNSPECIFIED.into();
    Asked { host, path, method, target: path, fields: sluice_proto::fields::Fields::default(), client }
}

impl Table {
    fn lookup(&self, host: &str, path: &str, method: &str) -> Lookup<'_> {
        self.0.lookup(&plain(host, path, method), &self.1)
    }

    /// The route for a request with these field lines; the status where there is none.
    fn of(&self, method: &str, target: &str, lines: &str) -> Result<usize, String> {
        with_head(target, lines, |head| {
            let asked = Asked {
                host: "a",
                path: target.split('?').next().unwrap_or_default(),
                method,
                target,
                fields: head.field_list(),
                client: "10.1.2.3".parse().unwrap(),
            };
            match self.0.lookup(&asked, &self.1) {
                Lookup::Found(target) => Ok(target.route),
                Lookup::MethodNotAllowed { allow } => Err(format!("405 {allow}")),
                Lookup::NotFound => Err("404".to_owned()),
            }
        })
    }
}

/// Gives a head with this target and these lines, each with its end.
pub(super) fn with_head<R>(target: &str, lines: &str, use_it: impl FnOnce(&RequestHead<'_>) -> R) -> R {
    let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    let mut store = HeadStore::default();
    match parse_request(text.as_bytes(), &mut store, &HeadLimits::default()) {
        Ok(Parsed::Complete { head, .. }) => use_it(&head),
        _ => panic!("not a head: {text}"),
    }
}

fn found(table: &Table, host: &str, path: &str) -> Option<usize> {
    match table.lookup(host, path, "GET") {
        Lookup::Found(target) => {
            assert_eq!(target.upstream, target.route * 10);
            Some(target.route)
        }
        Lookup::NotFound => None,
        Lookup::MethodNotAllowed { .. } => panic!("{path}"),
    }
}

#[test]
fn catch_all_takes_everything() {
    let table = table(&["* * /+"]);
    for path in ["/", "/a", "/a/b/", "//", "*", ""] {
        assert_eq!(found(&table, "any.host", path), Some(0), "{path}");
    }
}

#[test]
fn rest_needs_its_slash_and_prefix_does_not() {
    let table = table(&["* * /s/{*rest}", "* * /p+"]);
    for (path, want) in [
        ("/s", None),
        ("/s/", Some(0)),
        ("/s/a/b", Some(0)),
        ("/sa", None),
        ("/p", Some(1)),
        ("/p/", Some(1)),
        ("/p/a", Some(1)),
        ("/pa", None),
        ("*", None),
    ] {
        assert_eq!(found(&table, "", path), want, "{path}");
    }
}

#[test]
fn literal_beats_param_beats_rest_beats_prefix() {
    let table = table(&["* * /a+", "* * /a/{*rest}", "* * /a/{x}", "* * /a/b", "* * /a"]);
    for (path, want) in [("/a", 4), ("/a/b", 3), ("/a/c", 2), ("/a/", 1), ("/a/b/c", 1)] {
        assert_eq!(found(&table, "", path), Some(want), "{path}");
    }
}

#[test]
fn a_dead_end_is_left_again() {
    let table = table(&["* * /a/b/c", "* * /{x}/b/d", "* * /a/{y}/e", "* * /+"]);
    for (path, want) in [("/a/b/c", 0), ("/a/b/d", 1), ("/a/b/e", 2), ("/a/b/f", 3), ("/z/b/d", 1)] {
        assert_eq!(found(&table, "", path), Some(want), "{path}");
    }
}

#[test]
fn param_is_one_segment_that_is_not_empty() {
    let table = table(&["* * /u/{id}/p"]);
    assert_eq!(found(&table, "", "/u/1/p"), Some(0));
    for path in ["/u//p", "/u/1/2/p", "/u/1/p/", "/u/1"] {
        assert_eq!(found(&table, "", path), None, "{path}");
    }
}

#[test]
fn trailing_slash_is_another_path() {
    let table = table(&["* * /a", "* * /b/"]);
    assert_eq!(found(&table, "", "/a"), Some(0));
    assert_eq!(found(&table, "", "/a/"), None);
    assert_eq!(found(&table, "", "/b"), None);
    assert_eq!(found(&table, "", "/b/"), Some(1));
}

#[test]
fn hosts_from_specific_to_wide_and_back() {
    let table = table(&["* * /+", "* *.b.c /+", "* *.a.b.c /x", "* x.b.c /x", "* [::1] /x"]);
    for (host, path, want) in [
        ("X.B.C:8080", "/x", 3),
        ("x.b.c.", "/x", 3),
        // The exact host has no such path: the wider patterns are asked.
        ("x.b.c", "/y", 1),
        ("q.a.b.c", "/x", 2),
        ("q.a.b.c", "/y", 1),
        ("a.b.c", "/x", 1),
        ("b.c", "/x", 0),
        ("", "/x", 0),
        ("[::1]:80", "/x", 4),
        ("[::1]:80", "/y", 0),
    ] {
        assert_eq!(found(&table, host, path), Some(want), "{host} {path}");
    }
}

#[test]
fn methods_decide_after_the_place() {
    let table = table(&["GET,POST * /a", "* * /+", "HEAD * /h", "GET * /h", "PUT * /b", "* * /b"]);
    let allow = |path, method| match table.lookup("", path, method) {
        Lookup::MethodNotAllowed { allow } => Err(allow.into_owned()),
        Lookup::Found(target) => Ok(target.route),
        Lookup::NotFound => panic!("{path}"),
    };
    assert_eq!(allow("/a", "GET"), Ok(0));
    assert_eq!(allow("/a", "HEAD"), Ok(0));
    // The catch-all must not undo what /a forbids.
    assert_eq!(allow("/a", "DELETE"), Err("GET, HEAD, POST".to_owned()));
    assert_eq!(allow("/a", "get"), Err("GET, HEAD, POST".to_owned()));
    assert_eq!(allow("/h", "HEAD"), Ok(2));
    assert_eq!(allow("/h", "GET"), Ok(3));
    assert_eq!(allow("/b", "PUT"), Ok(4));
    assert_eq!(allow("/b", "PATCH"), Ok(5));
}

#[test]
fn empty_table_finds_nothing() {
    assert_eq!(table(&[]).lookup("a", "/", "GET"), Lookup::NotFound);
}

#[test]
fn hostile_paths_cost_no_more_than_the_pattern_tree() {
    let table = table(&["* * /{a}/{b}/{c}/x", "* * /a/{b}/c/x", "* * /a/a/{c}/x", "* * /{a}/a/a/x"]);
    let path = "/a".repeat(100_000);
    assert_eq!(found(&table, &".a".repeat(100_000), &path), None);
}

#[test]
fn expressions_stand_between_paths_and_what_is_below_them() {
    let table = table(&[
        "* * /+",
        "* * /img/+",
        "* * ~^/img/[0-9]+$",
        "* * ~^/img/7",
        "* * /img/7",
        "* * /img/{id}/big",
        "* * /{*rest}",
        "* b ~x",
    ]);
    for (host, path, want) in [
        ("a", "/img/8", 2),
        ("a", "/img/7", 4),
        // Of two expressions the first in the file.
        ("a", "/img/77", 2),
        ("a", "/img/7x", 3),
        ("a", "/img/8/big", 5),
        ("a", "/img/7/big", 5),
        ("a", "/img/8/small", 1),
        ("a", "/other", 6),
        ("a", "*", 0),
        ("b", "/axe", 7),
        ("b", "/img/8", 2),
        ("b", "", 0),
    ] {
        assert_eq!(found(&table, host, path), Some(want), "{host} {path}");
    }
    let expression = table.0.path_regex(2, &table.1).expect("route 2 has one");
    assert!(expression.is_match(b"/img/1") && table.0.path_regex(0, &table.1).is_none());
}

#[test]
fn conditions_choose_within_a_place_and_hide_nothing() {
    let table = table(&[
        "* * /+",
        "* * /x header v = 1",
        "* * /x header v = 1;cookie beta",
        "* * /x query q ~ ^[0-9]+$",
        "GET,PUT * /y client 10.0.0.0/8",
        "* * /y header v",
        "GET * /y header v = 2;cookie beta",
        "GET * /z not header v",
        "POST * /z",
    ]);
    for (method, target, lines, want) in [
        ("GET", "/x", "", Ok(0)),
        ("GET", "/x", "v: 1\r\n", Ok(1)),
        ("GET", "/x?q=1", "v: 1\r\n", Ok(1)),
        ("GET", "/x?q=1", "", Ok(3)),
        ("GET", "/x?q=a", "", Ok(0)),
        ("GET", "/x?q=%31", "v: 1\r\nCookie: beta=\r\n", Ok(2)),
        // Method before conditions before order: 4 and 6 name it, and 6 has more conditions.
        ("GET", "/y", "v: 2\r\n", Ok(4)),
        ("GET", "/y", "v: 2\r\nCookie: beta=1\r\n", Ok(6)),
        ("HEAD", "/y", "v: 2\r\nCookie: beta=1\r\n", Ok(6)),
        ("POST", "/y", "v: 2\r\n", Ok(5)),
        ("POST", "/y", "", Err("405 GET, HEAD, PUT")),
        // Only the methods of those that hold.
        ("PUT", "/z", "", Err("405 GET, HEAD, POST")),
        ("GET", "/z", "v: 1\r\n", Err("405 POST")),
        ("GET", "/z", "", Ok(7)),
    ] {
        let found = table.of(method, target, lines);
        assert_eq!(found.as_ref().copied().map_err(String::as_str), want, "{method} {target} {lines:?}");
    }
}

#[test]
fn a_place_without_a_route_that_holds_gives_way_to_each_wider_one() {
    let table = table(&[
        "* * /+",
        "* a /+ header any",
        "* a /s/+ header prefix",
        "* a /s/{*rest} header rest",
        "* a ~^/s/.$ header regex",
        "* a /s/{p} header param",
        "* a /s/t header literal",
    ]);
    let all = ["any", "prefix", "rest", "regex", "param", "literal"];
    for count in 0..=all.len() {
        let lines: String = all[..count].iter().map(|name| format!("{name}: 1\r\n")).collect();
        assert_eq!(table.of("GET", "/s/t", &lines), Ok(count), "{lines}");
        let alone = all.get(count).map_or(String::new(), |name| format!("{name}: 1\r\n"));
        assert_eq!(table.of("GET", "/s/t", &alone), Ok((count + 1) % 7), "{alone}");
    }
}
