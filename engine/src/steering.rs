//! Which shard gets a connection: a pure function of the machine and the plan.
//!
//! A connection should be served where its packets arrive: by the shard on the CPU that takes the interrupt of its queue, whose
//! cache holds the data. `listen` configures the kernel for that. The rest of the `load` policy is in `balance`.

use sluice_sys::SteeringTables;

use crate::placement::{Plan, ShardPlace};
use crate::topology::Topology;

/// How connections find their shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Steering {
    /// By the kernel's hash of addresses and ports.
    Off,
    /// By the CPU that received the connection.
    Cpu,
    /// By the CPU, and away from shards that have more to do than others.
    #[default]
    Load,
}

impl Steering {
    /// As the flag has it.
    pub fn word(self) -> &'static str {
        match self {
            Steering::Off => "off",
            Steering::Cpu => "cpu",
            Steering::Load => "load",
        }
    }
}

/// The tables of the kernel's program.
pub(crate) fn tables(topology: &Topology, plan: &Plan) -> SteeringTables {
    let mut near_each_other: Vec<&ShardPlace> = plan.shards.iter().collect();
    near_each_other.sort_by_key(|place| (place.node, place.l3_group, place.shard));
    let range = |is_in: &dyn Fn(&ShardPlace) -> bool| {
        let start = near_each_other.iter().position(|place| is_in(place)).unwrap_or(0);
        start..start + near_each_other.iter().filter(|place| is_in(place)).count()
    };
    let proximity = |own: &ShardPlace| {
        let is_on_node = |place: &ShardPlace| place.node == own.node;
        [range(&|place| is_on_node(place) && place.l3_group == own.l3_group), range(&is_on_node)]
    };
    SteeringTables {
        receivers: receivers(topology, plan),
        order: near_each_other.iter().map(|place| place.shard).collect(),
        proximity: plan.shards.iter().map(proximity).collect(),
    }
}

/// For every online CPU the shard that gets the connections it receives: its own if it has one, else one of the nearest
/// (same core, same cache, same node), in turn.
pub(crate) fn receivers(topology: &Topology, plan: &Plan) -> Vec<(usize, usize)> {
    let mut turns = vec![0_usize; topology.cpus.len().max(1)];
    let receiver = |cpu: &crate::topology::Cpu| {
        let l3 = topology.l3_cpus(cpu.id);
        let near: [&dyn Fn(&ShardPlace) -> bool; 5] = [
            &|place| place.cpu == cpu.id,
            &|place| cpu.siblings.contains(place.cpu),
            &|place| l3.contains(place.cpu),
            &|place| place.node == cpu.node,
            &|_| true,
        ];
        let found = near.iter().find_map(|is_near| {
            let candidates: Vec<usize> =
                plan.shards.iter().filter(|place| is_near(place)).map(|place| place.shard).collect();
            (!candidates.is_empty()).then_some(candidates)
        });
        let candidates = found.expect("a plan has a shard");
        // CPUs with the same choice take turns in it.
        let turn = &mut turns[candidates[0] % topology.cpus.len().max(1)];
        let chosen = candidates[*turn % candidates.len()];
        if candidates.len() > 1 {
            *turn += 1;
        }
        (cpu.id, chosen)
    };
    topology.cpus.iter().map(receiver).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Policy, ShardChoice};
    use crate::placement::plan;
    use crate::topology::CpuSet;
    use crate::topology::fixture::two_sockets_interleaved;

    fn receivers_of(cpus: &str) -> Vec<(usize, usize)> {
        let topology = two_sockets_interleaved().read();
        let policy = Policy::Cpus(CpuSet::parse(cpus).unwrap());
        let plan = plan(&topology, &ShardChoice { policy, ..ShardChoice::default() }).unwrap();
        receivers(&topology, &plan)
    }

    #[test]
    fn every_shard_has_its_own_cpu() {
        // Shards 0 to 3 are on CPUs 0, 2, 4, 6 of node 0, shards 4 to 7 on the odd ones of node 1.
        let want = [(0, 0), (1, 4), (2, 1), (3, 5), (4, 2), (5, 6), (6, 3), (7, 7)];
        assert_eq!(receivers_of("0-7"), want);
    }

    #[test]
    fn circles_are_ranges_of_the_order() {
        let topology = two_sockets_interleaved().read();
        let policy = Policy::Cpus(CpuSet::parse("0-4").unwrap());
        let mut plan = plan(&topology, &ShardChoice { policy, ..ShardChoice::default() }).unwrap();
        // Spread over the nodes, as another policy numbers them: 0, 2 and 4 on node 0, where 4 has a cache of its own.
        plan.shards.sort_by_key(|place| place.cpu);
        for (shard, place) in plan.shards.iter_mut().enumerate() {
            place.shard = shard;
            place.l3_group = if shard == 4 { 7 } else { place.l3_group };
        }
        let tables = tables(&topology, &plan);
        assert_eq!(tables.order, [0, 2, 4, 1, 3]);
        let want = [[0..2, 0..3], [3..5, 3..5], [0..2, 0..3], [3..5, 3..5], [2..3, 0..3]];
        assert_eq!(tables.proximity, want);
    }

    #[test]
    fn other_cpus_choose_the_same_core_then_the_same_node_in_turn() {
        // Shards 0 and 1 on CPUs 0 and 2, shard 2 on CPU 1; 4 shares a core with 0, 6 with 2, 5 with 1.
        let want = [(0, 0), (1, 2), (2, 1), (3, 2), (4, 0), (5, 2), (6, 1), (7, 2)];
        assert_eq!(receivers_of("0-2"), want);
        // No shard on node 1: its CPUs take turns.
        let others: Vec<_> = receivers_of("0,2").into_iter().filter(|(cpu, _)| cpu % 2 == 1).collect();
        assert_eq!(others, [(1, 0), (3, 1), (5, 0), (7, 1)]);
    }
}
