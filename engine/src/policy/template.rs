//! Texts with variables (`https://${host}/new${uri}`): read once, when a configuration is checked, and written for every request.
//!
//! Owns where each variable stands in its text (in a field, a host, a path or a query), since that decides how a value is written
//! there: no value of a request can end a field, leave a path or name another host. Which values there are is `variables`' matter.
//! Writing allocates nothing but room in the buffer that is written to.

use std::borrow::Cow;

use sluice_proto::authority::Authority;

use super::variables::{Facts, Place, Variable, is_path_byte, is_query_byte};
use super::{captures, foreign_variables};
use crate::config::{Fault, PathPattern};

/// The longest text, before and after its variables are filled in: two thirds of a usual head.
pub(crate) const WRITTEN_BYTES_MAX: usize = 32 * 1024;

/// The most variables in one text.
const VARIABLES_MAX: usize = 64;

/// What a text is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The value of a field.
    Field,
    /// Path and query of a request.
    Target,
    /// Where a client is sent: a whole URL, or a path.
    Location,
    /// A host, with a port or without.
    Host,
}

/// A text with variables, ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    shape: Shape,
    pieces: Box<[Piece]>,
    /// A query is written, or may be.
    has_query: bool,
    /// What is written has a host in front of its path.
    has_host: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    Value(Variable, Place),
}

/// Why a text cannot be written for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// No host can be called so.
    Host,
    /// It is longer than [`WRITTEN_BYTES_MAX`].
    TooLong,
}

impl Template {
    /// Reads a text. `pattern`: the path of the route that it belongs to, whose parameters it may have.
    ///
    /// # Errors
    /// A variable that there is not, or a text that could not be what it is for.
    pub fn parse(text: &str, shape: Shape, pattern: Option<&PathPattern>) -> Result<Template, Fault> {
        if text.is_empty() {
            return Err(Fault::new("the text is empty"));
        }
        if text.len() > WRITTEN_BYTES_MAX {
            return Err(Fault::new(format!("the text is longer than {WRITTEN_BYTES_MAX} bytes")));
        }
        let mut reader = Reader {
            whole: text,
            shape,
            at: Part::start(shape),
            pieces: Vec::new(),
            is_over: false,
            has_host: false,
        };
        for token in tokens(text) {
            match token? {
                Token::Text(text) => {
                    foreign_variables::check(&text, matches!(shape, Shape::Target | Shape::Location))?;
                    reader.text(&text)?;
                }
                Token::Variable(name) => {
                    let capture = |name: &str| captures::number(pattern, name);
                    reader.variable(Variable::parse(name, capture)?)?;
                }
            }
        }
        if reader.pieces.iter().filter(|piece| matches!(piece, Piece::Value(..))).count() > VARIABLES_MAX {
            return Err(Fault::new(format!("the text has more than {VARIABLES_MAX} variables")));
        }
        reader.finish()
    }

    /// The text itself, where it has no variable.
    pub(crate) fn fixed(&self) -> Option<&str> {
        match &*self.pieces {
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether a query is written, or may be.
    pub(crate) fn has_query(&self) -> bool {
        self.has_query
    }

    /// Whether a parameter of the route's path is written.
    pub(crate) fn has_captures(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Value(Variable::Capture(_), _)))
    }

    /// Appends the text for a request.
    ///
    /// # Errors
    /// The request has values of which no such text can be made; a part of it may have been written.
    pub(crate) fn write(&self, out: &mut Vec<u8>, facts: &Facts<'_>) -> Result<(), Unfit> {
        let start = out.len();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Value(variable, place) => variable.write(out, facts, *place)?,
            }
            if out.len() - start > WRITTEN_BYTES_MAX {
                return Err(Unfit::TooLong);
            }
        }
        match self.shape {
            // Spaces around a value are none of it, and HTTP/2 forbids them.
            Shape::Field => trim(out, start),
            Shape::Host => check_host(&out[start..])?,
            Shape::Location if self.has_host => check_host(host_of(&out[start..]))?,
            // Two slashes in front would be a host to a client.
            Shape::Location => merge_first_slashes(out, start),
            Shape::Target => {}
        }
        Ok(())
    }
}

fn trim(out: &mut Vec<u8>, start: usize) {
    let value = &out[start..];
    let kept = value.trim_ascii_end().len();
    let spaces = value[..kept].len() - value[..kept].trim_ascii_start().len();
    out.truncate(start + kept);
    if spaces > 0 {
        out.drain(start..start + spaces);
    }
}

