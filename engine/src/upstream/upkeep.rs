//! Gives idle connections to servers back when the peak that needed them is over: a task of each shard that runs once a
//! second while there are any, whether requests come or not, and sleeps without limit while there are none.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;

use sluice_sys::Timer;

use crate::shard::Shard;
use crate::upstream::group::Group;

/// How often the stock of each server is looked at.
const TICK_MS: u64 = 1_000;

/// So many connections to one server are closed at once; then requests get their turn.
const CLOSE_MAX: usize = 128;

/// The pause between two such lots.
const LOT_MS: u64 = 10;

/// As good as never: the first idle connection ends the wait.
const ASLEEP_MS: u64 = 24 * 3_600_000;

/// The timer of the task.
#[derive(Default)]
pub(crate) struct Upkeep {
    timer: OnceCell<Timer>,
    is_awake: Cell<bool>,
}

impl Upkeep {
    /// There is an idle connection.
    pub(crate) fn wake(&self) {
        if !self.is_awake.replace(true)
            && let Some(timer) = self.timer.get()
        {
            timer.reset(TICK_MS);
        }
    }
}

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
        let is_idle = shard.groups.iter().flat_map(Group::servers).any(|server| server.idle() > 0);
        shard.upkeep.is_awake.set(is_idle);
        timer.reset(if is_idle { TICK_MS } else { ASLEEP_MS });
    }
}

/// A second has passed.
fn tick(shard: &Shard) {
    shard.stock.leave_room_for(sluice_sys::connections_open());
    for server in shard.groups.iter().flat_map(Group::servers) {
        server.tick();
    }
}

/// Closes one lot of each server's surplus; says if there is more.
fn close_surplus(shard: &Shard) -> bool {
    let mut is_more = false;
    for group in &shard.groups {
        for server in group.servers() {
            let surplus = server.surplus(group.wanted_of(server));
            let closed = server.close_oldest(surplus.min(CLOSE_MAX));
            shard.counters.upstream_surplus_closed.add(closed as u64);
            is_more |= closed > 0 && surplus > closed;
        }
    }
    is_more
}
