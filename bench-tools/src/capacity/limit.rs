//! Why no more connections could be opened: a pure judgement of what was counted.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::fault::{self, Fault};
use crate::procfs::Machine;
use crate::units::{show_bytes, show_count};

/// Descriptors that the tool keeps for other things than connections.
pub(super) const DESCRIPTORS_RESERVED: u64 = 96;
/// Less available memory than this share of all means that memory is the limit.
const MEMORY_SHARE_MIN: f64 = 0.03;
/// A target that fails with more than this share of its descriptors in use fails for lack of them: careful servers stop
/// before the last one.
const DESCRIPTORS_SHARE_MAX: f64 = 0.95;
/// Fewer failures than this are not a limit.
const FAILURES_MIN: u64 = 50;
/// A larger share of failures in a step is.
const FAILURES_SHARE: f64 = 0.05;

/// The limit that was met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// Which one, as a word: descriptors_tool, descriptors_target, ports, conntrack, listen_queue, tcp_mem, memory,
    /// cpu, refused, target_died, closed_by_target, timeout, other.
    pub kind: &'static str,
    /// Connections that were open when it was met.
    pub connections: u64,
    /// What was seen, with figures.
    pub message: String,
    /// What to change.
    pub fix: String,
}

/// What is known when the tool looks for a limit.
#[derive(Clone, Debug, Default)]
pub(super) struct Signs {
    /// What the step asks for; while it is still being opened, what of it the tool can open.
    pub(super) wanted: u64,
    /// Connections open now.
    pub(super) held: u64,
    /// Tried, and failed, in this step.
    pub(super) attempted: u64,
    pub(super) failed: u64,
    /// Failures of the step by kind.
    pub(super) faults: BTreeMap<Fault, u64>,
    /// Descriptors the tool may have.
    pub(super) tool_descriptors_max: u64,
    /// Descriptors the target has and may have.
    pub(super) target_descriptors: Option<(u64, u64)>,
    /// The target's process was known and is gone.
    pub(super) target_is_gone: bool,
    /// Ports in the plan, and per pair of addresses.
    pub(super) ports: u64,
    pub(super) now: Machine,
    pub(super) refusals: BTreeMap<&'static str, u64>,
    /// Upper limit of net.ipv4.tcp_mem in bytes.
    pub(super) tcp_memory_max: u64,
    pub(super) somaxconn: u64,
    /// Connections the firewall tracks, and may track, where it does.
    pub(super) tracked: Option<(u64, u64)>,
    /// Share of all CPU time that was idle, lately.
    pub(super) idle_share: f64,
}

impl Signs {
    /// Whether opening more makes no sense.
    pub(super) fn is_at_limit(&self) -> bool {
        let is_failing =
            self.failed >= FAILURES_MIN && self.failed as f64 > FAILURES_SHARE * self.attempted as f64;
        is_failing
            || self.target_is_gone
            || self.is_out_of_descriptors()
            || self.wants_too_much()
            || self.is_out_of_memory()
    }

    /// The tool has opened what its descriptors allow, whatever became of it, and that is less than was asked for.
    fn wants_too_much(&self) -> bool {
        self.wanted.saturating_add(DESCRIPTORS_RESERVED) > self.tool_descriptors_max
    }

    fn is_out_of_descriptors(&self) -> bool {
        self.held.saturating_add(DESCRIPTORS_RESERVED) >= self.tool_descriptors_max
    }

    fn is_out_of_memory(&self) -> bool {
        (self.now.memory_available as f64) < MEMORY_SHARE_MIN * self.now.memory_total as f64
    }

    fn count(&self, wanted: impl Fn(Fault) -> bool) -> u64 {
        self.faults.iter().filter(|&(&fault, _)| wanted(fault)).map(|(_, count)| count).sum()
    }

    /// Names the limit; the first sign that explains the most wins.
    pub(super) fn name(&self) -> Limit {
        let (kind, message, fix) = self
            .of_the_tool()
            .or_else(|| self.of_the_target())
            .or_else(|| self.of_the_machine())
            .or_else(|| self.wants_too_much().then(|| self.tool_descriptors()))
            .unwrap_or_else(|| self.unexplained());
        Limit { kind, connections: self.held, message, fix }
    }

