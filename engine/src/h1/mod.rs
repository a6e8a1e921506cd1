//! HTTP/1.1 bodies on a connection, the same for both sides: [`BodyReader`] takes them off the wire, [`BodyWriter`] puts
//! them on it. Heads are read by `downstream::h1` and `upstream::h1`.

mod body_reader;
mod body_writer;

pub(crate) use body_reader::{BodyProgress, BodyReader};
pub(crate) use body_writer::{BodyWriter, Last, append_data, append_end};
