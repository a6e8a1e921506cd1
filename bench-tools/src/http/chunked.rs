//! Where a chunked body ends (RFC 9112 section 7.1).

use super::Malformed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size { value: u64, digits: u8 },
    Extension { size: u64 },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    EndLf,
    Done,
}

/// Follows a chunked body through any split of its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Chunked(State);

impl Default for Chunked {
    fn default() -> Chunked {
        Chunked(State::Size { value: 0, digits: 0 })
    }
}

impl Chunked {
    /// Whether the body is complete.
    pub fn is_done(&self) -> bool {
        self.0 == State::Done
    }

    /// Takes bytes up to the end of the next piece of data, or of the body; returns how many, and the data among them.
    ///
    /// # Errors
    /// [`Malformed`] when they are no chunked body.
    pub fn next<'a>(&mut self, bytes: &'a [u8]) -> Result<(usize, &'a [u8]), Malformed> {
        let mut at = 0;
        while at < bytes.len() && !self.is_done() {
            if let State::Data { left } = &mut self.0 {
                let taken = (bytes.len() - at).min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                if *left == 0 {
                    self.0 = State::DataCr;
                }
                return Ok((at + taken, &bytes[at..at + taken]));
            }
            self.0 = self.0.after(bytes[at])?;
            at += 1;
        }
        Ok((at, &[]))
    }
}

impl State {
    /// The state after one byte that is not data.
    fn after(self, byte: u8) -> Result<State, Malformed> {
        match (self, byte) {
            (State::Size { value, digits }, _) if byte.is_ascii_hexdigit() && digits < 15 => {
                let digit = (byte as char).to_digit(16).ok_or(Malformed)?;
                Ok(State::Size { value: value * 16 + u64::from(digit), digits: digits + 1 })
            }
            (State::Size { digits: 0, .. }, _) => Err(Malformed),
            (State::Size { value: size, .. } | State::Extension { size }, b'\r') => {
                Ok(State::SizeLf { size })
            }
            (State::Size { value: size, .. }, b';' | b' ' | b'\t') => Ok(State::Extension { size }),
            (State::Extension { size }, _) if byte != b'\n' => Ok(State::Extension { size }),
            (State::SizeLf { size: 0 }, b'\n') => Ok(State::TrailerStart),
            (State::SizeLf { size }, b'\n') => Ok(State::Data { left: size }),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size { value: 0, digits: 0 }),
            (State::TrailerStart, b'\r') => Ok(State::EndLf),
            (State::Trailer, b'\n') => Ok(State::TrailerStart),
            (State::TrailerStart | State::Trailer, _) => Ok(State::Trailer),
            (State::EndLf, b'\n') => Ok(State::Done),
            _ => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"5\r\nhello\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\nNEXT";

    #[test]
    fn any_split_gives_the_same_data() {
        for first in 0..BODY.len() {
            for second in first..BODY.len() {
                let mut chunked = Chunked::default();
                let mut data = Vec::new();
                let mut used = 0;
                for part in [&BODY[..first], &BODY[first..second], &BODY[second..]] {
                    let mut rest = part;
                    while !rest.is_empty() && !chunked.is_done() {
                        let (taken, piece) = chunked.next(rest).expect("well formed");
                        data.extend_from_slice(piece);
                        rest = &rest[taken..];
                    }
                    used += part.len() - rest.len();
                }
                assert!(chunked.is_done());
                assert_eq!((&data[..], &BODY[used..]), (&b"hello0123456789"[..], &b"NEXT"[..]));
            }
        }
    }

    #[test]
    fn refuses_what_is_not_chunked() {
        for wrong in [&b"\r\n"[..], b"x", b"5\r\nhelloX", b"5\nhello", b"ffffffffffffffff\r\n"] {
            let mut chunked = Chunked::default();
            let mut rest = wrong;
            let refused = loop {
                match chunked.next(rest) {
                    Ok((taken, _)) if taken > 0 => rest = &rest[taken..],
                    end => break end.is_err(),
                }
            };
            assert!(refused, "{wrong:?}");
        }
    }
}