fn merge_first_slashes(out: &mut Vec<u8>, start: usize) {
    let slashes = out[start..].iter().take_while(|&&byte| byte == b'/').count();
    if slashes > 1 {
        out.drain(start + 1..start + slashes);
    }
}

/// The host and port in a URL.
fn host_of(url: &[u8]) -> &[u8] {
    let start = url.windows(2).position(|pair| pair == b"//").map_or(url.len(), |at| at + 2);
    let behind = &url[start..];
    let end = behind.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(behind.len());
    &behind[..end]
}

fn check_host(host: &[u8]) -> Result<(), Unfit> {
    let is_one = str::from_utf8(host).is_ok_and(|host| Authority::parse(host).is_some());
    if is_one { Ok(()) } else { Err(Unfit::Host) }
}

// ---- reading ----

enum Token<'t> {
    Text(Cow<'t, str>),
    Variable(&'t str),
}

/// The texts and variables of a text, in order. `$${` is `${` itself.
fn tokens(text: &str) -> impl Iterator<Item = Result<Token<'_>, Fault>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if let Some(behind) = rest.strip_prefix("${") {
            let Some((name, behind)) = behind.split_once('}') else {
                rest = "";
                return Some(Err(Fault::new("`${` without `}`").hint("write $${ for the two characters")));
            };
            rest = behind;
            return Some(Ok(Token::Variable(name)));
        }
        if rest.is_empty() {
            return None;
        }
        let mut out = Cow::Borrowed("");
        while let Some(at) = rest.find("${") {
            let before = &rest[..at];
            if let Some(before) = before.strip_suffix('$') {
                out += before;
                out += "${";
                rest = &rest[at + 2..];
                continue;
            }
            out += before;
            rest = &rest[at..];
            return Some(Ok(Token::Text(out)));
        }
        out += rest;
        rest = "";
        Some(Ok(Token::Text(out)))
    })
}

/// The part of a URL that is being read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Of a field, which has no parts.
    Field,
    /// The first of a URL.
    Start,
    /// Behind the scheme.
    Scheme,
    Host,
    Path,
    /// A fragment is like it.
    Query,
}

impl Part {
    fn start(shape: Shape) -> Part {
        match shape {
            Shape::Field => Part::Field,
            Shape::Host => Part::Host,
            Shape::Target | Shape::Location => Part::Start,
        }
    }
}

struct Reader<'t> {
    whole: &'t str,
    shape: Shape,
    at: Part,
    pieces: Vec<Piece>,
    /// `${uri}` was written, behind which nothing can stand.
    is_over: bool,
    has_host: bool,
}

