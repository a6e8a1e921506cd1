//! Who gets how many requests, on a clock of the test's own: for each policy, over one and two shards, with servers that are slow, hang,
//! fail, come back, appear and vanish.

use std::sync::Arc;
use std::time::Duration;

use super::affinity::{Affinity, mix};
use super::*;
use crate::config::Sticky;
use crate::message::Repeat;
use crate::upstream::board::ServerEntry;
use crate::upstream::group::{Group, GroupRules, tests};
use crate::upstream::server::{BACK_OFF_MS, ServerInUse, Share};

const POLICIES: [BalancePolicy; 4] =
    [BalancePolicy::RoundRobin, BalancePolicy::LeastRequests, BalancePolicy::TwoChoices, BalancePolicy::Hash];

fn weight(weight: u32) -> Share {
    Share { weight, ..Share::default() }
}

fn by(policy: BalancePolicy) -> Balancing {
    Balancing { policy, ..Balancing::default() }
}

fn sticky(secret: &str) -> Balancing {
    let sticky = Sticky { cookie: "srv".into(), attributes: "; Path=/".into(), secret: secret.into() };
    Balancing { sticky: Some(sticky), ..Balancing::default() }
}

/// The same servers on some shards.
struct Site {
    entries: Vec<Arc<ServerEntry>>,
    shards: Vec<Group>,
    balancing: Balancing,
}

/// A request that is under way.
struct Request {
    shard: usize,
    at: usize,
    begun_ms: u64,
    end_ms: u64,
    _use: ServerInUse,
}

impl Site {
    fn new(shards: usize, shares: &[Share], balancing: Balancing) -> Site {
        let mut site = Site { entries: Vec::new(), shards: Vec::new(), balancing };
        site.entries = shares.iter().map(|_| Arc::new(ServerEntry::new(shards))).collect();
        for shard in 0..shards {
            let servers = site.servers(shard, shares);
            site.shards.push(Group::new(servers, site.rules()));
        }
        site
    }

    fn rules(&self) -> GroupRules {
        let is_plain = self.balancing == Balancing::default();
        let balance = (!is_plain).then(|| Rc::new(self.balancing.clone()));
        GroupRules { balance, ..tests::rules() }
    }

    fn servers(&self, shard: usize, shares: &[Share]) -> Vec<Rc<Server>> {
        let server = |(at, share): (usize, &Share)| {
            let server = tests::server(&format!("10.0.0.{at}:80"), (self.entries[at].clone(), shard));
            server.set_share(*share);
            server
        };
        shares.iter().enumerate().map(server).collect()
    }

    fn server(&self, shard: usize, at: usize) -> Rc<Server> {
        self.shards[shard].members()[at].clone()
    }

    /// The number of the server that a request gets, with what the request asks for.
    fn pick_by(&self, shard: usize, now_ms: u64, affinity: Affinity) -> Option<usize> {
        let picked = self.shards[shard]
            .pick(Wanted { now_ms, not: None, repeat: Repeat::Possible, affinity }, |server| {
                Some(server.clone())
            })?;
        self.shards[shard].members().iter().position(|server| Rc::ptr_eq(server, &picked))
    }

    fn pick(&self, shard: usize, now_ms: u64) -> Option<usize> {
        self.pick_by(shard, now_ms, Affinity::default())
    }

    fn counts(&self, requests: u64, now_ms: u64, affinity: impl Fn(u64) -> Affinity) -> Vec<u64> {
        let mut counts = vec![0; self.shards[0].members().len()];
        for nth in 0..requests {
            let shard = nth as usize % self.shards.len();
            if let Some(at) = self.pick_by(shard, now_ms, affinity(nth)) {
                counts[at] += 1;
            }
        }
        counts
    }

    fn begin(
        &self,
        shard: usize,
        now_ms: u64,
        takes_ms: impl Fn(usize) -> u64,
        affinity: Affinity,
    ) -> Request {
        let at = self.pick_by(shard, now_ms, affinity).expect("some server is there");
        let end_ms = now_ms.saturating_add(takes_ms(at));
        Request { shard, at, begun_ms: now_ms, end_ms, _use: ServerInUse::new(self.server(shard, at)) }
    }

