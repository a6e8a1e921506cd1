//! Sluice and hwloc read this host, and every machine in `tests/machines`, alike.

use std::path::Path;
use std::process::{Command, Output};

#[path = "../../src/machine.rs"]
mod machine;

fn compare(root: Option<&Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice-hwloc"));
    if let Some(root) = root {
        command.arg(root).env("HWLOC_FSROOT", root);
    }
    command.output().expect("it starts")
}

#[test]
fn this_host() {
    let output = compare(None);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn every_machine() {
    let mut differences = String::new();
    for file in machine::all() {
        let root = tempfile::tempdir().expect("a directory");
        machine::write(&file, root.path());
        let output = compare(Some(root.path()));
        if !output.status.success() {
            differences += &format!("{}\n{}", file.display(), String::from_utf8_lossy(&output.stdout));
            differences += &String::from_utf8_lossy(&output.stderr);
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

/// A comparison that cannot fail would prove nothing.
#[test]
fn a_difference_is_found() {
    let root = tempfile::tempdir().expect("a directory");
    machine::write(&machine::directory().join("cxl.machine"), root.path());
    let other = tempfile::tempdir().expect("a directory");
    machine::write(&machine::directory().join("memoryless-node.machine"), other.path());
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice-hwloc"));
    let output = command.arg(root.path()).env("HWLOC_FSROOT", other.path()).output().expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    for what in ["CPUs: ", "packages: ", "nodes: ", "memory: ", "distances: "] {
        assert!(text.contains(what), "{what} in {text}");
    }
}
