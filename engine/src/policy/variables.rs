//! The variables that a text may have: their names, their values in a request, and how each is written where it stands.
//!
//! Owns the only way by which bytes of a client get into a text of the configuration. A value is written by its form (a part of a URL
//! is encoded already, a cookie is not) and by its place; what a place cannot hold is percent-encoded, left out, or refused.

use sluice_proto::h1::{ClientIdentity, IdentityPolicy, Trust, request_id_text};
use sluice_proto::{FieldId, RequestHead};

use super::captures::Captures;
use super::template::Unfit;
use crate::config::{Fault, closest};
use crate::route::bare_name;

/// A value of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Variable {
    /// The address of the client.
    ClientIp,
    /// Its port; empty where only a trusted proxy knows it.
    ClientPort,
    /// The id of the request.
    RequestId,
    /// The host without its port.
    Host,
    /// The host, with its port if it has one.
    Authority,
    /// The path in its normal form.
    Path,
    /// The query without `?`.
    Query,
    /// Path and query.
    Uri,
    /// The method.
    Method,
    /// `http` or `https`.
    Scheme,
    /// A parameter of the route's path, by its number.
    Capture(u16),
    /// The first field of this name.
    Header(Box<str>),
    /// The cookie of this name.
    Cookie(Box<str>),
    /// The parameter of the query with this name.
    Argument(Box<str>),
}

/// Where in a text a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the value of a field.
    Field,
    /// As the scheme of a URL.
    Scheme,
    /// In the host of a URL.
    Host,
    /// In the path of a URL.
    Path,
    /// In its query, or behind it.
    Query,
}

/// Variables without a name of their own.
const PLAIN: [(&str, Variable); 10] = [
    ("client.ip", Variable::ClientIp),
    ("client.port", Variable::ClientPort),
    ("request.id", Variable::RequestId),
    ("host", Variable::Host),
    ("authority", Variable::Authority),
    ("path", Variable::Path),
    ("query", Variable::Query),
    ("uri", Variable::Uri),
    ("method", Variable::Method),
    ("scheme", Variable::Scheme),
];

/// What the variables with a name begin with.
const NAMED: [&str; 4] = ["path.", "header.", "cookie.", "query."];

/// Whether `${name}` in a file is left for requests, and no variable of the environment: it is one of ours, or has a dot, which no
/// variable of the environment has.
pub(crate) fn is_of_request(name: &str) -> bool {
    PLAIN.iter().any(|(known, _)| *known == name) || (name.contains('.') && !name.contains(':'))
}

/// The variable that was probably meant.
pub(crate) fn meant(name: &str) -> Option<&'static str> {
    closest(name, PLAIN.iter().map(|(known, _)| *known))
}

impl Variable {
    /// The variable of this name. `capture` finds the number of a parameter of the path.
    ///
    /// # Errors
    /// There is none, or its name cannot be one.
    pub(crate) fn parse(
        name: &str,
        capture: impl FnOnce(&str) -> Result<u16, Fault>,
    ) -> Result<Variable, Fault> {
        if let Some((_, variable)) = PLAIN.iter().find(|(known, _)| *known == name) {
            return Ok(variable.clone());
        }
        let is_token = |name: &str| {
            let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            !name.is_empty() && name.bytes().all(is_tchar)
        };
        match name.split_once('.') {
            Some(("path", name)) => capture(name).map(Variable::Capture),
            Some(("header", name)) if is_token(name) => Ok(Variable::Header(name.into())),
            Some(("cookie", name)) if is_token(name) => Ok(Variable::Cookie(name.into())),
            Some(("query", name)) if !name.is_empty() && name.bytes().all(is_argument_byte) => {
                Ok(Variable::Argument(name.into()))
            }
            Some(("header" | "cookie", _)) => Err(Fault::new(format!("`${{{name}}}`: this is not a name"))),
            Some(("query", _)) => {
                let fault = Fault::new(format!("`${{{name}}}`: no parameter of a query is called so"));
                Err(fault.hint("write it as it stands in queries, percent-encoded"))
            }
            _ => Err(unknown(name)),
        }
    }
}

