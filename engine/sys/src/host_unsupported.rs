//! Why this host cannot run a shard, and what to do about it: one cause, one fix, one line each.

use std::fmt;
use std::io;

use crate::files::huge_page_bytes;

/// The host, the kernel or a limit does not allow what Sluice needs. There is no fallback: the process says this
/// and ends with [`HostUnsupported::EXIT_CODE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostUnsupported {
    /// The cause: a lack, or a prohibition.
    pub cause: String,
    /// The cure for the operator.
    pub fix: String,
}

impl HostUnsupported {
    /// EX_CONFIG of sysexits.h.
    pub const EXIT_CODE: u8 = 78;

    /// A cause with its fix.
    pub fn new(cause: impl Into<String>, fix: impl Into<String>) -> HostUnsupported {
        HostUnsupported { cause: cause.into(), fix: fix.into() }
    }

    /// Explains why there is no memory of reserved huge pages for the receive buffers.
    pub(crate) fn from_huge_pages(error: &io::Error, bytes: usize) -> HostUnsupported {
        let page = huge_page_bytes();
        if error.raw_os_error() != Some(libc::ENOMEM) {
            return HostUnsupported::new(
                format!("kernel {} has no huge pages to set aside ({error})", kernel_release()),
                "run on one with CONFIG_HUGETLBFS=y, or with --huge-pages transparent",
            );
        }
        HostUnsupported::new(
            format!("there are not enough reserved huge pages for the receive buffers ({error})"),
            format!(
                "set {} of {} KiB aside for every shard (sysctl -w vm.nr_hugepages), or use --huge-pages transparent",
                bytes.div_ceil(page),
                page >> 10
            ),
        )
    }

    /// Explains why the kernel does not take receive buffers.
    pub(crate) fn from_buffer_ring(error: &io::Error) -> HostUnsupported {
        HostUnsupported::new(
            format!("the kernel refuses the receive buffer ring: {error}"),
            "raise RLIMIT_MEMLOCK (ulimit -l; LimitMEMLOCK= in systemd) or the memory cgroup",
        )
    }

    /// Explains why other threads cannot wake a shard's tasks.
    pub(crate) fn from_eventfd(error: &io::Error) -> HostUnsupported {
        HostUnsupported::new(
            format!("there is no eventfd for wakes from other threads: {error}"),
            "raise RLIMIT_NOFILE (ulimit -n; LimitNOFILE= in systemd), or allow eventfd2 in the seccomp profile",
        )
    }

    /// Explains why the ring cannot poll network queues.
    pub(crate) fn from_busy_poll(error: &io::Error) -> HostUnsupported {
        HostUnsupported::new(
            format!("io_uring of kernel {} cannot poll network queues ({error})", kernel_release()),
            "run on Linux 6.9 or newer with CONFIG_NET_RX_BUSY_POLL=y, or without --busy-poll",
        )
    }

    /// Explains an error of io_uring_setup(2).
    pub(crate) fn from_setup(error: &io::Error) -> HostUnsupported {
        let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
        explain_setup(error.raw_os_error().unwrap_or(0), disabled.trim(), &kernel_release())
    }
}

impl fmt::Display for HostUnsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.cause, self.fix)
    }
}

impl std::error::Error for HostUnsupported {}

fn explain_setup(errno: i32, io_uring_disabled: &str, release: &str) -> HostUnsupported {
    match (errno, io_uring_disabled) {
        (libc::EPERM, "1" | "2") => HostUnsupported::new(
            format!("io_uring is disabled by the sysctl kernel.io_uring_disabled={io_uring_disabled}"),
            "set it to 0 (sysctl -w kernel.io_uring_disabled=0), or to 1 and run in the group \
             kernel.io_uring_group",
        ),
        (libc::EPERM | libc::EACCES, _) => HostUnsupported::new(
            "io_uring_setup was refused (EPERM): a seccomp or security policy forbids io_uring",
            "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile",
        ),
        (libc::ENOSYS, _) => HostUnsupported::new(
            format!("io_uring is missing (ENOSYS) on kernel {release}: not built in, or hidden by seccomp"),
            "run on Linux 6.1 or newer with CONFIG_IO_URING=y and a seccomp profile that allows io_uring",
        ),
        (libc::ENOMEM, _) => HostUnsupported::new(
            "the kernel has no memory for the ring (ENOMEM): the locked-memory limit or the memory cgroup is too low",
            "raise RLIMIT_MEMLOCK (ulimit -l; LimitMEMLOCK= in systemd), or run fewer shards",
        ),
        (libc::EMFILE | libc::ENFILE, _) => HostUnsupported::new(
            "no descriptor is left for the ring",
            "raise RLIMIT_NOFILE (ulimit -n; LimitNOFILE= in systemd) or fs.file-max",
        ),
        (libc::EINVAL, _) => HostUnsupported::new(
            format!("kernel {release} does not know SINGLE_ISSUER and DEFER_TASKRUN"),
            "run on Linux 6.1 or newer",
        ),
        (other, _) => HostUnsupported::new(
            format!("io_uring_setup failed: {}", io::Error::from_raw_os_error(other)),
            "check the kernel log (dmesg) for the reason",
        ),
    }
}

/// The kernel release as uname(2) tells it, such as `6.12.41-cloud-amd64`.
pub(crate) fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// Major and minor number at the start of a kernel release.
pub(crate) fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_errno_names_its_own_cause() {
        let say = |errno, disabled| explain_setup(errno, disabled, "6.12.1").to_string();
        assert!(say(libc::EPERM, "2").contains("kernel.io_uring_disabled=2"));
        assert!(say(libc::EPERM, "0").contains("seccomp"));
        assert!(say(libc::ENOSYS, "").contains("ENOSYS"));
        assert!(say(libc::ENOMEM, "0").contains("RLIMIT_MEMLOCK"));
        assert!(say(libc::EMFILE, "0").contains("RLIMIT_NOFILE"));
        assert!(say(libc::EINVAL, "0").contains("6.1 or newer"));
    }

    #[test]
    fn huge_pages_that_are_lacking_and_those_that_do_not_exist_differ() {
        let say = |errno| {
            HostUnsupported::from_huge_pages(&io::Error::from_raw_os_error(errno), 1 << 30).to_string()
        };
        assert!(say(libc::ENOMEM).contains("aside for every shard"));
        assert!(say(libc::EINVAL).contains("CONFIG_HUGETLBFS"));
    }

    #[test]
    fn reads_releases() {
        assert_eq!(kernel_version("6.12.41+deb13-cloud-amd64"), Some((6, 12)));
        assert_eq!(kernel_version("6.1"), Some((6, 1)));
        assert_eq!(kernel_version("six"), None);
    }
}
