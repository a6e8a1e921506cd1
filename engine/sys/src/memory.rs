//! NUMA nodes: which one a thread's memory comes from. Which one its pages are on is in `pages`.

use std::io;

/// Nodes that a mask has room for: as many as any kernel is built for.
const NODES: usize = 1024;
const WORDS: usize = NODES / u64::BITS as usize;

/// The kernel takes one off the number of bits it is given.
const MASK_BITS: usize = NODES + 1;

/// Since Linux 5.15: like MPOL_PREFERRED, but for several nodes, and what does not fit goes where it is nearest to the CPU.
const MPOL_PREFERRED_MANY: i32 = 5;

type NodeMask = [u64; WORDS];

/// Memory of this thread, kernel memory on its behalf included, comes from the first of `nodes` that has any, as long
/// as that has any left; then from the nearest one that has. Never refused for lack of memory on a node, as MPOL_BIND
/// would. Returns the node.
///
/// # Errors
/// EINVAL if none of the nodes has memory that this process may use, EPERM where a seccomp profile forbids the call,
/// ENOSYS without NUMA in the kernel.
pub fn prefer_memory_of(nodes: &[usize]) -> io::Result<usize> {
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    for &node in nodes.iter().filter(|&&node| node < NODES) {
        let mut mask: NodeMask = [0; WORDS];
        mask[node / 64] |= 1 << (node % 64);
        let one_of = |mode| set_policy(mode, &mask);
        match one_of(MPOL_PREFERRED_MANY).or_else(|_| one_of(libc::MPOL_PREFERRED)) {
            Ok(()) => return Ok(node),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn set_policy(mode: i32, mask: &NodeMask) -> io::Result<()> {
    // SAFETY: the mask is as long as stated and lives through the call.
    let done = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask.as_ptr(), MASK_BITS) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The memory policy of a thread.
struct Policy {
    mode: i32,
    mask: NodeMask,
}

impl Policy {
    fn of_this_thread() -> io::Result<Policy> {
        let mut policy = Policy { mode: 0, mask: [0; WORDS] };
        // SAFETY: mode and mask live through the call and are as long as stated; without an address and flags, the call
        // tells the thread's policy.
        let done = unsafe {
            libc::syscall(
                libc::SYS_get_mempolicy,
                &raw mut policy.mode,
                policy.mask.as_mut_ptr(),
                MASK_BITS,
                0_usize,
                0_usize,
            )
        };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(policy) }
    }
}

/// Calls `f` with this thread on `cpu` and its memory from `nodes` (not changed if empty), then returns to where it was. A
/// thread started by `f` begins its life there: its stack, its thread-locals and the kernel's part of it are near that
/// CPU. What cannot be moved stays as it is.
pub fn while_visiting<R>(cpu: usize, nodes: &[usize], f: impl FnOnce() -> R) -> R {
    let cpus = crate::cpu::affinity();
    let policy = if nodes.is_empty() { None } else { Policy::of_this_thread().ok() };
    let _ = crate::cpu::pin_to_cpu(cpu);
    if policy.is_some() {
        let _ = prefer_memory_of(nodes);
    }
    let result = f();
    if let Some(policy) = policy {
        let _ = set_policy(policy.mode, &policy.mask);
    }
    if let Ok(cpus) = cpus {
        let _ = crate::cpu::set_affinity(&cpus);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::tests::allowed;

    #[test]
    fn a_node_without_memory_gives_way_to_the_next() {
        let ended = std::thread::spawn(|| {
            let preferred = prefer_memory_of(&[NODES - 1, NODES + 7, 0]);
            allowed(preferred).map(|node| (node, Policy::of_this_thread().unwrap()))
        });
        let Some((node, policy)) = ended.join().unwrap() else { return };
        assert_eq!((node, policy.mask[0]), (0, 1));
        assert!([MPOL_PREFERRED_MANY, libc::MPOL_PREFERRED].contains(&policy.mode));
        let error = prefer_memory_of(&[NODES - 1]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn a_visit_ends_where_it_began() {
        let ended = std::thread::spawn(|| {
            let before = crate::cpu::affinity().unwrap();
            let cpu = crate::cpu::current_cpu().unwrap();
            let there = while_visiting(cpu, &[0], || {
                let born =
                    std::thread::spawn(|| (crate::cpu::affinity().unwrap(), crate::cpu::current_cpu()));
                born.join().unwrap()
            });
            // SAFETY: the set lives through the call.
            assert_eq!(unsafe { libc::CPU_COUNT(&there.0) }, 1);
            assert_eq!(there.1, Some(cpu));
            // SAFETY: both sets live through the call.
            assert!(unsafe { libc::CPU_EQUAL(&before, &crate::cpu::affinity().unwrap()) });
            allowed(Policy::of_this_thread()).map_or(0, |policy| policy.mode)
        });
        assert_eq!(ended.join().unwrap(), 0);
    }
}
