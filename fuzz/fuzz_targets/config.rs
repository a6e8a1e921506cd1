//! Configuration files: each refusal names a place that is there, and what passes means the same when it is printed and read again.
//!
//! The input is the text of a file: JSON if it begins with a brace, TOML otherwise.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sluice::config::{Config, ConfigErrors, Origin, Raw, effective};

fuzz_target!(|input: &[u8]| {
    let Ok(text) = str::from_utf8(input) else { return };
    // Files of this host are none of the fuzzer's business.
    if text.contains("include") || text.contains("${") {
        return;
    }
    let name = if text.starts_with('{') { "f.json" } else { "f.toml" };
    let raw = match Raw::parse(Path::new(name), text.to_owned()) {
        Ok(raw) => raw,
        Err(errors) => return assert_placed(&errors, text),
    };
    let config = match Config::check(&raw) {
        Ok(config) => Config { warnings: Vec::new(), ..config },
        Err(errors) => return assert_placed(&errors, text),
    };
    let printed = effective(&raw);
    let again = Raw::parse(Path::new("again.toml"), printed.clone());
    let again = again.unwrap_or_else(|errors| panic!("{errors}\n{printed}"));
    let again = Config::check(&again).unwrap_or_else(|errors| panic!("{errors}\n{printed}"));
    assert_eq!(Config { warnings: Vec::new(), ..again }, config, "{printed}");
});

/// Each error is at a character of the file or just behind one, or says what the file as a whole lacks.
fn assert_placed(errors: &ConfigErrors, text: &str) {
    assert!(!errors.errors.is_empty());
    for problem in &errors.errors {
        match &problem.at {
            Origin::File { line, column, .. } => {
                let found = text.split('\n').nth(line - 1).map(|found| found.chars().count());
                assert!(found.is_some_and(|chars| (1..=chars + 1).contains(column)), "{problem}");
            }
            Origin::WholeFile(_) => {
                let is_missing = matches!(&*problem.key, "listen" | "upstream" | "route");
                assert!(is_missing || problem.fault.what.ends_with("more errors of syntax"), "{problem}");
            }
            at => panic!("{at:?}: {problem}"),
        }
    }
}
