//! The choice among servers that are not alike, or that are not simply taken in turn: weights, policies, cookies, zones, backups.
//!
//! [`Group::pick`](super::group::Group::pick) is the only caller. A choice has two steps: [`Balance::choose`] finds the server and
//! changes nothing that the next choice goes by, and [`Balance::taken`] uses up its turn, if the caller has found in it what it
//! wants. All of it is the shard's own; where a total of all shards counts, [`totals`] reads theirs.

pub(crate) mod affinity;
mod hash;
pub(crate) mod latency;
mod least_requests;
mod round_robin;
mod sticky;
#[cfg(test)]
mod tests;
mod totals;
mod two_choices;

use std::cell::Cell;
use std::rc::Rc;

use self::affinity::{Affinity, hash_of};
use self::hash::Tables;
use self::sticky::StickyIds;
use self::totals::Totals;
use crate::config::{BalancePolicy, Balancing};
use crate::upstream::group::Wanted;
use crate::upstream::server::Server;

/// A server that has just come up begins with this part of its share, in per cent.
const START_PERCENT: u64 = 10;

/// A configuration's rules for the choice among the servers of a group.
pub(crate) type BalanceRules = Balancing;

/// What there is to say of the servers of one group, and whose turn it is.
pub(crate) struct Balance {
    rules: Rc<BalanceRules>,
    /// Those of the group, in its order.
    members: Box<[Member]>,
    /// Some are in other zones.
    has_zones: bool,
    slow_start_ms: u64,
    sticky: Option<StickyIds>,
    tables: Option<Tables>,
    totals: Totals,
    /// The random number of the next choice.
    draw: Cell<u64>,
    after: Cell<After>,
}

/// One server.
struct Member {
    /// As configured.
    weight: u32,
    tier: Tier,
    /// What tells it from others, the same in all processes.
    name: u64,
    /// Its part in this choice: its weight in per cent, less while it starts; 0 if it is none of the candidates.
    share: Cell<u32>,
    /// Its place in the turns, see [`round_robin`].
    turn: Cell<i64>,
    /// Requests that other shards have with it, a moment ago.
    others: Cell<u64>,
}

/// When a server gets requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tier {
    /// First, because it is in our zone, or because zones play no part.
    Near,
    /// With those of our zone, where these are too few.
    Far,
    /// While there is no other.
    Backup,
}

/// The servers that are looked at together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Near,
    NearAndFar,
    Backup,
}

impl Level {
    const ALL: [Level; 3] = [Level::Near, Level::NearAndFar, Level::Backup];

    fn has(self, tier: Tier) -> bool {
        match self {
            Level::Near => tier == Tier::Near,
            Level::NearAndFar => tier != Tier::Backup,
            Level::Backup => tier == Tier::Backup,
        }
    }
}

/// What a choice uses up when its server is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Nothing,
    /// A turn among those that have a share.
    Turn,
    /// A random number.
    Draw,
}

impl Balance {
    /// For these servers of a group; `None` if they are alike and simply take turns.
    pub(crate) fn new(servers: &[Rc<Server>], rules: Option<&Rc<BalanceRules>>) -> Option<Box<Balance>> {
        let is_plain = |server: &Rc<Server>| {
            let (share, first) = (server.share(), servers[0].share());
            !share.is_backup
                && share.weight == first.weight
                && share.weight > 0
                && share.is_near == first.is_near
        };
        if rules.is_none() && servers.iter().all(is_plain) {
            return None;
        }
        let rules = rules.cloned().unwrap_or_default();
        let members: Box<[Member]> = servers.iter().map(|server| Member::new(server, servers)).collect();
        let is_hash = rules.policy == BalancePolicy::Hash;
        Some(Box::new(Balance {
            has_zones: members.iter().any(|member| member.tier == Tier::Far),
            slow_start_ms: u64::try_from(rules.slow_start.as_millis()).unwrap_or(u64::MAX),
            sticky: rules.sticky.as_ref().map(|sticky| StickyIds::new(sticky, servers)),
            tables: is_hash.then(|| Tables::new(&members)),
            totals: Totals::new(servers),
            draw: Cell::new(affinity::seed()),
            after: Cell::new(After::Nothing),
            members,
            rules,
        }))
    }

    /// The server for a request: the one that it sticks to, or one of the first level that has any.
    pub(crate) fn choose(&self, servers: &[Rc<Server>], wanted: &Wanted<'_>) -> Option<usize> {
        self.after.set(After::Nothing);
        if let Some(at) = self.sticky.as_ref().and_then(|sticky| sticky.find(servers, wanted)) {
            return Some(at);
        }
        let skipped = usize::from(!self.is_zone_enough(servers, wanted));
        let mut levels = Level::ALL.into_iter().skip(skipped);
        levels.find_map(|level| {
            let has_any = self.weigh(servers, level, wanted);
            if has_any { self.choose_among(servers, level, wanted) } else { None }
        })
    }

