//! Files of the kernel below a root: `/` in earnest, a directory in tests.

use std::path::{Path, PathBuf};

use super::{CpuSet, TopologyError};

/// The files below a root.
#[derive(Clone, Copy)]
pub(super) struct Files<'r> {
    pub(super) root: &'r Path,
}

impl Files<'_> {
    pub(super) fn error(self, file: &str, what: impl Into<String>) -> TopologyError {
        TopologyError { file: self.root.join(file), what: what.into() }
    }

    pub(super) fn text(self, file: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(file)).ok()
    }

    /// A file that holds one number.
    pub(super) fn number<N: std::str::FromStr>(self, file: &str) -> Option<N> {
        self.text(file)?.trim().parse().ok()
    }

    /// A file that holds a list; none if there is no such file.
    pub(super) fn list(self, file: &str) -> Result<Option<CpuSet>, TopologyError> {
        let Some(text) = self.text(file) else { return Ok(None) };
        CpuSet::parse(&text).map(Some).map_err(|what| self.error(file, what))
    }

    /// CPUs in a file that holds a list, or else in one that holds a mask: some kernels offer only that.
    pub(super) fn cpus(self, list: &str, mask: &str) -> Result<Option<CpuSet>, TopologyError> {
        match self.list(list)? {
            Some(cpus) => Ok(Some(cpus)),
            None => Ok(self.text(mask).map(|mask| CpuSet::from_mask(&mask))),
        }
    }

    /// A line of `/proc/self/status` that holds a list.
    pub(super) fn status_list(self, status: &str, name: &str) -> Result<Option<CpuSet>, TopologyError> {
        let Some(text) = status.lines().find_map(|line| line.strip_prefix(name)) else { return Ok(None) };
        CpuSet::parse(text).map(Some).map_err(|what| self.error("proc/self/status", what))
    }

    /// The names in a directory, in order; empty if there is none.
    pub(super) fn names(self, dir: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.root.join(dir)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    /// The numbers N of the entries `{prefix}N`, in rising order.
    pub(super) fn numbered(self, dir: &str, prefix: &str) -> Vec<usize> {
        let number = |name: &String| name.strip_prefix(prefix)?.parse().ok();
        let mut numbers: Vec<usize> = self.names(dir).iter().filter_map(number).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Where a link leads, below the root.
    pub(super) fn real(self, file: &str) -> Option<PathBuf> {
        let root = self.root.canonicalize().ok()?;
        let real = self.root.join(file).canonicalize().ok()?;
        real.strip_prefix(root).ok().map(Path::to_owned)
    }

    /// A meminfo file, of the machine or of a node.
    pub(super) fn meminfo(self, file: &str) -> MemInfo {
        MemInfo(self.text(file).unwrap_or_default())
    }
}

/// The text of a meminfo file: lines such as `MemTotal: 16 kB`, those of a node with `Node 0` before.
pub(super) struct MemInfo(String);

impl MemInfo {
    /// A field in bytes.
    pub(super) fn bytes(&self, name: &str) -> Option<u64> {
        let kib = self.0.lines().find_map(|line| {
            let mut words = line.split_whitespace().skip_while(|word| word.strip_suffix(':') != Some(name));
            words.nth(1)?.parse::<u64>().ok()
        });
        kib.map(|kib| kib.saturating_mul(1024))
    }

    /// All memory; 0 if it does not say.
    pub(super) fn total(&self) -> u64 {
        self.bytes("MemTotal").unwrap_or(0)
    }

    /// Memory that is available without swapping. The kernel estimates it for the machine only; of a node it is what is free and
    /// what is held for files and can be given back.
    pub(super) fn available(&self) -> Option<u64> {
        let estimated = self.bytes("MemAvailable");
        estimated.or_else(|| {
            let reclaimable = ["Active(file)", "Inactive(file)", "SReclaimable"];
            let reclaimable = reclaimable.map(|name| self.bytes(name).unwrap_or(0));
            Some(reclaimable.into_iter().fold(self.bytes("MemFree")?, u64::saturating_add))
        })
    }
}
