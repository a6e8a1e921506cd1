//! How an exchange ends, in every protocol. The client's protocol decides what that means for the stream or the connection.

use crate::message::{Aborted, Repeat};
use crate::port::TunnelEnd;
use crate::upstream::server::ServerInUse;
use crate::websocket::Agreed;

/// How an exchange has ended.
pub(crate) enum Ended {
    /// The client has a whole response, or will have it when the kernel has sent it.
    Answered {
        by: Origin,
        /// The server had all of the request when it answered, or nothing of it was left to be sent.
        is_request_sent: bool,
    },
    /// The client has no response, or a part of one.
    Interrupted(Interrupted),
    /// It goes on as a tunnel to this server.
    Tunnel(Box<TunnelUpstream>),
}

/// The origin of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Server,
    Local,
}

/// Why an exchange broke off: the side, and what is lost with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interrupted {
    pub(crate) aborted: Aborted,
    pub(crate) repeat: Repeat,
}

/// The server's end of a tunnel that an exchange has ended in.
pub(crate) struct TunnelUpstream {
    pub(crate) end: TunnelEnd,
    pub(crate) server: ServerInUse,
    /// The client asked for it by CONNECT, without a protocol.
    pub(crate) is_connect: bool,
    /// The frames of WebSocket are read in it.
    pub(crate) frames: Option<Agreed>,
}

impl Interrupted {
    /// For good.
    pub(crate) fn by(aborted: Aborted) -> Interrupted {
        Interrupted { aborted, repeat: Repeat::Impossible }
    }
}
