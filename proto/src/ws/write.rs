//! The control frames that a proxy sends itself: Close and Ping.

use alloc::vec::Vec;

/// The longest frame that is written here.
pub const FRAME_BYTES_MAX: usize = 2 + 4 + 2 + REASON_BYTES_MAX;

/// What a Ping of ours carries: the Pong that answers it has the same, and is not the other peer's.
//= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.3
pub const PING_PAYLOAD: [u8; 8] = *b"sluice\xf0\x9f";

const REASON_BYTES_MAX: usize = 123;

/// Why a connection is closed by us.
//= https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCode {
    /// The proxy, or the other peer, leaves.
    GoingAway,
    /// A frame broke a rule.
    ProtocolError,
    /// Too many messages.
    PolicyViolation,
    /// A message was too large.
    MessageTooBig,
}

impl CloseCode {
    /// As it is sent.
    pub fn number(self) -> u16 {
        match self {
            CloseCode::GoingAway => 1001,
            CloseCode::ProtocolError => 1002,
            CloseCode::PolicyViolation => 1008,
            CloseCode::MessageTooBig => 1009,
        }
    }

    /// The text behind it, for who debugs a client.
    pub fn reason(self) -> &'static str {
        match self {
            CloseCode::GoingAway => "going away",
            CloseCode::ProtocolError => "broken frame",
            CloseCode::PolicyViolation => "too many messages",
            CloseCode::MessageTooBig => "message too large",
        }
    }
}

/// Whether a Close frame may have this code.
//= https://www.rfc-editor.org/rfc/rfc6455#section-7.4
pub fn is_close_code(code: u16) -> bool {
    // 1004 to 1006 and 1015 are never sent; up to 1014 the registry has names for them, and what is above 2999 is for others.
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Appends a Close frame; masked with this key, for a server.
//= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
pub fn write_close(out: &mut Vec<u8>, code: CloseCode, key: Option<[u8; 4]>) {
    let mut payload = [0; 2 + REASON_BYTES_MAX];
    payload[..2].copy_from_slice(&code.number().to_be_bytes());
    let reason = code.reason().as_bytes();
    payload[2..2 + reason.len()].copy_from_slice(reason);
    write_control(out, 0x8, &payload[..2 + reason.len()], key);
}

/// Appends a Ping frame; masked with this key, for a server.
//= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.2
pub fn write_ping(out: &mut Vec<u8>, key: Option<[u8; 4]>) {
    write_control(out, 0x9, &PING_PAYLOAD, key);
}

/// Appends a control frame, of which the payload is at most 125 bytes.
fn write_control(out: &mut Vec<u8>, opcode: u8, payload: &[u8], key: Option<[u8; 4]>) {
    const FIN: u8 = 0x80;
    const MASKED: u8 = 0x80;
    out.push(FIN | opcode);
    let length = payload.len() as u8;
    let Some(key) = key else {
        out.push(length);
        return out.extend_from_slice(payload);
    };
    out.push(MASKED | length);
    out.extend_from_slice(&key);
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODES: [CloseCode; 4] = [
        CloseCode::GoingAway,
        CloseCode::ProtocolError,
        CloseCode::PolicyViolation,
        CloseCode::MessageTooBig,
    ];

    #[test]
    fn frames_are_short_and_masked_where_they_must() {
        for code in CODES {
            let (mut plain, mut masked) = (Vec::new(), Vec::new());
            write_close(&mut plain, code, None);
            write_close(&mut masked, code, Some([1, 2, 3, 4]));
            assert!(masked.len() <= FRAME_BYTES_MAX && is_close_code(code.number()));
            assert_eq!(plain[..2], [0x88, 2 + code.reason().len() as u8]);
            assert_eq!(plain[2..4], code.number().to_be_bytes());
            assert_eq!(&plain[4..], code.reason().as_bytes());
            assert_eq!((masked[0], masked[1], &masked[2..6]), (0x88, plain[1] | 0x80, &[1, 2, 3, 4][..]));
            let unmasked: Vec<u8> =
                masked[6..].iter().zip([1, 2, 3, 4].iter().cycle()).map(|(byte, key)| byte ^ key).collect();
            assert_eq!(unmasked, plain[2..]);
        }
        let mut ping = Vec::new();
        write_ping(&mut ping, None);
        assert_eq!((ping[0], usize::from(ping[1]), &ping[2..]), (0x89, 8, &PING_PAYLOAD[..]));
    }

    #[test]
    fn codes_are_those_that_may_be_sent() {
        for code in [1000, 1003, 1007, 1014, 3000, 4999] {
            assert!(is_close_code(code), "{code}");
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
            assert!(!is_close_code(code), "{code}");
        }
    }
}
