//! Closes idle connections to servers after the peak that needed them: a task of each shard that runs once a second while there
//! are any, with or without requests, and sleeps without limit while there are none.

use std::rc::Rc;

use sluice_sys::Timer;

use crate::shard::Shard;
use crate::upstream::stock::TICK_MS;

/// So many connections to one server are closed at once; then requests get their turn.
const CLOSE_MAX: usize = 128;

/// The pause between two such lots.
const LOT_MS: u64 = 10;

/// As good as never: the first idle connection ends the wait.
const ASLEEP_MS: u64 = 24 * 3_600_000;

/// Looks after the idle connections of a shard as long as it runs.
pub(crate) async fn run(shard: Rc<Shard>) {
    let timer = shard.upkeep.timer.get_or_init(|| Timer::new(ASLEEP_MS));
    loop {
        timer.expired().await;
        tick(&shard);
        while close_surplus(&shard) {
            timer.reset(LOT_MS);
            timer.expired().await;
        }
        let mut is_idle = false;
        shard.servers.for_each(|server| is_idle |= server.idle() > 0);
        shard.upkeep.is_awake.set(is_idle);
        timer.reset(if is_idle { TICK_MS } else { ASLEEP_MS });
    }
}

/// A second has passed.
fn tick(shard: &Shard) {
    shard.stock.leave_room_for(sluice_sys::connections_open());
    shard.servers.forget_unused();
    shard.servers.for_each(|server| server.tick());
}

/// Closes one lot of each server's surplus; says if there is more.
fn close_surplus(shard: &Shard) -> bool {
    let mut is_more = false;
    shard.servers.for_each(|server| {
        let surplus = server.surplus();
        let closed = server.close_oldest(surplus.min(CLOSE_MAX));
        shard.counters.upstream_surplus_closed.add(closed as u64);
        is_more |= closed > 0 && surplus > closed;
    });
    is_more
}
