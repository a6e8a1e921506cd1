//! The CPU time that control groups allow this process: cgroup v2 (`cpu.max`) and v1 (`cpu.cfs_quota_us`).

use serde::Serialize;

use super::cgroup::{Version, groups};
use super::files::Files;

/// So much CPU time in every period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Quota {
    /// CPU time in microseconds.
    pub quota_us: u64,
    /// In this many microseconds; not 0.
    pub period_us: u64,
}

impl Quota {
    /// How many CPUs it could keep busy, rounded up; at least 1.
    pub fn cpus(self) -> usize {
        usize::try_from(self.quota_us.div_ceil(self.period_us).max(1)).unwrap_or(usize::MAX)
    }

    fn is_below(self, other: Self) -> bool {
        u128::from(self.quota_us) * u128::from(other.period_us)
            < u128::from(other.quota_us) * u128::from(self.period_us)
    }
}

impl std::fmt::Display for Quota {
    /// In CPUs, with two digits at most: `2.5`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hundredths = u128::from(self.quota_us) * 100 / u128::from(self.period_us);
        let text = format!("{}.{:02}", hundredths / 100, hundredths % 100);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// The strictest quota from this process's groups up to the roots; none if nothing limits it.
pub(super) fn read_quota(files: Files<'_>) -> Option<Quota> {
    let quotas = groups(files, "cpu").into_iter().filter_map(|(version, group)| match version {
        Version::One => read_v1(files, &group),
        Version::Two => read_v2(files, &group),
    });
    quotas.reduce(|a, b| if b.is_below(a) { b } else { a })
}

/// `max 100000`, or `250000 100000`.
fn read_v2(files: Files<'_>, dir: &str) -> Option<Quota> {
    let text = files.text(&format!("{dir}/cpu.max"))?;
    let mut words = text.split_whitespace();
    let quota_us = words.next()?.parse().ok()?;
    let period_us = words.next()?.parse().ok().filter(|&period| period > 0)?;
    Some(Quota { quota_us, period_us })
}

/// A quota of -1 is none.
fn read_v1(files: Files<'_>, dir: &str) -> Option<Quota> {
    let quota_us = files.number(&format!("{dir}/cpu.cfs_quota_us"))?;
    let period_us = files.number(&format!("{dir}/cpu.cfs_period_us")).filter(|&period| period > 0)?;
    Some(Quota { quota_us, period_us })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Machine;
    use super::*;

    fn read(machine: &Machine) -> Option<Quota> {
        read_quota(Files { root: machine.root() })
    }

    #[test]
    fn the_strictest_group_on_the_way_up_counts() {
        let machine = Machine::empty();
        machine.write("proc/self/cgroup", "0::/app/web");
        assert_eq!(read(&machine), None);
        machine.write("sys/fs/cgroup/app/web/cpu.max", "max 100000");
        assert_eq!(read(&machine), None);
        machine.write("sys/fs/cgroup/app/cpu.max", "250000 100000");
        assert_eq!(read(&machine).unwrap().to_string(), "2.5");
        machine.write("sys/fs/cgroup/app/web/cpu.max", "400000 100000");
        assert_eq!(read(&machine).unwrap().cpus(), 3);
        machine.write("sys/fs/cgroup/app/web/cpu.max", "20000 50000");
        assert_eq!((read(&machine).unwrap().to_string(), read(&machine).unwrap().cpus()), ("0.4".into(), 1));
    }

    #[test]
    fn inside_a_container_the_mount_is_the_group() {
        let machine = Machine::empty();
        machine.write("proc/self/cgroup", "0::/../../system.slice/docker-1.scope");
        machine.write("sys/fs/cgroup/cpu.max", "200000 100000");
        assert_eq!(read(&machine).unwrap().cpus(), 2);
    }

    #[test]
    fn version_one_is_read_too() {
        let machine = Machine::empty();
        machine.write("proc/self/cgroup", "7:cpuset:/a\n4:cpu,cpuacct:/a\n0::/");
        machine.write("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "-1");
        machine.write("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000");
        assert_eq!(read(&machine), None);
        machine.write("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "150000");
        assert_eq!(read(&machine).unwrap().to_string(), "1.5");
    }
}
