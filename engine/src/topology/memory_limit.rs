//! The memory that control groups allow this process: cgroup v2 (`memory.max`, `memory.high`) and v1
//! (`memory.limit_in_bytes`).
//!
//! Above `memory.high` a process is slowed down instead of killed; it should not plan with that memory either.

use super::cgroup::{Version, groups};
use super::files::Files;

/// From here on a number of v1 means no limit: it writes the largest one it can count, rounded to pages.
const UNLIMITED_FROM: u64 = 1 << 60;

/// The strictest limit in bytes from this process's groups up to the roots; none if nothing limits it.
pub(super) fn read_memory_limit(files: Files<'_>) -> Option<u64> {
    let limits = groups(files, "memory").into_iter().flat_map(|(version, group)| {
        let names: &[&str] = match version {
            Version::One => &["memory.limit_in_bytes"],
            Version::Two => &["memory.max", "memory.high"],
        };
        names.iter().filter_map(move |name| files.number::<u64>(&format!("{group}/{name}")))
    });
    limits.filter(|&bytes| bytes < UNLIMITED_FROM).min()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Machine;
    use super::*;

    const MIB: u64 = 1 << 20;

    fn read(machine: &Machine) -> Option<u64> {
        read_memory_limit(Files { root: machine.root() })
    }

    #[test]
    fn the_strictest_group_on_the_way_up_counts() {
        let machine = Machine::empty();
        assert_eq!(read(&machine), None);
        machine.write("proc/self/cgroup", "0::/app/web");
        assert_eq!(read(&machine), None);
        machine.write("sys/fs/cgroup/app/web/memory.max", "max");
        assert_eq!(read(&machine), None);
        machine.write("sys/fs/cgroup/app/memory.max", "25165824");
        assert_eq!(read(&machine), Some(24 * MIB));
        machine.write("sys/fs/cgroup/app/web/memory.max", "67108864");
        assert_eq!(read(&machine), Some(24 * MIB));
        machine.write("sys/fs/cgroup/app/web/memory.max", "16777216");
        assert_eq!(read(&machine), Some(16 * MIB));
        machine.write("sys/fs/cgroup/app/web/memory.high", "8388608");
        assert_eq!(read(&machine), Some(8 * MIB));
    }

    #[test]
    fn inside_a_container_the_mount_is_the_group() {
        let machine = Machine::empty();
        machine.write("proc/self/cgroup", "0::/../../system.slice/docker-1.scope");
        machine.write("sys/fs/cgroup/memory.max", "1073741824");
        assert_eq!(read(&machine), Some(1024 * MIB));
    }

    #[test]
    fn version_one_is_read_too() {
        let machine = Machine::empty();
        machine.write("proc/self/cgroup", "5:devices:/a\n4:memory:/a/b\n0::/");
        machine.write("sys/fs/cgroup/devices/a/memory.limit_in_bytes", "4096");
        machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712");
        machine.write("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854710272");
        assert_eq!(read(&machine), None);
        machine.write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "536870912");
        assert_eq!(read(&machine), Some(512 * MIB));
        machine.write("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "268435456");
        assert_eq!(read(&machine), Some(256 * MIB));
    }

    #[test]
    fn a_hybrid_host_has_both() {
        let machine = Machine::empty();
        machine.write("proc/self/cgroup", "4:memory:/a\n0::/b");
        machine.write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "536870912");
        machine.write("sys/fs/cgroup/unified/b/memory.max", "268435456");
        assert_eq!(read(&machine), Some(256 * MIB));
    }
}
