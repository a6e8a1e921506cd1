//! What a response says of extensions: only permessage-deflate changes what a frame may look like.

use crate::message::ResponseHead;

/// Whether a response that opens a WebSocket takes up permessage-deflate, which gives a meaning to RSV1.
//= https://www.rfc-editor.org/rfc/rfc7692#section-7
pub fn has_deflate(head: &ResponseHead<'_>) -> bool {
    let fields = &head.fields;
    let is_it = |name: &[u8]| name.eq_ignore_ascii_case(b"Sec-WebSocket-Extensions");
    let mut values = fields.spans.iter().filter(|span| is_it(span.name(fields.bytes)));
    values.any(|span| names(span.value(fields.bytes)).any(|name| name == b"permessage-deflate"))
}

/// The names in a list of extensions, without their parameters. A quoted value may have a comma in it.
//= https://www.rfc-editor.org/rfc/rfc6455#section-9.1
fn names(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut is_quoted = false;
    let extensions = value.split(move |&byte| {
        is_quoted ^= byte == b'"';
        byte == b',' && !is_quoted
    });
    extensions.map(|one| one.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::{HeadStore, Parsed, parse_response};
    use crate::limits::HeadLimits;
    use crate::message::RequestKind;
    use alloc::format;

    #[test]
    fn deflate_is_found_among_others() {
        for (lines, is_there) in [
            ("", false),
            ("Sec-WebSocket-Extensions: permessage-deflate\r\n", true),
            ("sec-websocket-extensions: permessage-deflate; server_no_context_takeover\r\n", true),
            ("Sec-WebSocket-Extensions: other; a=\"b, c\" , permessage-deflate;x=1\r\n", true),
            ("Sec-WebSocket-Extensions: other\r\nSec-WebSocket-Extensions: permessage-deflate\r\n", true),
            ("Sec-WebSocket-Extensions: other; a=\"b, permessage-deflate\"\r\n", false),
            ("Sec-WebSocket-Extensions: permessage-deflate2\r\n", false),
            ("Sec-WebSocket-Extensions: x; permessage-deflate\r\n", false),
            ("Sec-WebSocket-Protocol: permessage-deflate\r\n", false),
        ] {
            let bytes = format!("HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{lines}\r\n");
            let mut store = HeadStore::default();
            let parsed =
                parse_response(bytes.as_bytes(), &mut store, &HeadLimits::default(), &RequestKind::Other);
            let Ok(Parsed::Complete { head, .. }) = parsed else { panic!("{parsed:?}") };
            assert_eq!(has_deflate(&head), is_there, "{lines:?}");
        }
    }
}
