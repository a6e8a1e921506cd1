//! Host names in ASCII, for hints: `bücher.example` is `xn--bcher-kva.example` in a Host field.
//!
//! Only RFC 3492 and lower case. The tables of Unicode that IDNA needs besides (`idna` brings megabytes of them) would be for a
//! hint alone: names that need them get none.

/// RFC 3492 section 5.
const BASE: u32 = 36;
const T_MIN: u32 = 1;
const T_MAX: u32 = 26;
const SKEW: u32 = 38;
const DAMP: u32 = 700;
const INITIAL_BIAS: u32 = 72;
const INITIAL_N: u32 = 128;

/// The form of a name that resolvers and Host fields have; `None` if it is ASCII already, or for IDNA to decide.
pub(super) fn ascii_name(name: &str) -> Option<String> {
    let is_plain =
        |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c) || !c.is_ascii() && c.is_alphanumeric();
    if name.is_ascii() || !name.chars().all(is_plain) {
        return None;
    }
    let labels = name.to_lowercase();
    let labels = labels.split('.').map(|label| {
        if label.is_ascii() {
            Some(label.to_owned())
        } else {
            encode(label).map(|ascii| format!("xn--{ascii}"))
        }
    });
    labels.collect::<Option<Vec<_>>>().map(|labels| labels.join("."))
}

/// RFC 3492 section 6.3.
fn encode(label: &str) -> Option<String> {
    let mut out: String = label.chars().filter(char::is_ascii).collect();
    let basic = u32::try_from(out.len()).ok()?;
    if basic > 0 {
        out.push('-');
    }
    let (mut n, mut delta, mut bias, mut handled) = (INITIAL_N, 0_u32, INITIAL_BIAS, basic);
    let length = u32::try_from(label.chars().count()).ok()?;
    while handled < length {
        let next = label.chars().map(u32::from).filter(|&c| c >= n).min()?;
        delta = delta.checked_add((next - n).checked_mul(handled + 1)?)?;
        n = next;
        for c in label.chars().map(u32::from) {
            if c < n {
                delta = delta.checked_add(1)?;
            }
            if c == n {
                push_integer(&mut out, delta, bias);
                bias = adapt(delta, handled + 1, handled == basic);
                delta = 0;
                handled += 1;
            }
        }
        delta += 1;
        n += 1;
    }
    Some(out)
}

/// A number in digits of falling weight.
fn push_integer(out: &mut String, mut value: u32, bias: u32) {
    for k in (BASE..).step_by(BASE as usize) {
        let threshold = k.saturating_sub(bias).clamp(T_MIN, T_MAX);
        if value < threshold {
            break;
        }
        out.push(digit(threshold + (value - threshold) % (BASE - threshold)));
        value = (value - threshold) / (BASE - threshold);
    }
    out.push(digit(value));
}

fn digit(value: u32) -> char {
    char::from_digit((value + 10) % BASE, BASE).unwrap_or_default()
}

/// RFC 3492 section 6.1.
fn adapt(delta: u32, points: u32, is_first: bool) -> u32 {
    let mut delta = if is_first { delta / DAMP } else { delta / 2 };
    delta += delta / points;
    let mut k = 0;
    while delta > (BASE - T_MIN) * T_MAX / 2 {
        delta /= BASE - T_MIN;
        k += BASE;
    }
    k + (BASE - T_MIN + 1) * delta / (delta + SKEW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_idna_writes_them() {
        for (name, ascii) in [
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("münchen.de", "xn--mnchen-3ya.de"),
            ("straße.example", "xn--strae-oqa.example"),
            ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
            ("почемужеонинеговорятпорусски", "xn--b1abfaaepdrnnbgefbadotcwatmq2g4l"),
            ("ليهمابتكلموشعربي؟", ""),
            ("他们为什么不说中文", "xn--ihqwcrb4cv8a8dqg056pqjye"),
            ("3年b組金八先生", "xn--3b-ww4c5e180e575a65lsy2b"),
            ("example.com", ""),
            // Without a composed form: for IDNA to decide.
            ("bu\u{308}cher.example", ""),
        ] {
            assert_eq!(ascii_name(name).unwrap_or_default(), ascii, "{name}");
        }
    }
}
