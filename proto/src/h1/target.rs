//! Request targets and the Host field: what is asked for, and of whom.
//!
//! Owns the four forms of RFC 9112 section 3.2, reduced to origin-form plus an authority (CONNECT has nothing but that), and
//! the agreement of that authority with Host. Never decodes or normalises a path: routing does that, once, for all versions.
//! Called by `h1::head`.

use alloc::string::String;

use super::head::Scheme;
use super::scan::RequestLine;
use crate::ascii;
use crate::authority::Authority;
use crate::fault::Fault;
use crate::message::{Method, TargetText, Version};
use crate::path::encode_utf8;

/// A port that no authority can have, for comparing those of which none is implied.
const NO_PORT: u16 = 0;

/// The port that `http` implies.
//= https://www.rfc-editor.org/rfc/rfc9110#section-4.2.1
const HTTP_PORT: u16 = 80;
/// The same of `https`.
const HTTPS_PORT: u16 = 443;

/// A request target in its parts.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    pub(crate) path_and_query: &'a str,
    pub(crate) path: &'a str,
    /// Of an absolute-form target, whose scheme is `http`, or of CONNECT.
    pub(crate) authority: Option<&'a str>,
    /// What path and query came as. UTF-8 is percent-encoded here.
    pub(crate) text: TargetText,
}

/// Takes the target of a request line apart. `scratch` holds the result in the one case that cannot be borrowed.
///
/// Browsers send a few bytes unencoded that RFC 3986 wants encoded (`"` `<` `>` `\` `^` `` ` `` `{` `|` `}`); they have one
/// reading only and are forwarded as they are.
//= https://www.rfc-editor.org/rfc/rfc3986#section-2
pub(super) fn parse<'a>(
    line: &RequestLine<'a>,
    scheme: Scheme,
    scratch: &'a mut String,
) -> Result<Target<'a>, Fault> {
    let &RequestLine { method, target, query, .. } = line;
    if line.has_escapes {
        check_escapes(target, query)?;
    }
    if method == Method::Connect {
        return parse_authority(target);
    }
    if line.has_escapes && !target.is_ascii() {
        return parse_raw(target, scheme, scratch);
    }
    match parse_path(target, query, method)? {
        Some(found) => Ok(found),
        None => parse_absolute(target, scheme, method, scratch),
    }
}

/// A target that is a path, or `*`; `None` for any other. `query` says where in it the query begins.
#[inline(always)]
pub(crate) fn parse_path<'a>(
    target: &'a str,
    query: Option<usize>,
    method: Method<'_>,
) -> Result<Option<Target<'a>>, Fault> {
    //= https://www.rfc-editor.org/rfc/rfc9112#section-3.2.1
    if target.starts_with('/') {
        let path = query.map_or(target, |len| &target[..len]);
        return Ok(Some(Target { path_and_query: target, path, authority: None, text: TargetText::Ascii }));
    }
    //= https://www.rfc-editor.org/rfc/rfc9112#section-3.2.4
    if target == "*" {
        let is_options = method == Method::Options;
        return if is_options { Ok(Some(split_query(target, None))) } else { Err(Fault::AsteriskForm) };
    }
    Ok(None)
}

/// Refuses fragments, percent-encodings in a path that are none, and control characters. `query` says where the query begins: a `%`
/// in it may be just that, as browsers send it. Path and routes are decided by what is before it.
pub(crate) fn check_escapes(target: &str, query: Option<usize>) -> Result<(), Fault> {
    let bytes = target.as_bytes();
    //= https://www.rfc-editor.org/rfc/rfc9110#section-7.1
    // The fragment is never sent; a peer that cuts it off would see another path than one that does not.
    if bytes.contains(&b'#') {
        return Err(Fault::FragmentInTarget);
    }
    if !ascii::has_valid_percent_encoding(&bytes[..query.unwrap_or(bytes.len())]) {
        return Err(Fault::InvalidPercentEncoding);
    }
    // Those of ASCII were refused with the line. U+0080 to U+009F are left.
    let has_control = !target.is_ascii() && target.chars().any(char::is_control);
    if has_control { Err(Fault::InvalidTarget) } else { Ok(()) }
}

