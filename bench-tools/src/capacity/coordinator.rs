//! Goes through the steps of a capacity run: gives the lanes their orders, watches for the limit, takes stock.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use super::CapacityArgs;
use super::board::{Board, Phase, StepTally, Totals};
use super::limit::{DESCRIPTORS_RESERVED, Limit, Signs};
use super::ports::PortPlan;
use super::progress::Progress;
use super::report::{ActiveShare, Baseline, KernelCost, Report, Step, TargetCost, distribution, names};
use crate::interrupt::Interrupt;
use crate::latency::Latency;
use crate::machine::Setting;
use crate::procfs::{Machine, PAGE_BYTES, Server, Usage, cpu_ticks, own_usage, sysctl};
use crate::tls::TlsTally;

/// How often the coordinator looks at the board.
const POLL: Duration = Duration::from_millis(100);
/// How finely the time that opening takes is measured.
const POLL_OPENING: Duration = Duration::from_millis(5);
/// More connections lost than this share of a step are a limit too.
const LOST_SHARE: f64 = 0.05;
/// Slab caches that are reported per step.
const SLABS_TOLD: usize = 8;

pub(super) struct Coordinator<'a> {
    args: &'a CapacityArgs,
    board: &'a Board,
    ports: &'a PortPlan,
    server: Option<Server>,
    descriptors: u64,
    interrupt: &'a Interrupt,
    /// Whether the lanes have ended, which they do by themselves only when they cannot go on.
    has_stopped: &'a dyn Fn() -> bool,
    progress: Progress,
    baseline: Reading,
    /// Handshakes of all steps.
    tls: TlsTally,
}

/// How things are at a moment.
#[derive(Clone, Debug)]
struct Reading {
    at: Instant,
    totals: Totals,
    server: Usage,
    machine: Machine,
    ticks: (u64, u64),
}

/// What came of opening.
struct Opened {
    seconds: f64,
    /// Whether a limit was met.
    is_at_limit: bool,
}

