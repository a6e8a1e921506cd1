//! Unix domain sockets as they are written: of servers and of listeners.

use std::path::Path;

use sluice_sys::UnixAddress;

use super::address::Scheme;
use super::problem::Fault;

/// The host of servers on Unix sockets.
pub(super) const UNIX_HOST: &str = "localhost";

/// The client's address that stands for Unix sockets in lists of trusted peers, as nginx has it.
pub(super) const UNIX_PEERS: &str = "unix:";

/// Whether this is the name of a Unix socket. A host that is called `unix` has a port behind its colon.
pub(super) fn is_name(authority: &str) -> bool {
    authority.starts_with("unix:/") || authority.starts_with("unix:@")
}

/// A server's socket, and how it is spoken to; `None` for what is no Unix socket.
///
/// # Errors
/// A Unix socket that is written in another way, with ours.
pub(super) fn parse_server(text: &str) -> Result<Option<(Scheme, UnixAddress)>, Fault> {
    let (scheme, socket) = match text.split_once("unix:") {
        Some(("", socket)) => (Scheme::Http, socket),
        Some(("https+", socket)) => (Scheme::Https, socket),
        Some(("h2c+", socket)) => (Scheme::H2c, socket),
        _ => return meant(text).map_or(Ok(None), Err),
    };
    if socket.starts_with("//") {
        return meant(text).map_or(Ok(None), Err);
    }
    parse_socket(text, socket).map(|address| Some((scheme, address)))
}

/// A socket to listen on; `None` for what is no Unix socket.
///
/// # Errors
/// A Unix socket that is written in another way, with ours.
pub(super) fn parse_listen(text: &str) -> Result<Option<UnixAddress>, Fault> {
    match text.strip_prefix("unix:") {
        Some(socket) if !socket.starts_with("//") => parse_socket(text, socket).map(Some),
        _ => meant(text).map_or(Ok(None), Err),
    }
}

/// What is behind `unix:`.
fn parse_socket(text: &str, socket: &str) -> Result<UnixAddress, Fault> {
    let address = match socket.strip_prefix('@') {
        Some(name) => UnixAddress::of_name(name),
        None if socket.starts_with('/') => UnixAddress::of_path(Path::new(socket)),
        None => {
            let fault = Fault::new(format!("`{text}`: the path of a Unix socket begins with a slash"));
            return Err(fault.hint("unix:/run/app.sock, or unix:@name in the abstract namespace"));
        }
    };
    address.map_err(|_| {
        let fault =
            Fault::new(format!("`{text}`: the kernel takes 1 to 107 bytes for the name of a Unix socket"));
        fault.hint("choose a shorter path")
    })
}

/// The error for a socket as other proxies and clients write it.
fn meant(text: &str) -> Option<Fault> {
    let lower = text.to_ascii_lowercase();
    let (before, rest) = match lower.split_once("://") {
        Some(("https" | "https+unix", rest)) => ("https+", &text[text.len() - rest.len()..]),
        Some(("http" | "http+unix" | "unix", rest)) => ("", &text[text.len() - rest.len()..]),
        Some(_) => return None,
        None => ("", text),
    };
    let rest = rest.replace("%2F", "/").replace("%2f", "/");
    let socket = if let Some(name) = rest.strip_prefix("abns@") {
        format!("@{name}")
    } else if let Some(path) = rest.strip_prefix("unix:").or(rest.strip_prefix("unix@")) {
        // nginx ends the path with a colon; digits are the port of a host with this name.
        path.split(':')
            .next()
            .filter(|path| !path.starts_with(|first: char| first.is_ascii_digit()))?
            .to_owned()
    } else if rest.len() > 1 && rest.starts_with('/') {
        rest
    } else {
        return None;
    };
    let socket = if socket.starts_with(['/', '@']) { socket } else { format!("/{socket}") };
    let fault = Fault::new(format!("`{text}` is not how a Unix socket is written"));
    Some(fault.hint(format!("did you mean {before}unix:{socket}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::address::{UpstreamServer, host_field};

    #[test]
    fn servers_on_unix_sockets() {
        for (text, scheme, name) in [
            ("unix:/run/app.sock", Scheme::Http, "unix:/run/app.sock"),
            ("unix:/run/a:b.sock", Scheme::Http, "unix:/run/a:b.sock"),
            ("unix:@app", Scheme::Http, "unix:@app"),
            ("h2c+unix:/run/app.sock", Scheme::H2c, "unix:/run/app.sock"),
            ("https+unix:@app", Scheme::Https, "unix:@app"),
        ] {
            let server = UpstreamServer::parse(text).unwrap();
            assert_eq!((server.scheme, server.authority.as_str()), (scheme, name), "{text}");
            assert_eq!(
                (host_field(&server.authority), server.host.as_str()),
                ("localhost", "localhost"),
                "{text}"
            );
            assert_eq!(server.url(), text);
            assert_eq!(server.unix.unwrap().to_string(), name);
        }
        let host = UpstreamServer::parse("http://unix:8080").unwrap();
        assert_eq!((host.unix, host_field(&host.authority)), (None, "unix:8080"));
    }

    #[test]
    fn other_ways_to_write_them_are_one_error() {
        for (text, words) in [
            ("unix:///run/app.sock", "did you mean unix:/run/app.sock"),
            ("http://unix:/run/app.sock:/", "did you mean unix:/run/app.sock"),
            ("https://unix:/run/app.sock", "did you mean https+unix:/run/app.sock"),
            ("http+unix://%2Frun%2Fapp.sock", "did you mean unix:/run/app.sock"),
            ("/run/app.sock", "did you mean unix:/run/app.sock"),
            ("https:///run/app.sock", "did you mean https+unix:/run/app.sock"),
            ("unix@/run/app.sock", "did you mean unix:/run/app.sock"),
            ("abns@app", "did you mean unix:@app"),
            ("unix:run/app.sock", "begins with a slash"),
            ("unix:", "begins with a slash"),
            ("unix:@", "1 to 107 bytes"),
        ] {
            let fault = UpstreamServer::parse(text).unwrap_err().to_string();
            assert!(fault.contains(words), "{text}: {fault}");
        }
        let long = format!("unix:/{}", "a".repeat(107));
        assert!(UpstreamServer::parse(&long).unwrap_err().to_string().contains("shorter path"));
    }

    #[test]
    fn listeners_on_unix_sockets() {
        assert_eq!(parse_listen("unix:/run/s.sock").unwrap().unwrap().to_string(), "unix:/run/s.sock");
        assert_eq!(parse_listen("127.0.0.1:80").unwrap(), None);
        for text in ["/run/s.sock", "unix@/run/s.sock", "unix:///run/s.sock"] {
            let fault = parse_listen(text).unwrap_err().to_string();
            assert!(fault.contains("did you mean unix:/run/s.sock"), "{text}: {fault}");
        }
    }
}
