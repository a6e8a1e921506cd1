//! The machine as the binary reads it, and where it puts its shards: on many machines by snapshot, on this one by
//! what the kernel says of the running threads.
//!
//! `tests/machines/NAME.plan` is what `sluice topology` says of `NAME.machine` or `NAME.tree`, whole for the default and
//! shortened to the placement for other flags. `UPDATE_PLANS=1 cargo test -p sluice-tests --test placement` writes them
//! anew; read the difference before you commit it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use sluice_tests::{machine, origin, proxy, proxy::Proxy};
use tokio::process::Command;

const POLICIES: &[&[&str]] = &[
    &["--smt"],
    &["--shards", "3"],
    &["--placement", "spread", "--shards", "4"],
    &["--placement", "spread", "--smt", "--reserve", "2"],
    &["--placement", "node=1"],
    &["--placement", "cpus=0,5"],
    &["--reserve", "1"],
];

#[tokio::test]
async fn plans_are_sound_and_what_they_were() {
    let mut differences = Vec::new();
    let machines = machine::all();
    assert!(machines.len() >= 20, "{machines:?}");
    for file in machines {
        let root = tempfile::tempdir().expect("a directory");
        machine::write(&file, root.path());
        let drawing = topology(root.path(), &[]).await;
        assert_eq!(drawing, topology(root.path(), &[]).await, "the same machine, another plan");
        let mut plans = format!("$ sluice topology\n{drawing}");
        for flags in POLICIES {
            let whole = topology(root.path(), flags).await;
            let placement =
                whole.find("\nplacement\n").map_or(&*whole, |at| &whole[at + "\nplacement\n".len()..]);
            plans += &format!("\n$ sluice topology {}\n{placement}", flags.join(" "));
        }
        for flags in &POLICIES[2..5] {
            assert_sound(&file, root.path(), flags).await;
        }
        compare(&file.with_extension("plan"), &plans, &mut differences);
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// What it says of a machine: the drawing, or the error.
async fn topology(root: &Path, flags: &[&str]) -> String {
    let root = ["topology", "--root", root.to_str().expect("a path of text")];
    let finished = proxy::run(&[&root, flags].concat()).await;
    match finished.code {
        Some(0) => finished.stdout,
        Some(1) => finished.stderr,
        code => panic!("{code:?}: {}", finished.stderr),
    }
}

fn compare(file: &Path, plans: &str, differences: &mut Vec<String>) {
    if std::env::var_os("UPDATE_PLANS").is_some() {
        fs::write(file, plans).expect("a file");
        return;
    }
    let known = fs::read_to_string(file).unwrap_or_default();
    let name = file.file_name().expect("a name").to_string_lossy();
    for (nth, (was, is)) in known.lines().zip(plans.lines()).enumerate().filter(|(_, (was, is))| was != is) {
        differences.push(format!("{name}:{}:\n  was {was}\n  is  {is}", nth + 1));
    }
    if known.lines().count() != plans.lines().count() {
        differences.push(format!("{name}: {} lines were {}", plans.lines().count(), known.lines().count()));
    }
}

/// Whatever the machine and the flags, a plan keeps to what the machine has.
async fn assert_sound(name: &Path, root: &Path, flags: &[&str]) {
    let arguments = ["topology", "--json", "--root", root.to_str().unwrap()];
    let finished = proxy::run(&[&arguments, flags].concat()).await;
    if finished.code != Some(0) {
        assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
        return;
    }
    let json: Value = serde_json::from_str(&finished.stdout).expect("JSON");
    let at = format!("{} {flags:?}", name.display());
    let by_id: BTreeMap<u64, &Value> = list(&json, "cpus").map(|cpu| (number(cpu, "id"), cpu)).collect();
    let with_memory: BTreeSet<u64> = list(&json, "nodes")
        .filter(|node| number(node, "memory_bytes") > 0 && node["allowed"] == true)
        .map(|node| number(node, "id"))
        .collect();
    let reserved: BTreeSet<u64> = list(&json, "reserved").map(|cpu| cpu.as_u64().unwrap()).collect();
    let mut taken = BTreeSet::new();
    for (nth, place) in list(&json, "shards").enumerate() {
        let cpu = by_id[&number(place, "cpu")];
        assert_eq!(number(place, "shard"), nth as u64, "{at}");
        assert!(taken.insert(number(place, "cpu")), "{at}: a CPU twice");
        assert!(!reserved.contains(&number(place, "cpu")), "{at}: a reserved CPU");
        assert_eq!(cpu["allowed"], true, "{at}");
        assert_eq!(cpu["node"], place["node"], "{at}");
        assert!(with_memory.is_empty() || with_memory.contains(&number(place, "memory_node")), "{at}");
    }
    assert!(!taken.is_empty(), "{at}");
}

fn list<'j>(json: &'j Value, key: &str) -> impl Iterator<Item = &'j Value> {
    json[key].as_array().unwrap_or_else(|| panic!("a list {key} in {json}")).iter()
}

