//! Moves a body from one side to the other: receive, send, receive. At any time it holds the bytes of one wait, 48 KiB by
//! default, so a slow reader applies backpressure to its sender and memory does not grow. Large bodies that need no processing
//! are spliced without a copy to user space: see `splice`.

use sluice_proto::BodyLength;

use crate::bulk::{self, BULK_BYTES_MIN};
use crate::h1::{append_data, append_end};
use crate::message::{Aborted, BodySink, BodySource, Part, ReadyPart};
use crate::splice::{self, SPLICE_BYTES_MIN};
use crate::trailers::BodyTrailers;

/// A body up to this size that has arrived together with its head is sent together with it.
const WHOLE_BYTES_MAX: usize = 48 * 1024;

/// How much of a body was appended to its head.
#[derive(Debug)]
pub(crate) enum Appended {
    /// All of it, but for trailers that have no place there.
    All(Option<BodyTrailers>),
    /// What has come so far, if anything.
    Part,
}

/// Adds a body of this length to the head in `out` if all of it has arrived, in chunks where it goes out so; says whether it had.
/// Nothing waits here; what was added of a body that is not all there is relayed from there on.
pub(crate) fn append_if_complete(
    body: &mut impl BodySource,
    length: BodyLength,
    is_chunked: bool,
    out: &mut Vec<u8>,
) -> Result<Appended, Aborted> {
    if length.is_empty() {
        return Ok(Appended::All(None));
    }
    if matches!(length, BodyLength::Length(bytes) if bytes > WHOLE_BYTES_MAX as u64) {
        return Ok(Appended::Part);
    }
    let mut trailers = None;
    while out.len() < WHOLE_BYTES_MAX {
        match body.show_ready(|bytes| append_data(out, bytes, is_chunked))? {
            ReadyPart::Nothing => return Ok(Appended::Part),
            ReadyPart::Data => {}
            ReadyPart::Trailers(fields) => trailers = Some(fields),
            ReadyPart::End => {
                if is_chunked {
                    append_end(out, trailers.take().as_deref());
                }
                return Ok(Appended::All(trailers));
            }
        }
    }
    Ok(Appended::Part)
}

/// Relays a body to its end. The only copy loop there is, for requests and responses of every protocol.
///
/// # Errors
/// Whatever ended either side before the end of the body.
pub(crate) async fn relay(source: &mut impl BodySource, sink: &mut impl BodySink) -> Result<(), Aborted> {
    let mut trailers = None;
    loop {
        if relay_ready(source, sink, &mut trailers).await? == At::End {
            return sink.finish().await;
        }
        // Bytes taken so far must not wait for bytes that may never come.
        sink.flush().await?;
        if !splice_rest(source, sink).await? {
            source.more().await?;
        }
    }
}

/// How far a body has been relayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// To the last byte that is at hand.
    Edge,
    End,
}

/// Relays what is at hand. A function of its own, so that nothing of it has room in the task while more is waited for.
async fn relay_ready(
    source: &mut impl BodySource,
    sink: &mut impl BodySink,
    trailers: &mut Option<BodyTrailers>,
) -> Result<At, Aborted> {
    loop {
        let ready = source.ready_part(sink.chunk_form())?;
        let Some(part) = ready else { return Ok(At::Edge) };
        if sink.is_blocked_for(&part) {
            sink.flush().await?;
        }
        match part {
            Part::Data(data) => sink.add(data),
            Part::Chunks(data) => sink.add_chunks(data),
            Part::Trailers(fields) => *trailers = Some(fields),
            Part::LastChunks(data) => {
                sink.add_chunks(data);
                return Ok(At::End);
            }
            Part::End => {
                sink.add_end(trailers.as_deref());
                return Ok(At::End);
            }
        }
        if sink.is_full() {
            sink.flush().await?;
        }
    }
}

/// Moves the rest of the body past our memory, if both sides are plain and it is worth it; says whether it was.
async fn splice_rest(source: &mut impl BodySource, sink: &mut impl BodySink) -> Result<bool, Aborted> {
    let Some(mut rest) = source.plain_rest() else { return Ok(false) };
    if rest.bytes >= BULK_BYTES_MIN {
        sink.prepare_for(rest.bytes);
    }
    if sink.takes_large_pieces() && rest.bytes >= BULK_BYTES_MIN {
        let moved = cold!(bulk::run(&mut rest, sink))?;
        source.skip(moved);
        return Ok(moved > 0);
    }
    let moved = match sink.plain() {
        Some(mut to) if rest.bytes >= SPLICE_BYTES_MIN => splice::run(&mut rest, &mut to).await?,
        _ => return Ok(false),
    };
    source.skip(moved);
    sink.skip(moved);
    // Nothing moved: something had arrived meanwhile (bytes, or the end), and receiving will tell what.
    Ok(moved > 0)
}
