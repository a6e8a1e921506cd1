//! A shard's upstreams with TLS: what the handshakes with their servers have in common.

use sluice_tls::handshake::ClientConfig;

use super::files::TlsFiles;

/// The upstreams of a shard, by number.
#[derive(Default)]
pub(crate) struct TlsUpstreams {
    by_upstream: Vec<Option<ClientConfig>>,
}

impl TlsUpstreams {
    /// Those of the configuration.
    ///
    /// # Errors
    /// One line: a certificate that cannot be used.
    pub(crate) fn new(files: &TlsFiles) -> Result<TlsUpstreams, String> {
        let all = files.upstreams.iter().map(|settings| settings.as_ref().map(ClientConfig::new).transpose());
        Ok(TlsUpstreams { by_upstream: all.collect::<Result<_, String>>()? })
    }

    /// Of the upstream with this number.
    pub(crate) fn of(&self, upstream: usize) -> Option<&ClientConfig> {
        self.by_upstream.get(upstream)?.as_ref()
    }
}
