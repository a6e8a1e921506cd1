//! The one thing the HTTP relays do to a request.

use std::mem::MaybeUninit;

use crate::http::Malformed;

/// Writes a request head again, with X-Forwarded-For and without Connection; returns how many bytes it took, or `None`
/// when it is not complete yet.
pub(super) fn rewrite(bytes: &[u8], client: &str, out: &mut Vec<u8>) -> Result<Option<usize>, Malformed> {
    let mut fields = [const { MaybeUninit::uninit() }; 64];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Malformed),
    };
    out.extend_from_slice(request.method.unwrap_or_default().as_bytes());
    out.push(b' ');
    out.extend_from_slice(request.path.unwrap_or_default().as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for field in request.headers {
        if field.name.eq_ignore_ascii_case("content-length")
            || field.name.eq_ignore_ascii_case("transfer-encoding")
        {
            return Err(Malformed);
        }
        if field.name.eq_ignore_ascii_case("connection") {
            continue;
        }
        out.extend_from_slice(field.name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(field.value);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"X-Forwarded-For: ");
    out.extend_from_slice(client.as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
    Ok(Some(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_written_again() {
        let wire = b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\nGET";
        let mut out = Vec::new();
        assert_eq!(rewrite(&wire[..20], "1.2.3.4", &mut out), Ok(None));
        assert!(out.is_empty());
        assert_eq!(rewrite(wire, "1.2.3.4", &mut out), Ok(Some(wire.len() - 3)));
        assert_eq!(out, b"GET /x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n");
        assert_eq!(rewrite(b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", "", &mut out), Err(Malformed));
    }
}
