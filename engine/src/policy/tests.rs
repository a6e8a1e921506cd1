//! What is written for requests: values in every place, and clients that try to get out of theirs.

use proptest::prelude::*;
use sluice_proto::authority::Authority;
use sluice_proto::h1::{ClientIdentity, HeadStore, IdentityPolicy, Parsed, Trust, parse_request};
use sluice_proto::path::{PathRules, PathStore, normalize};
use sluice_proto::{HeadLimits, RequestHead};

use super::apply::{Misfit, PolicyStore};
use super::captures::Captures;
use super::edits::{HeaderEdits, NewField};
use super::template::{Shape, Template, Unfit};
use super::variables::Facts;
use super::{Prefix, RoutePolicy, TargetRule};
use crate::config::PathPattern;

const CLIENT: ClientIdentity<'static> = ClientIdentity {
    peer: b"192.0.2.7",
    client: b"2001:db8::1",
    trust: Trust::Untrusted,
    proto: "https",
    request_id: 0xab,
    tls: None,
};

/// Has `see` look at a request by a route of this pattern; `None` where the request itself is refused.
fn with<T>(pattern: &PathPattern, request: &[u8], see: impl FnOnce(&Facts<'_>, &str) -> T) -> Option<T> {
    let mut store = HeadStore::default();
    let parsed = parse_request(request, &mut store, &HeadLimits::default());
    let Ok(Parsed::Complete { head, .. }) = parsed else { return None };
    let mut paths = PathStore::default();
    let forms = normalize(head.path_and_query, head.path, &PathRules::default(), &mut paths).ok()?;
    let identity = &IdentityPolicy::default();
    let captures = Captures::new(pattern);
    let head: &RequestHead<'_> = &head;
    let facts =
        Facts { head, path: forms.path, client: &CLIENT, port: 4711, identity, captures: Some(&captures) };
    Some(see(&facts, forms.matching))
}

fn written(template: &str, shape: Shape, pattern: &str, request: &str) -> Result<String, Unfit> {
    let pattern = PathPattern::parse(pattern).unwrap();
    let template =
        Template::parse(template, shape, Some(&pattern)).unwrap_or_else(|fault| panic!("{fault:?}"));
    let write = |facts: &Facts<'_>, _: &str| {
        let mut out = b"before".to_vec();
        template.write(&mut out, facts)?;
        Ok(String::from_utf8(out.split_off("before".len())).unwrap())
    };
    with(&pattern, request.as_bytes(), write).expect("a request in order")
}

const REQUEST: &str = "PUT /users/a%2Cb/x/y?q=1&name=b%20c&name=2 HTTP/1.1\r\nHost: Shop.example:8443\r\n\
                       Cookie: a=1; session=s3; Session=other\r\nX-User: al ice/../?&\r\nContent-Length: 0\r\n\r\n";

#[test]
fn every_variable_has_its_value() {
    for (text, value) in [
        ("${client.ip}", "2001:db8::1"),
        ("${client.port}", "4711"),
        ("${request.id}", "000000000000000000000000000000ab"),
        ("${host}", "Shop.example"),
        ("${authority}", "Shop.example:8443"),
        ("${path}", "/users/a%2Cb/x/y"),
        ("${query}", "q=1&name=b%20c&name=2"),
        ("${uri}", "/users/a%2Cb/x/y?q=1&name=b%20c&name=2"),
        ("${method}", "PUT"),
        ("${scheme}", "https"),
        ("${path.id}", "a%2Cb"),
        ("${path.rest}", "x/y"),
        ("${header.x-USER}", "al ice/../?&"),
        ("${header.X-None}", ""),
        ("${cookie.session}", "s3"),
        ("${cookie.sess}", ""),
        ("${query.name}", "b%20c"),
        ("${query.nam}", ""),
        ("a ${method}-${scheme} z", "a PUT-https z"),
        ("$${host} $$ ${method}", "${host} $$ PUT"),
        // Nothing but the value, whatever it is made of.
        ("${header.X-None} ${method} ${header.X-None}", "PUT"),
    ] {
        let found = written(text, Shape::Field, "/users/{id}/{*rest}", REQUEST).unwrap();
        assert_eq!(found, value, "{text}");
    }
}

