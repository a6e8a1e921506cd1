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
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(not_a_duration(text)),
    };
    // Only what does not fit is no number here.
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)) {
        Some(millis) => Ok(Duration::from_millis(millis)),
        None if number.is_empty() => Err(not_a_duration(text)),
        None => Err(Fault::new(format!("`{text}` is too long"))),
    }
}

/// What to write in place of something that is no duration.
fn not_a_duration(text: &str) -> Fault {
    if let Some(fault) = without_number(text) {
        return fault;
    }
    let fault = Fault::new(format!("`{text}` is not a duration"));
    let (number, unit) = split_number(text);
    if unit.is_empty() && !number.is_empty() {
        return fault.hint(format!("it needs a unit: did you mean {number}s"));
    }
    if let Some(meant) = meant_duration(text) {
        return fault.hint(format!("did you mean {}", show_duration(meant)));
    }
    fault.hint(match unit.trim() {
        "us" | "µs" | "usec" | "ns" => "the shortest is 1ms",
        _ if number.is_empty() => "write a whole number and a unit: 500ms, 10s, 2m or 1h",
        _ => "the units are ms, s, m and h",
    })
}

/// The sum of `1h 30m`, `1.5s`, `2 min`, `1d`; `None` if it is no whole number of milliseconds.
fn meant_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let mut rest = text;
    let mut millis = 0_u64;
    while !rest.is_empty() {
        let (number, after) = split_decimal(rest)?;
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let factor = match after[..end].trim().to_ascii_lowercase().as_str() {
            "ms" | "msec" | "millis" | "milliseconds" => 1,
            "s" | "sec" | "secs" | "second" | "seconds" => 1_000,
            "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
            "h" | "hr" | "hour" | "hours" => 3_600_000,
            "d" | "day" | "days" => 24 * 3_600_000,
            _ => return None,
        };
        millis = millis.checked_add(number.times(factor)?)?;
        rest = &after[end..];
    }
    (!text.is_empty()).then(|| Duration::from_millis(millis))
}

/// Reads a size in bytes: a whole number, alone or with `B`, `KiB`, `MiB` or `GiB`.
///
/// # Errors
/// Anything else, with the spelling that was probably meant.
pub fn parse_bytes(text: &str) -> Result<u64, Fault> {
    let (number, unit) = split_number(text);
    let factor = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(not_a_size(text)),
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)) {
        Some(bytes) => Ok(bytes),
        None if number.is_empty() => Err(not_a_size(text)),
        None => Err(Fault::new(format!("`{text}` is too large"))),
    }
}

/// What to write in place of something that is no size.
fn not_a_size(text: &str) -> Fault {
    if let Some(fault) = without_number(text) {
        return fault;
    }
    let fault = Fault::new(format!("`{text}` is not a size"));
    if let Some(meant) = meant_bytes(text) {
        return fault.hint(format!("did you mean {}", show_bytes(meant)));
    }
    fault.hint(match split_number(text).0 {
        "" => "write a whole number of bytes, or one with KiB, MiB or GiB",
        _ => "the units are B, KiB, MiB and GiB",
    })
}

/// The bytes of `12.5MiB`, `16k`, `1 gb`; `None` if they are no whole number.
fn meant_bytes(text: &str) -> Option<u64> {
    let (number, unit) = split_decimal(text.trim())?;
    number.times(match unit.trim().to_ascii_lowercase().as_str() {
        "b" | "byte" | "bytes" => 1,
        "k" | "kb" | "ki" | "kib" => 1 << 10,
        "m" | "mb" | "mi" | "mib" => 1 << 20,
        "g" | "gb" | "gi" | "gib" => 1 << 30,
        "t" | "tb" | "ti" | "tib" => 1 << 40,
        _ => return None,
    })
}

/// Reads a plain count.
///
/// # Errors
/// Anything but a whole number.
pub(crate) fn parse_count(text: &str) -> Result<u64, Fault> {
    // Rust reads +5 as well, the schema does not.
    let number = text.parse().ok().filter(|_| !text.starts_with('+'));
    number.ok_or_else(|| {
        if let Some(fault) = without_number(text) {
            return fault;
        }
        let fault = Fault::new(format!("`{text}` is not a whole number"));
        if let Some(percent) = text.strip_suffix('%').filter(|number| number.parse::<u64>().is_ok()) {
            return fault.hint(format!("write {percent}, without the sign and the quotes"));
        }
        match meant_count(text) {
            Some(meant) => fault.hint(format!("did you mean {meant}")),
            None => fault,
        }
    })
}

