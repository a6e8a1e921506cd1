//! Kernel TLS (Documentation/networking/tls.rst): the kernel seals what is sent on a connection, so that bytes can be spliced to it.
//!
//! Only the direction of sending: what is received stays as it came. Application data is sent as on a connection without TLS; a
//! record of another type, such as an alert, is sent by [`Conn::send_record`].

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};

use zeroize::{Zeroize, Zeroizing};

use crate::aead::Algorithm;
use crate::buf::Buf;
use crate::gather::Gathered;
use crate::op::Payload;
use crate::patience::Patience;
use crate::socket::{Conn, Sending, check};

/// The longest of the kernel's structures, which is that of AES-256.
const CRYPTO_INFO_BYTES_MAX: usize = size_of::<libc::tls12_crypto_info_aes_gcm_256>();

/// The first part of the IV, which AES-GCM has in a field of its own.
const SALT_BYTES: usize = 4;

/// What the kernel needs to seal records.
pub struct SealingKeys<'a> {
    /// The protocol version as in a ClientHello: 0x0303 for TLS 1.2, 0x0304 for TLS 1.3.
    pub version: u16,
    /// The cipher.
    pub algorithm: Algorithm,
    /// Its key, as long as the cipher wants it.
    pub key: &'a [u8],
    /// The IV; in TLS 1.2 with AES-GCM the salt, and the explicit nonce of the next record.
    pub iv: [u8; 12],
    /// The number of the next record.
    pub sequence: u64,
}

impl Conn {
    /// From now on the kernel seals what is sent. No send may be under way.
    ///
    /// # Errors
    /// ENOENT where the kernel has no such protocol, ENOTCONN of a connection that has ended, and what setsockopt(2) says for a
    /// cipher that the kernel does not have. Sending goes on as before then.
    pub fn offload_sending(&self, keys: &SealingKeys<'_>) -> io::Result<()> {
        debug_assert!(!self.is_sending(), "bytes under way would be sealed again");
        attach(self.fd())?;
        let info = CryptoInfo::new(keys);
        set_option_bytes(self.fd(), libc::SOL_TLS, libc::TLS_TX, info.bytes())
    }

    /// Sends a record of another type than application data, after what was sent before; only behind
    /// [`Conn::offload_sending`]. Otherwise as [`Conn::send`].
    pub fn send_record(&self, content_type: u8, content: Buf, patience: impl Into<Patience>) -> Sending {
        self.start_send(Payload::SendGathered(Gathered::record(content_type, content)), patience.into())
    }
}

/// Looks whether this kernel has TLS, by a connection to ourselves.
///
/// # Errors
/// ENOENT if it does not (the module `tls` is not there, or may not be loaded); those of making a connection.
pub fn probe_kernel_tls() -> io::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let connection = TcpStream::connect(listener.local_addr()?)?;
    attach(connection.as_raw_fd())
}

