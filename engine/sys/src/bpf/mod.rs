//! Programs and maps of extended BPF, by bpf(2) alone: they need a few hundred bytes of instructions and four commands, less
//! than any library would add. [`crate::steer`] says what they are for.

mod assembler;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

pub(crate) use self::assembler::{
    Arithmetic, Assembler, Comparison, FRAME, Helper, Instruction, Label, R0, R1, R2, R3, R4, R6, R7, R8, R9,
    Register,
};
use crate::files::page_bytes;

const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_DELETE_ELEM: libc::c_long = 3;
const PROG_LOAD: libc::c_long = 5;

const PROG_TYPE_SK_REUSEPORT: u32 = 21;

/// The name that the kernel shows for maps and programs.
const NAME: [u8; 16] = *b"sluice_steering\0";

/// Our own words only: no function that is reserved for the GPL is called.
const LICENSE: &std::ffi::CStr = c"MIT";

/// Room for what the verifier has to say about a program.
const LOG_BYTES: usize = 1 << 20;

/// Of which this much is passed on: the end, where the reason stands.
const LOG_SHOWN_BYTES: usize = 2_000;

/// Why there is no program.
#[derive(Debug)]
pub enum NotLoaded {
    /// This process may not use BPF, or this kernel has none.
    Forbidden(io::Error),
    /// The kernel has looked at it and does not want it.
    Refused {
        /// The error of the call.
        error: io::Error,
        /// The end of its verifier's log; may be empty.
        log: String,
    },
}

impl NotLoaded {
    /// An error of a call that has no log.
    pub(crate) fn from_call(error: io::Error) -> NotLoaded {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => NotLoaded::Forbidden(error),
            _ => NotLoaded::Refused { error, log: String::new() },
        }
    }
}

/// Kinds of maps.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MapKind {
    Array,
    /// An array that user space has mapped, too.
    SharedArray,
    /// Listeners of one port.
    Listeners,
}

impl MapKind {
    fn type_and_flags(self) -> (u32, u32) {
        const ARRAY: u32 = 2;
        const REUSEPORT_SOCKARRAY: u32 = 20;
        const MMAPABLE: u32 = 1 << 10;
        match self {
            MapKind::Array => (ARRAY, 0),
            MapKind::SharedArray => (ARRAY, MMAPABLE),
            MapKind::Listeners => (REUSEPORT_SOCKARRAY, 0),
        }
    }
}

/// A map with numbers from 0 as keys.
#[derive(Debug)]
pub(crate) struct Map {
    fd: OwnedFd,
    value_bytes: usize,
    entries: usize,
}

impl Map {
    /// A map for so many values of this size, all of them zero.
    pub(crate) fn new(kind: MapKind, value_bytes: usize, entries: usize) -> io::Result<Map> {
        #[repr(C)]
        struct Create {
            map_type: u32,
            key_size: u32,
            value_size: u32,
            max_entries: u32,
            map_flags: u32,
            inner_map_fd: u32,
            numa_node: u32,
            map_name: [u8; 16],
        }
        let (map_type, map_flags) = kind.type_and_flags();
        let number = |size: usize| u32::try_from(size).map_err(|_| io::ErrorKind::InvalidInput);
        let create = Create {
            map_type,
            key_size: 4,
            value_size: number(value_bytes)?,
            max_entries: number(entries)?,
            map_flags,
            inner_map_fd: 0,
            numa_node: 0,
            map_name: NAME,
        };
        // SAFETY: the command takes such a structure.
        let fd = unsafe { bpf(MAP_CREATE, &create) }?;
        // SAFETY: the kernel just gave us this descriptor; nothing else owns it.
        Ok(Map { fd: unsafe { OwnedFd::from_raw_fd(fd) }, value_bytes, entries })
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(crate) fn entries(&self) -> usize {
        self.entries
    }

    /// Writes a value.
    pub(crate) fn set(&self, key: u32, value: &[u8]) -> io::Result<()> {
        assert_eq!(value.len(), self.value_bytes, "the kernel reads as much as the map's values have");
        let element = Element::new(self, &key, value.as_ptr());
        // SAFETY: the command takes such a structure; key and value are as large as the map's and live through the call.
        unsafe { bpf(MAP_UPDATE_ELEM, &element) }.map(drop)
    }

    /// Empties the place of a listener.
    pub(crate) fn remove(&self, key: u32) -> io::Result<()> {
        let element = Element::new(self, &key, std::ptr::null());
        // SAFETY: the command takes such a structure; the key lives through the call.
        unsafe { bpf(MAP_DELETE_ELEM, &element) }.map(drop)
    }
}

#[repr(C)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Element {
    fn new(map: &Map, key: &u32, value: *const u8) -> Element {
        let map_fd = map.raw_fd().unsigned_abs();
        Element { map_fd, pad: 0, key: std::ptr::from_ref(key) as u64, value: value as u64, flags: 0 }
    }
}

