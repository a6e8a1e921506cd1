//! The gRPC health protocol, as far as a client needs it: the request of `grpc.health.v1.Health/Check`, and what its response says.
//!
//! Both are messages of one field, behind the five bytes with which gRPC begins each message (PROTOCOL-HTTP2.md,
//! `Length-Prefixed-Message`). Fields that are not known are skipped, as protobuf has it.

use alloc::vec::Vec;

/// The path of the method.
pub const PATH: &str = "/grpc.health.v1.Health/Check";

/// What a server says of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// It serves.
    Serving,
    /// It does not.
    NotServing,
    /// It does not know, or says something that this protocol does not have.
    Unknown,
    /// It does not know the service. Only `Watch` should say so.
    ServiceUnknown,
}

impl Serving {
    /// Its name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Serving::Serving => "SERVING",
            Serving::NotServing => "NOT_SERVING",
            Serving::Unknown => "UNKNOWN",
            Serving::ServiceUnknown => "SERVICE_UNKNOWN",
        }
    }
}

/// Why bytes are not a response of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// There is less than a whole message, or more.
    Length,
    /// It is compressed, which was not offered.
    Compressed,
    /// It is not protobuf.
    Message,
}

impl Malformed {
    /// One line for people.
    pub fn reason(self) -> &'static str {
        match self {
            Malformed::Length => "the response is not exactly one message",
            Malformed::Compressed => "the message is compressed, which was not offered",
            Malformed::Message => "the message is not a HealthCheckResponse",
        }
    }
}

/// Types of fields on the wire.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// The request for a service, as a gRPC message: `HealthCheckRequest { string service = 1; }`.
pub fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    // proto3 leaves out what is empty.
    if !service.is_empty() {
        message.push(1 << 3 | BYTES as u8);
        write_varint(&mut message, service.len() as u64);
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = Vec::with_capacity(5 + message.len());
    framed.push(0);
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(&message);
    framed
}

/// What the body of a response says: `HealthCheckResponse { ServingStatus status = 1; }`.
///
/// # Errors
/// It is not one message of that kind.
pub fn parse_response(body: &[u8]) -> Result<Serving, Malformed> {
    let (&[is_compressed, a, b, c, d], message) = body.split_first_chunk().ok_or(Malformed::Length)?;
    if is_compressed != 0 {
        return Err(Malformed::Compressed);
    }
    if u32::from_be_bytes([a, b, c, d]) as usize != message.len() {
        return Err(Malformed::Length);
    }
    let (mut rest, mut status) = (message, 0);
    while !rest.is_empty() {
        let tag = take_varint(&mut rest)?;
        match (tag >> 3, tag & 7) {
            // Numbers of fields have 29 bits.
            (0 | 0x2000_0000.., _) => return Err(Malformed::Message),
            // The last one counts, by its lower bits: an enum is an int32.
            (1, VARINT) => status = take_varint(&mut rest)? as u32,
            (1, _) => return Err(Malformed::Message),
            (_, VARINT) => drop(take_varint(&mut rest)?),
            (_, FIXED64) => take(&mut rest, 8)?,
            (_, BYTES) => {
                let length = take_varint(&mut rest)?;
                take(&mut rest, length)?;
            }
            (_, FIXED32) => take(&mut rest, 4)?,
            // Groups are of proto2.
            _ => return Err(Malformed::Message),
        }
    }
    Ok(match status {
        1 => Serving::Serving,
        2 => Serving::NotServing,
        3 => Serving::ServiceUnknown,
        _ => Serving::Unknown,
    })
}

fn take(rest: &mut &[u8], length: u64) -> Result<(), Malformed> {
    let length = usize::try_from(length).map_err(|_| Malformed::Message)?;
    *rest = rest.get(length..).ok_or(Malformed::Message)?;
    Ok(())
}

/// A number of seven bits a byte, the lowest first, in ten bytes at most.
fn take_varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut number = 0;
    for place in 0..10 {
        let (&byte, behind) = rest.split_first().ok_or(Malformed::Message)?;
        *rest = behind;
        // The tenth byte has the 64th bit.
        if place == 9 && byte > 1 {
            return Err(Malformed::Message);
        }
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Malformed::Message)
}

fn write_varint(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        [&[0], &(message.len() as u32).to_be_bytes()[..], message].concat()
    }

    #[test]
    fn a_request_names_its_service() {
        assert_eq!(request(""), [0; 5]);
        assert_eq!(request("a.B"), *b"\0\0\0\0\x05\x0a\x03a.B");
        let long = "s".repeat(300);
        let bytes = request(&long);
        assert_eq!(bytes[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
        assert_eq!(bytes.len(), 8 + 300);
    }

    #[test]
    fn a_response_says_one_of_four_things() {
        for (message, wanted) in [
            (&b""[..], Serving::Unknown),
            (b"\x08\x01", Serving::Serving),
            (b"\x08\x02", Serving::NotServing),
            (b"\x08\x03", Serving::ServiceUnknown),
            (b"\x08\x09", Serving::Unknown),
            // The last one counts; numbers may be longer than they have to be.
            (b"\x08\x02\x08\x01", Serving::Serving),
            (b"\x08\x81\x80\x00", Serving::Serving),
            // Unknown fields of every type on both sides.
            (b"\x10\x05\x08\x01\x1a\x02ab\x25abcd\x29abcdefgh", Serving::Serving),
            (b"\x08\x81\x80\x80\x80\xf0\xff\xff\xff\xff\x01", Serving::Serving),
        ] {
            assert_eq!(parse_response(&framed(message)), Ok(wanted), "{message:?}");
        }
    }

    #[test]
    fn everything_else_is_malformed() {
        for (body, wanted) in [
            (&b""[..], Malformed::Length),
            (b"\0\0\0\0", Malformed::Length),
            (b"\0\0\0\0\x03\x08\x01", Malformed::Length),
            (b"\0\0\0\0\x02\x08\x01\0", Malformed::Length),
            (b"\0\xff\xff\xff\xff", Malformed::Length),
            (b"\x01\0\0\0\x02\x08\x01", Malformed::Compressed),
            (b"\0\0\0\0\x01\x08", Malformed::Message),
            (b"\0\0\0\0\x02\x00\x01", Malformed::Message),
            (b"\0\0\0\0\x02\x0b\x01", Malformed::Message),
            (b"\0\0\0\0\x02\x12\x05", Malformed::Message),
            (b"\0\0\0\0\x03\x0a\x01\x01", Malformed::Message),
            (b"\0\0\0\0\x0b\x08\x81\x80\x80\x80\x80\x80\x80\x80\x80\x02", Malformed::Message),
            (b"\0\0\0\0\x0c\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", Malformed::Message),
            (b"\0\0\0\0\x0b\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Malformed::Message),
        ] {
            assert_eq!(parse_response(body), Err(wanted), "{body:?}");
        }
    }
}
