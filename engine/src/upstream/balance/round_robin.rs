//! Turns by weight, evenly spread: of weights 5, 1 and 1 come a a b a c a a, not five a in a row (nginx's smooth weighted round
//! robin). In every turn each candidate gains its share, the one that has most is next, and pays the shares of all.

use super::Member;

/// The candidate whose turn it is; the first of several.
pub(super) fn next(members: &[Member]) -> Option<usize> {
    let mut best: Option<(usize, i64)> = None;
    for (at, member) in members.iter().enumerate().filter(|(_, member)| member.share.get() > 0) {
        let gained = member.turn.get() + i64::from(member.share.get());
        if best.is_none_or(|(_, most)| gained > most) {
            best = Some((at, gained));
        }
    }
    best.map(|(at, _)| at)
}

/// Its turn is used up.
pub(super) fn take(members: &[Member], taken: usize) {
    let mut all = 0;
    for member in members {
        let share = i64::from(member.share.get());
        member.turn.set(member.turn.get() + share);
        all += share;
    }
    members[taken].turn.set(members[taken].turn.get() - all);
}
