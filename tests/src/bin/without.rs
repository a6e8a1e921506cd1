//! Runs a command on a kernel that refuses something, as containers with a seccomp profile and older kernels do.
//!
//! Owns the filter: one call fails, everything else is allowed. Called by the tests as `without WHAT PROGRAM
//! ARGUMENTS...`; it becomes that program.

use std::{collections::BTreeMap, env, os::unix::process::CommandExt, process::Command};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

/// What can be missing: the call, the condition on it, and the error.
type Refusal = (i64, Vec<SeccompRule>, i32);

/// `io_uring_register` has this second argument for NAPI busy polling (IORING_REGISTER_NAPI).
const REGISTER_NAPI: u64 = 27;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = env::args_os().skip(1);
    let usage = "usage: without io_uring|bpf|napi PROGRAM ARGUMENTS...";
    let what = arguments.next().ok_or(usage)?;
    let (call, rules, errno): Refusal = match what.to_str() {
        // No condition: the call matches whatever its arguments are.
        Some("io_uring") => (libc::SYS_io_uring_setup, Vec::new(), libc::EPERM),
        Some("bpf") => (libc::SYS_bpf, Vec::new(), libc::EPERM),
        // As Linux 6.8 and older have it.
        Some("napi") => {
            let is_napi = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, REGISTER_NAPI)?;
            (libc::SYS_io_uring_register, vec![SeccompRule::new(vec![is_napi])?], libc::EINVAL)
        }
        _ => return Err(usage.into()),
    };
    let filter: BpfProgram = SeccompFilter::new(
        BTreeMap::from([(call, rules)]),
        SeccompAction::Allow,
        SeccompAction::Errno(errno.unsigned_abs()),
        env::consts::ARCH.try_into()?,
    )?
    .try_into()?;
    apply_filter(&filter)?;
    let program = arguments.next().ok_or(usage)?;
    Err(Command::new(program).args(arguments).exec().into())
}
