//! The listeners of all shards, and the steering of connections among them. Runs on the control thread.
//!
//! Ports are bound first, so that one that is not available is known before a shard starts. Then every shard opens listeners of
//! its own at them. A BPF program steers connections where this process may load one, socket options do elsewhere.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileTypeExt as _;
use std::sync::Arc;

use sluice_sys::{
    Address, BoundListener, ListenOn, LoadBoard, NotLoaded, SocketFile, SteeringMaps, SteeringProgram,
    UnixAddress,
};

use crate::config::Listener;
use crate::launch_error::LaunchError;
use crate::log;
use crate::placement::{Plan, ShardPlace};
use crate::steering::{self, Steering};
use crate::topology::Topology;

/// Connections that may wait to be accepted; the kernel caps it at net.core.somaxconn.
const BACKLOG: u32 = 65_535;

/// The ports, held so that no other process gets them while no shard listens yet.
pub(crate) struct Reserved {
    listeners: Vec<(BoundListener, Address)>,
    /// The files of Unix sockets.
    files: SocketFiles,
}

/// The files of Unix sockets that this process listens on. Dropping them removes them.
pub(crate) struct SocketFiles(Vec<SocketFile>);

impl SocketFiles {
    pub(crate) fn remove(&mut self) {
        self.0.clear();
    }
}

impl Reserved {
    /// Binds every address once, which finds out now what cannot be bound, and fixes the port where it was left open.
    pub(crate) fn bind(wanted: &[Listener]) -> Result<Reserved, LaunchError> {
        let all: Vec<SocketAddr> = wanted.iter().filter_map(|listener| listener.address.inet()).collect();
        let mut files = Vec::new();
        let mut bind = |listener: &Listener| match &listener.address {
            Address::Inet(address) => {
                let on = listen_on(*address, &all);
                // The shards share the port; another process must not have it already.
                BoundListener::probe(on)?;
                let bound = BoundListener::reserve(on)?;
                let local = bound.local()?;
                Ok((bound, Address::Inet(local)))
            }
            Address::Unix(address) => {
                let (bound, file) = BoundListener::reserve_unix(address, listener.mode)?;
                files.extend(file);
                Ok((bound, listener.address.clone()))
            }
        };
        let bind_or_say = |listener| {
            bind(listener).map_err(|error: io::Error| why_not_bound("", &listener.address, &error))
        };
        let listeners = wanted.iter().map(bind_or_say).collect::<Result<_, _>>()?;
        Ok(Reserved { listeners, files: SocketFiles(files) })
    }

    /// Whether an address can be listened on now.
    ///
    /// # Errors
    /// Why not.
    #[cfg(feature = "cli")]
    pub(crate) fn try_one(address: &Address) -> io::Result<()> {
        match address {
            Address::Inet(address) => BoundListener::probe(*address),
            Address::Unix(address) => BoundListener::probe_unix(address),
        }
    }

    pub(crate) fn addresses(&self) -> Vec<Address> {
        self.listeners.iter().map(|(_, address)| address.clone()).collect()
    }

    /// Every shard listens: the hold on the ports is no longer needed.
    pub(crate) fn release(self) -> SocketFiles {
        self.files
    }
}

/// `[::]` is for IPv4 too, unless that is listed by itself: then each has a socket of its own.
fn listen_on(address: SocketAddr, all: &[SocketAddr]) -> ListenOn {
    let all_of_ipv4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
    // Port 0 is another port each time.
    if address.port() != 0 && all.contains(&all_of_ipv4) {
        ListenOn::without_ipv4(address)
    } else {
        ListenOn::from(address)
    }
}

/// `purpose` goes before `on`, with a space behind it.
pub(crate) fn why_not_bound(purpose: &str, address: &Address, error: &io::Error) -> LaunchError {
    let hint = match address {
        Address::Inet(address) => why_not_on_tcp(address, error),
        Address::Unix(address) => why_not_on_unix(address, error),
    };
    LaunchError::Refused(format!("cannot listen {purpose}on {address}: {error} (hint: {hint})"))
}

fn why_not_on_unix(address: &UnixAddress, error: &io::Error) -> &'static str {
    let is_other_file = address
        .path()
        .is_some_and(|path| std::fs::symlink_metadata(path).is_ok_and(|file| !file.file_type().is_socket()));
    match error.kind() {
        io::ErrorKind::AddrInUse if is_other_file => {
            "a file that is no socket is there: remove it, or choose another path"
        }
        io::ErrorKind::AddrInUse => "another process listens there: stop it, or choose another path",
        io::ErrorKind::NotFound => {
            "its directory does not exist: make it, such as by RuntimeDirectory= of systemd"
        }
        io::ErrorKind::PermissionDenied => {
            "this user may not make files in its directory, or not connect to the socket that is there"
        }
        _ => "see unix(7)",
    }
}

fn why_not_on_tcp(address: &SocketAddr, error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse if address.is_ipv6() && address.ip().is_unspecified() => {
            "another process listens there, on IPv6 or IPv4 ([::] is for both): stop it, or choose another port"
        }
        io::ErrorKind::AddrInUse => "another process listens there: stop it, or choose another port",
        io::ErrorKind::AddrNotAvailable => "this host does not have that address",
        io::ErrorKind::PermissionDenied => "ports below 1024 need root, or CAP_NET_BIND_SERVICE",
        _ => "see bind(2)",
    }
}

