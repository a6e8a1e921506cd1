//! The secrets of one direction: key, nonces, sequence number, and in TLS 1.3 the secret that the next key is made of.

use aws_lc_rs::hkdf;
use sluice_sys::aead::{Algorithm, NONCE_BYTES};
use zeroize::Zeroize;

use super::{Suite, Traffic, Version};

/// Bytes of the explicit nonce in front of a record of TLS 1.2 with AES-GCM.
pub(super) const EXPLICIT_NONCE_BYTES: usize = 8;

/// Bytes of the implicit nonce that goes with it.
const SALT_BYTES: usize = NONCE_BYTES - EXPLICIT_NONCE_BYTES;

/// The longest secret: one of SHA-384.
const SECRET_BYTES_MAX: usize = 48;

/// The longest key.
const KEY_BYTES_MAX: usize = 32;

/// What one direction of a parked connection keeps. All of it is bytes, so that no room is lost to alignment.
pub(super) struct Keys {
    /// The number of the next record, big-endian. Of the 64 bits that TLS gives it, 32 are enough: we change a key long before
    /// them, and a peer that does not has sent 64 TiB in full records. Behind the last number the connection ends.
    sequence: [u8; 4],
    secret: [u8; SECRET_BYTES_MAX],
    key: [u8; KEY_BYTES_MAX],
    iv: [u8; NONCE_BYTES],
}

impl Suite {
    /// The cipher by itself.
    pub const fn algorithm(self) -> Algorithm {
        match self {
            Suite::Aes128Gcm => Algorithm::Aes128Gcm,
            Suite::Aes256Gcm => Algorithm::Aes256Gcm,
            Suite::ChaCha20Poly1305 => Algorithm::ChaCha20Poly1305,
        }
    }

    fn hash(self) -> hkdf::Algorithm {
        match self {
            Suite::Aes256Gcm => hkdf::HKDF_SHA384,
            Suite::Aes128Gcm | Suite::ChaCha20Poly1305 => hkdf::HKDF_SHA256,
        }
    }

    /// Bytes of a traffic secret: those of the hash.
    const fn secret_bytes(self) -> usize {
        match self {
            Suite::Aes256Gcm => 48,
            Suite::Aes128Gcm | Suite::ChaCha20Poly1305 => 32,
        }
    }
}

/// Whether records carry a part of their nonce.
//= https://www.rfc-editor.org/rfc/rfc5288#section-3
pub(super) const fn has_explicit_nonce(version: Version, suite: Suite) -> bool {
    matches!(version, Version::Tls12) && !matches!(suite, Suite::ChaCha20Poly1305)
}

impl Keys {
    pub(super) fn new(version: Version, suite: Suite, traffic: &Traffic<'_>) -> Keys {
        let secret_bytes = if version == Version::Tls13 { suite.secret_bytes() } else { 0 };
        let is_salt = has_explicit_nonce(version, suite) && traffic.iv.len() == SALT_BYTES;
        assert_eq!(traffic.key.len(), suite.algorithm().key_bytes(), "the length of a key");
        assert!(is_salt || traffic.iv.len() == NONCE_BYTES, "the length of an IV");
        assert_eq!(traffic.secret.len(), secret_bytes, "the length of a traffic secret");
        let mut keys = Keys {
            sequence: u32::try_from(traffic.sequence).expect("the few records of a handshake").to_be_bytes(),
            secret: [0; SECRET_BYTES_MAX],
            key: [0; KEY_BYTES_MAX],
            iv: [0; NONCE_BYTES],
        };
        keys.secret[..secret_bytes].copy_from_slice(traffic.secret);
        keys.key[..traffic.key.len()].copy_from_slice(traffic.key);
        keys.iv[..traffic.iv.len()].copy_from_slice(traffic.iv);
        keys
    }

    /// The number of the next record.
    pub(super) fn sequence(&self) -> u64 {
        u64::from(u32::from_be_bytes(self.sequence))
    }

    /// The number of this record. The next one is stored before anything is done with it: no nonce is used twice. `None` when
    /// numbers have run out.
    pub(super) fn take_sequence(&mut self) -> Option<u64> {
        let sequence = u32::from_be_bytes(self.sequence);
        self.sequence = sequence.checked_add(1)?.to_be_bytes();
        Some(u64::from(sequence))
    }

    /// So many records were sealed by the kernel.
    pub(super) fn skip_sequences(&mut self, count: u64) {
        let sequence = self.sequence().saturating_add(count).min(u64::from(u32::MAX));
        self.sequence = (sequence as u32).to_be_bytes();
    }

    pub(super) fn key(&self, suite: Suite) -> &[u8] {
        &self.key[..suite.algorithm().key_bytes()]
    }

