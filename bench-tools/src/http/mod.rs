//! As much HTTP/1.1 as a measuring tool needs: where messages begin and end. Bytes in, events out; no sockets.

pub mod chunked;
pub mod prepared;
pub mod request;
pub mod response;

/// Bytes that are not HTTP/1.1, or more of it than we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Longest head that is read.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Most header fields of a head.
const FIELDS_MAX: usize = 64;

/// What a head says about the message's end, and what follows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Framing {
    content_length: Option<u64>,
    is_chunked: bool,
    connection: Connection,
    expects_continue: bool,
    /// The protocol that is offered is WebSocket.
    offers_websocket: bool,
}

/// What the Connection field says about the time after this message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Connection {
    #[default]
    Silent,
    KeepAlive,
    Close,
}

impl Framing {
    /// Reads the few fields that matter; their first letter rules most others out.
    fn of(fields: &[httparse::Header<'_>]) -> Result<Framing, Malformed> {
        let mut framing = Framing::default();
        for field in fields {
            match field.name.as_bytes().first() {
                Some(b'c' | b'C') if field.name.eq_ignore_ascii_case("content-length") => {
                    let text = std::str::from_utf8(field.value).map_err(|_| Malformed)?;
                    framing.content_length = Some(text.trim().parse().map_err(|_| Malformed)?);
                }
                Some(b'c' | b'C') if field.name.eq_ignore_ascii_case("connection") => {
                    if has_token(field.value, b"close") {
                        framing.connection = Connection::Close;
                    } else if framing.connection == Connection::Silent
                        && has_token(field.value, b"keep-alive")
                    {
                        framing.connection = Connection::KeepAlive;
                    }
                }
                Some(b't' | b'T') if field.name.eq_ignore_ascii_case("transfer-encoding") => {
                    framing.is_chunked |= has_token(field.value, b"chunked");
                }
                Some(b'e' | b'E') if field.name.eq_ignore_ascii_case("expect") => {
                    framing.expects_continue |= has_token(field.value, b"100-continue");
                }
                Some(b'u' | b'U') if field.name.eq_ignore_ascii_case("upgrade") => {
                    framing.offers_websocket |= has_token(field.value, b"websocket");
                }
                _ => {}
            }
        }
        Ok(framing)
    }

    /// Whether the connection may carry another message after this one.
    fn keeps_alive(&self, version: Option<u8>) -> bool {
        match self.connection {
            Connection::Close => false,
            Connection::KeepAlive => true,
            Connection::Silent => version == Some(1),
        }
    }
}

fn has_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|&byte| byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
}
