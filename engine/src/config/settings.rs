//! Every timeout and limit: its key, flag, default, range and meaning, each written once.
//!
//! One row here makes a field of the checked form, a key of the file, a flag of the command line, its help
//! text and its range check. The manual is tested against this table. To add a limit, add a row.

use std::fmt::Debug;
use std::time::Duration;

use super::problem::{Fault, Report};
use super::raw::Field;
use super::units;

/// A way of writing a number: as a time, as a size or as a count.
pub trait Kind {
    /// What the raw form holds.
    type Raw: Copy + PartialOrd + Debug;
    /// Placeholder in help texts.
    const PLACEHOLDER: &'static str;
    /// What is expected, in words.
    const NAME: &'static str;
    /// Reads the text form.
    fn parse(text: &str) -> Result<Self::Raw, Fault>;
    /// A plain number in the file, where the kind has one.
    fn from_number(number: u64) -> Result<Self::Raw, Fault>;
    /// Writes the text form.
    fn show(value: Self::Raw) -> String;
}

/// `10s`.
#[derive(Debug)]
pub struct Time;
/// `16KiB`, or a plain number of bytes.
#[derive(Debug)]
pub struct Bytes;
/// `100`.
#[derive(Debug)]
pub struct Count;

impl Kind for Time {
    type Raw = Duration;
    const PLACEHOLDER: &'static str = "DURATION";
    const NAME: &'static str = "a duration";

    fn parse(text: &str) -> Result<Duration, Fault> {
        units::parse_duration(text)
    }

    fn from_number(number: u64) -> Result<Duration, Fault> {
        Err(Fault::new("a duration needs a unit").hint(format!("did you mean \"{number}s\"")))
    }

    fn show(value: Duration) -> String {
        units::show_duration(value)
    }
}

impl Kind for Bytes {
    type Raw = u64;
    const PLACEHOLDER: &'static str = "SIZE";
    const NAME: &'static str = "a size";

    fn parse(text: &str) -> Result<u64, Fault> {
        units::parse_bytes(text)
    }

    fn from_number(number: u64) -> Result<u64, Fault> {
        Ok(number)
    }

    fn show(value: u64) -> String {
        units::show_bytes(value)
    }
}

impl Kind for Count {
    type Raw = u64;
    const PLACEHOLDER: &'static str = "N";
    const NAME: &'static str = "a whole number";

    fn parse(text: &str) -> Result<u64, Fault> {
        units::parse_count(text)
    }

    fn from_number(number: u64) -> Result<u64, Fault> {
        Ok(number)
    }

    fn show(value: u64) -> String {
        value.to_string()
    }
}

/// One row of the tables, for the manual and for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Full key: `timeouts.request_head`.
    pub key: &'static str,
    /// Flag: `--timeout-request-head`.
    pub flag: &'static str,
    /// Default, as it would be written.
    pub default: &'static str,
    /// Smallest value allowed, as it would be written.
    pub least: &'static str,
    /// Largest value allowed, as it would be written.
    pub most: &'static str,
    /// What it is.
    pub doc: &'static str,
}

/// A value of ours that must parse: defaults and ranges in the tables below.
fn ours<K: Kind>(text: &str) -> K::Raw {
    K::parse(text).unwrap_or_else(|fault| panic!("settings table: {fault}"))
}

/// The value to use for a field that may have been given: in range, or reported and replaced by the default.
fn settle<K: Kind>(row: &Setting, field: &Field<K::Raw>, report: &mut Report) -> K::Raw {
    in_range::<K>(row, row.key, field, report).unwrap_or_else(|| ours::<K>(row.default))
}

