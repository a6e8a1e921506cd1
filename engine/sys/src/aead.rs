//! The ciphers of TLS records, by aws-lc, on memory of the caller: [`Aead`] owns its context and nothing on the heap.
//!
//! Records are opened in place and sealed from their source into the spare capacity of a `Vec`, so that no plaintext is copied
//! first. Every length is checked here before aws-lc sees a pointer. Nonces are the caller's: one is never used twice with a key.

use std::fmt;
use std::mem::MaybeUninit;
use std::ptr;

use aws_lc_sys::{
    ERR_clear_error, EVP_AEAD, EVP_AEAD_CTX, EVP_AEAD_CTX_cleanup, EVP_AEAD_CTX_init, EVP_AEAD_CTX_open,
    EVP_AEAD_CTX_seal_scatter, EVP_AEAD_CTX_zero, EVP_aead_aes_128_gcm, EVP_aead_aes_256_gcm,
    EVP_aead_chacha20_poly1305, OPENSSL_cleanse,
};

/// Bytes of a nonce, whatever the algorithm.
pub const NONCE_BYTES: usize = 12;

/// Bytes of a tag, whatever the algorithm.
pub const TAG_BYTES: usize = 16;

/// An algorithm for records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// AES-128 in Galois/counter mode.
    Aes128Gcm,
    /// AES-256 in Galois/counter mode.
    Aes256Gcm,
    /// ChaCha20 and Poly1305 (RFC 8439).
    ChaCha20Poly1305,
}

impl Algorithm {
    /// Bytes of a key.
    pub const fn key_bytes(self) -> usize {
        match self {
            Algorithm::Aes128Gcm => 16,
            Algorithm::Aes256Gcm | Algorithm::ChaCha20Poly1305 => 32,
        }
    }

    fn method(self) -> *const EVP_AEAD {
        // SAFETY: these take nothing and return the address of a static.
        unsafe {
            match self {
                Algorithm::Aes128Gcm => EVP_aead_aes_128_gcm(),
                Algorithm::Aes256Gcm => EVP_aead_aes_256_gcm(),
                Algorithm::ChaCha20Poly1305 => EVP_aead_chacha20_poly1305(),
            }
        }
    }
}

/// The bytes are not what the holder of the key has sealed with this nonce and these additional data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadTag;

/// A cipher that is ready for use, or one without a key.
pub struct Aead {
    /// Initialized by `set_key`; read only while `is_keyed`.
    context: MaybeUninit<EVP_AEAD_CTX>,
    is_keyed: bool,
}

// SAFETY: the pointers within a context are those of a static (the method) and of functions; it belongs to no thread.
unsafe impl Send for Aead {}

// SAFETY: `&self` only opens and seals, and aws-lc's contexts of these algorithms may be used by several threads at once
// (openssl/aead.h, "Concurrency"): both functions take the context as const.
unsafe impl Sync for Aead {}

impl Default for Aead {
    fn default() -> Aead {
        Aead::empty()
    }
}

impl fmt::Debug for Aead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aead").field("is_keyed", &self.is_keyed).finish_non_exhaustive()
    }
}

impl Aead {
    /// One without a key.
    pub const fn empty() -> Aead {
        Aead { context: MaybeUninit::uninit(), is_keyed: false }
    }

    /// Whether it can be used.
    pub fn is_keyed(&self) -> bool {
        self.is_keyed
    }

    /// Takes a key, in the place of an earlier one.
    ///
    /// # Panics
    /// When the key has not the length that the algorithm wants.
    pub fn set_key(&mut self, algorithm: Algorithm, key: &[u8]) {
        assert_eq!(key.len(), algorithm.key_bytes(), "the length of a key");
        self.clear();
        let context = self.context.as_mut_ptr();
        // SAFETY: `context` is memory of `self` and of the right type; the key is as long as said. The context may be moved
        // afterwards, as a value of Rust is: the state of AES-GCM (`aead_aes_gcm_ctx`: round keys, hash table, pointers to
        // functions) and that of ChaCha20 (`aead_chacha20_poly1305_ctx`: the key) hold no pointer into themselves, and aws-lc
        // itself copies the former with memcpy (`aead_ctx_copy_state_trivial`).
        let is_ready = unsafe {
            EVP_AEAD_CTX_zero(context);
            EVP_AEAD_CTX_init(
                context,
                algorithm.method(),
                key.as_ptr(),
                key.len(),
                TAG_BYTES,
                ptr::null_mut(),
            )
        };
        assert_eq!(is_ready, 1, "aws-lc takes a key of the right length");
        self.is_keyed = true;
    }

    /// Forgets the key and wipes its traces.
    pub fn clear(&mut self) {
        if !self.is_keyed {
            return;
        }
        self.is_keyed = false;
        let context = self.context.as_mut_ptr();
        // SAFETY: `is_keyed` was true: `set_key` has initialized the context. It is not read again before the next `set_key`.
        unsafe {
            EVP_AEAD_CTX_cleanup(context);
            OPENSSL_cleanse(context.cast(), size_of::<EVP_AEAD_CTX>());
        }
    }

    fn context(&self) -> *const EVP_AEAD_CTX {
        assert!(self.is_keyed, "a cipher is used behind set_key");
        self.context.as_ptr()
    }

