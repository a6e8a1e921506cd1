//! `hsts`: the Strict-Transport-Security field of a route's responses.

use std::fmt;
use std::time::Duration;

use super::problem::Fault;

/// A year: what browsers ask for before they put a host on their lists.
const PRELOAD_S: u64 = 31_536_000;

/// The field of RFC 6797.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hsts {
    /// How long browsers use https:// only; zero takes it back.
    pub max_age: Duration,
    /// Names below the host as well.
    pub include_subdomains: bool,
    /// Browsers may have the host on their lists.
    pub preload: bool,
}

impl Hsts {
    /// Reads the value of the field as other proxies have it in their configuration.
    ///
    /// # Errors
    /// What browsers would ignore the field for, and directives that there are not.
    //= https://www.rfc-editor.org/rfc/rfc6797#section-6.1
    pub fn parse(text: &str) -> Result<Hsts, Fault> {
        let fault = |what: String| Fault::new(what).hint("write \"max-age=31536000; includeSubDomains\"");
        let (mut max_age, mut include_subdomains, mut preload) = (None, false, false);
        for directive in text.split(';').map(str::trim).filter(|directive| !directive.is_empty()) {
            let (name, value) = match directive.split_once('=') {
                Some((name, value)) => (name.trim_end(), Some(value.trim_start())),
                None => (directive, None),
            };
            match (name.to_ascii_lowercase().as_str(), value) {
                ("max-age", Some(value)) if max_age.is_none() => {
                    let digits =
                        value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
                    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
                    let seconds = digits.parse::<u64>().ok().filter(|_| is_number);
                    let seconds =
                        seconds.ok_or_else(|| fault(format!("`{value}` is not a number of seconds")))?;
                    max_age = Some(seconds);
                }
                ("includesubdomains", None) if !include_subdomains => include_subdomains = true,
                ("preload", None) if !preload => preload = true,
                ("max-age" | "includesubdomains" | "preload", _) => {
                    return Err(fault(format!("`{directive}` is there twice, or has a value too many")));
                }
                _ => {
                    return Err(fault(format!("`{directive}` is no directive of Strict-Transport-Security")));
                }
            }
        }
        let seconds = max_age.ok_or_else(|| fault("max-age is missing".to_owned()))?;
        Ok(Hsts { max_age: Duration::from_secs(seconds), include_subdomains, preload })
    }

    /// Why browsers' lists would not take the host.
    pub(super) fn check_preload(&self) -> Option<Fault> {
        let is_enough = self.include_subdomains && self.max_age.as_secs() >= PRELOAD_S;
        (self.preload && !is_enough).then(|| {
            let fault = Fault::new("preload needs includeSubDomains and a max-age of a year");
            fault.hint("write \"max-age=31536000; includeSubDomains; preload\"")
        })
    }
}

impl fmt::Display for Hsts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "max-age={}", self.max_age.as_secs())?;
        if self.include_subdomains {
            f.write_str("; includeSubDomains")?;
        }
        if self.preload {
            f.write_str("; preload")?;
        }
        Ok(())
    }
}
