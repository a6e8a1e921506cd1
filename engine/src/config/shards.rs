//! `shards`, `placement`, `cpus`, `smt` and `reserve`: what is asked for, before a machine is looked at.
//!
//! Whether the machine has it is `placement`'s business.

use super::problem::{ConfigErrors, Fault, Report, closest};
use super::raw::{Field, Fields, Walk};
use super::settings::Count;
use crate::cli::ShardArgs;
use crate::topology::CpuSet;

/// More shards than any machine has CPUs: a typing error.
const SHARDS_MAX: u64 = 4096;

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

/// The keys as written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawShards {
    /// `shards`.
    pub shards: Field<u64>,
    /// `placement`.
    pub placement: Field<String>,
    /// `cpus`.
    pub cpus: Field<String>,
    /// `smt`.
    pub smt: Field<bool>,
    /// `reserve`.
    pub reserve: Field<u64>,
}

impl RawShards {
    /// Reads the keys at the top of a file.
    pub(crate) fn read(walk: &mut Walk<'_>, top: &Fields<'_>) -> Self {
        Self {
            shards: top.number::<Count>(walk, "shards"),
            placement: top.text(walk, "placement"),
            cpus: top.text(walk, "cpus"),
            smt: top.boolean(walk, "smt"),
            reserve: top.number::<Count>(walk, "reserve"),
        }
    }

    /// Takes over what the flags say. A list of CPUs replaces everything else, and anything else a list.
    pub(crate) fn set(&mut self, flags: &ShardArgs) {
        if flags.cpus.is_some() || flags.placement.as_deref().is_some_and(is_list) {
            *self = Self::default();
        } else if flags.shards.is_some() || flags.smt || flags.reserve.is_some() || flags.placement.is_some()
        {
            self.cpus = Field::Absent;
            if self.placement.given().is_some_and(|given| is_list(&given.value)) {
                self.placement = Field::Absent;
            }
        }
        let set = |field: &mut Field<String>, flag, value: &Option<String>| {
            if let Some(value) = value {
                *field = Field::flag(flag, value.clone());
            }
        };
        set(&mut self.cpus, "--cpus", &flags.cpus);
        set(&mut self.placement, "--placement", &flags.placement);
        if let Some(shards) = flags.shards {
            self.shards = Field::flag("--shards", shards);
        }
        if let Some(reserve) = flags.reserve {
            self.reserve = Field::flag("--reserve", reserve);
        }
        if flags.smt {
            self.smt = Field::flag("--smt", true);
        }
    }
}

fn is_list(placement: &str) -> bool {
    placement.starts_with("cpus=")
}

impl ShardChoice {
    /// The choice made by flags alone, for `sluice topology`.
    ///
    /// # Errors
    /// A value that makes no sense.
    pub fn from_flags(flags: &ShardArgs) -> Result<Self, ConfigErrors> {
        let mut report = Report::default();
        let mut raw = RawShards::default();
        raw.set(flags);
        let choice = Self::check(&raw, &mut report);
        let Report { errors, warnings } = report;
        if errors.is_empty() { Ok(choice) } else { Err(ConfigErrors { errors, warnings }) }
    }

    /// Settles the keys; what is wrong is reported and replaced by the default.
    pub(super) fn check(raw: &RawShards, report: &mut Report) -> Self {
        let policy = check_policy(raw, report);
        if let Policy::Cpus(_) = policy {
            refuse_beside_a_list(raw, report);
        }
        Self {
            policy,
            count: check_count(&raw.shards, report),
            per: match raw.smt.given() {
                Some(smt) if smt.value => ShardPer::Thread,
                _ => ShardPer::Core,
            },
            reserve: check_reserve(&raw.reserve, report),
        }
    }
}

