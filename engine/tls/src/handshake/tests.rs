//! Handshakes against plain rustls in memory as the other end.

mod clients;
mod failures;
mod peers;
mod picking;
mod resumption;
mod servers;

use std::sync::Arc;

use super::*;
