//! What a report says about the machine it was made on.

use std::fs;
use std::time::SystemTime;

use serde::Serialize;

use crate::procfs::Machine;
use crate::units::show_bytes;

/// Machine, kernel, versions and the command: what a reader needs to judge or repeat a figure.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// When, in UTC, as 2026-11-20T10:25:52Z.
    pub date: String,
    /// The command line.
    pub command: String,
    /// Version of this tool.
    pub version: &'static str,
    /// Kernel release.
    pub kernel: String,
    /// CPU model.
    pub cpu: String,
    /// CPUs that are online.
    pub cpus: usize,
    /// All memory, in bytes.
    pub memory_bytes: u64,
    /// A remark on how the figures came about, such as an emulated machine.
    pub note: Option<String>,
}

impl Setting {
    /// The setting of this run.
    pub fn now(note: Option<String>) -> Setting {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Setting {
            date: utc(SystemTime::now()),
            command: std::env::args().collect::<Vec<_>>().join(" "),
            version: env!("CARGO_PKG_VERSION"),
            kernel: kernel.trim().to_owned(),
            cpu: field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            memory_bytes: Machine::now().memory_total,
            note,
        }
    }

    /// The day, for file names.
    pub fn day(&self) -> &str {
        self.date.get(..10).unwrap_or(&self.date)
    }

    /// Lines of Markdown.
    pub fn markdown(&self) -> String {
        let memory = show_bytes(self.memory_bytes);
        let note = self.note.as_ref().map_or(String::new(), |note| format!("- **{note}**\n"));
        format!(
            "- {}, sluice-bench {}\n- Linux {}, {} x {}, {memory}\n- `{}`\n{note}",
            self.date, self.version, self.kernel, self.cpus, self.cpu, self.command
        )
    }
}

fn field<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}

/// A time as 2026-11-20T10:25:52Z.
fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = date_of(seconds / 86_400);
    let second = seconds % 86_400;
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The Gregorian date of a day since 1970-01-01, counting years from March so that the leap day comes last.
fn date_of(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day = days % 146_097;
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates() {
        let at = |seconds| utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(at(1_795_170_352), "2026-11-20T10:25:52Z");
    }

    #[test]
    fn the_cpu_is_found() {
        assert_eq!(
            field("processor\t: 0\nmodel name\t: AMD EPYC 9R45\n", "model name"),
            Some("AMD EPYC 9R45")
        );
    }
}
