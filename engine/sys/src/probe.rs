//! Whether this kernel has what the ring relies on, asked once at start.

use io_uring::{Probe, opcode};

use crate::host_unsupported::{HostUnsupported, kernel_release, kernel_version};
use crate::ring::Ring;

/// A kernel version: major, minor and patch level.
type Version = (u32, u32, u32);

/// The oldest kernel Sluice runs on: DEFER_TASKRUN and multishot receive are complete there.
const KERNEL_FLOOR: (u32, u32) = (6, 1);

/// Of the 6.1 series, the level with all fixes to what the ring relies on that its change logs name up to 6.1.187. Older ones
/// run with a warning. The fixes that matter most (docs/operations.md says what happens without them):
///
/// | level | fix | concerns |
/// |---|---|---|
/// | 6.1.129 | io_uring: fix multishots with selected buffers | receive buffers |
/// | 6.1.135 | io_uring/net: fix accept multishot handling | accepting |
/// | 6.1.175 | io_uring/poll: fix multishot recv missing EOF on wakeup race | a peer's last bytes and its end together |
const KERNEL_PATCH_FLOOR: (u32, u32, u32) = (6, 1, 175);

const NEEDED: [(u8, &str); 10] = [
    (opcode::AcceptMulti::CODE, "ACCEPT"),
    (opcode::RecvMulti::CODE, "RECV"),
    (opcode::Send::CODE, "SEND"),
    (opcode::SendMsg::CODE, "SENDMSG"),
    (opcode::Connect::CODE, "CONNECT"),
    (opcode::Close::CODE, "CLOSE"),
    (opcode::PollAdd::CODE, "POLL_ADD"),
    (opcode::Splice::CODE, "SPLICE"),
    (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
    (opcode::MsgRingData::CODE, "MSG_RING"),
];

/// Checks the kernel's version and the operations the ring uses.
///
/// # Errors
/// [`HostUnsupported`] names what is missing.
pub(crate) fn check(ring: &Ring) -> Result<(), HostUnsupported> {
    let release = kernel_release();
    if kernel_version(&release).is_some_and(|version| version < KERNEL_FLOOR) {
        return Err(too_old(&format!("kernel {release} is older than 6.1")));
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| HostUnsupported::from_setup(&error))?;
    match NEEDED.iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, name)) => Err(too_old(&format!("io_uring of kernel {release} lacks {name}"))),
        None => Ok(()),
    }
}

/// A warning about this kernel, if there is one.
pub fn kernel_warning() -> Option<String> {
    let build = std::fs::read_to_string("/proc/version").unwrap_or_default();
    warning_about(&kernel_release(), &build)
}

fn warning_about(release: &str, build: &str) -> Option<String> {
    let (major, minor, patch) = KERNEL_PATCH_FLOOR;
    let version = patch_level(release, build)?;
    let is_older = (version.0, version.1) == (major, minor) && version.2 < patch;
    is_older.then(|| {
        format!(
            "kernel {}.{}.{} lacks fixes to io_uring (hint: run {major}.{minor}.{patch} or newer; docs/operations.md, \
             Kernels)",
            version.0, version.1, version.2
        )
    })
}

/// The level of a stable series. Debian's releases have none (6.1.0-42-amd64 is an ABI), the build behind them has. `None`
/// where a distribution has left it out.
fn patch_level(release: &str, build: &str) -> Option<Version> {
    let debian = build.split_once(" Debian ").map(|(_, version)| version);
    let (major, minor, patch, suffix) = numbers(debian.unwrap_or(release))?;
    let is_left_out = debian.is_none() && patch == 0 && !suffix.is_empty();
    (!is_left_out).then_some((major, minor, patch))
}

/// The three numbers at the start of a version, and what comes behind them.
fn numbers(version: &str) -> Option<(u32, u32, u32, &str)> {
    let mut parts = version.trim().splitn(3, '.');
    let (major, minor, rest) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?);
    let (patch, suffix) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
    Some((major, minor, patch.parse().ok()?, suffix))
}

fn too_old(cause: &str) -> HostUnsupported {
    HostUnsupported::new(cause, "run on Linux 6.1 or newer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_level_of_the_oldest_series_is_warned_about_and_no_other() {
        let debian = |level| {
            format!("Linux version 6.1.0-42-amd64 (gcc) #1 SMP PREEMPT_DYNAMIC Debian {level}-1 (2026-01-01)")
        };
        let vanilla = "Linux version (gcc) #1 SMP";
        let rows: [(&str, &str, Option<&str>); 10] = [
            ("6.1.174", vanilla, Some("6.1.174")),
            ("6.1.119-129.201.amzn2023.x86_64", vanilla, Some("6.1.119")),
            ("6.1.0", vanilla, Some("6.1.0")),
            ("6.1.0-42-amd64", &debian("6.1.128"), Some("6.1.128")),
            ("6.1.0-42-amd64", &debian("6.1.187"), None),
            ("6.1.0-1033-oem", vanilla, None),
            ("6.1.175", vanilla, None),
            ("6.12.1", vanilla, None),
            ("6.18.44-fc-v657", vanilla, None),
            ("", "", None),
        ];
        for (release, build, named) in rows {
            let warning = warning_about(release, build);
            assert_eq!(warning.is_some(), named.is_some(), "{release}, {build}: {warning:?}");
            let names_it = named.is_none_or(|named| {
                warning.is_some_and(|warning| warning.contains(&format!("kernel {named} ")))
            });
            assert!(names_it, "{release}");
        }
    }
}
