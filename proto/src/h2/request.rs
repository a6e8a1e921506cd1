//! A request of HTTP/2: its pseudo-header fields, and what they and its fields say together.
//!
//! Owns the rules of RFC 9113 section 8.3.1 and 8.5 and of RFC 8441. Targets, authorities, framing and expectations are judged by
//! the same code as those of HTTP/1.1.

use core::str;

use super::head::{HeadLines, Place};
use super::names::Pseudo;
use crate::ascii::TOKEN;
use crate::facts;
use crate::fault::Fault;
use crate::fields::FieldId;
use crate::h1::Scheme;
use crate::h1::scan::{Scanned, scan_target};
use crate::h1::target;
use crate::limits::{HeadLimits, METHOD_BYTES_MAX};
use crate::message::{BodyLength, Method, RequestHead, TargetText, TrailerRule, Version};
use crate::path::encode_utf8;
use crate::upgrade;

/// What the request line of HTTP/1.1 has besides method and target.
const REQUEST_LINE_REST: usize = "  HTTP/1.1".len();

/// What is known of a request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Request {
    /// A method that has a name of its own; the name of any other is in the text.
    method: Option<Method<'static>>,
    method_name: Place,
    path: Place,
    /// Where in `:path` the query begins.
    query: Option<u32>,
    /// As [`Scanned`] has it.
    has_escapes: bool,
    target_text: TargetText,
    authority: Place,
    host: Option<Place>,
    protocol: Place,
    /// Of method and path.
    line_bytes: usize,
    /// `None` until the request is accepted.
    accepted: Option<Accepted>,
}

/// What was concluded from all fields.
#[derive(Clone, Copy, Debug)]
struct Accepted {
    path_bytes: u32,
    body: BodyLength,
    expect_continue: bool,
}

