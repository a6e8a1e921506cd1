//! Balances load between shards: every tenth of a second a shard compares its load with the others' and, if it has clearly
//! more, migrates some of its connections.
//!
//! The load is the number of completions of the ring. A sample says which connections cause it, so that neither requests nor
//! connections have to be counted. Nearest shards first: another node only for a great difference, since a connection that
//! leaves its node leaves the memory and the interrupts of its card.

use std::sync::Arc;

use sluice_sys::{BUSY_WORK, Doorbell, LoadBoard, Share};

use crate::placement::ShardPlace;

/// How often loads are compared.
const LOOK_MS: u64 = 100;

/// How often while there is nothing to do.
const IDLE_LOOK_MS: u64 = 200;

/// Looks in a row at which a shard has too much to do before it gives anything away. Shards look at different moments: what
/// begins everywhere at once is seen by some before others, and a connection that went away for it would cost more ever after.
const LOOKS_BEFORE_MOVES: u32 = 3;

/// Connections given away at one look.
const MOVES_MAX: usize = 32;

/// Everything a shard needs to share connections with the others.
pub(crate) struct ShardPeers {
    pub(crate) me: usize,
    pub(crate) board: Arc<LoadBoard>,
    pub(crate) doorbells: Vec<Doorbell>,
    /// The others: those with the same cache, then the rest of the node, then the rest of the machine.
    pub(crate) proximity: Vec<Vec<usize>>,
}

/// The other shards by their proximity to `me`, the nearest first.
pub(crate) fn proximity(places: &[&ShardPlace], me: usize) -> Vec<Vec<usize>> {
    let own = places[me];
    let distance = |place: &ShardPlace| match () {
        () if place.l3_group == own.l3_group && place.node == own.node => 0,
        () if place.node == own.node => 1,
        () => 2,
    };
    let distance = |of| {
        let others = places.iter().enumerate().filter(|(shard, _)| *shard != me);
        others.filter(|(_, place)| distance(place) == of).map(|(shard, _)| shard).collect()
    };
    (0..3).map(distance).collect()
}

/// Looks and gives away until the shard leaves the set.
pub(crate) async fn run(peers: ShardPeers) {
    let ShardPeers { me, board, doorbells, proximity } = peers;
    sluice_sys::join_shard_set(me, board.clone(), doorbells, proximity.clone());
    let mut shares = Vec::with_capacity(256);
    let mut moves = Vec::with_capacity(MOVES_MAX);
    let (mut work, mut patience) = (0, Patience::default());
    while board.work(me).is_some() {
        sluice_sys::sleep(if work == 0 { IDLE_LOOK_MS } else { LOOK_MS }).await;
        let done = sluice_sys::take_load(&mut shares);
        if board.work(me).is_none() {
            return;
        }
        // Half of it is news, so that one burst does not drive connections about.
        work = u64::midpoint(work, done);
        board.set_work(me, work);
        let was_moving = !moves.is_empty();
        moves.clear();
        let mean = mean(&board);
        let is_at_end = patience.look(work, mean);
        // Migrated connections show in the loads only at the next look.
        if is_at_end && !was_moving {
            let proximity = proximity.iter().map(|distance| least(&board, distance));
            choose(work, mean, proximity, &mut shares, &mut moves);
        }
        for &(connection, to) in &moves {
            sluice_sys::hand_over(connection, to);
        }
    }
}

/// The mean work of the shards that take connections.
fn mean(board: &LoadBoard) -> u64 {
    let works = (0..board.shards()).filter_map(|shard| board.work(shard));
    let (sum, count) = works.fold((0, 0), |(sum, count), work| (sum + work, count + 1));
    sum / u64::max(count, 1)
}

/// The shard with the least to do among those at one distance, and how much that is.
fn least(board: &LoadBoard, distance: &[usize]) -> Option<(u64, usize)> {
    distance.iter().filter_map(|&shard| Some((board.work(shard)?, shard))).min()
}

/// Whether a shard has clearly more to do than the mean.
fn is_above(mine: u64, mean: u64) -> bool {
    mine >= u64::from(BUSY_WORK) && mine * 10 > mean * 11
}

/// Looks in a row at which a shard had clearly more to do than the mean.
#[derive(Default)]
struct Patience(u32);

impl Patience {
    /// Whether this look is one too many.
    fn look(&mut self, mine: u64, mean: u64) -> bool {
        self.0 = if is_above(mine, mean) { self.0 + 1 } else { 0 };
        self.0 >= LOOKS_BEFORE_MOVES
    }
}

