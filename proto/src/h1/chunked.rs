//! Finds the data in a chunked body.
//!
//! Owns the grammar of RFC 9112 section 7.1, read byte by byte except for the data itself, which is only counted. Chunk
//! boundaries and extensions end here: the relay frames the data anew, but for chunks that it would frame just so
//! ([`ChunkedDecoder::pass`]). A decoder sits in every connection that receives a body, so it is kept small; what is rare
//! (trailers) is boxed.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::body::BodyEvent;
use super::trailers::parse_trailers;
use crate::ascii::{TOKEN, is_field_content};
use crate::fault::Fault;
use crate::limits::ChunkLimits;
use crate::message::TrailerRule;

/// The events of a chunked body: the same as those of any other body.
pub type ChunkEvent = BodyEvent;

/// Size lines with more digits than this are not passed on as they came: we never write as many ourselves, and a peer may be at the
/// end of its own numbers with them.
const PASSED_DIGITS_MAX: usize = 7;

/// Sixteen hexadecimal digits fill a `u64`; more would only be leading zeros or an overflow.
const SIZE_DIGITS_MAX: u8 = 16;

/// Decodes one chunked body.
#[derive(Debug)]
pub struct ChunkedDecoder {
    /// The size being read, then the bytes of data still to come, of the current chunk.
    remaining: u64,
    section: Option<Box<TrailerSection>>,
    /// Bytes of extensions that no data has made up for yet.
    extension_bytes: u32,
    extension_bytes_max: u32,
    trailer_bytes_max: u32,
    trailer_fields_max: u16,
    size_digits: u8,
    /// Whitespace may stand at the end of a size line.
    allows_padding: bool,
    /// The size line of the chunk that is read was passed on as it came, and so must the rest of it be.
    is_passing: bool,
    trailers: TrailerRule,
    state: State,
}

/// The last chunk and the end of a body without trailers.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The result of [`ChunkedDecoder::pass`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// So many bytes of the input may be sent on as they are.
    pub bytes: usize,
    /// So many of them are data.
    pub data_bytes: u64,
    /// So many chunks among them have less data than a caller cares for.
    pub tiny_chunks: u32,
    /// The last chunk is among them, without trailers: the body has ended.
    pub is_end: bool,
}

const _: () = assert!(size_of::<ChunkedDecoder>() <= 40);

/// The trailer section as far as it has arrived, kept whole because it is parsed at once.
#[derive(Debug, Default)]
struct TrailerSection {
    bytes: Vec<u8>,
}

/// The element that the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Extension(Extension),
    SizeLineLf,
    Data,
    DataCr,
    DataLf,
    /// At the start of a trailer line, or of the empty line that ends the body.
    TrailerStart,
    TrailerLine,
    TrailerLineLf,
    LastLf,
    /// Everything has been read; the end has been reported or is reported next.
    Done,
}

/// Where in `chunk-ext` the next byte is.
//= https://www.rfc-editor.org/rfc/rfc9112#section-7.1.1
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    /// In whitespace that only another `;` may follow.
    BeforeSemicolon,
    /// After `;`, before the name.
    BeforeName,
    Name,
    /// In whitespace after a name, that `=` or `;` must follow.
    AfterName,
    /// After `=`, before the value.
    BeforeValue,
    Value,
    Quoted,
    QuotedPair,
    AfterQuoted,
}

