//! Configuration: read once into a raw form, checked once into the only form the engine sees.
//!
//! `source` turns TOML or JSON into one tree with positions, `raw` knows keys and types, `checked` knows what
//! values mean together. `settings` is the table of every timeout and limit. Every error is found in one run
//! and says where it is. Called once at start (and by `sluice check`); never on the data path.

mod address;
mod checked;
mod pattern;
mod problem;
mod raw;
mod settings;
mod source;
mod units;

pub use address::{UpstreamServer, parse_listen};
pub use checked::{Config, Methods, Route, ShardChoice, UpstreamGroup};
pub use pattern::{HOST_BYTES_MAX, HostPattern, PathPattern, Segment, Tail};
pub use problem::{ConfigErrors, Fault, Located, Origin, Problem, Report};
pub use raw::{FLAG_UPSTREAM, Field, Raw, RawRoute, RawUpstream};
pub use settings::{
    LimitFlags, Limits, RawLimits, RawTimeouts, Setting, TimeoutFlags, Timeouts, all as settings,
};
pub use units::{parse_bytes, parse_duration, show_bytes, show_duration};

use std::path::Path;

use crate::cli::RunArgs;

/// The configuration that the command line asks for: its file, if it names one, with its flags on top.
///
/// # Errors
/// Everything that is wrong, in the order of the file; flags first.
pub fn resolve(flags: &RunArgs) -> Result<Config, ConfigErrors> {
    let mut raw = match &flags.config {
        Some(file) => Raw::load(file)?,
        None => Raw::default(),
    };
    raw.merge(flags);
    Config::check(&raw)
}

/// The configuration in a file, for `sluice check`.
///
/// # Errors
/// Everything that is wrong, in the order of the file.
pub fn check_file(file: &Path) -> Result<Config, ConfigErrors> {
    Config::check(&Raw::load(file)?)
}
