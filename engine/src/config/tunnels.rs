//! What a route lets leave HTTP: the protocols it may be changed to, and the ports CONNECT may lead to.

use std::ops::RangeInclusive;
use std::time::Duration;

use sluice_proto::upgrade::{WEBSOCKET, is_another_http, is_protocol};

use super::pattern::PathPattern;
use super::problem::{Fault, Located, Report, closest};
use super::routes::Methods;
use super::table::{RouteKeys, RouteWebSocketKeys};
use super::values::Values;

/// What a route lets leave HTTP; nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteTunnels {
    /// Protocols that a client may change to by Upgrade, as they were written.
    pub upgrade: Vec<String>,
    /// Ports that a client may reach by CONNECT.
    pub connect: Vec<RangeInclusive<u16>>,
    /// How frames of WebSocket are read, where they are.
    pub frames: Option<WebSocketFrames>,
}

/// What is asked of the frames of WebSocket. 0 is no limit, and no Ping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocketFrames {
    /// The largest message, in bytes.
    pub message_bytes: u64,
    /// Messages of a client per second.
    pub message_rate: u32,
    /// Those at once.
    pub message_burst: u32,
    /// The silence after which a peer is asked.
    pub ping_idle: Duration,
    /// The time it has to answer.
    pub ping_timeout: Duration,
    /// The time that a closing handshake has.
    pub close_timeout: Duration,
}

/// Checks `upgrade`, `connect` and `websocket` of a route with these paths and methods.
pub(super) fn check_tunnels(
    keys: &RouteKeys,
    path: &PathPattern,
    methods: &Methods,
    report: &mut Report,
) -> RouteTunnels {
    let mut tunnels = RouteTunnels::default();
    if let Some(given) = keys.upgrade.given() {
        check_each("route.upgrade", &given.value, check_protocol, &mut tunnels.upgrade, report);
        given.value.iter().for_each(|protocol| note_slip(protocol, report));
        note_method("route.upgrade", "GET", given, methods, report);
    }
    if let Some(given) = keys.connect.given() {
        if *path != PathPattern::any() {
            let fault = Fault::new("CONNECT has no path, so it never comes to a route that has one");
            report.error(&given.at, "route.connect", fault.hint("make it a route without a path"));
        }
        check_each("route.connect", &given.value, check_ports, &mut tunnels.connect, report);
        note_method("route.connect", "CONNECT", given, methods, report);
    }
    if let Some(given) = keys.websocket.given() {
        tunnels.frames = check_frames(given, &tunnels.upgrade, report);
    }
    tunnels
}

/// What is asked of frames, if anything.
fn check_frames(given: &Located<Values>, upgrade: &[String], report: &mut Report) -> Option<WebSocketFrames> {
    let RouteWebSocketKeys {
        frames,
        message_bytes,
        message_rate,
        message_burst,
        ping_idle,
        ping_timeout,
        close_timeout,
    } = RouteWebSocketKeys::settle(&given.value);
    let mut warn = |what: &str, hint: &str| {
        report.warn(&given.at, "route.websocket", Fault::new(what).hint(hint));
    };
    if !upgrade.iter().any(|protocol| protocol == WEBSOCKET) {
        warn("no client of this route may change to WebSocket", "add upgrade = [\"websocket\"]");
    }
    if message_burst != 0 && message_rate == 0 {
        warn(
            "message_burst has no effect without message_rate",
            "add message_rate, or leave message_burst out",
        );
    }
    if !frames && message_bytes == 0 && message_rate == 0 && ping_idle.is_zero() {
        warn("frames pass unread", "add frames = true, message_bytes, message_rate or ping_idle");
        return None;
    }
    let message_burst = if message_burst == 0 { message_rate } else { message_burst };
    Some(WebSocketFrames {
        message_bytes,
        message_rate,
        message_burst,
        ping_idle,
        ping_timeout,
        close_timeout,
    })
}

