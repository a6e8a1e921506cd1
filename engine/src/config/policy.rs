//! What a route does to its requests and responses: `strip_prefix`, `rewrite`, `set_host`, `redirect`, `respond`, `request_headers`,
//! `response_headers` and `error_pages`, read into a [`RoutePolicy`].

use std::path::Path;

use sluice_proto::edits::is_editable;
use sluice_proto::path::{PathRules, PathStore, normalize};

use super::pattern::{PathPattern, Segment};
use super::policy_content::{check_content, check_pages};
use super::problem::{Fault, Located, Report};
use super::table::{RequestHeadersKeys, ResponseHeadersKeys, RouteKeys, RouteRespondKeys, Top};
use super::values::{Field, Values};
use crate::policy::edits::{HeaderEdits, NewField};
use crate::policy::fixed::{ErrorPages, Fixed};
use crate::policy::template::{Shape, Template};
use crate::policy::{MirrorRule, Prefix, RouteAnswer, RoutePolicy, TargetRule};

type Texts = Field<Vec<Located<String>>>;

/// Changes to fields as written: what to remove, and what comes.
#[derive(Debug, Default)]
struct Changes {
    removed: Vec<String>,
    fields: Vec<NewField>,
}

/// What the file says for all routes.
#[derive(Debug, Default)]
pub(super) struct GlobalPolicy {
    request: Changes,
    response: Changes,
    pub(super) pages: ErrorPages,
}

/// Checks what the file says for all routes.
pub(super) fn check_global(top: &Top, report: &mut Report) -> GlobalPolicy {
    GlobalPolicy {
        request: check_request(&top.request_headers, None, report),
        response: check_response(&top.response_headers, None, report),
        pages: check_pages(&top.error_pages, report),
    }
}

/// Whether the route answers itself, so that it needs no upstream.
pub(super) fn is_local(raw: &Values) -> bool {
    ["redirect", "respond"].into_iter().any(|key| *raw.field(key) != Field::Absent)
}

/// What a route does to its requests and responses. `None`: nothing.
pub(super) fn check_policy(
    keys: &RouteKeys,
    raw: &Values,
    (pattern, rules): (&PathPattern, &PathRules),
    (global, mirror): (&GlobalPolicy, Option<MirrorRule>),
    report: &mut Report,
) -> Option<Box<RoutePolicy>> {
    let request = check_request(&keys.request_headers, Some(pattern), report);
    let response = check_response(&keys.response_headers, Some(pattern), report);
    let mut policy = RoutePolicy {
        request: request.over(&global.request),
        response: response.over(&global.response),
        target: check_target(keys, (pattern, rules), report),
        host: check_template(&keys.set_host, "route.set_host", (Shape::Host, pattern), report),
        answer: check_answer(keys, pattern, report),
        pages: check_pages(&keys.error_pages, report),
        captures: None,
        mirror,
    };
    check_together(keys, raw, report);
    if policy.has_captures() {
        policy.captures = Some(crate::policy::Captures::new(pattern));
    }
    (!policy.is_empty()).then(|| Box::new(policy))
}

/// Keys that have no effect beside each other.
fn check_together(keys: &RouteKeys, raw: &Values, report: &mut Report) {
    let mut exclude = |key: &str, other: &str, is_both: bool| {
        if let (true, Some(given)) = (is_both, raw.field(key).given()) {
            let fault = Fault::new(format!("`{other}` and `{key}` exclude each other"));
            report.error(&given.at, &format!("route.{key}"), fault.hint("keep one of them"));
        }
    };
    let has = |key: &str| *raw.field(key) != Field::Absent;
    exclude("rewrite", "strip_prefix", has("strip_prefix"));
    exclude("set_host", "send_host", has("send_host"));
    exclude("respond", "redirect", has("redirect"));
    exclude("redirect", "upstream", has("upstream"));
    exclude("respond", "upstream", has("upstream") && !has("redirect"));
    for key in [
        "strip_prefix",
        "rewrite",
        "set_host",
        "request_headers",
        "send_host",
        "upgrade",
        "connect",
        "mirror",
    ] {
        if let (true, Some(given)) = (is_local(raw), raw.field(key).given()) {
            let fault = Fault::new("no server gets the requests of this route");
            report.warn(&given.at, &format!("route.{key}"), fault.hint(format!("leave `{key}` out")));
        }
    }
    if let (None, Some(given)) = (keys.redirect.given(), raw.field("redirect_status").given()) {
        let fault = Fault::new("this route has no `redirect`");
        report.error(
            &given.at,
            "route.redirect_status",
            fault.hint("add redirect = \"https://${host}${uri}\""),
        );
    }
}

