//! What reading and writing blocks of HPACK cost, in nanoseconds.
//!
//! Run with `cargo run -p sluice-proto --release --example hpack_cost`. Prints the best of many rounds: on a shared machine the
//! minimum is the figure that other programs disturb least.

use std::hint::black_box;
use std::time::Instant;

use sluice_proto::h2::hpack::{Decoder, Encoder, Indexing};

const ROUNDS: usize = 200;
const BLOCKS_PER_ROUND: usize = 5_000;

const BROWSER: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "www.example.com"),
    (":path", "/assets/app-3f9a1c.js"),
    ("sec-ch-ua", "\"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\""),
    ("sec-ch-ua-mobile", "?0"),
    (
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
    ),
    ("sec-ch-ua-platform", "\"Linux\""),
    ("accept", "*/*"),
    ("sec-fetch-site", "same-origin"),
    ("sec-fetch-mode", "no-cors"),
    ("sec-fetch-dest", "script"),
    ("referer", "https://www.example.com/"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("accept-language", "en-GB,en;q=0.9,de;q=0.8"),
    ("cookie", "session=0123456789abcdef0123456789abcdef; theme=dark; _ga=GA1.1.1234567890.1234567890"),
    ("priority", "u=1, i"),
];

const API: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/api/v1/items"),
    (":authority", "127.0.0.1:8080"),
    ("user-agent", "h2load nghttp2/1.52.0"),
];

const RESPONSE: &[(&str, &str)] = &[
    (":status", "200"),
    ("Server", "nginx/1.31.5"),
    ("Date", "Thu, 20 Nov 2025 09:34:00 GMT"),
    ("Content-Type", "application/json"),
    ("Content-Length", "1024"),
    ("ETag", "\"66f1c2d0-400\""),
    ("Cache-Control", "max-age=3600"),
    ("Vary", "Accept-Encoding"),
    ("X-Request-Id", "9e3779b97f4a7c15"),
];

fn main() {
    let mut scratch = Vec::new();
    for (name, fields) in [("browser", BROWSER), ("API client", API)] {
        let mut encoder = Encoder::new();
        encoder.set_limit(4_096, 4_096);
        let [cold, warm] = [write(&mut encoder, fields), write(&mut encoder, fields)];
        let mut decoder = Decoder::new();
        let ns = best(|| {
            decoder = Decoder::new();
            read(&mut decoder, &cold, &mut scratch);
        });
        println!("read, {name}, cold: {:4} bytes  {ns:7.1} ns", cold.len());
        let ns = best(|| read(&mut decoder, &warm, &mut scratch));
        let used = decoder.heap_bytes();
        decoder.compact();
        let exact = decoder.heap_bytes();
        println!(
            "read, {name}, warm: {:4} bytes  {ns:7.1} ns, table of {used} bytes, {exact} at rest",
            warm.len()
        );
    }
    for (name, size) in [("without a table", 0), ("with a table", 4_096)] {
        let mut encoder = Encoder::new();
        encoder.set_limit(4_096, size);
        let mut out = write(&mut encoder, RESPONSE);
        let ns = best(|| {
            out.clear();
            write_to(&mut encoder, black_box(RESPONSE), &mut out);
            black_box(out.as_slice());
        });
        println!("write, {} fields, {name}: {:4} bytes  {ns:7.1} ns", RESPONSE.len(), out.len());
    }
}

fn read(decoder: &mut Decoder, block: &[u8], scratch: &mut Vec<u8>) {
    let mut bytes = 0;
    let read =
        decoder.decode(black_box(block), scratch, |field| bytes += field.name.len() + field.value.len());
    read.expect("a valid block");
    black_box(bytes);
}

fn write(encoder: &mut Encoder, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    write_to(encoder, fields, &mut out);
    out
}

fn write_to(encoder: &mut Encoder, fields: &[(&str, &str)], out: &mut Vec<u8>) {
    encoder.begin(out);
    for (name, value) in fields {
        encoder.field(out, name.as_bytes(), value.as_bytes(), Indexing::Allowed);
    }
}

/// Nanoseconds per call of `work` in the best round.
fn best(mut work: impl FnMut()) -> f64 {
    let round = |_| {
        let start = Instant::now();
        for _ in 0..BLOCKS_PER_ROUND {
            work();
        }
        start.elapsed().as_nanos() as f64 / BLOCKS_PER_ROUND as f64
    };
    (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min)
}