    fn of_the_tool(&self) -> Option<Named> {
        let is_errno = |errno| move |fault| fault == Fault::Connect(errno);
        if self.is_out_of_descriptors() || self.count(is_errno(fault::EMFILE)) > 0 {
            return Some(self.tool_descriptors());
        }
        if self.count(is_errno(fault::ENFILE)) > 0 {
            return Some((
                "descriptors_tool",
                "fs.file-max: the system has no file left".into(),
                "raise fs.file-max".into(),
            ));
        }
        if self.count(is_errno(fault::EADDRNOTAVAIL)) > 0 {
            let ports = show_count(self.ports);
            return Some((
                "ports",
                format!("no source port left: the plan has {ports}, some are taken or in TIME_WAIT"),
                "widen net.ipv4.ip_local_port_range (1024 65535), or let the target listen on 0.0.0.0 and use \
                 --destinations"
                    .into(),
            ));
        }
        None
    }

    fn tool_descriptors(&self) -> Named {
        let limit = show_count(self.tool_descriptors_max);
        (
            "descriptors_tool",
            format!("RLIMIT_NOFILE: this tool may have {limit} descriptors, one per connection"),
            "raise the hard limit (ulimit -Hn, LimitNOFILE=, and fs.nr_open above 1,048,576); see scripts/tune-host"
                .into(),
        )
    }

    fn of_the_target(&self) -> Option<Named> {
        if self.target_is_gone {
            return Some((
                "target_died",
                "the target's process ended".into(),
                "look into its log; a kill for lack of memory shows in dmesg".into(),
            ));
        }
        if let Some((used, limit)) = self.target_descriptors
            && used as f64 >= DESCRIPTORS_SHARE_MAX * limit as f64
        {
            let (used, limit) = (show_count(used), show_count(limit));
            return Some((
                "descriptors_target",
                format!(
                    "RLIMIT_NOFILE of the target: {used} descriptors in use, {limit} allowed, of which servers keep \
                     some in reserve"
                ),
                "raise the target's limit (ulimit -n where it starts, LimitNOFILE=, worker_rlimit_nofile)"
                    .into(),
            ));
        }
        if self.count(|fault| fault == Fault::Refused) * 2 > self.failed && self.failed > 0 {
            return Some((
                "refused",
                "the target refuses connections: nothing listens any more".into(),
                "look into the target's log".into(),
            ));
        }
        let closed = self.count(|fault| matches!(fault, Fault::Closed | Fault::Reset | Fault::Status(_)));
        if closed * 2 > self.failed && self.failed > 0 {
            let closed = show_count(closed);
            return Some((
                "closed_by_target",
                format!("the target accepted and then closed or refused {closed} connections"),
                "raise the target's own limit (worker_connections, maxconn, ...)".into(),
            ));
        }
        None
    }

    fn of_the_machine(&self) -> Option<Named> {
        let refused = |name| self.refusals.get(name).copied().unwrap_or(0);
        if self.is_out_of_memory() || self.count(|fault| fault == Fault::Connect(fault::ENOMEM)) > 0 {
            let (left, all) = (show_bytes(self.now.memory_available), show_bytes(self.now.memory_total));
            return Some((
                "memory",
                format!("memory: {left} of {all} left"),
                "more memory; some 10 KiB per connection on loopback, where both ends are on this machine"
                    .into(),
            ));
        }
        let is_over = self.tcp_memory_max > 0 && self.now.tcp_memory >= self.tcp_memory_max;
        if is_over
            || refused("TCPAbortOnMemory") > 0
            || self.count(|fault| fault == Fault::Connect(fault::ENOBUFS)) > 0
        {
            let (used, limit) = (show_bytes(self.now.tcp_memory), show_bytes(self.tcp_memory_max));
            return Some((
                "tcp_mem",
                format!("net.ipv4.tcp_mem: {used} of {limit} used by TCP buffers"),
                "raise net.ipv4.tcp_mem".into(),
            ));
        }
        if let Some((tracked, limit)) = self.tracked
            && tracked.saturating_add(limit / 50) >= limit
        {
            let (tracked, limit) = (show_count(tracked), show_count(limit));
            return Some((
                "conntrack",
                format!(
                    "net.netfilter.nf_conntrack_max: the firewall tracks {tracked} of {limit} connections"
                ),
                "raise net.netfilter.nf_conntrack_max, or exempt loopback from tracking".into(),
            ));
        }
        let overflows = refused("ListenOverflows");
        if overflows > 0 {
            let (overflows, somaxconn) = (show_count(overflows), self.somaxconn);
            return Some((
                "listen_queue",
                format!(
                    "the listen queue overflowed {overflows} times (net.core.somaxconn is {somaxconn}): the target \
                     accepts too slowly, or has stopped accepting at a limit of its own (maxconn)"
                ),
                "raise the target's own limit and its backlog, net.core.somaxconn and net.ipv4.tcp_max_syn_backlog"
                    .into(),
            ));
        }
        if self.idle_share < 0.02
            && self.count(|fault| matches!(fault, Fault::Timeout | Fault::ConnectTimeout)) > 0
        {
            return Some((
                "cpu",
                format!("CPU: {:.0} % idle while connections timed out", self.idle_share * 100.0),
                "more CPUs, fewer connections at a time (--openers), or a longer --timeout".into(),
            ));
        }
        None
    }

