//! Which of a port's listeners gets a connection: by socket options, which need no capability, or by a program of extended BPF,
//! which needs CAP_BPF and can read the shards' loads.

mod options;
mod program;

pub(crate) use self::options::{prefer_incoming_cpu, steer_by_cpu};
pub(crate) use self::program::Slot;
pub use self::program::{SteeringMaps, SteeringProgram, SteeringTables};