#[test]
fn values_are_encoded_by_their_places() {
    let pattern = "/users/{id}/{*rest}";
    for (text, value) in [
        ("/v2/${path.id}", "/v2/a%2Cb"),
        ("/v2/${path.rest}?id=${path.id}&from=${client.ip}", "/v2/x/y?id=a%2Cb&from=2001%3Adb8%3A%3A1"),
        ("/u/${header.X-User}", "/u/al%20ice%2F..%2F%3F%26"),
        ("/u?user=${header.X-User}", "/u?user=al%20ice%2F..%2F%3F%26"),
        ("/n/${query.name}", "/n/b%20c"),
        ("/n?${query}", "/n?q=1&name=b%20c&name=2"),
        ("${path}/end", "/users/a%2Cb/x/y/end"),
        ("${uri}", "/users/a%2Cb/x/y?q=1&name=b%20c&name=2"),
        ("/login?next=${uri}", "/login?next=%2Fusers%2Fa%252Cb%2Fx%2Fy%3Fq%3D1%26name%3Db%2520c%26name%3D2"),
    ] {
        assert_eq!(written(text, Shape::Target, pattern, REQUEST).unwrap(), value, "{text}");
        let location = format!("https://new.example{text}");
        let found = written(&location, Shape::Location, pattern, REQUEST).unwrap();
        assert_eq!(found, format!("https://new.example{value}"), "{location}");
    }
    for (text, value) in [
        (
            "${scheme}://${host}:9000${uri}",
            Ok("https://Shop.example:9000/users/a%2Cb/x/y?q=1&name=b%20c&name=2"),
        ),
        ("//${authority}/x#${method}", Ok("//Shop.example:8443/x#PUT")),
        ("https://${cookie.session}.example/", Ok("https://s3.example/")),
        ("https://${header.X-User}.example/", Err(Unfit::Host)),
        ("https://${path.id}.example/", Err(Unfit::Host)),
        ("https://${header.X-None}/", Err(Unfit::Host)),
        ("${path}/", Ok("/users/a%2Cb/x/y/")),
    ] {
        assert_eq!(
            written(text, Shape::Location, pattern, REQUEST).as_deref(),
            value.as_ref().map(|value| *value),
            "{text}"
        );
    }
    for (text, value) in [
        ("${cookie.session}.internal:80", Ok("s3.internal:80")),
        ("${header.X-User}", Err(Unfit::Host)),
        ("${path.id}", Err(Unfit::Host)),
        ("${client.ip}", Err(Unfit::Host)),
        ("${authority}", Ok("Shop.example:8443")),
    ] {
        assert_eq!(
            written(text, Shape::Host, pattern, REQUEST).as_deref(),
            value.as_ref().map(|value| *value),
            "{text}"
        );
    }
}

#[test]
fn a_path_of_a_client_is_no_host_to_a_browser() {
    let pattern = PathPattern::parse("/go/{*rest}").unwrap();
    let template = Template::parse("/${path.rest}", Shape::Location, Some(&pattern)).unwrap();
    let captures = Captures::new(&pattern);
    let head = "GET /go//evil.example/x HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut store = HeadStore::default();
    let Ok(Parsed::Complete { head, .. }) =
        parse_request(head.as_bytes(), &mut store, &HeadLimits::default())
    else {
        panic!("a request in order")
    };
    let mut out = Vec::new();
    let identity = &IdentityPolicy::default();
    let facts =
        Facts { head: &head, path: head.path, client: &CLIENT, port: 0, identity, captures: Some(&captures) };
    template.write(&mut out, &facts).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "/evil.example/x");
}

#[test]
fn what_is_too_long_is_not_written() {
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\n", "x".repeat(8000));
    let text = "${header.X-Long}".repeat(5);
    assert_eq!(written(&text, Shape::Field, "/", &request), Err(Unfit::TooLong));
}

/// The target that a server gets by this rule.
fn target(rule: TargetRule, pattern: &str, request: &str) -> Result<Option<String>, Misfit> {
    let pattern = PathPattern::parse(pattern).unwrap();
    let policy = RoutePolicy { target: rule, ..RoutePolicy::default() };
    with(&pattern, request.as_bytes(), |facts, matching| {
        let mut store = PolicyStore::default();
        let changed = policy.change(&mut store, facts, (matching, PathRules::default()))?;
        Ok(changed.target.map(|(target, _)| target.to_owned()))
    })
    .expect("a request in order")
}

