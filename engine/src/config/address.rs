//! Addresses: where to listen, and the servers to send requests to.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use sluice_sys::{Address, UnixAddress};

use super::pattern::check_name;
use super::problem::Fault;
use super::punycode;
use super::tls::HTTPS_PORT;
use super::unix::{self, UNIX_HOST};

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// In clear text.
    Http,
    /// Over TLS.
    Https,
    /// In clear text, by HTTP/2 with prior knowledge.
    //= https://www.rfc-editor.org/rfc/rfc9113#section-3.3
    H2c,
}

impl Scheme {
    /// As it is written before `://`.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::H2c => "h2c",
        }
    }

    /// Whether there is TLS.
    pub fn is_secure(self) -> bool {
        self == Scheme::Https
    }

    /// The port where none is written.
    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http | Scheme::H2c => 80,
            Scheme::Https => HTTPS_PORT,
        }
    }
}

/// Before the scheme of servers that SRV records name.
const SRV: &str = "srv+";

/// One server behind Sluice.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UpstreamServer {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// Its name, for the Host field and for logs: host and port as written, without a default port added; `unix:/run/app.sock`
    /// for a Unix socket, which [`host_field`] has another Host for.
    pub authority: String,
    /// Host name or address; IPv6 without brackets. That of a Unix socket is `localhost`.
    pub host: String,
    /// Port, that of the scheme if none was written.
    pub port: u16,
    /// Its Unix socket, if it is not reached over TCP.
    pub unix: Option<UnixAddress>,
    /// The host is the name of SRV records, which have hosts and ports.
    pub is_srv: bool,
    /// The one address of its host that it is, where each is a server.
    pub at: Option<IpAddr>,
    /// Its share of requests, in comparison with the others of its group; 0 for none but those that stick to it.
    pub weight: u32,
    /// It gets requests only while no other server can.
    pub is_backup: bool,
    /// Most connections to it, in place of those that any server of its group may have; 0 for no limit.
    pub connections: Option<u32>,
    /// It is in the zone of this proxy, or zones play no part.
    pub is_near: bool,
}

/// The Host of requests to a server with this name, if it gets its own.
pub fn host_field(authority: &str) -> &str {
    if unix::is_name(authority) { UNIX_HOST } else { authority }
}

/// A server's scheme and name as they are written in a configuration.
pub fn server_url(scheme: Scheme, authority: &str) -> String {
    match (unix::is_name(authority), scheme) {
        (false, _) => format!("{}://{authority}", scheme.as_str()),
        (true, Scheme::Http) => authority.to_owned(),
        (true, _) => format!("{}+{authority}", scheme.as_str()),
    }
}

impl UpstreamServer {
    /// As it is written in a configuration.
    pub fn url(&self) -> String {
        let srv = if self.is_srv { SRV } else { "" };
        format!("{srv}{}", server_url(self.scheme, &self.authority))
    }

    /// What it is called in messages and metrics: as it is written, with its address where each one of a name is a server.
    pub fn name(&self) -> String {
        match self.at {
            Some(ip) => format!("{} ({ip})", self.url()),
            None => self.url(),
        }
    }

    /// What it is called where servers are told apart: its authority, with its address where each one of a name is a server.
    pub fn label(&self) -> String {
        match self.at {
            Some(ip) => format!("{} ({ip})", self.authority),
            None => self.authority.clone(),
        }
    }

    /// Whether both are one server, whatever their shares of requests.
    pub fn is_same(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }

    /// What makes it this server and no other. In clear text, HTTP/2 or not makes no difference.
    pub(crate) fn identity(&self) -> (bool, &str, Option<IpAddr>) {
        (self.scheme.is_secure(), &self.authority, self.at)
    }

    /// Whether its addresses have to be asked for, again and again.
    pub fn is_resolved(&self) -> bool {
        let host = self.host.strip_suffix('.').unwrap_or(&self.host).to_ascii_lowercase();
        //= https://www.rfc-editor.org/rfc/rfc6761#section-6.3
        let is_local = host == "localhost" || host.ends_with(".localhost");
        self.unix.is_none() && !is_local && host.parse::<IpAddr>().is_err()
    }