fn unknown(name: &str) -> Fault {
    let fault = Fault::new(format!("`${{{name}}}` is no variable of a request"));
    let beginning = name.split_once('.').and_then(|(first, _)| {
        let known = NAMED.map(|known| known.trim_end_matches('.'));
        closest(first, known.into_iter().filter(|known| *known != first))
    });
    match (meant(name), beginning, name.split_once('.')) {
        (Some(near), ..) => fault.hint(format!("did you mean ${{{near}}}")),
        (None, Some(near), Some((_, rest))) => fault.hint(format!("did you mean ${{{near}.{rest}}}")),
        _ => {
            let names: Vec<_> = PLAIN.iter().map(|(known, _)| *known).collect();
            fault.hint(format!("there are {}, and {}NAME", names.join(", "), NAMED.join("NAME, ")))
        }
    }
}

/// What variables are made of: a request whose route is known.
pub(crate) struct Facts<'a> {
    /// The head as it was received.
    pub(crate) head: &'a RequestHead<'a>,
    /// The normal form of its path; empty for CONNECT.
    pub(crate) path: &'a str,
    pub(crate) client: &'a ClientIdentity<'a>,
    /// The client's port, 0 where it is not known.
    pub(crate) port: u16,
    /// By this the id of the request is the client's or ours.
    pub(crate) identity: &'a IdentityPolicy,
    pub(crate) captures: Option<&'a Captures>,
}

impl<'a> Facts<'a> {
    fn query(&self) -> Option<&'a str> {
        self.head.path_and_query.get(self.head.path.len()..)?.strip_prefix('?')
    }

    /// The scheme of the client, as a trusted proxy tells it where there is one.
    fn scheme(&self) -> &'a str {
        if self.client.trust == Trust::Untrusted {
            return self.client.proto;
        }
        match self.head.field_list().single(FieldId::XForwardedProto) {
            Some(b"https") => "https",
            Some(b"http") => "http",
            _ => self.client.proto,
        }
    }

    fn header(&self, name: &str) -> &'a [u8] {
        let mut fields = self.head.fields();
        fields.find(|field| field.name.eq_ignore_ascii_case(name)).map_or(b"", |field| field.value)
    }

    fn cookie(&self, name: &str) -> &'a [u8] {
        let fields = self.head.field_list();
        let mut pairs = fields.values(FieldId::Cookie).flat_map(|value| value.split(|&byte| byte == b';'));
        let value = pairs.find_map(|pair| {
            let pair = pair.trim_ascii();
            pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
        });
        value.unwrap_or_default()
    }

    fn argument(&self, name: &str) -> &'a str {
        let mut pairs = self.query().unwrap_or_default().split('&');
        pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
    }
}

/// How the bytes of a value are to be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Nothing in them is encoded.
    Plain,
    /// A part of a path.
    Path,
    /// A part of a query.
    Query,
    /// A host that was checked, with its port.
    Host,
}

impl Variable {
    /// Appends the value in a request, as its place can hold it.
    pub(super) fn write(&self, out: &mut Vec<u8>, facts: &Facts<'_>, place: Place) -> Result<(), Unfit> {
        let plain = |bytes: &'_ [u8], out: &mut Vec<u8>| put(out, bytes, Form::Plain, place);
        match self {
            Variable::ClientIp => plain(facts.client.client, out),
            Variable::ClientPort if facts.port == 0 => Ok(()),
            Variable::ClientPort => plain(itoa::Buffer::new().format(facts.port).as_bytes(), out),
            Variable::RequestId => match facts.identity.kept_request_id(facts.head, facts.client) {
                Some(id) => plain(id, out),
                None => plain(&request_id_text(facts.client.request_id), out),
            },
            Variable::Host => put(out, bare_name(facts.head.authority), Form::Host, place),
            Variable::Authority => put(out, facts.head.authority.as_bytes(), Form::Host, place),
            Variable::Path => put(out, path_of(facts, place), Form::Path, place),
            Variable::Query => put(out, facts.query().unwrap_or_default().as_bytes(), Form::Query, place),
            Variable::Uri => write_uri(out, facts, place),
            Variable::Method => plain(facts.head.method.as_str().as_bytes(), out),
            Variable::Scheme => plain(facts.scheme().as_bytes(), out),
            Variable::Capture(number) => {
                let value = facts.captures.map_or("", |captures| captures.find(facts.path, *number));
                put(out, value.as_bytes(), Form::Path, place)
            }
            Variable::Header(name) => plain(facts.header(name), out),
            Variable::Cookie(name) => plain(facts.cookie(name), out),
            Variable::Argument(name) => put(out, facts.argument(name).as_bytes(), Form::Query, place),
        }
    }
}

