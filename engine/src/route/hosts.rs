//! From the Host field to the path trees that may answer: the name itself, then longer suffixes before shorter.
//!
//! Takes the field as it came: any case, with a port, with a trailing dot. A name that cannot be configured
//! (longer than 253 bytes, for one) is not looked up, so that a hostile name costs no more than a normal one.

use super::NONE;
use super::hash::{KeyMap, find_byte, hash_ignore_case, is_same};
use crate::config::HOST_BYTES_MAX;

const EXACT: u32 = 1;
const SUFFIX: u32 = 2;

/// All host names.
#[derive(Debug, Clone)]
pub(super) struct Hosts {
    /// A power of two of entries, at most half of them taken.
    entries: Vec<Entry>,
    /// The names, in lower case, one after the other.
    text: Vec<u8>,
    /// Lengths that a suffix has, one bit each: only these are worth a search.
    suffix_lengths: [u64; 4],
    count: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// [`NONE`] marks a free entry.
    root: u32,
    /// [`EXACT`] or [`SUFFIX`].
    kind: u32,
    start: u32,
    len: u32,
}

impl Hosts {
    /// Whether no route names a host.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Asks the trees of the matching names in order, until one has an answer.
    #[inline]
    pub(super) fn find<R>(&self, host: &str, mut ask: impl FnMut(u32) -> Option<R>) -> Option<R> {
        let name = bare_name(host);
        if name.is_empty() || name.len() > HOST_BYTES_MAX {
            return None;
        }
        let root = self.root_of(EXACT, name);
        if root != NONE
            && let Some(answer) = ask(root)
        {
            return Some(answer);
        }
        if self.suffix_lengths == [0; 4] {
            return None;
        }
        // From left to right: each dot starts a shorter suffix. A dot needs something before it.
        let mut suffix = &name[1..];
        while let Some(dot) = find_byte(suffix, b'.') {
            suffix = &suffix[dot + 1..];
            let has_length = self.suffix_lengths[suffix.len() / 64] >> (suffix.len() % 64) & 1 == 1;
            let root = if has_length { self.root_of(SUFFIX, suffix) } else { NONE };
            if root != NONE
                && let Some(answer) = ask(root)
            {
                return Some(answer);
            }
        }
        None
    }

    #[inline]
    fn root_of(&self, kind: u32, name: &[u8]) -> u32 {
        let mask = self.entries.len() - 1;
        let mut slot = hash_ignore_case(kind, name) as usize & mask;
        loop {
            let entry = &self.entries[slot];
            if entry.root == NONE {
                return NONE;
            }
            if entry.kind == kind && entry.len as usize == name.len() {
                let text = &self.text[entry.start as usize..][..name.len()];
                // Most clients send it in lower case.
                if is_same(text, name) || text.eq_ignore_ascii_case(name) {
                    return entry.root;
                }
            }
            slot = (slot + 1) & mask;
        }
    }
}

/// The name without port and without trailing dot. An address in brackets keeps them.
#[inline]
pub(crate) fn bare_name(host: &str) -> &[u8] {
    let host = host.as_bytes();
    let end = if host.first() == Some(&b'[') {
        host.iter().position(|&b| b == b']').map_or(host.len(), |bracket| bracket + 1)
    } else {
        find_byte(host, b':').unwrap_or(host.len())
    };
    let name = &host[..end];
    name.strip_suffix(b".").unwrap_or(name)
}

/// The table being filled.
#[derive(Default)]
pub(super) struct Builder {
    names: KeyMap<(u32, String), u32>,
    order: Vec<(u32, String, u32)>,
}

impl Builder {
    /// The root of this name's tree; `fresh` if it was not known.
    pub(super) fn exact(&mut self, name: &str, fresh: u32) -> u32 {
        self.root(EXACT, name, fresh)
    }

    /// The root of the tree for names below this one; `fresh` if it was not known.
    pub(super) fn suffix(&mut self, name: &str, fresh: u32) -> u32 {
        self.root(SUFFIX, name, fresh)
    }

    fn root(&mut self, kind: u32, name: &str, fresh: u32) -> u32 {
        *self.names.entry((kind, name.to_owned())).or_insert_with(|| {
            self.order.push((kind, name.to_owned(), fresh));
            fresh
        })
    }

    pub(super) fn finish(self) -> Hosts {
        let capacity = (self.order.len() * 2).next_power_of_two().max(2);
        let free = Entry { root: NONE, kind: 0, start: 0, len: 0 };
        let mut hosts = Hosts {
            entries: vec![free; capacity],
            text: Vec::new(),
            suffix_lengths: [0; 4],
            count: self.order.len(),
        };
        for (kind, name, root) in self.order {
            let entry = Entry { root, kind, start: hosts.text.len() as u32, len: name.len() as u32 };
            hosts.text.extend_from_slice(name.as_bytes());
            if kind == SUFFIX {
                hosts.suffix_lengths[name.len() / 64] |= 1 << (name.len() % 64);
            }
            let mut slot = hash_ignore_case(kind, name.as_bytes()) as usize & (capacity - 1);
            while hosts.entries[slot].root != NONE {
                slot = (slot + 1) & (capacity - 1);
            }
            hosts.entries[slot] = entry;
        }
        hosts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_port_and_dot() {
        for (host, name) in [
            ("a.b", "a.b"),
            ("a.b:80", "a.b"),
            ("a.b.:80", "a.b"),
            ("a.b.", "a.b"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("[::1", "[::1"),
            ("", ""),
            (":80", ""),
            (".", ""),
        ] {
            assert_eq!(bare_name(host), name.as_bytes(), "{host}");
        }
    }

    #[test]
    fn asks_from_specific_to_wide() {
        let mut builder = Builder::default();
        builder.exact("a.b.c", 1);
        builder.suffix("b.c", 2);
        builder.suffix("c", 3);
        builder.exact("b.c", 4);
        let hosts = builder.finish();
        let asked = |host: &str| {
            let mut asked = Vec::new();
            hosts.find(host, |root| {
                asked.push(root);
                None::<()>
            });
            asked
        };
        assert_eq!(asked("A.B.c:1"), [1, 2, 3]);
        assert_eq!(asked("x.b.c"), [2, 3]);
        assert_eq!(asked("x.y.b.c."), [2, 3]);
        assert_eq!(asked("b.c"), [4, 3]);
        assert_eq!(asked("c"), [] as [u32; 0]);
        assert_eq!(asked(".c"), [] as [u32; 0]);
        assert_eq!(asked(&format!("{}.c", "a.".repeat(126))), [] as [u32; 0]);
        assert_eq!(asked("xb.c"), [3]);
    }
}
