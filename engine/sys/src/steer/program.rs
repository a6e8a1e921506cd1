//! The program of extended BPF that chooses the shard for a new connection: the shard of the CPU that received it, or, if that
//! is busy, another one near it with less load. It runs in the kernel, on that CPU, once per connection.
//!
//! Maps hold the machine's topology, the listener of each shard, and the load of each shard. The last is the [`LoadBoard`],
//! whose memory is a map, so that a shard reports its load by a plain store. A listener's place is emptied before its shard
//! stops accepting; a connection that finds it empty goes to a neighbour, or by the kernel's hash if there is none.

use std::io;
use std::ops::Range;
use std::os::fd::RawFd;
use std::sync::Arc;

use crate::bpf::{
    Arithmetic::{Add, And, Modulo, Mul, ShiftLeft, Sub},
    Assembler,
    Comparison::{AtLeast, Below, Equal, NotEqual},
    FRAME, Helper, Instruction, Label, Map, MapKind, NotLoaded, R0, R1, R2, R3, R4, R6, R7, R8, R9, Register,
    ReuseportProgram,
};
use crate::load_board::{BUSY_WORK, LoadBoard, WORK_OFFSET};
use crate::socket::set_option;

/// The shard of a CPU that none was chosen for.
const NO_SHARD: u32 = u32::MAX;

/// Neighbours that are looked at for each distance, from a random one on: all of them in most machines.
const LOOKS: usize = 4;

/// More work than this counts as this much; keeps products of it in 64 bits. A shard that is closed shows more.
const WORK_MAX: i32 = i32::MAX;

/// The verdict of the program: the listener that was selected, or the kernel's choice if none was.
const SK_PASS: i32 = 1;

/// For every distance: where its bounds are among the bounds of a shard's neighbours, and how many eighths of our work are clearly
/// less than ours: three quarters with the same cache, half on the same node.
const CIRCLES: [(i16, i32); 2] = [(0, 6), (8, 4)];

/// The tables of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SteeringTables {
    /// For a CPU the shard that gets what the CPU receives.
    pub receivers: Vec<(usize, usize)>,
    /// All shards, neighbours side by side.
    pub order: Vec<usize>,
    /// For every shard, where in `order` those with the same cache are, and those of the same node; itself among them.
    pub proximity: Vec<[Range<usize>; 2]>,
}

/// The maps of the programs of all ports.
#[derive(Debug)]
pub struct SteeringMaps {
    receivers: Map,
    order: Map,
    proximity: Map,
    /// Where the loads are, if they are looked at.
    board: Option<Arc<LoadBoard>>,
    shards: usize,
}

/// The program of one port.
#[derive(Debug)]
pub struct SteeringProgram {
    program: ReuseportProgram,
    sockets: Arc<Map>,
}

/// The place of a listener among those that the program chooses from; dropping it empties the place.
#[derive(Debug)]
pub(crate) struct Slot {
    sockets: Arc<Map>,
    shard: u32,
}

impl SteeringMaps {
    /// Makes the maps. With a board, which has to be [`LoadBoard::for_programs`], the load counts.
    ///
    /// # Errors
    /// Why the kernel does not make them.
    pub fn new(tables: &SteeringTables, board: Option<Arc<LoadBoard>>) -> Result<SteeringMaps, NotLoaded> {
        let make = || {
            let cpus = tables.receivers.iter().map(|&(cpu, _)| cpu + 1).max().unwrap_or(1);
            let receivers = Map::new(MapKind::Array, 4, cpus)?;
            for cpu in 0..cpus {
                let receiver = tables.receivers.iter().find(|&&(of, _)| of == cpu);
                receivers.set(
                    number(cpu),
                    &receiver.map_or(NO_SHARD, |&(_, shard)| number(shard)).to_ne_bytes(),
                )?;
            }
            let shards = tables.order.len();
            let order = Map::new(MapKind::Array, 4, shards)?;
            let proximity = Map::new(MapKind::Array, 16, shards)?;
            for (at, (&shard, of_shard)) in tables.order.iter().zip(&tables.proximity).enumerate() {
                order.set(number(at), &number(shard).to_ne_bytes())?;
                let mut value = [0; 16];
                for (distance, bytes) in of_shard.iter().zip(value.chunks_exact_mut(8)) {
                    bytes[..4].copy_from_slice(&number(distance.start).to_ne_bytes());
                    bytes[4..].copy_from_slice(&number(distance.len()).to_ne_bytes());
                }
                proximity.set(number(at), &value)?;
            }
            Ok((receivers, order, proximity, shards))
        };
        let (receivers, order, proximity, shards) = make().map_err(NotLoaded::from_call)?;
        Ok(SteeringMaps { receivers, order, proximity, board, shards })
    }

