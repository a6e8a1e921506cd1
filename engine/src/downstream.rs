//! The side of the clients.

pub(crate) mod h1;
pub(crate) mod history;
