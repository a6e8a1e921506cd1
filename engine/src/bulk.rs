//! Moves large bodies to a connection over TLS, or to a stream of HTTP/2: received in large pieces and sealed, or framed, from there,
//! instead of buffer by buffer. What splicing is for two plain connections (see `splice`), for those whose bytes have to pass our
//! memory.
//!
//! A piece has memory from the moment its bytes are there until the reader has taken them. A shard has few such pieces at a time,
//! so that slow readers cannot hold much: bodies beyond go on as others do.

use std::cell::Cell;

use sluice_sys::{Buf, LARGE_BYTES, LARGE_ROOM_BYTES, now_ms};

use crate::message::{Aborted, BodySink, Cause, Data, PlainRest};

/// Pieces that a shard has at a time: half a megabyte each, with the records they are sealed in. A connection of HTTP/2 has one.
const PIECES_MAX: u32 = 16;

/// With less to come, a body is cheaper to move as others are.
pub(crate) const BULK_BYTES_MIN: u64 = LARGE_ROOM_BYTES as u64;

// What is received must not reach beyond the end of the body.
const _: () = assert!(BULK_BYTES_MIN >= LARGE_BYTES as u64);

thread_local! {
    static PIECES: Cell<u32> = const { Cell::new(0) };
}

/// Moves the rest of a body but for its last piece; returns how much of it. Less when bytes had been received ahead, or the shard
/// has no piece left.
pub(crate) async fn run(from: &mut PlainRest<'_>, to: &mut impl BodySink) -> Result<u64, Aborted> {
    from.conn.disarm().await;
    let mut moved = 0;
    while from.bytes - moved >= BULK_BYTES_MIN && from.conn.is_quiet() && to.takes_large_pieces() {
        let patience_ms = wait_for_bytes(from).await?;
        let Some(_piece) = Piece::take() else { break };
        // They are there: a wait would be the kernel's whim.
        let received = from.conn.fill(Buf::large(), LARGE_BYTES, patience_ms).await;
        let buf = received.map_err(|error| Aborted::io(from.side, &error))?;
        if buf.is_empty() {
            return Err(Aborted::by(from.side, Cause::Closed));
        }
        let bytes = buf.len() as u64;
        if let Some(min_rate) = &mut from.min_rate {
            min_rate.received(bytes);
        }
        moved += bytes;
        to.send_by_itself(Data::Buf(buf)).await?;
    }
    Ok(moved)
}

/// Waits until the sender's socket has something, while nothing is held for it; says how long it would have waited.
async fn wait_for_bytes(from: &mut PlainRest<'_>) -> Result<u64, Aborted> {
    let by = |cause| Aborted::by(from.side, cause);
    let Some(min_rate) = &mut from.min_rate else { return Ok(0) };
    let patience_ms = min_rate.begin_wait(now_ms()).map_err(by)?;
    let waited = from.conn.readable(patience_ms).await;
    min_rate.end_wait(now_ms(), waited.map_err(|error| Aborted::io(from.side, &error)))?;
    Ok(patience_ms)
}

/// One of the pieces of the shard.
struct Piece;

impl Piece {
    fn take() -> Option<Piece> {
        let pieces = PIECES.get();
        (pieces < PIECES_MAX).then(|| {
            PIECES.set(pieces + 1);
            Piece
        })
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        PIECES.set(PIECES.get() - 1);
    }
}
