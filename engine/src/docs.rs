//! The manual against the code: pages that name responses, counters, keys and other pages name those that exist.

use std::collections::BTreeSet;
use std::path::Path;

use sluice_proto::Fault;

use crate::answer::Answer;
use crate::counters::Counters;
use crate::message::{Aborted, Cause, Side};

const ERRORS: &str = include_str!("../../docs/errors.md");
const LIMITS: &str = include_str!("../../docs/limits.md");
const UPSTREAMS: &str = include_str!("../../docs/upstreams.md");
const COMING_FROM: &str = include_str!("../../docs/coming-from.md");

/// The text between backquotes, on lines of text and of tables.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    page.lines().filter(|line| !line.starts_with("    ")).flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The number of a kind of response. A new kind does not compile until it is here, and then fails until it is in `responses`.
fn kind(answer: &Answer<'_>) -> usize {
    match answer {
        Answer::Refused { .. } => 0,
        Answer::NoTunnel => 1,
        Answer::FinalRecipient => 2,
        Answer::TooManyConnections => 3,
        Answer::Crowded => 4,
        Answer::Abusive => 5,
        Answer::NoRoute => 6,
        Answer::MethodNotAllowed { .. } => 7,
        Answer::Unreachable => 8,
        Answer::NoneAvailable => 9,
        Answer::UpstreamTimeout => 10,
        Answer::BadUpstream { .. } => 11,
        Answer::HttpsRedirect { .. } => 12,
        Answer::AcmeChallenge { .. } => 13,
        Answer::WebSocketVersion => 14,
        Answer::BreakerOpen => 15,
        Answer::Redirect { .. } => 16,
        Answer::UpstreamFull { .. } => 17,
        // Its text is that of the configuration.
        Answer::Fixed(_) => 18,
    }
}

/// Every response of our own.
fn responses() -> Vec<Answer<'static>> {
    let mut all = vec![
        Answer::NoTunnel,
        Answer::FinalRecipient,
        Answer::TooManyConnections,
        Answer::NoRoute,
        Answer::AcmeChallenge { number: 0 },
        Answer::MethodNotAllowed { allow: "GET" },
        Answer::Unreachable,
        Answer::NoneAvailable,
        Answer::BreakerOpen,
        Answer::QUEUE_FULL,
        Answer::QUEUE_LATE,
        Answer::OVERDUE,
        Answer::TRACE_ENDS_HERE,
        Answer::NO_EXTENDED_CONNECT,
        Answer::MISDIRECTED,
        Answer::NO_CLIENT_CERTIFICATE,
        Answer::REDIRECT_WITHOUT_HOST,
        Answer::HttpsRedirect { location: "https://a" },
        Answer::WebSocketVersion,
        Answer::Redirect { status: 302, location: "https://a" },
        Answer::UNFIT_HOST,
        Answer::UNFIT_LENGTH,
    ];
    let causes = [
        Cause::TooLarge,
        Cause::UnaskedUpgrade,
        Cause::IgnoredOffer,
        Cause::UnaskedAnswer,
        Cause::TimedOut,
        Cause::Overdue,
        Cause::TooSlow,
        Cause::Stalled,
        Cause::Crowded,
        Cause::Abusive,
        Cause::Closed,
        Cause::Failed(104),
    ];
    let faults = Fault::ALL.iter().map(|&fault| Cause::Fault(fault));
    for cause in faults.chain(causes) {
        for side in [Side::Downstream, Side::Upstream] {
            all.extend(Answer::for_aborted(Aborted::by(side, cause)));
        }
    }
    all
}

#[test]
fn errors_lists_every_response() {
    let texts: BTreeSet<_> = quoted(ERRORS).collect();
    let responses = responses();
    let kinds: BTreeSet<_> = responses.iter().map(kind).collect();
    assert_eq!(kinds, (0..=17).collect(), "a kind of response is missing in `responses`");
    for response in responses {
        let (status, text) = (response.status(), response.why());
        assert!(texts.contains(text), "{status} {text}");
        assert!(ERRORS.contains(&status.to_string()), "{status}");
    }
}

/// The full names of all limits and timeouts.
fn limits_and_timeouts() -> impl Iterator<Item = String> {
    let keys = crate::config::flags().map(|(section, key)| section.full_name(key.name));
    keys.filter(|name| name.starts_with("limits.") || name.starts_with("timeouts."))
}

/// Counters stand in columns of their own, keys anywhere.
#[test]
fn pages_name_counters_and_keys_that_exist() {
    let counters = Counters::default();
    let counters: BTreeSet<_> = counters.values().map(|(name, _)| name).collect();
    let known: BTreeSet<_> = limits_and_timeouts().collect();
    let pages =
        [("errors", ERRORS), ("limits", LIMITS), ("upstreams", UPSTREAMS), ("coming-from", COMING_FROM)];
    for (page, text) in pages {
        let mut in_column = None;
        for line in text.lines() {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            if let Some(at) = cells.iter().position(|cell| matches!(*cell, "counter" | "counters")) {
                in_column = Some(at);
            } else if !line.starts_with('|') {
                in_column = None;
            } else if let Some(cell) = in_column.and_then(|at| cells.get(at)) {
                for name in quoted(cell).filter(|name| !name.contains('.')) {
                    assert!(counters.contains(name), "docs/{page}.md: `{name}` is no counter");
                }
            }
        }
        let is_key = |name: &&str| name.starts_with("timeouts.") || name.starts_with("limits.");
        let words = quoted(text).filter_map(|quoted| quoted.split(' ').next());
        for key in words.filter(is_key) {
            assert!(known.contains(key), "docs/{page}.md: there is no `{key}`");
        }
    }
}

#[test]
fn limits_lists_every_limit() {
    for key in limits_and_timeouts() {
        assert!(LIMITS.contains(&format!("`{key}`")), "{key}");
    }
}

/// The anchor of a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|&c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let pages = |folder: &str| {
        let files = std::fs::read_dir(root.join(folder)).unwrap().map(|file| file.unwrap().path());
        files.filter(|file| file.extension().is_some_and(|end| end == "md")).collect::<Vec<_>>()
    };
    let folders = ["", "docs", "reports", "tests", "bench-tools", "bench-tools/peers"];
    for page in folders.into_iter().flat_map(pages) {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.contains(' ') {
                continue;
            }
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link}", page.display());
            if !place.is_empty() {
                let text = std::fs::read_to_string(&target).unwrap();
                let mut headings = text.lines().filter_map(|line| line.strip_prefix('#'));
                let is_there = headings.any(|line| anchor(line.trim_start_matches('#').trim()) == place);
                assert!(is_there, "{}: no heading for {link}", page.display());
            }
        }
    }
}
