//! Request heads: the verdict is final, what is accepted keeps its promises, and what is written reads back the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_proto::h1::{
    ClientIdentity, Forwarding, HeadStore, IdentityPolicy, Parsed, Trust, parse_request, write_request,
    write_upgrade_request,
};
use sluice_proto::hop_by_hop::HOP_BY_HOP;
use sluice_proto::upgrade::{check_offer, is_another_http, is_protocol};
use sluice_proto::{BodyLength, Fault, FieldId, HeadLimits, Method, RequestHead, Version};

/// Small, so that the fuzzer finds the limits.
const LIMITS: HeadLimits = HeadLimits { request_line_bytes_max: 80, head_bytes_max: 400, fields_max: 8 };

fuzz_target!(|input: &[u8]| {
    let mut store = HeadStore::default();
    let whole = parse_request(input, &mut store, &LIMITS).map(used);
    assert_ne!(whole, Err(Fault::Malformed), "a fault without a name");

    // Once the verdict is in, more bytes do not change it.
    let mut seen = None;
    for len in 0..=input.len() {
        match (seen, parse_request(&input[..len], &mut store, &LIMITS).map(used)) {
            (None, Ok(None)) => {}
            (None, verdict) => seen = Some(verdict),
            (Some(verdict), now) => assert_eq!(verdict, now, "at {len}"),
        }
    }
    assert_eq!(whole, seen.unwrap_or(Ok(None)));

    if let Ok(Parsed::Complete { head, bytes }) = parse_request(input, &mut store, &LIMITS) {
        check_promises(&head, &input[..bytes]);
        check_round_trip(&head);
        check_offer_round_trip(&head);
    }
});

fn used<T>(parsed: Parsed<T>) -> Option<usize> {
    match parsed {
        Parsed::Complete { bytes, .. } => Some(bytes),
        Parsed::Partial => None,
    }
}

/// What the documentation of [`RequestHead`] says, and what an independent look at the bytes says.
fn check_promises(head: &RequestHead<'_>, bytes: &[u8]) {
    assert!(bytes.ends_with(b"\r\n\r\n"));
    let lines: Vec<&[u8]> = bytes.split(|&b| b == b'\n').collect();
    let (last, lines) = lines.split_last().expect("there is a last line");
    assert!(last.is_empty(), "nothing behind the last LF");
    for line in lines {
        assert!(line.ends_with(b"\r"), "every LF follows a CR");
        assert!(!line[..line.len() - 1].contains(&b'\r'), "no CR elsewhere");
        assert!(!line.contains(&0), "no NUL");
    }
    if head.method == Method::Connect {
        let port = head.authority.rsplit(':').next().and_then(|digits| digits.parse::<u16>().ok());
        assert!(port.is_some_and(|port| port > 0), "CONNECT without a port");
        assert!(head.wants_tunnel() && head.body.is_empty() && head.path.is_empty());
        assert_eq!(head.path_and_query, head.authority);
    } else {
        assert!(head.path_and_query.starts_with('/') || head.path_and_query == "*");
    }
    assert!(head.path_and_query.starts_with(head.path));
    assert!(head.path_and_query.bytes().all(|b| matches!(b, b'!'..=b'~') && b != b'#'));
    assert!(!head.authority.is_empty() || head.version == Version::Http10 || head.path == "*");
    assert!(!head.authority.contains(['@', '/', ' ', '\\', ',', ';', '%']));
    assert!(head.method != Method::Trace || head.body.is_empty());

    // Smuggling: at most one framing field, and it is the one that was understood.
    let count = |name: &str| head.fields().filter(|field| field.name.eq_ignore_ascii_case(name)).count();
    let (lengths, codings) = (count("content-length"), count("transfer-encoding"));
    match head.body {
        BodyLength::Length(_) => assert_eq!((lengths, codings), (1, 0)),
        BodyLength::Streamed => assert!(lengths == 0 && codings >= 1),
        _ => assert_eq!((lengths, codings), (0, 0)),
    }
    assert!(count("host") <= 1);
    for field in head.fields() {
        assert_eq!(field.id, FieldId::classify(field.name.to_ascii_lowercase().as_bytes()));
        assert_ne!(field.id, FieldId::Underscored, "a name that reads like another one");
        assert!(!field.name.is_empty() && field.name.bytes().all(|b| b.is_ascii_graphic() && b != b':'));
        assert_eq!(field.value, field.value.trim_ascii(), "outer whitespace is gone");
    }
}