/// Chooses connections to give away, and to whom. `shares` is sorted on the way.
fn choose<C: Copy>(
    mine: u64,
    mean: u64,
    proximity: impl Iterator<Item = Option<(u64, usize)>>,
    shares: &mut [Share<C>],
    moves: &mut Vec<(C, usize)>,
) {
    if !is_above(mine, mean) {
        return;
    }
    // The nearest shard for which the difference is great enough: a tenth, a fifth, two fifths of our work.
    let found = proximity.zip([1, 2, 4]).find_map(|(least, tenths)| {
        least.filter(|(theirs, _)| mine.saturating_sub(*theirs) * 10 >= mine * tenths)
    });
    let Some((theirs, to)) = found else { return };
    let samples: u64 = shares.iter().map(|share| u64::from(share.samples)).sum();
    if samples == 0 {
        return;
    }
    let work_of = |share: &Share<C>| mine * u64::from(share.samples) / samples;
    shares.sort_unstable_by_key(|share| std::cmp::Reverse(share.samples));
    // Neither below the mean here, nor beyond the middle of the two.
    let mut surplus = ((mine - theirs) / 2).min(mine - mean);
    for share in shares.iter() {
        if work_of(share) <= surplus && moves.len() < MOVES_MAX {
            surplus -= work_of(share);
            moves.push((share.connection, to));
        }
    }
    if moves.is_empty() {
        // All are too large to make it even. The smallest still helps if it leaves the other with less than we have now.
        let smallest = shares.last().filter(|share| theirs + work_of(share) < mine * 9 / 10);
        moves.extend(smallest.map(|share| (share.connection, to)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Policy, ShardChoice};
    use crate::placement::plan;
    use crate::topology::CpuSet;
    use crate::topology::fixture::two_sockets_interleaved;

    /// What a shard gives away whose connections have these shares of its work.
    fn given(
        mine: u64,
        mean: u64,
        proximity: &[Option<(u64, usize)>],
        samples: &[u32],
    ) -> Vec<(usize, usize)> {
        let shares = samples.iter().enumerate();
        let mut shares: Vec<Share<usize>> =
            shares.map(|(connection, &samples)| Share { connection, samples }).collect();
        let mut moves = Vec::new();
        choose(mine, mean, proximity.iter().copied(), &mut shares, &mut moves);
        moves
    }

    #[test]
    fn half_of_the_difference_goes() {
        // 800 here, nothing there: 400 are to go, the largest that fits first.
        let moves = given(800, 400, &[Some((0, 1))], &[10, 20, 30, 40, 50, 60, 70, 80]);
        let given: u32 =
            moves.iter().map(|(connection, _)| [10, 20, 30, 40, 50, 60, 70, 80][*connection]).sum();
        assert!(moves.iter().all(|(_, to)| *to == 1));
        assert_eq!(given, 180);
    }

    #[test]
    fn who_is_near_the_mean_or_has_little_to_do_keeps_all() {
        assert_eq!(given(1_000, 950, &[Some((900, 1))], &[1, 1, 1, 1]), []);
        assert_eq!(given(u64::from(BUSY_WORK) - 1, 40, &[Some((0, 1))], &[1, 1]), []);
        assert_eq!(given(1_000, 500, &[None, None], &[1, 1]), []);
        assert_eq!(given(1_000, 500, &[Some((0, 1))], &[]), []);
    }

    #[test]
    fn a_shard_does_not_go_below_the_mean() {
        // Half of the difference would be 500 of 1,000, and the mean is 200 below.
        assert_eq!(given(1_000, 800, &[Some((0, 1))], &[10; 10]), [(0, 1), (1, 1)]);
        assert_eq!(given(1_000, 890, &[Some((0, 1))], &[10; 10]), [(0, 1)]);
    }

    /// Two shards that begin at once: the one that looks first sees its own load and nothing of the other's.
    #[test]
    fn what_another_shard_has_not_shown_yet_is_waited_for() {
        let mut patience = Patience::default();
        let looks = [(500, 250), (750, 500), (875, 870), (940, 500), (970, 500), (990, 500), (990, 500)];
        let ends = looks.map(|(mine, mean)| patience.look(mine, mean));
        assert_eq!(ends, [false, false, false, false, false, true, true]);
    }

    #[test]
    fn one_connection_is_not_sent_back_and_forth() {
        assert_eq!(given(1_000, 500, &[Some((0, 1))], &[7]), []);
        // Of two unequal ones the smaller goes, although it is more than the difference asks for.
        assert_eq!(given(1_000, 550, &[Some((100, 1))], &[50, 50]), [(1, 1)]);
        assert_eq!(given(1_000, 750, &[Some((500, 1))], &[50, 50]), []);
    }

    #[test]
    fn the_nearest_that_differs_enough_is_chosen() {
        let some =
            |proximity: &[Option<(u64, usize)>]| given(1_000, 700, proximity, &[1; 20]).first().map(|m| m.1);
        assert_eq!(some(&[Some((850, 1)), Some((600, 2)), Some((0, 3))]), Some(1));
        assert_eq!(some(&[Some((950, 1)), Some((600, 2)), Some((0, 3))]), Some(2));
        assert_eq!(some(&[Some((950, 1)), Some((850, 2)), Some((500, 3))]), Some(3));
        assert_eq!(some(&[Some((950, 1)), Some((850, 2)), Some((700, 3))]), None);
    }

    #[test]
    fn circles_are_cache_node_and_machine() {
        let topology = two_sockets_interleaved().read();
        let policy = Policy::Cpus(CpuSet::parse("0-4").unwrap());
        let plan = plan(&topology, &ShardChoice { policy, ..ShardChoice::default() }).unwrap();
        let places: Vec<&ShardPlace> = plan.shards.iter().collect();
        // Shards 0 to 2 on CPUs 0, 2 and 4 of one cache, 3 and 4 on CPUs 1 and 3 of the other.
        assert_eq!(proximity(&places, 1), [vec![0, 2], vec![], vec![3, 4]]);
        assert_eq!(proximity(&places, 4), [vec![3], vec![], vec![0, 1, 2]]);
    }
}
