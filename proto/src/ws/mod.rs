//! WebSocket (RFC 6455): reads the heads of frames as they pass, and writes the few control frames that a proxy sends itself.
//!
//! Owns the rules of framing. The payload of data is neither copied nor unmasked, and its text is not checked: that is between the
//! peers. Bytes in, events out; a [`Reader`] keeps the part of a head that has come, 14 bytes at most.

#[cfg(test)]
mod cases;
mod extensions;
mod reader;
#[cfg(test)]
mod second_opinion;
mod write;

pub use extensions::has_deflate;
pub use reader::{Event, Fault, Frame, Kind, Reader, Rules, Sender};
pub use write::{CloseCode, FRAME_BYTES_MAX, PING_PAYLOAD, is_close_code, write_close, write_ping};