    /// Loads the program for the listeners of another port.
    ///
    /// # Errors
    /// Why the kernel does not load it.
    pub fn program(&self) -> Result<SteeringProgram, NotLoaded> {
        let sockets = Map::new(MapKind::Listeners, 8, self.shards).map_err(NotLoaded::from_call)?;
        let program = ReuseportProgram::load(&self.code(&sockets))?;
        Ok(SteeringProgram { program, sockets: Arc::new(sockets) })
    }

    fn code(&self, sockets: &Map) -> Vec<Instruction> {
        let mut code = Code { program: Assembler::default(), maps: self, sockets: sockets.raw_fd() };
        code.write();
        code.program.finish()
    }
}

impl SteeringProgram {
    /// From now on the program decides for this port, and may choose this listener, which is the shard's.
    pub(crate) fn admit(&self, listener: RawFd, shard: usize) -> io::Result<Slot> {
        let shard = number(shard);
        self.sockets.set(shard, &u64::from(listener.unsigned_abs()).to_ne_bytes())?;
        let slot = Slot { sockets: self.sockets.clone(), shard };
        set_option(listener, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_EBPF, self.program.raw_fd())?;
        Ok(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // It is empty already if the listener was closed before.
        let _ = self.sockets.remove(self.shard);
    }
}

/// Numbers of CPUs and shards are small.
fn number(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(NO_SHARD)
}

/// Where on the stack what is.
mod stack {
    /// A key for a map, 32 bits.
    pub(super) const KEY: i16 = -4;
    /// The shard with the least work of those that were looked at.
    pub(super) const BEST: i16 = -16;
    pub(super) const BEST_WORK: i16 = -24;
    /// The neighbours of the centre, a copy of the map's value.
    pub(super) const CIRCLES: i16 = -40;
}

/// The program in the making. R6 is its context and R7 the shard that it is about to choose; what R8 and R9 are is described
/// where they are used.
struct Code<'m> {
    program: Assembler,
    maps: &'m SteeringMaps,
    sockets: RawFd,
}

