//! gRPC-Web, which browsers speak: gRPC whose trailers are a last frame of the body, and whose body may be base64. What a proxy has to
//! change on the way to a server of gRPC and back.
//!
//! The rules are those of gRPC's PROTOCOL-WEB.md. Bytes in, bytes out: [`TextDecoder`] and [`TextEncoder`] keep what does not make
//! a whole group yet, three bytes at most. Messages pass as they are: both protocols frame them in the same way.

use alloc::vec::Vec;

use crate::ascii;
use crate::fields::{FieldId, Fields};
use crate::trailers::Trailers;

/// How the body of a message is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `application/grpc-web`: the frames themselves.
    Binary,
    /// `application/grpc-web-text`: base64 of them.
    Text,
}

/// A type of gRPC-Web, and the format of its messages (`+proto`, with parameters behind it; empty for none).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebType<'a> {
    /// How the body is written.
    pub form: Form,
    /// What is behind the name of the type, which is the same in gRPC.
    pub rest: &'a [u8],
}

/// How a call came as gRPC-Web, and how its answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Web {
    /// How the body of the request is written.
    pub request: Form,
    /// How that of the answer is to be.
    pub answer: Form,
    /// The client calls the format of messages by its name, which is the usual one (`+proto`).
    names_proto: bool,
}

impl Web {
    /// Reads the fields of a request, if they are those of a call. An Accept field that has a type of gRPC-Web says how the answer is
    /// wanted; without one, the answer is like the request.
    pub fn of(fields: &Fields<'_>) -> Option<Web> {
        let WebType { form, rest } = WebType::parse(fields.single(FieldId::ContentType)?)?;
        let members = fields.values(FieldId::Accept).flat_map(ascii::list_members);
        let accepted = members.filter_map(WebType::parse).next();
        let names_proto = rest.get(..PROTO.len()).is_some_and(|name| name.eq_ignore_ascii_case(PROTO));
        Some(Web { request: form, answer: accepted.map_or(form, |web| web.form), names_proto })
    }

    /// Appends the type of the answer that is `value` in gRPC; false if that is no answer of gRPC.
    pub fn write_answer(self, value: &[u8], out: &mut Vec<u8>) -> bool {
        let is_answer = WebType::write_answer(self.answer, value, out);
        if is_answer && self.names_proto && value.len() == GRPC.len() {
            out.extend_from_slice(PROTO);
        }
        is_answer
    }

    /// The type of an answer that has no messages.
    pub fn empty_answer(self) -> &'static str {
        match (self.answer, self.names_proto) {
            (Form::Binary, false) => "application/grpc-web",
            (Form::Binary, true) => "application/grpc-web+proto",
            (Form::Text, false) => "application/grpc-web-text",
            (Form::Text, true) => "application/grpc-web-text+proto",
        }
    }
}

const PROTO: &[u8] = b"+proto";
const TEXT: &[u8] = b"application/grpc-web-text";
const BINARY: &[u8] = b"application/grpc-web";
const GRPC: &[u8] = b"application/grpc";

/// The first byte of the frame that has trailers.
const TRAILERS_FLAG: u8 = 0x80;

impl<'a> WebType<'a> {
    /// Reads a value of Content-Type.
    pub fn parse(value: &'a [u8]) -> Option<WebType<'a>> {
        let rest_of = |name| rest_of_type(value, name);
        let text = rest_of(TEXT).map(|rest| WebType { form: Form::Text, rest });
        text.or_else(|| rest_of(BINARY).map(|rest| WebType { form: Form::Binary, rest }))
    }

    /// Appends the type that a server of gRPC wants.
    pub fn write_grpc(self, out: &mut Vec<u8>) {
        out.extend_from_slice(GRPC);
        out.extend_from_slice(self.rest);
    }

    /// Appends the type of an answer in this form whose type in gRPC is `value`; false if that is no answer of gRPC.
    pub fn write_answer(form: Form, value: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(rest) = rest_of_type(value, GRPC) else { return false };
        out.extend_from_slice(if form == Form::Text { TEXT } else { BINARY });
        out.extend_from_slice(rest);
        true
    }
}

/// What is behind the name of this type, if it is one.
fn rest_of_type<'a>(value: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (begin, rest) = value.split_at_checked(name.len())?;
    let is_end = matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'\t'));
    (begin.eq_ignore_ascii_case(name) && is_end).then_some(rest)
}

