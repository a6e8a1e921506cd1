//! DER, as much of it as key files and OCSP responses need: one value after another, by its tag.

/// Tags that are looked for.
pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const ENUMERATED: u8 = 0x0a;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;

/// What is left to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    /// The tag of the next value.
    pub(super) fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The tag and the content of the next value.
    pub(super) fn any(&mut self) -> Option<(u8, &'a [u8])> {
        let (whole, tag, content) = split(self.0)?;
        self.0 = &self.0[whole..];
        Some((tag, content))
    }

    /// The content of the next value if it has this tag.
    pub(super) fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.peek() != Some(tag) {
            return None;
        }
        self.any().map(|(_, content)| content)
    }

    /// Enters the next value if it has this tag.
    pub(super) fn enter(&mut self, tag: u8) -> Option<Reader<'a>> {
        self.take(tag).map(Reader)
    }
}

/// The length of the first value with its header, its tag and its content. Tags of more than a byte are not read.
fn split(bytes: &[u8]) -> Option<(usize, u8, &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, header) = match first {
        0..=0x7f => (usize::from(first), 2),
        0x81..=0x84 => {
            let digits = usize::from(first & 0x7f);
            let length = rest.get(..digits)?.iter().fold(0_usize, |sum, &byte| sum << 8 | usize::from(byte));
            (length, 2 + digits)
        }
        _ => return None,
    };
    let end = header.checked_add(length)?;
    Some((end, tag, bytes.get(header..end)?))
}

/// The bits of a number, without the zeros in front of it.
pub(super) fn bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|&&byte| byte == 0).count();
    let Some(&first) = number.get(zeros) else { return 0 };
    (number.len() - zeros) * 8 - first.leading_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_values_by_their_tags_and_lengths() {
        let mut reader = Reader::new(&[0x30, 3, 2, 1, 5, 4, 0x81, 1, 7]);
        assert_eq!(reader.take(INTEGER), None);
        assert_eq!(reader.enter(SEQUENCE).unwrap().take(INTEGER), Some(&[5][..]));
        assert_eq!(reader.any(), Some((OCTET_STRING, &[7][..])));
        assert_eq!(reader.any(), None);
    }

    #[test]
    fn lengths_beyond_the_end_are_refused() {
        for bytes in
            [&[0x30][..], &[0x30, 1], &[0x30, 0x80, 0], &[0x30, 0x84, 255, 255, 255, 255], &[0x30, 0x82, 1]]
        {
            assert_eq!(Reader::new(bytes).any(), None, "{bytes:?}");
        }
    }

    #[test]
    fn counts_the_bits_of_a_number() {
        assert_eq!(
            [bits(&[]), bits(&[0, 0]), bits(&[0, 0x80, 0]), bits(&[1]), bits(&[0x7f, 0])],
            [0, 0, 16, 1, 15]
        );
    }
}
