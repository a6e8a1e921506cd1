//! Messages for operators: one line on stderr each, with time and level, as text or as JSON.
//!
//! Owns the form of a line, and which levels are written. Set once, before the proxy starts, and never changed. The control thread
//! writes messages, and a shard only before it serves: a request never does.
//!
//! What a command prints that answers and ends (`check`, `config`, `topology`) has neither time nor level: see `plain`.

use std::fmt::{self, Display, Write as _};
use std::io::Write as _;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// How much a message matters, the most first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Sluice does not start, or cannot go on.
    Error,
    /// Sluice runs, but probably not as was meant.
    Warn,
    /// What an operator wants to know of every start and every end.
    Info,
    /// Details of decisions.
    Debug,
}

impl Level {
    /// As the configuration and JSON lines have it.
    pub fn word(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }

    /// As lines of text have it, always five characters.
    fn column(self) -> &'static str {
        match self {
            Level::Error => "ERROR",
            Level::Warn => "WARN ",
            Level::Info => "INFO ",
            Level::Debug => "DEBUG",
        }
    }
}

/// How a message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// `2026-11-22T01:02:03.123Z INFO  ready (2 shards)`
    Text,
    /// `{"time":"2026-11-22T01:02:03.123Z","level":"info","message":"ready (2 shards)","shards":2}`
    Json,
}

/// Which messages are written, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// How.
    pub format: LogFormat,
    /// These and what matters more.
    pub level: Level,
}

impl Default for Log {
    fn default() -> Log {
        Log { format: LogFormat::Text, level: Level::Info }
    }
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Sets how this process writes messages. The first call holds.
pub fn set(log: Log) {
    let _ = LOG.set(log);
}

/// Values of a message that a program may want by themselves; the text of the message has them too.
pub(crate) type Fields<'a> = &'a [(&'static str, Value)];

/// Writes a message of this level.
pub(crate) fn write(level: Level, message: impl Display, fields: Fields<'_>) {
    let log = LOG.get().copied().unwrap_or_default();
    if level <= log.level {
        write_line(&log.format.line(SystemTime::now(), level, &message, fields));
    }
}

pub(crate) fn error(message: impl Display) {
    write(Level::Error, message, &[]);
}

pub(crate) fn warn(message: impl Display) {
    write(Level::Warn, message, &[]);
}

pub(crate) fn info(message: impl Display) {
    write(Level::Info, message, &[]);
}

pub(crate) fn debug(message: impl Display) {
    write(Level::Debug, message, &[]);
}

/// Writes a JSON object that an operator has asked for just now, whatever the level: its name and the object, or as a field.
pub(crate) fn write_object(name: &'static str, object: &str) {
    let format = LOG.get().copied().unwrap_or_default().format;
    let (now, level) = (SystemTime::now(), Level::Info);
    write_line(&match format {
        LogFormat::Text => format.line(now, level, &format_args!("{name} {object}"), &[]),
        LogFormat::Json => {
            format.line(now, level, &name, &[(name, serde_json::from_str(object).unwrap_or_default())])
        }
    });
}

/// Writes a line as it is, without time and level: for commands that answer and end, whose output other programs read.
#[cfg(feature = "cli")]
pub(crate) fn plain(line: impl Display) {
    write_line(&format!("{line}\n"));
}

/// In one write, so that lines of several threads do not mix. A message that cannot be written is lost: the proxy goes on.
fn write_line(line: &str) {
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

impl LogFormat {
    fn line(self, time: SystemTime, level: Level, message: &dyn Display, fields: Fields<'_>) -> String {
        let time = Rfc3339(time);
        let mut line = String::new();
        let written = match self {
            LogFormat::Text => writeln!(line, "{time} {} {}", level.column(), OneLine(message)),
            LogFormat::Json => {
                let message = Value::from(message.to_string());
                let start =
                    write!(line, r#"{{"time":"{time}","level":"{}","message":{message}"#, level.word());
                let mut fields = fields.iter();
                start
                    .and_then(|()| fields.try_for_each(|(name, value)| write!(line, r#","{name}":{value}"#)))
                    .and_then(|()| line.write_str("}\n"))
            }
        };
        debug_assert!(written.is_ok(), "a string takes everything");
        line
    }
}

/// Text in which a control character, such as a line end, is written as an escape.
struct OneLine<'a>(&'a dyn Display);

impl Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escape<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl fmt::Write for Escape<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                for char in text.chars() {
                    match char.is_control() {
                        true => write!(self.0, "{}", char.escape_default())?,
                        false => self.0.write_char(char)?,
                    }
                }
                Ok(())
            }
        }
        write!(Escape(f), "{}", self.0)
    }
}

/// A time as RFC 3339 has it, in UTC with milliseconds: of one length, and in the order of time.
struct Rfc3339(SystemTime);

impl Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = date(days);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        let millis = since.subsec_millis();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

/// Year, month and day of a number of days since 1970-01-01.
///
/// Years are counted from March, so that the leap day is the last one: <https://howardhinnant.github.io/date_algorithms.html>.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    // From 0000-03-01.
    let days = days + 719_468;
    let (era, day) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // March is 0; months have 153 days for every five.
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let is_next_year = month >= 10;
    (
        400 * era + year + u64::from(is_next_year),
        if is_next_year { month - 9 } else { month + 3 },
        day_of_month,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, millis: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(millis)
    }

    #[test]
    fn times_are_rfc_3339() {
        // By date(1): date -u -d @SECONDS +%FT%T
        for (seconds, millis, text) in [
            (0, 0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, 999, "2000-02-28T23:59:59.999Z"),
            (951_782_400, 1, "2000-02-29T00:00:00.001Z"),
            (951_868_800, 0, "2000-03-01T00:00:00.000Z"),
            (1_795_309_323, 123, "2026-11-22T01:02:03.123Z"),
            (1_861_919_999, 0, "2028-12-31T23:59:59.000Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000Z"),
            (4_102_444_799, 0, "2099-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(Rfc3339(at(seconds, millis)).to_string(), text);
        }
    }

    #[test]
    fn every_day_of_400_years_follows_the_one_before() {
        let days_of = |year: u64, month: u64| match month {
            2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let mut expected = (1970, 1, 1);
        for number in 0..146_097 {
            assert_eq!(date(number), expected);
            let (year, month, day) = expected;
            expected = match day == days_of(year, month) {
                false => (year, month, day + 1),
                true if month == 12 => (year + 1, 1, 1),
                true => (year, month + 1, 1),
            };
        }
    }

    #[test]
    fn text_is_one_line_with_a_prefix_of_fixed_length() {
        let line = |level, message: &str| LogFormat::Text.line(at(1, 0), level, &message, &[]);
        assert_eq!(
            line(Level::Info, "ready (2 shards)"),
            "1970-01-01T00:00:01.000Z INFO  ready (2 shards)\n"
        );
        assert_eq!(line(Level::Error, "a\nb\u{1b}ü"), "1970-01-01T00:00:01.000Z ERROR a\\nb\\u{1b}ü\n");
    }

    #[test]
    fn json_has_time_level_message_and_fields() {
        let fields = [("shards", Value::from(2)), ("address", Value::from("[::1]:80"))];
        let line = LogFormat::Json.line(at(1, 0), Level::Warn, &"a \"b\"\nc", &fields);
        assert_eq!(
            line,
            "{\"time\":\"1970-01-01T00:00:01.000Z\",\"level\":\"warn\",\"message\":\"a \\\"b\\\"\\nc\",\"shards\":2,\
             \"address\":\"[::1]:80\"}\n"
        );
        assert!(serde_json::from_str::<Value>(&line).is_ok());
    }
}
