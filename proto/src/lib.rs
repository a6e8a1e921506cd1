//! The HTTP protocol machines of Sluice: bytes in, events out.
//!
//! Owns what a message *is*: where a head ends, where a body ends, which fields belong to one connection and which to the
//! whole path. Never opens a socket, reads a clock or waits: callers bring slices and take events away, which is why every
//! rule here can be tested with a string literal.
//!
//! The rules are stricter than HTTP asks for wherever two readings of the same bytes are possible, because a proxy that
//! reads a message differently from its neighbour is how requests are smuggled. Whatever is accepted is written again from
//! its parsed form by [`h1::write_request`] and [`h1::write_response`], never copied through.
//!
//! Read in this order: [`message`] (the vocabulary), [`framing`] (where a body ends), [`hop_by_hop`], [`path`] (one spelling for
//! each), then [`h1`]; [`upgrade`] is how a connection leaves HTTP, and [`ws`] what is said then, where that is read.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod ascii;
pub mod authority;
mod block;
pub mod edits;
mod facts;
pub mod fault;
pub mod fields;
pub mod forwarded;
pub mod framing;
pub mod grpc;
pub mod grpc_health;
pub mod grpc_web;
pub mod h1;
pub mod h2;
pub mod hop_by_hop;
pub mod limits;
pub mod message;
pub mod path;
pub mod proxy_protocol;
mod trailers;
pub mod upgrade;
pub mod ws;

pub use fault::Fault;
pub use limits::{ChunkLimits, HeadLimits};
pub use message::{
    BodyLength, Field, FieldId, Fields, Method, RequestHead, RequestKind, ResponseHead, TargetText,
    TrailerRule, Version,
};
pub use trailers::Trailers;
