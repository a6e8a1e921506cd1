//! Ids that stand for names and do not give them away.

use aws_lc_rs::hmac;

/// The first bits of HMAC-SHA-256 of a name: the same wherever the key is the same. Without a key they can be found by trying names.
pub fn keyed_id(key: &[u8], name: &[u8]) -> u64 {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), name);
    tag.as_ref().iter().take(8).fold(0, |id, &byte| id << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_begin_of_the_tag() {
        //= https://www.rfc-editor.org/rfc/rfc4231#section-4.3
        assert_eq!(keyed_id(b"Jefe", b"what do ya want for nothing?"), 0x5bdc_c146_bf60_754e);
    }
}
