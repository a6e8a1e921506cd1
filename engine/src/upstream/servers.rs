//! The servers that a shard knows, of every configuration in use. Their connections and state survive a change of configuration
//! that leaves them unchanged.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use sluice_tls::handshake::ClientConfig;

use crate::config::{UpstreamGroup, UpstreamServer};
use crate::upstream::group::{Server, ServerKey};
use crate::upstream::stock::Stock;
use crate::upstream::tls::ServerTls;

/// Addresses of every server of every group, resolved by the control side.
pub(crate) type Resolved = Vec<Vec<Vec<SocketAddr>>>;

/// All servers of a shard.
pub(crate) struct Servers {
    live: RefCell<Vec<Rc<Server>>>,
    stock: Rc<Stock>,
}

impl Servers {
    /// None yet; all their connections will be counted in `stock`.
    pub(crate) fn new(stock: Rc<Stock>) -> Servers {
        Servers { live: RefCell::default(), stock }
    }

    /// The servers of a group, whose addresses are `resolved`.
    pub(crate) fn of_group(
        &self,
        group: &UpstreamGroup,
        resolved: &[Vec<SocketAddr>],
        tls: Option<&ClientConfig>,
    ) -> Vec<Rc<Server>> {
        let of_server = |(server, addresses): (&UpstreamServer, &Vec<SocketAddr>)| {
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
            self.find_or_add(key, tls)
        };
        group.servers.iter().zip(resolved).map(of_server).collect()
    }

    fn find_or_add(&self, key: ServerKey, tls: Option<ServerTls>) -> Rc<Server> {
        let mut live = self.live.borrow_mut();
        if let Some(known) = live.iter().find(|server| server.key == key) {
            return known.clone();
        }
        let server = Rc::new(Server::new(key, tls, self.stock.clone()));
        live.push(server.clone());
        server
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
