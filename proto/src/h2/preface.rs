//! The preface of a client.

/// What a client sends first.
//= https://www.rfc-editor.org/rfc/rfc9113#section-3.4
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How many bytes at the start of `input` go on with the preface behind its first `done` bytes; `None` if one does not.
pub(super) fn read(done: u8, input: &[u8]) -> Option<u8> {
    let left = &PREFACE[usize::from(done)..];
    let len = left.len().min(input.len());
    (left[..len] == input[..len]).then_some(len as u8)
}