/// The path, which in a URL always begins with a slash: CONNECT and `OPTIONS *` have none.
fn path_of<'a>(facts: &Facts<'a>, place: Place) -> &'a [u8] {
    match facts.path {
        path if path.starts_with('/') || place != Place::Path => path.as_bytes(),
        _ => b"/",
    }
}

fn write_uri(out: &mut Vec<u8>, facts: &Facts<'_>, place: Place) -> Result<(), Unfit> {
    // In a query it is a value like any other, such as the place to come back to after a login.
    let (path, query) = match place {
        Place::Query => (Form::Plain, Form::Plain),
        _ => (Form::Path, Form::Query),
    };
    put(out, path_of(facts, place), path, place)?;
    let Some(text) = facts.query() else { return Ok(()) };
    match place {
        Place::Query => {
            put(out, b"?", Form::Plain, place)?;
            put(out, text.as_bytes(), query, place)
        }
        Place::Path => {
            out.push(b'?');
            put(out, text.as_bytes(), query, Place::Query)
        }
        Place::Field | Place::Scheme | Place::Host => {
            out.push(b'?');
            put(out, text.as_bytes(), query, place)
        }
    }
}

/// Appends bytes of a request as the place can hold them.
fn put(out: &mut Vec<u8>, bytes: &[u8], form: Form, place: Place) -> Result<(), Unfit> {
    match (place, form) {
        (Place::Field, _) => out.extend(bytes.iter().copied().filter(|&byte| is_field_byte(byte))),
        (Place::Host, Form::Host) => out.extend_from_slice(bytes),
        (Place::Host | Place::Scheme, _) => {
            if !bytes.iter().copied().all(is_unreserved) {
                return Err(Unfit::Host);
            }
            out.extend_from_slice(bytes);
        }
        (Place::Path, Form::Path) => encode(out, bytes, is_path_byte, true),
        (Place::Path, Form::Query) => encode(out, bytes, |byte| is_path_byte(byte) && byte != b'/', true),
        (Place::Query, Form::Query) => encode(out, bytes, is_query_byte, true),
        (Place::Query, Form::Path) => {
            encode(out, bytes, |byte| is_path_byte(byte) && !b"&=+;".contains(&byte), true);
        }
        (Place::Path | Place::Query, Form::Plain | Form::Host) => encode(out, bytes, is_unreserved, false),
    }
    Ok(())
}

/// Appends bytes, those that are not allowed percent-encoded; encodings that are there stay where `keeps_escapes` says so.
fn encode(out: &mut Vec<u8>, bytes: &[u8], is_allowed: impl Fn(u8) -> bool, keeps_escapes: bool) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for (at, &byte) in bytes.iter().enumerate() {
        if is_allowed(byte) || (byte == b'%' && keeps_escapes && is_escape(&bytes[at..])) {
            out.push(byte);
        } else {
            out.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

/// Whether bytes begin with `%` and two digits.
pub(super) fn is_escape(bytes: &[u8]) -> bool {
    matches!(bytes, [b'%', one, two, ..] if one.is_ascii_hexdigit() && two.is_ascii_hexdigit())
}

fn is_field_byte(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// A byte of a path that needs no encoding.
//= https://www.rfc-editor.org/rfc/rfc3986#section-3.3
pub(super) fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte)
}

/// A byte of a query that needs no encoding. Browsers send the last few as they are.
//= https://www.rfc-editor.org/rfc/rfc3986#section-3.4
pub(super) fn is_query_byte(byte: u8) -> bool {
    is_path_byte(byte) || b"?[]{}|^`\\".contains(&byte)
}

fn is_argument_byte(byte: u8) -> bool {
    (is_query_byte(byte) || byte == b'%') && !b"&=".contains(&byte)
}
