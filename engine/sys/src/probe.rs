//! Whether this kernel has what the ring relies on, asked once at start.

use io_uring::{Probe, opcode};

use crate::ring::Ring;
use crate::unfit::{Unfit, kernel_release, kernel_version};

/// The oldest kernel Sluice runs on: DEFER_TASKRUN and multishot receive are complete there.
pub const KERNEL_FLOOR: (u32, u32) = (6, 1);

const NEEDED: [(u8, &str); 9] = [
    (opcode::AcceptMulti::CODE, "ACCEPT"),
    (opcode::RecvMulti::CODE, "RECV"),
    (opcode::Send::CODE, "SEND"),
    (opcode::Connect::CODE, "CONNECT"),
    (opcode::Close::CODE, "CLOSE"),
    (opcode::PollAdd::CODE, "POLL_ADD"),
    (opcode::Splice::CODE, "SPLICE"),
    (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
    (opcode::MsgRingData::CODE, "MSG_RING"),
];

/// Checks the kernel's version and the operations the ring uses.
///
/// # Errors
/// [`Unfit`] names what is missing.
pub(crate) fn check(ring: &Ring) -> Result<(), Unfit> {
    let release = kernel_release();
    if kernel_version(&release).is_some_and(|version| version < KERNEL_FLOOR) {
        return Err(too_old(&format!("kernel {release} is older than 6.1")));
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| Unfit::from_setup(&error))?;
    match NEEDED.iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, name)) => Err(too_old(&format!("io_uring of kernel {release} lacks {name}"))),
        None => Ok(()),
    }
}

fn too_old(cause: &str) -> Unfit {
    Unfit::new(cause, "run on Linux 6.1 or newer")
}
