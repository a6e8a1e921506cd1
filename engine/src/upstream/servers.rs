//! The servers that a shard knows, of every configuration in use. Their connections and state survive a change of configuration
//! that leaves them unchanged.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use crossbeam_utils::CachePadded;
use sluice_tls::handshake::ClientConfig;

use crate::config::{Route, UpstreamGroup};
use crate::traffic::{ByClass, GroupNumbers};
use crate::upstream::board::{ServerBoard, ServerEntry};
use crate::upstream::breaker::Breaker;
use crate::upstream::members::Member;
use crate::upstream::queue::Queue;
use crate::upstream::server::{Server, ServerKey, Share};
use crate::upstream::stock::Stock;
use crate::upstream::tls::ServerTls;

/// All servers of a shard.
pub(crate) struct Servers {
    live: RefCell<Vec<Rc<Server>>>,
    /// By group, the requests that wait for a server of it, where connections are limited.
    queues: RefCell<BTreeMap<String, Rc<Queue>>>,
    stock: Rc<Stock>,
    board: Arc<ServerBoard>,
    /// The number of the shard.
    shard: usize,
}

impl Servers {
    /// None yet; all their connections will be counted in `stock`, and what this shard has to say of them goes to the board.
    pub(crate) fn new(stock: Rc<Stock>, board: Arc<ServerBoard>, shard: usize) -> Servers {
        Servers { live: RefCell::default(), queues: RefCell::default(), stock, board, shard }
    }

    /// The servers of a group that are these now.
    pub(crate) fn of_group(
        &self,
        group: &UpstreamGroup,
        members: &[Member],
        tls: Option<&ClientConfig>,
    ) -> Vec<Rc<Server>> {
        let is_checked = group.health.is_some();
        let queue = self.queue_of(group);
        let of_server = |Member { server, addresses }: &Member| {
            let is_secure = server.scheme.is_secure();
            let key = ServerKey {
                group: group.name.clone(),
                authority: server.authority.clone(),
                addresses: addresses.clone(),
                proxy_protocol: group.proxy_protocol,
                protocol: group.protocol,
                tls: is_secure.then(|| group.tls.clone()),
            };
            let tls = tls.filter(|_| is_secure).map(|config| ServerTls::new(config, server, &group.tls));
            let found = self.find_or_add(key, tls, self.board.entry(group, server));
            found.heed_checks(is_checked);
            found.limit_connections(group.connections_max(server), queue.as_ref());
            found.set_share(Share {
                weight: server.weight,
                is_backup: server.is_backup,
                is_near: server.is_near,
            });
            found
        };
        members.iter().map(of_server).collect()
    }

    /// Where requests wait for a server of a group, if connections to any of its servers are limited.
    pub(crate) fn queue_of(&self, group: &UpstreamGroup) -> Option<Rc<Queue>> {
        if !group.limits_connections() {
            return None;
        }
        let mut queues = self.queues.borrow_mut();
        let new = || Rc::new(Queue::new(self.board.waiting(&group.name), self.shard));
        Some(queues.entry(group.name.clone()).or_insert_with(new).clone())
    }

    /// Calls `f` for each queue. It must not wait.
    pub(crate) fn for_each_queue(&self, f: impl FnMut(&Rc<Queue>)) {
        self.queues.borrow().values().for_each(f);
    }

    /// The task that other shards wake, by this.
    pub(crate) fn begin_keeping(&self, waker: &Waker) {
        self.board.keepers.begin(self.shard, waker);
    }

    fn find_or_add(&self, key: ServerKey, tls: Option<ServerTls>, entry: Arc<ServerEntry>) -> Rc<Server> {
        let mut live = self.live.borrow_mut();
        if let Some(known) = live.iter().find(|server| server.key == key) {
            return known.clone();
        }
        let server = Rc::new(Server::new(key, tls, self.stock.clone(), (entry, self.shard)));
        live.push(server.clone());
        server
    }

    /// This shard's numbers of a group, and its breaker.
    pub(crate) fn numbers_of(
        &self,
        group: &UpstreamGroup,
    ) -> (Arc<CachePadded<GroupNumbers>>, Option<Box<Breaker>>) {
        let of_shards = self.board.traffic.of_group(&group.name);
        let numbers = of_shards[self.shard].get_or_init(Arc::default).clone();
        let breaker = group.breaker.as_ref().map(|rules| {
            let reporter = self.board.reporter().clone();
            Box::new(Breaker::new(rules, &group.name, (of_shards, self.shard), reporter))
        });
        (numbers, breaker)
    }

    /// This shard's counters of routes, in their order.
    pub(crate) fn numbers_of_routes(&self, routes: &[Route]) -> Vec<Arc<ByClass>> {
        self.board.traffic.of_routes(routes, self.shard)
    }

