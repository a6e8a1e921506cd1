//! What must hold for any bytes: no panic, no dependence on how they arrive, and what is written reads back the same.
//!
//! Inputs are built from fragments that are nearly HTTP, because uniformly random bytes hardly get past the first check.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use sluice_proto::h1::{
    BodyDecoder, BodyEvent, ClientIdentity, ConnectionField, Forwarding, Framing, HeadStore, IdentityPolicy,
    Parsed, ResponseForwarding, Trust, parse_request, parse_response, write_chunk_size, write_last_chunk,
    write_request, write_response,
};
use sluice_proto::hop_by_hop::HOP_BY_HOP;
use sluice_proto::{
    ChunkLimits, Fault, Field, FieldId, HeadLimits, RequestKind, TargetText, Trailers, Version,
};

const IDENTITY: ClientIdentity<'static> = ClientIdentity {
    peer: b"::1",
    client: b"::1",
    trust: Trust::Untrusted,
    proto: "http",
    request_id: 1,
    tls: None,
};

/// Small enough that generated heads run into every limit.
const LIMITS: HeadLimits = HeadLimits { request_line_bytes_max: 60, head_bytes_max: 200, fields_max: 5 };

/// Start lines, field lines and line ends, good and bad, of which heads are put together.
const FRAGMENTS: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\n",
    b"POST /a?b=%20 HTTP/1.1\r\n",
    b"OPTIONS * HTTP/1.1\r\n",
    b"GET http://a/b HTTP/1.0\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 204\r\n",
    b"Host: a\r\n",
    b"host:b:80 \r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip,\t",
    b"Connection: close, x-one\r\n",
    b"Expect: 100-continue\r\n",
    b"X-One: 1\r\n",
    b"X-Forwarded-For: 10.0.0.1\r\n",
    b"TE: trailers\r\n",
    b"Forwarded: for=x\r\n",
    b"A:\t \r\n",
    b"\r\n",
    b"\r",
    b"\n",
    b" ",
    b"\t",
    b":",
    b"\0",
    b"\x7f",
    b"\xff",
    b"\xc3\xa9",
    b"\xc3",
    b"GET /\xc3\xa9?\xe2\x82\xac% HTTP/1.1\r\n",
    b"GET",
    b"/",
    b"HTTP/1.1",
    b"HTTP/1.",
    b"HTTP/1.2",
    b"HTTP/2.0",
    b" 200 ",
    b"%",
    b"#",
    b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

fn nearly_a_head() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop_oneof![
        20 => select(FRAGMENTS).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 0..4),
    ];
    let ordered =
        (select(&FRAGMENTS[..6]), vec(select(&FRAGMENTS[6..18]), 0..6)).prop_map(|(line, fields)| {
            let mut head = line.to_vec();
            fields.iter().for_each(|field| head.extend_from_slice(field));
            head.extend_from_slice(b"\r\n");
            head
        });
    prop_oneof![vec(fragment, 0..12).prop_map(|fragments| fragments.concat()), ordered]
}

/// A result without borrowed parts: consumed bytes and everything that was understood, as text.
type Summary = Result<Option<(usize, String)>, Fault>;

fn summary_of_request(bytes: &[u8]) -> Summary {
    let mut store = HeadStore::default();
    Ok(match parse_request(bytes, &mut store, &LIMITS)? {
        Parsed::Complete { head, bytes } => Some((bytes, format!("{head:?}"))),
        Parsed::Partial => None,
    })
}

fn summary_of_response(bytes: &[u8]) -> Summary {
    let mut store = HeadStore::default();
    Ok(match parse_response(bytes, &mut store, &LIMITS, &RequestKind::Other)? {
        Parsed::Complete { head, bytes } => Some((bytes, format!("{head:?}"))),
        Parsed::Partial => None,
    })
}

/// Reads an accepted request with an independent parser, which must find the same in it.
fn check_against_httparse_request(bytes: &[u8]) {
    let mut store = HeadStore::default();
    let Ok(Parsed::Complete { head, bytes: used }) = parse_request(bytes, &mut store, &LIMITS) else {
        return;
    };
    if has_later_version(bytes) {
        return;
    }
    let mut slots = [httparse::EMPTY_HEADER; 8];
    let mut theirs = httparse::Request::new(&mut slots);
    assert_eq!(theirs.parse(bytes), Ok(httparse::Status::Complete(used)), "{}", bytes.escape_ascii());
    assert_eq!(theirs.method, Some(head.method.as_str()));
    assert_eq!(theirs.version, Some(u8::from(head.version == Version::Http11)));
    assert!(
        head.path_and_query == "*"
            || head.target_text == TargetText::Utf8
            || theirs.path.unwrap().ends_with(head.path_and_query.trim_start_matches('/'))
    );
    check_fields(head.fields(), theirs.headers);
}

/// Whether it is of a version that the other parser does not know.
fn has_later_version(bytes: &[u8]) -> bool {
    bytes.windows(8).any(|text| text.starts_with(b"HTTP/1.") && text[7] > b'1')
}

