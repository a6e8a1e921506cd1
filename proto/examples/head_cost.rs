//! What reading a head, writing it again and bringing a path into its normal form cost, in nanoseconds.
//!
//! Run with `cargo run -p sluice-proto --release --example head_cost`. Prints the best of many rounds: on a shared machine the
//! minimum is the figure that other programs disturb least.

use std::hint::black_box;
use std::time::Instant;

use sluice_proto::h1::{
    ClientIdentity, ConnectionField, Forwarding, Framing, HeadStore, IdentityPolicy, Parsed,
    ResponseForwarding, Trust, parse_request, parse_response, write_request, write_response,
};
use sluice_proto::path::{PathRules, PathStore, normalize};
use sluice_proto::{HeadLimits, RequestKind, Version};

const ROUNDS: usize = 200;
const MESSAGES_PER_ROUND: usize = 5_000;

const REQUEST_SMALL: &[u8] = b"GET /api/v1/items?page=2 HTTP/1.1\r\n\
    Host: shop.example.com\r\n\
    User-Agent: curl/8.9.1\r\n\
    Accept: */*\r\n\
    Accept-Encoding: gzip, deflate, br\r\n\
    Authorization: Bearer 0123456789abcdef0123456789abcdef\r\n\r\n";

const REQUEST_BROWSER: &[u8] = b"GET /assets/app-3f9a1c.js HTTP/1.1\r\n\
    Host: www.example.com\r\n\
    Connection: keep-alive\r\n\
    sec-ch-ua: \"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\"\r\n\
    sec-ch-ua-mobile: ?0\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
    sec-ch-ua-platform: \"Linux\"\r\n\
    Accept: */*\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Sec-Fetch-Mode: no-cors\r\n\
    Sec-Fetch-Dest: script\r\n\
    Referer: https://www.example.com/\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; _ga=GA1.1.1234567890.1234567890\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Server: nginx/1.31.5\r\n\
    Date: Thu, 20 Nov 2025 09:34:00 GMT\r\n\
    Content-Type: application/json\r\n\
    Content-Length: 1024\r\n\
    Connection: keep-alive\r\n\r\n";

/// Paths that need no care, and others that do.
const PATHS: &[&str] = &[
    "/",
    "/api/v1/items",
    "/assets/app-3f9a1c.js",
    "/v1/customers/4711/orders/2026-11-20/lines",
    "/files/2026/09/quarterly-report-of-the-whole-company/chapter-12/figures/overview-large.png",
    "/.well-known/acme-challenge/x",
    "/a%20b/caf%C3%A9",
    "/x/%2e%2e//%61dmin",
];

fn main() {
    let limits = HeadLimits::default();
    let mut store = HeadStore::default();
    let policy = IdentityPolicy::default();
    let mut out = Vec::with_capacity(4_096);

    for (name, bytes) in [("request, 5 fields", REQUEST_SMALL), ("request, browser", REQUEST_BROWSER)] {
        let parse = best(|| {
            let _ = black_box(parse_request(black_box(bytes), &mut store, &limits));
        });
        let both = best(|| request_through(bytes, &policy, &mut store, &limits, &mut out));
        report(name, bytes.len(), parse, both);
    }
    let parse = best(|| {
        let _ = black_box(parse_response(black_box(RESPONSE), &mut store, &limits, &RequestKind::Other));
    });
    let both = best(|| response_through(RESPONSE, &mut store, &limits, &mut out));
    report("response, 5 fields", RESPONSE.len(), parse, both);
    report_paths();
    report_drip(&mut store, &limits);
}

fn report_paths() {
    let rules = PathRules::default();
    let mut store = PathStore::default();
    for path in PATHS {
        let ns = best(|| {
            let _ = black_box(normalize(black_box(path), black_box(path), &rules, &mut store));
        });
        println!("path {:3} bytes  {ns:6.1} ns  {path}", path.len());
    }
}

fn request_through(
    bytes: &[u8],
    policy: &IdentityPolicy,
    store: &mut HeadStore,
    limits: &HeadLimits,
    out: &mut Vec<u8>,
) {
    let Ok(Parsed::Complete { head, .. }) = parse_request(black_box(bytes), store, limits) else {
        unreachable!("the sample is complete and valid")
    };
    let sender = ClientIdentity {
        peer: b"192.0.2.7",
        client: b"192.0.2.7",
        trust: Trust::Untrusted,
        proto: "http",
        request_id: 0x9e37_79b9_7f4a_7c15,
        tls: None,
    };
    let fwd = Forwarding { identity: policy, sender, host: head.authority, body: head.body, edits: None };
    out.clear();
    write_request(out, &head, black_box(&fwd));
    black_box(out.as_slice());
}

fn response_through(bytes: &[u8], store: &mut HeadStore, limits: &HeadLimits, out: &mut Vec<u8>) {
    let Ok(Parsed::Complete { head, .. }) =
        parse_response(black_box(bytes), store, limits, &RequestKind::Other)
    else {
        unreachable!("the sample is complete and valid")
    };
    let fwd = ResponseForwarding {
        version_to: Version::Http11,
        body: Framing::of_response(&head),
        connection: ConnectionField::Omit,
        date: None,
        hsts: None,
        set_cookie: None,
        content_type: None,
        edits: None,
    };
    out.clear();
    write_response(out, &head, black_box(&fwd));
    black_box(out.as_slice());
}

/// The worst a slow client can do: the largest head that is accepted, one byte at a time, scanned from its start every time.
fn report_drip(store: &mut HeadStore, limits: &HeadLimits) {
    let field = format!("Cookie: {}\r\n", "x".repeat(limits.head_bytes_max / limits.fields_max - 12));
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}", field.repeat(limits.fields_max - 1));
    let begun = Instant::now();
    for len in 1..=head.len() {
        let _ = black_box(parse_request(black_box(&head.as_bytes()[..len]), store, limits));
    }
    let millis = begun.elapsed().as_secs_f64() * 1e3;
    println!("request byte by byte {:5} bytes  {millis:.0} ms in {} calls", head.len(), head.len());
}

/// Nanoseconds per call of `work` in the best round.
fn best(mut work: impl FnMut()) -> f64 {
    let round = |_| {
        let start = Instant::now();
        for _ in 0..MESSAGES_PER_ROUND {
            work();
        }
        start.elapsed().as_nanos() as f64 / MESSAGES_PER_ROUND as f64
    };
    (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min)
}

fn report(name: &str, bytes: usize, parse: f64, both: f64) {
    println!(
        "{name:20} {bytes:4} bytes  parse {parse:6.0} ns  write {:6.0} ns  together {both:6.0} ns",
        both - parse
    );
}
