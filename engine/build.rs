//! Gives the commit that is built to `sluice version`.

use std::process::Command;

fn main() {
    // Without git, or outside a checkout (a package of a registry), it stays unknown.
    let git = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    if let Ok(output) = git
        && output.status.success()
    {
        println!("cargo::rustc-env=SLUICE_COMMIT={}", String::from_utf8_lossy(&output.stdout).trim());
    }
    println!("cargo::rerun-if-changed=../.git/HEAD");
    println!("cargo::rerun-if-changed=../.git/refs/heads");
}