/// The same as [`parse`], of a target with UTF-8 in it.
#[cold]
fn parse_raw<'a>(target: &'a str, scheme: Scheme, scratch: &'a mut String) -> Result<Target<'a>, Fault> {
    let (authority, path_and_query) = match target.starts_with('/') {
        true => (None, target),
        // UTF-8 in the authority is refused when that is compared with Host.
        false => split_absolute(target, scheme).map(|(authority, rest)| (Some(authority), rest))?,
    };
    scratch.clear();
    if !path_and_query.starts_with('/') {
        scratch.push('/');
    }
    encode_utf8(path_and_query, scratch);
    Ok(Target { text: TargetText::Utf8, ..split_query(scratch, authority) })
}

/// Reduces `scheme://authority/path?query` to origin-form.
//= https://www.rfc-editor.org/rfc/rfc9112#section-3.2.2
fn parse_absolute<'a>(
    target: &'a str,
    scheme: Scheme,
    method: Method<'_>,
    scratch: &'a mut String,
) -> Result<Target<'a>, Fault> {
    let (authority, path_and_query) = split_absolute(target, scheme)?;
    let authority = Some(authority);
    match path_and_query.as_bytes().first() {
        Some(b'/') => Ok(split_query(path_and_query, authority)),
        //= https://www.rfc-editor.org/rfc/rfc9112#section-3.2.4
        // "an empty path and no query component ... MUST send a request-target of "*""
        None if method == Method::Options => Ok(split_query("*", authority)),
        None => Ok(split_query("/", authority)),
        //= https://www.rfc-editor.org/rfc/rfc9112#section-3.2.1
        // "If the target URI's path component is empty, the client MUST send "/" as the path"
        Some(_) => {
            scratch.clear();
            scratch.push('/');
            scratch.push_str(path_and_query);
            Ok(split_query(scratch, authority))
        }
    }
}

/// Authority, and path and query, of `scheme://authority/path?query`.
fn split_absolute(target: &str, scheme: Scheme) -> Result<(&str, &str), Fault> {
    let (own, other) = match scheme {
        Scheme::Http => ("http://", "https://"),
        Scheme::Https => ("https://", "http://"),
    };
    let Some(rest) = strip_scheme(target, own) else {
        //= https://www.rfc-editor.org/rfc/rfc9110#section-7.4
        // "a request for an "https" resource MUST be rejected unless it has been received over a connection that has been
        // secured"; and a secured one is no way to an "http" resource, which is another one.
        let is_misdirected = strip_scheme(target, other).is_some();
        // What is left includes authority-form, which only CONNECT has.
        return Err(if is_misdirected { Fault::MisdirectedScheme } else { Fault::InvalidTarget });
    };
    let authority_len = rest.find(['/', '?']).unwrap_or(rest.len());
    Ok(rest.split_at(authority_len))
}

/// The target of CONNECT: where the tunnel is to lead.
//= https://www.rfc-editor.org/rfc/rfc9112#section-3.2.3
#[cold]
pub(crate) fn parse_authority(target: &str) -> Result<Target<'_>, Fault> {
    //= https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6
    // "A server MUST reject a CONNECT request that targets an empty or invalid port number"
    let port = Authority::parse(target).and_then(|authority| authority.port);
    match port {
        None | Some(NO_PORT) => Err(Fault::InvalidTarget),
        Some(_) => {
            Ok(Target { path_and_query: target, path: "", authority: Some(target), text: TargetText::Ascii })
        }
    }
}

