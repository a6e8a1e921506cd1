//! Moves a body from one side to the other, part by part: receive, send, receive. At any time one part is in our hands,
//! so a slow reader holds up its writer and memory does not grow.

use crate::message::{Aborted, BodySink, BodySource, Part};

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
