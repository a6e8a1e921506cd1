//! `sluice cert`: makes pairs for trials, and shows what is in a file. Nothing here is part of serving.

mod make;
mod show;

pub(crate) use make::{make, parse_host};
pub(crate) use show::show;
