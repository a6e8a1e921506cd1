//! Bodies of gRPC-Web on their way through the relay: text that is decoded for a server of gRPC ([`TextBody`]), and an answer of gRPC as a
//! client of gRPC-Web reads it ([`WebWriter`]). The syntax is `sluice_proto::grpc_web`'s; nothing is kept here but a few bytes.

use sluice_proto::grpc_web::{Form, TextDecoder, TextEncoder, write_trailers};
use sluice_proto::{Fault, Trailers};
use sluice_sys::Buf;

use crate::message::{
    Aborted, BodySink, BodySource, Cause, ChunkForm, Data, Part, PlainRest, PlainSink, Reach, ReadyPart, Side,
};

/// The body of a request that comes as text.
pub(crate) struct TextBody<S> {
    from: S,
    decoder: TextDecoder,
}

impl<S: BodySource> TextBody<S> {
    pub(crate) fn new(from: S) -> Self {
        TextBody { from, decoder: TextDecoder::default() }
    }

    /// The body as it comes.
    pub(crate) fn encoded(&self) -> &S {
        &self.from
    }

    pub(crate) fn encoded_mut(&mut self) -> &mut S {
        &mut self.from
    }

    /// The body may not end within a group of characters.
    fn check_end(&self) -> Result<(), Aborted> {
        if self.decoder.is_between_groups() { Ok(()) } else { Err(INVALID) }
    }
}

/// The body is no text of this kind. Where it ends is known all the same.
const INVALID: Aborted =
    Aborted { side: Side::Downstream, cause: Cause::Fault(Fault::InvalidBase64), reach: Reach::Stream };

/// What a piece of text stands for; `None` if it is none.
fn decode(decoder: &mut TextDecoder, text: &[u8]) -> Option<Buf> {
    let mut data = Buf::with_room(text.len() / 4 * 3 + 3);
    decoder.read(text, &mut data).is_ok().then_some(data)
}

impl<S: BodySource> BodySource for TextBody<S> {
    fn show_ready(&mut self, see: impl FnOnce(&[u8])) -> Result<ReadyPart, Aborted> {
        loop {
            let mut decoded = None;
            let shown = self.from.show_ready(|text| decoded = decode(&mut self.decoder, text))?;
            match (&shown, decoded) {
                // So little text stands for nothing yet, and an empty chunk would be the end.
                (ReadyPart::Data, Some(data)) if data.is_empty() => continue,
                (ReadyPart::Data, Some(data)) => see(&data),
                (ReadyPart::Data, None) => return Err(INVALID),
                (ReadyPart::End, _) => self.check_end()?,
                (ReadyPart::Trailers(_) | ReadyPart::Nothing, _) => {}
            }
            return Ok(shown);
        }
    }

    fn ready_part(&mut self, _: ChunkForm) -> Result<Option<Part>, Aborted> {
        loop {
            let part = match self.from.ready_part(ChunkForm::Decoded)? {
                Some(Part::Data(text)) => match decode(&mut self.decoder, text.bytes()) {
                    Some(data) if data.is_empty() => continue,
                    Some(data) => Part::Data(Data::Buf(data)),
                    None => return Err(INVALID),
                },
                Some(Part::End) => {
                    self.check_end()?;
                    Part::End
                }
                Some(part) => part,
                None => return Ok(None),
            };
            return Ok(Some(part));
        }
    }

    fn more(&mut self) -> impl Future<Output = Result<(), Aborted>> {
        self.from.more()
    }

    fn plain_rest(&mut self) -> Option<PlainRest<'_>> {
        None
    }

    fn skip(&mut self, _: u64) {
        unreachable!("text goes through our memory")
    }
}

/// Writes an answer of gRPC for a client of gRPC-Web: its trailers are the last of the body, and all of it may be text.
pub(crate) struct WebWriter<S> {
    to: S,
    /// `None` for an answer that is no text.
    encoder: Option<TextEncoder>,
}

impl<S: BodySink> WebWriter<S> {
    /// Writes an answer in this form.
    pub(crate) fn new(to: S, form: Form) -> Self {
        WebWriter { to, encoder: (form == Form::Text).then(TextEncoder::default) }
    }

    /// Adds what the encoder still keeps: a client must not wait for it. So little may go before its turn.
    fn pad(&mut self) {
        let Some(encoder) = self.encoder.as_mut().filter(|encoder| !encoder.is_empty()) else { return };
        let mut text = Buf::small();
        encoder.flush(&mut text);
        self.to.add(Data::Buf(text));
    }
}

impl<S: BodySink> BodySink for WebWriter<S> {
    fn chunk_form(&self) -> ChunkForm {
        ChunkForm::Decoded
    }

    fn is_blocked_for(&self, part: &Part) -> bool {
        match part {
            Part::Data(_) if self.encoder.is_none() => self.to.is_blocked_for(part),
            Part::Trailers(_) => false,
            Part::Data(_) | Part::Chunks(_) | Part::LastChunks(_) | Part::End => {
                self.to.is_blocked_for_copies()
            }
        }
    }

    fn is_blocked_for_copies(&self) -> bool {
        self.to.is_blocked_for_copies()
    }

    fn add(&mut self, data: Data) {
        let Some(encoder) = &mut self.encoder else { return self.to.add(data) };
        let data = data.bytes();
        let mut text = Buf::with_room(data.len().div_ceil(3) * 4 + 4);
        encoder.write(data, &mut text);
        if !text.is_empty() {
            self.to.add(Data::Buf(text));
        }
    }

    fn add_chunks(&mut self, _: Data) {
        unreachable!("data is wanted without chunks")
    }

    /// An answer without trailers gets none here: its client has to see that it is not complete.
    fn add_end(&mut self, trailers: Option<&Trailers>) {
        let mut frame = Buf::small();
        if let Some(trailers) = trailers {
            write_trailers(&mut frame, Some(trailers));
        }
        if let Some(mut encoder) = self.encoder.take() {
            let mut text = Buf::with_room(frame.len().div_ceil(3) * 4 + 8);
            encoder.write(&frame, &mut text);
            encoder.flush(&mut text);
            frame = text;
        }
        if !frame.is_empty() {
            self.to.add(Data::Buf(frame));
        }
        self.to.add_end(None);
    }

    fn is_full(&self) -> bool {
        self.to.is_full()
    }

    fn flush(&mut self) -> impl Future<Output = Result<(), Aborted>> {
        self.pad();
        self.to.flush()
    }

    fn prepare_for(&mut self, bytes: u64) {
        self.to.prepare_for(bytes);
    }

    fn takes_large_pieces(&self) -> bool {
        self.encoder.is_none() && self.to.takes_large_pieces()
    }

    fn send_by_itself(&mut self, piece: Data) -> impl Future<Output = Result<(), Aborted>> {
        self.to.send_by_itself(piece)
    }

    fn finish(&mut self) -> impl Future<Output = Result<(), Aborted>> {
        self.to.finish()
    }

    fn plain(&mut self) -> Option<PlainSink<'_>> {
        if self.encoder.is_some() { None } else { self.to.plain() }
    }

    fn skip(&mut self, bytes: u64) {
        self.to.skip(bytes);
    }
}
