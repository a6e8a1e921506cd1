//! Kinds of failure, as reports name them.

use std::io;

use rustls::AlertDescription;

/// Why a request was not answered as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Nothing listens there.
    Refused,
    /// The connection was not made in time.
    ConnectTimeout,
    /// The connection could not be made for another reason: an errno.
    Connect(i32),
    /// The peer reset the connection.
    Reset,
    /// The peer closed before the answer was complete.
    Closed,
    /// The answer did not come in time.
    Timeout,
    /// The answer was no HTTP.
    Malformed,
    /// The peer reset the stream (HTTP/2), with this code.
    StreamReset(u32),
    /// Another error of the connection: an errno.
    Io(i32),
    /// TLS ended it.
    Tls(TlsFault),
    /// An answer with a status of 400 or above, or one that is not what was asked for.
    Status(u16),
    /// The end of a call of gRPC, with this status.
    Grpc(u16),
    /// The server does not offer WebSocket over HTTP/2 (RFC 8441).
    NoExtendedConnect,
}

/// What TLS did not accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsFault {
    /// The certificate is not signed by an authority that is trusted, or not valid now.
    Certificate,
    /// It is for another name.
    Name,
    /// The peer ended it with this alert.
    Alert(u8),
    /// What the peer sent is no TLS, or not what it should be.
    Protocol,
}

impl Fault {
    /// What an error of connecting means.
    pub fn of_connect(error: &io::Error) -> Fault {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Fault::Refused,
            io::ErrorKind::TimedOut => Fault::ConnectTimeout,
            _ => Fault::Connect(error.raw_os_error().unwrap_or(0)),
        }
    }

    /// What an error of a connection that was made means.
    pub fn of_io(error: &io::Error) -> Fault {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Fault::Reset,
            io::ErrorKind::TimedOut => Fault::Timeout,
            _ => Fault::Io(error.raw_os_error().unwrap_or(0)),
        }
    }

    /// The key in reports.
    pub fn name(self) -> String {
        match self {
            Fault::Refused => "connect_refused".into(),
            Fault::ConnectTimeout => "connect_timeout".into(),
            Fault::Connect(errno) => format!("connect_{}", errno_name(errno)),
            Fault::Reset => "reset".into(),
            Fault::Closed => "closed_early".into(),
            Fault::Timeout => "timeout".into(),
            Fault::Malformed => "malformed_answer".into(),
            Fault::StreamReset(code) => format!("stream_reset_{code}"),
            Fault::Io(errno) => errno_name(errno),
            Fault::Tls(TlsFault::Certificate) => "tls_certificate".into(),
            Fault::Tls(TlsFault::Name) => "tls_certificate_name".into(),
            Fault::Tls(TlsFault::Alert(alert)) => alert_name(alert),
            Fault::Tls(TlsFault::Protocol) => "tls_protocol".into(),
            Fault::Status(status) => format!("status_{status}"),
            Fault::Grpc(status) => format!("grpc_status_{status}"),
            Fault::NoExtendedConnect => "no_extended_connect".into(),
        }
    }
}

/// `tls_alert_` and the name of RFC 8446 section 6.
fn alert_name(alert: u8) -> String {
    let Some(name) = AlertDescription::from(alert).as_str() else { return format!("tls_alert_{alert}") };
    let mut shown = String::from("tls_alert");
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            shown.push('_');
        }
        shown.push(letter.to_ascii_lowercase());
    }
    shown
}

/// The errors that tell which limit was met have names.
fn errno_name(errno: i32) -> String {
    let name = match errno {
        EMFILE => "too_many_descriptors",
        ENFILE => "too_many_files",
        EADDRNOTAVAIL => "no_port_left",
        EADDRINUSE => "address_in_use",
        ENOBUFS | ENOMEM => "no_memory",
        ECONNRESET => "reset",
        ENETUNREACH => "network_unreachable",
        EHOSTUNREACH => "host_unreachable",
        _ => return format!("errno_{errno}"),
    };
    name.into()
}

/// Too many descriptors in this process.
pub const EMFILE: i32 = 24;
/// Too many open files in the system.
pub const ENFILE: i32 = 23;
/// No memory.
pub const ENOMEM: i32 = 12;
/// No ephemeral port is left.
pub const EADDRNOTAVAIL: i32 = 99;
/// The address is taken.
pub const EADDRINUSE: i32 = 98;
/// No buffer space.
pub const ENOBUFS: i32 = 105;
const ECONNRESET: i32 = 104;
const ENETUNREACH: i32 = 101;
const EHOSTUNREACH: i32 = 113;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_names() {
        let name = |errno| Fault::of_connect(&io::Error::from_raw_os_error(errno)).name();
        assert_eq!(name(EMFILE), "connect_too_many_descriptors");
        assert_eq!(name(EADDRNOTAVAIL), "connect_no_port_left");
        assert_eq!(name(111), "connect_refused");
        assert_eq!(name(ECONNRESET), "connect_reset");
        assert_eq!(name(7), "connect_errno_7");
    }

    #[test]
    fn alerts_have_names() {
        let name = |alert| Fault::Tls(TlsFault::Alert(alert)).name();
        assert_eq!(name(40), "tls_alert_handshake_failure");
        assert_eq!(name(200), "tls_alert_200");
    }
}