/// Takes what passes `check` and is not there already.
fn check_each<T: PartialEq>(
    key: &str,
    values: &[Located<String>],
    check: impl Fn(&str) -> Result<T, Fault>,
    into: &mut Vec<T>,
    report: &mut Report,
) {
    for given in values {
        match check(&given.value) {
            Ok(value) if into.contains(&value) => {
                report.error(&given.at, key, Fault::new(format!("`{}` is there twice", given.value)));
            }
            Ok(value) => into.push(value),
            Err(fault) => report.error(&given.at, key, fault),
        }
    }
}

/// What cannot happen is not meant.
fn note_method(
    key: &str,
    method: &str,
    given: &Located<Vec<Located<String>>>,
    methods: &Methods,
    report: &mut Report,
) {
    if let Methods::Only(methods) = methods
        && !given.value.is_empty()
        && !methods.iter().any(|known| known == method)
    {
        let fault = Fault::new(format!("`methods` leaves out {method}, the only method that asks for it"));
        report.warn(&given.at, key, fault.hint(format!("add \"{method}\" to `methods`")));
    }
}

/// Any name will do, but most are meant to be this one.
fn note_slip(protocol: &Located<String>, report: &mut Report) {
    let name = protocol.value.to_ascii_lowercase();
    if name != WEBSOCKET && closest(&name, [WEBSOCKET]).is_some() {
        let fault = Fault::new(format!("`{name}` is no protocol in common use"));
        report.warn(&protocol.at, "route.upgrade", fault.hint(format!("did you mean \"{WEBSOCKET}\"")));
    }
}

fn check_protocol(text: &str) -> Result<String, Fault> {
    // A token by its grammar, and certainly not meant as one.
    if text == "*" {
        return Err(Fault::new("every protocol cannot be allowed").hint("name them, such as \"websocket\""));
    }
    if ["ws", "wss"].iter().any(|scheme| text.eq_ignore_ascii_case(scheme)) {
        let fault = Fault::new(format!("`{text}` is a scheme, not the protocol that a client asks for"));
        return Err(fault.hint("did you mean \"websocket\""));
    }
    if !is_protocol(text.as_bytes()) {
        let fault = Fault::new(format!("`{text}` is not the name of a protocol"));
        return Err(fault.hint("such as \"websocket\", or with a version \"name/1\""));
    }
    if is_another_http(text.as_bytes()) {
        let fault = Fault::new(format!("`{text}` is HTTP again: its requests would pass unseen"));
        return Err(fault.hint("leave it out; clients that offer it go on in HTTP/1.1"));
    }
    Ok(text.to_ascii_lowercase())
}

fn check_ports(text: &str) -> Result<RangeInclusive<u16>, Fault> {
    let bad = || {
        let hint = match text {
            "*" | "all" | "any" => "every port is \"1-65535\"",
            _ if text.contains(',') => "write each as an item of the list",
            _ => "write \"443\", or from the first to the last \"8000-8999\"",
        };
        Fault::new(format!("`{text}` is not a port")).hint(hint)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |digits: &str| digits.parse::<u16>().ok().filter(|&port| port > 0).ok_or_else(bad);
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(Fault::new(format!("`{text}` runs backwards")).hint(format!("\"{last}-{first}\"")));
    }
    Ok(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_single_or_from_to() {
        assert_eq!(check_ports("443"), Ok(443..=443));
        assert_eq!(check_ports("1-65535"), Ok(1..=65535));
        for text in ["", "0", "65536", "-", "1-", "-1", "9-8", "https", "1-2-3", " 1"] {
            assert!(check_ports(text).is_err(), "{text}");
        }
        for (text, words) in [("*", "1-65535"), ("80,443", "item of the list"), ("x", "8000-8999")] {
            let fault = check_ports(text).unwrap_err().to_string();
            assert!(fault.contains(words), "{text}: {fault}");
        }
    }

    #[test]
    fn protocols_are_named_and_leave_http() {
        assert_eq!(check_protocol("WebSocket").unwrap(), "websocket");
        assert_eq!(check_protocol("x/1").unwrap(), "x/1");
        for text in ["", "a b", "h2c", "TLS/1.3", "HTTP/2.0", "*"] {
            assert!(check_protocol(text).is_err(), "{text}");
        }
        assert!(check_protocol("WSS").unwrap_err().to_string().contains("did you mean \"websocket\""));
    }
}