impl Code<'_> {
    fn write(&mut self) {
        let (select, kernels_choice) = (self.program.label(), self.program.label());
        self.program.set(R6, R1);
        self.program.call(Helper::ProcessorId);
        self.program.store_u32(FRAME, stack::KEY, R0);
        self.look_up(self.maps.receivers.raw_fd(), kernels_choice);
        self.program.load_u32(R7, R0, 0);
        self.find_circles(kernels_choice);
        if let Some(loads) = self.maps.board.as_ref().and_then(|board| board.map()).map(Map::raw_fd) {
            self.avoid_the_busy(loads, select);
        }
        self.program.place(select);
        self.select();
        self.select_a_neighbour(kernels_choice);
        self.program.place(kernels_choice);
        self.answer();
    }

    fn answer(&mut self) {
        self.program.set(R0, SK_PASS);
        self.program.exit();
    }

    /// R0 is the address of the value in the map for the key on the stack.
    fn look_up(&mut self, map: RawFd, or_else: Label) {
        self.program.load_map(R1, map);
        self.program.set(R2, FRAME);
        self.program.compute(Add, R2, i32::from(stack::KEY));
        self.program.call(Helper::MapLookup);
        self.program.jump_if(R0, Equal, 0, or_else);
    }

    fn look_up_of(&mut self, map: RawFd, key: Register, or_else: Label) {
        self.program.store_u32(FRAME, stack::KEY, key);
        self.look_up(map, or_else);
    }

    /// Brings the neighbours of R7 to the stack.
    fn find_circles(&mut self, or_else: Label) {
        self.look_up_of(self.maps.proximity.raw_fd(), R7, or_else);
        for half in [0, 8] {
            self.program.load_u64(R1, R0, half);
            self.program.store_u64(FRAME, stack::CIRCLES + half, R1);
        }
    }

    /// R1 is the number of a shard at a distance: the one at a place that R9 plus `step` leads to.
    fn neighbour(&mut self, distance: i16, step: usize, or_else: Label) {
        self.program.set(R1, R9);
        self.program.compute(Add, R1, step as i32);
        self.program.load_u32(R2, FRAME, stack::CIRCLES + distance + 4);
        self.program.compute(Modulo, R1, R2);
        self.program.load_u32(R2, FRAME, stack::CIRCLES + distance);
        self.program.compute(Add, R1, R2);
        self.look_up_of(self.maps.order.raw_fd(), R1, or_else);
        self.program.load_u32(R1, R0, 0);
    }

    /// R9 is a random number.
    fn draw(&mut self) {
        self.program.call(Helper::RandomU32);
        self.program.set(R9, R0);
    }

    /// If R7 is busy, it becomes the neighbour with the least work of those that are looked at, the more likely the less
    /// that has: a load is the same for a tenth of a second, in which not all connections should go one way.
    fn avoid_the_busy(&mut self, loads: RawFd, select: Label) {
        self.look_up_of(loads, R7, select);
        // R8 is the work of R7.
        let is_bounded = self.program.label();
        self.program.load_u64(R8, R0, WORK_OFFSET);
        self.program.jump_if(R8, Below, BUSY_WORK as i32, select);
        self.program.jump_if(R8, Below, WORK_MAX, is_bounded);
        self.program.set(R8, WORK_MAX);
        self.program.place(is_bounded);
        for (distance, eighths) in CIRCLES {
            let next = self.program.label();
            self.least_of(distance, loads, next);
            self.program.load_u64(R1, FRAME, stack::BEST_WORK);
            self.program.set(R2, R1);
            self.program.compute(ShiftLeft, R2, 3);
            self.program.set(R3, R8);
            self.program.compute(Mul, R3, eighths);
            self.program.jump_if(R2, AtLeast, R3, next);
            // Of 65,536 connections as many go as the difference is of our work.
            self.program.set(R2, R8);
            self.program.compute(Sub, R2, R1);
            self.program.compute(ShiftLeft, R2, 16);
            self.program.compute(And, R9, 0xffff);
            self.program.compute(Mul, R9, R8);
            self.program.jump_if(R9, AtLeast, R2, select);
            self.program.load_u32(R7, FRAME, stack::BEST);
            self.program.jump(select);
            self.program.place(next);
        }
    }

    /// Looks at shards at one distance, and leaves the one with the least work on the stack.
    fn least_of(&mut self, distance: i16, loads: RawFd, or_else: Label) {
        self.program.store_u64(FRAME, stack::BEST_WORK, R8);
        self.program.store_u32(FRAME, stack::BEST, R7);
        self.draw();
        for step in 0..LOOKS {
            let next = self.program.label();
            self.neighbour(distance, step, or_else);
            // The key of the last look-up is the place; now it is the shard.
            self.look_up_of(loads, R1, next);
            self.program.load_u64(R1, R0, WORK_OFFSET);
            self.program.load_u64(R2, FRAME, stack::BEST_WORK);
            self.program.jump_if(R1, AtLeast, R2, next);
            self.program.store_u64(FRAME, stack::BEST_WORK, R1);
            self.program.load_u32(R1, FRAME, stack::KEY);
            self.program.store_u32(FRAME, stack::BEST, R1);
            self.program.place(next);
        }
    }

    /// Ends the program with the listener of R7, if it has one.
    fn select(&mut self) {
        let is_empty = self.program.label();
        self.program.store_u32(FRAME, stack::KEY, R7);
        self.program.set(R1, R6);
        self.program.load_map(R2, self.sockets);
        self.program.set(R3, FRAME);
        self.program.compute(Add, R3, i32::from(stack::KEY));
        self.program.set(R4, 0);
        self.program.call(Helper::SelectReuseport);
        self.program.jump_if(R0, NotEqual, 0, is_empty);
        self.answer();
        self.program.place(is_empty);
    }

    /// Ends the program with the listener of a neighbour, if one of those that are tried has one.
    fn select_a_neighbour(&mut self, or_else: Label) {
        for (distance, _) in CIRCLES {
            self.draw();
            for step in 0..LOOKS {
                self.neighbour(distance, step, or_else);
                self.program.set(R7, R1);
                self.select();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
    use std::os::fd::{FromRawFd as _, OwnedFd};

    use super::*;
    use crate::cpu::{affinity, pin_to_cpu};
    use crate::socket::{BoundListener, accept_queued};

    /// Listeners of one port, one for each shard, with the program.
    struct Port {
        address: SocketAddr,
        listeners: Vec<BoundListener>,
    }

    impl Port {
        /// `None` where this process may not load programs; a program that the kernel does not want is a failure.
        fn open(tables: &SteeringTables, board: Option<&Arc<LoadBoard>>) -> Option<Port> {
            Port::open_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), tables, board)
        }

        fn open_at(
            mut address: SocketAddr,
            tables: &SteeringTables,
            board: Option<&Arc<LoadBoard>>,
        ) -> Option<Port> {
            let program = match SteeringMaps::new(tables, board.cloned()).and_then(|maps| maps.program()) {
                Ok(program) => program,
                Err(NotLoaded::Forbidden(error)) => {
                    crate::tests::skip(&format!("no BPF program may be loaded here: {error}"));
                    return None;
                }
                Err(NotLoaded::Refused { error, log }) => panic!("{error}:\n{log}"),
            };
            let mut listeners = Vec::new();
            for shard in 0..tables.order.len() {
                let mut listener = BoundListener::bind(address, 1024).unwrap();
                address = listener.local().unwrap();
                listener.steer_by_program(&program, shard).unwrap();
                listeners.push(listener);
            }
            Some(Port { address, listeners })
        }

        /// How many of so many connections from a CPU land at each listener that is left.
        fn landed(&self, cpu: usize, count: usize) -> Vec<usize> {
            let address = self.address;
            let connect = move || {
                pin_to_cpu(cpu).unwrap();
                (0..count).map(|_| TcpStream::connect(address).unwrap()).collect::<Vec<_>>()
            };
            let clients = std::thread::spawn(connect).join().unwrap();
            let landed: Vec<usize> = self.listeners.iter().map(accept_all).collect();
            assert_eq!(landed.iter().sum::<usize>(), clients.len());
            landed
        }
    }

    fn accept_all(listener: &BoundListener) -> usize {
        let accepted = std::iter::from_fn(|| accept_queued(listener.raw_fd()));
        // SAFETY: the descriptors were just accepted and have no other owner.
        accepted.inspect(|&fd| drop(unsafe { OwnedFd::from_raw_fd(fd) })).count()
    }

    fn usable_cpus() -> Vec<usize> {
        let allowed = affinity().unwrap();
        // SAFETY: the set is read only and the number below its size.
        (0..1024).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &allowed) }).collect()
    }

    /// Shards 2 and 0 share a cache, 1 is on their node, 3 is alone; every usable CPU has the receiver `of`.
    fn tables(of: impl Fn(usize) -> usize) -> SteeringTables {
        let receivers = usable_cpus().into_iter().enumerate().map(|(at, cpu)| (cpu, of(at))).collect();
        let proximity = vec![[0..2, 0..3], [2..3, 0..3], [0..2, 0..3], [3..4, 3..4]];
        SteeringTables { receivers, order: vec![2, 0, 1, 3], proximity }
    }

    fn board_with(works: [u64; 4]) -> Option<Arc<LoadBoard>> {
        let board = LoadBoard::for_programs(4).ok()?;
        works.iter().enumerate().for_each(|(shard, &work)| board.set_work(shard, work));
        Some(Arc::new(board))
    }

    #[test]
    fn connections_land_at_the_shard_of_their_cpu() {
        // Neither in the order of the CPUs nor in that of the listeners.
        let tables = tables(|at| 3 - at % 4);
        for host in [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))] {
            if host.is_ipv6() && TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
                return crate::tests::skip("this host has no address ::1");
            }
            let Some(port) = Port::open_at(host, &tables, None) else { return };
            for &(cpu, shard) in &tables.receivers {
                assert_eq!(port.landed(cpu, 40)[shard], 40, "CPU {cpu}, {host}");
            }
        }
    }

    #[test]
    fn a_busy_shard_is_spared_for_the_nearest_with_clearly_less_to_do() {
        let cpu = usable_cpus()[0];
        let tables = tables(|_| 0);
        for (works, at_least) in [
            // Not busy; all alike; one far away has less; one with the same cache has nothing; one on the node.
            ([19, 0, 0, 0], (0, 200)),
            ([1_000, 950, 900, 1_000], (0, 200)),
            ([1_000, 950, 900, 0], (0, 200)),
            ([1_000, 0, 1, 0], (2, 190)),
            ([1_000, 1, 900, 0], (1, 190)),
            // Half as much as ours: half of the connections.
            ([1_000, 1_000, 500, 0], (2, 50)),
            ([1_000, 1_000, 500, 0], (0, 50)),
            // Closed: the others, though all are busy.
            ([u64::MAX, 9_000, 1_000, 0], (2, 190)),
        ] {
            let Some(board) = board_with(works) else {
                return crate::tests::skip("no BPF program may be loaded here");
            };
            if works[0] == u64::MAX {
                board.close(0);
            }
            let port = Port::open(&tables, Some(&board)).expect("maps can be made");
            let landed = port.landed(cpu, 200);
            assert!(landed[at_least.0] >= at_least.1, "{works:?}: {landed:?}");
            // Without a board the load does not count.
            let port = Port::open(&tables, None).expect("maps can be made");
            assert_eq!(port.landed(cpu, 50)[0], 50);
        }
    }

    #[test]
    fn the_load_counts_from_the_moment_it_is_shown() {
        let cpu = usable_cpus()[0];
        let Some(board) = board_with([1_000, 0, 0, 0]) else {
            return crate::tests::skip("no BPF program may be loaded here");
        };
        let port = Port::open(&tables(|_| 0), Some(&board)).expect("maps can be made");
        assert_eq!(port.landed(cpu, 100)[0], 0);
        board.set_work(0, 0);
        assert_eq!(port.landed(cpu, 100)[0], 100);
    }

    #[test]
    fn a_shard_that_leaves_gets_nothing_more() {
        let cpu = usable_cpus()[0];
        let Some(mut port) = Port::open(&tables(|_| 0), None) else { return };
        // Its listener goes on listening: the kernel's hash would go on giving it connections.
        let leave = |port: &mut Port, shard: usize| port.listeners[shard].leave_program();
        for (leaver, wanted) in [(0, Some(2)), (2, Some(1)), (1, None)] {
            leave(&mut port, leaver);
            let landed = port.landed(cpu, 100);
            match wanted {
                Some(shard) => assert_eq!(landed[shard], 100, "{landed:?}"),
                // No shard is left on the node: the kernel's choice.
                None => assert!(landed.iter().all(|&count| count < 100), "{landed:?}"),
            }
        }
    }
}