    /// Reads the name of SRV records behind its scheme: `srv+http://_http._tcp.app.internal`.
    fn parse_srv(text: &str, written: &str) -> Result<Self, Fault> {
        let fault = |why: String| Fault::new(format!("`{text}`: {why}"));
        let (scheme, name) = written.split_once("://").unwrap_or((written, ""));
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "h2c" => Scheme::H2c,
            other => {
                let fault = fault(format!("`{SRV}{other}` is not supported"));
                return Err(fault.hint("srv+http://, srv+https:// or srv+h2c://"));
            }
        };
        let name = name.trim_end_matches('/');
        if name.contains(':') {
            return Err(fault("SRV records have the port".into()).hint("leave out the port"));
        }
        // Labels of services begin with an underscore, which host names may not.
        let plain: Vec<&str> =
            name.split('.').map(|label| label.strip_prefix('_').unwrap_or(label)).collect();
        let plain = plain.join(".");
        if check_name(plain.strip_suffix('.').unwrap_or(&plain)).is_err() || plain.parse::<IpAddr>().is_ok() {
            let fault = fault("this is not the name of SRV records".into());
            return Err(fault.hint("write srv+http://_http._tcp.app.internal"));
        }
        let (authority, host, port) = (name.to_owned(), name.to_owned(), scheme.default_port());
        Ok(Self { scheme, authority, host, port, is_srv: true, ..Self::plain() })
    }

    /// Reads `http://host`, `http://host:port` or `http://[::1]:port`, and the same with `https` and `h2c`; `unix:/path` and
    /// `unix:@name`, and the same with `https+` and `h2c+` before it.
    ///
    /// # Errors
    /// Anything else, with what is supported instead.
    #[expect(clippy::too_many_lines, reason = "one line for each way to write an address")]
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let fault = |why: &str| Fault::new(format!("`{text}`: {why}"));
        if let Some(written) =
            text.get(..SRV.len()).filter(|start| start.eq_ignore_ascii_case(SRV)).map(|_| &text[SRV.len()..])
        {
            return Self::parse_srv(text, written);
        }
        if let Some((scheme, unix)) = unix::parse_server(text)? {
            let (authority, port) = (unix.to_string(), scheme.default_port());
            let (host, unix) = (UNIX_HOST.into(), Some(unix));
            return Ok(Self { scheme, authority, host, port, unix, ..Self::plain() });
        }
        let Some((scheme, after_scheme)) = text.split_once("://") else {
            let is_https = text.ends_with(":443") || text.ends_with(":8443");
            let scheme = if is_https { Scheme::Https } else { Scheme::Http }.as_str();
            return Err(fault("the scheme is missing").hint(format!("did you mean {scheme}://{text}")));
        };
        let hint = "use an http://, https:// or h2c:// server";
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "h2c" => Scheme::H2c,
            "grpc" => {
                return Err(fault("gRPC is HTTP/2").hint(format!("write h2c://{after_scheme}")));
            }
            "h2" | "h2s" | "grpcs" => {
                let hint = format!("write https://{after_scheme}, and protocol = \"h2\"");
                return Err(fault("HTTP/2 over TLS is https://").hint(hint));
            }
            "fastcgi" | "fcgi" | "uwsgi" | "ajp" => {
                return Err(fault("servers are asked in HTTP/1.1 or HTTP/2 only").hint(hint));
            }
            _ => return Err(fault("this scheme is not supported").hint(hint)),
        };
        let before = scheme.as_str();
        let authority = match after_scheme.find(['/', '?', '#']) {
            None => after_scheme,
            Some(end) if &after_scheme[end..] == "/" => &after_scheme[..end],
            Some(end) => {
                let hint = format!("requests keep their own path: write {before}://{}", &after_scheme[..end]);
                return Err(fault("a server has no path and no query").hint(hint));
            }
        };
        if authority.contains('@') {
            return Err(fault("user and password are not supported"));
        }
        let (host, port) = split_port(authority).ok_or_else(|| {
            let fault = fault("this is not host:port");
            match authority.parse::<Ipv6Addr>() {
                Ok(_) => fault.hint(format!("did you mean {before}://[{authority}]")),
                Err(_) => fault,
            }
        })?;
        let host = match host.strip_prefix('[') {
            Some(inner) => {
                let inner = inner.strip_suffix(']').filter(|inner| inner.parse::<Ipv6Addr>().is_ok());
                inner.ok_or_else(|| fault("this is not an IPv6 address in brackets"))?
            }
            None => {
                check_host(host).map_err(|why| match punycode::ascii_name(host) {
                    Some(ascii) => fault(why)
                        .hint(format!("did you mean {before}://{}", authority.replace(host, &ascii))),
                    None => fault(why),
                })?;
                host
            }
        };
        let port = match port {
            None => scheme.default_port(),
            Some(port) => parse_port(port).ok_or_else(|| fault("the port must be 1 to 65535"))?,
        };
        Ok(Self { scheme, authority: authority.to_owned(), host: host.to_owned(), port, ..Self::plain() })
    }

    /// The settings of a server that has none of its own.
    pub(super) fn plain() -> Self {
        Self {
            scheme: Scheme::Http,
            authority: String::new(),
            host: String::new(),
            port: 0,
            unix: None,
            is_srv: false,
            at: None,
            weight: 1,
            is_backup: false,
            connections: None,
            is_near: true,
        }
    }
}

