//! HTTP/2 (RFC 9113), without sockets: bytes in, events out, for both sides of a connection.
//!
//! [`Session`] is one connection: frames, streams, windows, settings and the order of all of it. [`HeadLines`] is a head in the same
//! form that HTTP/1.1 heads have, so that everything above it is shared: `head` has the rules for fields, `request` and `response`
//! those for either, `encode` writes them. [`hpack`] compresses fields. None of it waits or reads a clock.

pub mod hpack;

mod abuse;
mod blocks;
#[cfg(test)]
mod cases;
mod control;
mod data;
mod encode;
mod error;
mod flow;
mod frame;
mod head;
mod names;
mod preface;
mod priority;
mod recent;
mod request;
mod response;
mod send;
#[cfg(test)]
mod round_trips;
mod session;
mod settings;
mod streams;

pub use abuse::Abuse;
pub use error::{ErrorCode, SessionFault};
pub use head::{HeadLines, ResponseFields};
pub use session::{Event, Role, Room, Rules, Session, StreamKey};