fn number(json: &Value, key: &str) -> u64 {
    json[key].as_u64().unwrap_or_else(|| panic!("a number {key} in {json}"))
}

/// `sluice topology --json` of this host, against what `/proc` says by other files than those it reads. Either may change
/// between the two readings (CPUs and memory come and go, virtual machines grow): they have to agree once.
#[tokio::test]
async fn topology_of_this_host_is_what_proc_says() {
    if fs::read_to_string("/proc/self/mountinfo").is_ok_and(|mounts| mounts.contains("lxcfs")) {
        return sluice_tests::skip("lxcfs writes its own /proc");
    }
    let deadline = Instant::now() + sluice_tests::PATIENCE;
    loop {
        let finished = proxy::run(&["topology", "--json"]).await;
        let ours = facts_of_topology(&serde_json::from_str(&finished.stdout).expect("JSON"));
        let theirs = facts_of_proc(&ours);
        if ours == theirs {
            return;
        }
        assert!(Instant::now() < deadline, "ours {ours:#?}\nof proc {theirs:#?}");
    }
}

/// What two readings of a machine have in common.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    online: BTreeSet<u64>,
    allowed: BTreeSet<u64>,
    cores: usize,
    memory_bytes: u64,
}

fn facts_of_topology(json: &Value) -> Facts {
    let cpus = || list(json, "cpus");
    let allowed = cpus().filter(|cpu| cpu["allowed"] == true);
    let cores: BTreeSet<(u64, u64)> =
        cpus().map(|cpu| (number(cpu, "package"), number(cpu, "core"))).collect();
    Facts {
        online: cpus().map(|cpu| number(cpu, "id")).collect(),
        allowed: allowed.map(|cpu| number(cpu, "id")).collect(),
        cores: cores.len(),
        memory_bytes: number(json, "memory_bytes"),
    }
}

fn facts_of_proc(ours: &Facts) -> Facts {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let online = stat.lines().filter_map(|line| line.strip_prefix("cpu")?.split(' ').next()?.parse().ok());
    let set = rustix::thread::sched_getaffinity(None).expect("an affinity");
    let total = fs::read_to_string("/proc/meminfo").unwrap();
    let kib: u64 = total.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("MemTotal");
    // A core has its threads in /proc/cpuinfo too (on x86).
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap();
    let cores: BTreeSet<(&str, &str)> = cpuinfo
        .split("\n\n")
        .filter_map(|cpu| {
            let field = |name: &str| cpu.lines().find(|line| line.starts_with(name))?.split(':').nth(1);
            Some((field("physical id")?, field("core id")?))
        })
        .collect();
    Facts {
        online: online.collect(),
        allowed: (0..1024).filter(|&cpu| set.is_set(cpu)).map(|cpu| cpu as u64).collect(),
        cores: if cores.is_empty() { ours.cores } else { cores.len() },
        memory_bytes: kib * 1024,
    }
}

/// What `scripts/record-machine` writes of this host is this host again.
#[tokio::test]
async fn a_recorded_host_is_the_same_host() {
    let root = tempfile::tempdir().expect("a directory");
    let script = machine::directory().join("../../scripts/record-machine");
    let mut command = Command::new("sh");
    let pipeline = "sh \"$1\" | sh \"$1\" --unpack \"$2\"";
    command.args(["-c", pipeline, "sh"]).arg(script).arg(root.path());
    // It starts a program for every file.
    let status = sluice_tests::within_time(Duration::from_secs(600), "the recording", command.status()).await;
    assert!(status.expect("sh starts").success());
    let here = lasting(&["topology", "--json"]).await;
    let copy = lasting(&["topology", "--json", "--root", root.path().to_str().unwrap()]).await;
    assert_eq!(copy, here);
}

/// What it says of a machine, without what may change from one moment to the next: memory and interrupts.
async fn lasting(arguments: &[&str]) -> Value {
    let mut json = serde_json::from_str(&proxy::run(arguments).await.stdout).expect("JSON");
    drop_passing(&mut json);
    json
}

fn drop_passing(json: &mut Value) {
    match json {
        Value::Object(object) => {
            object.retain(|key, _| !key.starts_with("memory_") || !key.ends_with("_bytes"));
            object.remove("interrupts");
            object.values_mut().for_each(drop_passing);
        }
        Value::Array(values) => {
            values.retain(|value| !value.as_str().is_some_and(|text| text.contains("interrupt")));
            values.iter_mut().for_each(drop_passing);
        }
        _ => {}
    }
}

