//! The control side: one ordinary thread that starts the shards, handles signals and sends messages to the shards.

pub(crate) mod acme;
pub(crate) mod shard_set;
mod series;
pub(crate) mod member;
pub(crate) mod freshness;
pub(crate) mod health;
pub mod live;
mod expiry;
pub(crate) mod metrics;
pub(crate) mod names;
mod resolve;
pub(crate) mod signals;
mod servers_file;
mod state_file;
pub(crate) mod ticket_ring;
pub(crate) mod tls_upkeep;
mod watched;
mod numa_overflow;
mod outliers;

/// Messages of the control thread to a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Stop accepting, finish what is in flight, end.
    Drain = 1,
    /// Bring the counters up to date.
    Publish = 2,
    /// There are other certificates, or other keys of tickets.
    Renew = 3,
    /// Checks say something else of a server, or one was ejected or is back.
    Health = 4,
    /// A group has other servers.
    Members = 5,
}

impl Message {
    pub(crate) fn from_number(number: i32) -> Option<Message> {
        [Message::Drain, Message::Publish, Message::Renew, Message::Health, Message::Members]
            .into_iter()
            .find(|message| *message as i32 == number)
    }
}