/// Appends the frame that ends an answer. Names are in lower case, as HTTP/2 has them.
pub fn write_trailers(out: &mut Vec<u8>, trailers: Option<&Trailers>) {
    out.push(TRAILERS_FLAG);
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    let start = out.len();
    for field in trailers.into_iter().flat_map(Trailers::iter) {
        out.extend(field.name.bytes().map(|byte| byte.to_ascii_lowercase()));
        out.extend_from_slice(b": ");
        out.extend_from_slice(field.value);
        out.extend_from_slice(b"\r\n");
    }
    // A head is far smaller than 4 GiB.
    let length = (out.len() - start) as u32;
    out[length_at..start].copy_from_slice(&length.to_be_bytes());
}

/// What is no base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidText;

/// Decodes a body of base64 that comes in any pieces. Padding may come in the middle: clients encode each of their frames by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextDecoder {
    /// Six bits of each character of a group that is not complete.
    bits: u32,
    characters: u8,
    /// Of these, `=` at the end.
    padding: u8,
}

impl TextDecoder {
    /// Appends what these characters stand for.
    ///
    /// # Errors
    /// When they are no base64. Nothing behind them can be read.
    pub fn read(&mut self, text: &[u8], out: &mut Vec<u8>) -> Result<(), InvalidText> {
        out.reserve(text.len() / 4 * 3 + 3);
        let mut text = text;
        loop {
            if self.characters == 0 {
                text = read_groups(text, out);
            }
            // A group in pieces, one with padding, or none.
            loop {
                let Some((&character, rest)) = text.split_first() else { return Ok(()) };
                text = rest;
                self.take(character, out)?;
                if self.characters == 0 {
                    break;
                }
            }
        }
    }

    fn take(&mut self, character: u8, out: &mut Vec<u8>) -> Result<(), InvalidText> {
        let value = match (character, self.characters) {
            (b'=', 2 | 3) => {
                self.padding += 1;
                0
            }
            _ if self.padding > 0 => return Err(InvalidText),
            _ => value_of(character).ok_or(InvalidText)?,
        };
        self.bits = self.bits << 6 | u32::from(value);
        self.characters += 1;
        if self.characters == 4 { self.end_group(out) } else { Ok(()) }
    }

    fn end_group(&mut self, out: &mut Vec<u8>) -> Result<(), InvalidText> {
        let [_, bytes @ ..] = self.bits.to_be_bytes();
        let (data, rest) = bytes.split_at(3 - usize::from(self.padding));
        // Bits that stand for nothing are 0, so that a body has one spelling (RFC 4648, section 3.5).
        if rest.iter().any(|&byte| byte != 0) {
            return Err(InvalidText);
        }
        out.extend_from_slice(data);
        *self = Self::default();
        Ok(())
    }

    /// Whether the body may end here.
    pub fn is_between_groups(&self) -> bool {
        self.characters == 0
    }
}

/// Appends what whole groups without padding stand for; the rest is returned.
fn read_groups<'a>(text: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    let mut rest = text;
    while let Some((group, behind)) = rest.split_first_chunk::<4>() {
        let [a, b, c, d] = group.map(|character| u32::from(VALUES[usize::from(character)]));
        if (a | b | c | d) & u32::from(NO_VALUE) != 0 {
            break;
        }
        let [_, bytes @ ..] = (a << 18 | b << 12 | c << 6 | d).to_be_bytes();
        out.extend_from_slice(&bytes);
        rest = behind;
    }
    rest
}

/// Of a character that stands for nothing.
const NO_VALUE: u8 = 0x80;

/// The bits that each character stands for.
static VALUES: [u8; 256] = {
    let mut values = [NO_VALUE; 256];
    let mut value = 0;
    while value < ALPHABET.len() {
        values[ALPHABET[value] as usize] = value as u8;
        value += 1;
    }
    values
};