    /// The members of a group are these now, and were others: connections to addresses that stay go on in the place of the server
    /// that has them now. To those that are gone, idle connections are closed, and busy ones end with their requests.
    pub(crate) fn settle(&self, before: &[Rc<Server>], now: &[Rc<Server>]) {
        for old in before.iter().filter(|old| !now.iter().any(|new| Rc::ptr_eq(old, new))) {
            if let Some(new) = now.iter().find(|new| new.is_heir_of(old)) {
                new.take_over_idle(old);
            }
            old.close_idle();
            old.sessions.leave_all();
        }
        self.forget_unused();
    }

    /// Calls `f` for each of them. It must not wait.
    pub(crate) fn for_each(&self, f: impl FnMut(&Rc<Server>)) {
        self.live.borrow().iter().for_each(f);
    }

    /// Forgets servers that nothing but this list refers to: no configuration names them, and no exchange is with them. Their
    /// idle connections are closed.
    pub(crate) fn forget_unused(&self) {
        self.live.borrow_mut().retain(|server| {
            let is_used = Rc::strong_count(server) > 1;
            if !is_used {
                server.close_idle();
            }
            is_used
        });
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use sluice_sys::Address;

    use crate::config::{Config, Raw, UpstreamServer};
    use crate::upstream::capacity::Turn;
    use crate::upstream::stock::Descriptors;

    /// The servers of group `a` with these keys.
    fn config(keys: &str) -> Config {
        let text = format!(
            "listen = [\"127.0.0.1:1\"]\n[[route]]\nupstream = \"a\"\n[[upstream]]\nname = \"a\"\n\
             servers = [\"http://b\", \"http://c\"]\n{keys}"
        );
        Config::check(&Raw::parse(Path::new("f.toml"), text).unwrap()).unwrap()
    }

    #[test]
    fn what_checks_say_survives_a_change_of_configuration() {
        let board = Arc::new(ServerBoard::new(1));
        let stock = Rc::new(Stock::new(Descriptors { all: 100, for_servers: 10 }));
        let servers = Servers::new(stock, board.clone(), 0);
        let member = |server: &UpstreamServer| Member {
            server: server.clone(),
            addresses: vec![Address::Inet("127.0.0.1:1".parse().unwrap())],
        };
        let down = |config: &Config| {
            let group = &config.upstreams[0];
            let members: Vec<Member> = group.servers.iter().map(member).collect();
            let all = servers.of_group(group, &members, None);
            all.iter().map(|server| server.is_down()).collect::<Vec<_>>()
        };
        let checked = config("health.path = \"/\"");
        assert_eq!(down(&checked), [false, false], "they are up until a check says otherwise");
        board.entry(&checked.upstreams[0], &checked.upstreams[0].servers[1]).health.set_down(true);
        assert_eq!(down(&config("health.path = \"/other\"")), [false, true], "the same servers");
        // Other connections to the same addresses: other entries of the shard, the same on the board.
        assert_eq!(down(&config("proxy_protocol = \"v1\"\nhealth.path = \"/\"")), [false, true]);
        assert_eq!(down(&config("")), [false, false], "what is not checked is not down");
        assert_eq!(down(&checked), [false, true]);
        let mut seen = Vec::new();
        board.for_each(|group, scheme, authority, entry| {
            seen.push(format!("{group} {}://{authority} {}", scheme.as_str(), entry.health.is_down()));
        });
        assert_eq!(seen, ["a http://b false", "a http://c true"]);
    }

    #[test]
    fn a_server_that_is_there_again_is_the_one_that_has_connections() {
        let board = Arc::new(ServerBoard::new(2));
        let config = config("limits.upstream_connections = 1");
        let (groups, group) = (&config.upstreams, &config.upstreams[0]);
        let member = |server: &UpstreamServer| Member {
            server: server.clone(),
            addresses: vec![Address::Inet("127.0.0.1:1".parse().unwrap())],
        };
        let (all, first): (Vec<_>, Vec<_>) =
            (group.servers.iter().map(member).collect(), group.servers[..1].iter().map(member).collect());
        let shards = [0, 1].map(|shard| {
            let stock = Rc::new(Stock::new(Descriptors { all: 100, for_servers: 10 }));
            Servers::new(stock, board.clone(), shard)
        });
        let second = |shard: usize| shards[shard].of_group(group, &all, None)[1].clone();
        board.cover(groups, &[all.clone().into()]);
        // An exchange is with it while it is gone for a moment.
        let in_use = second(0);
        let place = in_use.take_place(Turn::New).expect("the first");
        board.cover(groups, &[first.clone().into()]);
        let mut left = 0;
        board.for_each(|_, _, _, _| left += 1);
        assert_eq!(left, 1, "it is seen no more");
        board.cover(groups, &[all.clone().into()]);
        assert!(second(1).take_place(Turn::New).is_err(), "one more than it may have");
        board.entry(group, &group.servers[1]).health.set_down(true);
        assert!(in_use.entry().health.is_down(), "what is found out is about the same server");
        drop((place, in_use));
        shards.iter().for_each(Servers::forget_unused);
        board.cover(groups, &[first.into()]);
        assert!(!board.entry(group, &group.servers[1]).health.is_down(), "nothing is known of it any more");
    }
}