fn check_policy(raw: &RawShards, report: &mut Report) -> Policy {
    let checked = match (&raw.placement, &raw.cpus) {
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
fn refuse_beside_a_list(raw: &RawShards, report: &mut Report) {
    let (at, key) = match (&raw.cpus, &raw.placement) {
        (Field::Given(cpus), _) => (&cpus.at, "cpus"),
        (_, Field::Given(placement)) => (&placement.at, "placement"),
        _ => return,
    };
    let beside = [
        ("shards", raw.shards.given().is_some()),
        ("smt", raw.smt.given().is_some_and(|smt| smt.value)),
        ("reserve", raw.reserve.given().is_some_and(|reserve| reserve.value > 0)),
    ];
    for (other, _) in beside.iter().filter(|(_, is_given)| *is_given) {
        let what = match key {
            "cpus" => format!("`{other}` and `cpus` exclude each other"),
            _ => format!("`{other}` and a list of CPUs exclude each other"),
        };
        report.error(at, key, Fault::new(what).hint("a list is taken as it is; keep one of them"));
    }
}

fn check_count(field: &Field<u64>, report: &mut Report) -> Option<usize> {
    let given = field.given()?;
    let fault = match given.value {
        0 => Fault::new("at least 1 shard is needed").hint("leave it out for one per core"),
        n @ 1..=SHARDS_MAX => return usize::try_from(n).ok(),
        n => Fault::new(format!("{n} shards are too many")).hint(format!("at most {SHARDS_MAX}")),
    };
    report.error(&given.at, "shards", fault);
    None
}

fn check_reserve(field: &Field<u64>, report: &mut Report) -> usize {
    let Some(given) = field.given() else { return 0 };
    if given.value > SHARDS_MAX {
        let fault = Fault::new(format!("{} cores are too many", given.value));
        report.error(&given.at, "reserve", fault.hint(format!("at most {SHARDS_MAX}")));
        return 0;
    }
    usize::try_from(given.value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::problem::{Located, Origin};
    use super::*;

    fn flags(words: &[&str]) -> ShardArgs {
        use clap::Parser as _;
        let cli = crate::cli::Cli::try_parse_from(["sluice", "--listen", "x"].iter().chain(words));
        cli.unwrap_or_else(|error| panic!("{error}")).run.shards
    }

    fn choice(words: &[&str]) -> Result<ShardChoice, String> {
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
                &["--smt", "--reserve", "2"],
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
                &["--cpus", "0", "--smt"],
                "--cpus: `smt` and `cpus` exclude each other (hint: a list is taken as it is; keep one of them)",
            ),
            (&["--reserve", "5000"], "--reserve: 5000 cores are too many (hint: at most 4096)"),
        ] {
            assert_eq!(choice(words), Err(want.to_owned()), "{words:?}");
        }
    }

    #[test]
    fn a_list_in_flags_replaces_the_files_choice_and_the_other_way_round() {
        let at = || Origin::CommandLine;
        let given = |text: &str| Field::Given(Located::new(text.to_owned(), at()));
        let file = RawShards {
            shards: Field::Given(Located::new(2, at())),
            placement: given("spread"),
            ..RawShards::default()
        };
        let over = |file: &RawShards, words: &[&str]| {
            let mut raw = file.clone();
            raw.set(&flags(words));
            let mut report = Report::default();
            let choice = ShardChoice::check(&raw, &mut report);
            assert!(report.errors.is_empty(), "{:?}", report.errors);
            choice
        };
        let list = Policy::Cpus(CpuSet::parse("1").unwrap());
        assert_eq!(over(&file, &["--cpus", "1"]), ShardChoice { policy: list, ..ShardChoice::default() });
        assert_eq!(over(&file, &["--shards", "3"]).policy, Policy::Spread);
        let file = RawShards { placement: given("cpus=0-3"), ..RawShards::default() };
        assert_eq!(over(&file, &["--smt"]).policy, Policy::Pack);
        assert_eq!(
            over(&RawShards { cpus: given("0"), ..RawShards::default() }, &["--placement", "node=1"]).policy,
            Policy::Node(1)
        );
    }
}