    /// The IV as the kernel wants it. Of an explicit nonce it does not mix the number in but counts from there: from a value
    /// that is beyond all that we have mixed with numbers below 2^32.
    pub(super) fn kernel_iv(&self, version: Version, suite: Suite) -> [u8; NONCE_BYTES] {
        let mut iv = self.iv;
        if has_explicit_nonce(version, suite)
            && let Some(explicit) = iv.last_chunk_mut::<EXPLICIT_NONCE_BYTES>()
        {
            *explicit = u64::from_be_bytes(*explicit).wrapping_add(1 << 32).to_be_bytes();
        }
        iv
    }

    /// The nonce of a record that we seal, or that carries no part of it: the IV xor the sequence number. With an explicit
    /// nonce, its last eight bytes are the explicit part: as unique as the number.
    //= https://www.rfc-editor.org/rfc/rfc8446#section-5.3
    //= https://www.rfc-editor.org/rfc/rfc7905#section-2
    pub(super) fn nonce(&self, sequence: u64) -> [u8; NONCE_BYTES] {
        let mut nonce = self.iv;
        for (byte, of_sequence) in nonce[SALT_BYTES..].iter_mut().zip(sequence.to_be_bytes()) {
            *byte ^= of_sequence;
        }
        nonce
    }

    /// The nonce of a record of TLS 1.2 with AES-GCM, in which the peer has put the explicit part.
    pub(super) fn nonce_with(&self, explicit: &[u8; EXPLICIT_NONCE_BYTES]) -> [u8; NONCE_BYTES] {
        let mut nonce = self.iv;
        nonce[SALT_BYTES..].copy_from_slice(explicit);
        nonce
    }

    /// The next generation, in the place of this one.
    //= https://www.rfc-editor.org/rfc/rfc8446#section-7.2
    pub(super) fn update(&mut self, suite: Suite) {
        let mut secret = [0; SECRET_BYTES_MAX];
        let secret_bytes = suite.secret_bytes();
        expand_label(suite, &self.secret[..secret_bytes], b"traffic upd", &mut secret[..secret_bytes]);
        self.secret = secret;
        secret.zeroize();
        let key_bytes = suite.algorithm().key_bytes();
        expand_label(suite, &self.secret[..secret_bytes], b"key", &mut self.key[..key_bytes]);
        expand_label(suite, &self.secret[..secret_bytes], b"iv", &mut self.iv);
        self.sequence = [0; 4];
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.secret.zeroize();
        self.key.zeroize();
        self.iv.zeroize();
    }
}

/// A length that HKDF is to fill.
struct Bytes(usize);

impl hkdf::KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label without a context.
//= https://www.rfc-editor.org/rfc/rfc8446#section-7.1
fn expand_label(suite: Suite, secret: &[u8], label: &[u8], out: &mut [u8]) {
    const PREFIX: &[u8] = b"tls13 ";
    let length = u16::try_from(out.len()).expect("a short key").to_be_bytes();
    let label_bytes = [u8::try_from(PREFIX.len() + label.len()).expect("a short label")];
    let info = [&length[..], &label_bytes, PREFIX, label, &[0]];
    hkdf::Prk::new_less_safe(suite.hash(), secret)
        .expand(&info, Bytes(out.len()))
        .and_then(|expanded| expanded.fill(out))
        .expect("a length that HKDF can fill");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    /// RFC 8448, section 3: the application traffic secrets and the keys that belong to them.
    #[test]
    fn keys_of_rfc_8448() {
        for (secret, key, iv) in [
            (
                "a1 1a f9 f0 55 31 f8 56 ad 47 11 6b 45 a9 50 32 82 04 b4 f4 4b fb 6b 3a 4b 4f 1f 3f cb 63 16 43",
                "9f 02 28 3b 6c 9c 07 ef c2 6b b9 f2 ac 92 e3 56",
                "cf 78 2b 88 dd 83 54 9a ad f1 e9 84",
            ),
            (
                "9e 40 64 6c e7 9a 7f 9d c0 5a f8 88 9b ce 65 52 87 5a fa 0b 06 df 00 87 f7 92 eb b7 c1 75 04 a5",
                "17 42 2d da 59 6e d5 d9 ac d8 90 e3 c6 3f 50 51",
                "5b 78 92 3d ee 08 57 90 33 e5 23 d9",
            ),
        ] {
            let (mut made_key, mut made_iv) = ([0; 16], [0; 12]);
            expand_label(Suite::Aes128Gcm, &bytes(secret), b"key", &mut made_key);
            expand_label(Suite::Aes128Gcm, &bytes(secret), b"iv", &mut made_iv);
            assert_eq!((&made_key[..], &made_iv[..]), (&bytes(key)[..], &bytes(iv)[..]));
        }
    }
}