fn check_template(
    field: &Field<String>,
    key: &str,
    (shape, pattern): (Shape, &PathPattern),
    report: &mut Report,
) -> Option<Template> {
    let given = field.given()?;
    let parsed = Template::parse(&given.value, shape, Some(pattern));
    parsed.map_err(|fault| report.error(&given.at, key, fault)).ok()
}

fn check_target(
    keys: &RouteKeys,
    (pattern, rules): (&PathPattern, &PathRules),
    report: &mut Report,
) -> TargetRule {
    if let Some(template) = check_template(&keys.rewrite, "route.rewrite", (Shape::Target, pattern), report) {
        return TargetRule::Rewrite(template);
    }
    let Some(given) = keys.strip_prefix.given() else { return TargetRule::Keep };
    match parse_prefix(&given.value, pattern, rules) {
        Ok(prefix) => TargetRule::Strip(prefix),
        Err(fault) => {
            report.error(&given.at, "route.strip_prefix", fault);
            TargetRule::Keep
        }
    }
}

/// Reads the prefix to strip, as the paths of requests are compared with it.
fn parse_prefix(text: &str, pattern: &PathPattern, rules: &PathRules) -> Result<Prefix, Fault> {
    let prefix = PathPattern::parse_prefix(text)?;
    if prefix.segments.is_empty() {
        let fault = Fault::new("every path begins with /, so that nothing is stripped");
        return Err(fault.hint("leave `strip_prefix` out"));
    }
    prefix.check_reachable(text, rules)?;
    let differs = |(own, of_route): (&Segment, &Segment)| matches!((own, of_route), (Segment::Literal(own), Segment::Literal(of_route)) if own != of_route);
    if prefix.segments.iter().zip(&pattern.segments).any(differs) {
        let fault = Fault::new(format!("no path of this route ({pattern}) begins with `{text}`"));
        return Err(fault.hint("strip a part of the route's own path"));
    }
    let mut matching = String::new();
    for segment in &prefix.segments {
        let Segment::Literal(literal) = segment else { unreachable!("a prefix has no parameters") };
        matching.push('/');
        matching.push_str(literal);
    }
    // The form in which paths are compared.
    let mut store = PathStore::default();
    let matching = normalize(&matching, &matching, rules, &mut store)
        .map_or(matching.clone(), |forms| forms.matching.to_owned());
    Ok(Prefix { matching: matching.into(), segments: prefix.segments.len() })
}

/// A redirect as others write it: status and location in one text, in either order.
fn with_status(redirect: &Field<String>) -> Option<(&Located<String>, &str, &str)> {
    let given = redirect.given()?;
    let (first, second) = given.value.trim().split_once(' ')?;
    let is_status = |text: &str| text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    match (is_status(first), is_status(second.trim())) {
        (true, _) => Some((given, first, second.trim())),
        (_, true) => Some((given, second.trim(), first)),
        _ => None,
    }
}

