//! What this build is: for `sluice version`, bug reports and metrics.

/// Version, and the commit where it was built from a checkout.
pub(crate) fn long() -> String {
    format!("sluice {}\n", details())
}

/// The same without the name, for `--version`.
pub(crate) fn details() -> String {
    let features: Vec<&str> = [
        (cfg!(feature = "count-alloc"), "count-alloc"),
        (cfg!(feature = "completions"), "completions"),
        (cfg!(debug_assertions), "debug"),
    ]
    .into_iter()
    .filter_map(|(is_on, name)| is_on.then_some(name))
    .collect();
    format!(
        "{}\ncommit {}\nfeatures {}\ntarget {}-{}",
        env!("CARGO_PKG_VERSION"),
        commit(),
        features.join(" "),
        std::env::consts::ARCH,
        std::env::consts::OS,
    )
}

/// Version and commit in a line, for messages.
pub(crate) fn line() -> String {
    format!("sluice {}, commit {}", env!("CARGO_PKG_VERSION"), commit())
}

fn commit() -> &'static str {
    option_env!("SLUICE_COMMIT").unwrap_or("unknown")
}
