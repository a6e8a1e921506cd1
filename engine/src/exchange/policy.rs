//! A request on a route that changes or answers it: what that comes to for the decision about it.
//!
//! Few routes have such rules. It is all kept out of the code of other requests.

use sluice_proto::RequestHead;
use sluice_proto::grpc::Call;
use sluice_proto::h1::Forwarding;
use sluice_proto::path::{PathForms, PathRules};
use sluice_sys::Buf;

use super::decision::{Refusal, write_request};
use super::upgrade::Switch;
use crate::answer::Answer;
use crate::identity::Client;
use crate::policy::apply::Misfit;
use crate::policy::template::Unfit;
use crate::policy::variables::Facts;
use crate::policy::{RouteAnswer, RoutePolicy};
use crate::request_lines::RequestLines;
use crate::shard::Shard;
use crate::snapshot::{Route, Snapshot};

/// The request as texts of its route see it.
fn facts<'a>(
    policy: &'a RoutePolicy,
    snapshot: &'a Snapshot,
    (head, paths): (&'a RequestHead<'a>, Option<&'a PathForms<'a>>),
    client: &'a Client<'a>,
) -> Facts<'a> {
    Facts {
        head,
        path: paths.map_or("", |paths| paths.path),
        client: &client.identity,
        port: client.address.port(),
        identity: &snapshot.identity.policy,
        captures: policy.captures.as_ref(),
    }
}

/// Makes the lines of the response: first of all, since refusals have them too.
#[cold]
pub(super) fn prepare<'s>(
    policy: &RoutePolicy,
    (shard, snapshot): (&Shard, &Snapshot),
    (head, paths): (&RequestHead<'_>, Option<&PathForms<'_>>),
    client: &Client<'_>,
) -> Result<(), Refusal<'s>> {
    let prepared = policy.prepare_response(shard, &facts(policy, snapshot, (head, paths), client));
    prepared.map_err(|unfit| refuse(shard, head, Misfit::Text(unfit)))
}

/// The answer of a route without a server. CONNECT gets none: it asks for a tunnel, and there is no path to answer for.
#[cold]
pub(super) fn answer<'s>(
    answer: &'s RouteAnswer,
    policy: &RoutePolicy,
    (shard, snapshot): (&Shard, &Snapshot),
    (head, paths): (&RequestHead<'_>, Option<&PathForms<'_>>),
    client: &Client<'_>,
) -> Refusal<'s> {
    if paths.is_none() {
        shard.counters.tunnels_refused.increment();
        return Refusal::new(head, Answer::NoTunnel);
    }
    match answer {
        RouteAnswer::Fixed(fixed) => Refusal::new(head, Answer::Fixed(fixed)),
        RouteAnswer::Redirect { status, location } => {
            let mut written = Buf::small();
            match location.write(&mut written, &facts(policy, snapshot, (head, paths), client)) {
                Ok(()) => Refusal::redirect(head, *status, written),
                Err(unfit) => refuse(shard, head, Misfit::Text(unfit)),
            }
        }
    }
}

/// Writes the head of a request as its route changes it.
#[cold]
pub(super) fn write<'s>(
    policy: &RoutePolicy,
    (shard, snapshot, route): (&Shard, &Snapshot, &Route),
    (received, head, paths): (&RequestHead<'_>, &RequestHead<'_>, Option<&PathForms<'_>>),
    client: &Client<'_>,
    (switch, call, forwarding): (Switch, Call, &Forwarding<'_>),
    lines: &mut RequestLines,
) -> Result<(), Refusal<'s>> {
    let store = &mut *shard.policy_store.borrow_mut();
    let facts = facts(policy, snapshot, (received, paths), client);
    let rules = PathRules { encoded_slash: route.paths.encoded_slash, ..snapshot.path_rules };
    let matching = paths.map_or("", |paths| paths.matching);
    let changed = policy.change(store, &facts, (matching, rules));
    let changed = changed.map_err(|misfit| refuse(shard, head, misfit))?;
    let mut head = *head;
    if let Some((path_and_query, path)) = changed.target {
        (head.path_and_query, head.path) = (path_and_query, path);
    }
    // The Host of CONNECT is where the tunnel leads.
    let host = changed.host.filter(|_| switch != Switch::Connect).unwrap_or(forwarding.host);
    let forwarding = Forwarding { host, edits: changed.edits, ..*forwarding };
    write_request((switch, call), &head, route, &forwarding, lines);
    Ok(())
}

/// Refuses a request of which the texts of its route cannot be made.
fn refuse<'s>(shard: &Shard, head: &RequestHead<'_>, misfit: Misfit) -> Refusal<'s> {
    let answer = match misfit {
        Misfit::Path(fault) => return Refusal::of_path(shard, fault),
        Misfit::Text(Unfit::Host) => Answer::UNFIT_HOST,
        Misfit::Text(Unfit::TooLong) => Answer::UNFIT_LENGTH,
    };
    shard.counters.bad_requests.increment();
    Refusal::new(head, answer)
}