#[test]
fn a_prefix_is_stripped_by_segments() {
    let strip = || TargetRule::Strip(Prefix { matching: "/a@b/v1".into(), segments: 2 });
    for (path, wanted) in [
        ("/a@b/v1/x?q", Some("/x?q")),
        ("/a%40b/v1/x/", Some("/x/")),
        ("/a@b/v1", Some("/")),
        ("/a@b/v1?q=/a@b/v1/", Some("/?q=/a@b/v1/")),
        ("/a@b//v1/./x", Some("/x")),
        ("/a@b/v12/x", None),
        ("/b", None),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(target(strip(), "/{*all}", &request).unwrap().as_deref(), wanted, "{path}");
    }
    let whole = target(strip(), "/{*all}", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(whole.unwrap(), None);
}

#[test]
fn no_value_leads_out_of_the_path_that_is_written() {
    let rewrite = |text: &str| {
        let pattern = PathPattern::parse("/{a}/{b}/{*rest}").unwrap();
        TargetRule::Rewrite(Template::parse(text, Shape::Target, Some(&pattern)).unwrap())
    };
    let request = "GET /./x/.../y/z?p=..&q=%2e%2e%2f%2e%2e&r=a/../b HTTP/1.1\r\nHost: a\r\nX-Up: ..\r\nX-Deep: ../../etc\r\n\r\n";
    for text in [
        "/files/${query.p}",
        "/files/${query.q}",
        "/files/${query.r}",
        "/files/${header.X-Up}",
        "/files/${header.X-Deep}",
        "/files/.${query.p}/x",
    ] {
        match target(rewrite(text), "/{a}/{b}/{*rest}", request) {
            Err(Misfit::Path(_)) => {}
            Ok(Some(target)) => assert!(
                target.starts_with("/files/...") || target.starts_with("/files/a%2F"),
                "{text}: {target}"
            ),
            other => panic!("{text}: {other:?}"),
        }
    }
    let fine = target(rewrite("/files/${path.a}?${query}&x=1"), "/{a}/{b}/{*rest}", request).unwrap();
    assert_eq!(fine.as_deref(), Some("/files/x?p=..&q=%2e%2e%2f%2e%2e&r=a/../b&x=1"));
    let kept = target(rewrite("/files/${path.a}"), "/{a}/{b}/{*rest}", request).unwrap();
    assert!(kept.unwrap().starts_with("/files/x?p=.."), "without a `?` the query stays");
}

/// Templates with every variable in every place.
fn templates() -> Vec<(Shape, String)> {
    let variables = [
        "client.ip",
        "client.port",
        "request.id",
        "host",
        "authority",
        "path",
        "query",
        "method",
        "scheme",
        "path.a",
        "path.rest",
        "header.X-A",
        "cookie.c",
        "query.q",
    ];
    let mut all = Vec::new();
    for name in variables {
        all.push((Shape::Field, format!("a ${{{name}}} b${{{name}}}")));
        for text in [
            format!("/p/${{{name}}}/${{{name}}}"),
            format!("/p?q=${{{name}}}&r=${{{name}}}"),
            format!("/${{{name}}}"),
        ] {
            all.push((Shape::Target, text.clone()));
            all.push((Shape::Location, text.clone()));
            all.push((Shape::Location, format!("https://h.example{text}")));
        }
        all.push((Shape::Location, format!("https://${{{name}}}.example/x")));
        all.push((Shape::Host, format!("${{{name}}}")));
    }
    all.push((Shape::Target, "${uri}".to_owned()));
    all.push((Shape::Location, "https://${authority}${uri}".to_owned()));
    all
}

/// A request that the parser lets through, with bytes of the client wherever they can be.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let odd = "[ -~\\x80-\\xff\\t\\r\\n]{0,12}";
    let path = "(/[a-z.%;@:&=+|\\[\\]\"<>^`{}\\\\0-9]{0,6}){1,4}";
    let query = "(\\?[!-~]{0,20})?";
    (path, query, odd, odd, "[a-zA-Z0-9.:@%-]{1,12}").prop_map(|(path, query, header, cookie, host)| {
        format!(
            "GET {path}{query} HTTP/1.1\r\nHost: {host}\r\nX-A: {header}\r\nCookie: c={cookie}; d\r\n\r\n"
        )
        .into_bytes()
    })
}