impl ChunkedDecoder {
    /// A decoder at the start of a body.
    pub fn new(limits: ChunkLimits) -> Self {
        let saturate = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX);
        Self {
            remaining: 0,
            section: None,
            extension_bytes: 0,
            extension_bytes_max: saturate(limits.extension_bytes_max),
            trailer_bytes_max: saturate(limits.trailer_bytes_max),
            trailer_fields_max: u16::try_from(limits.trailer_fields_max).unwrap_or(u16::MAX),
            size_digits: 0,
            allows_padding: false,
            is_passing: false,
            trailers: TrailerRule::Keep,
            state: State::Size,
        }
    }

    /// How trailers are handled. Dropped ones are checked too.
    pub fn set_trailers(&mut self, rule: TrailerRule) {
        self.trailers = rule;
    }

    /// Size lines may end with whitespace, as some old servers fill them up. It counts as an extension, and goes no further.
    pub fn allow_padding(&mut self) {
        self.allows_padding = true;
    }

    /// Reads up to the next event. Returns the bytes consumed, the event's own included, and the event.
    ///
    /// [`ChunkEvent::NeedMore`] consumes everything given. After [`ChunkEvent::End`] every further call is `End` again and
    /// consumes nothing: what follows is the next message.
    ///
    /// # Errors
    ///
    /// A [`Fault`] as soon as the bytes break the grammar or a limit; the decoder is of no use after that.
    pub fn next(&mut self, input: &[u8]) -> Result<(usize, ChunkEvent), Fault> {
        debug_assert!(
            !self.is_passing || input.is_empty(),
            "a chunk that was begun by `pass` is passed to its end"
        );
        let mut at = 0;
        while at < input.len() {
            match self.state {
                State::Data => {
                    let len = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(input.len() - at);
                    self.remaining -= len as u64;
                    if self.remaining == 0 {
                        self.state = State::DataCr;
                    }
                    return Ok((at + len, ChunkEvent::Data(at..at + len)));
                }
                State::TrailerLine => at += self.read_trailer_line(&input[at..])?,
                State::Done => break,
                _ => {
                    self.state = self.step(input[at])?;
                    at += 1;
                    if self.state == State::Done {
                        return Ok((at, self.finish()?));
                    }
                }
            }
        }
        Ok((at, if self.state == State::Done { ChunkEvent::End } else { ChunkEvent::NeedMore }))
    }

    /// Reads chunks at the front of `input` that may be sent on as they are, for a peer that gets chunks too: those whose framing
    /// is what we would write. Stops before a size line that is incomplete or written otherwise, and before a last chunk with
    /// trailers; [`ChunkedDecoder::next`] reads on from there, unless a chunk is half passed. A chunk of less than `tiny_bytes` is
    /// counted.
    ///
    /// # Errors
    ///
    /// As [`ChunkedDecoder::next`].
    //= https://www.rfc-editor.org/rfc/rfc9112#section-7.1
    pub fn pass(&mut self, input: &[u8], tiny_bytes: u64) -> Result<Passed, Fault> {
        let mut passed = Passed::default();
        while let Some(&byte) = input.get(passed.bytes) {
            match self.state {
                State::Size if self.size_digits == 0 && input[passed.bytes..].starts_with(LAST_CHUNK) => {
                    self.state = State::Done;
                    passed.bytes += LAST_CHUNK.len();
                    passed.is_end = true;
                }
                State::Size if self.size_digits == 0 => {
                    let Some((size, line_bytes)) = canonical_size_line(&input[passed.bytes..]) else { break };
                    self.remaining = size;
                    self.state = self.begin_chunk();
                    self.is_passing = true;
                    passed.bytes += line_bytes;
                    passed.tiny_chunks += u32::from(size < tiny_bytes);
                }
                State::Data if self.is_passing => {
                    let left = input.len() - passed.bytes;
                    let len = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(left);
                    self.remaining -= len as u64;
                    if self.remaining == 0 {
                        self.state = State::DataCr;
                    }
                    passed.bytes += len;
                    passed.data_bytes += len as u64;
                }
                State::DataCr | State::DataLf if self.is_passing => {
                    self.state = self.step(byte)?;
                    self.is_passing = self.state != State::Size;
                    passed.bytes += 1;
                }
                _ => break,
            }
        }
        Ok(passed)
    }

    /// True when the end of the body has been read.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes of data still to come of a chunk whose size line is complete.
    pub fn announced(&self) -> u64 {
        if self.state == State::Data { self.remaining } else { 0 }
    }

    /// Takes one byte of framing and says what the next one belongs to.
    //= https://www.rfc-editor.org/rfc/rfc9112#section-7.1
    fn step(&mut self, byte: u8) -> Result<State, Fault> {
        match (self.state, byte) {
            (State::Size, _) => self.read_size(byte),
            (State::Extension(part), _) => self.read_extension(part, byte),
            (State::SizeLineLf, b'\n') => Ok(self.begin_chunk()),
            (State::SizeLineLf, _) => Err(Fault::BareCr),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size),
            (State::DataCr | State::DataLf, _) => Err(Fault::MissingChunkEnd),
            (State::TrailerStart, b'\r') => {
                self.keep_trailer_bytes(b"\r")?;
                Ok(State::LastLf)
            }
            (State::TrailerStart, b'\n') => Err(Fault::BareLf),
            (State::TrailerStart, _) => {
                self.section.get_or_insert_default();
                self.keep_trailer_bytes(&[byte])?;
                Ok(State::TrailerLine)
            }
            (State::TrailerLineLf, b'\n') => {
                self.keep_trailer_bytes(b"\n")?;
                Ok(State::TrailerStart)
            }
            (State::LastLf, b'\n') => {
                self.keep_trailer_bytes(b"\n")?;
                Ok(State::Done)
            }
            (State::TrailerLineLf | State::LastLf, _) => Err(Fault::BareCr),
            (State::Data | State::TrailerLine | State::Done, _) => Ok(self.state),
        }
    }

    /// A byte of `chunk-size`, or the one behind it. No sign, no prefix, no whitespace.
    fn read_size(&mut self, byte: u8) -> Result<State, Fault> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ if self.size_digits == 0 => return Err(Fault::InvalidChunkSize),
            b'\r' => return Ok(State::SizeLineLf),
            b'\n' => return Err(Fault::BareLf),
            b';' | b' ' | b'\t' => return self.read_extension(Extension::BeforeSemicolon, byte),
            _ => return Err(Fault::InvalidChunkSize),
        };
        if self.size_digits == SIZE_DIGITS_MAX {
            return Err(Fault::ChunkSizeOverflow);
        }
        self.size_digits += 1;
        self.remaining = self.remaining << 4 | u64::from(digit);
        Ok(State::Size)
    }

    /// A byte of `chunk-ext`. Nothing of it is kept: an extension concerns one connection only, and we know none.
    //= https://www.rfc-editor.org/rfc/rfc9112#section-7.1.1
    fn read_extension(&mut self, part: Extension, byte: u8) -> Result<State, Fault> {
        use Extension as E;
        let next = match (part, byte) {
            (_, b'\n') => return Err(Fault::BareLf),
            (E::BeforeSemicolon, b'\r') if self.allows_padding => return Ok(State::SizeLineLf),
            // Whitespace is "bad" but allowed around `;` and `=`; never at the end of the line.
            (E::Name | E::Value | E::AfterQuoted, b'\r') => return Ok(State::SizeLineLf),
            (E::BeforeSemicolon | E::BeforeName | E::AfterName | E::BeforeValue, b' ' | b'\t') => part,
            (E::Name, b' ' | b'\t') => E::AfterName,
            (E::Value | E::AfterQuoted, b' ' | b'\t') => E::BeforeSemicolon,
            (E::BeforeSemicolon | E::Name | E::AfterName | E::Value | E::AfterQuoted, b';') => E::BeforeName,
            (E::Name | E::AfterName, b'=') => E::BeforeValue,
            (E::BeforeValue, b'"') => E::Quoted,
            (E::Quoted, b'"') => E::AfterQuoted,
            (E::Quoted, b'\\') => E::QuotedPair,
            (E::Quoted | E::QuotedPair, _) if is_field_content(byte) => E::Quoted,
            (E::BeforeName | E::Name, _) if TOKEN.contains(byte) => E::Name,
            (E::BeforeValue | E::Value, _) if TOKEN.contains(byte) => E::Value,
            _ => return Err(Fault::InvalidChunkExtension),
        };
        if self.extension_bytes == self.extension_bytes_max {
            return Err(Fault::ChunkExtensionTooLong);
        }
        self.extension_bytes += 1;
        Ok(State::Extension(next))
    }

    /// After the line of a chunk's size: its data, or behind the last chunk the trailer section.
    fn begin_chunk(&mut self) -> State {
        self.size_digits = 0;
        let data_bytes = u32::try_from(self.remaining).unwrap_or(u32::MAX);
        self.extension_bytes = self.extension_bytes.saturating_sub(data_bytes);
        if self.remaining == 0 { State::TrailerStart } else { State::Data }
    }

    /// Keeps trailer bytes up to and including the next CR; returns how many.
    fn read_trailer_line(&mut self, input: &[u8]) -> Result<usize, Fault> {
        // Not a byte beyond the limit is looked at, or the fault would depend on how the bytes arrived.
        let kept = self.section.as_ref().map_or(0, |section| section.bytes.len());
        let room = (self.trailer_bytes_max as usize).saturating_sub(kept);
        let window = &input[..input.len().min(room)];
        let (len, next) = match memchr::memchr2(b'\r', b'\n', window) {
            Some(at) if window[at] == b'\n' => return Err(Fault::BareLf),
            Some(at) => (at + 1, State::TrailerLineLf),
            None if input.len() > room => return Err(Fault::TrailersTooLarge),
            None => (input.len(), State::TrailerLine),
        };
        self.keep_trailer_bytes(&input[..len])?;
        self.state = next;
        Ok(len)
    }

    /// Adds to the trailer section, if there is one: the empty section of most bodies is not worth an allocation.
    fn keep_trailer_bytes(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let Some(section) = &mut self.section else { return Ok(()) };
        if section.bytes.len() + bytes.len() > self.trailer_bytes_max as usize {
            return Err(Fault::TrailersTooLarge);
        }
        section.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The event for the end of the body: its trailers first, when there are any.
    fn finish(&mut self) -> Result<ChunkEvent, Fault> {
        let Some(section) = self.section.take() else { return Ok(ChunkEvent::End) };
        let trailers = parse_trailers(section.bytes, usize::from(self.trailer_fields_max))?;
        Ok(trailers
            .filter(|_| self.trailers == TrailerRule::Keep)
            .map_or(ChunkEvent::End, ChunkEvent::Trailers))
    }
}

