//! Alerts: what a peer's mean, and which are ours.

use super::{Fault, Version};

/// Bytes of an alert: level and description.
pub(super) const ALERT_BYTES: usize = 2;

const LEVEL_WARNING: u8 = 1;
const LEVEL_FATAL: u8 = 2;

const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;

/// The alert that ends our side.
pub(super) const CLOSE: [u8; ALERT_BYTES] = [LEVEL_WARNING, CLOSE_NOTIFY];

/// What an alert of the peer means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Close,
    /// The connection goes on.
    Warning,
    Abort(u8),
}

/// Reads the content of an alert record.
pub(super) fn parse(version: Version, content: &[u8]) -> Result<Meaning, Fault> {
    match (version, content) {
        //= https://www.rfc-editor.org/rfc/rfc8446#section-5.4
        (_, []) => Err(Fault::Unexpected),
        (_, &[LEVEL_WARNING | LEVEL_FATAL, CLOSE_NOTIFY]) => Ok(Meaning::Close),
        (Version::Tls12, &[LEVEL_WARNING, _]) => Ok(Meaning::Warning),
        //= https://www.rfc-editor.org/rfc/rfc8446#section-6
        // The level says nothing in TLS 1.3: all alerts but these two are errors.
        (Version::Tls13, &[LEVEL_WARNING | LEVEL_FATAL, USER_CANCELED]) => Ok(Meaning::Warning),
        (_, &[LEVEL_WARNING | LEVEL_FATAL, description]) => Ok(Meaning::Abort(description)),
        (_, &[_, _]) => Err(Fault::IllegalParameter),
        //= https://www.rfc-editor.org/rfc/rfc8446#section-5.1
        // One alert is neither cut over records nor put together with another one.
        _ => Err(Fault::Malformed),
    }
}

/// The alert for a fault of the peer. All are fatal, also no_renegotiation, which would leave the choice to a peer that we do not
/// go on with.
pub(super) fn for_fault(fault: Fault) -> [u8; ALERT_BYTES] {
    let description = match fault {
        Fault::Unexpected | Fault::Flood => 10,
        Fault::BadMac => 20,
        Fault::Overflow => 22,
        Fault::IllegalParameter => 47,
        Fault::Malformed => 50,
        // Not close_notify: the data are not complete.
        Fault::KeyExhausted | Fault::KeyInKernel => 80,
        Fault::Renegotiation => 100,
    };
    [LEVEL_FATAL, description]
}
