//! A whole connection, fed by operations: bytes of the client, bytes of the servers, ends, in any order and any pieces.
//!
//! The first bytes of the input choose how; then come the client's bytes and the servers' answers, 0x1e between them.

#![no_main]

#[path = "../connection/machine.rs"]
mod machine;
#[path = "../connection/oracle.rs"]
mod oracle;

use libfuzzer_sys::fuzz_target;
use machine::{End, Machine};
use oracle::{Message, STYLES, Style};
use sluice_proto::RequestKind;

const BETWEEN_ANSWERS: u8 = 0x1e;
const STRICT: Style = STYLES[0];

fuzz_target!(|input: &[u8]| {
    let Some((&[flags, seed, low, high], rest)) = input.split_first_chunk() else { return };
    let client_len = usize::from(u16::from_le_bytes([low, high])) % (rest.len() + 1);
    let (client, servers) = rest.split_at(client_len);
    let answers: Vec<&[u8]> = servers.split(|&b| b == BETWEEN_ANSWERS).collect();
    if flags & 1 == 0 {
        let whole = in_turns(client, &answers, None, flags);
        let pieces = in_turns(client, &answers, Some(u32::from(seed)), flags);
        // Bytes behind an answer are a race by nature: they poison the connection or the next exchange.
        if !whole.has_excess && !pieces.has_excess {
            assert_eq!(outcome(&whole), outcome(&pieces), "depends on how the bytes arrived");
        }
    } else {
        in_disorder(client, servers, u32::from(seed) << 8 | u32::from(flags));
    }
});

struct Random(u32);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 16) as usize % bound
    }
}

/// Cuts `bytes` in pieces, or not.
fn pieces<'a>(bytes: &'a [u8], random: &mut Option<Random>) -> Vec<&'a [u8]> {
    let Some(random) = random else { return vec![bytes] };
    let (mut rest, mut pieces) = (bytes, Vec::new());
    while !rest.is_empty() {
        let (piece, more) = rest.split_at((1 + random.below(7)).min(rest.len()));
        pieces.push(piece);
        rest = more;
    }
    pieces
}

/// The client says everything, then each server that is asked answers: nothing depends on time.
fn in_turns(client: &[u8], answers: &[&[u8]], seed: Option<u32>, flags: u8) -> Machine {
    let mut random = seed.map(Random);
    let mut machine = Machine::new();
    for piece in pieces(client, &mut random) {
        machine.client_says(piece);
    }
    if flags & 2 != 0 {
        machine.client_ends();
    }
    let mut answers = answers.iter();
    while machine.awaits_server() {
        let asked = machine.forwarded.len();
        let is_same = |machine: &Machine| machine.awaits_server() && machine.forwarded.len() == asked;
        for piece in pieces(answers.next().copied().unwrap_or_default(), &mut random) {
            if !is_same(&machine) {
                machine.has_excess = true;
                break;
            }
            machine.server_says(piece);
        }
        if is_same(&machine) {
            machine.server_ends();
        }
        check(&machine, client);
    }
    check(&machine, client);
    if let Some(&offer) = machine.offers.first() {
        // All that followed it was sent before its response was known.
        assert_eq!(machine.kinds.len(), offer + 1, "a request behind an offer");
    }
    machine
}

/// Everybody speaks when they like.
fn in_disorder(client: &[u8], servers: &[u8], seed: u32) {
    let mut random = Random(seed);
    let mut machine = Machine::new();
    let (mut client_rest, mut servers_rest) = (client, servers);
    for _ in 0..client.len() + servers.len() {
        let len = 1 + random.below(9);
        match random.below(16) {
            0..8 => {
                let (piece, more) = client_rest.split_at(len.min(client_rest.len()));
                client_rest = more;
                machine.client_says(piece);
            }
            8..15 => {
                let (piece, more) = servers_rest.split_at(len.min(servers_rest.len()));
                servers_rest = more;
                machine.server_says(piece);
            }
            _ if random.below(8) == 0 => machine.client_ends(),
            _ if random.below(4) == 0 => machine.server_ends(),
            _ => {}
        }
        if machine.end.is_some() {
            break;
        }
    }
    check(&machine, client);
}

/// What holds at any time.
fn check(machine: &Machine, client: &[u8]) {
    let sent = sent(machine);
    assert!(sent.len() <= machine.forwarded.len(), "more requests than were read");
    check_tunnel(machine, client);
    for style in STYLES {
        // What a server gets is the same to every reader.
        let again: Vec<Message> =
            machine.servers.iter().flat_map(|server| oracle::requests(&server.sent, style)).collect();
        assert_eq!(again, sent, "a server could read it otherwise: {style:?}");
        // And so is what the client sent, as far as it was passed on.
        let sent = oracle::requests(client, style);
        for (request, &nth) in sent.iter().zip(&machine.forwarded) {
            let sent = sent.get(nth).unwrap_or_else(|| panic!("{request:?} is not there for {style:?}"));
            assert_eq!(request.body, sent.body, "another body: {style:?}");
            assert_eq!(method(request), method(sent), "another request: {style:?}");
        }
        let is_head = |nth: usize| machine.kinds.get(nth) == Some(&RequestKind::Head);
        let heard = oracle::responses(&machine.to_client, is_head, style);
        assert_eq!(
            heard,
            oracle::responses(&machine.to_client, is_head, STRICT),
            "a client could read it otherwise"
        );
        let (answers, used) = heard;
        assert!(answers.len() <= machine.kinds.len() + 1, "more answers than requests");
        if machine.end == Some(End::Closed) {
            assert_eq!(used, machine.to_client.len(), "a clean end in the middle of an answer");
        }
    }
}

/// A tunnel carries the end of what the client sent, and nothing else does: neither before it is open nor if it never is.
fn check_tunnel(machine: &Machine, client: &[u8]) {
    for (nth, server) in machine.servers.iter().enumerate() {
        let is_last = nth + 1 == machine.servers.len() && machine.end == Some(End::Tunnel);
        assert!(server.tunnelled.is_empty() || is_last, "a tunnel that was not agreed on");
        assert!(client[..machine.client_bytes].ends_with(&server.tunnelled), "other bytes than the client's");
    }
    if machine.end == Some(End::Tunnel) {
        assert_eq!(machine.offers.last(), machine.forwarded.last(), "an unsolicited tunnel");
    }
}

/// The whole requests that servers got, in the order in which they were sent.
fn sent(machine: &Machine) -> Vec<Message> {
    machine.servers.iter().flat_map(|server| oracle::requests(&server.sent, STRICT)).collect()
}

fn method(message: &Message) -> &[u8] {
    message.start.split(|&b| b == b' ').next().unwrap_or_default()
}

/// What has to be the same however the bytes arrive: whole requests, answers, and the end.
fn outcome(machine: &Machine) -> (Vec<Message>, Vec<Message>, Option<End>) {
    let is_head = |nth: usize| machine.kinds.get(nth) == Some(&RequestKind::Head);
    (sent(machine), oracle::responses(&machine.to_client, is_head, STRICT).0, machine.end)
}
