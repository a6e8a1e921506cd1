//! Connections of HTTP/2: the rules that a receiver checks, streams that interleave, and the h2 crate at the other end.

mod interleaving;
mod peers;
mod rig;
mod rules;
mod second_opinion;
mod sending;
