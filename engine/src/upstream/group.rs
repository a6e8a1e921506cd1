//! Groups of servers and the choice among them: round robin, except servers that checks hold down, or that could not be reached a
//! moment ago.

use std::cell::{Cell, Ref, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use crossbeam_utils::CachePadded;
use sluice_proto::h1::Lenient;
use sluice_proto::h2;

use crate::config::{AllDown, ProxyProtocolOut, UpstreamProtocol};
use crate::message::Repeat;
use crate::traffic::GroupNumbers;
use crate::upstream::balance::affinity::Affinity;
use crate::upstream::balance::{Balance, BalanceRules};
use crate::upstream::breaker::Breaker;
use crate::upstream::ejection::{Average, EjectionRules};
use crate::upstream::lifetime::Lifetime;
use crate::upstream::queue::Queue;
use crate::upstream::retry_budget::RetryBudget;
use crate::upstream::server::Server;

/// Servers that requests are spread over.
pub(crate) struct Group {
    /// Replaced when other servers, or other addresses, are found under its names.
    members: RefCell<Members>,
    next: Cell<usize>,
    /// How long its servers take for a response.
    pub(super) average: Average,
    /// What this shard has to say of the group.
    pub(crate) numbers: Arc<CachePadded<GroupNumbers>>,
    /// Boxed, since few groups have one.
    pub(crate) breaker: Option<Box<Breaker>>,
    /// How many requests may be sent again.
    pub(crate) budget: RetryBudget,
    pub(crate) rules: Rc<GroupRules>,
}

/// The servers of a group at one time.
struct Members {
    servers: Rc<[Rc<Server>]>,
    /// Where they are not alike, or not simply taken in turn.
    balance: Option<Box<Balance>>,
}

/// A configuration's rules for the connections to a group's servers.
#[derive(Clone)]
pub(crate) struct GroupRules {
    /// The header that begins a new connection.
    pub(crate) proxy_protocol: ProxyProtocolOut,
    /// Our addresses that connections come from, in turn; the kernel chooses if there are none.
    pub(crate) sources: Rc<[IpAddr]>,
    /// The longest time to connect.
    pub(crate) connect_ms: u64,
    /// How long an idle connection is kept.
    pub(crate) idle_ms: u64,
    /// How many of them to one server.
    pub(crate) idle_connections_max: usize,
    /// Where requests wait while servers have as many connections as they may, if that is limited; how long, and how many on this
    /// shard.
    pub(crate) queue: Option<Rc<Queue>>,
    pub(crate) queue_ms: u64,
    pub(crate) queue_max: usize,
    /// How long a connection is used.
    pub(crate) lifetime: Lifetime,
    /// The version of HTTP.
    pub(crate) protocol: UpstreamProtocol,
    /// What is forgiven in responses of HTTP/1.1.
    pub(crate) lenient: Lenient,
    /// Rules of a connection by HTTP/2.
    pub(crate) http2: Rc<h2::Rules>,
    /// Most requests that are sent again: per cent of all, and as many per second in any case.
    pub(crate) retry_budget: (u32, u32),
    /// What requests get while checks hold down all servers.
    pub(crate) all_down: AllDown,
    /// When a server is ejected.
    pub(crate) ejection: EjectionRules,
    /// How servers are chosen, if they are not simply taken in turn.
    pub(crate) balance: Option<Rc<BalanceRules>>,
}

/// What a choice among the servers of a group goes by.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// The shard's time.
    pub(crate) now_ms: u64,
    /// Rather not this one, which was tried already.
    pub(crate) not: Option<&'a Rc<Server>>,
    /// Whether the request can be sent again: then it may be the trial of a server that is ejected.
    pub(crate) repeat: Repeat,
    /// What the request itself asks for.
    pub(crate) affinity: Affinity,
}

impl Wanted<'_> {
    /// A server, now, for a request that can be sent again or not and asks for this.
    pub(crate) fn now(repeat: Repeat, affinity: Affinity) -> Wanted<'static> {
        Wanted { now_ms: sluice_sys::now_ms(), not: None, repeat, affinity }
    }

    /// Whether nothing speaks against this server.
    #[inline]
    pub(crate) fn allows(&self, server: &Rc<Server>) -> bool {
        let is_for_others =
            || self.repeat == Repeat::Impossible && server.outlier.is_for_repeatable_only(self.now_ms);
        let is_tried = || self.not.is_some_and(|not| Rc::ptr_eq(not, server));
        !(server.is_down() || server.is_passed_over(self.now_ms) || is_for_others() || is_tried())
    }
}

