//! How shards use the machine: pinning, steering, pages and polling. Keys at the top level of the file; one flag each.

use std::time::Duration;

use clap::Args;

use super::problem::{Fault, Report, closest};
use super::raw::{Field, Fields, Walk};
use crate::steering::Steering;
use sluice_sys::HugePages;

/// Longer than any network card takes to deliver: a typing error.
const BUSY_POLL_MAX: Duration = Duration::from_millis(10);

const PINNING: [(&str, bool); 2] = [("on", true), ("off", false)];
const STEERING: [(&str, Steering); 3] =
    [("off", Steering::Off), ("cpu", Steering::Cpu), ("load", Steering::Load)];
const HUGE_PAGES: [(&str, HugePages); 3] =
    [("off", HugePages::Off), ("transparent", HugePages::Transparent), ("reserved", HugePages::Reserved)];

/// How shards use the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Every shard stays on its CPU and takes its memory near it.
    pub pinning: bool,
    /// Which shard gets a connection.
    pub steering: Steering,
    /// Pages of the receive buffers.
    pub huge_pages: HugePages,
    /// How long a shard polls its network queues before it sleeps; `None` not at all.
    pub busy_poll: Option<Duration>,
}

impl Default for Host {
    fn default() -> Host {
        Host { pinning: true, steering: Steering::default(), huge_pages: HugePages::Off, busy_poll: None }
    }
}

/// The keys as written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawHost {
    pinning: Field<String>,
    steering: Field<String>,
    huge_pages: Field<String>,
    busy_poll: Field<String>,
}

/// The flags.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Shards and the machine")]
pub struct HostFlags {
    /// on: every shard stays on its CPU and takes its memory from the node of that CPU; off: the scheduler decides
    /// [default: on]
    #[arg(long, value_name = "on|off")]
    pub pinning: Option<String>,
    /// Which shard gets a connection: any, by a hash (off), that of the CPU which received it (cpu), or that one unless it
    /// has more to do than others (load); by a BPF program where CAP_BPF allows one [default: load]
    #[arg(long, value_name = "off|cpu|load")]
    pub steering: Option<String>,
    /// Pages of the receive buffers: off, transparent (where the kernel finds some), reserved (vm.nr_hugepages)
    /// [default: off]
    #[arg(long, value_name = "off|transparent|reserved")]
    pub huge_pages: Option<String>,
    /// Before it sleeps, a shard polls its network queues for so long, such as 50us: packets wait less, at the price of
    /// processor time. Needs Linux 6.9 [default: off]
    #[arg(long, value_name = "TIME|off")]
    pub busy_poll: Option<String>,
}

impl RawHost {
    pub(crate) fn read(walk: &mut Walk<'_>, top: &Fields<'_>) -> RawHost {
        RawHost {
            pinning: top.text(walk, "pinning"),
            steering: top.text(walk, "steering"),
            huge_pages: top.text(walk, "huge_pages"),
            busy_poll: top.text(walk, "busy_poll"),
        }
    }

    /// Takes over what the flags say.
    pub(crate) fn set(&mut self, flags: &HostFlags) {
        for (field, flag, value) in [
            (&mut self.pinning, "--pinning", &flags.pinning),
            (&mut self.steering, "--steering", &flags.steering),
            (&mut self.huge_pages, "--huge-pages", &flags.huge_pages),
            (&mut self.busy_poll, "--busy-poll", &flags.busy_poll),
        ] {
            if let Some(value) = value {
                *field = Field::flag(flag, value.clone());
            }
        }
    }
}

impl Host {
    pub(crate) fn check(raw: &RawHost, report: &mut Report) -> Host {
        let default = Host::default();
        Host {
            pinning: choose(&raw.pinning, "pinning", &PINNING, default.pinning, report),
            steering: choose(&raw.steering, "steering", &STEERING, default.steering, report),
            huge_pages: choose(&raw.huge_pages, "huge_pages", &HUGE_PAGES, default.huge_pages, report),
            busy_poll: check_busy_poll(&raw.busy_poll, report),
        }
    }
}

