//! How shards use the machine: pinning, steering, pages and polling.

use std::time::Duration;

use sluice_sys::HugePages;

use super::choices::Pinning;
use super::problem::{Fault, Report};
use super::table::Top;
use super::values::Field;
use crate::steering::Steering;

/// Longer than any network card takes to deliver: a typing error.
const BUSY_POLL_MAX: Duration = Duration::from_millis(10);

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

impl Host {
    pub(super) fn check(top: &Top, report: &mut Report) -> Host {
        Host {
            pinning: top.pinning == Pinning::On,
            steering: top.steering,
            huge_pages: top.huge_pages,
            busy_poll: check_busy_poll(&top.busy_poll, report),
        }
    }
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
    use super::super::raw::{CommandLine, Raw};
    use super::*;

    fn check(flags: &[(&'static str, &str)]) -> Result<Host, String> {
        let line = flags.iter().fold(CommandLine::default(), |line, (flag, value)| line.with(flag, *value));
        let mut raw = Raw::default();
        raw.apply(&line);
        let host = Host::check(&Top::settle(&raw.top), &mut raw.report);
        raw.report.errors.first().map_or(Ok(host), |error| Err(error.to_string()))
    }

    #[test]
    fn words_and_defaults() {
        assert_eq!(check(&[]), Ok(Host::default()));
        let all = [
            ("--pinning", "off"),
            ("--steering", "cpu"),
            ("--huge-pages", "reserved"),
            ("--busy-poll", "50us"),
        ];
        let want = Host {
            pinning: false,
            steering: Steering::Cpu,
            huge_pages: HugePages::Reserved,
            busy_poll: Some(Duration::from_micros(50)),
        };
        assert_eq!(check(&all), Ok(want));
        assert_eq!(check(&[("--busy-poll", "off")]).map(|host| host.busy_poll), Ok(None));
    }

    #[test]
    fn slips_are_reported_with_a_correction() {
        let steering = |word: &str| check(&[("--steering", word)]).unwrap_err();
        assert_eq!(steering("cup"), "--steering: `cup` is none of off, cpu, load (hint: did you mean `cpu`)");
        assert_eq!(steering("hash"), "--steering: `hash` is none of off, cpu, load");
        for (word, words) in [("50", "such as \"50us\""), ("0us", "\"off\""), ("1000000us", "at most")] {
            let error = check(&[("--busy-poll", word)]).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
