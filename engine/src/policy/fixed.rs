//! Answers whose text is known when a configuration is read: those of routes without a server, and pages for errors.

use sluice_proto::h1::AnswerBody;

use crate::config::Statuses;

/// The largest body. A copy of it is in memory for each client that is slow to take it.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;

/// A body and its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The value of Content-Type.
    pub content_type: Box<str>,
    /// The body.
    pub bytes: Box<[u8]>,
}

impl Content {
    /// As it is written.
    pub(crate) fn body(&self) -> AnswerBody<'_> {
        AnswerBody { content_type: &self.content_type, bytes: &self.bytes }
    }
}

/// An answer without a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// Its status, 200 or above.
    pub status: u16,
    /// Its body.
    pub content: Content,
}

/// A page for some statuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorPage {
    /// The statuses.
    pub statuses: Statuses,
    /// The page.
    pub content: Content,
}

/// Pages for errors. The first one that has a status is used for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorPages(pub Vec<ErrorPage>);

impl ErrorPages {
    /// The page for a status.
    pub(crate) fn find(&self, status: u16) -> Option<&Content> {
        self.0.iter().find(|page| page.statuses.has(status)).map(|page| &page.content)
    }
}
