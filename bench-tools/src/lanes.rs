//! Lanes: threads with a ring of their own, each on its CPU, which share nothing while they measure.

use std::thread;

use clap::Args;
use sluice_sys::{HostUnsupported, Settings, pin_to_cpu};

use crate::Failure;
use crate::units::parse_cpus;

/// A list of CPUs, as one value of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(pub Vec<usize>);

fn cpu_list(text: &str) -> Result<CpuList, String> {
    parse_cpus(text).map(CpuList)
}

/// Which threads do the work.
#[derive(Clone, Debug, Default, Args)]
pub struct LaneArgs {
    /// One pinned thread on each of these CPUs, such as 1 or 0,2-3
    #[arg(long, value_name = "LIST", value_parser = cpu_list, conflicts_with = "threads")]
    pub cpus: Option<CpuList>,
    /// So many threads, not pinned [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

/// One lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// Its number, from 0.
    pub number: usize,
    /// How many there are.
    pub count: usize,
    /// The CPU it is pinned to.
    pub cpu: Option<usize>,
}

impl LaneArgs {
    /// The lanes that were asked for.
    pub fn lanes(&self) -> Vec<Lane> {
        match &self.cpus {
            Some(CpuList(cpus)) => {
                let lane = |(number, &cpu)| Lane { number, count: cpus.len(), cpu: Some(cpu) };
                cpus.iter().enumerate().map(lane).collect()
            }
            None => {
                let count = usize::from(self.threads.unwrap_or(1));
                (0..count).map(|number| Lane { number, count, cpu: None }).collect()
            }
        }
    }
}

impl Lane {
    /// This lane's share of a total: the shares of all lanes add up to it.
    pub fn share(&self, total: u64) -> u64 {
        let (number, count) = (self.number as u64, self.count as u64);
        total / count + u64::from(number < total % count)
    }
}

/// Runs `body` on every lane's thread, pinned, each with its own input, and collects the results in the lanes' order.
///
/// # Errors
/// The first failure, when all lanes have ended.
///
/// # Panics
/// When a lane panics.
pub fn run<I: Send, T: Send>(
    lanes: &[Lane],
    inputs: Vec<I>,
    body: impl Fn(Lane, I) -> Result<T, Failure> + Sync,
) -> Result<Vec<T>, Failure> {
    debug_assert_eq!(lanes.len(), inputs.len());
    thread::scope(|scope| {
        let threads: Vec<_> = lanes
            .iter()
            .zip(inputs)
            .map(|(&lane, input)| {
                let body = &body;
                scope.spawn(move || {
                    if let Some(cpu) = lane.cpu {
                        pin_to_cpu(cpu).map_err(|error| no_such_cpu(cpu, &error))?;
                    }
                    body(lane, input)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a lane panicked")).collect()
    })
}

/// Why a thread cannot be pinned.
pub(crate) fn no_such_cpu(cpu: usize, error: &std::io::Error) -> Failure {
    Failure::HostUnsupported(HostUnsupported::new(
        format!("cannot run on CPU {cpu}: {error}"),
        "name CPUs that are online and allowed (taskset -p $$)",
    ))
}

/// Ring settings for so many sockets on one lane.
pub fn settings(sockets: u64) -> Settings {
    Settings {
        // The table is reserved, not touched; timers and a listener live in it too.
        connections_max: u32::try_from(sockets).unwrap_or(u32::MAX),
        ..Settings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        let args = LaneArgs { threads: Some(3), cpus: None };
        let shares: Vec<u64> = args.lanes().iter().map(|lane| lane.share(10)).collect();
        assert_eq!(shares, [4, 3, 3]);
    }

    #[test]
    fn a_list_pins() {
        let args = LaneArgs { threads: None, cpus: Some(CpuList(vec![3, 1])) };
        assert_eq!(args.lanes()[1], Lane { number: 1, count: 2, cpu: Some(1) });
    }

    #[test]
    fn the_first_failure_is_reported_after_all_have_ended() {
        let lanes = LaneArgs { threads: Some(2), cpus: None }.lanes();
        let done = run(&lanes, vec![(), ()], |lane, ()| match lane.number {
            0 => Err(Failure::Usage("no".into())),
            _ => Ok(()),
        });
        assert!(matches!(done, Err(Failure::Usage(_))));
    }
}
