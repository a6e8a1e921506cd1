//! The first bytes of a connection: more bytes never change a verdict, nor does the split into records.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_tls::client_hello::{MESSAGE_BYTES_MAX, Parsed, parse};

fuzz_target!(|input: &[u8]| {
    let whole = parse(input);
    for cut in [input.len() / 2, input.len().saturating_sub(1)] {
        match parse(&input[..cut]) {
            Ok(Parsed::Partial) => {}
            Ok(Parsed::NotTls) => assert_eq!(whole, Ok(Parsed::NotTls)),
            Ok(Parsed::Complete(hello, used)) => assert_eq!(whole, Ok(Parsed::Complete(hello, used))),
            Err(alert) => assert_eq!(whole, Err(alert)),
        }
    }
    let Ok(Parsed::Complete(hello, used)) = whole else { return };
    assert!(used <= input.len() && hello.message.len() <= MESSAGE_BYTES_MAX);
    let fingerprint = hello.ja4();
    assert_eq!(fingerprint.split('_').map(str::len).collect::<Vec<_>>(), [10, 12, 12], "{fingerprint}");
    let lists = hello.ciphers().count() + hello.versions().count() + hello.groups().count();
    assert!(2 * (lists + hello.signature_algorithms().count()) <= hello.message.len());
    assert!(hello.extensions().map(|(_, content)| 4 + content.len()).sum::<usize>() <= hello.message.len());
    assert!(hello.alpn().all(|name| !name.is_empty()));
    assert!(hello.sni().is_none_or(|name| !name.is_empty()));

    // The same message in records of another size.
    let piece = hello.message.len().div_ceil(7);
    let split: Vec<u8> = hello
        .message
        .chunks(piece)
        .flat_map(|part| [&[22, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat())
        .collect();
    let Ok(Parsed::Complete(again, used)) = parse(&split) else { panic!("split: {:?}", parse(&split)) };
    assert_eq!((used, &again.message), (split.len(), &hello.message));
    assert_eq!(again.ja4(), fingerprint);
});