    /// Those that are over by now are answered.
    fn end(&self, requests: &mut Vec<Request>, now_ms: u64) {
        requests.retain(|request| {
            if request.end_ms <= now_ms {
                let waited = (request.end_ms - request.begun_ms) as u32;
                self.server(request.shard, request.at).latency.note(waited, now_ms);
            }
            request.end_ms > now_ms
        });
    }

    /// A request per millisecond and shard for some seconds; how many each server got.
    fn run(&self, from_ms: u64, for_ms: u64, takes_ms: impl Fn(usize) -> u64) -> Vec<u64> {
        let mut counts = vec![0; self.shards[0].members().len()];
        let mut requests = Vec::new();
        for now_ms in from_ms..from_ms + for_ms {
            self.end(&mut requests, now_ms);
            for shard in 0..self.shards.len() {
                let key = mix(now_ms * 2 + shard as u64);
                let request = self.begin(shard, now_ms, &takes_ms, Affinity::by_hash(key));
                counts[request.at] += 1;
                requests.push(request);
            }
        }
        counts
    }

    fn hold_down(&self, at: usize, is_down: bool) {
        self.entries[at].health.set_down(is_down);
        self.shards.iter().for_each(|group| group.members()[at].heed_checks(true));
    }
}

fn assert_near(what: &str, seen: &[u64], wanted: &[u64], percent: u64) {
    let is_near = |(&seen, &wanted): (&u64, &u64)| seen.abs_diff(wanted) * 100 <= wanted * percent + 100;
    assert!(seen.iter().zip(wanted).all(is_near), "{what}: {seen:?}, not {wanted:?} to {percent} %");
}

#[test]
fn servers_that_are_alike_need_no_balance() {
    let has_balance = |shares: &[Share], balancing: Balancing| {
        let site = Site::new(1, shares, balancing);
        Balance::new(&site.servers(0, shares), site.rules().balance.as_ref()).is_some()
    };
    assert!(!has_balance(&[Share::default(); 3], Balancing::default()));
    assert!(!has_balance(&[weight(7); 3], Balancing::default()));
    assert!(!has_balance(&[], Balancing::default()));
    assert!(has_balance(&[weight(7), weight(1)], Balancing::default()));
    assert!(has_balance(
        &[Share::default(), Share { is_backup: true, ..Share::default() }],
        Balancing::default()
    ));
    assert!(has_balance(&[Share::default()], sticky("")));
}

