//! `child`: pins itself, asks the kernel for a signal when the tool ends, and becomes another program.
//!
//! Servers under measurement are started through this, so that none outlives a tool that was killed or left by a second
//! Ctrl-C. The request survives execve(2) and is not inherited by the program's own children: a SIGTERM lets a master
//! process end its workers.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, Command};

use clap::Args;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use sluice_sys::pin_to_cpu;

use crate::Failure;
use crate::lanes::no_such_cpu;

/// Flags of `child`.
#[derive(Clone, Debug, Args)]
pub struct ChildArgs {
    /// The process with which the program ends
    #[arg(long, value_name = "PID")]
    parent: i32,
    /// The CPU to run on [default: any]
    #[arg(long, value_name = "CPU")]
    cpu: Option<usize>,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// The command that starts a program as a child of this process, to end when the calling thread does.
pub(crate) fn command(program: &Path, cpu: Option<usize>) -> Command {
    // Not by its path: a build may have put another program there since this one was started.
    let mut command = Command::new("/proc/self/exe");
    command.args(["child", "--parent", &process::id().to_string()]);
    if let Some(cpu) = cpu {
        command.args(["--cpu", &cpu.to_string()]);
    }
    command.arg("--").arg(program);
    command
}

/// Becomes the program.
///
/// # Errors
/// When it cannot: otherwise this does not return.
pub(crate) fn run(args: &ChildArgs) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| Failure::Usage(format!("cannot ask for a signal when the tool ends: {error}")))?;
    // It may have ended before that.
    if getppid() != Pid::from_raw(args.parent) {
        return Err(Failure::Usage("the process to end with has ended".into()));
    }
    if let Some(cpu) = args.cpu {
        pin_to_cpu(cpu).map_err(|error| no_such_cpu(cpu, &error))?;
    }
    let error = Command::new(&args.command[0]).args(&args.command[1..]).exec();
    Err(Failure::Target(format!("cannot run {}: {error}", args.command[0].display())))
}
