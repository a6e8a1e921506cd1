//! Which fields belong to one connection and end at the proxy.
//!
//! Owns the sets of RFC 9110 section 7.6.1 and the reading of the Connection field, including the fields it names. Called by
//! `h1::head`, which marks named fields once; `h1::write` then tests a bit per field.

use crate::ascii;
use crate::fault::Fault;
use crate::fields::{FieldId, FieldSet, FieldSpan};
use crate::limits::CONNECTION_OPTIONS_MAX;
use crate::message::TrailerRule;

/// Fields that are never forwarded, in either direction, whether Connection names them or not.
///
/// Proxy-Authorization and its two counterparts are meant for the next proxy that asks for them, and Sluice, acting as the
/// origin towards its clients, never does: passing them on would only leak credentials to an upstream.
//= https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1
//= https://www.rfc-editor.org/rfc/rfc9110#section-11.7.2
pub const HOP_BY_HOP: FieldSet = FieldSet::of(&[
    FieldId::Connection,
    FieldId::KeepAlive,
    FieldId::ProxyConnection,
    FieldId::Te,
    FieldId::TransferEncoding,
    FieldId::Upgrade,
    FieldId::Http2Settings,
    FieldId::ProxyAuthenticate,
    FieldId::ProxyAuthenticationInfo,
    FieldId::ProxyAuthorization,
    // Nothing that is registered: CGI makes HTTP_PROXY of it, which programs take for the proxy they are to use.
    FieldId::Proxy,
]);

/// Fields that a peer cannot remove by naming them in Connection: the proxy relies on them or writes them itself, from what it
/// has understood, and a client must not be able to strip what an earlier proxy recorded about it.
pub const NOT_REMOVABLE: FieldSet = FieldSet::of(&[
    FieldId::Host,
    FieldId::ContentLength,
    FieldId::Trailer,
    FieldId::Date,
    FieldId::XForwardedFor,
    FieldId::XForwardedProto,
    FieldId::XForwardedHost,
    FieldId::XForwardedPort,
    FieldId::XRealIp,
    FieldId::XRequestId,
    FieldId::Forwarded,
    FieldId::Via,
    // "Cache-Control is never appropriate as a connection option"
    FieldId::CacheControl,
]);

/// What the Connection field of a head says, as far as it has been scanned.
//= https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ConnectionOptions {
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    /// Ids named, `Upgrade` and `TE` among them.
    named: FieldSet,
    /// Options that are none of the above: names to be compared with those of the other fields.
    others: usize,
    /// Members of the list, empty ones too: each costs a look at every field.
    members: usize,
}

impl ConnectionOptions {
    /// Notes a Connection line. Members that are not tokens name no field and are of no consequence.
    pub(crate) fn add(&mut self, value: &[u8]) -> Result<(), Fault> {
        for option in ascii::list_members(value) {
            self.members += 1;
            //= https://www.rfc-editor.org/rfc/rfc9110#section-5.6.1.2
            // Empty members are to be ignored, but "not so much that they could be used as a denial-of-service mechanism".
            if self.members > CONNECTION_OPTIONS_MAX {
                return Err(Fault::TooManyConnectionOptions);
            }
            if option.is_empty() {
                continue;
            }
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else {
                match FieldId::classify(option) {
                    FieldId::Other => self.others += 1,
                    id => self.named.insert(id),
                }
            }
        }
        Ok(())
    }

    /// What to do with trailers: a field that is not of one connection by itself may be named, and the head is gone when
    /// trailers come.
    pub(crate) fn trailer_rule(&self) -> TrailerRule {
        let may_name_trailers = self.others > 0 || !HOP_BY_HOP.contains_all(self.named);
        if may_name_trailers { TrailerRule::Drop } else { TrailerRule::Keep }
    }

    /// True when `id` is named.
    pub(crate) fn names(&self, id: FieldId) -> bool {
        self.named.contains(id)
    }

    /// Marks every field of the head that Connection names, so that it is not forwarded.
    pub(crate) fn mark_named(&self, head: &[u8], spans: &mut [FieldSpan]) {
        if self.named == FieldSet::default() && self.others == 0 {
            return;
        }
        for index in 0..spans.len() {
            if spans[index].id() == FieldId::Connection && self.others > 0 {
                let value = spans[index].value(head);
                ascii::list_members(value).for_each(|option| mark_others(option, head, spans));
            }
            let id = spans[index].id();
            if id != FieldId::Other && self.names(id) && !NOT_REMOVABLE.contains(id) {
                spans[index].set_named_by_connection();
            }
        }
    }
}

/// Marks the fields without an id that have this name.
fn mark_others(name: &[u8], head: &[u8], spans: &mut [FieldSpan]) {
    for span in spans.iter_mut().filter(|span| span.id() == FieldId::Other) {
        if span.name(head).eq_ignore_ascii_case(name) {
            span.set_named_by_connection();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_distinguished_from_names() {
        let mut options = ConnectionOptions::default();
        options.add(b"Keep-Alive, upgrade").unwrap();
        options.add(b" , TE,x-one,CLOSE").unwrap();
        assert!(options.close && options.keep_alive);
        assert!(
            options.names(FieldId::Upgrade) && options.names(FieldId::Te) && !options.names(FieldId::Host)
        );
        assert_eq!(options.others, 1);
    }

    #[test]
    fn only_end_to_end_fields_take_trailers_with_them() {
        for (value, rule) in [
            ("close, TE, Upgrade, keep-alive", TrailerRule::Keep),
            ("ETag", TrailerRule::Drop),
            ("x-sum", TrailerRule::Drop),
        ] {
            let mut options = ConnectionOptions::default();
            options.add(value.as_bytes()).unwrap();
            assert_eq!(options.trailer_rule(), rule, "{value}");
        }
    }

    #[test]
    fn empty_members_count() {
        let mut options = ConnectionOptions::default();
        assert_eq!(options.add(b",,,,,,,,,,,,,,,"), Ok(()));
        assert_eq!(options.add(b",,,,,,,,,,,,,,,"), Ok(()));
        assert_eq!(options.add(b""), Err(Fault::TooManyConnectionOptions));
    }

    #[test]
    fn named_fields_are_marked_unless_we_rely_on_them() {
        let head = b"Connection: x-one, Cookie, Host, Date, missing\r\nX-One: 1\r\nHost: a\r\nCookie: b\r\nDate: c\r\nX: y\r\n";
        let mut options = ConnectionOptions::default();
        let mut spans = alloc::vec::Vec::new();
        let mut start = 0;
        for line in head.split_inclusive(|&b| b == b'\n') {
            let colon = line.iter().position(|&b| b == b':').unwrap();
            let value = start + colon + 2..start + line.len() - 2;
            let name = &line[..colon];
            spans.push(FieldSpan::new(name, FieldId::classify(name), start, value, true));
            start += line.len();
        }
        options.add(spans[0].value(head)).unwrap();
        options.mark_named(head, &mut spans);
        let marked: alloc::vec::Vec<_> =
            spans.iter().filter(|span| span.is_named_by_connection()).map(|span| span.name(head)).collect();
        assert_eq!(marked, [b"X-One" as &[u8], b"Cookie"]);
    }
}