impl<'a> Coordinator<'a> {
    pub(super) fn new(
        args: &'a CapacityArgs,
        board: &'a Board,
        ports: &'a PortPlan,
        server: Option<Server>,
        descriptors: u64,
        interrupt: &'a Interrupt,
        has_stopped: &'a dyn Fn() -> bool,
    ) -> Coordinator<'a> {
        let baseline = Reading::now(server.as_ref(), board);
        let progress = Progress::new();
        let tls = TlsTally::default();
        Coordinator {
            args,
            board,
            ports,
            server,
            descriptors,
            interrupt,
            has_stopped,
            progress,
            baseline,
            tls,
        }
    }

    /// All steps, as far as they go.
    pub(super) fn run(mut self, goals: &[u64]) -> Report {
        let target = match &self.server {
            Some(server) => format!("{} ({}, pids {:?})", self.args.target, server.name, server.pids),
            None => format!("{} (its process is not to be seen: no memory or CPU figures)", self.args.target),
        };
        self.progress.say(&format!("target {target}; {}", self.ports));
        let mut steps: Vec<Step> = Vec::new();
        let mut limit = None;
        for &goal in goals {
            let (step, met) = self.step(goal, steps.last());
            self.progress.say(&step.summary());
            steps.push(step);
            limit = met;
            if limit.is_some() || self.is_over() {
                break;
            }
        }
        self.progress.clear();
        Report {
            setting: Setting::now(self.args.report.note.clone()),
            target: self.args.target.to_string(),
            path: self.args.path.clone(),
            websocket: self.args.ws,
            server: self.server,
            tls: self.args.tls.tls.then(|| self.tls.report()),
            ports: self.ports.clone(),
            active: self.args.active.0,
            interval_s: self.args.interval.as_secs_f64(),
            hold_s: self.args.hold.as_secs_f64(),
            interrupted: self.interrupt.is_set(),
            baseline: Baseline {
                rss_bytes: self.baseline.server.rss_bytes,
                slab_bytes: self.baseline.machine.slab,
                tcp_memory_bytes: self.baseline.machine.tcp_memory,
            },
            steps,
            limit,
        }
    }

    fn is_over(&self) -> bool {
        self.interrupt.is_set() || (self.has_stopped)()
    }

    /// Opens up to a goal, holds, takes stock.
    fn step(&mut self, goal: u64, previous: Option<&Step>) -> (Step, Option<Limit>) {
        let before = Reading::now(self.server.as_ref(), self.board);
        let opened = self.open(goal, &before);
        let full = Reading::now(self.server.as_ref(), self.board);
        self.hold(goal);
        let after = Reading::now(self.server.as_ref(), self.board);
        let tally = self.collect(goal);
        self.tls.add(&tally.tls);
        let signs = self.signs(goal, &before, &after, tally.open_faults.clone(), full.idle_since(&before));
        let held = after.totals.held;
        let lost = after.totals.lost - before.totals.lost;
        let is_losing = lost as f64 > LOST_SHARE * (held + lost) as f64;
        let limit = match () {
            () if self.interrupt.is_set() => None,
            () if is_losing && !signs.target_is_gone => Some(lost_limit(held, lost, &tally)),
            () if opened.is_at_limit || signs.target_is_gone => Some(signs.name()),
            () => None,
        };
        let readings = Readings { before: &before, full: &full, after: &after };
        (self.report(goal, &opened, &readings, &tally, previous), limit)
    }

    fn open(&mut self, wanted: u64, before: &Reading) -> Opened {
        // Never into the descriptors that are needed to find out and report.
        let goal = wanted.min(self.descriptors.saturating_sub(DESCRIPTORS_RESERVED));
        self.board.order(Phase::Open, goal);
        let mut changed = (Instant::now(), before.totals);
        let patience = self.args.timeout + Duration::from_secs(5);
        let mut looked = Instant::now();
        loop {
            thread::sleep(POLL_OPENING);
            let totals = self.board.totals();
            let seconds = before.at.elapsed().as_secs_f64();
            if totals.opened + totals.failed >= goal || self.is_over() {
                let is_at_limit = self.signs_now(wanted, before).is_at_limit();
                return Opened { seconds, is_at_limit };
            }
            if looked.elapsed() < POLL {
                continue;
            }
            looked = Instant::now();
            self.progress.opening(totals.opened + totals.failed, goal, totals.held);
            if totals != changed.1 {
                changed = (Instant::now(), totals);
            }
            if self.signs_now(goal, before).is_at_limit() || changed.0.elapsed() > patience {
                return Opened { seconds, is_at_limit: true };
            }
        }
    }

    fn hold(&mut self, goal: u64) {
        self.board.order(Phase::Hold, goal);
        let begin = Instant::now();
        while begin.elapsed() < self.args.hold && !self.is_over() {
            thread::sleep(POLL.min(self.args.hold.saturating_sub(begin.elapsed())));
            let held = self.board.totals().held;
            self.progress.holding(begin.elapsed(), self.args.hold, held);
            if self.server.as_ref().is_some_and(Server::is_gone) {
                return;
            }
        }
    }

    /// What the lanes counted; requests under way are waited for, unless the user is waiting too.
    fn collect(&self, goal: u64) -> StepTally {
        self.board.order(Phase::Collect, goal);
        let patience = self.args.timeout * 2 + Duration::from_secs(5);
        let begin = Instant::now();
        loop {
            if let Some(tally) = self.board.collect() {
                return tally;
            }
            if begin.elapsed() > patience || (self.has_stopped)() {
                return StepTally::default();
            }
            if self.interrupt.is_set() {
                self.board.order(Phase::CollectNow, goal);
            }
            thread::sleep(POLL / 10);
        }
    }

    fn signs_now(&self, wanted: u64, before: &Reading) -> Signs {
        let now = Reading::brief(self.board);
        self.signs(wanted, before, &now, BTreeMap::new(), 1.0)
    }

    fn signs(
        &self,
        wanted: u64,
        before: &Reading,
        now: &Reading,
        faults: BTreeMap<crate::fault::Fault, u64>,
        idle_share: f64,
    ) -> Signs {
        Signs {
            wanted,
            held: now.totals.held,
            attempted: now.totals.attempted - before.totals.attempted,
            failed: now.totals.failed - before.totals.failed,
            faults,
            tool_descriptors_max: self.descriptors,
            target_descriptors: self.server.as_ref().and_then(Server::tightest_descriptors),
            target_is_gone: self.server.as_ref().is_some_and(Server::is_gone),
            ports: self.ports.capacity(),
            refusals: now.machine.refusals_since(&before.machine),
            now: now.machine.clone(),
            tcp_memory_max: sysctl("net/ipv4/tcp_mem", 2).unwrap_or(0) * PAGE_BYTES,
            somaxconn: sysctl("net/core/somaxconn", 0).unwrap_or(0),
            tracked: sysctl("net/netfilter/nf_conntrack_count", 0)
                .zip(sysctl("net/netfilter/nf_conntrack_max", 0)),
            idle_share,
        }
    }

    fn report(
        &self,
        goal: u64,
        opened: &Opened,
        readings: &Readings<'_>,
        tally: &StepTally,
        previous: Option<&Step>,
    ) -> Step {
        let Readings { before, full, after } = *readings;
        let count = full.totals.opened - before.totals.opened;
        let failed = after.totals.failed - before.totals.failed;
        let hold_s = (after.at - full.at).as_secs_f64().max(1e-9);
        let held = after.totals.held;
        Step {
            connections: goal,
            opened: count,
            failed,
            held,
            lost: after.totals.lost - before.totals.lost,
            success_rate: count as f64 / (count + failed).max(1) as f64,
            open_s: opened.seconds,
            connections_per_s: count as f64 / opened.seconds.max(1e-9),
            connect_ns: Latency::of(&tally.connect),
            connect_distribution: distribution(&tally.connect),
            first_request_ns: Latency::of(&tally.first_request),
            open_errors: names(&tally.open_faults),
            hold_errors: names(&tally.hold_faults),
            active: ActiveShare {
                connections: (held as f64 * self.args.active.0).ceil() as u64,
                requests: tally.request.len(),
                requests_per_s: tally.request.len() as f64 / hold_s,
                request_ns: Latency::of(&tally.request),
                request_distribution: distribution(&tally.request),
                send_lag_ns: Latency::of(&tally.send_lag),
            },
            target: self.server.is_some().then(|| self.target_cost(readings, previous, hold_s)),
            kernel: self.kernel_cost(after),
            refusals: after.machine.refusals_since(&before.machine),
            idle_share: full.idle_since(before),
            tool_rss_bytes: own_usage().map_or(0, |usage| usage.rss_bytes),
        }
    }

    fn target_cost(&self, readings: &Readings<'_>, previous: Option<&Step>, hold_s: f64) -> TargetCost {
        let Readings { before, full, after } = *readings;
        let rss_bytes = after.server.rss_bytes;
        let per = |growth: f64, connections: u64| growth / connections.max(1) as f64;
        let further = previous.and_then(|previous| {
            let growth = rss_bytes as f64 - previous.target.as_ref()?.rss_bytes as f64;
            let more = after.totals.held.checked_sub(previous.held)?;
            (more > 0).then(|| per(growth, more))
        });
        let cpu_open = full.server.on_cpu.saturating_sub(before.server.on_cpu).as_secs_f64();
        let cpu_hold = after.server.on_cpu.saturating_sub(full.server.on_cpu).as_secs_f64();
        let opened = full.totals.opened - before.totals.opened;
        TargetCost {
            rss_bytes,
            user_bytes_per_connection: per(
                rss_bytes as f64 - self.baseline.server.rss_bytes as f64,
                after.totals.held,
            ),
            user_bytes_per_further_connection: further,
            cpu_open_s: cpu_open,
            cpu_us_per_open: per(cpu_open * 1e6, opened),
            cpu_hold_share: cpu_hold / hold_s,
            descriptors: after.server.descriptors,
        }
    }

    fn kernel_cost(&self, after: &Reading) -> KernelCost {
        let (now, base) = (&after.machine, &self.baseline.machine);
        let growth = now.slab as f64 - base.slab as f64 + now.tcp_memory as f64 - base.tcp_memory as f64;
        let mut slabs: Vec<(String, u64)> = now
            .slabs
            .iter()
            .map(|(name, &bytes)| {
                let before = base.slabs.get(name).copied().unwrap_or(0);
                (name.clone(), bytes.saturating_sub(before))
            })
            .filter(|(_, growth)| *growth > 0)
            .collect();
        slabs.sort_by_key(|(_, growth)| std::cmp::Reverse(*growth));
        slabs.truncate(SLABS_TOLD);
        KernelCost {
            tcp_in_use: now.tcp_in_use,
            tcp_time_wait: now.tcp_time_wait,
            tcp_memory_bytes: now.tcp_memory,
            slab_bytes: now.slab,
            kernel_bytes_per_connection: growth / after.totals.held.max(1) as f64,
            slabs: slabs.into_iter().collect(),
        }
    }
}

