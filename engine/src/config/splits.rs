//! The split of a route's requests among several upstreams: their weights, and what keeps a client with one of them.

use std::rc::Rc;

use super::problem::{Fault, Located, Report};
use super::routes::{find_upstream, is_token_byte};
use super::table::RouteSplitKeys;
use super::upstreams::Upstreams;
use super::values::{Field, Values};

/// Several upstreams that share the requests of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Indexes into [`super::Config::upstreams`] with their weights, in the order of the file; at least one weight is not 0.
    pub shares: Vec<(usize, u32)>,
    /// What keeps a client with one of them.
    pub by: SplitBy,
}

/// What decides which upstream of a split gets a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SplitBy {
    /// Each in turn, by weight.
    Turns,
    /// The value of the first header field of this name, in lower case.
    Header(String),
    /// The value of the first cookie of this name.
    Cookie(String),
    /// The client's address.
    Client,
}

impl SplitBy {
    /// Reads the value of `split_by`.
    ///
    /// # Errors
    /// Something that is no part of a request, or none that clients keep.
    fn parse(text: &str) -> Result<Self, Fault> {
        let (word, name) = text.split_once(' ').map_or((text, ""), |(word, name)| (word, name.trim()));
        let is_token = !name.is_empty() && name.bytes().all(is_token_byte);
        match word {
            "client" if name.is_empty() => Ok(Self::Client),
            "header" if is_token && name.eq_ignore_ascii_case("cookie") => {
                Err(Fault::new(format!("`{text}`: cookies change one by one")).hint("write \"cookie NAME\""))
            }
            "header" if is_token => Ok(Self::Header(name.to_ascii_lowercase())),
            "cookie" if is_token => Ok(Self::Cookie(name.to_owned())),
            _ => Err(Fault::new(format!("`{text}` is no part of a request to split by"))
                .hint("write \"cookie NAME\", \"header NAME\" or \"client\"; leave it out for turns")),
        }
    }
}

/// What `split` and `split_by` come to; `None` if something is wrong with them, which is reported.
pub(super) fn check_split(
    split: &Located<Rc<[Values]>>,
    by: &Field<String>,
    upstreams: &Upstreams,
    report: &mut Report,
) -> Option<Split> {
    let key = "route.split";
    let by = match by {
        Field::Absent => Some(SplitBy::Turns),
        Field::Faulty => None,
        Field::Given(given) => SplitBy::parse(&given.value)
            .map_err(|fault| report.error(&given.at, "route.split_by", fault))
            .ok(),
    };
    let mut shares: Vec<(usize, u32)> = Vec::new();
    for raw in split.value.iter().filter(|raw| !raw.is_faulty) {
        let keys = RouteSplitKeys::settle(raw);
        let Some(given) = keys.upstream.given() else {
            if keys.upstream == Field::Absent {
                let fault =
                    Fault::new("a share needs an upstream").hint("write { upstream = \"NAME\", weight = 1 }");
                report.error(&raw.at, "route.split.upstream", fault);
            }
            continue;
        };
        let Some(number) = find_upstream(given, "route.split.upstream", upstreams, report) else { continue };
        if shares.iter().any(|(other, _)| *other == number) {
            let fault = Fault::new(format!("`{}` is there twice", given.value));
            report.error(&given.at, "route.split.upstream", fault.hint("give it the sum of the weights"));
            continue;
        }
        shares.push((number, keys.weight));
    }
    if shares.len() < split.value.len() {
        return None;
    }
    if shares.iter().all(|(_, weight)| *weight == 0) {
        let what = if shares.is_empty() { "nothing is in it" } else { "no weight is above 0" };
        report.error(&split.at, key, Fault::new(what).hint("write upstream = \"NAME\" for a single one"));
        return None;
    }
    Some(Split { shares, by: by? })
}
