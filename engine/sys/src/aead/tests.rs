//! Known answers, lengths at their edges, and that nothing else than what was sealed opens.

use super::*;

const ALGORITHMS: [Algorithm; 3] = [Algorithm::Aes128Gcm, Algorithm::Aes256Gcm, Algorithm::ChaCha20Poly1305];

/// Key, nonce, additional data, plaintext, ciphertext and tag.
const KNOWN: [(Algorithm, [&str; 5]); 3] = [
    // "The Galois/Counter Mode of Operation", test case 4.
    (
        Algorithm::Aes128Gcm,
        [
            "feffe9928665731c6d6a8f9467308308",
            "cafebabefacedbaddecaf888",
            "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            GCM_PLAINTEXT,
            "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa05\
             1ba30b396a0aac973d58e0915bc94fbc3221a5db94fae95ae7121a47",
        ],
    ),
    // Test case 16 there.
    (
        Algorithm::Aes256Gcm,
        [
            "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
            "cafebabefacedbaddecaf888",
            "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            GCM_PLAINTEXT,
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838\
             c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b",
        ],
    ),
    // RFC 8439, section 2.8.2.
    (
        Algorithm::ChaCha20Poly1305,
        [
            "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
            "070000004041424344454647",
            "50515253c0c1c2c3c4c5c6c7",
            "4c616469657320616e642047656e746c656d656e206f662074686520636c617373206f66202739393a20496620492063\
             6f756c64206f6666657220796f75206f6e6c79206f6e652074697020666f7220746865206675747572652c2073756e73\
             637265656e20776f756c642062652069742e",
            "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b\
             1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc\
             3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691",
        ],
    ),
];

const GCM_PLAINTEXT: &str = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6\
                             b525b16aedf5aa0de657ba637b39";

fn bytes(hex: &str) -> Vec<u8> {
    let digit =
        |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).unwrap();
    hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn keyed(algorithm: Algorithm, key: &[u8]) -> Aead {
    let mut aead = Aead::empty();
    aead.set_key(algorithm, key);
    aead
}

#[test]
fn known_answers() {
    for (algorithm, [key, nonce, additional, plaintext, sealed]) in KNOWN {
        let (nonce, additional) = (bytes(nonce).try_into().unwrap(), bytes(additional));
        let (plaintext, sealed) = (bytes(plaintext), bytes(sealed));
        let aead = keyed(algorithm, &bytes(key));
        // The last bytes as extra input, as many as there may be.
        for extra in 0..plaintext.len() {
            let (front, extra) = plaintext.split_at(plaintext.len() - extra);
            let mut out = b"before".to_vec();
            aead.seal(&nonce, &additional, front, extra, &mut out);
            assert_eq!((&out[..6], &out[6..]), (&b"before"[..], &sealed[..]), "{algorithm:?}");

            let mut out = [b"before", front].concat();
            aead.seal_in_place(&nonce, &additional, 6, extra, &mut out);
            assert_eq!((&out[..6], &out[6..]), (&b"before"[..], &sealed[..]), "{algorithm:?} in place");
        }
        let mut opened = sealed;
        assert_eq!(aead.open_in_place(&nonce, &additional, &mut opened), Ok(plaintext.len()));
        assert_eq!(opened[..plaintext.len()], plaintext);
    }
}

#[test]
fn every_length_up_to_some_blocks() {
    for algorithm in ALGORITHMS {
        let aead = keyed(algorithm, &[7; 32][..algorithm.key_bytes()]);
        for len in (0..300).chain([1_000, 16_384, 100_000]) {
            let plaintext: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let mut sealed = Vec::new();
            aead.seal(&[1; 12], b"header", &plaintext, &[23], &mut sealed);
            assert_eq!(sealed.len(), len + 1 + TAG_BYTES);
            assert_eq!(aead.open_in_place(&[1; 12], b"header", &mut sealed), Ok(len + 1));
            assert_eq!((&sealed[..len], sealed[len]), (&plaintext[..], 23));
        }
    }
}

#[test]
fn what_is_not_authentic_is_zeroed() {
    for algorithm in ALGORITHMS {
        let aead = keyed(algorithm, &[7; 32][..algorithm.key_bytes()]);
        let mut sealed = Vec::new();
        aead.seal(&[1; 12], b"header", b"plaintext", &[], &mut sealed);
        for at in 0..sealed.len() {
            let mut tampered = sealed.clone();
            tampered[at] ^= 0x10;
            assert_eq!(aead.open_in_place(&[1; 12], b"header", &mut tampered), Err(BadTag));
            assert!(tampered.iter().all(|&byte| byte == 0));
        }
        assert_eq!(aead.open_in_place(&[2; 12], b"header", &mut sealed.clone()), Err(BadTag));
        assert_eq!(aead.open_in_place(&[1; 12], b"Header", &mut sealed.clone()), Err(BadTag));
        for len in 0..sealed.len() {
            assert_eq!(aead.open_in_place(&[1; 12], b"header", &mut sealed[..len].to_vec()), Err(BadTag));
        }
    }
}

#[test]
fn a_context_may_be_moved_and_given_another_key() {
    for algorithm in ALGORITHMS {
        let key = &[7; 32][..algorithm.key_bytes()];
        let mut sealed = Vec::new();
        keyed(algorithm, key).seal(&[1; 12], b"", &[5; 100], &[], &mut sealed);
        let mut moved = vec![keyed(algorithm, key)];
        moved.reserve(1_000);
        let mut boxed = Box::new(moved.pop().unwrap());
        assert_eq!(boxed.open_in_place(&[1; 12], b"", &mut sealed.clone()), Ok(100));

        boxed.set_key(Algorithm::ChaCha20Poly1305, &[8; 32]);
        assert_eq!(boxed.open_in_place(&[1; 12], b"", &mut sealed.clone()), Err(BadTag));
        boxed.set_key(algorithm, key);
        assert_eq!(boxed.open_in_place(&[1; 12], b"", &mut sealed), Ok(100));
    }
}

/// The bytes of a context.
fn memory(aead: &Aead) -> Vec<u8> {
    let bytes = aead.context.as_ptr().cast::<u8>();
    // SAFETY: it was given a key once: EVP_AEAD_CTX_zero has initialized all bytes of it, and OPENSSL_cleanse does so again.
    unsafe { std::slice::from_raw_parts(bytes, size_of::<EVP_AEAD_CTX>()).to_vec() }
}

#[test]
fn no_trace_of_a_key_is_left_when_it_is_cleared() {
    let mut aead = keyed(Algorithm::ChaCha20Poly1305, &[0xab; 32]);
    assert!(
        memory(&aead).windows(32).any(|window| window == [0xab; 32]),
        "the key is there while it is used"
    );
    aead.clear();
    assert!(memory(&aead).iter().all(|&byte| byte == 0));
    assert!(!aead.is_keyed());
}

#[test]
#[should_panic(expected = "a cipher is used behind set_key")]
fn one_without_a_key_seals_nothing() {
    Aead::empty().seal(&[1; 12], b"", b"secret", &[], &mut Vec::new());
}

#[test]
#[should_panic(expected = "the length of a key")]
fn a_key_of_another_length_is_refused() {
    keyed(Algorithm::Aes256Gcm, &[0; 16]);
}
