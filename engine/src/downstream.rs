//! The side of the clients.

pub(crate) mod h1;
pub(crate) mod history;
pub(crate) mod proxy_protocol;