impl Reader<'_> {
    fn fault(&self, why: &str) -> Fault {
        Fault::new(format!("`{}`: {why}", self.whole))
    }

    fn check_open(&self) -> Result<(), Fault> {
        match self.is_over {
            false => Ok(()),
            true => {
                let fault = self.fault("nothing can follow ${uri}, which ends with the query");
                Err(fault.hint("write ${path}, and ${query} where the query is to be"))
            }
        }
    }

    fn text(&mut self, text: &str) -> Result<(), Fault> {
        self.check_open()?;
        let mut rest = text;
        while !rest.is_empty() {
            let taken = match self.at {
                Part::Field => self.field(rest)?,
                Part::Start => self.start(rest)?,
                Part::Scheme => self.behind_scheme(rest)?,
                Part::Host => self.host(rest)?,
                Part::Path => self.path(rest)?,
                Part::Query => self.query(rest)?,
            };
            rest = &rest[taken..];
        }
        self.pieces.push(Piece::Text(text.into()));
        Ok(())
    }

    fn field(&self, text: &str) -> Result<usize, Fault> {
        if text.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
            return Err(self.fault("a field has no control characters"));
        }
        Ok(text.len())
    }

    fn start(&mut self, text: &str) -> Result<usize, Fault> {
        let is_location = self.shape == Shape::Location;
        if text.starts_with("//") && is_location {
            (self.at, self.has_host) = (Part::Host, true);
            return Ok(2);
        }
        if text.starts_with('/') {
            self.at = Part::Path;
            return Ok(1);
        }
        let Some((scheme, _)) = text.split_once("://").filter(|_| is_location) else {
            return Err(self.wrong_start());
        };
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        if !is_scheme {
            return Err(self.wrong_start());
        }
        (self.at, self.has_host) = (Part::Host, true);
        Ok(scheme.len() + "://".len())
    }

    fn wrong_start(&self) -> Fault {
        match self.shape {
            Shape::Location => {
                self.fault("a redirect leads to https://, http:// or a path that begins with /")
            }
            _ => self.fault("a path begins with /").hint("write /, ${path} or ${uri} first"),
        }
    }

    fn behind_scheme(&mut self, text: &str) -> Result<usize, Fault> {
        if !text.starts_with("://") {
            return Err(self.fault("${scheme} is followed by ://"));
        }
        (self.at, self.has_host) = (Part::Host, true);
        Ok("://".len())
    }

    fn host(&mut self, text: &str) -> Result<usize, Fault> {
        let end = text.find(['/', '?', '#']).unwrap_or(text.len());
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:[]".contains(&byte);
        if !text.bytes().take(end).all(is_host) || (self.shape == Shape::Host && end < text.len()) {
            return Err(self.fault("this is not a host"));
        }
        self.at = match text.as_bytes().get(end) {
            None => return Ok(end),
            Some(b'/') => Part::Path,
            Some(_) => Part::Query,
        };
        Ok(end + 1)
    }

    fn path(&mut self, text: &str) -> Result<usize, Fault> {
        let end = text.find(['?', '#']).unwrap_or(text.len());
        self.check_url(&text[..end], is_path_byte)?;
        let Some(&byte) = text.as_bytes().get(end) else { return Ok(end) };
        self.check_fragment(byte)?;
        self.at = Part::Query;
        Ok(end + 1)
    }

    fn query(&mut self, text: &str) -> Result<usize, Fault> {
        let end = text.find('#').unwrap_or(text.len());
        self.check_url(&text[..end], is_query_byte)?;
        let Some(&byte) = text.as_bytes().get(end) else { return Ok(end) };
        self.check_fragment(byte)?;
        Ok(end + 1)
    }

    fn check_fragment(&self, byte: u8) -> Result<(), Fault> {
        match byte {
            b'#' if self.shape == Shape::Target => Err(self.fault("no server gets what is behind a #")),
            _ => Ok(()),
        }
    }

    fn check_url(&self, text: &str, is_allowed: fn(u8) -> bool) -> Result<(), Fault> {
        let bytes = text.as_bytes();
        for (at, &byte) in bytes.iter().enumerate() {
            let is_escape = byte == b'%' && super::variables::is_escape(&bytes[at..]);
            if !is_allowed(byte) && !is_escape {
                let what = if byte.is_ascii_graphic() || byte == b' ' {
                    char::from(byte).to_string()
                } else {
                    text.to_owned()
                };
                return Err(self
                    .fault(&format!("`{what}` cannot stand in a URL"))
                    .hint(format!("write %{byte:02X}")));
            }
        }
        Ok(())
    }

    fn variable(&mut self, variable: Variable) -> Result<(), Fault> {
        self.check_open()?;
        let begins_path = matches!(variable, Variable::Path | Variable::Uri);
        let place = match self.at {
            Part::Field => Place::Field,
            Part::Start if variable == Variable::Scheme && self.shape == Shape::Location => {
                self.at = Part::Scheme;
                Place::Scheme
            }
            Part::Start | Part::Host if begins_path && self.shape != Shape::Host => {
                self.at = Part::Path;
                Place::Path
            }
            Part::Start => return Err(self.wrong_start()),
            Part::Scheme => return Err(self.fault("${scheme} is followed by ://")),
            Part::Host => Place::Host,
            Part::Path => Place::Path,
            Part::Query => Place::Query,
        };
        self.is_over = variable == Variable::Uri && place == Place::Path;
        self.pieces.push(Piece::Value(variable, place));
        Ok(())
    }

    fn finish(self) -> Result<Template, Fault> {
        let is_fixed = self.pieces.iter().all(|piece| matches!(piece, Piece::Text(_)));
        let text = || match &*self.pieces {
            [Piece::Text(text)] => text.as_bytes(),
            _ => b"",
        };
        let host = match self.shape {
            Shape::Host => text(),
            _ => host_of(text()),
        };
        if is_fixed && (self.has_host || self.shape == Shape::Host) && check_host(host).is_err() {
            return Err(self.fault("this is not a host"));
        }
        if self.shape == Shape::Location && matches!(self.at, Part::Start | Part::Scheme) {
            return Err(self.wrong_start());
        }
        let has_query = self.is_over || self.at == Part::Query;
        Ok(Template { shape: self.shape, pieces: self.pieces.into(), has_query, has_host: self.has_host })
    }
}