impl Group {
    pub(crate) fn new(members: Vec<Rc<Server>>, rules: GroupRules) -> Group {
        let (percent, per_second_min) = rules.retry_budget;
        Group {
            members: RefCell::new(Members::new(members, &rules)),
            next: Cell::new(0),
            budget: RetryBudget::new(percent, per_second_min),
            average: Average::default(),
            numbers: Arc::default(),
            breaker: None,
            rules: Rc::new(rules),
        }
    }

    /// The same with these numbers, and a breaker if it has one.
    pub(crate) fn counted(
        self,
        numbers: Arc<CachePadded<GroupNumbers>>,
        breaker: Option<Box<Breaker>>,
    ) -> Group {
        Group { numbers, breaker, ..self }
    }

    /// Its servers. Only for a moment: they may be replaced.
    pub(crate) fn members(&self) -> Ref<'_, [Rc<Server>]> {
        Ref::map(self.members.borrow(), |members| &*members.servers)
    }

    /// Other servers take the places of all. Requests under way stay where they are. Gives
    /// those that it had.
    pub(crate) fn replace_members(&self, members: Vec<Rc<Server>>) -> Rc<[Rc<Server>]> {
        self.members.replace(Members::new(members, &self.rules)).servers
    }

    /// The server whose turn it is, if `take` finds in it what it wants; else the turn is not used up. `None` too while
    /// all of several servers are passed over, or checks hold down all that there are.
    pub(crate) fn pick<R>(
        &self,
        wanted: Wanted<'_>,
        take: impl FnOnce(&Rc<Server>) -> Option<R>,
    ) -> Option<R> {
        let Members { servers, balance } = &*self.members.borrow();
        if let Some(balance) = balance {
            return self.pick_balanced(balance, servers, wanted, take);
        }
        let is_open = |at: &usize| wanted.allows(&servers[*at]);
        let at = self.in_turn(servers.len()).find(is_open).or_else(|| self.pick_closed(servers, wanted))?;
        let taken = take(&servers[at])?;
        if servers[at].outlier.is_ejected() {
            servers[at].begin_trial(wanted.now_ms);
        }
        self.used_up(at, servers.len());
        Some(taken)
    }

    /// The same where servers are not alike, or not simply taken in turn.
    #[inline(never)]
    fn pick_balanced<R>(
        &self,
        balance: &Balance,
        servers: &[Rc<Server>],
        wanted: Wanted<'_>,
        take: impl FnOnce(&Rc<Server>) -> Option<R>,
    ) -> Option<R> {
        let chosen = balance.choose(servers, &wanted);
        let at = chosen.or_else(|| self.pick_closed(servers, wanted))?;
        let taken = take(&servers[at])?;
        if servers[at].outlier.is_ejected() {
            servers[at].begin_trial(wanted.now_ms);
        }
        match chosen {
            Some(at) => balance.taken(at),
            None => self.used_up(at, servers.len()),
        }
        Some(taken)
    }

    /// The places of so many servers, from the one whose turn it is.
    fn in_turn(&self, count: usize) -> impl Iterator<Item = usize> + use<> {
        let next = self.next.get();
        (next..count).chain(0..next.min(count))
    }

    fn used_up(&self, at: usize, count: usize) {
        self.next.set(if at + 1 >= count { 0 } else { at + 1 });
    }

    /// A server that is tried although it is passed over: the only one that checks and ejections leave. While they leave none, one
    /// that is ejected; while checks leave none, one as without checks if the rules say so.
    #[cold]
    fn pick_closed(&self, members: &[Rc<Server>], wanted: Wanted<'_>) -> Option<usize> {
        let has_share = |at: &usize| members[*at].share().weight > 0;
        let mut in_turn = self.in_turn(members.len()).filter(has_share);
        let is_up = |at: &usize| !members[*at].is_down();
        let is_ejected = |at: &usize| members[*at].outlier.is_ejected();
        let mut left = (0..members.len()).filter(|at| has_share(at) && is_up(at) && !is_ejected(at));
        match (left.next(), left.next()) {
            (Some(only), None) => Some(only),
            // The one that was tried, if nothing speaks against it but that.
            (Some(_), Some(_)) => {
                in_turn.find(|at| is_up(at) && !is_ejected(at) && !members[*at].is_passed_over(wanted.now_ms))
            }
            (None, _) if (0..members.len()).any(|at| has_share(&at) && is_up(&at)) => in_turn.find(is_up),
            (None, _) if self.rules.all_down == AllDown::Refuse => None,
            (None, _) if members.len() == 1 => Some(0),
            (None, _) => in_turn.find(|&at| !members[at].is_passed_over(wanted.now_ms)),
        }
    }

    /// Whether another server than this one would get a request now.
    #[cold]
    pub(crate) fn has_other(&self, than: &Rc<Server>) -> bool {
        let now_ms = sluice_sys::now_ms();
        let members = self.members.borrow();
        members.servers.iter().any(|server| {
            !Rc::ptr_eq(server, than)
                && server.share().weight > 0
                && !server.is_down()
                && !server.outlier.is_ejected()
                && !server.is_passed_over(now_ms)
        })
    }

    /// Whether the server that a request would get may have another connection, or has a free one. One that has room and is passed
    /// over for another reason is of no use to it.
    pub(crate) fn has_room(&self, wanted: Wanted<'_>) -> bool {
        let mut has_room = false;
        self.pick(wanted, |server| {
            has_room = !server.is_full();
            None::<()>
        });
        has_room
    }

    /// Whether a server that is up would get requests if it might have more connections.
    #[cold]
    pub(crate) fn is_full(&self) -> bool {
        self.members.borrow().servers.iter().any(|server| !server.is_down() && server.is_full())
    }

    /// Whether checks hold down all servers.
    #[cold]
    pub(crate) fn is_down(&self) -> bool {
        self.members().iter().all(|server| server.is_down())
    }

    /// The Set-Cookie field by which the client of a request comes back to this server, with its line end; `None` if it does
    /// already, or is not meant to.
    pub(crate) fn set_cookie(&self, server: &Rc<Server>, had: Affinity) -> Option<Ref<'_, str>> {
        Ref::filter_map(self.members.borrow(), |Members { servers, balance }| {
            balance.as_ref()?.set_cookie(servers, server, had)
        })
        .ok()
    }
}

