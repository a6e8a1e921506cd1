//! Text of gRPC-Web: any pieces give the same bytes, what is read is written again in the same way, and what is written is read.
//! Messages end in the same places whatever pieces they come in.
//!
//! The first byte of the input chooses the length of the pieces.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_proto::grpc::Messages;
use sluice_proto::grpc_web::{InvalidText, TextDecoder, TextEncoder, WebType};

fuzz_target!(|input: &[u8]| {
    let Some((&step, data)) = input.split_first() else { return };
    let step = usize::from(step).max(1);
    let whole = decode(data, data.len().max(1));
    assert_eq!(decode(data, step), whole);
    if let Ok(bytes) = &whole
        && !data[..data.len().saturating_sub(4)].contains(&b'=')
    {
        assert_eq!(encode(bytes, step, false), data, "there is one spelling");
    }
    for flushes in [false, true] {
        assert_eq!(decode(&encode(data, step, flushes), step).as_deref(), Ok(data));
    }
    let (mut whole, mut pieces) = (Messages::default(), Messages::default());
    whole.read(data);
    data.chunks(step).for_each(|piece| pieces.read(piece));
    assert_eq!(pieces, whole);
    if let Some(web) = WebType::parse(data) {
        let (mut grpc, mut back) = (Vec::new(), Vec::new());
        web.write_grpc(&mut grpc);
        assert!(WebType::write_answer(web.form, &grpc, &mut back));
        assert!(back.eq_ignore_ascii_case(data));
    }
});

fn decode(text: &[u8], step: usize) -> Result<Vec<u8>, InvalidText> {
    let (mut decoder, mut out) = (TextDecoder::default(), Vec::new());
    for piece in text.chunks(step) {
        decoder.read(piece, &mut out)?;
    }
    if decoder.is_between_groups() { Ok(out) } else { Err(InvalidText) }
}

fn encode(data: &[u8], step: usize, flushes: bool) -> Vec<u8> {
    let (mut encoder, mut text) = (TextEncoder::default(), Vec::new());
    for piece in data.chunks(step) {
        encoder.write(piece, &mut text);
        if flushes {
            encoder.flush(&mut text);
        }
    }
    encoder.flush(&mut text);
    text
}