/// One of a few words.
fn choose<T: Copy>(
    field: &Field<String>,
    key: &str,
    choices: &[(&'static str, T)],
    default: T,
    report: &mut Report,
) -> T {
    let Some(given) = field.given() else { return default };
    if let Some((_, value)) = choices.iter().find(|(word, _)| *word == given.value) {
        return *value;
    }
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    let fault = Fault::new(format!("`{}` is not a choice", given.value));
    let hint = match closest(&given.value, words.iter().copied()) {
        Some(word) => format!("did you mean \"{word}\""),
        None => format!("one of {}", words.join(", ")),
    };
    report.error(&given.at, key, fault.hint(hint));
    default
}

fn check_busy_poll(field: &Field<String>, report: &mut Report) -> Option<Duration> {
    let given = field.given()?;
    if given.value == "off" {
        return None;
    }
    let number =
        given.value.strip_suffix("us").map(str::trim_end).and_then(|number| number.parse::<u64>().ok());
    let fault = match number.map(Duration::from_micros) {
        Some(Duration::ZERO) => Fault::new("no time to poll").hint("\"off\" switches it off"),
        Some(time) if time > BUSY_POLL_MAX => {
            Fault::new(format!("{} is too long", given.value)).hint("at most 10000us; 50us is usual")
        }
        Some(time) => return Some(time),
        None => Fault::new(format!("`{}` is not a number of microseconds", given.value))
            .hint("such as \"50us\", or \"off\""),
    };
    report.error(&given.at, "busy_poll", fault);
    None
}

#[cfg(test)]
mod tests {
    use super::super::problem::{Located, Origin};
    use super::*;

    fn check(set: impl FnOnce(&mut HostFlags)) -> Result<Host, String> {
        let (mut flags, mut raw, mut report) = (HostFlags::default(), RawHost::default(), Report::default());
        set(&mut flags);
        raw.set(&flags);
        let host = Host::check(&raw, &mut report);
        report.errors.first().map_or(Ok(host), |error| Err(error.to_string()))
    }

    #[test]
    fn words_and_defaults() {
        assert_eq!(check(|_| {}), Ok(Host::default()));
        let all = check(|flags| {
            flags.pinning = Some("off".into());
            flags.steering = Some("cpu".into());
            flags.huge_pages = Some("reserved".into());
            flags.busy_poll = Some("50us".into());
        });
        let want = Host {
            pinning: false,
            steering: Steering::Cpu,
            huge_pages: HugePages::Reserved,
            busy_poll: Some(Duration::from_micros(50)),
        };
        assert_eq!(all, Ok(want));
        assert_eq!(check(|flags| flags.busy_poll = Some("off".into())).map(|host| host.busy_poll), Ok(None));
    }

    #[test]
    fn slips_are_told_with_their_mending() {
        let steering = |word: &str| check(|flags| flags.steering = Some(word.into())).unwrap_err();
        assert_eq!(steering("cup"), "--steering: `cup` is not a choice (hint: did you mean \"cpu\")");
        assert_eq!(steering("hash"), "--steering: `hash` is not a choice (hint: one of off, cpu, load)");
        for (word, words) in [("50", "such as \"50us\""), ("0us", "\"off\""), ("1000000us", "at most")] {
            let error = check(|flags| flags.busy_poll = Some(word.into())).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_file_is_overruled_by_flags() {
        let at = Origin::CommandLine;
        let mut raw =
            RawHost { steering: Field::Given(Located::new("off".into(), at)), ..RawHost::default() };
        raw.set(&HostFlags { steering: Some("cpu".into()), ..HostFlags::default() });
        assert_eq!(Host::check(&raw, &mut Report::default()).steering, Steering::Cpu);
    }
}
