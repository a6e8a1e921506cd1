//! PROXY protocol headers: the verdict is final, a header reaches no further than it says, and addresses read back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_proto::proxy_protocol::{
    Ends, HEADER_BYTES_MAX, LINE_BYTES_MAX, Parsed, WRITTEN_BYTES_MAX, parse, write_v1, write_v2,
};

fuzz_target!(|input: &[u8]| {
    let whole = parse(input);
    // Once the verdict is in, more bytes do not change it.
    let mut seen = Ok(Parsed::Partial);
    for len in 0..=input.len() {
        let now = parse(&input[..len]);
        assert!(seen == Ok(Parsed::Partial) || seen == now, "at {len}");
        seen = now;
    }
    assert_eq!(seen, whole);

    match whole {
        Ok(Parsed::Partial) => assert!(input.len() < HEADER_BYTES_MAX, "what is never complete is refused"),
        Ok(Parsed::Complete { ends, bytes }) => {
            let header = &input[..bytes];
            if header.starts_with(b"PROXY ") {
                assert!(bytes <= LINE_BYTES_MAX && header.ends_with(b"\r\n"));
                assert_eq!(header.iter().filter(|byte| matches!(byte, b'\r' | b'\n')).count(), 2);
            } else {
                let len = usize::from(u16::from_be_bytes([header[14], header[15]]));
                assert_eq!(bytes, 16 + len);
            }
            if let Some(ends) = ends {
                check_round_trip(ends);
            }
        }
        Err(_) => {}
    }
});

fn check_round_trip(ends: Ends) {
    for write in [write_v1, write_v2] {
        let mut out = Vec::new();
        write(&mut out, &ends);
        assert!(out.len() <= WRITTEN_BYTES_MAX);
        let Ok(Parsed::Complete { ends: Some(read), bytes }) = parse(&out) else {
            panic!("{}", out.escape_ascii())
        };
        assert_eq!(bytes, out.len());
        assert_eq!(plain(read), plain(ends));
    }
}

fn plain(Ends { source, destination }: Ends) -> [(std::net::IpAddr, u16); 2] {
    [source, destination].map(|end| (end.ip().to_canonical(), end.port()))
}
