//! Runs a command on a kernel that refuses something, as containers with a seccomp profile and older kernels do.
//!
//! Owns the filter: some calls fail, everything else is allowed. Called by the tests and by scripts/bare-host as
//! `without WHAT[,WHAT...] PROGRAM ARGUMENTS...`; it becomes that program.

use std::{collections::BTreeMap, env, os::unix::process::CommandExt, process::Command};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

/// What can be missing: the calls, the condition on them, and the error.
type Refusal = (&'static [i64], Vec<SeccompRule>, i32);

/// What a container's profile refuses without CAP_SYS_NICE.
const MEMORY_POLICY: &[i64] = &[
    libc::SYS_get_mempolicy,
    libc::SYS_set_mempolicy,
    libc::SYS_mbind,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
];

/// `io_uring_register` has this second argument for NAPI busy polling (IORING_REGISTER_NAPI).
const REGISTER_NAPI: u64 = 27;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = env::args_os().skip(1);
    let usage = "usage: without io_uring|bpf|napi|memory-policy[,...] PROGRAM ARGUMENTS...";
    let what = arguments.next().ok_or(usage)?;
    for what in what.to_str().ok_or(usage)?.split(',') {
        refuse(refusal(what)?.ok_or(usage)?)?;
    }
    let program = arguments.next().ok_or(usage)?;
    Err(Command::new(program).args(arguments).exec().into())
}

fn refusal(what: &str) -> Result<Option<Refusal>, seccompiler::Error> {
    Ok(Some(match what {
        // No condition: the call matches whatever its arguments are.
        "io_uring" => (&[libc::SYS_io_uring_setup], Vec::new(), libc::EPERM),
        "bpf" => (&[libc::SYS_bpf], Vec::new(), libc::EPERM),
        "memory-policy" => (MEMORY_POLICY, Vec::new(), libc::EPERM),
        // As Linux 6.8 and older have it.
        "napi" => {
            let is_napi = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, REGISTER_NAPI)?;
            (&[libc::SYS_io_uring_register], vec![SeccompRule::new(vec![is_napi])?], libc::EINVAL)
        }
        _ => return Ok(None),
    }))
}

/// Filters add up: the kernel asks all of them.
fn refuse((calls, rules, errno): Refusal) -> Result<(), Box<dyn std::error::Error>> {
    let filter: BpfProgram = SeccompFilter::new(
        calls.iter().map(|&call| (call, rules.clone())).collect::<BTreeMap<_, _>>(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno.unsigned_abs()),
        env::consts::ARCH.try_into()?,
    )?
    .try_into()?;
    Ok(apply_filter(&filter)?)
}
