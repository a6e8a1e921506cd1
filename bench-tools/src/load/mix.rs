//! The requests that are sent: their bytes, and in which order they come.

use std::str::FromStr;

use super::target::Target;
use crate::http::prepared::{HeadKind, Prepared};
use crate::messages::Framing;

/// A path with its weight, as on the command line: `/a` or `/a@3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedPath {
    /// Path and query.
    pub path: String,
    /// How often it comes, against the others.
    pub weight: u32,
}

impl FromStr for WeightedPath {
    type Err = String;

    fn from_str(text: &str) -> Result<WeightedPath, String> {
        let (path, weight) = match text.rsplit_once('@') {
            Some((path, weight)) => {
                let weight = weight.parse().ok().filter(|weight| (1..=WEIGHT_MAX).contains(weight));
                (path, weight.ok_or_else(|| format!("a weight is a number from 1 to {WEIGHT_MAX}"))?)
            }
            None => (text, 1),
        };
        if !path.starts_with('/') || path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err("a path begins with / and has no spaces".into());
        }
        Ok(WeightedPath { path: path.to_owned(), weight })
    }
}

const WEIGHT_MAX: u32 = 1_000;

/// What all requests have in common.
#[derive(Clone, Debug)]
pub(super) struct Shape<'a> {
    pub(super) method: &'a str,
    pub(super) head: HeadKind,
    pub(super) fields: &'a [String],
    pub(super) body_bytes: u64,
    pub(super) says_close: bool,
    /// Messages of so many bytes in place of requests.
    pub(super) messages: Option<(Framing, u64)>,
}

/// The requests and their order.
#[derive(Debug)]
pub(super) struct Mix {
    pub(super) requests: Vec<Prepared>,
    /// Numbers of requests, each as often as its weight says, evenly spread.
    order: Vec<u32>,
}

impl Mix {
    pub(super) fn new(target: &Target, paths: &[WeightedPath], shape: &Shape<'_>) -> Mix {
        let only = [WeightedPath { path: target.path.clone(), weight: 1 }];
        let paths = if paths.is_empty() { &only[..] } else { paths };
        let requests = paths.iter().map(|path| shape.prepare(target, &path.path)).collect();
        let weights: Vec<u32> = paths.iter().map(|path| path.weight).collect();
        Mix { requests, order: spread(&weights) }
    }

    /// The request at a place of the endless sequence.
    pub(super) fn at(&self, place: usize) -> usize {
        self.order[place % self.order.len()] as usize
    }
}

impl Shape<'_> {
    fn prepare(&self, target: &Target, path: &str) -> Prepared {
        let close = self.says_close.then_some("Connection: close");
        let own = self.fields.iter().map(String::as_str);
        if let Some((framing, bytes)) = self.messages {
            let fields: Vec<&str> = self.head.fields().iter().copied().chain(own).collect();
            return Prepared::opening(framing, path, &target.authority, &fields, bytes);
        }
        let fields: Vec<&str> = self.head.fields().iter().copied().chain(own).chain(close).collect();
        Prepared::new(self.method, path, &target.authority, &fields, self.body_bytes)
    }
}

/// Smooth weighted round robin: each number as often as its weight, as far apart as possible.
fn spread(weights: &[u32]) -> Vec<u32> {
    let total: i64 = weights.iter().map(|&weight| i64::from(weight)).sum();
    let mut credit = vec![0_i64; weights.len()];
    (0..total)
        .map(|_| {
            for (credit, &weight) in credit.iter_mut().zip(weights) {
                *credit += i64::from(weight);
            }
            let best = (0..credit.len()).rev().max_by_key(|&at| credit[at]).unwrap_or(0);
            credit[best] -= total;
            best as u32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_spread_evenly() {
        assert_eq!(spread(&[2, 1, 1]), [0, 1, 2, 0]);
        assert_eq!(spread(&[1]), [0]);
        let order = spread(&[7, 3]);
        assert_eq!(order.iter().filter(|&&at| at == 1).count(), 3);
    }

    #[test]
    fn paths_on_the_command_line() {
        let path: WeightedPath = "/bytes/10@3".parse().expect("a path");
        assert_eq!((&*path.path, path.weight), ("/bytes/10", 3));
        for wrong in ["bytes", "/a@0", "/a@x", "/a b"] {
            assert!(wrong.parse::<WeightedPath>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_body_has_its_length() {
        let target: Target = "http://127.0.0.1:1/x".parse().expect("a URL");
        let fields = ["X-Test: 1".to_owned()];
        let head = HeadKind::Plain;
        let (body_bytes, says_close) = (3, true);
        let shape = Shape { method: "POST", head, fields: &fields, body_bytes, says_close, messages: None };
        let mix = Mix::new(&target, &[], &shape);
        let wire = String::from_utf8_lossy(&mix.requests[mix.at(5)].wire).into_owned();
        assert!(wire.starts_with("POST /x HTTP/1.1\r\nHost: 127.0.0.1:1\r\n"));
        assert!(wire.ends_with("X-Test: 1\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc"));
    }
}
