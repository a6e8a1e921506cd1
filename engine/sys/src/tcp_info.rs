//! What TCP knows about a connection.

use std::io;
use std::os::fd::RawFd;

/// The start of the kernel's `struct tcp_info` (include/uapi/linux/tcp.h) up to `tcpi_bytes_retrans`; the kernel
/// fills in as much as is asked for. Linux 4.19 or newer has all of it.
#[repr(C)]
#[derive(Default)]
struct TcpInfo {
    head: [u32; 26],
    pacing_rate: u64,
    max_pacing_rate: u64,
    bytes_acked: u64,
    bytes_received: u64,
    segs: [u32; 2],
    notsent_bytes: u32,
    min_rtt: u32,
    data_segs: [u32; 2],
    delivery_rate: u64,
    busy_time: u64,
    rwnd_limited: u64,
    sndbuf_limited: u64,
    delivered: [u32; 2],
    bytes_sent: u64,
    bytes_retrans: u64,
}

/// Bytes sent that the peer's kernel has not acknowledged. `tcpi_bytes_acked` counts our SYN too.
pub(crate) fn unacknowledged(fd: RawFd) -> io::Result<u64> {
    let mut info = TcpInfo::default();
    let mut bytes = size_of::<TcpInfo>() as libc::socklen_t;
    // SAFETY: the structure is as long as said, plain integers, and lives through the call.
    crate::socket::check(unsafe {
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut bytes)
    })?;
    if (bytes as usize) < size_of::<TcpInfo>() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok((info.bytes_sent - info.bytes_retrans + 1).saturating_sub(info.bytes_acked))
}
