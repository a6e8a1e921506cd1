//! `shards`, `placement`, `cpus`, `smt` and `reserve`: what is asked for, before a machine is looked at.
//!
//! Whether the machine has it is `placement`'s business.

use super::problem::{ConfigErrors, Fault, Report, closest};
use super::raw::{CommandLine, Raw};
use super::table::Top;
use super::values::Field;
use crate::topology::CpuSet;

const LIST_HINT: &str = "such as \"0-3,8\"";
const POLICY_HINT: &str = "pack, spread, node=N or cpus=LIST";

/// Which CPUs get a shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardChoice {
    /// In what order CPUs are taken, or which.
    pub policy: Policy,
    /// How many shards, at least 1; none for as many as there are cores (CPUs, with [`ShardPer::Thread`]), but no more
    /// than a cgroup quota allows.
    pub count: Option<usize>,
    /// What gets one shard when no count is given.
    pub per: ShardPer,
    /// Cores left for interrupts and the control plane.
    pub reserve: usize,
}

/// How CPUs are chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Policy {
    /// One cache, then one node, is filled before the next: few shards share what they can.
    #[default]
    Pack,
    /// Nodes and caches get their shards in turn: few shards have as much cache and memory bandwidth as there is.
    Spread,
    /// Like `Pack`, on one node only.
    Node(usize),
    /// Exactly these CPUs; not empty.
    Cpus(CpuSet),
}

/// What gets a shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ShardPer {
    /// A core.
    #[default]
    Core,
    /// A hyper-thread.
    Thread,
}

impl ShardChoice {
    /// The choice made by flags alone, for `sluice topology`.
    ///
    /// # Errors
    /// A value that makes no sense.
    pub fn from_flags(flags: &CommandLine) -> Result<Self, ConfigErrors> {
        let mut raw = Raw::default();
        raw.apply(flags);
        let choice = Self::check(&Top::settle(&raw.top), &mut raw.report);
        if raw.report.errors.is_empty() { Ok(choice) } else { Err(raw.report.into_errors()) }
    }

    /// Settles the keys; what is wrong is reported and replaced by the default.
    pub(super) fn check(top: &Top, report: &mut Report) -> Self {
        let policy = check_policy(top, report);
        if let Policy::Cpus(_) = policy {
            refuse_beside_a_list(top, report);
        }
        let number = |field: &Field<u64>| field.given().and_then(|given| usize::try_from(given.value).ok());
        Self {
            policy,
            count: number(&top.shards),
            per: if top.smt.given().is_some_and(|smt| smt.value) { ShardPer::Thread } else { ShardPer::Core },
            reserve: number(&top.reserve).unwrap_or(0),
        }
    }
}

fn check_policy(top: &Top, report: &mut Report) -> Policy {
    let checked = match (&top.placement, &top.cpus) {
        (Field::Given(placement), Field::Given(_)) => {
            let fault = Fault::new("`placement` and `cpus` exclude each other").hint("keep one of them");
            report.error(&placement.at, "placement", fault);
            return Policy::default();
        }
        (Field::Given(given), _) => (&given.at, "placement", parse_policy(&given.value)),
        (_, Field::Given(given)) => (&given.at, "cpus", parse_list(&given.value)),
        _ => return Policy::default(),
    };
    let (at, key, policy) = checked;
    policy.unwrap_or_else(|fault| {
        report.error(at, key, fault);
        Policy::default()
    })
}

fn parse_policy(text: &str) -> Result<Policy, Fault> {
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    match (name, value) {
        ("pack", None) => Ok(Policy::Pack),
        ("spread", None) => Ok(Policy::Spread),
        ("cpus", Some(list)) => parse_list(list),
        ("node", Some(number)) => match number.parse() {
            Ok(node) if number.bytes().all(|b| b.is_ascii_digit()) => Ok(Policy::Node(node)),
            _ => Err(Fault::new(format!("`{number}` is not the number of a node")).hint("such as node=0")),
        },
        ("node" | "cpus", None) => {
            Err(Fault::new(format!("`{name}` needs a value")).hint(format!("write {POLICY_HINT}")))
        }
        ("pack" | "spread", Some(_)) => Err(Fault::new(format!("`{name}` takes no value"))),
        _ => {
            let fault = Fault::new(format!("`{text}` is not a placement"));
            Err(match closest(name, ["pack", "spread", "node", "cpus"]) {
                Some(near) => fault.hint(format!("did you mean `{near}`; there are {POLICY_HINT}")),
                None => fault.hint(format!("write {POLICY_HINT}")),
            })
        }
    }
}

fn parse_list(text: &str) -> Result<Policy, Fault> {
    match CpuSet::parse(text) {
        Ok(set) if set.is_empty() => Err(Fault::new("the list is empty").hint(LIST_HINT)),
        Ok(set) => Ok(Policy::Cpus(set)),
        Err(why) => Err(Fault::new(why).hint(LIST_HINT)),
    }
}

