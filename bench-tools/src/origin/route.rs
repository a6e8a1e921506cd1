//! What the origin does for a path.

/// The answer a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `/`: a short text.
    Text,
    /// `/bytes/N`: N bytes.
    Bytes(u64),
    /// Everything else: 404.
    Missing,
}

impl Route {
    /// Most bytes of an answer.
    pub(super) const BYTES_MAX: u64 = 1 << 40;

    /// Understands a request target; a query is ignored.
    pub(super) fn of(target: &[u8]) -> Route {
        let path = target.split(|&byte| byte == b'?').next().unwrap_or_default();
        if path == b"/" {
            return Route::Text;
        }
        let number = |prefix: &[u8]| path.strip_prefix(prefix).and_then(decimal);
        match number(b"/bytes/") {
            Some(count) if count <= Route::BYTES_MAX => Route::Bytes(count),
            _ => Route::Missing,
        }
    }
}

/// A number of up to 13 digits.
fn decimal(digits: &[u8]) -> Option<u64> {
    let is_number = (1..=13).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| digits.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(Route::of(b"/"), Route::Text);
        assert_eq!(Route::of(b"/bytes/1024"), Route::Bytes(1024));
        assert_eq!(Route::of(b"/bytes/0?x=1"), Route::Bytes(0));
        for missing in
            [&b""[..], b"/bytes/", b"/bytes/-1", b"/bytes/99999999999999", b"/bytes/1/2", b"/other"]
        {
            assert_eq!(Route::of(missing), Route::Missing);
        }
    }
}
