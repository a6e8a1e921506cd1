//! The ciphers allocate nothing: in a process of its own, since aws-lc takes other functions for its memory only once, and
//! before it has allocated anything.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

use sluice_sys::aead::{Aead, Algorithm};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" fn allocate(bytes: usize, _: *const c_char, _: c_int) -> *mut c_void {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: any number of bytes may be asked for.
    unsafe { libc::malloc(bytes) }
}

unsafe extern "C" fn reallocate(old: *mut c_void, bytes: usize, _: *const c_char, _: c_int) -> *mut c_void {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: `old` came from here or from `allocate`.
    unsafe { libc::realloc(old, bytes) }
}

unsafe extern "C" fn free(old: *mut c_void, _: *const c_char, _: c_int) {
    // SAFETY: `old` came from `allocate` or `reallocate`.
    unsafe { libc::free(old) }
}

#[test]
fn ciphers_allocate_nothing() {
    // SAFETY: nothing was allocated yet: this is the only test of the process.
    let is_set =
        unsafe { aws_lc_sys::CRYPTO_set_mem_functions(Some(allocate), Some(reallocate), Some(free)) };
    assert_eq!(is_set, 1);
    // SAFETY: a context on the heap, given back at once.
    unsafe {
        let key = [0; 16];
        aws_lc_sys::EVP_AEAD_CTX_free(aws_lc_sys::EVP_AEAD_CTX_new(
            aws_lc_sys::EVP_aead_aes_128_gcm(),
            key.as_ptr(),
            key.len(),
            16,
        ));
    }
    assert_ne!(ALLOCATIONS.load(Ordering::Relaxed), 0, "allocations of aws-lc are counted");

    for algorithm in [Algorithm::Aes128Gcm, Algorithm::Aes256Gcm, Algorithm::ChaCha20Poly1305] {
        let mut out = Vec::with_capacity(20_000);
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..3 {
            let mut aead = Aead::empty();
            aead.set_key(algorithm, &[7; 32][..algorithm.key_bytes()]);
            out.clear();
            aead.seal(&[1; 12], b"header", &[5; 16_000], &[23], &mut out);
            assert_eq!(aead.open_in_place(&[1; 12], b"header", &mut out), Ok(16_001));
            aead.clear();
        }
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before, "{algorithm:?}");
    }
}
