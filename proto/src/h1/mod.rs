//! HTTP/1.1 on the wire: heads in and out, chunked bodies in and out.
//!
//! `head` reads (with `scan` for lines, `target` for request targets and `diagnose` for naming what was wrong), `body` and `chunked` find data
//! and ends in a stream of bytes, `trailers` holds what may follow the last chunk, `reply` decides how an
//! answer goes back, `write` turns messages into bytes again, with the fields of `identity` that say whose request it is.
//! `lenient` repairs responses of old servers before they are read.
//! Connection order (keep-alive, pipelining, 100-continue) is the engine's: it is a story about sockets.

mod body;
mod chunked;
mod diagnose;
mod head;
mod identity;
mod lenient;
mod reply;
pub(crate) mod scan;
pub(crate) mod target;
mod trailers;
mod write;

pub use body::{BodyDecoder, BodyEvent};
pub use chunked::{ChunkEvent, ChunkedDecoder, Passed};
pub use head::{HeadStore, Parsed, Scheme, parse_request, parse_response};
pub use identity::{
    CertificateIdentity, ClientIdentity, IdentityPolicy, RealIp, RequestId, TlsFields, TlsIdentity, Trust,
    UNIX_TEXT, request_id_text,
};
pub use lenient::{Lenient, Repaired, repair_response};
pub use reply::{Framing, Reuse};
pub use write::{
    AnswerBody, CHUNK_END, ConnectionField, Forwarding, RequestParts, RequestSpans, ResponseForwarding,
    reason_phrase, write_answer, write_chunk_size, write_grpc_answer, write_last_chunk, write_request,
    write_response, write_upgrade_request, write_web_request,
};
