//! What is asked for: a URL, taken apart and resolved once.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// A parsed `http://` URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where to connect.
    pub address: SocketAddr,
    /// Host and port as the Host field wants them.
    pub authority: String,
    /// Path and query.
    pub path: String,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(url: &str) -> Result<Target, String> {
        let rest =
            url.strip_prefix("http://").ok_or("a URL begins with http:// (nothing else is supported)")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let has_port = authority.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok());
        let with_port = if has_port && !authority.ends_with(']') {
            authority.to_owned()
        } else {
            format!("{authority}:80")
        };
        let mut addresses =
            with_port.to_socket_addrs().map_err(|error| format!("cannot resolve {authority}: {error}"))?;
        let address = addresses.next().ok_or_else(|| format!("{authority} has no address"))?;
        if path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err("a path contains no spaces or control characters".into());
        }
        let path = if path.is_empty() { "/" } else { path };
        Ok(Target { address, authority: authority.to_owned(), path: path.to_owned() })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let target: Target = "http://127.0.0.1:8080/bytes/1?x".parse().expect("a URL");
        assert_eq!(target.address, SocketAddr::from(([127, 0, 0, 1], 8080)));
        assert_eq!((&*target.authority, &*target.path), ("127.0.0.1:8080", "/bytes/1?x"));
        let target: Target = "http://127.0.0.1".parse().expect("a URL");
        assert_eq!((target.address.port(), &*target.path), (80, "/"));
        let target: Target = "http://[::1]:81".parse().expect("a URL");
        assert_eq!((target.address.port(), &*target.authority), (81, "[::1]:81"));
        let target: Target = "http://[::1]".parse().expect("a URL");
        assert_eq!(target.address.port(), 80);
        for wrong in ["127.0.0.1:80", "https://127.0.0.1/", "http://", "http://127.0.0.1/a b"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }
}
