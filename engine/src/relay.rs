//! Moves a body from one side to the other, part by part: receive, send, receive. At any time one part is in our hands,
//! so a slow reader holds up its writer and memory does not grow. Large bodies that nobody looks at never enter our
//! memory: see `splice`.

use crate::message::{Aborted, BodySink, BodySource, Part};
use crate::splice::{self, SPLICE_BYTES_MIN};

/// Relays a body to its end. The only copy loop there is, for requests and responses of every protocol.
///
/// # Errors
/// Whatever ended either side before the end of the body.
pub(crate) async fn relay(source: &mut impl BodySource, sink: &mut impl BodySink) -> Result<(), Aborted> {
    let mut trailers = None;
    loop {
        let part = match source.ready_part()? {
            Some(part) => part,
            None => {
                // What was taken so far must not wait for what may never come.
                sink.flush().await?;
                if splice_rest(source, sink).await? {
                    continue;
                }
                source.next_part().await?
            }
        };
        match part {
            Part::Data(data) => sink.data(data).await?,
            Part::Trailers(fields) => trailers = Some(fields),
            Part::End => return sink.end(trailers).await,
        }
    }
}

/// Moves the rest of the body past our memory, if both sides are plain and it is worth it; says whether it was.
async fn splice_rest(source: &mut impl BodySource, sink: &mut impl BodySink) -> Result<bool, Aborted> {
    let moved = match (source.plain_rest(), sink.plain()) {
        (Some(rest), Some(to)) if rest.bytes >= SPLICE_BYTES_MIN => splice::run(&rest, &to).await?,
        _ => return Ok(false),
    };
    source.took(moved);
    // Nothing moved: something had arrived meanwhile (bytes, or the end), and receiving will tell what.
    Ok(moved > 0)
}