/// The same for a response.
fn check_against_httparse_response(bytes: &[u8]) {
    let mut store = HeadStore::default();
    let parsed = parse_response(bytes, &mut store, &LIMITS, &RequestKind::Other);
    let Ok(Parsed::Complete { head, bytes: used }) = parsed else { return };
    if has_later_version(bytes) {
        return;
    }
    let mut slots = [httparse::EMPTY_HEADER; 8];
    let mut theirs = httparse::Response::new(&mut slots);
    assert_eq!(theirs.parse(bytes), Ok(httparse::Status::Complete(used)), "{}", bytes.escape_ascii());
    assert_eq!(
        (theirs.code, theirs.version),
        (Some(head.status), Some(u8::from(head.version == Version::Http11)))
    );
    // It gives no phrase at all where there are bytes beyond ASCII.
    assert!(theirs.reason == Some("") || theirs.reason.map(str::as_bytes) == Some(head.reason));
    check_fields(head.fields(), theirs.headers);
}

fn check_fields<'a>(ours: impl Iterator<Item = Field<'a>>, theirs: &[httparse::Header<'_>]) {
    let ours: Vec<(&str, &[u8])> = ours.map(|field| (field.name, field.value)).collect();
    let theirs: Vec<(&str, &[u8])> = theirs.iter().map(|field| (field.name, field.value)).collect();
    assert_eq!(ours, theirs);
}

/// Parses ever longer prefixes: once the verdict is in, it stays.
fn check_prefixes(bytes: &[u8], summary: fn(&[u8]) -> Summary) {
    let mut verdict = Ok(None);
    for len in 0..=bytes.len() {
        let now = summary(&bytes[..len]);
        assert_ne!(now, Err(Fault::Malformed), "a fault without a name: {}", bytes[..len].escape_ascii());
        if verdict != Ok(None) {
            assert_eq!(now, verdict, "at {len} of {}", bytes.escape_ascii());
        }
        verdict = now;
    }
}

/// Everything a decoder says about `input` given in pieces that end at `cuts`.
fn decode(
    length: Framing,
    input: &[u8],
    cuts: &[usize],
) -> (Vec<u8>, Option<Trailers>, Result<Option<usize>, Fault>) {
    let limits = ChunkLimits { extension_bytes_max: 10, trailer_bytes_max: 40, trailer_fields_max: 2 };
    let mut decoder = BodyDecoder::new(length, limits);
    let (mut data, mut trailers, mut start) = (Vec::new(), None, 0);
    for &end in cuts.iter().chain([&input.len()]) {
        let end = end.min(input.len()).max(start);
        while start < end || start == input.len() {
            let piece = &input[start..end];
            match decoder.next(piece) {
                Err(fault) => return (data, trailers, Err(fault)),
                Ok((used, BodyEvent::Data(range))) => {
                    assert!(!range.is_empty() && range.end == used);
                    data.extend_from_slice(&piece[range]);
                    start += used;
                }
                Ok((used, BodyEvent::Trailers(found))) => {
                    assert!(trailers.replace(found).is_none(), "trailers come once");
                    start += used;
                }
                Ok((used, BodyEvent::End)) => {
                    assert!(decoder.is_done());
                    return (data, trailers, Ok(Some(start + used)));
                }
                Ok((used, BodyEvent::NeedMore)) => {
                    assert_eq!(used, piece.len(), "NeedMore uses up its input");
                    assert!(!decoder.is_done());
                    start = end;
                    break;
                }
            }
        }
    }
    (data, trailers, Ok(None))
}

