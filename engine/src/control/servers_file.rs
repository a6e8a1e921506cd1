//! `servers_file`: a list of servers that may change while Sluice runs.
//!
//! It is looked at by stat(2), as the files of certificates are (`watched`): a path may lead through links that are swapped at any
//! level, and through file systems of other hosts.

use std::collections::HashSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{Scheme, UpstreamGroup, UpstreamProtocol, UpstreamServer, parse_count};
use crate::log;

/// How often it is looked at. A change is taken over when it is the same at two looks: it may be written in pieces.
pub(super) const LOOK: Duration = Duration::from_millis(400);

/// The largest of each, as in `[[upstream.server]]`.
const WEIGHT_MAX: u32 = 1_000;
const CONNECTIONS_MAX: u32 = 1_000_000;

/// What changes when the file behind a path does.
type Stamp = Option<(u64, u64, u64, (i64, i64))>;

/// A file under watch.
pub(super) struct ServersFile {
    path: PathBuf,
    /// As it was at the last look.
    seen: Stamp,
    /// As it was when it was read.
    read: Stamp,
}

impl ServersFile {
    /// A file that was read a moment ago.
    pub(super) fn new(path: PathBuf) -> ServersFile {
        ServersFile { path, seen: None, read: None }
    }

    /// The servers, if the file has changed and can be used. Says so if it cannot.
    pub(super) fn look(&mut self, group: &UpstreamGroup) -> Option<Vec<UpstreamServer>> {
        let stamp = stamp(&self.path);
        let is_settled = std::mem::replace(&mut self.seen, stamp) == stamp;
        if !is_settled || self.read == stamp && stamp.is_some() {
            return None;
        }
        // A file that is gone is said once, and so is one that cannot be used.
        let is_new = std::mem::replace(&mut self.read, stamp.or(Some((0, 0, 0, (0, 0))))) != self.read;
        match read(&self.path, group) {
            Ok(servers) => Some(servers),
            Err(why) => {
                if is_new {
                    log::warn(format_args!("upstream {}: its servers stay: {why}", group.name));
                }
                None
            }
        }
    }
}

fn stamp(path: &Path) -> Stamp {
    let file = fs::metadata(path).ok()?;
    Some((file.dev(), file.ino(), file.size(), (file.mtime(), file.mtime_nsec())))
}

/// Reads the file: a server in each line, as in `servers`, and behind it what differs from other servers; empty lines, and what is behind
/// a `#`, say nothing.
///
/// # Errors
/// One line: why it cannot be used.
pub(super) fn read(path: &Path, group: &UpstreamGroup) -> Result<Vec<UpstreamServer>, String> {
    let name = path.display();
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read {name}: {error}"))?;
    let mut servers: Vec<UpstreamServer> = Vec::new();
    let mut known: HashSet<_> = group.servers.iter().map(identity).collect();
    for (line, number) in text.lines().zip(1..) {
        let written = line.split('#').next().unwrap_or_default().trim();
        if written.is_empty() {
            continue;
        }
        let server = check(written, group).map_err(|why| format!("{name}:{number}: {why}"))?;
        if !known.insert(identity(&server)) {
            return Err(format!("{name}:{number}: `{}` is there twice", server.url()));
        }
        servers.push(server);
    }
    if servers.is_empty() && group.servers.is_empty() {
        return Err(format!(
            "{name}: there is no server in it (hint: one in each line, such as http://10.0.0.1:9000)"
        ));
    }
    if !servers.iter().chain(&group.servers).any(|server| server.weight > 0 && !server.is_backup) {
        return Err(format!(
            "{name}: every server is a backup or has weight 0 (hint: one has to be neither)"
        ));
    }
    Ok(servers)
}

fn identity(server: &UpstreamServer) -> (bool, String, Option<IpAddr>) {
    let (is_secure, authority, at) = server.identity();
    (is_secure, authority.to_owned(), at)
}

/// Reads `http://10.0.0.1:9000 weight=3 backup connections=50`.
fn parse(written: &str) -> Result<UpstreamServer, String> {
    let mut words = written.split_whitespace();
    let url = words.next().unwrap_or_default();
    let mut server = UpstreamServer::parse(url).map_err(|fault| fault.to_string())?;
    let mut seen = Vec::new();
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        if seen.contains(&name) {
            return Err(format!("`{name}` is there twice (hint: write it once)"));
        }
        seen.push(name);
        let count = |most: u32| {
            let number = parse_count(value).map_err(|fault| format!("`{word}`: {fault}"))?;
            let number = u32::try_from(number).ok().filter(|&number| number <= most);
            number.ok_or_else(|| format!("`{word}` is too large (hint: at most {most})"))
        };
        match name {
            "weight" => server.weight = count(WEIGHT_MAX)?,
            "connections" => server.connections = Some(count(CONNECTIONS_MAX)?),
            "backup" if word == "backup" => server.is_backup = true,
            _ => {
                let hint = "behind a server are weight=3, backup, connections=50";
                return Err(format!("`{word}` says nothing here (hint: {hint})"));
            }
        }
    }
    Ok(server)
}

fn check(written: &str, group: &UpstreamGroup) -> Result<UpstreamServer, String> {
    let server = parse(written)?;
    match (server.scheme, group.protocol) {
        (Scheme::H2c, UpstreamProtocol::H1) => {
            Err(format!("`{}` is HTTP/2, and this upstream is not (hint: protocol = \"h2\")", server.url()))
        }
        (Scheme::Https, _) if !group.has_tls => Err(format!(
            "`{}` is TLS, of which this upstream says nothing (hint: add tls = {{}} to it)",
            server.url()
        )),
        _ => Ok(server),
    }
}
