//! Durations, sizes and counts as people write them: `10s`, `16KiB`, `100`.
//!
//! One spelling each way: no fractions, no decimal kilobytes, no bare number where a unit decides the meaning.

use std::fmt::Write as _;
use std::time::Duration;

use super::problem::Fault;

/// Reads a duration: a whole number and one of `ms`, `s`, `m`, `h`.
///
/// # Errors
/// Anything else, with the spelling that was probably meant.
pub fn parse_duration(text: &str) -> Result<Duration, Fault> {
    let (number, unit) = split_number(text);
    let bad = || Fault::new(format!("`{text}` is not a duration"));
    let Ok(number) = number.parse::<u64>() else {
        return Err(bad().hint("write a whole number and a unit: 500ms, 10s, 2m or 1h"));
    };
    let millis = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "" => return Err(bad().hint(format!("it needs a unit: did you mean {number}s"))),
        _ => {
            let unit = match unit.trim().to_ascii_lowercase().as_str() {
                "ms" | "msec" | "millis" | "milliseconds" => "ms",
                "m" | "min" | "mins" | "minute" | "minutes" => "m",
                "h" | "hr" | "hour" | "hours" => "h",
                "s" | "sec" | "secs" | "second" | "seconds" => "s",
                _ => return Err(bad().hint("the units are ms, s, m and h")),
            };
            return Err(bad().hint(format!("did you mean {number}{unit}")));
        }
    };
    millis.map(Duration::from_millis).ok_or_else(|| Fault::new(format!("`{text}` is too long")))
}

/// Reads a size in bytes: a whole number, alone or with `B`, `KiB`, `MiB` or `GiB`.
///
/// # Errors
/// Anything else, with the spelling that was probably meant.
pub fn parse_bytes(text: &str) -> Result<u64, Fault> {
    let (number, unit) = split_number(text);
    let bad = || Fault::new(format!("`{text}` is not a size"));
    let Ok(number) = number.parse::<u64>() else {
        return Err(bad().hint("write a whole number of bytes, or one with KiB, MiB or GiB"));
    };
    let factor = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => {
            let unit = match unit.trim().to_ascii_lowercase().as_str() {
                "k" | "kb" | "ki" | "kib" => "KiB",
                "m" | "mb" | "mi" | "mib" => "MiB",
                "g" | "gb" | "gi" | "gib" => "GiB",
                _ => return Err(bad().hint("the units are B, KiB, MiB and GiB")),
            };
            return Err(bad().hint(format!("did you mean {number}{unit}")));
        }
    };
    number.checked_mul(factor).ok_or_else(|| Fault::new(format!("`{text}` is too large")))
}

/// Reads a plain count.
///
/// # Errors
/// Anything but a whole number.
pub(crate) fn parse_count(text: &str) -> Result<u64, Fault> {
    text.parse().map_err(|_| Fault::new(format!("`{text}` is not a whole number")))
}

/// Writes a duration the way [`parse_duration`] reads it, in the largest unit that loses nothing.
pub fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0 => "0s".to_owned(),
        _ if millis.is_multiple_of(3_600_000) => format!("{}h", millis / 3_600_000),
        _ if millis.is_multiple_of(60_000) => format!("{}m", millis / 60_000),
        _ if millis.is_multiple_of(1_000) => format!("{}s", millis / 1_000),
        _ => format!("{millis}ms"),
    }
}

/// Writes a size the way [`parse_bytes`] reads it, in the largest unit that loses nothing.
pub fn show_bytes(bytes: u64) -> String {
    let mut text = String::new();
    let (number, unit) = match bytes {
        0 => (0, ""),
        _ if bytes.is_multiple_of(1 << 30) => (bytes >> 30, "GiB"),
        _ if bytes.is_multiple_of(1 << 20) => (bytes >> 20, "MiB"),
        _ if bytes.is_multiple_of(1 << 10) => (bytes >> 10, "KiB"),
        _ => (bytes, ""),
    };
    let _ = write!(text, "{number}{unit}");
    text
}

/// The leading digits and what follows them.
fn split_number(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("1h", 3_600_000), ("0s", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
            assert_eq!(show_duration(Duration::from_millis(millis)), text);
        }
        for (text, hint) in [
            ("10", "did you mean 10s"),
            ("10 s", "did you mean 10s"),
            ("5min", "did you mean 5m"),
            ("3d", "ms, s, m and h"),
            ("-1s", "whole number"),
            ("1.5s", "ms, s, m and h"),
            ("", "whole number"),
        ] {
            let fault = parse_duration(text).unwrap_err();
            assert!(fault.hint.as_ref().is_some_and(|h| h.contains(hint)), "{text}: {fault}");
        }
        assert!(parse_duration("99999999999999999999s").is_err());
        assert!(parse_duration("9999999999999999999h").is_err());
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("16KiB", 16 << 10), ("1MiB", 1 << 20), ("1GiB", 1 << 30), ("1000", 1000)] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
            assert_eq!(show_bytes(bytes), text);
        }
        assert_eq!(parse_bytes("7B"), Ok(7));
        for (text, hint) in [
            ("16k", "16KiB"),
            ("16KB", "16KiB"),
            ("1 MiB", "1MiB"),
            ("1mb", "1MiB"),
            ("1T", "KiB"),
            ("x", "whole number"),
        ] {
            let fault = parse_bytes(text).unwrap_err();
            assert!(fault.hint.as_ref().is_some_and(|h| h.contains(hint)), "{text}: {fault}");
        }
        assert!(parse_bytes("99999999999999GiB").is_err());
    }
}
