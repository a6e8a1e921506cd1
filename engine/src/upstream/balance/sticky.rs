//! The cookie by which a client comes back to its server. Its value is an id of the server: a keyed hash of its address, so that it is
//! the same on all shards, in all processes with the same secret and after a restart, and does not give the address away.

use std::rc::Rc;

use sluice_tls::keyed_id;

use super::affinity::{Affinity, fold, mix};
use super::name_of;
use crate::config::Sticky;
use crate::upstream::group::Wanted;
use crate::upstream::server::Server;

/// The ids of a group's servers, in its order.
pub(super) struct StickyIds {
    /// What requests are compared by: half of each id, and no two are equal.
    tags: Box<[u32]>,
    /// The Set-Cookie field of each, with its line end.
    lines: Box<[Box<str>]>,
}

impl StickyIds {
    pub(super) fn new(sticky: &Sticky, servers: &[Rc<Server>]) -> StickyIds {
        let (mut tags, mut lines) = (Vec::new(), Vec::new());
        for server in servers {
            let mut id = keyed_id(sticky.secret.as_bytes(), name_of(server, servers).as_bytes());
            // Equal tags are possible, and rare.
            while tags.contains(&fold(id)) {
                id = mix(id);
            }
            tags.push(fold(id));
            let line = format!("Set-Cookie: {}={id:016x}{}\r\n", sticky.cookie, sticky.attributes);
            lines.push(line.into_boxed_str());
        }
        StickyIds { tags: tags.into(), lines: lines.into() }
    }

    /// The server that the request names, if it can be used. Its weight does not matter: one with weight 0 keeps its clients.
    pub(super) fn find(&self, servers: &[Rc<Server>], wanted: &Wanted<'_>) -> Option<usize> {
        let tag = wanted.affinity.server()?;
        let at = self.tags.iter().position(|known| *known == tag)?;
        wanted.allows(&servers[at]).then_some(at)
    }

    /// The field that names the server at this place, unless the request did.
    pub(super) fn set_cookie(&self, at: usize, had: Affinity) -> Option<&str> {
        (had.server() != Some(self.tags[at])).then(|| &*self.lines[at])
    }
}

/// The id that a cookie has for a value: sixteen digits, as they were written.
pub(super) fn parse_id(value: &[u8]) -> Option<u64> {
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let text =
        str::from_utf8(value).ok().filter(|text| text.len() == 16 && text.as_bytes().iter().all(is_digit));
    u64::from_str_radix(text?, 16).ok()
}
