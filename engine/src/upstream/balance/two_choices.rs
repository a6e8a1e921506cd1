//! Two servers at random, and of these the one that is expected to answer sooner: by the time that it took lately and by what it has
//! to do already. Few mistakes with little knowledge: no shard has to know what others do, and no server gets all requests at once.

use std::rc::Rc;

use super::Member;
use super::affinity::mix;
use crate::upstream::server::Server;

/// The better one of two candidates that `draw` finds, by their shares.
pub(super) fn choose(
    members: &[Member],
    servers: &[Rc<Server>],
    (draw, now_ms): (u64, u64),
) -> Option<usize> {
    let all: u64 = members.iter().map(|member| u64::from(member.share.get())).sum();
    let one = at_share(members, mix(draw) % all.max(1), None)?;
    let rest = all - u64::from(members[one].share.get());
    if rest == 0 {
        return Some(one);
    }
    let other = at_share(members, mix(!draw) % rest, Some(one))?;
    // The weight too counts, or a small server would have as many requests under way as a large one.
    let load = |at: usize| 1.0 + 100.0 * servers[at].requests() as f32 / members[at].share.get() as f32;
    let latency = |at: usize| servers[at].latency.expected_ms(now_ms, servers[at].requests() == 0);
    let (of_one, of_other) = match (latency(one), latency(other)) {
        (Some(of_one), Some(of_other)) => (of_one * load(one), of_other * load(other)),
        // One that was never asked is neither good nor bad.
        _ => (load(one), load(other)),
    };
    Some(if of_other < of_one { other } else { one })
}

/// The candidate at this place, if all shares are laid in a row, except that of one.
fn at_share(members: &[Member], mut place: u64, except: Option<usize>) -> Option<usize> {
    for (at, member) in members.iter().enumerate().filter(|(at, _)| Some(*at) != except) {
        let share = u64::from(member.share.get());
        if place < share {
            return Some(at);
        }
        place -= share;
    }
    None
}
