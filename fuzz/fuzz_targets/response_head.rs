//! Response heads: the verdict is final, what is accepted keeps its promises, and what is written reads back the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_proto::h1::{
    ConnectionField, HeadStore, Lenient, Parsed, ResponseForwarding, parse_response, repair_response,
    write_response,
};
use sluice_proto::hop_by_hop::HOP_BY_HOP;
use sluice_proto::{BodyLength, Fault, FieldId, HeadLimits, RequestKind, ResponseHead, Version};

/// Small, so that the fuzzer finds the limits.
const LIMITS: HeadLimits = HeadLimits { request_line_bytes_max: 80, head_bytes_max: 400, fields_max: 8 };

fuzz_target!(|input: &[u8]| {
    let mut store = HeadStore::default();
    for kind in [RequestKind::Other, RequestKind::Head, RequestKind::Connect] {
        // Once the verdict is in, more bytes do not change it.
        let mut seen = None;
        for len in 0..=input.len() {
            let verdict = match parse_response(&input[..len], &mut store, &LIMITS, &kind) {
                Ok(Parsed::Partial) => None,
                Ok(Parsed::Complete { bytes, .. }) => Some(Ok(bytes)),
                Err(fault) => Some(Err(fault)),
            };
            assert_ne!(verdict, Some(Err(Fault::Malformed)), "a fault without a name");
            assert!(seen.is_none() || seen == verdict, "at {len}: {seen:?}, then {verdict:?}");
            seen = verdict;
        }
        if let Ok(Parsed::Complete { head, bytes }) = parse_response(input, &mut store, &LIMITS, &kind) {
            check_promises(&head, &input[..bytes], kind);
            check_round_trip(&head, kind);
        }
        check_repaired(input, kind);
    }
});

/// Repaired, a head is as good as any other, and whether it can be does not depend on how it arrives.
fn check_repaired(input: &[u8], kind: RequestKind) {
    let all = Lenient::BARE_LF.and(Lenient::EQUAL_LENGTHS).and(Lenient::FRAMING_204);
    let (mut out, mut store, mut seen) = (Vec::new(), HeadStore::default(), None);
    for len in 0..=input.len() {
        let verdict = match repair_response(&input[..len], &LIMITS, all, &mut out) {
            None => Some(None),
            Some(repaired) => match parse_response(&out, &mut store, &LIMITS, &kind) {
                Ok(Parsed::Partial) => None,
                Ok(Parsed::Complete { head, bytes }) => {
                    assert_eq!(bytes, out.len(), "the end is where it was found");
                    check_promises(&head, &out, kind);
                    check_round_trip(&head, kind);
                    Some(Some(repaired.bytes))
                }
                Err(_) => Some(None),
            },
        };
        assert!(seen.is_none() || seen == verdict, "at {len}: {seen:?}, then {verdict:?}");
        seen = verdict;
    }
}

/// What the documentation of [`ResponseHead`] says, and what an independent look at the bytes says.
fn check_promises(head: &ResponseHead<'_>, bytes: &[u8], kind: RequestKind) {
    assert!(bytes.starts_with(b"HTTP/1.") && bytes.ends_with(b"\r\n\r\n"));
    let lines: Vec<&[u8]> = bytes.split(|&b| b == b'\n').collect();
    let (_, lines) = lines.split_last().expect("there is a last line");
    for line in lines {
        assert!(
            line.ends_with(b"\r") && !line[..line.len() - 1].contains(&b'\r'),
            "lines end with CRLF, once"
        );
    }
    assert!((100..=999).contains(&head.status));
    assert!(head.status >= 200 || head.version == Version::Http11);
    assert!(!head.persistent || !head.until_close);
    if kind == RequestKind::Head || matches!(head.status, 100..=199 | 204 | 304) {
        assert_eq!(head.body, BodyLength::None);
    }
    let count = |name: &str| head.fields().filter(|field| field.name.eq_ignore_ascii_case(name)).count();
    let (lengths, codings) = (count("content-length"), count("transfer-encoding"));
    assert!(lengths <= 1 && (lengths == 0 || codings == 0), "contradictory framing");
    match head.body {
        BodyLength::Length(_) => assert_eq!((lengths, codings), (1, 0)),
        BodyLength::Streamed if head.until_close => assert_eq!((lengths, codings), (0, 0)),
        BodyLength::Streamed => assert!(codings >= 1),
        BodyLength::None => {}
    }
    assert_eq!(head.has_date, count("date") > 0);
}

/// Writes the head and reads it again as the client would.
fn check_round_trip(head: &ResponseHead<'_>, kind: RequestKind) {
    let connection = if head.persistent { ConnectionField::Omit } else { ConnectionField::Close };
    let body = sluice_proto::h1::Framing::of_response(head);
    let fwd = ResponseForwarding {
        version_to: Version::Http11,
        body,
        connection,
        date: Some("now"),
        hsts: None,
        set_cookie: None,
        content_type: None,
        edits: None,
    };
    let mut out = Vec::new();
    write_response(&mut out, head, &fwd);
    let mut store = HeadStore::default();
    let parsed = parse_response(&out, &mut store, &HeadLimits::default(), &kind);
    let Ok(Parsed::Complete { head: read, bytes }) = parsed else {
        panic!("{parsed:?}: {}", out.escape_ascii())
    };
    assert_eq!(bytes, out.len());
    assert_eq!((read.status, read.reason, read.body), (head.status, head.reason, head.body));
    // A 101 is written with `Connection: Upgrade` whatever it was: what follows it is another protocol.
    assert!(head.status == 101 || read.persistent == head.persistent);
    for field in read.fields().filter(|field| HOP_BY_HOP.contains(field.id)) {
        let is_written_by_us = matches!(field.id, FieldId::Connection | FieldId::TransferEncoding)
            || (field.id == FieldId::Upgrade && head.status == 101);
        assert!(is_written_by_us, "{field:?}");
    }
}
