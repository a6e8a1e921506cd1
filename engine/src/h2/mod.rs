//! HTTP/2 connections, for clients and for servers alike.
//!
//! A [`Session`] is a connection and what its streams share: the protocol machine of `sluice_proto`, one buffer of bytes to be sent,
//! and a [`slot`] for each stream. One task reads and writes ([`Driver`]); an exchange on a stream has a task of its own, which reads
//! by a [`StreamReader`] and writes by a [`StreamWriter`]. What a stream waits for costs its own slot and nothing of its neighbours.

mod abuse;
mod bandwidth;
mod driver;
mod leaving;
mod lines;
mod parked;
mod ping;
mod reader;
mod receive;
mod rooms;
mod session;
mod slot;
mod stream;
mod turns;
mod writer;

pub(crate) use abuse::AbuseRules;
pub(crate) use driver::{Driven, Driver, Ending};
pub(crate) use parked::{Parked, Resumed, waiting_bytes};
pub(crate) use ping::PingRules;
pub(crate) use reader::StreamReader;
pub(crate) use session::Session;
pub(crate) use stream::Stream;
pub(crate) use writer::StreamWriter;
