//! `relay`: the least there is to a reverse proxy, the same on several runtimes, for `foundation` to compare.
//!
//! HTTP relays read a request head, write it again with X-Forwarded-For, send it on and pass the answer back, on one
//! upstream connection per client connection; no bodies in requests, no pool, no timeouts. The bare relay passes bytes
//! in both directions without looking at them: what no proxy can go below.

#[cfg(feature = "runtimes")]
mod glommio;
mod head;
#[cfg(feature = "runtimes")]
mod monoio;
mod ring;
#[cfg(feature = "runtimes")]
mod session;
#[cfg(feature = "runtimes")]
mod tokio;

use std::net::SocketAddr;

use clap::{Args, ValueEnum};
use sluice_sys::raise_descriptor_limit;

use crate::Failure;

/// What moves the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Our ring, bytes only
    Bare,
    /// Our ring, HTTP
    Ring,
    /// tokio (epoll), HTTP
    #[cfg(feature = "runtimes")]
    Tokio,
    /// monoio (io_uring), HTTP
    #[cfg(feature = "runtimes")]
    Monoio,
    /// glommio (io_uring), HTTP
    #[cfg(feature = "runtimes")]
    Glommio,
}

/// Flags of `relay`.
#[derive(Clone, Debug, Args)]
pub struct RelayArgs {
    /// What moves the bytes
    #[arg(long, value_enum, default_value = "ring")]
    pub runtime: Kind,
    /// Where to listen
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Where the origin listens
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9000")]
    pub origin: SocketAddr,
}

/// Relays until it is killed.
///
/// # Errors
/// When the address cannot be listened on or the host cannot run the runtime.
pub fn run(args: &RelayArgs) -> Result<(), Failure> {
    let _ = raise_descriptor_limit();
    match args.runtime {
        Kind::Bare | Kind::Ring => ring::run(args),
        #[cfg(feature = "runtimes")]
        Kind::Tokio => tokio::run(args).map_err(|error| failed(args, &error)),
        #[cfg(feature = "runtimes")]
        Kind::Monoio => monoio::run(args).map_err(|error| failed(args, &error)),
        #[cfg(feature = "runtimes")]
        Kind::Glommio => glommio::run(args).map_err(|error| failed(args, &error)),
    }
}

/// The version of a foreign runtime, as this program was built with it.
#[cfg(feature = "runtimes")]
pub(crate) fn version(runtime: &str) -> Option<String> {
    let lock = include_str!("../../../Cargo.lock");
    let (_, rest) = lock.split_once(&format!("name = \"{runtime}\"\nversion = \""))?;
    Some(format!("{runtime} {}", rest.split('"').next()?))
}

fn failed(args: &RelayArgs, error: &std::io::Error) -> Failure {
    Failure::Usage(format!("cannot relay from {}: {error}", args.listen))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;
    use std::time::Duration;

    /// An origin that answers each request with the head it got.
    fn mirror() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || answer_all(stream));
            }
        });
        address
    }

    fn answer_all(mut stream: TcpStream) {
        let mut head = Vec::new();
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() {
            head.push(byte[0]);
            if head.ends_with(b"\r\n\r\n") {
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", head.len());
                stream.write_all(&[answer.as_bytes(), &head].concat()).expect("writes");
                head.clear();
            }
        }
    }

    fn connect(address: SocketAddr) -> TcpStream {
        for _ in 0..200 {
            if let Ok(stream) = TcpStream::connect(address) {
                stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
                return stream;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("nothing listens on {address}");
    }

    #[cfg(feature = "runtimes")]
    #[test]
    fn runtimes_have_versions() {
        for runtime in ["tokio", "monoio", "glommio"] {
            let version = version(runtime).expect("in the lock file");
            assert!(
                version.starts_with(&format!("{runtime} "))
                    && version.ends_with(|c: char| c.is_ascii_digit())
            );
        }
        assert_eq!(version("ring"), None);
    }

    /// A relay, which runs until the process ends, and a connection to it.
    fn start(runtime: Kind) -> TcpStream {
        let listen = crate::peers::free_address().expect("a port");
        let args = RelayArgs { runtime, listen, origin: mirror() };
        thread::spawn(move || run(&args).expect("relays"));
        connect(listen)
    }

    /// Sends a request and reads both heads of the answer: its own, and the one that came to the origin.
    fn ask(stream: &mut TcpStream, path: &str) -> String {
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("writes");
        let mut answer = Vec::new();
        while answer.windows(4).filter(|end| end == b"\r\n\r\n").count() < 2 {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("an answer");
            answer.push(byte[0]);
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[test]
    fn every_relay_passes_requests_and_answers() {
        for &runtime in Kind::value_variants() {
            let mut stream = start(runtime);
            for path in ["/one", "/two"] {
                let answer = ask(&mut stream, path);
                assert!(
                    answer.contains(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n")),
                    "{runtime:?}: {answer}"
                );
                assert_eq!(answer.contains("X-Forwarded-For: 127.0.0.1"), runtime != Kind::Bare);
            }
        }
    }

    #[test]
    fn idle_connections_are_not_bound_to_the_time_to_connect() {
        let mut streams = [Kind::Bare, Kind::Ring].map(start);
        for stream in &mut streams {
            ask(stream, "/before");
        }
        thread::sleep(Duration::from_millis(ring::CONNECT_MS + 500));
        for stream in &mut streams {
            assert!(ask(stream, "/after").contains("GET /after"));
        }
    }
}
