//! TCP's state of a connection (TCP_INFO).

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

/// Where `head` has `tcpi_last_data_sent`.
const LAST_DATA_SENT: usize = 11;

/// How long ago TCP last sent bytes of ours, in milliseconds; what it sends to ask for room does not count.
pub(crate) fn last_data_sent_ms(fd: RawFd) -> io::Result<u64> {
    Ok(u64::from(tcp_info(fd)?.head[LAST_DATA_SENT]))
}

/// Bytes sent that the peer's kernel has not acknowledged. `tcpi_bytes_acked` counts our SYN too.
pub(crate) fn unacknowledged(fd: RawFd) -> io::Result<u64> {
    let info = tcp_info(fd)?;
    Ok((info.bytes_sent - info.bytes_retrans + 1).saturating_sub(info.bytes_acked))
}

fn tcp_info(fd: RawFd) -> io::Result<TcpInfo> {
    let mut info = TcpInfo::default();
    let mut bytes = size_of::<TcpInfo>() as libc::socklen_t;
    // SAFETY: the structure is as long as stated, plain integers, and lives through the call.
    crate::socket::check(unsafe {
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut bytes)
    })?;
    if (bytes as usize) < size_of::<TcpInfo>() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(info)
}