    /// The server that was chosen last is taken.
    pub(crate) fn taken(&self, at: usize) {
        match self.after.get() {
            After::Nothing => {}
            After::Turn => round_robin::take(&self.members, at),
            After::Draw => self.draw.set(affinity::mix(self.draw.get())),
        }
    }

    /// The Set-Cookie field that names this server, if the client is not to come back to it already.
    pub(crate) fn set_cookie(
        &self,
        servers: &[Rc<Server>],
        server: &Rc<Server>,
        had: Affinity,
    ) -> Option<&str> {
        let at = servers.iter().position(|member| Rc::ptr_eq(member, server))?;
        self.sticky.as_ref()?.set_cookie(at, had)
    }

    /// Whether those of our zone are enough: half of them, by weight, can be used. All of them, where zones play no part.
    fn is_zone_enough(&self, servers: &[Rc<Server>], wanted: &Wanted<'_>) -> bool {
        if !self.has_zones {
            return true;
        }
        let (mut all, mut open) = (0, 0);
        for (member, server) in
            self.members.iter().zip(servers).filter(|(member, _)| member.tier == Tier::Near)
        {
            all += member.weight;
            open += if wanted.allows(server) { member.weight } else { 0 };
        }
        open > 0 && u64::from(open) * 2 >= u64::from(all)
    }

    /// Gives each server of this level that can be used its share, and others none. Whether there are any.
    fn weigh(&self, servers: &[Rc<Server>], level: Level, wanted: &Wanted<'_>) -> bool {
        let mut has_any = false;
        for (member, server) in self.members.iter().zip(servers) {
            let is_candidate = level.has(member.tier) && member.weight > 0 && wanted.allows(server);
            let percent = if is_candidate { self.percent(server, wanted.now_ms) } else { 0 };
            member.share.set(member.weight * percent);
            has_any |= is_candidate;
        }
        has_any
    }

    /// The part of its share that a server has by now.
    fn percent(&self, server: &Server, now_ms: u64) -> u32 {
        if self.slow_start_ms == 0 {
            return 100;
        }
        let passed = now_ms.saturating_sub(server.ready_since_ms(now_ms)).min(self.slow_start_ms);
        // At most 100.
        (START_PERCENT + (100 - START_PERCENT) * passed / self.slow_start_ms) as u32
    }

    fn choose_among(&self, servers: &[Rc<Server>], level: Level, wanted: &Wanted<'_>) -> Option<usize> {
        let active = |at: usize| u64::from(servers[at].requests()) + self.members[at].others.get();
        match self.rules.policy {
            BalancePolicy::RoundRobin => self.next_turn(),
            BalancePolicy::LeastRequests => {
                self.totals.refresh(&self.members, servers, wanted.now_ms);
                least_requests::keep_least(&self.members, active);
                self.next_turn()
            }
            BalancePolicy::TwoChoices => {
                self.after.set(After::Draw);
                two_choices::choose(&self.members, servers, (self.draw.get(), wanted.now_ms))
            }
            BalancePolicy::Hash => {
                let (Some(key), Some(tables)) = (wanted.affinity.hash(), &self.tables) else {
                    return self.next_turn();
                };
                if let Some(load) = self.rules.hash_load {
                    self.totals.refresh(&self.members, servers, wanted.now_ms);
                    hash::leave_out_full(&self.members, load, active);
                }
                tables.choose(&self.members, level, key)
            }
        }
    }

    fn next_turn(&self) -> Option<usize> {
        self.after.set(After::Turn);
        round_robin::next(&self.members)
    }
}

/// What tells a server from the others of its group, in all processes. Those that one name has come to have their address too.
fn name_of(server: &Server, servers: &[Rc<Server>]) -> String {
    let key = &server.key;
    let scheme = if key.tls.is_some() { "https" } else { "http" };
    let is_same = |other: &&Rc<Server>| {
        other.key.authority == key.authority && other.key.tls.is_some() == key.tls.is_some()
    };
    let address = key.addresses.first().filter(|_| servers.iter().filter(is_same).count() > 1);
    let address = address.map_or_else(String::new, |address| format!(" {address}"));
    format!("{scheme}://{}{address}", key.authority)
}

impl Member {
    fn new(server: &Server, servers: &[Rc<Server>]) -> Member {
        let share = server.share();
        let tier = match (share.is_backup, share.is_near) {
            (true, _) => Tier::Backup,
            (false, true) => Tier::Near,
            (false, false) => Tier::Far,
        };
        Member {
            weight: share.weight,
            tier,
            name: hash_of([name_of(server, servers).as_bytes()]),
            share: Cell::new(0),
            turn: Cell::new(0),
            others: Cell::new(0),
        }
    }
}