    fn unexplained(&self) -> Named {
        let kinds: Vec<String> = self
            .faults
            .iter()
            .map(|(fault, count)| format!("{} {}", fault.name(), show_count(*count)))
            .collect();
        let all_time_out = self.count(|fault| matches!(fault, Fault::Timeout | Fault::ConnectTimeout)) > 0;
        let (failed, attempted) = (show_count(self.failed), show_count(self.attempted));
        (
            if all_time_out { "timeout" } else { "other" },
            format!("{failed} of {attempted} connections failed: {}", kinds.join(", ")),
            "look into the target's log and its own limits".into(),
        )
    }
}

type Named = (&'static str, String, String);

#[cfg(test)]
mod tests {
    use super::*;

    fn signs(fault: Fault) -> Signs {
        Signs {
            held: 10_000,
            attempted: 1_000,
            failed: 100,
            faults: BTreeMap::from([(fault, 100)]),
            tool_descriptors_max: 1 << 20,
            now: Machine { memory_total: 1 << 34, memory_available: 1 << 33, ..Machine::default() },
            idle_share: 0.5,
            ..Signs::default()
        }
    }

    #[test]
    fn every_limit_has_its_name() {
        let connect = |errno| signs(Fault::Connect(errno)).name().kind;
        assert_eq!(connect(fault::EMFILE), "descriptors_tool");
        assert_eq!(connect(fault::EADDRNOTAVAIL), "ports");
        assert_eq!(connect(fault::ENOBUFS), "tcp_mem");
        assert_eq!(signs(Fault::Refused).name().kind, "refused");
        assert_eq!(signs(Fault::Reset).name().kind, "closed_by_target");
        assert_eq!(signs(Fault::Timeout).name().kind, "timeout");
        let full = Signs { target_descriptors: Some((19_600, 20_000)), ..signs(Fault::Closed) };
        assert_eq!(full.name().kind, "descriptors_target");
        let gone = Signs { target_is_gone: true, ..signs(Fault::Refused) };
        assert_eq!(gone.name().kind, "target_died");
        let overflow = Signs { refusals: BTreeMap::from([("ListenOverflows", 7)]), ..signs(Fault::Timeout) };
        assert_eq!(overflow.name().kind, "listen_queue");
        let full = Signs { tracked: Some((65_000, 65_536)), ..signs(Fault::ConnectTimeout) };
        assert_eq!(full.name().kind, "conntrack");
        let busy = Signs { idle_share: 0.0, ..signs(Fault::Timeout) };
        assert_eq!(busy.name().kind, "cpu");
        let mut full = signs(Fault::Timeout);
        full.now.memory_available = 1 << 20;
        assert_eq!(full.name().kind, "memory");
    }

    #[test]
    fn a_few_failures_are_no_limit() {
        assert!(signs(Fault::Reset).is_at_limit());
        assert!(!Signs { failed: 49, attempted: 50, ..signs(Fault::Reset) }.is_at_limit());
        assert!(!Signs { failed: 60, attempted: 10_000, ..signs(Fault::Reset) }.is_at_limit());
        assert!(Signs { failed: 0, tool_descriptors_max: 10_090, ..signs(Fault::Reset) }.is_at_limit());
    }

    #[test]
    fn less_opened_than_asked_for_is_a_limit_even_if_a_few_failed() {
        let low = Signs {
            wanted: 1_000,
            held: 145,
            attempted: 160,
            failed: 15,
            tool_descriptors_max: 256,
            ..signs(Fault::Timeout)
        };
        assert!(low.is_at_limit() && !Signs { wanted: 160, ..low.clone() }.is_at_limit());
        let of_target = Signs { target_descriptors: Some((256, 256)), ..low.clone() };
        assert_eq!(of_target.name().kind, "descriptors_target");
        let few = Signs { faults: BTreeMap::new(), failed: 0, ..low };
        assert_eq!(few.name().kind, "descriptors_tool");
    }
}