/// The number in `10k`, `1.5M`, `1_000`, `1,000`.
fn meant_count(text: &str) -> Option<u64> {
    let digits: String = text.chars().filter(|c| !matches!(c, '_' | ',' | ' ' | '\'')).collect();
    let (number, unit) = split_decimal(&digits)?;
    number.times(match unit {
        "" => 1,
        "k" | "K" => 1_000,
        "m" | "M" => 1_000_000,
        _ => return None,
    })
}

/// What is said of a negative number, and of a word for "no limit".
fn without_number(text: &str) -> Option<Fault> {
    const NO_LIMIT: &[&str] =
        &["unlimited", "infinity", "infinite", "inf", "none", "off", "never", "no", "max"];
    if text.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
        return Some(Fault::new(format!("`{text}` is negative")).hint("write 0 or more"));
    }
    let is_no_limit = NO_LIMIT.contains(&text.trim().to_ascii_lowercase().as_str());
    is_no_limit.then(|| {
        Fault::new(format!("`{text}` is not a number")).hint("0 means no limit, where that is possible")
    })
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

/// A number that may have a fraction: `12.5` is 125 tenths.
struct Decimal {
    digits: u64,
    parts: u64,
}

impl Decimal {
    /// `None` if the product is no whole number, or too large.
    fn times(&self, factor: u64) -> Option<u64> {
        let product = u128::from(self.digits) * u128::from(factor);
        let whole = product.is_multiple_of(u128::from(self.parts));
        u64::try_from(product / u128::from(self.parts)).ok().filter(|_| whole)
    }
}

/// The leading number, which may have a fraction, and what follows it.
fn split_decimal(text: &str) -> Option<(Decimal, &str)> {
    let (whole, rest) = split_number(text);
    let Some((fraction, rest)) = rest.strip_prefix('.').map(split_number) else {
        return Some((Decimal { digits: whole.parse().ok()?, parts: 1 }, rest));
    };
    let parts = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    Some((Decimal { digits: format!("{whole}{fraction}").parse().ok()?, parts }, rest))
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
            ("3d", "did you mean 72h"),
            ("3y", "ms, s, m and h"),
            ("-1s", "0 or more"),
            ("1.5s", "did you mean 1500ms"),
            ("0.5m", "did you mean 30s"),
            (".5s", "did you mean 500ms"),
            ("1.0005s", "ms, s, m and h"),
            ("1h30m", "did you mean 90m"),
            ("1m 30s", "did you mean 90s"),
            ("100us", "the shortest is 1ms"),
            ("off", "0 means no limit"),
            ("soon", "whole number and a unit"),
            ("", "whole number"),
            ("  ", "whole number"),
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
            ("1T", "1024GiB"),
            ("1P", "the units are"),
            ("12.5MiB", "did you mean 12800KiB"),
            ("0.3KiB", "the units are"),
            ("-5", "0 or more"),
            ("unlimited", "0 means no limit"),
            ("", "whole number"),
            ("x", "whole number"),
        ] {
            let fault = parse_bytes(text).unwrap_err();
            assert!(fault.hint.as_ref().is_some_and(|h| h.contains(hint)), "{text}: {fault}");
        }
        assert!(parse_bytes("99999999999999GiB").is_err());
        assert_eq!(
            (parse_count("5"), parse_count("+5").is_err(), parse_count("").is_err()),
            (Ok(5), true, true)
        );
    }

    #[test]
    fn counts() {
        assert_eq!(parse_count("100"), Ok(100));
        for (text, words) in [
            ("10k", "`10k` is not a whole number (hint: did you mean 10000)"),
            ("1.5M", "did you mean 1500000"),
            ("1_000", "did you mean 1000"),
            ("1,000", "did you mean 1000"),
            ("-5", "`-5` is negative (hint: write 0 or more)"),
            ("none", "0 means no limit"),
            ("10KiB", "is not a whole number"),
            ("two", "is not a whole number"),
            ("", "is not a whole number"),
        ] {
            let fault = parse_count(text).unwrap_err().to_string();
            assert!(fault.contains(words), "{text}: {fault}");
        }
    }
}
