//! Every program in `scripts/` says what it is and refuses what it does not know, without doing anything.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Stdio};

use sluice_tests::{
    proxy::{Finished, finish, workspace},
    skip,
};
use tempfile::TempDir;
use tokio::process::Command;

/// What scripts start, download or build with. Those of them that a script needs only to answer are not here.
const TOOLS: &[&str] = &[
    "apt-get",
    "apt-cache",
    "busybox",
    "cargo",
    "cpio",
    "git",
    "go",
    "haproxy",
    "kill",
    "make",
    "mktemp",
    "nginx",
    "npm",
    "perf",
    "pkg-config",
    "qemu-system-x86_64",
    "rustc",
    "setpriv",
    "sluice",
    "sluice-bench",
    "sysctl",
    "taskset",
    "unshare",
];

/// A place for scripts to run in: tools that only note that they were started, and an empty directory.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let started = dir.path().join("started");
        let stub = format!("#!/bin/sh\necho \"$0 $*\" >> '{}'\n", started.display());
        for folder in ["tools", "target/release", "target/debug", "empty"] {
            fs::create_dir_all(dir.path().join(folder)).expect("a writable directory");
        }
        let places = TOOLS.iter().map(|tool| format!("tools/{tool}"));
        let ours = ["sluice", "sluice-bench"]
            .into_iter()
            .flat_map(|name| ["debug", "release"].map(|profile| format!("target/{profile}/{name}")));
        for path in places.chain(ours) {
            let path = dir.path().join(path);
            fs::write(&path, &stub).expect("a writable directory");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our file");
        }
        Self { dir }
    }

    async fn run(&self, script: &PathBuf, arguments: &[&str]) -> Finished {
        let path = format!("{}:/usr/bin:/bin", self.dir.path().join("tools").display());
        let mut command = Command::new(script);
        command.args(arguments).current_dir(self.dir.path().join("empty")).stdin(Stdio::null());
        command.env("PATH", path).env("CARGO_TARGET_DIR", self.dir.path().join("target"));
        command.env("TMPDIR", self.dir.path().join("empty"));
        finish(command).await
    }

    /// What was started or written so far.
    fn traces(&self) -> Vec<String> {
        let started = fs::read_to_string(self.dir.path().join("started")).unwrap_or_default();
        let written = fs::read_dir(self.dir.path().join("empty")).expect("it is there");
        let written = written.filter_map(|entry| Some(entry.ok()?.path().display().to_string()));
        started.lines().map(str::to_owned).chain(written).collect()
    }
}

/// Every program in `scripts/`; the others there are read by them.
fn scripts() -> Vec<PathBuf> {
    let entries = fs::read_dir(workspace().join("scripts")).expect("the scripts");
    let mut scripts: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
        })
        .collect();
    scripts.sort();
    assert!(scripts.len() > 15, "{scripts:?}");
    scripts
}

/// Whether what it is written in is installed.
fn can_run(script: &PathBuf) -> bool {
    let text = fs::read_to_string(script).expect("a script");
    let interpreter =
        text.lines().next().and_then(|line| line.rsplit(['/', ' ']).next()).expect("a first line");
    ["/bin", "/usr/bin"].iter().any(|folder| PathBuf::from(folder).join(interpreter).exists())
}

#[tokio::test]
async fn every_script_says_what_it_is_and_refuses_what_it_does_not_know() {
    let mut wrong = Vec::new();
    for script in scripts() {
        let name = script.file_name().expect("a name").to_string_lossy().into_owned();
        if !can_run(&script) {
            skip(&format!("scripts/{name}: what it is written in is not installed"));
            continue;
        }
        let place = Place::new();
        for flag in ["--help", "-h"] {
            let Finished { code, stdout, stderr } = place.run(&script, &[flag]).await;
            if code != Some(0) || stdout.trim().is_empty() || !stderr.is_empty() {
                wrong.push(format!("{name} {flag}: {code:?}, {stdout:?}, {stderr:?}"));
            }
        }
        for arguments in [&["--no-such-flag"][..], &["--no-such-flag", "1"]] {
            let Finished { code, stdout, stderr } = place.run(&script, arguments).await;
            let is_one_line = stderr.lines().count() == 1 && stderr.contains("--no-such-flag");
            if code != Some(2) || !stdout.is_empty() || !is_one_line || !stderr.starts_with(&name) {
                wrong.push(format!("{name} {arguments:?}: {code:?}, {stdout:?}, {stderr:?}"));
            }
        }
        wrong.extend(place.traces().into_iter().map(|trace| format!("{name}: started or wrote {trace}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
