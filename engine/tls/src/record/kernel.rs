//! A session whose records the kernel seals: it seals none itself, and counts what goes out.

use super::{Fault, KEY_RECORDS_MAX, Outgoing, PLAINTEXT_BYTES_MAX, Session, TYPE_ALERT, alerts};

/// Bytes that are counted as one record. The kernel cuts its own, some of them shorter; what a key is good for is a matter of
/// bytes (RFC 8446, section 5.5, counts records of full size).
pub const KERNEL_PIECE_BYTES: u64 = PLAINTEXT_BYTES_MAX as u64;

/// A record of another type than application data, which the kernel is to seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// Its type.
    pub content_type: u8,
    /// Its content.
    pub content: [u8; alerts::ALERT_BYTES],
}

impl Session {
    /// Whether the kernel may seal from here on: nothing is owed to the peer, and so many bytes do not wear the key out.
    pub fn may_go_to_kernel(&self, bytes: u64) -> bool {
        self.outgoing == Outgoing::Open && self.kernel_records_left() > records_of(bytes)
    }

    /// From now on the kernel seals; it has the keys as they are now.
    pub fn go_to_kernel(&mut self) {
        debug_assert_eq!(self.outgoing, Outgoing::Open);
        self.outgoing = Outgoing::InKernel;
    }

    /// Whether the kernel seals, or has sealed the end.
    pub fn is_in_kernel(&self) -> bool {
        matches!(self.outgoing, Outgoing::InKernel | Outgoing::ClosedInKernel)
    }

    /// Counts bytes that are given to the kernel; says whether it may have them.
    pub fn count_in_kernel(&mut self, bytes: u64) -> bool {
        let left = self.kernel_records_left();
        if self.outgoing != Outgoing::InKernel || left == 0 {
            return false;
        }
        self.sealing.skip_sequences(records_of(bytes).min(left));
        true
    }

    /// Whether the key is good for half as much as at first, or less.
    pub fn is_key_half_used(&self) -> bool {
        self.kernel_records_left() <= KEY_RECORDS_MAX / 2
    }

    fn kernel_records_left(&self) -> u64 {
        KEY_RECORDS_MAX.saturating_sub(self.sealing.sequence())
    }

    /// Ends our side: the alert that the kernel is to seal (close_notify). A second end is none.
    pub fn close_in_kernel(&mut self) -> Option<Control> {
        self.end_in_kernel(alerts::CLOSE)
    }

    /// The same, with the alert for a fault of the peer.
    pub fn alert_in_kernel(&mut self, fault: Fault) -> Option<Control> {
        self.end_in_kernel(alerts::for_fault(fault))
    }

    fn end_in_kernel(&mut self, content: [u8; alerts::ALERT_BYTES]) -> Option<Control> {
        if self.outgoing != Outgoing::InKernel {
            return None;
        }
        self.outgoing = Outgoing::ClosedInKernel;
        Some(Control { content_type: TYPE_ALERT, content })
    }
}

/// How many records that many bytes are counted as.
fn records_of(bytes: u64) -> u64 {
    bytes.div_ceil(KERNEL_PIECE_BYTES)
}
