//! Applies what a route changes to one request: makes its texts of the head while that is in the receive buffer.
//!
//! Called by `exchange::decision`, for routes that have a policy. What goes to the server is written with the head; the lines for the
//! response wait in a buffer until that comes ([`Shard::response_lines`]).

use sluice_proto::edits::FieldEdits;
use sluice_proto::path::{DotSegments, PathRules, PathStore, SlashLike, normalize};
use sluice_proto::{Fault, RequestHead};
use sluice_sys::Buf;

use super::template::{Template, Unfit};
use super::variables::Facts;
use super::{Prefix, RoutePolicy, TargetRule};
#[cfg(feature = "cli")]
use crate::answer::Answer;
use crate::shard::Shard;

/// Room for texts that are made of requests: one for all requests of a shard.
#[derive(Default)]
pub(crate) struct PolicyStore {
    target: Vec<u8>,
    host: Vec<u8>,
    lines: Vec<u8>,
    paths: PathStore,
}

/// A request as a server is to get it, as far as its route changes it.
pub(crate) struct Changed<'a> {
    /// Path and query, and the path alone.
    pub(crate) target: Option<(&'a str, &'a str)>,
    pub(crate) host: Option<&'a str>,
    pub(crate) edits: Option<FieldEdits<'a>>,
}

/// Why a request cannot be changed as its route says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// A text that cannot be made of it.
    Text(Unfit),
    /// The path that was made of it would have been refused if it had been received.
    Path(Fault),
}

impl Misfit {
    /// In the words of the answer.
    #[cfg(feature = "cli")]
    pub(crate) fn why(self) -> &'static str {
        match self {
            Misfit::Text(Unfit::Host) => Answer::UNFIT_HOST.why(),
            Misfit::Text(Unfit::TooLong) => Answer::UNFIT_LENGTH.why(),
            Misfit::Path(fault) => fault.reason(),
        }
    }
}

impl From<Unfit> for Misfit {
    fn from(unfit: Unfit) -> Misfit {
        Misfit::Text(unfit)
    }
}

impl RoutePolicy {
    /// Makes the lines that the response will have, and leaves them with the shard.
    pub(crate) fn prepare_response(&self, shard: &Shard, facts: &Facts<'_>) -> Result<(), Unfit> {
        if !self.response.has_variables() {
            return Ok(());
        }
        let mut lines = Buf::small();
        self.response.write(&mut lines, facts)?;
        shard.response_lines.set(Some(lines));
        Ok(())
    }

    /// Makes what the server gets otherwise than it was received. `matching`: the path as it was compared with the route; `rules`:
    /// those of the route.
    pub(crate) fn change<'a>(
        &'a self,
        store: &'a mut PolicyStore,
        facts: &Facts<'_>,
        (matching, rules): (&str, PathRules),
    ) -> Result<Changed<'a>, Misfit> {
        let PolicyStore { target, host, lines, paths } = store;
        [&mut *target, &mut *host, &mut *lines].into_iter().for_each(Vec::clear);
        // The server as a whole has no path.
        if facts.path.starts_with('/') {
            match &self.target {
                TargetRule::Keep => {}
                TargetRule::Strip(prefix) => strip(target, facts, prefix, matching),
                TargetRule::Rewrite(template) => rewrite(target, facts, template)?,
            }
        }
        if let Some(template) = &self.host {
            template.write(host, facts)?;
        }
        self.request.write_unless_fixed(lines, facts)?;
        Ok(Changed {
            target: as_received(target, rules, paths)?,
            host: self.host.is_some().then(|| text(host)),
            edits: self.request.with_lines(Some(lines)),
        })
    }
}

/// All of it is made of ASCII.
fn text(bytes: &[u8]) -> &str {
    debug_assert!(bytes.is_ascii());
    str::from_utf8(bytes).unwrap_or_default()
}

/// A target that was made, judged by the rules for those that are received: what its parts come to together was seen by no rule yet.
fn as_received<'a>(
    target: &'a [u8],
    rules: PathRules,
    store: &'a mut PathStore,
) -> Result<Option<(&'a str, &'a str)>, Misfit> {
    if target.is_empty() {
        return Ok(None);
    }
    let target = text(target);
    let path = target.split('?').next().unwrap_or_default();
    let rules = PathRules { dot_segments: DotSegments::Refuse, ..rules };
    let forms = normalize(target, path, &rules, store).map_err(Misfit::Path)?;
    if forms.has_encoded_slash && rules.encoded_slash != SlashLike::Keep {
        return Err(Misfit::Path(Fault::EncodedSlash));
    }
    Ok(Some((forms.path_and_query, forms.path)))
}

fn put_query(out: &mut Vec<u8>, head: &RequestHead<'_>) {
    let query = head.path_and_query.get(head.path.len()..).unwrap_or_default();
    out.extend_from_slice(query.as_bytes());
}

/// The path without the prefix, if it begins with that.
fn strip(out: &mut Vec<u8>, facts: &Facts<'_>, prefix: &Prefix, matching: &str) {
    let has_prefix =
        matching.strip_prefix(&*prefix.matching).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if !has_prefix {
        return;
    }
    // By segments, since the same text may be spelled otherwise in the path that is sent.
    let mut rest = facts.path;
    for _ in 0..prefix.segments {
        let behind = rest.strip_prefix('/').unwrap_or(rest);
        rest = behind.find('/').map_or("", |slash| &behind[slash..]);
    }
    out.extend_from_slice(if rest.is_empty() { b"/" } else { rest.as_bytes() });
    put_query(out, facts.head);
}

fn rewrite(out: &mut Vec<u8>, facts: &Facts<'_>, template: &Template) -> Result<(), Unfit> {
    template.write(out, facts)?;
    if !template.has_query() {
        put_query(out, facts.head);
    }
    Ok(())
}