    /// Opens `sealed` (ciphertext and tag) in place and returns the length of the plaintext at its front.
    ///
    /// # Errors
    /// It is not authentic. `sealed` is zeroed then.
    ///
    /// # Panics
    /// Without a key.
    pub fn open_in_place(
        &self,
        nonce: &[u8; NONCE_BYTES],
        additional: &[u8],
        sealed: &mut [u8],
    ) -> Result<usize, BadTag> {
        let context = self.context();
        if sealed.len() < TAG_BYTES {
            sealed.fill(0);
            return Err(BadTag);
        }
        let (bytes, len) = (sealed.as_mut_ptr(), sealed.len());
        let mut plaintext_bytes = 0;
        // SAFETY: `context()` has seen that the context is initialized. Input and output are the same bytes, which is the one
        // overlap that is allowed (openssl/aead.h), and as long as said; at most `len - TAG_BYTES` are written.
        let is_authentic = unsafe {
            EVP_AEAD_CTX_open(
                context,
                bytes,
                &raw mut plaintext_bytes,
                len,
                nonce.as_ptr(),
                nonce.len(),
                bytes,
                len,
                additional.as_ptr(),
                additional.len(),
            )
        };
        if is_authentic != 1 {
            // SAFETY: it takes nothing; it empties this thread's queue of errors, to which the failure was added.
            unsafe { ERR_clear_error() };
            return Err(BadTag);
        }
        debug_assert_eq!(plaintext_bytes, len - TAG_BYTES);
        Ok(plaintext_bytes)
    }

    /// Appends the ciphertext of `plaintext` and then `extra`, and the tag, to `out`.
    ///
    /// # Panics
    /// Without a key.
    pub fn seal(
        &self,
        nonce: &[u8; NONCE_BYTES],
        additional: &[u8],
        plaintext: &[u8],
        extra: &[u8],
        out: &mut Vec<u8>,
    ) {
        let tail_bytes = extra.len() + TAG_BYTES;
        out.reserve(plaintext.len() + tail_bytes);
        let (len, source) = (out.len(), plaintext.as_ptr());
        let spare = out.spare_capacity_mut();
        assert!(spare.len() >= plaintext.len() + tail_bytes);
        let sealed = spare.as_mut_ptr().cast::<u8>();
        // SAFETY: the assertion: `sealed` has room for the ciphertext and, behind it, for the tail. It is spare capacity, so
        // nothing that is borrowed overlaps it; the source is a slice.
        unsafe { self.seal_raw(nonce, additional, (source, plaintext.len()), extra, sealed) };
        // SAFETY: the capacity is as asserted, and `seal_raw` has initialized all of it.
        unsafe { out.set_len(len + plaintext.len() + tail_bytes) };
    }

    /// Seals what lies in `out` from `from` on, in place, and appends the ciphertext of `extra` and the tag.
    ///
    /// # Panics
    /// Without a key; when `from` is beyond the end.
    pub fn seal_in_place(
        &self,
        nonce: &[u8; NONCE_BYTES],
        additional: &[u8],
        from: usize,
        extra: &[u8],
        out: &mut Vec<u8>,
    ) {
        let tail_bytes = extra.len() + TAG_BYTES;
        out.reserve(tail_bytes);
        let len = out.len();
        assert!(from <= len && out.capacity() - len >= tail_bytes);
        let all = out.as_mut_ptr();
        // SAFETY: the assertion: `from` is within the allocation, and behind the `len - from` bytes of plaintext there is room
        // for the tail. Source and destination are the same bytes, which is the one overlap that is allowed.
        unsafe {
            let plaintext = all.add(from);
            self.seal_raw(nonce, additional, (plaintext.cast_const(), len - from), extra, plaintext);
        }
        // SAFETY: the capacity is as asserted, and `seal_raw` has initialized the tail.
        unsafe { out.set_len(len + tail_bytes) };
    }

    /// Initializes `sealed`: `plaintext.1` bytes of ciphertext, then the ciphertext of `extra`, then the tag.
    ///
    /// # Safety
    /// `plaintext` is a pointer to so many bytes that can be read. `sealed` is valid for writes of so many bytes, those of
    /// `extra` and [`TAG_BYTES`]. The two are the same pointer, or do not overlap; nothing else overlaps `sealed`.
    unsafe fn seal_raw(
        &self,
        nonce: &[u8; NONCE_BYTES],
        additional: &[u8],
        plaintext: (*const u8, usize),
        extra: &[u8],
        sealed: *mut u8,
    ) {
        let context = self.context();
        let tail_bytes = extra.len() + TAG_BYTES;
        let mut written = 0;
        // SAFETY: `context()` has seen that the context is initialized; the rest is what the caller promises. The method
        // supports extra input: those of all three algorithms do (`seal_scatter_supports_extra_in`), or it fails below.
        let is_sealed = unsafe {
            EVP_AEAD_CTX_seal_scatter(
                context,
                sealed,
                sealed.add(plaintext.1),
                &raw mut written,
                tail_bytes,
                nonce.as_ptr(),
                nonce.len(),
                plaintext.0,
                plaintext.1,
                extra.as_ptr(),
                extra.len(),
                additional.as_ptr(),
                additional.len(),
            )
        };
        assert!(is_sealed == 1 && written == tail_bytes, "aws-lc seals what has the right lengths");
    }
}

impl Drop for Aead {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests;