/// What is written can be nothing but what it is for.
fn check_written(shape: Shape, text: &str, out: &[u8]) {
    let shown = || format!("{shape:?} {text}: {}", out.escape_ascii());
    assert!(!out.iter().any(|&byte| byte.is_ascii_control() && byte != b'\t'), "{}", shown());
    match shape {
        Shape::Field => assert_eq!(out.trim_ascii(), out, "{}", shown()),
        Shape::Host => assert!(Authority::parse(str::from_utf8(out).unwrap()).is_some(), "{}", shown()),
        Shape::Target | Shape::Location => {
            assert!(out.iter().all(|&byte| byte.is_ascii_graphic() && byte != b'#'), "{}", shown());
            let out = str::from_utf8(out).unwrap();
            if let Some(rest) = text.strip_prefix("https://h.example") {
                assert!(out.starts_with("https://h.example/") && rest.starts_with('/'), "{}", shown());
            } else if text.starts_with('/') {
                assert!(
                    out.starts_with('/') && (shape == Shape::Target || !out.starts_with("//")),
                    "{}",
                    shown()
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn nothing_gets_out_of_its_place(request in request()) {
        let pattern = PathPattern::parse("/{a}/{*rest}").unwrap();
        with(&pattern, &request, |facts, matching| {
            for (shape, text) in templates() {
                let template = Template::parse(&text, shape, Some(&pattern)).unwrap();
                let mut out = Vec::new();
                if template.write(&mut out, facts).is_ok() {
                    check_written(shape, &text, &out);
                }
                if shape != Shape::Target {
                    continue;
                }
                // As a whole, a target is one that could have been received.
                let policy = RoutePolicy { target: TargetRule::Rewrite(template), ..RoutePolicy::default() };
                let mut store = PolicyStore::default();
                let Ok(changed) = policy.change(&mut store, facts, (matching, PathRules::default())) else { continue };
                let Some((target, _)) = changed.target else { continue };
                let line = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
                let mut heads = HeadStore::default();
                let parsed = parse_request(line.as_bytes(), &mut heads, &HeadLimits::default());
                let Ok(Parsed::Complete { head, bytes }) = parsed else { panic!("{text}: {target}") };
                assert!(head.path_and_query == target && bytes == line.len(), "{text}: {target}");
            }
        });
    }
}

#[test]
fn lines_of_fields_leave_empty_values_out() {
    let field = |name: &str, value: &str, replaces| NewField {
        name: name.into(),
        value: Template::parse(value, Shape::Field, None).unwrap(),
        replaces,
    };
    let edits = HeaderEdits::new(
        &["X-Gone".to_owned()],
        vec![
            field("X-User", "${header.X-None}", true),
            field("X-Host", "${host}", true),
            field("X-Fixed", "1", false),
        ],
    );
    let pattern = PathPattern::any();
    let lines = with(&pattern, REQUEST.as_bytes(), |facts, _| {
        let mut out = Vec::new();
        edits.write_unless_fixed(&mut out, facts).unwrap();
        String::from_utf8(out).unwrap()
    });
    let lines = lines.unwrap();
    assert_eq!(lines, "X-Host: Shop.example\r\nX-Fixed: 1\r\n");
    let changed = edits.with_lines(Some(lines.as_bytes())).unwrap();
    for (name, is_removed) in [("x-gone", true), ("X-User", true), ("X-Host", true), ("X-Fixed", false)] {
        assert_eq!(changed.removed.has(name.as_bytes()), is_removed, "{name}");
    }
    let fixed = HeaderEdits::new(&[], vec![field("A", "1", true)]);
    assert!(!fixed.has_variables() && fixed.with_lines(None).unwrap().lines == b"A: 1\r\n");
    assert!(HeaderEdits::default().with_lines(None).is_none());
}