/// `target` without `scheme`, in any case.
//= https://www.rfc-editor.org/rfc/rfc3986#section-3.1
fn strip_scheme<'a>(target: &'a str, scheme: &str) -> Option<&'a str> {
    let (start, rest) = target.split_at_checked(scheme.len())?;
    start.eq_ignore_ascii_case(scheme).then_some(rest)
}

fn split_query<'a>(path_and_query: &'a str, authority: Option<&'a str>) -> Target<'a> {
    let path_len = memchr::memchr(b'?', path_and_query.as_bytes()).unwrap_or(path_and_query.len());
    let path = &path_and_query[..path_len];
    Target { path_and_query, path, authority, text: TargetText::Ascii }
}

/// Checks the Host field against the version and the target, and returns the authority that holds.
///
/// An empty Host is what a client sends for a target without authority. `http` and `https` targets always have one, so an
/// empty Host is accepted where no target URI needs to be put together, for `OPTIONS *`, and from HTTP/1.0 clients, which owe
/// no Host at all.
//= https://www.rfc-editor.org/rfc/rfc9112#section-3.2
//= https://www.rfc-editor.org/rfc/rfc9112#section-3.3
pub(crate) fn check_host<'a>(
    target: Option<&'a str>,
    host: Option<&'a [u8]>,
    version: Version,
    method: Method<'_>,
    is_asterisk: bool,
    scheme: Scheme,
) -> Result<&'a str, Fault> {
    let named = match host {
        None if version == Version::Http11 => return Err(Fault::MissingHost),
        //= https://www.rfc-editor.org/rfc/rfc9113#section-8.3.1
        // Clients of HTTP/2 send `:authority` instead of Host; one of both there must be.
        None if version == Version::Http2 && target.is_none() => return Err(Fault::MissingHost),
        None => None,
        Some([]) if version >= Version::Http11 && !is_asterisk => return Err(Fault::EmptyHost),
        Some([]) => None,
        Some(value) => {
            let text = core::str::from_utf8(value).map_err(|_| Fault::InvalidHost)?;
            Some((text, Authority::parse(text).ok_or(Fault::InvalidHost)?))
        }
    };
    let Some(target) = target else { return Ok(named.map_or("", |(text, _)| text)) };
    let authority = Authority::parse(target).ok_or(Fault::InvalidTarget)?;
    // CONNECT has no scheme that would imply a port.
    let port_default = match (method, scheme) {
        (Method::Connect, _) => NO_PORT,
        (_, Scheme::Http) => HTTP_PORT,
        (_, Scheme::Https) => HTTPS_PORT,
    };
    match named {
        // Java and undici leave the port out of it. There is no default, so it can mean no other port than that of the target.
        Some((_, Authority { host, port: None }))
            if method == Method::Connect && host.eq_ignore_ascii_case(authority.host) =>
        {
            Ok(target)
        }
        // A proxy may trust the target and drop Host. A proxy in front of us may have decided by Host.
        Some((_, named)) if !authority.is_same_as(&named, port_default) => Err(Fault::HostMismatch),
        _ => Ok(target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::scan::Lines;

    fn parts(target: &str, method: Method<'_>) -> Result<(String, String, String), Fault> {
        let line = alloc::format!("{method} {target} HTTP/1.1\r\n");
        let line = Lines::new(line.as_bytes()).request_line().ok_or(Fault::InvalidTarget)?;
        let mut scratch = String::new();
        let parsed = parse(&line, Scheme::Http, &mut scratch)?;
        let authority = parsed.authority.unwrap_or_default();
        Ok((parsed.path_and_query.into(), parsed.path.into(), authority.into()))
    }

    #[test]
    fn targets_are_reduced_to_origin_form() {
        for (target, method, path_and_query, path, authority) in [
            ("/", Method::Get, "/", "/", ""),
            ("/a/b?c=d?e", Method::Get, "/a/b?c=d?e", "/a/b", ""),
            ("/?", Method::Get, "/?", "/", ""),
            ("/?100%", Method::Get, "/?100%", "/", ""),
            ("/a?a=%u0041&%zz?%", Method::Get, "/a?a=%u0041&%zz?%", "/a", ""),
            ("http://h.example?%", Method::Get, "/?%", "/", "h.example"),
            ("/caf\u{e9}", Method::Get, "/caf%C3%A9", "/caf%C3%A9", ""),
            ("/a?b=\u{20ac}%&\u{1f600}", Method::Get, "/a?b=%E2%82%AC%&%F0%9F%98%80", "/a", ""),
            (
                "http://h.example/\u{e9}%41?\u{e9}",
                Method::Get,
                "/%C3%A9%41?%C3%A9",
                "/%C3%A9%41",
                "h.example",
            ),
            ("http://h.example?\u{e9}", Method::Get, "/?%C3%A9", "/", "h.example"),
            ("//host/path", Method::Get, "//host/path", "//host/path", ""),
            ("/{a}|\"^`<>\\", Method::Get, "/{a}|\"^`<>\\", "/{a}|\"^`<>\\", ""),
            ("*", Method::Options, "*", "*", ""),
            ("http://h.example/p?q", Method::Get, "/p?q", "/p", "h.example"),
            ("HTTP://h.example:8443", Method::Get, "/", "/", "h.example:8443"),
            ("http://h.example?q=/", Method::Get, "/?q=/", "/", "h.example"),
            ("http://h.example", Method::Options, "*", "*", "h.example"),
            ("http://h.example/", Method::Options, "/", "/", "h.example"),
            ("h.example:443", Method::Connect, "h.example:443", "", "h.example:443"),
            ("[::1]:8443", Method::Connect, "[::1]:8443", "", "[::1]:8443"),
        ] {
            let expected = (path_and_query.into(), path.into(), authority.into());
            assert_eq!(parts(target, method), Ok(expected), "{target}");
        }
    }

    #[test]
    fn other_targets_are_refused() {
        for (target, fault) in [
            ("*", Fault::AsteriskForm),
            ("*/", Fault::InvalidTarget),
            ("path", Fault::InvalidTarget),
            ("example.com:443", Fault::InvalidTarget),
            ("ftp://h.example/", Fault::InvalidTarget),
            ("https://h.example/", Fault::MisdirectedScheme),
            ("HTTPS://h.example", Fault::MisdirectedScheme),
            ("http:/h.example/", Fault::InvalidTarget),
            ("/\u{85}", Fault::InvalidTarget),
            ("/?\u{9f}", Fault::InvalidTarget),
            ("\u{e9}", Fault::InvalidTarget),
            ("*\u{e9}", Fault::InvalidTarget),
            ("ftp://h.example/\u{e9}", Fault::InvalidTarget),
            ("/\u{e9}#", Fault::FragmentInTarget),
            ("/\u{e9}%zz?", Fault::InvalidPercentEncoding),
            ("http://h.example/%?", Fault::InvalidPercentEncoding),
            ("/%zz?%41", Fault::InvalidPercentEncoding),
            ("/a#b", Fault::FragmentInTarget),
            ("/%41#", Fault::FragmentInTarget),
            ("/%", Fault::InvalidPercentEncoding),
            ("/%4", Fault::InvalidPercentEncoding),
            ("/%zz", Fault::InvalidPercentEncoding),
            ("/a=%u0041?", Fault::InvalidPercentEncoding),
        ] {
            assert_eq!(parts(target, Method::Get), Err(fault), "{target}");
        }
        for target in [
            "/",
            "*",
            "h.example",
            "h.example:",
            "h.example:0",
            "h.example:65536",
            "u@h.example:443",
            "http://h.example:443",
            "h.example:443/",
            "::1:443",
            ":443",
        ] {
            assert_eq!(parts(target, Method::Connect), Err(Fault::InvalidTarget), "{target}");
        }
    }
}
