//! The ring of a shard and every call to Linux: the only crate of Sluice with `unsafe`.
//!
//! From the bottom up: [`ring`] is one io_uring; [`buf_ring`] the buffers the kernel picks from; [`table`] one small
//! entry per socket; [`op`] the in-flight table, which owns what the kernel uses; [`wheel`] their deadlines;
//! [`driver`] ties them together and turns completions into the task that waits; [`executor`] polls that task, whose
//! [`waker`] is a number and no memory.
//! [`memory`] and [`steer`] bring a shard's memory and connections to its CPU, the latter with [`bpf`] where it is allowed;
//! [`heap`] and [`pages`] know where that memory is; [`load_board`] is what shards know of each other's load.
//! [`kernel_tls`] has the kernel seal what is sent.
//! [`aead`] seals and opens the records of TLS, on memory of the caller.
//! Connection code sees [`Conn`], [`Lease`], [`Buf`], [`Listener`], [`Timer`] and plain `async fn`.
//!
//! Who owns memory the kernel may write to or read from? The in-flight table or the buffer ring, always. Dropping a
//! future or a connection never frees it; it orphans the operation, and the final completion frees the memory.
#![allow(unsafe_code)]

mod address;
pub mod aead;
mod side_tables;
mod load_board;
mod bpf;
mod buf;
mod buf_ring;
mod connect_error;
mod connection_limit;
#[cfg(any(test, feature = "count-alloc"))]
mod count_alloc;
mod cpu;
mod credentials;
mod driver;
mod executor;
mod files;
mod gather;
mod heap;
mod partial;
mod kernel_tls;
mod key;
mod lease;
mod limits;
mod memory;
mod message;
mod op;
mod pages;
mod patience;
mod peers;
mod pipe;
mod prefetch;
mod probe;
#[cfg(any(test, feature = "rig"))]
mod rig;
mod ring;
mod socket;
mod steer;
mod table;
mod tcp_info;
mod waker;
mod host_unsupported;
mod wheel;

#[cfg(test)]
mod tests;

pub use address::{Address, UNIX_PEER, UnixAddress};
pub use bpf::NotLoaded;
pub use buf::{Buf, LARGE_BYTES, LARGE_ROOM_BYTES, OptionalBuf};
pub use connect_error::{ConnectCause, ConnectError};
pub use connection_limit::{ConnectionLimit, LimitShare};
#[cfg(any(test, feature = "count-alloc"))]
pub use count_alloc::{CountingAllocator, allocations_of_this_thread};
pub use cpu::{pin_to_cpu, pin_to_cpus, process_cpu_time, thread_id};
pub use credentials::{Credentials, effective_user, peer_credentials};
pub use driver::{ConnectionId, Outstanding, Share, Stats};
pub use executor::{
    Runtime, Work, are_buffers_short, buffers_count, buffers_held, hand_over, hand_to_worker, join_shard_set,
    leave_shard_set, next_connection, next_message, next_partial_connection, next_work, now_ms, shard_memory,
    spawn, stats, take_load, workers_busy,
};
pub use files::{HugePages, has_transparent_huge_pages};
pub use heap::reserve_arenas;
pub use host_unsupported::HostUnsupported;
pub use kernel_tls::{SealingKeys, probe_kernel_tls};
pub use lease::{LEASES_MAX, Lease, Leases, Part};
pub use limits::{descriptor_limit, raise_descriptor_limit};
pub use load_board::{BUSY_WORK, LoadBoard};
pub use memory::{prefer_memory_of, while_visiting};
pub use message::{Doorbell, MsgRingSender};
pub use pages::{Pages, ShardMemory};
pub use partial::PartialMessage;
pub use patience::Patience;
pub use peers::{PeerBounds, PeerCounts, PeerShare};
pub use pipe::{Pipe, Spliced};
pub use probe::kernel_warning;
#[cfg(any(test, feature = "rig"))]
pub use rig::Rig;
pub use ring::RingFailed;
#[cfg(test)]
use socket::connections_idle;
pub use socket::{
    BoundListener, Conn, ListenOn, Listener, ReadAhead, Ready, Receive, Sending, Sent, SocketFile, Timer,
    close_idle, connections_open, connections_partial, connections_with_state, partial_bytes, sleep,
    sockets_open,
};
pub use steer::{SteeringMaps, SteeringProgram, SteeringTables};
pub use waker::reserve_runtimes;

use std::time::Duration;

/// Sizes and ways of a runtime.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Entries of the submission queue; the completion queue has eight times as many.
    pub submission_entries: u32,
    /// Receive buffers the kernel may come to use, at most 32,768. Memory is touched as they are needed.
    pub buffers: u16,
    /// Bytes of a receive buffer, at most 65,535.
    pub buffer_bytes: u32,
    /// Bytes that are received from a server before they are asked for, at least one buffer; one buffer more may come. From
    /// a client (an accepted connection) it is one buffer. 0 receives buffers one by one, as kernels before 6.17 always do.
    pub read_ahead_bytes: u32,
    /// The kind of pages of the receive buffers.
    pub huge_pages: HugePages,
    /// How long the kernel polls the network queues of the ring's sockets before it lets the shard sleep.
    pub busy_poll: Option<Duration>,
    /// Completions handled in one turn before timers and new submissions get theirs.
    pub completions_per_turn: usize,
    /// Accepted connections open at once; further ones are closed as they are accepted. For a runtime by itself: several
    /// share a limit by [`Runtime::limit_connections`].
    pub connections_max: u32,
    /// Sockets the table reserves room for (address space only). More are fine, at the price of moving the table.
    pub sockets_expected: u32,
    /// A new connection that sends nothing for this long is closed.
    pub first_byte_ms: u64,
    /// Workers kept although they were not needed for a second.
    pub workers_kept: usize,
}

/// Bytes of a receive buffer, where nothing else is asked for.
pub const BUFFER_BYTES: u32 = 16 * 1024;

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            submission_entries: 1024,
            buffers: 16_384,
            buffer_bytes: BUFFER_BYTES,
            read_ahead_bytes: 48 * 1024,
            huge_pages: HugePages::Off,
            busy_poll: None,
            completions_per_turn: 1024,
            connections_max: u32::MAX,
            sockets_expected: 1 << 20,
            first_byte_ms: 10_000,
            workers_kept: 256,
        }
    }
}
