//! The peers that may begin a connection with a PROXY protocol header, by listener.

use sluice_sys::Conn;

use crate::config::{Listener, Networks, ProxyProtocolIn};

/// The rules of all listeners; empty where no listener expects a header.
pub(crate) struct ProxySenders {
    by_listener: Vec<Option<Networks>>,
}

impl ProxySenders {
    pub(crate) fn new(listeners: &[Listener]) -> ProxySenders {
        let senders = |listener: &Listener| match listener.proxy_protocol {
            ProxyProtocolIn::Off => None,
            ProxyProtocolIn::Required => Some(listener.proxy_protocol_from.clone()),
        };
        let by_listener: Vec<_> = listeners.iter().map(senders).collect();
        ProxySenders {
            by_listener: if by_listener.iter().all(Option::is_none) { Vec::new() } else { by_listener },
        }
    }

    /// Whether every connection of a listener begins with a header.
    pub(crate) fn is_expected(&self, listener: u8) -> bool {
        self.by_listener.get(usize::from(listener)).is_some_and(Option::is_some)
    }

    /// The peers that may send the header that is still to come on a connection; `None` if none is to come.
    pub(crate) fn of(&self, conn: &Conn) -> Option<&Networks> {
        if self.by_listener.is_empty() {
            return None;
        }
        let senders = self.by_listener.get(usize::from(conn.listener()))?.as_ref()?;
        conn.proxied().is_none().then_some(senders)
    }
}