/// How the shard of a connection is chosen.
pub(crate) enum SteeringMethod {
    /// The kernel's hash.
    Hash,
    /// Socket options, by the shard of every CPU.
    Options(Vec<(usize, usize)>),
    /// A program for every address.
    Programs(Vec<SteeringProgram>),
}

impl SteeringMethod {
    /// The best that is allowed here, and the board for the shards' loads if they count. Says on stderr what it is.
    pub(crate) fn choose(
        steering: Steering,
        topology: &Topology,
        plan: &Plan,
        ports: usize,
    ) -> (SteeringMethod, Option<Arc<LoadBoard>>) {
        let shards = plan.shards.len();
        if steering == Steering::Off || shards == 1 {
            let why = if shards == 1 { "there is one shard" } else { "it is switched off" };
            log::debug(format_args!("steering: none, {why}; the kernel's hash chooses the listener"));
            return (SteeringMethod::Hash, None);
        }
        let shares_load = steering == Steering::Load;
        let tables = steering::tables(topology, plan);
        log::debug(format_args!(
            "steering: {} wanted; the CPUs that receive, and their shards: {:?}",
            steering.word(),
            tables.receivers
        ));
        let load = || {
            let board = shares_load.then(|| LoadBoard::for_programs(shards).map(Arc::new)).transpose()?;
            let maps = SteeringMaps::new(&tables, board.clone())?;
            let programs = (0..ports).map(|_| maps.program()).collect::<Result<_, _>>()?;
            Ok((SteeringMethod::Programs(programs), board))
        };
        match load() {
            Ok(loaded) => {
                log::info(format_args!("steering: a BPF program chooses the shard {}", whose(steering)));
                loaded
            }
            Err(why) => {
                say_why_not(&why, steering);
                (
                    SteeringMethod::Options(tables.receivers),
                    shares_load.then(|| Arc::new(LoadBoard::new(shards))),
                )
            }
        }
    }

    /// For people and tools.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            SteeringMethod::Hash => "hash",
            SteeringMethod::Options(_) => "socket options",
            SteeringMethod::Programs(_) => "BPF program",
        }
    }

    /// Opens a shard's listeners, one for each address.
    pub(crate) fn open(
        &self,
        reserved: &Reserved,
        place: &ShardPlace,
    ) -> Result<Vec<BoundListener>, LaunchError> {
        let all: Vec<SocketAddr> =
            reserved.listeners.iter().filter_map(|(_, address)| address.inet()).collect();
        let open = |(at, (held, address)): (usize, &(BoundListener, Address))| {
            let bound = match address {
                Address::Inet(address) => BoundListener::bind(listen_on(*address, &all), BACKLOG),
                // Shards take turns on one socket.
                Address::Unix(_) => {
                    return held.share(BACKLOG).map_err(|error| why_not_bound("", address, &error));
                }
            };
            let mut bound = bound.map_err(|error| why_not_bound("", address, &error))?;
            self.steer(&mut bound, at, place).map_err(|error| {
                LaunchError::Refused(format!(
                    "cannot steer connections to {address} by CPU: {error} (hint: --steering off)"
                ))
            })?;
            Ok(bound)
        };
        reserved.listeners.iter().enumerate().map(open).collect()
    }

    fn steer(&self, bound: &mut BoundListener, at: usize, place: &ShardPlace) -> io::Result<()> {
        match self {
            SteeringMethod::Hash => Ok(()),
            SteeringMethod::Options(receivers) => {
                bound.prefer_incoming_cpu(place.cpu)?;
                bound.steer_by_cpu(receivers)
            }
            SteeringMethod::Programs(programs) => bound.steer_by_program(&programs[at], place.shard),
        }
    }
}

fn whose(steering: Steering) -> &'static str {
    match steering {
        Steering::Load => "of the CPU that receives a connection, or one near it if that is busy",
        Steering::Off | Steering::Cpu => "of the CPU that receives a connection",
    }
}

fn say_why_not(why: &NotLoaded, steering: Steering) {
    let whatever = if steering == Steering::Load { ", whatever that has to do" } else { "" };
    match why {
        NotLoaded::Forbidden(error) => log::info(format_args!(
            "steering: socket options choose the shard of the CPU that receives a connection{whatever}; the BPF program could \
             not be loaded: {error} (hint: CAP_BPF, such as AmbientCapabilities=CAP_BPF in systemd, and a seccomp profile \
             that allows bpf)"
        )),
        NotLoaded::Refused { error, log: verifier } => {
            log::warn(format_args!(
                "steering: the kernel refuses the BPF program, socket options take its place: {error}"
            ));
            verifier.lines().for_each(|line| log::warn(format_args!("steering: verifier: {line}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_all_is_for_both_families_unless_each_is_listed() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let both = [address("0.0.0.0:80"), address("[::]:80")];
        for (text, all, wants_ipv4) in [
            ("[::]:80", &both[1..], true),
            ("[::]:80", &both[..], false),
            ("[::]:81", &both[..], true),
            ("[::]:0", &[address("0.0.0.0:0"), address("[::]:0")][..], true),
        ] {
            let address = address(text);
            let want = if wants_ipv4 { ListenOn::from(address) } else { ListenOn::without_ipv4(address) };
            assert_eq!(listen_on(address, all), want, "{text} of {all:?}");
        }
        assert_ne!(ListenOn::from(both[1]), ListenOn::without_ipv4(both[1]));
        assert_eq!(ListenOn::from(address("[::1]:80")), ListenOn::without_ipv4(address("[::1]:80")));
    }
}