impl HeadLines {
    /// The request that was accepted last.
    ///
    /// # Panics
    /// When it holds none.
    pub fn request(&self) -> RequestHead<'_> {
        let request = &self.state.request;
        let Some(accepted) = request.accepted else { panic!("no request was accepted") };
        self.request_of(accepted)
    }

    fn request_of(&self, accepted: Accepted) -> RequestHead<'_> {
        let Request { path, authority, .. } = self.state.request;
        let path_and_query = self.text(path);
        RequestHead {
            method: self.method(),
            path_and_query,
            path: &path_and_query[..accepted.path_bytes as usize],
            target_text: self.state.request.target_text,
            authority: self.text(authority),
            version: Version::Http2,
            body: accepted.body,
            persistent: true,
            expect_continue: accepted.expect_continue,
            wants_upgrade: self.state.has(Pseudo::Protocol),
            trailers: TrailerRule::Keep,
            fields: self.fields(),
        }
    }

    fn method(&self) -> Method<'_> {
        let request = &self.state.request;
        request.method.unwrap_or_else(|| Method::Other(self.text(request.method_name)))
    }

    /// Takes in a pseudo-header field of a request.
    pub(super) fn take_request_pseudo(
        &mut self,
        pseudo: Pseudo,
        value: &[u8],
        scheme: Scheme,
        allows_protocol: bool,
        limits: &HeadLimits,
    ) -> Result<(), Fault> {
        match pseudo {
            Pseudo::Method => self.take_method(value)?,
            Pseudo::Path => self.take_path(value)?,
            Pseudo::Scheme => check_scheme(value, scheme)?,
            Pseudo::Authority => {
                let text = str::from_utf8(value).map_err(|_| Fault::InvalidTarget)?;
                self.state.request.authority = self.put_text(text);
            }
            //= https://www.rfc-editor.org/rfc/rfc8441#section-3
            // Only a server that has said so takes it.
            Pseudo::Protocol if allows_protocol => {
                //= https://www.rfc-editor.org/rfc/rfc8441#section-4
                // "a single value taken from" the registry of upgrade tokens. HTTP in a tunnel would be requests that are not checked.
                let is_one = upgrade::is_protocol(value) && !upgrade::is_another_http(value);
                let name = str::from_utf8(value).ok().filter(|_| is_one).ok_or(Fault::InvalidProtocol)?;
                self.state.request.protocol = self.put_text(name);
            }
            Pseudo::Protocol | Pseudo::Status => return Err(Fault::UnexpectedPseudoHeader),
        }
        let is_too_long = self.state.request.line_bytes + REQUEST_LINE_REST > limits.request_line_bytes_max;
        if is_too_long { Err(Fault::RequestLineTooLong) } else { Ok(()) }
    }

    fn take_method(&mut self, value: &[u8]) -> Result<(), Fault> {
        self.state.request.line_bytes += value.len();
        self.state.request.method = Method::known(value);
        if self.state.request.method.is_some() {
            return Ok(());
        }
        if value.len() > METHOD_BYTES_MAX {
            return Err(Fault::MethodTooLong);
        }
        let is_token = !value.is_empty() && value.iter().all(|&byte| TOKEN.contains(byte));
        let name = str::from_utf8(value).ok().filter(|_| is_token).ok_or(Fault::InvalidMethod)?;
        self.state.request.method_name = self.put_text(name);
        Ok(())
    }

    //= https://www.rfc-editor.org/rfc/rfc9113#section-8.3.1
    // "This pseudo-header field MUST NOT be empty for "http" or "https" URIs"
    fn take_path(&mut self, value: &[u8]) -> Result<(), Fault> {
        let Scanned { end, query, has_escapes } = scan_target(value, 0);
        let path = str::from_utf8(value).ok().filter(|_| end == value.len()).ok_or(Fault::InvalidTarget)?;
        self.state.request.line_bytes += value.len();
        self.state.request.has_escapes = has_escapes;
        if has_escapes && !path.is_ascii() {
            return self.take_raw_path(path, query);
        }
        let place = self.put_text(path);
        self.state.request.path = place;
        self.state.request.query = query.map(|at| at as u32);
        Ok(())
    }

    /// The same of one with UTF-8 in it. It is kept percent-encoded.
    #[cold]
    fn take_raw_path(&mut self, path: &str, query: Option<usize>) -> Result<(), Fault> {
        target::check_escapes(path, query)?;
        let start = self.text.len();
        encode_utf8(path, &mut self.text);
        let encoded = &self.text[start..];
        let request = &mut self.state.request;
        request.query = encoded.find('?').map(|at| at as u32);
        request.path = Place::new(start, encoded.len());
        request.target_text = TargetText::Utf8;
        Ok(())
    }

    /// Takes in Host. It becomes no line: it is the authority, or says the same.
    pub(super) fn take_host(&mut self, value: &[u8]) -> Result<(), Fault> {
        if self.state.request.host.is_some() {
            return Err(Fault::RepeatedHost);
        }
        let host = self.put_text(str::from_utf8(value).map_err(|_| Fault::InvalidHost)?);
        self.state.request.host = Some(host);
        Ok(())
    }

    /// Applies the rules to a request that is complete.
    pub(super) fn finish_request(&mut self, scheme: Scheme, is_end: bool) -> Result<(), Fault> {
        let state = &self.state;
        if !state.has(Pseudo::Method) {
            return Err(Fault::MissingPseudoHeader);
        }
        let is_tunnel = state.request.method == Some(Method::Connect);
        let path_bytes = match (is_tunnel, state.has(Pseudo::Protocol)) {
            (true, false) => self.check_connect()?,
            (true, true) => self.finish_extended_connect()?,
            (false, true) => return Err(Fault::UnexpectedPseudoHeader),
            (false, false) => self.check_path()?,
        };
        self.state.request.authority = self.checked_authority(scheme)?;
        let body = self.request_body(is_tunnel, is_end)?;
        let expect_continue = self.state.facts.is_waiting_for_continue(Version::Http2, body)?;
        let accepted = Accepted { path_bytes, body, expect_continue };
        facts::check_content(self.method(), body)?;
        facts::check_max_forwards(&self.request_of(accepted))?;
        self.state.request.accepted = Some(accepted);
        Ok(())
    }

    /// Checks the target of an ordinary request, and returns the length of its path.
    //= https://www.rfc-editor.org/rfc/rfc9113#section-8.3.1
    fn check_path(&self) -> Result<u32, Fault> {
        let state = &self.state;
        // "All HTTP/2 requests MUST include exactly one valid value for the ":method", ":scheme", and ":path" pseudo-header fields,
        // unless they are CONNECT requests".
        if !state.has(Pseudo::Scheme) || !state.has(Pseudo::Path) {
            return Err(Fault::MissingPseudoHeader);
        }
        let Request { path, query, has_escapes, .. } = state.request;
        let path = self.text(path);
        let query = query.map(|at| at as usize);
        if has_escapes {
            target::check_escapes(path, query)?;
        }
        let target = target::parse_path(path, query, self.method())?.ok_or(Fault::InvalidTarget)?;
        Ok(target.path.len() as u32)
    }

    /// Checks the target of CONNECT, which is an authority.
    //= https://www.rfc-editor.org/rfc/rfc9113#section-8.5
    #[cold]
    fn check_connect(&mut self) -> Result<u32, Fault> {
        // "The ":scheme" and ":path" pseudo-header fields MUST be omitted."
        if self.state.has(Pseudo::Scheme) || self.state.has(Pseudo::Path) {
            return Err(Fault::UnexpectedPseudoHeader);
        }
        // "The ":authority" pseudo-header field contains the host and port to connect to"
        if !self.state.has(Pseudo::Authority) {
            return Err(Fault::MissingPseudoHeader);
        }
        target::parse_authority(self.text(self.state.request.authority))?;
        self.state.request.path = self.state.request.authority;
        Ok(0)
    }

    /// Makes an offer as HTTP/1.1 has it of an extended CONNECT.
    //= https://www.rfc-editor.org/rfc/rfc8441#section-4
    #[cold]
    fn finish_extended_connect(&mut self) -> Result<u32, Fault> {
        // "On requests that contain the :protocol pseudo-header field, the :scheme and :path pseudo-header fields of the target URI
        // MUST also be included."
        if !self.state.has(Pseudo::Authority) {
            return Err(Fault::MissingPseudoHeader);
        }
        self.state.request.method = Some(Method::Get);
        let path_bytes = self.check_path()?;
        let place = self.state.request.protocol;
        let protocol = core::mem::take(&mut self.text);
        let name = &protocol.as_bytes()[place.range()];
        self.put_line(FieldId::Upgrade, b"upgrade", name);
        self.text = protocol;
        self.state.facts.present.insert(FieldId::Upgrade);
        Ok(path_bytes)
    }

    /// The authority that holds, after all that says one was compared.
    //= https://www.rfc-editor.org/rfc/rfc9113#section-8.3.1
    fn checked_authority(&self, scheme: Scheme) -> Result<Place, Fault> {
        let Request { authority, host, path, .. } = self.state.request;
        let named = self.state.has(Pseudo::Authority).then(|| self.text(authority));
        let host_value = host.map(|place| self.text(place).as_bytes());
        let is_asterisk = self.text(path) == "*";
        target::check_host(named, host_value, Version::Http2, self.method(), is_asterisk, scheme)?;
        Ok(if named.is_some() { authority } else { host.unwrap_or_default() })
    }

    fn request_body(&self, is_tunnel: bool, is_end: bool) -> Result<BodyLength, Fault> {
        let declared = self.state.facts.framing.request_body(Version::Http2)?.length();
        match declared {
            // What follows the head of CONNECT is the tunnel, and no content.
            _ if is_tunnel && !declared.is_empty() => Err(Fault::ConnectWithBody),
            _ if is_tunnel => Ok(BodyLength::None),
            BodyLength::None if !is_end => Ok(BodyLength::Streamed),
            //= https://www.rfc-editor.org/rfc/rfc9113#section-8.1.1
            // "A request or response that includes message content can include a content-length header field": malformed "if the
            // value ... does not equal the sum of the DATA frame payload lengths".
            BodyLength::Length(length) if is_end && length > 0 => Err(Fault::LengthMismatch),
            _ => Ok(declared),
        }
    }
}

/// `:scheme` names the kind of connection that the request came by.
fn check_scheme(value: &[u8], own: Scheme) -> Result<(), Fault> {
    //= https://www.rfc-editor.org/rfc/rfc3986#section-3.1
    let names = |scheme: Scheme| value.eq_ignore_ascii_case(scheme.name().as_bytes());
    match own {
        _ if names(own) => Ok(()),
        //= https://www.rfc-editor.org/rfc/rfc9110#section-7.4
        _ if names(Scheme::Http) || names(Scheme::Https) => Err(Fault::MisdirectedScheme),
        _ => Err(Fault::InvalidTarget),
    }
}