fn value_of(character: u8) -> Option<u8> {
    Some(VALUES[usize::from(character)]).filter(|&value| value != NO_VALUE)
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Encodes a body as base64. A piece is flushed with padding where it must not wait for the next one: clients read group by group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextEncoder {
    kept: [u8; 2],
    len: u8,
}

impl TextEncoder {
    /// Appends these bytes as far as they make whole groups, and keeps up to two.
    pub fn write(&mut self, mut data: &[u8], out: &mut Vec<u8>) {
        out.reserve(data.len().div_ceil(3) * 4 + 4);
        while self.len > 0 && self.len < 3 {
            let Some((&byte, rest)) = data.split_first() else { return };
            data = rest;
            if self.len == 2 {
                let group = [self.kept[0], self.kept[1], byte];
                self.len = 0;
                write_group(group, 3, out);
            } else {
                self.kept[1] = byte;
                self.len = 2;
            }
        }
        let (groups, rest) = data.as_chunks::<3>();
        groups.iter().for_each(|group| write_group(*group, 3, out));
        self.kept[..rest.len()].copy_from_slice(rest);
        self.len = rest.len() as u8;
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends what is kept, with padding.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        let mut group = [0; 3];
        let len = usize::from(self.len);
        group[..len].copy_from_slice(&self.kept[..len]);
        if len > 0 {
            write_group(group, len, out);
        }
        self.len = 0;
    }
}

/// Appends a group of so many bytes.
fn write_group([a, b, c]: [u8; 3], len: usize, out: &mut Vec<u8>) {
    let bits = u32::from_be_bytes([0, a, b, c]);
    let character = |at: u32| ALPHABET[(bits >> (18 - 6 * at)) as usize & 63];
    let mut group = [character(0), character(1), character(2), character(3)];
    group[len + 1..].fill(b'=');
    out.extend_from_slice(&group);
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use alloc::{format, vec};

    use super::*;
    use crate::HeadLimits;
    use crate::h1::{HeadStore, Parsed, parse_request};

    #[test]
    fn types_change_and_the_format_stays() {
        for (value, wanted) in [
            ("application/grpc-web", Some((Form::Binary, "application/grpc"))),
            ("application/grpc-web+proto", Some((Form::Binary, "application/grpc+proto"))),
            ("Application/gRPC-Web-Text+proto", Some((Form::Text, "application/grpc+proto"))),
            ("application/grpc-web-text; a=b", Some((Form::Text, "application/grpc; a=b"))),
            ("application/grpc", None),
            ("application/grpc+proto", None),
            ("application/grpc-website", None),
            ("application/grpc-web-texts", None),
            ("text/plain", None),
            ("", None),
        ] {
            let read = WebType::parse(value.as_bytes()).map(|web| {
                let mut grpc = Vec::new();
                web.write_grpc(&mut grpc);
                (web.form, grpc)
            });
            assert_eq!(read, wanted.map(|(form, grpc)| (form, grpc.as_bytes().to_vec())), "{value}");
        }
        for (form, value, wanted) in [
            (Form::Text, "application/grpc+proto", Some("application/grpc-web-text+proto")),
            (Form::Binary, "application/grpc", Some("application/grpc-web")),
            (Form::Binary, "text/html", None),
            (Form::Binary, "application/grpc-web", None),
        ] {
            let mut out = Vec::new();
            let is_answer = WebType::write_answer(form, value.as_bytes(), &mut out);
            assert_eq!(is_answer.then_some(out), wanted.map(|wanted| wanted.as_bytes().to_vec()), "{value}");
        }
    }

    fn decode(text: &[u8], step: usize) -> Result<Vec<u8>, InvalidText> {
        let (mut decoder, mut out) = (TextDecoder::default(), Vec::new());
        for piece in text.chunks(step) {
            decoder.read(piece, &mut out)?;
        }
        if decoder.is_between_groups() { Ok(out) } else { Err(InvalidText) }
    }

    #[test]
    fn text_is_the_same_in_any_pieces() {
        // RFC 4648, section 10; the last ones are several pieces that were padded by themselves.
        for (text, wanted) in [
            ("", &b""[..]),
            ("Zg==", b"f"),
            ("Zm8=", b"fo"),
            ("Zm9v", b"foo"),
            ("Zm9vYg==", b"foob"),
            ("Zm9vYmE=", b"fooba"),
            ("Zm9vYmFy", b"foobar"),
            ("++//", b"\xfb\xef\xff"),
            ("Zg==Zm8=Zm9v", b"ffofoo"),
            ("Zg==Zg==", b"ff"),
        ] {
            for step in 1..=text.len().max(1) {
                assert_eq!(decode(text.as_bytes(), step).as_deref(), Ok(wanted), "{text} {step}");
            }
        }
        for wrong in ["Z", "Zm9", "Zg=", "Z===", "====", "=Zg=", "Zg=a", "Zm-v", "Zm9v\r\n", "Zh==", "Zm9="] {
            for step in 1..=wrong.len() {
                assert_eq!(decode(wrong.as_bytes(), step), Err(InvalidText), "{wrong} {step}");
            }
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let data: Vec<u8> = (0..=255).collect();
        for length in 0..40 {
            for step in 1..=length.max(1) {
                for flushes in [false, true] {
                    let (mut encoder, mut text) = (TextEncoder::default(), vec![]);
                    for piece in data[..length].chunks(step) {
                        encoder.write(piece, &mut text);
                        if flushes {
                            encoder.flush(&mut text);
                        }
                    }
                    encoder.flush(&mut text);
                    assert_eq!(decode(&text, 7).as_deref(), Ok(&data[..length]), "{length} {step}");
                    let wanted = length.div_ceil(3) * 4;
                    assert!(flushes || text.len() == wanted, "padding in the middle: {length} {step}");
                }
            }
        }
    }

    #[test]
    fn trailers_are_a_frame() {
        let mut out = vec![7];
        write_trailers(&mut out, None);
        assert_eq!(out, [7, 0x80, 0, 0, 0, 0]);
        let trailers = crate::grpc::trailers(crate::grpc::Status::Unavailable, "gone");
        write_trailers(&mut out, Some(&trailers));
        assert_eq!(&out[6..], b"\x80\0\0\0\x25grpc-status: 14\r\ngrpc-message: gone\r\n");
    }

    #[test]
    fn an_answer_is_like_the_request_unless_another_one_is_accepted() {
        for (kind, accept, wanted, answered) in [
            ("application/grpc-web", "", (Form::Binary, Form::Binary), "application/grpc-web"),
            ("application/grpc-web+proto", "*/*", (Form::Binary, Form::Binary), "application/grpc-web+proto"),
            ("application/grpc-web-text", "", (Form::Text, Form::Text), "application/grpc-web-text"),
            (
                "application/grpc-web+proto",
                "text/html, application/grpc-web-text;q=0.9",
                (Form::Binary, Form::Text),
                "application/grpc-web-text+proto",
            ),
            (
                "application/grpc-web-text+json",
                "application/grpc-web+json",
                (Form::Text, Form::Binary),
                "application/grpc-web",
            ),
        ] {
            let accept = if accept.is_empty() { String::new() } else { format!("Accept: {accept}\r\n") };
            let text = format!(
                "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Type: {kind}\r\n{accept}\r\n"
            );
            let mut store = HeadStore::default();
            let parsed = parse_request(text.as_bytes(), &mut store, &HeadLimits::default());
            let Ok(Parsed::Complete { head, .. }) = parsed else { panic!("{text}") };
            let web = Web::of(&head.field_list()).expect("a call");
            assert_eq!((web.request, web.answer), wanted, "{kind} {accept}");
            assert_eq!(web.empty_answer(), answered, "{kind} {accept}");
            let mut out = Vec::new();
            assert!(web.write_answer(b"application/grpc", &mut out));
            assert_eq!(out, answered.as_bytes());
            out.clear();
            assert!(web.write_answer(b"application/grpc+json", &mut out) && out.ends_with(b"+json"));
            assert!(!web.write_answer(b"text/plain", &mut out));
        }
    }
}