/// Puts the kernel's TLS on a connection; alone it changes nothing.
fn attach(fd: RawFd) -> io::Result<()> {
    match set_option_bytes(fd, libc::IPPROTO_TCP, libc::TCP_ULP, b"tls") {
        // It is there already: a cipher was refused before.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

fn set_option_bytes(fd: RawFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let bytes = value.len() as libc::socklen_t;
    // SAFETY: the value is as long as stated and lives through the call, which copies it.
    check(unsafe { libc::setsockopt(fd, level, name, value.as_ptr().cast(), bytes) }).map(drop)
}

/// A `struct tls12_crypto_info_*` of linux/tls.h as bytes: they have no gaps. Zeroed in the end.
struct CryptoInfo {
    memory: Zeroizing<[u8; CRYPTO_INFO_BYTES_MAX]>,
    len: usize,
}

impl CryptoInfo {
    /// # Panics
    /// When the key is not as long as the cipher wants it.
    fn new(keys: &SealingKeys<'_>) -> CryptoInfo {
        assert_eq!(keys.key.len(), keys.algorithm.key_bytes(), "the length of a key");
        let (cipher, salt_bytes) = match keys.algorithm {
            Algorithm::Aes128Gcm => (libc::TLS_CIPHER_AES_GCM_128, SALT_BYTES),
            Algorithm::Aes256Gcm => (libc::TLS_CIPHER_AES_GCM_256, SALT_BYTES),
            Algorithm::ChaCha20Poly1305 => (libc::TLS_CIPHER_CHACHA20_POLY1305, 0),
        };
        let mut iv = keys.iv;
        let (salt, nonce) = iv.split_at(salt_bytes);
        let mut info = CryptoInfo { memory: Zeroizing::new([0; CRYPTO_INFO_BYTES_MAX]), len: 0 };
        info.append(&keys.version.to_ne_bytes());
        info.append(&cipher.to_ne_bytes());
        for field in [nonce, keys.key, salt, &keys.sequence.to_be_bytes()] {
            info.append(field);
        }
        iv.zeroize();
        info
    }

    fn append(&mut self, field: &[u8]) {
        self.memory[self.len..][..field.len()].copy_from_slice(field);
        self.len += field.len();
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    fn info(algorithm: Algorithm, key: &[u8]) -> Vec<u8> {
        let iv = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        let keys = SealingKeys { version: 0x0304, algorithm, key, iv, sequence: 0x0102_0304 };
        CryptoInfo::new(&keys).bytes().to_vec()
    }

    macro_rules! assert_layout {
        ($algorithm:ident, $key_bytes:literal, $info:ident, $cipher:literal, $iv:expr, $salt:expr) => {
            let key = [0xA5; $key_bytes];
            let found = info(Algorithm::$algorithm, &key);
            let at = |offset: usize, len: usize| found[offset..offset + len].to_vec();
            assert_eq!(found.len(), size_of::<libc::$info>());
            assert_eq!(at(offset_of!(libc::$info, info), 2), 0x0304_u16.to_ne_bytes());
            assert_eq!(at(offset_of!(libc::$info, info) + 2, 2), ($cipher as u16).to_ne_bytes());
            assert_eq!(at(offset_of!(libc::$info, iv), $iv.len()), $iv);
            assert_eq!(at(offset_of!(libc::$info, key), key.len()), key);
            assert_eq!(at(offset_of!(libc::$info, salt), $salt.len()), $salt);
            assert_eq!(at(offset_of!(libc::$info, rec_seq), 8), [0, 0, 0, 0, 1, 2, 3, 4]);
        };
    }

    #[test]
    fn crypto_infos_are_those_of_linux() {
        let none: [u8; 0] = [];
        assert_layout!(
            Aes128Gcm,
            16,
            tls12_crypto_info_aes_gcm_128,
            51,
            [5_u8, 6, 7, 8, 9, 10, 11, 12],
            [1_u8, 2, 3, 4]
        );
        assert_layout!(
            Aes256Gcm,
            32,
            tls12_crypto_info_aes_gcm_256,
            52,
            [5_u8, 6, 7, 8, 9, 10, 11, 12],
            [1_u8, 2, 3, 4]
        );
        assert_layout!(
            ChaCha20Poly1305,
            32,
            tls12_crypto_info_chacha20_poly1305,
            54,
            [1_u8, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
            none
        );
        // linux/tls.h, by number.
        assert_eq!(info(Algorithm::Aes128Gcm, &[0; 16]).len(), 40);
        assert_eq!(info(Algorithm::Aes256Gcm, &[0; 32]).len(), 56);
        assert_eq!(info(Algorithm::ChaCha20Poly1305, &[0; 32]).len(), 56);
        assert_eq!((libc::SOL_TLS, libc::TLS_TX, libc::TCP_ULP), (282, 1, 31));
    }

    /// On a host with kernel TLS it is there; on one without it, the error says so.
    #[test]
    fn a_probe_finds_out() {
        match probe_kernel_tls() {
            Ok(()) => {}
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{error}"),
        }
    }
}