/// Reads where to listen: `address:port`, `unix:/path` or `unix:@name`.
///
/// # Errors
/// Anything else, with what was probably meant.
pub fn parse_listen(text: &str) -> Result<Address, Fault> {
    match unix::parse_listen(text)? {
        Some(address) => Ok(Address::Unix(address)),
        None => parse_listen_tcp(text).map(Address::Inet),
    }
}

/// Reads `address:port` with a literal address: a name could mean several, and which is not for us to guess.
///
/// # Errors
/// Anything else, with what was probably meant.
pub fn parse_listen_tcp(text: &str) -> Result<SocketAddr, Fault> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let fault = Fault::new(format!("`{text}` is not an address and a port"));
    if let Some((_, after)) = text.split_once("://") {
        return Err(fault.hint(format!("without the scheme: did you mean {}", after.trim_end_matches('/'))));
    }
    if parse_port(text).is_some() {
        return Err(fault.hint(reachable_at(text)));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Err(fault.hint(format!("the port is missing: did you mean {}", SocketAddr::new(address, 80))));
    }
    match split_port(text) {
        Some(("" | "*", Some(port))) => Err(fault.hint(reachable_at(port))),
        Some(("localhost", port)) => {
            Err(fault.hint(format!("did you mean 127.0.0.1:{}", port.unwrap_or("80"))))
        }
        Some((host, Some(port))) if host.parse::<IpAddr>().is_ok() || host.starts_with('[') => {
            Err(fault.hint(format!("`{port}` is no port (0 to 65535)")))
        }
        Some((_, _)) => {
            Err(fault.hint("names are not looked up here: write the address, as in 127.0.0.1:8080"))
        }
        None => Err(fault.hint("write 127.0.0.1:8080 or [::1]:8080")),
    }
}

/// The addresses that a port without one may mean, the one that fewest can reach first.
fn reachable_at(port: &str) -> String {
    format!(
        "did you mean 127.0.0.1:{port} for this host alone, or [::]:{port} for all its addresses, IPv6 and IPv4"
    )
}

fn check_host(host: &str) -> Result<(), &'static str> {
    // `1.2.3.256` would pass for a name, and the resolver would be asked for it at every start.
    if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') && !host.is_empty() {
        return host.parse::<IpAddr>().map(|_| ()).map_err(|_| "this is not an IPv4 address");
    }
    let is_name = check_name(host.strip_suffix('.').unwrap_or(host)).is_ok();
    if is_name { Ok(()) } else { Err("this is not a host name") }
}

/// Host (brackets kept) and port, if there is one. None when a colon is left over.
pub(crate) fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    if authority.starts_with('[') {
        let end = authority.find(']')? + 1;
        let (host, after) = authority.split_at(end);
        return match after.strip_prefix(':') {
            Some(port) => Some((host, Some(port))),
            None => after.is_empty().then_some((host, None)),
        };
    }
    match authority.split_once(':') {
        None => Some((authority, None)),
        Some((_, port)) if port.contains(':') => None,
        Some((host, port)) => Some((host, Some(port))),
    }
}