/// An offer that can be passed on is read by the next hop as that offer and no other.
fn check_offer_round_trip(head: &RequestHead<'_>) {
    let text = |offer| std::str::from_utf8(offer).ok();
    let mut offers = head.offers().filter(|offer| is_protocol(offer) && !is_another_http(offer));
    let Some(protocol) = offers.next().and_then(text).filter(|name| check_offer(head, name).is_ok()) else {
        return;
    };
    assert!(head.method == Method::Get && head.body.is_empty() && head.wants_tunnel());
    let mut out = Vec::new();
    let identity = &IdentityPolicy::default();
    let sender = ClientIdentity {
        peer: b"10.0.0.1",
        client: b"192.0.2.7",
        trust: Trust::Untrusted,
        proto: "http",
        request_id: 1,
        tls: None,
    };
    let fwd = Forwarding { identity, sender, host: "up.example", body: BodyLength::None, edits: None };
    write_upgrade_request(&mut out, head, &fwd, protocol);
    let mut store = HeadStore::default();
    let parsed = parse_request(&out, &mut store, &HeadLimits::default());
    let Ok(Parsed::Complete { head: read, .. }) = parsed else {
        panic!("{parsed:?}: {}", out.escape_ascii())
    };
    assert_eq!(read.offers().collect::<Vec<_>>(), [protocol.as_bytes()]);
    assert_eq!(check_offer(&read, protocol), Ok(()), "{}", out.escape_ascii());
}

/// Writes the head and reads it again as the next hop would.
fn check_round_trip(head: &RequestHead<'_>) {
    let mut out = Vec::new();
    let host = if head.authority.is_empty() { "up.example" } else { head.authority };
    // A trusted peer: then nothing but the fields we write is taken away.
    let identity = &IdentityPolicy { forwarded: true, ..IdentityPolicy::default() };
    let sender = ClientIdentity {
        peer: b"10.0.0.1",
        client: b"192.0.2.7",
        trust: Trust::Trusted,
        proto: "http",
        request_id: 1,
        tls: None,
    };
    write_request(&mut out, head, &Forwarding { identity, sender, host, body: head.body, edits: None });
    let mut store = HeadStore::default();
    let parsed = parse_request(&out, &mut store, &HeadLimits::default());
    let Ok(Parsed::Complete { head: read, bytes }) = parsed else {
        panic!("{parsed:?}: {}", out.escape_ascii())
    };
    assert_eq!(bytes, out.len());
    assert_eq!((read.method, read.path_and_query), (head.method, head.path_and_query));
    assert_eq!((read.body, read.authority), (head.body, host));
    assert_eq!((read.expect_continue, read.persistent), (head.expect_continue, true));
    for field in read.fields().filter(|field| HOP_BY_HOP.contains(field.id)) {
        assert!(
            matches!(field.id, FieldId::Te | FieldId::Connection | FieldId::TransferEncoding),
            "{field:?}"
        );
    }

    // Without a Connection field nothing but ours is taken away: all other end-to-end fields come through in order.
    if !head.field_list().has(FieldId::Connection) {
        let others = |head: &RequestHead<'_>| -> Vec<(String, Vec<u8>)> {
            let others =
                head.fields().filter(|field| field.id == FieldId::Other || field.id == FieldId::Cookie);
            others.map(|field| (field.name.into(), field.value.into())).collect()
        };
        assert_eq!(others(head), others(&read));
    }
}
