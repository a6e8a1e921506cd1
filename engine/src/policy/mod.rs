//! What changes or answers a request on its route: another path or host for the server, changed fields, redirects, answers without a
//! server, pages for errors.
//!
//! [`RoutePolicy`] is made when a configuration is checked (`config::policy`), with every text read. Most routes have none: then a
//! request pays for one look at a pointer. `exchange::decision` applies the part of requests while the head is in the receive
//! buffer; `downstream`'s responders apply the part of responses. Nothing here waits or allocates.

pub(crate) mod apply;
mod captures;
mod foreign_variables;
pub mod edits;
pub mod fixed;
pub mod template;
pub mod variables;
#[cfg(test)]
mod tests;

pub use self::captures::Captures;
use self::edits::HeaderEdits;
use self::fixed::{ErrorPages, Fixed};
use self::template::Template;

/// What a route does to its requests and responses besides choosing servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoutePolicy {
    /// Fields of requests.
    pub request: HeaderEdits,
    /// Fields of responses.
    pub response: HeaderEdits,
    /// Path and query that servers get.
    pub target: TargetRule,
    /// The Host that servers get, instead of what `send_host` says.
    pub host: Option<Template>,
    /// The answer in place of a server's.
    pub answer: Option<RouteAnswer>,
    /// Pages of errors, in front of the global ones.
    pub pages: ErrorPages,
    /// The parameters of its path, where a text names one.
    pub captures: Option<Captures>,
    /// Who gets copies of requests.
    pub mirror: Option<MirrorRule>,
}

/// Which requests are copied, and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MirrorRule {
    /// Index into [`Config::upstreams`](crate::config::Config::upstreams).
    pub upstream: usize,
    /// Of a hundred requests, so many; 1 to 100.
    pub percent: u8,
}

/// Path and query that servers get.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TargetRule {
    /// The client's, by the rules for paths.
    #[default]
    Keep,
    /// The client's without its first segments, if it begins with them.
    Strip(Prefix),
    /// This one.
    Rewrite(Template),
}

/// The first segments of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix {
    /// In the form in which paths are compared, with its first slash and without a last one.
    pub matching: Box<str>,
    /// How many they are.
    pub segments: usize,
}

/// The answer of a route without a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteAnswer {
    /// The client is sent elsewhere.
    Redirect {
        /// The status, 301, 302, 303, 307 or 308.
        status: u16,
        /// Where it is sent.
        location: Template,
    },
    /// The same for all.
    Fixed(Fixed),
}

impl RoutePolicy {
    /// Whether a text names a parameter of the route's path.
    pub(crate) fn has_captures(&self) -> bool {
        let of_target = match &self.target {
            TargetRule::Rewrite(template) => template.has_captures(),
            TargetRule::Keep | TargetRule::Strip(_) => false,
        };
        let of_answer = match &self.answer {
            Some(RouteAnswer::Redirect { location, .. }) => location.has_captures(),
            Some(RouteAnswer::Fixed(_)) | None => false,
        };
        of_target
            || of_answer
            || self.host.as_ref().is_some_and(Template::has_captures)
            || self.request.has_captures()
            || self.response.has_captures()
    }

    /// Whether it does nothing at all.
    pub(crate) fn is_empty(&self) -> bool {
        *self == RoutePolicy::default()
    }
}
