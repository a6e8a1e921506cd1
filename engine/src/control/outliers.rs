//! What shards report of servers that they eject, as lines of the log.

use std::time::Duration;

use crate::config::show_duration;
use crate::log::{self, Level};
use crate::upstream::board::{Report, ServerChange};

/// Writes the line of a report, unless there were enough of them a moment ago.
pub(super) fn say(report: &Report) {
    if report.is_silent {
        return;
    }
    let (name, server) = (report.upstream.as_str(), report.server.as_str());
    let names = [("upstream", name.into()), ("server", server.into())];
    match &report.change {
        ServerChange::Ejected { why, time_ms, out, of } => {
            let time = show_duration(Duration::from_millis(*time_ms));
            log::write(
                Level::Warn,
                format_args!(
                    "upstream {name}: {server} is ejected for {time}: {why}; {out} of {of} servers out"
                ),
                &[
                    &names[..],
                    &[
                        ("ejected", true.into()),
                        ("reason", why.as_str().into()),
                        ("ejected_ms", (*time_ms).into()),
                        ("servers_ejected", (*out).into()),
                        ("servers", (*of).into()),
                    ],
                ]
                .concat(),
            );
        }
        ServerChange::BreakerOpened { failures, of, time_ms } => {
            let time = show_duration(Duration::from_millis(*time_ms));
            log::write(
                Level::Warn,
                format_args!(
                    "upstream {name}: the breaker is open for {time}: {failures} of the last {of} requests on a shard failed"
                ),
                &[("upstream", name.into()), ("breaker_open", true.into()), ("failures", (*failures).into())],
            );
        }
        ServerChange::BreakerClosed => log::write(
            Level::Info,
            format_args!("upstream {name}: the breaker is closed: a request was answered"),
            &[("upstream", name.into()), ("breaker_open", false.into())],
        ),
        ServerChange::Restored => log::write(
            Level::Info,
            format_args!("upstream {name}: {server} is back: it has answered a request"),
            &[&names[..], &[("ejected", false.into())]].concat(),
        ),
    }
}
