//! Receive buffers: whatever completes, in whatever order, every buffer is in one place, or in pieces that have no byte in
//! common and keep their bytes until they are dropped or sent; every stream is read without a gap, and bodies never have the
//! last quarter.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_sys::Rig;

/// More steps than this say nothing new.
const STEPS_MAX: usize = 4_096;

fuzz_target!(|input: &[u8]| {
    let mut rig = Rig::with_buffers(32);
    for step in input.chunks_exact(2).take(STEPS_MAX) {
        rig.step(step[0], step[1]);
    }
    for socket in rig.sockets() {
        rig.close(socket);
    }
    rig.settle();
    rig.check();
});
