//! What is asked for: a URL, taken apart and resolved once.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// What requests travel in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Clear text.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    fn prefix(self) -> &'static str {
        match self {
            Scheme::Http => "http://",
            Scheme::Https => "https://",
        }
    }

    fn port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// A parsed `http://` or `https://` URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Clear text or TLS.
    pub scheme: Scheme,
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
        let rest_of = |scheme: Scheme| Some((scheme, url.strip_prefix(scheme.prefix())?));
        let (scheme, rest) = rest_of(Scheme::Http)
            .or_else(|| rest_of(Scheme::Https))
            .ok_or("a URL begins with http:// or https:// (nothing else is supported)")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let with_port = if split_port(authority).1.is_some() {
            authority.to_owned()
        } else {
            format!("{authority}:{}", scheme.port())
        };
        let mut addresses =
            with_port.to_socket_addrs().map_err(|error| format!("cannot resolve {authority}: {error}"))?;
        let address = addresses.next().ok_or_else(|| format!("{authority} has no address"))?;
        if path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err("a path contains no spaces or control characters".into());
        }
        let path = if path.is_empty() { "/" } else { path };
        Ok(Target { scheme, address, authority: authority.to_owned(), path: path.to_owned() })
    }
}

impl Target {
    /// The host without its port.
    pub fn host(&self) -> &str {
        let (host, _) = split_port(&self.authority);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The same place under another name, with the same port, if there is one in it.
    #[must_use]
    pub fn named(self, name: &str) -> Target {
        let authority = match split_port(&self.authority) {
            (_, Some(port)) => format!("{name}:{port}"),
            _ => name.to_owned(),
        };
        Target { authority, ..self }
    }
}

/// Host and port of an authority.
fn split_port(authority: &str) -> (&str, Option<u16>) {
    let split = authority.rsplit_once(':').filter(|_| !authority.ends_with(']'));
    match split.and_then(|(host, port)| Some((host, port.parse().ok()?))) {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.scheme.prefix(), self.authority, self.path)
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
        assert_eq!((target.address.port(), target.host()), (80, "::1"));
        let target: Target = "https://127.0.0.1/x".parse().expect("a URL");
        assert_eq!((target.scheme, target.address.port(), target.host()), (Scheme::Https, 443, "127.0.0.1"));
        assert_eq!(target.to_string(), "https://127.0.0.1/x");
        assert_eq!(target.named("a.test").to_string(), "https://a.test/x");
        let target: Target = "http://[::1]:81/".parse().expect("a URL");
        assert_eq!((target.host(), &*target.clone().named("a.test").authority), ("::1", "a.test:81"));
        for wrong in ["127.0.0.1:80", "ftp://127.0.0.1/", "http://", "https://", "http://127.0.0.1/a b"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }
}
