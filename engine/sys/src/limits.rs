//! Limits of the process.

use std::io;

/// Soft and hard RLIMIT_NOFILE.
///
/// # Errors
/// The error of getrlimit(2).
pub fn descriptor_limit() -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure lives through the call.
    crate::socket::check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Raises the soft RLIMIT_NOFILE to the hard one and returns what it was and what it is.
///
/// # Errors
/// The errors of getrlimit(2) and setrlimit(2).
pub fn raise_descriptor_limit() -> io::Result<(u64, u64)> {
    let (soft, hard) = descriptor_limit()?;
    if soft < hard {
        let limit = libc::rlimit { rlim_cur: hard, rlim_max: hard };
        // SAFETY: the structure lives through the call.
        crate::socket::check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    }
    Ok((soft, hard))
}
