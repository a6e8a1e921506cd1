//! Why the proxy does not start, or cannot go on: the line on stderr and the exit code.

use sluice_sys::{HostUnsupported, RingFailed};

use crate::exit::Exit;

/// Why the proxy does not run, or not any more.
#[derive(Debug)]
pub enum LaunchError {
    /// The host lacks something.
    HostUnsupported(HostUnsupported),
    /// The configuration asks for something that is not available now.
    Refused(String),
    /// It ran, and a shard cannot go on.
    RingFailed {
        /// The shard.
        shard: usize,
        /// What the kernel said.
        error: RingFailed,
    },
}

impl std::fmt::Display for LaunchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::HostUnsupported(unsupported) => unsupported.fmt(f),
            Self::Refused(why) => f.write_str(why),
            Self::RingFailed { shard, error } => {
                write!(
                    f,
                    "shard {shard} cannot go on: {error}; the process ends at once, its supervisor should start it again"
                )
            }
        }
    }
}

impl std::error::Error for LaunchError {}

impl LaunchError {
    /// How the process ends.
    pub fn exit(&self) -> Exit {
        match self {
            Self::HostUnsupported(_) => Exit::HostUnsupported,
            Self::Refused(_) => Exit::Refused,
            Self::RingFailed { .. } => Exit::RingFailed,
        }
    }
}

impl From<HostUnsupported> for LaunchError {
    fn from(unsupported: HostUnsupported) -> Self {
        Self::HostUnsupported(unsupported)
    }
}