/// The size of a chunk, and the length of its line, if all of the line is there, as short as it can be and without extensions.
/// `None` too for the last chunk.
fn canonical_size_line(input: &[u8]) -> Option<(u64, usize)> {
    let mut size = 0_u64;
    for (at, &byte) in input.iter().enumerate().take(PASSED_DIGITS_MAX + 1) {
        let digit = match byte {
            b'0' if at == 0 => return None,
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\r' if at > 0 && input.get(at + 1) == Some(&b'\n') => return Some((size, at + 2)),
            _ => return None,
        };
        if at == PASSED_DIGITS_MAX {
            return None;
        }
        size = size << 4 | u64::from(digit);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::{String, ToString};

    /// The data, the trailers' names and the bytes left over, decoding `input` in pieces of `step` bytes.
    fn decode(input: &[u8], step: usize) -> Result<(Vec<u8>, Vec<String>, bool, usize), Fault> {
        decode_by(ChunkedDecoder::new(LIMITS), input, step)
    }

    const LIMITS: ChunkLimits =
        ChunkLimits { extension_bytes_max: 20, trailer_bytes_max: 64, trailer_fields_max: 2 };

    fn decode_by(
        mut decoder: ChunkedDecoder,
        input: &[u8],
        step: usize,
    ) -> Result<(Vec<u8>, Vec<String>, bool, usize), Fault> {
        let (mut data, mut names, mut used) = (Vec::new(), Vec::new(), 0);
        for piece in input.chunks(step) {
            let mut rest = piece;
            loop {
                let (len, event) = decoder.next(rest)?;
                used += len;
                match event {
                    ChunkEvent::Data(range) => data.extend_from_slice(&rest[range]),
                    ChunkEvent::Trailers(trailers) => {
                        names.extend(trailers.iter().map(|f| f.name.to_string()));
                    }
                    ChunkEvent::End => return Ok((data, names, true, used)),
                    ChunkEvent::NeedMore => {
                        assert_eq!(len, rest.len());
                        break;
                    }
                }
                rest = &rest[len..];
            }
        }
        Ok((data, names, false, used))
    }

    #[test]
    fn sizes_may_be_padded_where_that_is_forgiven() {
        let padded = || {
            let mut decoder = ChunkedDecoder::new(LIMITS);
            decoder.allow_padding();
            decoder
        };
        for step in 1..8 {
            let body = b"3  \r\nabc\r\n2\t;a=b \r\nde\r\n0 \r\nA: b\r\n\r\n";
            let (data, names, is_end, used) = decode_by(padded(), body, step).expect("padding is forgiven");
            assert_eq!((&data[..], names.len(), is_end, used), (&b"abcde"[..], 1, true, body.len()));
            assert_eq!(decode(body, step), Err(Fault::InvalidChunkExtension));
            for (body, fault) in [
                (&b" 3\r\n"[..], Fault::InvalidChunkSize),
                (b"3 4\r\n", Fault::InvalidChunkExtension),
                (b"3 \n", Fault::BareLf),
                (b"3 \r\r", Fault::BareCr),
                (b"3;\r\n", Fault::InvalidChunkExtension),
                (b"3;a \r\n", Fault::InvalidChunkExtension),
                (b"3                     \r\n", Fault::ChunkExtensionTooLong),
            ] {
                assert_eq!(decode_by(padded(), body, step), Err(fault), "{}", body.escape_ascii());
            }
        }
        // Not in the form in which it came.
        assert_eq!(padded().pass(b"3  \r\nabc\r\n", 0), Ok(Passed::default()));
    }

    #[test]
    fn data_comes_out_whatever_the_pieces() {
        let body =
            b"5\r\nhello\r\n00006; a=b ;c=\"d\\\"\t\";e\r\n world\r\n0\r\nX-Sum: 1\r\nHost: no\r\n\r\nNEXT";
        for step in 1..=body.len() {
            let (data, names, done, used) = decode(body, step).unwrap();
            assert_eq!(data, b"hello world");
            assert_eq!(names, ["X-Sum"]);
            assert!(done);
            assert_eq!(&body[used..], b"NEXT");
        }
    }

    #[test]
    fn what_is_not_the_grammar_is_refused() {
        for (body, fault) in [
            ("\r\n", Fault::InvalidChunkSize),
            (" 5\r\n", Fault::InvalidChunkSize),
            ("+5\r\n", Fault::InvalidChunkSize),
            ("-5\r\n", Fault::InvalidChunkSize),
            ("0x5\r\n", Fault::InvalidChunkSize),
            ("5_0\r\n", Fault::InvalidChunkSize),
            ("5\n", Fault::BareLf),
            ("5\rx", Fault::BareCr),
            ("5 \r\n", Fault::InvalidChunkExtension),
            ("5;\r\n", Fault::InvalidChunkExtension),
            ("5;a=\r\n", Fault::InvalidChunkExtension),
            ("5;=b\r\n", Fault::InvalidChunkExtension),
            ("5;a;\r\n", Fault::InvalidChunkExtension),
            ("5;a \r\n", Fault::InvalidChunkExtension),
            ("5;a b\r\n", Fault::InvalidChunkExtension),
            ("5;a=b c\r\n", Fault::InvalidChunkExtension),
            ("5;a=\"b\r\n", Fault::InvalidChunkExtension),
            ("5;a=\"b\"c\r\n", Fault::InvalidChunkExtension),
            ("5;a=\"\\\0\"\r\n", Fault::InvalidChunkExtension),
            ("5;a\n", Fault::BareLf),
            ("5;a=\"\n", Fault::BareLf),
            ("5;aaaaaaaaaaaaaaaaaaaaaa", Fault::ChunkExtensionTooLong),
            ("00000000000000000", Fault::ChunkSizeOverflow),
            ("fffffffffffffffff", Fault::ChunkSizeOverflow),
            ("1\r\naa", Fault::MissingChunkEnd),
            ("1\r\na\n", Fault::MissingChunkEnd),
            ("1\r\na\rb", Fault::MissingChunkEnd),
            ("0\r\n\n", Fault::BareLf),
            ("0\r\n\rx", Fault::BareCr),
            ("0\r\nA: b\n\r\n", Fault::BareLf),
            ("0\r\nA: b\rc\r\n\r\n", Fault::BareCr),
            ("0\r\nA : b\r\n\r\n", Fault::SpaceInFieldName),
            ("0\r\nA: b\r\nA: b\r\nA: b\r\n\r\n", Fault::TooManyTrailers),
            (
                "0\r\nA: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
                Fault::TrailersTooLarge,
            ),
        ] {
            for step in [1, 2, 3, body.len()] {
                assert_eq!(decode(body.as_bytes(), step), Err(fault), "{body:?} by {step}");
            }
        }
    }

    /// Everything between the size and the end of its line counts, `;` and whitespace too.
    #[test]
    fn an_extension_may_be_as_long_as_its_limit_and_no_longer() {
        for (longest, too_long) in [
            ("1;aaaaaaaaaaaaaaaaaaa\r\n", "1;aaaaaaaaaaaaaaaaaaaa\r\n"),
            ("1 ; a = \"bbbbbbbbbbb\"\r\n", "1 ; a = \"bbbbbbbbbbbb\"\r\n"),
            ("1;a;a;a;a;a;a;a;a;a;a\r\n", "1;a;a;a;a;a;a;a;a;a;aa\r\n"),
        ] {
            let body = |line: &str| [line, "x\r\n0\r\n\r\n"].concat();
            for step in [1, 7, 100] {
                assert_eq!(decode(body(longest).as_bytes(), step).unwrap().0, b"x", "{longest:?}");
                let refused = decode(body(too_long).as_bytes(), step);
                assert_eq!(refused, Err(Fault::ChunkExtensionTooLong), "{too_long:?}");
            }
        }
    }

    #[test]
    fn extensions_are_paid_for_by_data() {
        // 20 are allowed in advance; each of these chunks brings 12 and pays for one.
        let cheap = "1;aaaaaaaaaaa\r\nx\r\n";
        assert!(decode(cheap.as_bytes(), 3).is_ok());
        assert_eq!(decode(cheap.repeat(2).as_bytes(), 3), Err(Fault::ChunkExtensionTooLong));
        let dear = "c;aaaaaaaaaaa\r\n0123456789ab\r\n".repeat(50) + "0\r\n\r\n";
        assert_eq!(decode(dear.as_bytes(), 3).unwrap().0.len(), 600);
    }

    #[test]
    fn dropped_trailers_are_still_checked() {
        let mut decoder = ChunkedDecoder::new(ChunkLimits::default());
        decoder.set_trailers(TrailerRule::Drop);
        assert_eq!(decoder.next(b"0\r\nX: 1\r\n\r\nGET"), Ok((11, ChunkEvent::End)));
        let mut decoder = ChunkedDecoder::new(ChunkLimits::default());
        decoder.set_trailers(TrailerRule::Drop);
        assert_eq!(decoder.next(b"0\r\nX : 1\r\n\r\n"), Err(Fault::SpaceInFieldName));
    }

    /// Found by fuzzing: a whole line was searched for a bare LF before its length was looked at.
    #[test]
    fn the_trailer_limit_is_met_before_what_lies_behind_it() {
        let body = alloc::format!("0\r\nA: {}\n", "b".repeat(64));
        for step in [1, 7, body.len()] {
            assert_eq!(decode(body.as_bytes(), step), Err(Fault::TrailersTooLarge));
        }
    }

    #[test]
    fn the_largest_chunk_is_counted_not_stored() {
        let mut decoder = ChunkedDecoder::new(ChunkLimits::default());
        assert_eq!(decoder.next(b"FFFFFFFFFFFFFFFF\r\nab"), Ok((20, ChunkEvent::Data(18..20))));
        assert_eq!(decoder.remaining, u64::MAX - 2);
    }

    #[test]
    fn end_is_repeated_and_leaves_the_rest() {
        let mut decoder = ChunkedDecoder::new(ChunkLimits::default());
        assert_eq!(decoder.next(b"0\r\n\r\nGET"), Ok((5, ChunkEvent::End)));
        assert_eq!(decoder.next(b"GET"), Ok((0, ChunkEvent::End)));
        assert_eq!(decoder.next(b""), Ok((0, ChunkEvent::End)));
        assert!(decoder.is_done());
    }

    /// What goes out when chunks are passed where they may be, and framed anew where not.
    fn passed_on(input: &[u8], step: usize) -> Result<Vec<u8>, Fault> {
        let mut decoder = ChunkedDecoder::new(ChunkLimits::default());
        let mut out = Vec::new();
        for piece in input.chunks(step) {
            let mut rest = piece;
            loop {
                let passed = decoder.pass(rest, 1)?;
                out.extend_from_slice(&rest[..passed.bytes]);
                rest = &rest[passed.bytes..];
                if passed.is_end {
                    return Ok(out);
                }
                if decoder.is_passing {
                    assert!(rest.is_empty());
                    break;
                }
                let (used, event) = decoder.next(rest)?;
                match event {
                    ChunkEvent::Data(range) => {
                        super::super::write_chunk_size(&mut out, range.len());
                        out.extend_from_slice(&rest[range]);
                        out.extend_from_slice(b"\r\n");
                    }
                    ChunkEvent::Trailers(_) => {}
                    ChunkEvent::End => {
                        super::super::write_last_chunk(&mut out, None);
                        return Ok(out);
                    }
                    ChunkEvent::NeedMore => break,
                }
                rest = &rest[used..];
            }
        }
        Err(Fault::CutShort)
    }

    #[test]
    fn chunks_are_passed_as_they_are_where_we_would_write_them_so() {
        for (input, out) in [
            ("5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", "5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"),
            ("A\r\n0123456789\r\n0\r\n\r\n", "A\r\n0123456789\r\n0\r\n\r\n"),
            (
                "05;x=y\r\nhello\r\n3 \r\nabc\r\n2\r\nde\r\n000\r\nx: y\r\n\r\n",
                "5\r\nhello\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
            ),
        ] {
            if !input.contains(' ') {
                assert_eq!(passed_on(input.as_bytes(), input.len()).as_deref(), Ok(out.as_bytes()));
            }
            for step in 1..=input.len() {
                let Ok(out) = passed_on(input.as_bytes(), step) else {
                    assert!(input.contains(' '), "{input:?} {step}");
                    continue;
                };
                let (data, ..) = decode(&out, out.len()).unwrap();
                assert_eq!(data, decode(input.as_bytes(), 1).unwrap().0, "{input:?} {step}");
            }
        }
    }

    #[test]
    fn what_is_passed_is_counted_and_checked() {
        let mut decoder = ChunkedDecoder::new(ChunkLimits::default());
        let passed = decoder.pass(b"3\r\nabc\r\n2\r\nde\r\n0\r\nx: y\r\n\r\n", 3).unwrap();
        assert_eq!(passed, Passed { bytes: 15, data_bytes: 5, tiny_chunks: 1, is_end: false });
        let mut ending = ChunkedDecoder::new(ChunkLimits::default());
        let passed = ending.pass(b"1\r\na\r\n0\r\n\r\nGET", 1).unwrap();
        assert_eq!(passed, Passed { bytes: 11, data_bytes: 1, tiny_chunks: 0, is_end: true });
        assert!(ending.is_done());
        assert_eq!(decoder.pass(b"fffffff\r\nx", 3).unwrap().data_bytes, 1);
        assert_eq!(decoder.announced(), 0xfff_fffe);
        let mut half = ChunkedDecoder::new(ChunkLimits::default());
        assert_eq!(half.pass(b"3\r\na", 1).unwrap().bytes, 4);
        assert_eq!(half.next(b""), Ok((0, ChunkEvent::NeedMore)));
        for (input, fault) in [("3\r\nabcd", Fault::MissingChunkEnd), ("3\r\nabc\rx", Fault::MissingChunkEnd)]
        {
            let mut decoder = ChunkedDecoder::new(ChunkLimits::default());
            assert_eq!(decoder.pass(input.as_bytes(), 1), Err(fault), "{input:?}");
        }
        for input in [
            "03\r\nabc",
            "3;x\r\nabc",
            "0\r\n\r",
            "00\r\n\r\n",
            "0\r\nx",
            "3",
            "3\r",
            "10000000\r\n",
            "100000005\r\nhello",
            "10000000000000000\r\n",
            "+3\r\n",
            "\r\n",
        ] {
            let mut decoder = ChunkedDecoder::new(ChunkLimits::default());
            assert_eq!(decoder.pass(input.as_bytes(), 1), Ok(Passed::default()), "{input:?}");
        }
    }
}