#[test]
fn turns_go_by_weight_and_are_spread_evenly() {
    for shards in [1, 2] {
        let site = Site::new(shards, &[weight(5), weight(1), weight(1)], Balancing::default());
        let turns: Vec<_> = (0..14).map(|_| site.pick(0, 0).unwrap()).collect();
        assert_eq!(turns, [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(
            site.counts(700 * shards as u64, 0, |_| Affinity::default()),
            [500 * shards as u64, 100 * shards as u64, 100 * shards as u64]
        );
    }
}

#[test]
fn a_turn_without_a_find_is_not_used_up() {
    for policy in POLICIES {
        let site = Site::new(1, &[weight(3), weight(1), weight(2)], by(policy));
        for now_ms in 0..100 {
            let mut seen = None;
            let wanted =
                Wanted { now_ms, not: None, repeat: Repeat::Possible, affinity: Affinity::default() };
            assert!(
                site.shards[0]
                    .pick(wanted, |server| {
                        seen = Some(server.clone());
                        None::<()>
                    })
                    .is_none()
            );
            let picked = site.pick(0, now_ms).unwrap();
            assert!(Rc::ptr_eq(&seen.unwrap(), &site.server(0, picked)), "{policy:?}");
        }
    }
}

#[test]
fn a_server_that_cannot_be_used_gets_nothing_under_any_policy() {
    for policy in POLICIES {
        for shards in [1, 2] {
            let site = Site::new(shards, &[Share::default(); 4], by(policy));
            let keys = |nth| Affinity::by_hash(mix(nth));
            site.hold_down(1, true);
            site.shards.iter().for_each(|group| group.members()[2].pass_over(0));
            let counts = site.counts(4_000, 10, keys);
            assert_eq!((counts[1], counts[2]), (0, 0), "{policy:?}");
            assert_near("the others", &counts, &[2_000, 0, 0, 2_000], 10);
            // Both come back, and all have the same again.
            site.hold_down(1, false);
            let counts = site.counts(8_000, BACK_OFF_MS, keys);
            assert_near(&format!("{policy:?}"), &counts, &[2_000; 4], 10);
            // One that was tried is not tried again while there is another.
            let tried = site.server(0, 3);
            for nth in 0..100 {
                let wanted = Wanted {
                    now_ms: BACK_OFF_MS,
                    not: Some(&tried),
                    repeat: Repeat::Possible,
                    affinity: keys(nth),
                };
                let picked = site.shards[0].pick(wanted, |server| Some(server.clone())).unwrap();
                assert!(!Rc::ptr_eq(&picked, &tried), "{policy:?}");
            }
        }
    }
}

#[test]
fn a_weight_of_nothing_gets_nothing_whatever_happens_to_others() {
    for policy in POLICIES {
        let site = Site::new(1, &[weight(1), weight(0), weight(1)], by(policy));
        assert_eq!(site.counts(100, 0, |nth| Affinity::by_hash(mix(nth)))[1], 0, "{policy:?}");
        site.server(0, 0).pass_over(0);
        site.server(0, 2).pass_over(0);
        assert_eq!(site.pick(0, 10), None, "{policy:?}");
        site.hold_down(0, true);
        assert_eq!(site.pick(0, 10), Some(2), "{policy:?}: the last one that may get any");
    }
}

#[test]
fn backups_wait_until_no_other_can_be_used() {
    let backup = Share { is_backup: true, ..Share::default() };
    for policy in POLICIES {
        let site = Site::new(1, &[backup, Share::default(), Share::default(), backup], by(policy));
        let keys = |nth| Affinity::by_hash(mix(nth));
        let counts = |now_ms| site.counts(2_000, now_ms, keys);
        assert_near("all well", &counts(0), &[0, 1_000, 1_000, 0], 10);
        site.hold_down(1, true);
        assert_eq!(counts(0), [0, 0, 2_000, 0], "{policy:?}");
        site.server(0, 2).pass_over(0);
        assert_near("backups", &counts(10), &[1_000, 0, 0, 1_000], 10);
        assert_eq!(counts(BACK_OFF_MS), [0, 0, 2_000, 0], "{policy:?}: back to the first");
    }
}

#[test]
fn servers_of_the_own_zone_come_first_while_half_of_them_are_there() {
    let far = Share { is_near: false, ..Share::default() };
    for policy in POLICIES {
        let site = Site::new(1, &[far, Share::default(), Share::default(), far], by(policy));
        let keys = |nth| Affinity::by_hash(mix(nth));
        let counts = || site.counts(4_000, 0, keys);
        assert_near("all well", &counts(), &[0, 2_000, 2_000, 0], 10);
        site.hold_down(1, true);
        assert_eq!(counts(), [0, 0, 4_000, 0], "{policy:?}: half of them");
        site.hold_down(1, false);
        site.server(0, 1).set_share(weight(1));
        site.hold_down(2, true);
        assert_eq!(counts(), [0, 4_000, 0, 0], "{policy:?}");
        site.hold_down(1, true);
        assert_near("none of them", &counts(), &[2_000, 0, 0, 2_000], 10);
    }
    // Less than half of the weight.
    let shares = [far, weight(1), weight(1), weight(1)];
    let site = Site::new(1, &shares, by(BalancePolicy::RoundRobin));
    site.hold_down(1, true);
    assert_eq!(site.counts(300, 0, |_| Affinity::default()), [0, 0, 150, 150]);
    site.hold_down(2, true);
    assert_eq!(site.counts(300, 0, |_| Affinity::default()), [150, 0, 0, 150]);
}

#[test]
fn the_one_with_fewest_requests_is_next() {
    let weights = [1_u64, 2, 1];
    let site = Site::new(
        1,
        &weights.map(|weight| Share { weight: weight as u32, ..Share::default() }),
        by(BalancePolicy::LeastRequests),
    );
    let mut requests = Vec::new();
    for nth in 0..4_000_u64 {
        site.end(&mut requests, nth);
        let active = |at: usize| u64::from(site.server(0, at).requests());
        let load = |at: usize| (active(at) + 1) as f64 / weights[at] as f64;
        let least = (0..3).map(load).fold(f64::MAX, f64::min);
        let loads = [load(0), load(1), load(2)];
        let request = site.begin(0, nth, |_| 5 + mix(nth) % 50, Affinity::default());
        assert!(loads[request.at] <= least, "{} of {loads:?}", request.at);
        requests.push(request);
    }
}

#[test]
fn a_slow_server_has_fewer_requests_and_a_hung_one_few() {
    for shards in [1, 2] {
        for policy in [BalancePolicy::LeastRequests, BalancePolicy::TwoChoices] {
            let site = Site::new(shards, &[Share::default(); 3], by(policy));
            let all = 4_000 * shards as u64;
            let even = site.run(0, 4_000, |_| 20);
            assert_near(&format!("{policy:?} alike"), &even, &[all / 3; 3], 12);
            // Ten times as slow: its part is a tenth of another's, more or less; by latency too it is next to none.
            let counts = site.run(100_000, 4_000, |at| if at == 1 { 200 } else { 20 });
            let (slow, rest) = (counts[1], (counts[0] + counts[2]) / 2);
            assert!(slow * 4 < rest && slow > 0, "{policy:?}, {shards} shards: {counts:?}");
            // Hung: nothing ever ends.
            let counts = site.run(200_000, 4_000, |at| if at == 1 { u64::MAX } else { 20 });
            // Every request that it has counts against it, whichever shard has sent it.
            assert!(counts[1] * 50 < all, "{policy:?}, {shards} shards: {counts:?}");
            // Back to normal, once its past is forgotten.
            let counts = site.run(300_000, 4_000, |_| 20);
            assert_near(&format!("{policy:?} again"), &counts, &[all / 3; 3], 12);
        }
    }
}

/// The bound that docs/upstreams.md states: what a shard takes for the total differs from the true one by no more than what the other
/// shards have begun and ended within the age of the copies.
#[test]
fn a_shard_errs_by_no_more_than_what_others_did_since_it_looked() {
    const SERVERS: usize = 3;
    let site = Site::new(2, &[Share::default(); SERVERS], by(BalancePolicy::LeastRequests));
    let every_ms = Totals::new(&site.servers(0, &[Share::default(); SERVERS])).every_ms;
    assert_eq!(every_ms, 1, "with so few shards and servers");
    let mut requests: Vec<Request> = Vec::new();
    // When which shard has begun or ended something with which server.
    let mut changes: Vec<(u64, usize, usize)> = Vec::new();
    let mut draw = 7;
    for now_ms in 0..3_000_u64 {
        // Bursts on one shard, then on the other.
        for _ in 0..(draw % 8) {
            draw = mix(draw);
            let shard = usize::from(draw % 10 < if now_ms / 500 % 2 == 0 { 1 } else { 9 });
            let truth =
                |at: usize| site.entries[at].numbers().map(|numbers| numbers.active.value()).sum::<u64>();
            let truths: Vec<u64> = (0..SERVERS).map(truth).collect();
            let error = |at: usize| {
                let is_recent = |(when, by, with): &&(u64, usize, usize)| {
                    *by != shard && *with == at && *when + every_ms >= now_ms
                };
                changes
                    .iter()
                    .rev()
                    .take_while(|(when, ..)| when + every_ms >= now_ms)
                    .filter(is_recent)
                    .count() as u64
            };
            let request = site.begin(shard, now_ms, |_| 5 + draw % 60, Affinity::default());
            for at in 0..SERVERS {
                let (chosen, other) = (truths[request.at], truths[at]);
                assert!(
                    chosen <= other + error(request.at) + error(at),
                    "{now_ms} ms: shard {shard} has chosen {} of {truths:?}",
                    request.at
                );
            }
            changes.push((now_ms, shard, request.at));
            requests.push(request);
        }
        for request in requests.iter().filter(|request| request.end_ms <= now_ms) {
            changes.push((now_ms, request.shard, request.at));
        }
        site.end(&mut requests, now_ms);
        draw = mix(draw);
    }
    assert!(changes.len() > 10_000, "{}", changes.len());
}

#[test]
fn what_another_shard_has_sent_is_seen_after_the_age_of_copies() {
    let site = Site::new(2, &[Share::default(); 2], by(BalancePolicy::LeastRequests));
    assert_eq!(site.pick(0, 1_000), Some(0));
    let _held: Vec<ServerInUse> = (0..10).map(|_| ServerInUse::new(site.server(1, 0))).collect();
    let here: Vec<_> = (0..4).map(|_| site.pick(0, 1_001).unwrap()).collect();
    assert_eq!(here, [1; 4], "it has ten less");
}

#[test]
fn two_choices_share_by_weight_while_all_are_idle() {
    for shards in [1, 2] {
        let site = Site::new(shards, &[weight(6), weight(3), weight(1)], by(BalancePolicy::TwoChoices));
        let counts = site.counts(20_000, 0, |_| Affinity::default());
        assert_near("by weight", &counts, &[12_000, 6_000, 2_000], 8);
    }
}

#[test]
fn a_timeout_counts_against_a_server_although_it_has_not_answered() {
    let site = Site::new(1, &[Share::default(); 2], by(BalancePolicy::TwoChoices));
    site.server(0, 0).latency.note(60_000, 1_000);
    site.server(0, 1).latency.note(10, 1_000);
    assert_eq!(site.counts(100, 1_000, |_| Affinity::default()), [0, 100]);
    // It is tried again when that is forgotten: each ten seconds leave a third.
    assert!(site.counts(100, 120_000, |_| Affinity::default())[0] > 20);
}

#[test]
fn equal_keys_have_one_server_on_all_shards_and_in_all_processes() {
    let (one, other) = (
        Site::new(2, &[Share::default(); 5], by(BalancePolicy::Hash)),
        Site::new(1, &[Share::default(); 5], by(BalancePolicy::Hash)),
    );
    for nth in 0..1_000 {
        let key = Affinity::by_hash(mix(nth));
        let at = one.pick_by(0, 0, key);
        assert_eq!([one.pick_by(1, 0, key), other.pick_by(0, 0, key)], [at; 2]);
    }
    // Without a key: by turns.
    assert_eq!(one.counts(1_000, 0, |_| Affinity::default()), [200; 5]);
}

#[test]
fn a_key_that_is_asked_for_too_often_is_shared() {
    for shards in [1, 2] {
        let balancing = Balancing { hash_load: Some(150), ..by(BalancePolicy::Hash) };
        let site = Site::new(shards, &[Share::default(); 3], balancing);
        let key = Affinity::by_hash(77);
        let mut requests = Vec::new();
        for now_ms in 0..2_000 {
            site.end(&mut requests, now_ms);
            for shard in 0..shards {
                requests.push(site.begin(shard, now_ms, |_| 30, key));
                let active: Vec<u64> = site
                    .entries
                    .iter()
                    .map(|entry| entry.numbers().map(|numbers| numbers.active.value()).sum())
                    .collect();
                let all: u64 = active.iter().sum();
                // The other shard has begun and ended one each since the copies were made.
                let most = (all * 150).div_ceil(300) + 2 * (shards as u64 - 1);
                assert!(active.iter().all(|&active| active <= most), "{active:?}, at most {most}");
            }
        }
        // As many as may are where they belong.
        let home = site.pick_by(0, 1_000_000, key).unwrap();
        assert!(requests.iter().filter(|request| request.at == home).count() * 3 > requests.len());
    }
}

/// The value of a cookie for this server.
fn cookie_of(site: &Site, at: usize) -> String {
    let line = site.shards[0].set_cookie(&site.server(0, at), Affinity::default()).expect("a cookie");
    let value = line.strip_prefix("Set-Cookie: srv=").and_then(|rest| rest.split_once("; Path=/\r\n"));
    value.unwrap_or_else(|| panic!("{}", &*line)).0.to_owned()
}

#[test]
fn a_cookie_brings_a_client_back() {
    let shares = [weight(1), weight(0), weight(1)];
    let site = Site::new(2, &shares, sticky("a secret"));
    let restarted = Site::new(1, &shares, sticky("a secret"));
    for at in 0..3 {
        let cookie = cookie_of(&site, at);
        assert!(cookie.len() == 16 && !cookie.contains("10"), "{cookie}");
        assert_eq!(cookie_of(&restarted, at), cookie);
        assert_ne!(cookie_of(&Site::new(1, &shares, sticky("another")), at), cookie);
        let named = Affinity::by_cookie(&cookie);
        for shard in 0..2 {
            let picks: Vec<_> = (0..5).map(|_| site.pick_by(shard, 0, named)).collect();
            assert_eq!(picks, [Some(at); 5]);
        }
        assert!(site.shards[0].set_cookie(&site.server(0, at), named).is_none(), "it has it already");
    }
    // No turn was used up by those.
    assert_eq!((0..4).map(|_| site.pick(0, 0).unwrap()).collect::<Vec<_>>(), [0, 2, 0, 2]);
    // Its server is down, or fails: another one, and a new cookie.
    let named = Affinity::by_cookie(&cookie_of(&site, 0));
    site.hold_down(0, true);
    assert_eq!(site.pick_by(0, 0, named), Some(2));
    assert!(site.shards[0].set_cookie(&site.server(0, 2), named).is_some());
    site.hold_down(0, false);
    site.server(0, 0).pass_over(0);
    assert_eq!(site.pick_by(0, 10, named), Some(2));
    assert_eq!(site.pick_by(0, BACK_OFF_MS, named), Some(0));
    // A cookie that names none.
    assert!(site.pick_by(0, 0, Affinity::by_cookie("0123456789abcdef")).is_some());
}

#[test]
fn a_server_that_comes_back_starts_with_little() {
    let slow = |policy| Balancing { slow_start: Duration::from_secs(30), ..by(policy) };
    let keys = |nth| Affinity::by_hash(mix(nth));
    for policy in POLICIES {
        let site = Site::new(1, &[Share::default(); 2], slow(policy));
        // All are new: none comes behind.
        assert_near(&format!("{policy:?} new"), &site.counts(2_000, 0, keys), &[1_000; 2], 10);
        site.hold_down(1, true);
        assert_eq!(site.counts(100, 100_000, keys), [100, 0]);
        site.hold_down(1, false);
        for (after_ms, percent) in [(0, 10), (15_000, 55), (30_000, 100), (60_000, 100)] {
            let counts = site.counts(11_000, 100_000 + after_ms, keys);
            // Which of the idle ones, by least requests: the one whose turn it is among those with the largest share.
            if policy == BalancePolicy::LeastRequests {
                assert_eq!(counts[1] > 0, percent == 100, "{counts:?}");
                continue;
            }
            // Of keys, the part that the other has lost; of turns, the part of both shares.
            let wanted = match policy {
                BalancePolicy::Hash => 5_500 * percent / 100,
                _ => 11_000 * percent / (100 + percent),
            };
            assert_near(&format!("{policy:?} after {after_ms}"), &counts[1..], &[wanted], 15);
        }
        // After a failed connection too.
        site.server(0, 1).pass_over(200_000);
        let counts = site.counts(1_000, 200_000 + BACK_OFF_MS, keys);
        assert!(counts[1] < 150, "{policy:?}: {counts:?}");
    }
    // Under load, by least requests: a tenth of the requests that the other has.
    let site = Site::new(1, &[Share::default(); 2], slow(BalancePolicy::LeastRequests));
    site.run(0, 1_000, |_| 100);
    site.hold_down(1, true);
    site.hold_down(1, false);
    let counts = site.run(100_000, 1_000, |_| 100);
    assert!(counts[1] * 6 < counts[0] && counts[1] > 0, "{counts:?}");
}

#[test]
fn servers_that_appear_and_vanish_are_taken_into_account() {
    for policy in POLICIES {
        for shards in [1, 2] {
            let mut site = Site::new(shards, &[Share::default(); 2], by(policy));
            let keys = |nth| Affinity::by_hash(mix(nth));
            assert_near(&format!("{policy:?}"), &site.counts(6_000, 0, keys), &[3_000; 2], 10);
            site.entries.push(Arc::new(ServerEntry::new(shards)));
            for shard in 0..shards {
                // Those that stay are the same ones.
                let mut servers = site.shards[shard].members().to_vec();
                servers.extend(site.servers(shard, &[Share::default(); 3]).pop());
                site.shards[shard].replace_members(servers);
            }
            assert_near(&format!("{policy:?} and one"), &site.counts(6_000, 0, keys), &[2_000; 3], 10);
            for shard in 0..shards {
                let servers = site.shards[shard].members()[1..].to_vec();
                site.shards[shard].replace_members(servers);
            }
            assert_near(&format!("{policy:?} less one"), &site.counts(6_000, 0, keys), &[3_000; 2], 10);
            site.shards.iter().for_each(|group| drop(group.replace_members(Vec::new())));
            assert_eq!(
                site.shards[0].pick(
                    Wanted { now_ms: 0, not: None, repeat: Repeat::Possible, affinity: keys(1) },
                    |_| Some(())
                ),
                None
            );
        }
    }
}
