//! Messages of the gRPC health protocol: a response that is accepted says the same to prost, and prost reads our requests back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use sluice_proto::grpc_health::{Serving, parse_response, request};

#[derive(Clone, PartialEq, prost::Message)]
struct Response {
    #[prost(int32, tag = "1")]
    status: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    #[prost(string, tag = "1")]
    service: String,
}

fuzz_target!(|input: &[u8]| {
    let framed = [&[0], &u32::try_from(input.len()).expect("short").to_be_bytes()[..], input].concat();
    // As it is, and as a whole message, which few inputs are.
    for (body, message) in [(input, input.get(5..).unwrap_or_default()), (&framed, input)] {
        let Ok(serving) = parse_response(body) else { continue };
        let status = Response::decode(message).expect("prost reads it too").status;
        let wanted = match status {
            1 => Serving::Serving,
            2 => Serving::NotServing,
            3 => Serving::ServiceUnknown,
            _ => Serving::Unknown,
        };
        assert_eq!(serving, wanted, "{}", body.escape_ascii());
    }
    // What prost writes is read.
    let written = Response { status: input.first().map_or(0, |&first| i32::from(first % 5)) }.encode_to_vec();
    let framed = [&[0, 0, 0, 0, written.len() as u8], &written[..]].concat();
    assert!(parse_response(&framed).is_ok());

    let Ok(service) = std::str::from_utf8(input) else { return };
    let bytes = request(service);
    assert_eq!(
        bytes[..5],
        [&[0], &u32::try_from(bytes.len() - 5).expect("short").to_be_bytes()[..]].concat()
    );
    assert_eq!(Request::decode(&bytes[5..]).expect("protobuf").service, service);
});