macro_rules! settings {
    (
        $(#[$meta:meta])*
        $checked:ident, raw $raw:ident, flags $flags:ident, section $section:literal, heading $heading:literal:
        $( $field:ident: $ty:ty as $kind:ident, $flag:literal, $default:literal, $least:literal to $most:literal,
           $doc:literal; )*
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $checked {
            $( #[doc = concat!($doc, ". Default ", $default, ", range ", $least, " to ", $most, ".")]
               pub $field: $ty, )*
        }

        impl $checked {
            /// The rows of this table.
            pub const SETTINGS: &'static [Setting] = &[$( Setting {
                key: concat!($section, ".", stringify!($field)),
                flag: concat!("--", $flag),
                default: $default,
                least: $least,
                most: $most,
                doc: $doc,
            } ),*];

            /// Settles every field: the given value if it is in range, else the default.
            pub(crate) fn check(raw: &$raw, report: &mut Report) -> Self {
                let mut rows = Self::SETTINGS.iter();
                Self { $( $field: {
                    let row = rows.next().expect("one row per field");
                    <$ty>::try_from(settle::<$kind>(row, &raw.$field, report)).expect("in range, so it fits")
                } ),* }
            }
        }

        impl Default for $checked {
            fn default() -> Self {
                Self::check(&$raw::default(), &mut Report::default())
            }
        }

        #[doc = concat!("The `[", $section, "]` section as written.")]
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct $raw {
            $( #[doc = $doc] pub $field: Field<<$kind as Kind>::Raw>, )*
        }

        impl $raw {
            /// The keys of the section.
            pub(crate) const KEYS: &'static [&'static str] = &[$( stringify!($field) ),*];

            /// Reads the section.
            pub(crate) fn read(walk: &mut super::raw::Walk<'_>, table: &super::source::Node) -> Self {
                let fields = walk.table(table, $section, Self::KEYS);
                Self { $( $field: fields.number::<$kind>(walk, stringify!($field)) ),* }
            }

            /// Takes over what the flags say.
            pub(crate) fn set(&mut self, flags: &$flags) {
                $( if let Some(value) = flags.$field {
                    self.$field = Field::flag(concat!("--", $flag), value);
                } )*
            }
        }

        #[doc = concat!("Flags for the `[", $section, "]` section.")]
        #[derive(Debug, Clone, Default, clap::Args)]
        #[command(next_help_heading = $heading)]
        pub struct $flags {
            $( #[doc = $doc]
               #[arg(
                   id = $flag,
                   long = $flag,
                   value_name = <$kind as Kind>::PLACEHOLDER,
                   value_parser = <$kind as Kind>::parse,
                   help = concat!($doc, " [default: ", $default, "]")
               )]
               pub $field: Option<<$kind as Kind>::Raw>, )*
        }
    };
}

settings! {
    /// How long Sluice waits for a peer. Zero is refused where it would close every connection at once.
    Timeouts, raw RawTimeouts, flags TimeoutFlags, section "timeouts", heading "Timeouts":

    request_head: Duration as Time, "timeout-request-head", "10s", "1ms" to "24h",
        "Longest time for a whole request head, from its first byte (from the start of a new connection)";
    proxy_header: Duration as Time, "timeout-proxy-header", "5s", "1ms" to "24h",
        "Longest time for a PROXY protocol header, from its first byte";
    body_idle: Duration as Time, "timeout-body-idle", "30s", "1ms" to "24h",
        "Longest pause between two parts of a request body";
    body_min_rate_grace: Duration as Time, "timeout-body-min-rate-grace", "10s", "0s" to "24h",
        "How long a request body may be waited for, in all, before limits.body_min_rate counts";
    response_min_rate_grace: Duration as Time, "timeout-response-min-rate-grace", "30s", "0s" to "24h",
        "How long a client may be waited for in a response, in all, before limits.response_min_rate counts";
    request: Duration as Time, "timeout-request", "0s", "0s" to "24h",
        "Longest time for a request and its answer, from the end of the request's head; 0s for no limit";
    keep_alive_idle: Duration as Time, "timeout-keep-alive-idle", "75s", "1ms" to "24h",
        "Longest wait for the next request on a client's connection";
    connection_age: Duration as Time, "timeout-connection-age", "1h", "0s" to "24h",
        "Age at which a client's connection is closed, after the answer under way; 0s for no limit";
    write_stall: Duration as Time, "timeout-write-stall", "30s", "1ms" to "24h",
        "Longest time in which a peer takes none of the bytes waiting for it";
    upstream_connect: Duration as Time, "timeout-upstream-connect", "3s", "1ms" to "24h",
        "Longest time to connect to a server";
    upstream_response: Duration as Time, "timeout-upstream-response", "60s", "1ms" to "24h",
        "Longest wait for the response head, from the end of the request";
    upstream_body_idle: Duration as Time, "timeout-upstream-body-idle", "60s", "1ms" to "24h",
        "Longest pause between two parts of a response body";
    upstream_idle: Duration as Time, "timeout-upstream-idle", "50s", "1ms" to "24h",
        "How long an idle connection to a server is kept; keep it below the server's own keep-alive time";
    tunnel_idle: Duration as Time, "timeout-tunnel-idle", "1h", "1ms" to "24h",
        "Longest time in which no byte passes through a tunnel (WebSocket, CONNECT), in either direction";
    expect_continue_wait: Duration as Time, "timeout-expect-continue-wait", "1s", "0s" to "24h",
        "With Expect: 100-continue, how long to wait for the server's word before the body is asked for";
}

