//! Names and times as text for logs, header fields and people: always printable ASCII, always bounded.

use std::fmt::Write as _;

use x509_parser::asn1_rs::{Any, Class, Tag};
use x509_parser::x509::X509Name;

/// The longest text that is made of a name, and of all names together.
pub(super) const TEXT_MAX: usize = 2048;

/// What stands for the parts that did not fit.
const CUT: &str = "...";

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Base64 with padding (RFC 4648, section 4).
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let at = |place: usize| u32::from(chunk.get(place).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            text.push(if digit > chunk.len() { '=' } else { char::from(DIGITS[value as usize]) });
        }
    }
    text
}

/// A time in seconds since 1970 as `2026-11-22 03:34:35 UTC`.
pub fn utc(time_s: i64) -> String {
    let (days, seconds) = (time_s.div_euclid(86_400), time_s.rem_euclid(86_400));
    let (year, month, day) = date(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// Year, month and day by the days since 1970, in the calendar that begins its years in March: the day of a leap comes last.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days.saturating_add(719_468);
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// A name as RFC 4514 writes it: the last part first, everything that is not printable ASCII as `\XX`.
pub(super) fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for (place, part) in parts.into_iter().rev().enumerate() {
        for (at, attribute) in part.iter().enumerate() {
            let separator = match (place, at) {
                (0, 0) => "",
                (_, 0) => ",",
                _ => "+",
            };
            let oid = attribute.attr_type().to_id_string();
            let kind = attribute_name(&oid);
            let value = attribute_value(attribute.attr_value());
            if !append(&mut text, &format!("{separator}{kind}={value}")) {
                return text;
            }
        }
    }
    text
}

/// Appends a part, or the mark of a cut as a part of its own if it does not fit.
pub(super) fn append(text: &mut String, part: &str) -> bool {
    let fits = text.len() + part.len() + CUT.len() < TEXT_MAX;
    let separator = if fits || text.is_empty() { "" } else { "," };
    text.push_str(separator);
    text.push_str(if fits { part } else { CUT });
    fits
}

/// Those of RFC 4514, and what OpenSSL writes for an address.
fn attribute_name(oid: &str) -> &str {
    match oid {
        "2.5.4.3" => "CN",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.6" => "C",
        "2.5.4.9" => "STREET",
        "0.9.2342.19200300.100.1.25" => "DC",
        "0.9.2342.19200300.100.1.1" => "UID",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => oid,
    }
}

fn attribute_value(value: &Any<'_>) -> String {
    let bytes = value.as_bytes();
    let wide =
        |size| bytes.chunks(size).map(|chunk| chunk.iter().fold(0, |sum, &byte| sum << 8 | u32::from(byte)));
    let text_of = |codes: &mut dyn Iterator<Item = u32>| {
        codes.map(|code| char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)).collect::<String>()
    };
    match (value.class(), value.tag()) {
        (
            Class::Universal,
            Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString,
        ) => escape(bytes),
        (Class::Universal, Tag::T61String) => escape(text_of(&mut wide(1)).as_bytes()),
        (Class::Universal, Tag::BmpString) => escape(text_of(&mut wide(2)).as_bytes()),
        (Class::Universal, Tag::UniversalString) => escape(text_of(&mut wide(4)).as_bytes()),
        _ => format!("#{}", hex(bytes)),
    }
}

/// Escapes what has a meaning in RFC 4514 or is not printable ASCII, and stops where more would not be shown.
pub(super) fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (place, &byte) in bytes.iter().enumerate() {
        if text.len() > TEXT_MAX {
            break;
        }
        let is_edge =
            (place == 0 && matches!(byte, b' ' | b'#')) || (place + 1 == bytes.len() && byte == b' ');
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => text.extend(['\\', char::from(byte)]),
            b' ' | b'#' if is_edge => text.extend(['\\', char::from(byte)]),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "\\{byte:02X}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (time_s, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (-1, "1969-12-31 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_795_318_475, "2026-11-22 03:34:35 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
            (253_402_300_799, "9999-12-31 23:59:59 UTC"),
        ] {
            assert_eq!(utc(time_s), text);
        }
        utc(i64::MAX);
        utc(i64::MIN);
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xbe]), "/+++");
    }

    #[test]
    fn everything_is_escaped_that_has_a_meaning() {
        assert_eq!(escape(b" a,b\\c\r\n\0d\xc3\xa9 "), "\\ a\\,b\\\\c\\0D\\0A\\00d\\C3\\A9\\ ");
        assert_eq!(escape(b"#a #b"), "\\#a #b");
        assert!(escape(&[b'\n'; 60_000]).len() < TEXT_MAX + 8);
    }
}
