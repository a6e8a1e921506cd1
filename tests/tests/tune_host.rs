//! `scripts/tune-host --irq` on a written machine: it shows, applies, and what it prints undoes it.

use std::fs;
use std::path::Path;

use sluice_tests::{machine, proxy, proxy::Finished};
use tokio::process::Command;

/// A card on node 1 whose four interrupts go to node 0.
fn machine_with_far_interrupts() -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a directory");
    machine::write(&machine::directory().join("intel-2-sockets.machine"), root.path());
    root
}

async fn tune(root: &Path, flags: &[&str]) -> Finished {
    let script = machine::directory().join("../../scripts/tune-host");
    let mut command = Command::new("sh");
    command.arg(script).arg("--irq").args(flags);
    command.env("SYSROOT", root).env("SLUICE", proxy::binary().await);
    proxy::finish(command).await
}

/// Where the four interrupts go, and by which CPUs the four queues send.
fn state(root: &Path) -> Vec<String> {
    let irqs = (120..124).map(|irq| format!("proc/irq/{irq}/smp_affinity_list"));
    let queues = (0..4).map(|queue| format!("sys/class/net/eth0/queues/tx-{queue}/xps_cpus"));
    irqs.chain(queues)
        .map(|file| fs::read_to_string(root.join(file)).expect("a file").trim().to_owned())
        .collect()
}

#[tokio::test]
async fn it_shows_then_applies_and_can_be_undone() {
    let root = machine_with_far_interrupts();
    let before = state(root.path());
    let flags = ["--", "--placement", "node=1", "--shards", "4"];

    let shown = tune(root.path(), &flags).await;
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    assert_eq!(shown.stdout.matches(" OFF ").count(), 8, "{}", shown.stdout);
    assert_eq!(state(root.path()), before, "showing changes nothing");

    let applied = tune(root.path(), &[&["--apply"], &flags[..]].concat()).await;
    assert_eq!(applied.code, Some(0), "{}", applied.stderr);
    let masks = ["00010000", "00020000", "00040000", "00080000"];
    assert_eq!(state(root.path()), [&["16", "17", "18", "19"][..], &masks].concat(), "{}", applied.stdout);

    let aligned = tune(root.path(), &flags).await;
    assert_eq!(aligned.stdout.matches(" ok ").count(), 8, "{}", aligned.stdout);
    let arguments = ["topology", "--root", root.path().to_str().unwrap(), "--placement", "node=1"];
    let drawing = proxy::run(&arguments).await.stdout;
    assert!(drawing.contains("CPU 16, shard 0") && !drawing.contains("warning: eth0"), "{drawing}");

    let (_, undo) = applied.stdout.split_once("To undo:\n").expect("how to undo it");
    let mut command = Command::new("sh");
    command.args(["-ec", undo]);
    assert_eq!(proxy::finish(command).await.code, Some(0), "{undo}");
    assert_eq!(state(root.path()), before);
}

#[tokio::test]
async fn irqbalance_and_bad_flags_are_reported() {
    let root = machine_with_far_interrupts();
    fs::create_dir_all(root.path().join("proc/77")).unwrap();
    fs::write(root.path().join("proc/77/comm"), "irqbalance\n").unwrap();
    let shown = tune(root.path(), &[]).await;
    assert!(shown.stdout.contains("irqbalance is running"), "{}", shown.stdout);
    let refused = tune(root.path(), &["--", "--placement", "node=9"]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("there is no node 9"), "{}", refused.stderr);
    assert_eq!(tune(root.path(), &["--what"]).await.code, Some(2));
}
