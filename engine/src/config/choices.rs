//! Values that are one of a few words.

use std::fmt::Debug;

use sluice_proto::forwarded::HopList;
use sluice_proto::h1::{RealIp, RequestId};
use sluice_proto::path::{DotSegments, EncodedControls, Parameters, RepeatedSlashes, SlashLike};
use sluice_sys::HugePages;
use sluice_tls::handshake::{MinVersion, Profile};

use super::problem::{Fault, parse_word};
use crate::log::{Level, LogFormat};
use crate::steering::Steering;

/// One of a few words.
pub trait Choice: Copy + PartialEq + Debug + 'static {
    /// Every word and what it stands for.
    const WORDS: &'static [(&'static str, Self)];

    /// Reads a word.
    ///
    /// # Errors
    /// Any other word; the fault names those that there are.
    fn parse(text: &str) -> Result<Self, Fault> {
        match Self::WORDS.iter().find(|(word, _)| *word == text) {
            Some((_, choice)) => Ok(*choice),
            None => Err(parse_word(&words::<Self>(), text).expect_err("it is none of the words")),
        }
    }

    /// The word for it.
    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, choice)| *choice == self).map_or("", |(word, _)| word)
    }
}

/// The words of a choice.
pub(crate) fn words<C: Choice>() -> Vec<&'static str> {
    C::WORDS.iter().map(|(word, _)| *word).collect()
}

macro_rules! choice {
    ($ty:ty: $( $word:literal => $variant:ident ),+) => {
        impl Choice for $ty {
            const WORDS: &'static [(&'static str, Self)] = &[$( ($word, Self::$variant) ),+];
        }
    };
}

/// Whether shards stay on their CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pinning {
    /// Every shard stays on its CPU and takes its memory from the node of that CPU.
    On,
    /// The scheduler decides.
    Off,
}
choice!(Pinning: "on" => On, "off" => Off);

choice!(Steering: "off" => Off, "cpu" => Cpu, "load" => Load);
choice!(LogFormat: "text" => Text, "json" => Json);
choice!(Level: "error" => Error, "warn" => Warn, "info" => Info, "debug" => Debug);
choice!(HugePages: "off" => Off, "transparent" => Transparent, "reserved" => Reserved);

/// Which path a server gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathForward {
    /// The one that was compared with the routes, in its normal form.
    Normal,
    /// The client's, byte for byte.
    Received,
}
choice!(PathForward: "normal" => Normal, "received" => Received);

/// What becomes of a request whose client ends its side of an HTTP/1.1 connection before the response.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnClientClose {
    /// The client gets its response: it may only have said that it sends no more.
    #[default]
    Finish,
    /// It is cancelled.
    Cancel,
}
choice!(OnClientClose: "finish" => Finish, "cancel" => Cancel);

/// How UTF-8 that a client has not percent-encoded is handled, in a path and in a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawUtf8 {
    /// It is percent-encoded, for routes and for servers.
    Encode,
    /// The request is refused.
    Refuse,
}
choice!(RawUtf8: "encode" => Encode, "refuse" => Refuse);

choice!(DotSegments: "remove" => Remove, "refuse" => Refuse);
choice!(RepeatedSlashes: "merge" => Merge, "keep" => Keep, "refuse" => Refuse);
choice!(SlashLike: "refuse" => Refuse, "keep" => Keep, "slash" => Slash);
choice!(EncodedControls: "refuse" => Refuse, "keep" => Keep);
choice!(Parameters: "keep" => Keep, "ignore" => Ignore, "refuse" => Refuse);

/// Which fields tell servers about the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldsSent {
    /// X-Forwarded-For, -Proto, -Host and -Port.
    XForwarded,
    /// Forwarded.
    Forwarded,
    /// All of them.
    Both,
    /// None of them.
    None,
}
choice!(FieldsSent: "x-forwarded" => XForwarded, "forwarded" => Forwarded, "both" => Both, "none" => None);

choice!(HopList: "x-forwarded-for" => XForwardedFor, "forwarded" => Forwarded);
choice!(RealIp: "trusted" => Trusted, "set" => Set, "remove" => Remove);
choice!(RequestId: "make" => Make, "pass" => Pass, "remove" => Remove);

/// Whether connections begin with a PROXY protocol header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ProxyProtocolIn {
    /// None does.
    #[default]
    Off,
    /// Each one does, with one of version 1 or 2.
    Required,
}
choice!(ProxyProtocolIn: "off" => Off, "required" => Required);

/// Whether connections to servers begin with a PROXY protocol header that names the client. Each then serves one client only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ProxyProtocolOut {
    /// No header.
    #[default]
    Off,
    /// A line.
    V1,
    /// The binary form.
    V2,
}
choice!(ProxyProtocolOut: "off" => Off, "v1" => V1, "v2" => V2);

/// The version of HTTP that servers are asked in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    H1,
    /// HTTP/2: over TLS by ALPN, in clear text by prior knowledge.
    H2,
}
choice!(UpstreamProtocol: "h1" => H1, "h2" => H2);

choice!(MinVersion: "1.2" => Tls12, "1.3" => Tls13);
choice!(Profile: "intermediate" => Intermediate, "modern" => Modern);

/// Which Host a server gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SendHost {
    /// The client's.
    #[default]
    Client,
    /// The server's own, as it is configured.
    Server,
}
choice!(SendHost: "client" => Client, "server" => Server);

/// How a server is checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CheckKind {
    /// By a GET request and the status of its response.
    #[default]
    Http,
    /// By a connection, with its TLS handshake if there is TLS.
    Tcp,
    /// By grpc.health.v1.Health/Check.
    Grpc,
}
choice!(CheckKind: "http" => Http, "tcp" => Tcp, "grpc" => Grpc);

/// What requests get while checks hold down all servers of a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AllDown {
    /// 503, at once.
    #[default]
    Refuse,
    /// A server nevertheless, as if there were no checks.
    Try,
}
choice!(AllDown: "refuse" => Refuse, "try" => Try);

/// How a request's server is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BalancePolicy {
    /// In turn, by weight.
    #[default]
    RoundRobin,
    /// The one with the fewest requests under way, by weight.
    LeastRequests,
    /// Of two at random the one that answers sooner and has fewer requests.
    TwoChoices,
    /// By a hash, so that what is equal goes to the same one.
    Hash,
}
choice!(BalancePolicy: "round_robin" => RoundRobin, "least_requests" => LeastRequests, "two_choices" => TwoChoices, "hash" => Hash);

/// To which requests of other sites browsers add a cookie.
//= https://datatracker.ietf.org/doc/html/draft-ietf-httpbis-rfc6265bis-20#section-4.1.2.7
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SameSite {
    /// To none.
    Strict,
    /// To those that change the page.
    #[default]
    Lax,
    /// To all.
    None,
}
choice!(SameSite: "strict" => Strict, "lax" => Lax, "none" => None);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_none_gets_a_hint() {
        assert_eq!(SlashLike::parse("keep"), Ok(SlashLike::Keep));
        let fault = SlashLike::parse("keeep").unwrap_err().to_string();
        assert_eq!(fault, "`keeep` is none of refuse, keep, slash (hint: did you mean `keep`)");
        assert_eq!(Parameters::Ignore.word(), "ignore");
    }
}
