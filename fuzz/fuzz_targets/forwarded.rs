//! Lists of hops: what stands on the left never changes what is read on the right, and what is read is what is there. The
//! element about a client is about that client.
//!
//! The first byte of the input chooses the list.

#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use sluice_proto::HeadLimits;
use sluice_proto::forwarded::{HopList, element_of, hops};
use sluice_proto::h1::{HeadStore, Parsed, parse_request};

fuzz_target!(|input: &[u8]| {
    let Some((&choice, value)) = input.split_first() else { return };
    let (list, entry) = match choice % 2 {
        0 => (HopList::Forwarded, &b", for=\"[2001:db8::9]:1\";host=\"a,b\""[..]),
        _ => (HopList::XForwardedFor, &b" , [2001:db8::9]:1 "[..]),
    };
    let read: Vec<Option<IpAddr>> = hops(value, list).collect();
    assert!((1..=1 + value.iter().filter(|&&byte| byte == b',').count()).contains(&read.len()));
    for address in read.iter().flatten() {
        assert_eq!(*address, address.to_canonical());
    }

    // What a proxy appends is read first, whatever was there; the rest is read as before.
    let appended = [value, entry].concat();
    let mut again = hops(&appended, list);
    assert_eq!(again.next(), Some(Some("2001:db8::9".parse().unwrap())));
    assert_eq!(again.collect::<Vec<_>>(), read);

    if list == HopList::XForwardedFor {
        // Without quotes there is a simpler way to see it.
        let entries: Vec<&[u8]> = value.split(|&byte| byte == b',').collect();
        assert_eq!(entries.len(), read.len());
        for (entry, address) in entries.iter().rev().zip(&read) {
            let text = std::str::from_utf8(entry).unwrap_or_default();
            if let Ok(plain) = text.trim_matches([' ', '\t']).parse::<IpAddr>() {
                assert_eq!(*address, Some(plain.to_canonical()));
            }
        }
    }

    if list == HopList::Forwarded {
        check_elements(value, &read);
    }
});

/// The first addresses from the end are found again in a head with this field; beyond an entry without one nothing is.
fn check_elements(value: &[u8], read: &[Option<IpAddr>]) {
    if value.contains(&b'\n') {
        // What is behind it would be another field, or no part of the head.
        return;
    }
    let request = [b"GET / HTTP/1.1\r\nHost: a\r\nForwarded: ", value, b"\r\n\r\n"].concat();
    let mut store = HeadStore::default();
    let Ok(Parsed::Complete { head, .. }) = parse_request(&request, &mut store, &HeadLimits::default())
    else {
        return;
    };
    if head.field_list().len() != 2 {
        return;
    }
    let mut is_vouched_for = true;
    for (at, address) in read.iter().enumerate() {
        is_vouched_for &= address.is_some();
        let Some(address) = address else { continue };
        let element = element_of(&head.field_list(), *address);
        if is_vouched_for {
            assert_eq!(
                element.and_then(|element| element.address).map(|ip| ip.to_canonical()),
                Some(*address)
            );
        } else if read[..at]
            .iter()
            .take_while(|before| before.is_some())
            .all(|before| *before != Some(*address))
        {
            assert_eq!(element, None);
        }
    }
}
