//! The exit codes of the process, each written once: commands, help and manual have them from here.

use std::fmt::Write as _;
use std::process::ExitCode;

use sluice_sys::HostUnsupported;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It did what it was asked for.
    Done,
    /// A configuration, or what it needs now, is wrong.
    Refused,
    /// The command line is wrong.
    WrongFlags,
    /// No route gets the request that was asked about, or it is refused.
    NotServed,
    /// The kernel failed the ring of a running shard: EX_OSERR of sysexits.h.
    RingFailed,
    /// This host cannot run Sluice: EX_CONFIG.
    HostUnsupported,
}

impl Exit {
    /// All of them, in the order of their codes.
    pub const ALL: [Exit; 6] = [
        Exit::Done,
        Exit::Refused,
        Exit::WrongFlags,
        Exit::NotServed,
        Exit::RingFailed,
        Exit::HostUnsupported,
    ];

    /// The exit code.
    pub const fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Refused => 1,
            // As clap has it.
            Exit::WrongFlags => 2,
            Exit::NotServed => 3,
            Exit::RingFailed => 71,
            Exit::HostUnsupported => HostUnsupported::EXIT_CODE,
        }
    }

    /// What it means, for help and manual.
    pub const fn meaning(self) -> &'static str {
        match self {
            Exit::Done => "ended by a signal, or the command found nothing wrong",
            Exit::Refused => {
                "the configuration is wrong, or a name, an address or a CPU in it is not available now"
            }
            Exit::WrongFlags => "a flag or its value is wrong",
            Exit::NotServed => {
                "`explain`: no route gets the request (404, 405), or it is refused before or on its route"
            }
            Exit::RingFailed => "the kernel failed the ring of a running shard; start Sluice again",
            Exit::HostUnsupported => "this host cannot run Sluice; the message names the cause and the fix",
        }
    }

    /// A line for each code, for help texts.
    pub fn table() -> String {
        Exit::ALL.iter().fold(String::new(), |mut table, exit| {
            let _ = writeln!(table, "  {:2}  {}", exit.code(), exit.meaning());
            table
        })
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows `| CODE | MEANING |` of the section of exit codes.
    fn documented() -> Vec<(u8, String)> {
        let text = include_str!("../../docs/operations.md");
        let (_, section) = text.split_once("## Exit codes\n").expect("a section of exit codes");
        let rows = section.split("\n## ").next().unwrap_or_default().lines();
        let row = |line: &str| {
            let (code, meaning) = line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | ")?;
            Some((code.parse().ok()?, meaning.to_owned()))
        };
        rows.filter_map(row).collect()
    }

    #[test]
    fn the_manual_has_these_codes_and_no_others() {
        let ours: Vec<_> = Exit::ALL.iter().map(|exit| (exit.code(), exit.meaning().to_owned())).collect();
        assert_eq!(documented(), ours);
        assert!(ours.is_sorted_by_key(|(code, _)| *code));
    }
}
