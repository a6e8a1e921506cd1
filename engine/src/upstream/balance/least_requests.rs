//! The servers with the fewest requests under way for their share. Those that have as few take turns.

use super::Member;

/// Leaves a share only to the candidates that have fewest requests for it, counting the one that is to be sent.
pub(super) fn keep_least(members: &[Member], active: impl Fn(usize) -> u64) {
    // Requests and share of the best so far. Fractions are compared without a division.
    let mut least: Option<(u64, u64)> = None;
    let of = |at: usize| (active(at) + 1, u64::from(members[at].share.get()));
    let is_less = |(one, of_one): (u64, u64), (other, of_other): (u64, u64)| one * of_other < other * of_one;
    for at in (0..members.len()).filter(|&at| members[at].share.get() > 0) {
        let here = of(at);
        if least.is_none_or(|least| is_less(here, least)) {
            least = Some(here);
        }
    }
    let Some(least) = least else { return };
    for (at, member) in members.iter().enumerate().filter(|(_, member)| member.share.get() > 0) {
        if is_less(least, of(at)) {
            member.share.set(0);
        }
    }
}