impl Members {
    fn new(servers: Vec<Rc<Server>>, rules: &GroupRules) -> Members {
        Members { balance: Balance::new(&servers, rules.balance.as_ref()), servers: servers.into() }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use sluice_proto::HeadLimits;

    use super::*;
    use crate::upstream::board::ServerEntry;
    use crate::upstream::server::{BACK_OFF_MS, ServerKey};
    use crate::upstream::stock::{Descriptors, Stock};

    /// A server of this name, on a shard.
    pub(crate) fn server(name: &str, entry: (Arc<ServerEntry>, usize)) -> Rc<Server> {
        let stock = Rc::new(Stock::new(Descriptors { all: 100, for_servers: 10 }));
        let key = ServerKey {
            group: "app".into(),
            authority: name.into(),
            addresses: Vec::new(),
            proxy_protocol: ProxyProtocolOut::Off,
            protocol: UpstreamProtocol::H1,
            tls: None,
        };
        Rc::new(Server::new(key, None, stock, entry))
    }

    pub(in crate::upstream) fn group(count: usize) -> Group {
        let server = |n: usize| server(&n.to_string(), (Arc::new(ServerEntry::new(1)), 0));
        Group::new((0..count).map(server).collect(), rules())
    }

    pub(crate) fn rules() -> GroupRules {
        GroupRules {
            proxy_protocol: ProxyProtocolOut::Off,
            sources: Rc::from([]),
            connect_ms: 3_000,
            idle_ms: 50_000,
            idle_connections_max: 1_000,
            queue: None,
            queue_ms: 0,
            queue_max: 0,
            lifetime: Lifetime::new(0, 0),
            protocol: UpstreamProtocol::H1,
            lenient: Lenient::NONE,
            http2: Rc::new(h2::Rules {
                head: HeadLimits::default(),
                streams_max: 100,
                stream_window: 65_536,
                stream_window_max: 65_536,
                connection_window: 1_048_576,
                frame_bytes_max: 16_384,
                decoder_table_bytes: 4_096,
                encoder_table_bytes: 0,
                write_bytes_max: 16_384,
                coalesced_bytes_max: 40 * 1024,
                connect_protocol: false,
            }),
            retry_budget: (20, 10),
            all_down: AllDown::Refuse,
            ejection: EjectionRules::new(&crate::config::Ejection::default()),
            balance: None,
        }
    }

    fn at(now_ms: u64) -> Wanted<'static> {
        Wanted { now_ms, not: None, repeat: Repeat::Possible, affinity: Affinity::default() }
    }