fn nearly_chunked() -> impl Strategy<Value = Vec<u8>> {
    let fragments: &[&[u8]] = &[
        b"0\r\n",
        b"1\r\na\r\n",
        b"5\r\nhello\r\n",
        b"a;b=c\r\n0123456789\r\n",
        b"2 ; q=\"\\\"\"\r\nxy\r\n",
        b"X: 1\r\n",
        b"Host: x\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b";",
        b"=",
        b"\"",
        b"f",
        b"0",
        b" ",
        b"\0",
        b"fffffffffffffffff",
    ];
    vec(select(fragments.to_vec()), 0..8).prop_map(|fragments| fragments.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_verdict_on_a_request_is_final(bytes in nearly_a_head()) {
        check_prefixes(&bytes, summary_of_request);
        check_against_httparse_request(&bytes);
    }

    #[test]
    fn a_verdict_on_a_response_is_final(bytes in nearly_a_head()) {
        check_prefixes(&bytes, summary_of_response);
        check_against_httparse_response(&bytes);
    }

    #[test]
    fn any_bytes_are_taken_without_panic(bytes in vec(any::<u8>(), 0..300)) {
        check_prefixes(&bytes, summary_of_request);
        check_prefixes(&bytes, summary_of_response);
        let _ = decode(Framing::Chunked, &bytes, &[]);
    }

    /// What we send upstream is read the same by a strict recipient, and a second pass changes nothing but the path.
    #[test]
    fn a_written_request_reads_back(bytes in nearly_a_head()) {
        let limits = HeadLimits::default();
        let (mut store, mut again) = (HeadStore::default(), HeadStore::default());
        if let Ok(Parsed::Complete { head, .. }) = parse_request(&bytes, &mut store, &limits) {
            let mut out = Vec::new();
            let host = if head.authority.is_empty() { "up.example" } else { head.authority };
            write_request(&mut out, &head, &Forwarding { identity: &IdentityPolicy::default(), sender: IDENTITY, host, body: head.body, edits: None });
            let Ok(Parsed::Complete { head: read, bytes }) = parse_request(&out, &mut again, &limits) else {
                panic!("not readable: {}", out.escape_ascii())
            };
            prop_assert_eq!(bytes, out.len());
            prop_assert_eq!((read.method, read.path_and_query), (head.method, head.path_and_query));
            prop_assert_eq!((read.body, read.authority), (head.body, host));
            prop_assert_eq!(read.expect_continue, head.expect_continue);
            prop_assert!(read.persistent && read.version == Version::Http11);
            for field in read.fields().filter(|field| HOP_BY_HOP.contains(field.id)) {
                prop_assert!(matches!(field.id, FieldId::Te | FieldId::Connection | FieldId::TransferEncoding));
            }
            let written = |id| read.fields().filter(move |field| field.id == id).count();
            prop_assert_eq!(written(FieldId::XForwardedFor), 1);
            prop_assert_eq!(written(FieldId::XForwardedProto), 1);
        }
    }

    #[test]
    fn a_written_response_reads_back(bytes in nearly_a_head(), is_head in any::<bool>()) {
        let limits = HeadLimits::default();
        let kind = if is_head { RequestKind::Head } else { RequestKind::Other };
        let (mut store, mut again) = (HeadStore::default(), HeadStore::default());
        if let Ok(Parsed::Complete { head, .. }) = parse_response(&bytes, &mut store, &limits, &kind) {
            let connection = if head.persistent { ConnectionField::Omit } else { ConnectionField::Close };
            let fwd = ResponseForwarding { version_to: Version::Http11, body: Framing::of_response(&head), connection, date: Some("now"), hsts: None, set_cookie: None, content_type: None, edits: None };
            let mut out = Vec::new();
            write_response(&mut out, &head, &fwd);
            let Ok(Parsed::Complete { head: read, bytes }) = parse_response(&out, &mut again, &limits, &kind) else {
                panic!("not readable: {}", out.escape_ascii())
            };
            prop_assert_eq!(bytes, out.len());
            prop_assert_eq!((read.status, read.reason, read.body), (head.status, head.reason, head.body));
            prop_assert!(read.has_date && read.persistent == head.persistent);
        }
    }

    #[test]
    fn a_body_is_the_same_in_any_pieces(
        bytes in nearly_chunked(),
        cuts in vec(0_usize..60, 0..10),
        length in prop_oneof![
            4 => Just(Framing::Chunked),
            1 => (0_u64..20).prop_map(Framing::Length),
            1 => Just(Framing::None),
            1 => Just(Framing::UntilClose),
        ],
    ) {
        let mut cuts = cuts;
        cuts.sort_unstable();
        let whole = decode(length, &bytes, &[]);
        prop_assert_eq!(&decode(length, &bytes, &cuts), &whole);
        let every_byte: Vec<usize> = (0..bytes.len()).collect();
        prop_assert_eq!(&decode(length, &bytes, &every_byte), &whole);
    }

    #[test]
    fn written_chunks_read_back(pieces in vec(vec(any::<u8>(), 1..600), 0..6), cuts in vec(0_usize..3_000, 0..10)) {
        let mut wire = Vec::new();
        for piece in &pieces {
            write_chunk_size(&mut wire, piece.len());
            wire.extend_from_slice(piece);
            wire.extend_from_slice(b"\r\n");
        }
        write_last_chunk(&mut wire, None);
        let len = wire.len();
        wire.extend_from_slice(b"NEXT");
        let mut cuts = cuts;
        cuts.sort_unstable();
        prop_assert_eq!(decode(Framing::Chunked, &wire, &cuts), (pieces.concat(), None, Ok(Some(len))));
    }
}

#[test]
fn written_trailers_read_back_without_what_may_not_come_late() {
    let wire = b"0\r\nX-Sum: 1\r\nHost: no\r\nx-end:2\r\n\r\n";
    let (_, trailers, end) = decode(Framing::Chunked, wire, &[7]);
    assert_eq!(end, Err(Fault::TooManyTrailers));
    assert!(trailers.is_none());

    let mut decoder = BodyDecoder::new(Framing::Chunked, ChunkLimits::default());
    let Ok((used, BodyEvent::Trailers(trailers))) = decoder.next(wire) else { panic!("no trailers") };
    assert_eq!(used, wire.len());
    assert_eq!(decoder.next(b""), Ok((0, BodyEvent::End)));
    let mut out = Vec::new();
    write_last_chunk(&mut out, Some(&trailers));
    assert_eq!(out, b"0\r\nX-Sum: 1\r\nx-end: 2\r\n\r\n");
}