settings! {
    /// How much Sluice takes from a peer.
    Limits, raw RawLimits, flags LimitFlags, section "limits", heading "Limits":

    request_line_bytes: usize as Bytes, "limit-request-line-bytes", "8KiB", "64" to "64KiB",
        "Longest request line (414 above it)";
    head_bytes: usize as Bytes, "limit-head-bytes", "16KiB", "256" to "64KiB",
        "Largest head, start line and all fields, of a request (431 above it) or of a response (502)";
    partial_heads_bytes: usize as Bytes, "limit-partial-heads-bytes", "64MiB", "64KiB" to "1024GiB",
        "Most bytes of unfinished request heads that one shard keeps (503 above it)";
    header_fields: usize as Count, "limit-header-fields", "100", "1" to "256",
        "Most header fields in a head (431 above it, 502 for a response); trailers have 32 at most";
    body_bytes: u64 as Bytes, "limit-body-bytes", "1GiB", "0" to "8589934591GiB",
        "Largest request body (413 above it); 0 for no limit";
    body_min_rate: u32 as Bytes, "limit-body-min-rate", "240", "0" to "1GiB",
        "Fewest bytes of a request body per second of waiting for it (408 below it); 0 for no limit";
    response_min_rate: u32 as Bytes, "limit-response-min-rate", "240", "0" to "1GiB",
        "Fewest bytes of a response that its client takes per second of waiting for it (reset below it); 0 for no limit";
    receive_buffers_bytes: usize as Bytes, "limit-receive-buffers-bytes", "0", "0" to "512MiB",
        "Memory that the receive buffers of one shard may come to use; 0 for 256MiB, or for all shards a 16th of the memory if less";
    read_ahead_bytes: u32 as Bytes, "limit-read-ahead-bytes", "48KiB", "0" to "512KiB",
        "Most bytes received from a server, or of a request body, before the other side takes any (and a buffer of 16KiB more); 0, or before Linux 6.17, one buffer";
    requests_per_connection: u32 as Count, "limit-requests-per-connection", "10000", "0" to "1000000",
        "Requests answered on one client connection before it is closed; 0 for no limit";
    connections: usize as Count, "limit-connections", "0", "0" to "100000000",
        "Most client connections of one shard; 0 for what the limits of descriptors and of a cgroup's memory allow";
    connections_per_address: u32 as Count, "limit-connections-per-address", "0", "0" to "100000000",
        "Most connections of one client address, an IPv6 network of 64 bits being one (429 above it); 0 for no limit";
    abuse_score: u8 as Count, "limit-abuse-score", "100", "0" to "250",
        "Points of abuse after which a client's connection is closed (429); 0 for no limit";
    upstream_idle_connections: usize as Count, "limit-upstream-idle-connections", "1000000", "0" to "1000000",
        "Most idle connections that one shard keeps to one server, of as many as the recent peak of use needs; 0 to reuse none";
}

/// The given value if it lies in the row's range. One that does not is reported under `key`.
pub(crate) fn in_range<K: Kind>(
    row: &Setting,
    key: &str,
    field: &Field<K::Raw>,
    report: &mut Report,
) -> Option<K::Raw> {
    let given = field.given()?;
    let fault = if given.value < ours::<K>(row.least) {
        Fault::new(format!("{} is too small", K::show(given.value))).hint(format!("at least {}", row.least))
    } else if given.value > ours::<K>(row.most) {
        Fault::new(format!("{} is too large", K::show(given.value))).hint(format!("at most {}", row.most))
    } else {
        return Some(given.value);
    };
    report.error(&given.at, key, fault);
    None
}

/// The row of a key.
///
/// # Panics
/// When no row has that key, which is a mistake of ours.
pub(crate) fn row(key: &str) -> &'static Setting {
    all().find(|row| row.key == key).unwrap_or_else(|| panic!("no setting {key}"))
}

/// Every row of every table.
pub fn all() -> impl Iterator<Item = &'static Setting> {
    Timeouts::SETTINGS.iter().chain(Limits::SETTINGS)
}

#[cfg(test)]
mod tests {
    use super::super::problem::{Located, Origin};
    use super::*;

    #[test]
    fn defaults_parse_and_lie_in_range() {
        assert_eq!(Timeouts::default().request_head, Duration::from_secs(10));
        assert_eq!(Limits::default().head_bytes, 16 << 10);
        assert_eq!(Limits::default().body_bytes, 1 << 30);
        for row in Timeouts::SETTINGS {
            let [default, least, most] = [row.default, row.least, row.most].map(ours::<Time>);
            assert!(least <= default && default <= most, "{}", row.key);
        }
        for row in Limits::SETTINGS {
            let [default, least, most] = [row.default, row.least, row.most].map(ours::<Bytes>);
            assert!(least <= default && default <= most, "{}", row.key);
        }
    }

    #[test]
    fn flags_are_named_after_keys() {
        for row in all() {
            let (section, key) = row.key.split_once('.').unwrap();
            let section = section.trim_end_matches('s');
            assert_eq!(row.flag, format!("--{section}-{}", key.replace('_', "-")));
        }
    }

    #[test]
    fn out_of_range_is_reported_and_replaced() {
        let mut report = Report::default();
        let at = Origin::Flag("--timeout-request-head");
        let raw = RawTimeouts {
            request_head: Field::Given(Located::new(Duration::ZERO, at)),
            ..Default::default()
        };
        assert_eq!(Timeouts::check(&raw, &mut report).request_head, Duration::from_secs(10));
        assert_eq!(
            report.errors[0].to_string(),
            "--timeout-request-head: 0s is too small (hint: at least 1ms)"
        );
    }
}