/// A list says it all: what else chooses CPUs would be ignored.
fn refuse_beside_a_list(top: &Top, report: &mut Report) {
    let (at, key) = match (&top.cpus, &top.placement) {
        (Field::Given(cpus), _) => (&cpus.at, "cpus"),
        (_, Field::Given(placement)) => (&placement.at, "placement"),
        _ => return,
    };
    let beside = [
        ("shards", top.shards.given().is_some()),
        ("smt", top.smt.given().is_some_and(|smt| smt.value)),
        ("reserve", top.reserve.given().is_some_and(|reserve| reserve.value > 0)),
    ];
    for (other, _) in beside.iter().filter(|(_, is_given)| *is_given) {
        let what = match key {
            "cpus" => format!("`{other}` and `cpus` exclude each other"),
            _ => format!("`{other}` and a list of CPUs exclude each other"),
        };
        report.error(at, key, Fault::new(what).hint("a list is taken as it is; keep one of them"));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn flags(words: &[&'static str]) -> CommandLine {
        words.chunks(2).fold(CommandLine::default(), |line, pair| line.with(pair[0], pair[1]))
    }

    fn choice(words: &[&'static str]) -> Result<ShardChoice, String> {
        ShardChoice::from_flags(&flags(words)).map_err(|errors| errors.to_string())
    }

    #[test]
    fn what_flags_choose() {
        let list = |text| Policy::Cpus(CpuSet::parse(text).unwrap());
        let plain = ShardChoice::default();
        for (words, want) in [
            (&[][..], plain.clone()),
            (&["--shards", "3"], ShardChoice { count: Some(3), ..plain.clone() }),
            (&["--placement", "spread"], ShardChoice { policy: Policy::Spread, ..plain.clone() }),
            (&["--placement", "node=12"], ShardChoice { policy: Policy::Node(12), ..plain.clone() }),
            (&["--placement", "cpus=0-1,4"], ShardChoice { policy: list("0-1,4"), ..plain.clone() }),
            (&["--cpus", "4"], ShardChoice { policy: list("4"), ..plain.clone() }),
            (
                &["--smt", "true", "--reserve", "2"],
                ShardChoice { per: ShardPer::Thread, reserve: 2, ..plain.clone() },
            ),
        ] {
            assert_eq!(choice(words), Ok(want), "{words:?}");
        }
    }

    #[test]
    fn a_value_that_makes_no_sense_is_one_line() {
        for (words, want) in [
            (
                &["--placement", "sread"][..],
                "--placement: `sread` is not a placement (hint: did you mean `spread`; there are pack, spread, node=N or \
                 cpus=LIST)",
            ),
            (
                &["--placement", "node"],
                "--placement: `node` needs a value (hint: write pack, spread, node=N or cpus=LIST)",
            ),
            (
                &["--placement", "node=-1"],
                "--placement: `-1` is not the number of a node (hint: such as node=0)",
            ),
            (&["--placement", "pack=1"], "--placement: `pack` takes no value"),
            (&["--placement", "cpus="], "--placement: the list is empty (hint: such as \"0-3,8\")"),
            (
                &["--placement", "cpus=0", "--shards", "1"],
                "--placement: `shards` and a list of CPUs exclude each other (hint: a list is taken as it is; keep one \
                 of them)",
            ),
            (&["--cpus", "1-0"], "--cpus: the range `1-0` runs backwards (hint: such as \"0-3,8\")"),
            (
                &["--cpus", "0", "--smt", "true"],
                "--cpus: `smt` and `cpus` exclude each other (hint: a list is taken as it is; keep one of them)",
            ),
            (&["--reserve", "5000"], "--reserve: 5000 is too large (hint: at most 4096)"),
        ] {
            assert_eq!(choice(words), Err(want.to_owned()), "{words:?}");
        }
    }

    #[test]
    fn a_list_in_flags_replaces_the_files_choice_and_the_other_way_round() {
        let over = |file: &str, words: &[&'static str]| {
            let mut raw = Raw::parse(Path::new("f.toml"), file.to_owned()).expect("a file");
            raw.apply(&flags(words));
            let choice = ShardChoice::check(&Top::settle(&raw.top), &mut raw.report);
            assert!(raw.report.errors.is_empty(), "{:?}", raw.report.errors);
            choice
        };
        let file = "shards = 2\nplacement = \"spread\"";
        let list = Policy::Cpus(CpuSet::parse("1").unwrap());
        assert_eq!(over(file, &["--cpus", "1"]), ShardChoice { policy: list, ..ShardChoice::default() });
        assert_eq!(over(file, &["--shards", "3"]).policy, Policy::Spread);
        assert_eq!(over("placement = \"cpus=0-3\"", &["--smt", "true"]).policy, Policy::Pack);
        assert_eq!(over("cpus = \"0\"", &["--placement", "node=1"]).policy, Policy::Node(1));
    }
}