    fn pick(group: &Group, wanted: Wanted<'_>) -> Option<Rc<Server>> {
        group.pick(wanted, |server| Some(server.clone()))
    }

    fn picks(group: &Group, count: usize, now_ms: u64) -> Vec<String> {
        (0..count)
            .filter_map(|_| pick(group, at(now_ms)))
            .map(|server| server.key.authority.clone())
            .collect()
    }

    #[test]
    fn takes_turns_and_passes_over_the_failed() {
        let group = group(3);
        assert_eq!(picks(&group, 4, 0), ["0", "1", "2", "0"]);
        group.members()[1].pass_over(0);
        assert_eq!(picks(&group, 3, 10), ["2", "0", "2"]);
        assert_eq!(picks(&group, 3, BACK_OFF_MS), ["0", "1", "2"]);
        group.members().iter().for_each(|server| server.pass_over(0));
        assert!(pick(&group, at(10)).is_none());
    }

    fn hold_down(group: &Group, servers: &[usize]) {
        for (at, server) in group.members().iter().enumerate() {
            server.entry().health.set_down(servers.contains(&at));
            server.heed_checks(true);
        }
    }

    #[test]
    fn servers_that_checks_hold_down_get_no_turn() {
        let group = group(3);
        hold_down(&group, &[1]);
        assert_eq!(picks(&group, 4, 0), ["0", "2", "0", "2"]);
        // The last one that is up is tried whatever has happened to it, like the only one of a group.
        hold_down(&group, &[0, 1]);
        group.members()[2].pass_over(0);
        assert_eq!(picks(&group, 2, 10), ["2", "2"]);
        hold_down(&group, &[]);
        assert_eq!(picks(&group, 3, 10), ["0", "1", "0"]);
    }

    #[test]
    fn while_all_are_down_the_rules_decide() {
        for count in [1, 3] {
            let mut group = group(count);
            hold_down(&group, &[0, 1, 2]);
            assert!(group.is_down() && pick(&group, at(0)).is_none(), "{count}");
            Rc::get_mut(&mut group.rules).expect("the only one").all_down = AllDown::Try;
            assert_eq!(picks(&group, 3, 0), if count == 1 { ["0", "0", "0"] } else { ["0", "1", "2"] });
            // Those that cannot be reached are still passed over, if there are others.
            group.members()[0].pass_over(0);
            assert_eq!(picks(&group, 2, 10), if count == 1 { ["0", "0"] } else { ["1", "2"] });
        }
    }

    #[test]
    fn a_turn_without_a_find_is_not_used_up() {
        let group = group(2);
        assert!(group.pick(at(0), |_| None::<()>).is_none());
        assert_eq!(picks(&group, 2, 0), ["0", "1"]);
    }

    #[test]
    fn a_single_server_is_always_tried() {
        let group = group(1);
        group.members()[0].pass_over(0);
        assert!(pick(&group, at(10)).is_some());
    }

    #[test]
    fn one_that_was_tried_comes_last() {
        let group = group(2);
        let tried = group.members()[0].clone();
        let again = Wanted { not: Some(&tried), ..at(0) };
        let picked = |wanted| pick(&group, wanted).map(|server| server.key.authority.clone());
        assert_eq!([picked(again), picked(again)], [Some("1".into()), Some("1".into())]);
        group.members()[1].pass_over(0);
        assert_eq!(picked(again), Some("0".into()), "rather the same than none");
    }

    #[test]
    fn other_servers_take_the_places_of_all() {
        let (old, other) = (group(3), group(2));
        assert_eq!(picks(&old, 2, 0), ["0", "1"]);
        let new: Vec<Rc<Server>> = other.members()[1..].to_vec();
        old.replace_members(new);
        assert_eq!(picks(&old, 2, 0), ["1", "1"]);
        old.replace_members(Vec::new());
        assert!(pick(&old, at(0)).is_none());
    }
}