fn parse_port(text: &str) -> Option<u16> {
    // `parse` alone would take "+80".
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|&port| digits && port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers() {
        for (text, scheme, authority, host, port) in [
            ("http://127.0.0.1:9000", Scheme::Http, "127.0.0.1:9000", "127.0.0.1", 9000),
            ("http://[::1]:9001", Scheme::Http, "[::1]:9001", "::1", 9001),
            ("http://[::1]", Scheme::Http, "[::1]", "::1", 80),
            ("HTTP://localhost", Scheme::Http, "localhost", "localhost", 80),
            ("http://app.internal:81/", Scheme::Http, "app.internal:81", "app.internal", 81),
            ("https://app.internal", Scheme::Https, "app.internal", "app.internal", 443),
            ("h2c://app.internal:50051", Scheme::H2c, "app.internal:50051", "app.internal", 50051),
            ("H2C://[::1]/", Scheme::H2c, "[::1]", "::1", 80),
            ("HTTPS://[::1]:8443/", Scheme::Https, "[::1]:8443", "::1", 8443),
        ] {
            let (authority, host) = (authority.into(), host.into());
            let want = UpstreamServer { scheme, authority, host, port, ..UpstreamServer::plain() };
            assert_eq!(UpstreamServer::parse(text), Ok(want), "{text}");
        }
        for (text, words) in [
            ("https://a/v1", "write https://a"),
            ("https://::1", "did you mean https://[::1]"),
            ("https://a:0", "1 to 65535"),
            ("a.example:443", "did you mean https://a.example:443"),
            ("ftp://a", "use an http://, https:// or h2c:// server"),
            ("grpc://a:50051", "write h2c://a:50051"),
            ("grpcs://a", "write https://a, and protocol = \"h2\""),
            ("h2://a:8443", "write https://a:8443, and protocol = \"h2\""),
            ("h2c://a/v1", "write h2c://a"),
            ("127.0.0.1:9000", "did you mean http://127.0.0.1:9000"),
            ("ftp://a", "not supported"),
            ("http://a/v1", "write http://a"),
            ("http://u:p@a", "user and password"),
            ("http://::1", "did you mean http://[::1]"),
            ("http://a:b:c", "host:port"),
            ("http://a:0", "1 to 65535"),
            ("http://a:65536", "1 to 65535"),
            ("http://a:+80", "1 to 65535"),
            ("http://a:", "1 to 65535"),
            ("http://", "not a host name"),
            ("http://a b", "not a host name"),
            ("http://1.2.3.256", "IPv4"),
            ("srv+http://_http._tcp.a:80", "leave out the port"),
            ("srv+ftp://_http._tcp.a", "srv+http://, srv+https://"),
            ("srv+http://10.0.0.1", "not the name of SRV records"),
            ("srv+http://", "not the name of SRV records"),
            ("fastcgi://127.0.0.1:9000", "HTTP/1.1 or HTTP/2 only"),
            ("http://bücher.example:81", "did you mean http://xn--bcher-kva.example:81"),
            ("http://[::1", "host:port"),
            ("http://[x]:1", "brackets"),
        ] {
            let fault = UpstreamServer::parse(text).unwrap_err().to_string();
            assert!(fault.contains(words), "{text}: {fault}");
        }
    }

    #[test]
    fn listeners() {
        assert_eq!(parse_listen_tcp("127.0.0.1:0").unwrap().port(), 0);
        assert!(parse_listen_tcp("[::]:80").unwrap().is_ipv6());
        assert_eq!(parse_listen("unix:@a").unwrap().to_string(), "unix:@a");
        for (text, words) in [
            (":8080", "did you mean 127.0.0.1:8080 for this host alone, or [::]:8080"),
            ("*:80", "[::]:80 for all its addresses, IPv6 and IPv4"),
            ("8080", "127.0.0.1:8080"),
            ("localhost:80", "127.0.0.1:80"),
            ("127.0.0.1", "127.0.0.1:80"),
            ("::1", "[::1]:80"),
            ("http://127.0.0.1:80/", "did you mean 127.0.0.1:80"),
            ("127.0.0.1:99999", "`99999` is no port"),
            ("example.com:80", "not looked up"),
            ("a:b:c", "127.0.0.1:8080"),
            ("", "not looked up"),
        ] {
            let fault = parse_listen(text).unwrap_err().to_string();
            assert!(fault.contains(words), "{text}: {fault}");
        }
    }

    /// Two servers of one name are two in messages and metrics.
    #[test]
    fn a_server_of_many_addresses_is_called_by_its_own() {
        let server = UpstreamServer::parse("https://app:8443").unwrap();
        assert_eq!(server.name(), "https://app:8443");
        let one = UpstreamServer { at: Some("10.0.0.7".parse().unwrap()), ..server };
        assert_eq!(one.name(), "https://app:8443 (10.0.0.7)");
    }
}