fn check_answer(keys: &RouteKeys, pattern: &PathPattern, report: &mut Report) -> Option<RouteAnswer> {
    if let Some((given, status, location)) = with_status(&keys.redirect) {
        let fault = Fault::new(format!("`{}`: the status has a key of its own", given.value));
        let hint = format!("write redirect = \"{location}\" and redirect_status = {status}");
        report.error(&given.at, "route.redirect", fault.hint(hint));
        return None;
    }
    if let Some(location) =
        check_template(&keys.redirect, "route.redirect", (Shape::Location, pattern), report)
    {
        let status = keys.redirect_status.value().map_or(302, |status| *status as u16);
        if let (304..=306, Some(given)) = (status, keys.redirect_status.given()) {
            let fault = Fault::new(format!("{status} does not send a client elsewhere"));
            report.error(&given.at, "route.redirect_status", fault.hint("write 301, 302, 303, 307 or 308"));
        }
        return Some(RouteAnswer::Redirect { status, location });
    }
    let given = keys.respond.given()?;
    let of_answer = RouteRespondKeys::settle(&given.value);
    let status = of_answer.status as u16;
    let content =
        check_content((&of_answer.r#type, &of_answer.body, &of_answer.file), "route.respond", report);
    if let (204 | 205 | 304, Some(body)) =
        (status, of_answer.body.given().or(as_text(&of_answer.file).as_ref()))
    {
        let fault = Fault::new(format!("{status} has no body (RFC 9110, section 6.4.1)"));
        report.error(&body.at, "route.respond", fault.hint("leave the body out, or write another status"));
    }
    Some(RouteAnswer::Fixed(Fixed { status, content }))
}

fn as_text(file: &Field<std::path::PathBuf>) -> Option<Located<String>> {
    let name = |file: &Path| file.display().to_string();
    file.given().map(|given| Located::new(name(&given.value), given.at.clone()))
}

// ---- fields ----

fn check_request(field: &Field<Values>, pattern: Option<&PathPattern>, report: &mut Report) -> Changes {
    let Some(given) = field.given() else { return Changes::default() };
    let keys = RequestHeadersKeys::settle(&given.value);
    check_changes("request_headers", (&keys.set, &keys.add, &keys.remove), pattern, report)
}

fn check_response(field: &Field<Values>, pattern: Option<&PathPattern>, report: &mut Report) -> Changes {
    let Some(given) = field.given() else { return Changes::default() };
    let keys = ResponseHeadersKeys::settle(&given.value);
    check_changes("response_headers", (&keys.set, &keys.add, &keys.remove), pattern, report)
}

fn check_changes(
    section: &str,
    (set, add, remove): (&Texts, &Texts, &Texts),
    pattern: Option<&PathPattern>,
    report: &mut Report,
) -> Changes {
    let mut changes = Changes::default();
    for text in remove.given().into_iter().flat_map(|given| &given.value) {
        match check_removed(&text.value, section) {
            Ok(()) => changes.removed.push(text.value.clone()),
            Err(fault) => report.error(&text.at, &format!("{section}.remove"), fault),
        }
    }
    for (key, list, replaces) in [("set", set, true), ("add", add, false)] {
        for text in list.given().into_iter().flat_map(|given| &given.value) {
            let parsed =
                parse_field(&text.value, section, pattern).and_then(|(name, value)| {
                    let is_twice =
                        replaces && changes.fields.iter().any(|field| field.name.eq_ignore_ascii_case(name));
                    match is_twice {
                        true => Err(Fault::new(format!("`{name}` is there twice"))
                            .hint("write the second one in `add`")),
                        false => Ok(NewField { name: name.into(), value, replaces }),
                    }
                });
            match parsed {
                Ok(field) => changes.fields.push(field),
                Err(fault) => report.error(&text.at, &format!("{section}.{key}"), fault),
            }
        }
    }
    changes
}

/// Reads `Name: value`.
fn parse_field<'t>(
    text: &'t str,
    section: &str,
    pattern: Option<&PathPattern>,
) -> Result<(&'t str, Template), Fault> {
    let Some((name, value)) = text.split_once(':') else {
        return Err(Fault::new(format!("`{text}` has no colon")).hint("write \"Name: value\""));
    };
    check_name(name, section)?;
    if value.trim().is_empty() {
        let fault = Fault::new(format!("`{name}` has no value"));
        return Err(fault.hint(format!("write remove = [\"{name}\"] to leave the field out")));
    }
    Ok((name, Template::parse(value.trim(), Shape::Field, pattern)?))
}

/// The name of a field that is left out. With a value it is none.
fn check_removed(text: &str, section: &str) -> Result<(), Fault> {
    match text.split_once(':') {
        None => check_name(text, section),
        Some((name, _)) => {
            let fault =
                Fault::new(format!("`{text}`: a field is left out by its name, whatever its value is"));
            Err(fault.hint(format!("write remove = [\"{name}\"]")))
        }
    }
}

fn check_name(name: &str, section: &str) -> Result<(), Fault> {
    if name.is_empty() || !name.bytes().all(super::routes::is_token_byte) {
        return Err(Fault::new(format!("`{name}` is not the name of a field")).hint("write \"Name: value\""));
    }
    if is_editable(name) {
        return Ok(());
    }
    let fault =
        Fault::new(format!("`{name}` belongs to the connection or to framing, and is written by Sluice"));
    Err(match name.eq_ignore_ascii_case("host") && section == "request_headers" {
        true => fault.hint("write set_host, or send_host, in the [[route]]"),
        false => fault.hint("leave it out"),
    })
}

impl Changes {
    /// These behind those of a wider scope, of which a field that is set or removed here has no part.
    fn over(&self, wider: &Changes) -> HeaderEdits {
        let is_replaced = |field: &&NewField| {
            let is_same = |name: &str| name.eq_ignore_ascii_case(&field.name);
            let mut set = self.fields.iter().filter(|own| own.replaces);
            set.any(|own| is_same(&own.name)) || self.removed.iter().any(|name| is_same(name))
        };
        let kept = wider.fields.iter().filter(|field| !is_replaced(field));
        let fields = kept.chain(&self.fields).cloned().collect();
        let removed: Vec<_> = wider.removed.iter().chain(&self.removed).cloned().collect();
        HeaderEdits::new(&removed, fields)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Config, Raw};

    fn check(route: &str) -> Result<Config, String> {
        let text = format!(
            "listen = [\"127.0.0.1:1\"]\n[[upstream]]\nname = \"a\"\nservers = [\"http://a\"]\n[[route]]\n{route}\n"
        );
        let raw = Raw::parse(Path::new("f.toml"), text).map_err(|errors| errors.to_string())?;
        Config::check(&raw).map_err(|errors| errors.to_string())
    }

    /// Slips of a route with an upstream, and their only error.
    const SLIPS: &[(&str, &str)] = &[
        ("rewrite = \"v2\"", "7:11: route.rewrite: `v2`: a path begins with / (hint: write /"),
        ("rewrite = \"/a#b\"", "7:11: route.rewrite: `/a#b`: no server gets what is behind a #"),
        ("rewrite = \"/a b\"", "7:11: route.rewrite: `/a b`: ` ` cannot stand in a URL (hint: write %20)"),
        ("rewrite = \"/a%zz\"", "7:11: route.rewrite: `/a%zz`: `%` cannot stand in a URL (hint: write %25)"),
        ("rewrite = \"${uri}x\"", "7:11: route.rewrite: `${uri}x`: nothing can follow ${uri}"),
        (
            "rewrite = \"/${path.id}\"",
            "7:11: route.rewrite: `${path.id}`: the path of this route has no {id}",
        ),
        (
            "path = \"/{id}\"\nrewrite = \"/${path.ids}\"",
            "8:11: route.rewrite: `${path.ids}`: the path of this route has no {ids} (hint: did you mean ${path.id})",
        ),
        (
            "rewrite = \"/a\"\nstrip_prefix = \"/b\"",
            "7:11: route.rewrite: `strip_prefix` and `rewrite` exclude",
        ),
        ("strip_prefix = \"/\"", "7:16: route.strip_prefix: every path begins with /"),
        (
            "path_prefix = \"/a\"\nstrip_prefix = \"/b\"",
            "8:16: route.strip_prefix: no path of this route (/a and below) begins with `/b`",
        ),
        ("set_host = \"a/b\"", "7:12: route.set_host: `a/b`: this is not a host"),
        ("set_host = \"a:99999\"", "7:12: route.set_host: `a:99999`: this is not a host"),
        (
            "set_host = \"a\"\nsend_host = \"server\"",
            "7:12: route.set_host: `send_host` and `set_host` exclude",
        ),
        (
            "set_host = \"${clinet.ip}\"",
            "7:12: route.set_host: `${clinet.ip}` is no variable of a request (hint: did you mean ${client.ip})",
        ),
        (
            "set_host = \"${hots}\"",
            "7:12: the environment has no `hots` (hint: did you mean ${host}, of requests)",
        ),
        (
            "set_host = \"${heder.X-A}\"",
            "7:12: route.set_host: `${heder.X-A}` is no variable of a request (hint: did you mean ${header.X-A})",
        ),
        ("host = \"${client.ip}\"", "7:8: route.host: `${client.ip}` is known with each request"),
        ("hosts = [\"${host}\"]", "7:10: route.hosts: `${host}` is known with each request"),
        ("redirect = \"/x\"", "7:12: route.redirect: `upstream` and `redirect` exclude each other"),
        ("redirect_status = 308", "7:19: route.redirect_status: this route has no `redirect`"),
        ("respond = { body = \"x\" }", "7:11: route.respond: `upstream` and `respond` exclude each other"),
        (
            "request_headers.set = [\"Host: a\"]",
            "7:24: request_headers.set: `Host` belongs to the connection or to framing, and is written by Sluice (hint: write set_host",
        ),
        (
            "request_headers.remove = [\"content_length\"]",
            "7:27: request_headers.remove: `content_length` belongs",
        ),
        ("request_headers.set = [\"X-A 1\"]", "7:24: request_headers.set: `X-A 1` has no colon"),
        ("request_headers.set = [\"X A: 1\"]", "7:24: request_headers.set: `X A` is not the name"),
        ("request_headers.set = [\"X-A:\"]", "7:24: request_headers.set: `X-A` has no value"),
        ("request_headers.set = [\"X-A: 1\", \"x-a: 2\"]", "7:34: request_headers.set: `x-a` is there twice"),
        (
            "request_headers.set = [\"X-A: a\\nb\"]",
            "7:24: request_headers.set: `a\nb`: a field has no control characters",
        ),
        ("error_pages = [{ status = 200, body = \"x\" }]", "7:27: error_pages.status: 200 is no error"),
        ("error_pages = [{ body = \"x\" }]", "7:16: error_pages.status: a page needs the statuses"),
        ("error_pages = [{ status = 502 }]", "7:16: error_pages: there is no page"),
        (
            "error_pages = [{ status = 502, file = \"/nonexistent\" }]",
            "7:39: error_pages.file: cannot read /nonexistent",
        ),
        (
            "error_pages = [{ status = 502, file = \"/dev/zero\" }]",
            "7:39: error_pages.file: cannot read /dev/zero: it is larger than 64KiB",
        ),
    ];

    /// The same of a route without one.
    const SLIPS_WITHOUT_UPSTREAM: &[(&str, &str)] = &[
        ("redirect = \"ftp:x\"", "6:12: route.redirect: `ftp:x`: a redirect leads to https://"),
        ("redirect = \"${host}/x\"", "6:12: route.redirect: `${host}/x`: a redirect leads to https://"),
        ("redirect = \"https://a b/\"", "6:12: route.redirect: `https://a b/`: this is not a host"),
        ("redirect = \"https:///x\"", "6:12: route.redirect: `https:///x`: this is not a host"),
        ("redirect = \"/x\"\nredirect_status = 304", "7:19: route.redirect_status: 304 does not send"),
        ("redirect = \"/x\"\nredirect_status = 300", "7:19: route.redirect_status: 300 is too small"),
        (
            "redirect = \"/x\"\nrespond = { status = 200 }",
            "7:11: route.respond: `redirect` and `respond` exclude",
        ),
        ("respond = { status = 204, body = \"x\" }", "6:34: route.respond: 204 has no body"),
        ("respond = { status = 205, body = \"x\" }", "6:34: route.respond: 205 has no body"),
        ("respond = { status = 101 }", "6:22: route.respond.status: 101 is too small"),
        (
            "respond = { body = \"x\", file = \"/etc/hostname\" }",
            "6:32: route.respond.file: `body` and `file` exclude",
        ),
        (
            "respond = { body = \"x\", type = \"a\\r\\nb\" }",
            "6:32: route.respond.type: `a\r\nb` is not a type",
        ),
    ];

    #[test]
    fn a_slip_is_one_error_with_a_hint() {
        let with_upstream =
            SLIPS.iter().map(|(route, wanted)| (format!("upstream = \"a\"\n{route}"), wanted));
        let without = SLIPS_WITHOUT_UPSTREAM.iter().map(|(route, wanted)| ((*route).to_owned(), wanted));
        let mut failed = Vec::new();
        for (route, wanted) in with_upstream.chain(without) {
            let error = check(&route).expect_err(&route);
            if !error.starts_with(&format!("f.toml:{wanted}")) || error.matches("f.toml:").count() != 1 {
                failed.push((wanted, error));
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    }

    #[test]
    fn a_route_with_an_answer_needs_no_upstream() {
        let text = "listen = [\"127.0.0.1:1\"]\n[[route]]\nredirect = \"https://${host}${uri}\"\n";
        let config = Config::check(&Raw::parse(Path::new("f.toml"), text.to_owned()).unwrap()).unwrap();
        assert!(config.upstreams.is_empty() && config.routes[0].policy.is_some());
        assert_eq!(config.warnings, []);
    }

    #[test]
    fn most_routes_have_no_policy() {
        assert!(check("upstream = \"a\"").unwrap().routes[0].policy.is_none());
        assert!(check("upstream = \"a\"\nstrip_prefix = \"/a\"").unwrap().routes[0].policy.is_some());
    }
}