/// The plan of `topology` is the plan of a run: every shard's thread is on its CPU, and the control thread off them.
#[tokio::test]
async fn a_running_proxy_keeps_to_the_plan() {
    let origin = origin::real("real").await;
    let upstream = format!("http://{}", origin.address);
    let last = last_allowed_cpu();
    let list_of_one = format!("cpus={last}");
    let mut all = vec![
        vec![],
        vec!["--smt"],
        vec!["--placement", "spread"],
        vec!["--placement", &list_of_one],
        vec!["--shards", "1"],
    ];
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1) {
        all.push(vec!["--smt", "--reserve", "1"]);
    } else {
        sluice_tests::skip("reserving needs two CPUs");
    }
    for flags in all {
        let planned = proxy::run(&[&["topology", "--json"], &flags[..]].concat()).await;
        let json: Value =
            serde_json::from_str(&planned.stdout).unwrap_or_else(|_| panic!("{}", planned.stderr));
        let shards = list(&json, "shards").count();
        if shards > sluice_tests::shards_possible() {
            sluice_tests::skip(&format!("{shards} shards need more locked memory (ulimit -l)"));
            continue;
        }
        let fixed = ["--listen", "127.0.0.1:0", "--upstream", &upstream];
        let proxy = Proxy::start(&[&fixed, &flags[..]].concat()).await;
        let want: BTreeSet<(String, String)> = list(&json, "shards")
            .map(|place| (format!("shard-{}", number(place, "shard")), number(place, "cpu").to_string()))
            .collect();
        assert_eq!(proxy.shard_cpus().into_iter().collect::<BTreeSet<_>>(), want, "{flags:?}");
        let lines = proxy.messages().iter().filter(|line| line.starts_with("placement: node ")).count();
        assert!(lines > 0, "{:#?}", proxy.stderr());

        let reserved: Vec<String> = list(&json, "reserved").map(ToString::to_string).collect();
        if !reserved.is_empty() {
            let status = fs::read_to_string(proxy.proc().join("status")).unwrap();
            let control = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
            assert_eq!(control.trim(), reserved.join(","), "the control thread");
        }
        assert_eq!(sluice_tests::client::get(proxy.address, "/").await.text(), "real");
    }
}

fn last_allowed_cpu() -> usize {
    let set = rustix::thread::sched_getaffinity(None).expect("an affinity");
    (0..1024).rfind(|&cpu| set.is_set(cpu)).expect("a CPU")
}

/// A CPU that the process may not use, by an affinity from outside.
#[tokio::test]
async fn what_the_process_may_not_use_is_one_line() {
    // What this host lacks is 1, a value that no host could take is 2.
    for (flags, code, words) in [
        (&["--placement", "cpus=4000"][..], 1, "CPU 4000 does not exist or is offline"),
        (&["--placement", "node=99"], 1, "there is no node 99 (hint: nodes with CPUs for this process: "),
        (&["--shards", "4000"], 1, "4000 shards need 4000 CPUs, there are "),
        (&["--reserve", "4000"], 1, "4000 reserved of "),
        (&["--placement", "spred"], 2, "did you mean `spread`"),
    ] {
        let fixed = ["--listen", "127.0.0.1:0", "--upstream", "http://127.0.0.1:9"];
        let finished = proxy::run(&[&fixed, flags].concat()).await;
        assert_eq!(finished.code, Some(code), "{flags:?}");
        let last = finished.stderr.lines().last().unwrap_or_default();
        assert!(last.contains(words), "{flags:?}: {}", finished.stderr);
    }
}

/// Keys of a file place the shards too, and `topology --config` shows it.
#[tokio::test]
async fn a_file_says_where() {
    let last = last_allowed_cpu();
    let text = format!(
        "listen = [\"127.0.0.1:0\"]\nplacement = \"cpus={last}\"\n[[upstream]]\nname = \"a\"\nservers = [\"http://127.0.0.1:9\"]\n\
         [[route]]\nupstream = \"a\"\n"
    );
    let file = proxy::config_file(".toml", &text);
    let path = file.path().to_str().unwrap();
    let planned = proxy::run(&["topology", "--json", "--config", path]).await;
    let json: Value = serde_json::from_str(&planned.stdout).unwrap_or_else(|_| panic!("{}", planned.stderr));
    assert_eq!(list(&json, "shards").map(|place| number(place, "cpu")).collect::<Vec<_>>(), [last as u64]);
    let proxy = Proxy::start(&["--config", path]).await;
    assert_eq!(proxy.shard_cpus(), [("shard-0".to_owned(), last.to_string())]);
}
