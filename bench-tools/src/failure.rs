//! Why a subcommand did not do what was asked.

use std::fmt;
use std::process::ExitCode;

use sluice_sys::{HostUnsupported, RingFailed};

/// An error that ends the program, with its one message.
#[derive(Debug)]
pub enum Failure {
    /// What was asked cannot be done: flags that contradict each other, a wrong value. Exit code 2.
    Usage(String),
    /// The server under test, or something on the way to it, failed. Exit code 1.
    Target(String),
    /// The user ended a run before it was complete; what was measured is kept. Exit code 130.
    Interrupted,
    /// This machine lacks something; says what and how to change it. Exit code 78.
    HostUnsupported(HostUnsupported),
}

impl Failure {
    /// The exit code of the program.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Usage(_) => ExitCode::from(2),
            Failure::Target(_) => ExitCode::FAILURE,
            Failure::Interrupted => ExitCode::from(130),
            Failure::HostUnsupported(_) => ExitCode::from(HostUnsupported::EXIT_CODE),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(message) | Failure::Target(message) => f.write_str(message),
            Failure::Interrupted => {
                f.write_str("interrupted: the report covers what was measured until then")
            }
            Failure::HostUnsupported(unsupported) => unsupported.fmt(f),
        }
    }
}

impl std::error::Error for Failure {}

impl From<RingFailed> for Failure {
    fn from(failed: RingFailed) -> Failure {
        Failure::Target(failed.to_string())
    }
}

impl From<HostUnsupported> for Failure {
    fn from(unsupported: HostUnsupported) -> Failure {
        Failure::HostUnsupported(unsupported)
    }
}
