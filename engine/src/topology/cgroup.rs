//! The control groups of this process, where a limit of a controller may be written: its own group and all above it.
//!
//! A limit of any ancestor holds too, so `quota` and `memory_limit` take the strictest on the way up.

use super::files::Files;

/// Which interface a group's files have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// The directories of the groups of `controller` from this process's own up to the roots, of both versions. Not all
/// of them need exist.
pub(super) fn groups(files: Files<'_>, controller: &str) -> Vec<(Version, String)> {
    let lines = files.text("proc/self/cgroup").unwrap_or_default();
    lines.lines().flat_map(|line| groups_of(line, controller)).collect()
}

/// The groups of one line: `0::/path` is cgroup v2, `4:cpu,cpuacct:/path` a hierarchy of v1.
fn groups_of(line: &str, controller: &str) -> Vec<(Version, String)> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { return Vec::new() };
    let (version, mounts) = match controllers {
        "" => (Version::Two, ["sys/fs/cgroup".to_owned(), "sys/fs/cgroup/unified".to_owned()]),
        _ if controllers.split(',').any(|name| name == controller) => {
            (Version::One, [format!("sys/fs/cgroup/{controllers}"), format!("sys/fs/cgroup/{controller}")])
        }
        _ => return Vec::new(),
    };
    // Inside a container the path may be one of the host, which is not there: then the mount is the group.
    let group = |mount: &String, path: &str| (version, format!("{mount}{path}"));
    mounts.iter().flat_map(|mount| with_ancestors(path).map(move |path| group(mount, path))).collect()
}

/// `/a/b`, `/a` and the root as an empty path.
fn with_ancestors(path: &str) -> impl Iterator<Item = &str> {
    let path = path.trim_end_matches('/');
    std::iter::successors(Some(path), |path| path.rfind('/').map(|slash| &path[..slash]))
}