/// The values of a [`MapKind::SharedArray`] in the memory of this process: programs see what is written there.
#[derive(Debug)]
pub(crate) struct MappedValues {
    base: NonNull<u8>,
    bytes: usize,
    map: Map,
}

// SAFETY: a mapping is no thread's; what is shared of it is up to those who read and write through `base`.
unsafe impl Send for MappedValues {}
// SAFETY: likewise.
unsafe impl Sync for MappedValues {}

impl MappedValues {
    pub(crate) fn of(map: Map) -> io::Result<MappedValues> {
        let bytes = (map.value_bytes.next_multiple_of(8) * map.entries).next_multiple_of(page_bytes());
        // SAFETY: a new mapping at an address of the kernel's choice, of as many bytes as the map has.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(MappedValues { base, bytes, map })
    }

    /// The first value, at the beginning of a page; all of them are zeroes at first.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn map(&self) -> &Map {
        &self.map
    }
}

impl Drop for MappedValues {
    fn drop(&mut self) {
        // SAFETY: start and length are those of our own mapping, which is not used once its owner is dropped.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// A program that chooses among the listeners of a port.
#[derive(Debug)]
pub(crate) struct ReuseportProgram(OwnedFd);

impl ReuseportProgram {
    pub(crate) fn load(code: &[Instruction]) -> Result<ReuseportProgram, NotLoaded> {
        match load(code, &mut []) {
            Ok(fd) => Ok(ReuseportProgram(fd)),
            Err(error) => {
                // Once more, for the verifier's log; a process without permission gets none.
                let mut log = vec![0; LOG_BYTES];
                let again = load(code, &mut log);
                let text = log.split(|&byte| byte == 0).next().unwrap_or_default();
                match again {
                    Ok(fd) => Ok(ReuseportProgram(fd)),
                    Err(_) if text.is_empty() => Err(NotLoaded::from_call(error)),
                    Err(_) => Err(NotLoaded::Refused { error, log: end_of(text) }),
                }
            }
        }
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn load(code: &[Instruction], log: &mut [u8]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
    }
    let is_logged = !log.is_empty();
    let program = Load {
        prog_type: PROG_TYPE_SK_REUSEPORT,
        insn_cnt: u32::try_from(code.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        insns: code.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        log_level: is_logged.into(),
        log_size: u32::try_from(log.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        log_buf: if is_logged { log.as_mut_ptr() as u64 } else { 0 },
        kern_version: 0,
        prog_flags: 0,
        prog_name: NAME,
    };
    // SAFETY: the command takes such a structure; code, license and log are as long as stated and live through the call.
    let fd = unsafe { bpf(PROG_LOAD, &program) }?;
    // SAFETY: the kernel just gave us this descriptor; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The last lines of a log.
fn end_of(log: &[u8]) -> String {
    let text = String::from_utf8_lossy(log);
    let mut kept = 0;
    let lines: Vec<&str> = text
        .trim_end()
        .lines()
        .rev()
        .take_while(|line| {
            kept += line.len();
            kept <= LOG_SHOWN_BYTES
        })
        .collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// Calls bpf(2).
///
/// # Safety
/// `attributes` is the structure of this command, padding is written, and what it points to lives through the call.
unsafe fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<RawFd> {
    // SAFETY: the caller's promise.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>() as libc::c_long)
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(done).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    #[test]
    fn a_program_that_the_verifier_refuses_comes_back_with_its_words() {
        let mut program = Assembler::default();
        // R9 was never written.
        program.set(R0, R9);
        program.exit();
        match ReuseportProgram::load(&program.finish()) {
            Ok(_) => panic!("the kernel has to refuse it"),
            Err(NotLoaded::Forbidden(error)) => {
                crate::tests::skip(&format!("no BPF program may be loaded here: {error}"));
            }
            Err(NotLoaded::Refused { log, .. }) => assert!(log.contains("R9 !read_ok"), "{log}"),
        }
    }

    #[test]
    fn values_are_mapped_from_the_beginning_of_a_page() {
        let map = match Map::new(MapKind::SharedArray, 128, 40) {
            Ok(map) => map,
            Err(error) => return crate::tests::skip(&format!("no BPF program may be loaded here: {error}")),
        };
        let values = MappedValues::of(map).unwrap();
        assert_eq!(values.base().as_ptr() as usize % page_bytes(), 0);
        values.map().set(39, &[7; 128]).unwrap();
        // SAFETY: the last of 40 values of 128 bytes, at a multiple of 128.
        let last = unsafe { &*values.base().as_ptr().add(39 * 128).cast::<AtomicU64>() };
        assert_eq!(last.load(Relaxed), 0x0707_0707_0707_0707);
    }

    #[test]
    fn the_end_of_a_log_is_kept() {
        let log: String = (0..1_000).map(|line| format!("line {line}\n")).collect();
        let end = end_of(log.as_bytes());
        assert!(end.len() <= LOG_SHOWN_BYTES + 300 && end.ends_with("line 999"), "{end}");
        assert!(end.starts_with("line 7"), "{end}");
        assert_eq!(end_of(b"one\n"), "one");
    }
}
