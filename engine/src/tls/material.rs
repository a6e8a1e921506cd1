//! The certificates and the keys of tickets in force: exchanged as a whole by the control thread, fetched by shards when a message
//! says so.

use std::sync::{Arc, Mutex, PoisonError};

use sluice_tls::certificates::CertificateSet;
use sluice_tls::tickets::TicketKeys;

/// What listeners show to clients.
#[derive(Clone)]
pub(crate) struct Material {
    pub(crate) certificates: CertificateSet,
    /// The answers to HTTP-01 challenges of ACME, by token; none most of the time.
    pub(crate) challenge_texts: Vec<(String, String)>,
    pub(crate) tickets: Arc<TicketKeys>,
}

/// The one in force.
pub(crate) struct CurrentMaterial(Mutex<Arc<Material>>);

impl CurrentMaterial {
    pub(crate) fn new(material: Material) -> CurrentMaterial {
        CurrentMaterial(Mutex::new(Arc::new(material)))
    }

    /// For the start of a shard, and for a message that there is another one.
    pub(crate) fn get(&self) -> Arc<Material> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another one in force. A message tells the shards.
    pub(crate) fn replace(&self, material: Material) {
        let material = Arc::new(material);
        let before = std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), material);
        drop(before);
    }
}
