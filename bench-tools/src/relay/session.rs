//! What the relays on foreign runtimes have in common: bytes in, bytes out. Only who waits for them differs.

use std::io;
use std::net::IpAddr;

use super::head::rewrite;
use crate::http::response::ResponseReader;

/// What is read at a time.
pub(super) const BUFFER_BYTES: usize = 16 * 1024;

/// One client connection.
pub(super) struct Session {
    client: String,
    input: Vec<u8>,
    output: Vec<u8>,
    reader: ResponseReader,
}

impl Session {
    pub(super) fn new(client: IpAddr) -> Session {
        Session {
            client: client.to_string(),
            input: Vec::with_capacity(BUFFER_BYTES),
            output: Vec::new(),
            reader: ResponseReader::default(),
        }
    }

    /// Takes in what the client sent.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// The next request as it goes to the origin, if all of it has come; give the buffer back with [`Session::sent`].
    ///
    /// # Errors
    /// When it is no request, or has a body.
    pub(super) fn request(&mut self) -> io::Result<Option<Vec<u8>>> {
        let used = rewrite(&self.input, &self.client, &mut self.output);
        let Some(used) = used.map_err(|_| io::ErrorKind::InvalidData)? else { return Ok(None) };
        self.input.drain(..used);
        self.reader.start(false);
        Ok(Some(std::mem::take(&mut self.output)))
    }

    pub(super) fn sent(&mut self, mut request: Vec<u8>) {
        request.clear();
        self.output = request;
    }

    /// Whether the answer ends with these bytes.
    ///
    /// # Errors
    /// When the origin closed or answers no HTTP.
    pub(super) fn ends_answer(&mut self, bytes: &[u8]) -> io::Result<bool> {
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let answer = self.reader.read(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(answer.is_some())
    }
}
