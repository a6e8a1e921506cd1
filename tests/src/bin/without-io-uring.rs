//! Runs a command on a kernel that refuses io_uring, as containers with a seccomp profile do.
//!
//! Owns the filter: `io_uring_setup` fails with EPERM, everything else is allowed. Called by the tests as
//! `without-io-uring PROGRAM ARGUMENTS...`; it becomes that program.

use std::{collections::BTreeMap, env, os::unix::process::CommandExt, process::Command};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let filter: BpfProgram = SeccompFilter::new(
        // An empty list of conditions: the call matches whatever its arguments are.
        BTreeMap::from([(libc::SYS_io_uring_setup, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        env::consts::ARCH.try_into()?,
    )?
    .try_into()?;
    apply_filter(&filter)?;

    let mut arguments = env::args_os().skip(1);
    let program = arguments.next().ok_or("usage: without-io-uring PROGRAM ARGUMENTS...")?;
    Err(Command::new(program).args(arguments).exec().into())
}
