//! What clients send, by topic.

mod attacks;
mod chunks;
mod codings;
mod connection;
mod fields;
mod host;
mod length;
mod line_ends;
mod request_line;
mod semantics;
mod target;
mod tunnels;

use super::RequestCase;

/// All cases, with the topic of each group.
pub fn all() -> impl Iterator<Item = (&'static str, Vec<RequestCase>)> {
    [
        ("line ends", line_ends::cases()),
        ("request line", request_line::cases()),
        ("target", target::cases()),
        ("Host", host::cases()),
        ("fields", fields::cases()),
        ("Content-Length", length::cases()),
        ("Transfer-Encoding", codings::cases()),
        ("chunks and trailers", chunks::cases()),
        ("connection", connection::cases()),
        ("semantics", semantics::cases()),
        ("attacks", attacks::cases()),
    ]
    .into_iter()
}

/// Cases for a proxy that lets `websocket`, `own/1` and CONNECT to port 443 through, and an origin that accepts none.
pub fn tunnels() -> Vec<RequestCase> {
    tunnels::cases()
}

/// The same, to be sent in one piece: what matters is that all of it is there before the answer.
pub fn early_bytes() -> Vec<RequestCase> {
    tunnels::early()
}