/// The readings of a step: before it, when all were open, after holding them.
struct Readings<'a> {
    before: &'a Reading,
    full: &'a Reading,
    after: &'a Reading,
}

impl Reading {
    fn now(server: Option<&Server>, board: &Board) -> Reading {
        let usage = server.and_then(|server| server.usage().ok()).unwrap_or_default();
        Reading {
            at: Instant::now(),
            totals: board.totals(),
            server: usage,
            machine: Machine::now(),
            ticks: cpu_ticks(&[]),
        }
    }

    /// Without the target's figures.
    fn brief(board: &Board) -> Reading {
        Reading::now(None, board)
    }

    /// Share of all CPU time since an earlier reading that was idle.
    fn idle_since(&self, earlier: &Reading) -> f64 {
        let total = self.ticks.1.saturating_sub(earlier.ticks.1);
        self.ticks.0.saturating_sub(earlier.ticks.0) as f64 / total.max(1) as f64
    }
}

fn lost_limit(held: u64, lost: u64, tally: &StepTally) -> Limit {
    let kinds: Vec<String> =
        tally.hold_faults.iter().map(|(fault, count)| format!("{} {count}", fault.name())).collect();
    Limit {
        kind: "closed_by_target",
        connections: held,
        message: format!("{lost} of the held connections ended: {}", kinds.join(", ")),
        fix: "raise the target's own connection limit (worker_connections, maxconn), its idle (keep-alive) timeout \
              above the time of the run, and its request limit per connection"
            .into(),
    }
}
