//! Connections to servers that are kept: how many, for how long, and what happens when one has ended just before a request.

use std::time::Duration;

use rustix::process::Signal;
use sluice_tests::{
    client::Raw,
    origin::{self, Go, Origin, Traffic},
    proxy::{self, Counters, Proxy},
    within, within_time,
};
use tokio::process::Command;

/// Idle connections that stay without a peak.
const KEPT: u64 = 16;

/// A request of each client is under way, in the order of the clients.
async fn begin(origin: &Origin, clients: &mut [Raw], target: &str) {
    let line = format!("GET {target} ");
    let arrived = |traffic: &[Traffic]| {
        traffic.iter().map(|one| String::from_utf8_lossy(&one.bytes).matches(&line).count()).sum::<usize>()
    };
    let before = arrived(&origin.recorder.traffic());
    for (client, nth) in clients.iter_mut().zip(1..) {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        origin.recorder.wait_for("the request", |traffic| arrived(traffic) == before + nth).await;
    }
}

/// The requests are answered, one after the other.
async fn end(proxy: &Proxy, go: &Go, clients: &mut [Raw]) {
    for client in clients {
        go.steps(1);
        assert_eq!(client.answer_to("GET").await.text(), "signalled");
    }
    proxy.counters_until("all are idle", |now| now.upstream_connections == now.named("upstream_idle")).await;
}

async fn peak(proxy: &Proxy, origin: &Origin, go: &Go, clients: &mut [Raw], target: &str) {
    begin(origin, clients, target).await;
    end(proxy, go, clients).await;
}

async fn clients(proxy: &Proxy, count: usize) -> Vec<Raw> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(Raw::connect(proxy.address).await);
    }
    clients
}

#[tokio::test]
async fn a_peak_is_kept_and_given_back() {
    const PEAK: usize = 100;
    let go = Go::new();
    let origin = origin::answers_on_signal(go.clone()).await;
    let proxy = Proxy::to(origin.address).await;
    let mut clients = clients(&proxy, PEAK).await;
    peak(&proxy, &origin, &go, &mut clients, "/first").await;
    let first = proxy.counters().await;
    assert_eq!((first.upstream_connects, first.named("upstream_idle")), (PEAK as u64, PEAK as u64));
    peak(&proxy, &origin, &go, &mut clients, "/second").await;
    let second = proxy.counters().await;
    assert_eq!((second.upstream_connects, second.upstream_reuses), (PEAK as u64, PEAK as u64));
    // Without a further request, and long before timeouts.upstream_idle.
    let given_back = async {
        while proxy.counters().await.named("upstream_idle") > KEPT {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within_time(Duration::from_secs(40), "the peak is given back", given_back).await;
    let last = proxy.counters().await;
    let counted = ["upstream_idle", "upstream_connections", "upstream_surplus_closed", "upstream_not_kept"]
        .map(|name| last.named(name));
    assert_eq!(counted, [KEPT, KEPT, PEAK as u64 - KEPT, 0], "{last:?}");
    // Those that were used last are left, and nothing is lost on the way.
    let ended: Vec<bool> = origin.recorder.traffic().iter().map(|one| one.ended).collect();
    let expected: Vec<bool> = (0..PEAK).map(|nth| nth >= KEPT as usize).collect();
    assert_eq!(ended, expected);
    peak(&proxy, &origin, &go, &mut clients[..20], "/third").await;
    assert_eq!(proxy.counters().await.upstream_connects, PEAK as u64 + 4);
    drop(clients);
    proxy.drain().await.assert_clean();
}

#[tokio::test]
async fn a_limit_is_a_limit_whatever_the_peak() {
    let go = Go::new();
    let origin = origin::answers_on_signal(go.clone()).await;
    let proxy = Proxy::to_with(origin.address, &["--limit-upstream-idle-connections=3"]).await;
    let mut clients = clients(&proxy, 10).await;
    peak(&proxy, &origin, &go, &mut clients, "/").await;
    let counters = proxy.counters().await;
    assert_eq!(
        (counters.named("upstream_idle"), counters.named("upstream_not_kept")),
        (3, 7),
        "{counters:?}"
    );
}

/// A proxy with so few descriptors, and what goes to `/first` and to `/second`.
async fn confined(descriptors: u32, go: &Go) -> (Proxy, [Origin; 2]) {
    let origins = [origin::answers_on_signal(go.clone()).await, origin::answers_on_signal(go.clone()).await];
    let [first, second] = origins.each_ref().map(|origin| origin.address);
    let config = proxy::config_file(
        ".toml",
        &format!(
            "listen = [\"127.0.0.1:0\"]\nshards = 1\n\
             [[upstream]]\nname = \"first\"\nservers = [\"http://{first}\"]\n\
             [[upstream]]\nname = \"second\"\nservers = [\"http://{second}\"]\n\
             [[route]]\npath = \"/first\"\nupstream = \"first\"\n\
             [[route]]\npath = \"/second\"\nupstream = \"second\"\n"
        ),
    );
    let mut command = Command::new("prlimit");
    command
        .arg(format!("--nofile={descriptors}"))
        .arg(proxy::binary().await)
        .arg("--config")
        .arg(config.path());
    (Proxy::spawn(command, Some(config)).await, origins)
}

/// Without the idle connections to the first server there are too few descriptors for those to the second.
#[tokio::test]
async fn idle_connections_make_room_for_those_that_requests_need() {
    let go = Go::new();
    let (proxy, origins) = confined(180, &go).await;
    let mut clients = clients(&proxy, 60).await;
    for (origin, target) in [(&origins[0], "/first"), (&origins[1], "/second"), (&origins[0], "/first")] {
        peak(&proxy, origin, &go, &mut clients, target).await;
        let counters = proxy.counters().await;
        assert_eq!(
            (counters.local_responses, counters.named("accept_errors")),
            (0, 0),
            "{target}: {counters:?}"
        );
    }
    assert!(proxy.counters().await.named("upstream_not_kept") > 0);
}

/// Of 193 descriptors 48 are set aside. 45 clients leave 100 of the rest, of which a quarter is for new clients.
#[tokio::test]
async fn idle_connections_leave_descriptors_for_new_clients() {
    let go = Go::new();
    let (proxy, origins) = confined(193, &go).await;
    let mut clients = clients(&proxy, 45).await;
    peak(&proxy, &origins[0], &go, &mut clients, "/first").await;
    assert_eq!(proxy.counters().await.named("upstream_idle"), 45);
    begin(&origins[1], &mut clients, "/second").await;
    let counters = proxy.counters().await;
    let counted =
        ["upstream_connections", "upstream_idle", "upstream_not_kept"].map(|name| counters.named(name));
    assert_eq!(counted, [75, 30, 15], "{counters:?}");
    end(&proxy, &go, &mut clients).await;
}

/// The end of a kept connection arrives in the same moment as a request that cannot be sent again, and after it: the ring reports
/// it behind the request.
#[tokio::test]
async fn a_post_does_not_go_out_on_a_connection_that_has_just_ended() {
    for streamed in [false, true] {
        let (go, closed) = (Go::new(), Go::new());
        let origin = origin::ends_idle_on_signal(go.clone(), closed.clone()).await;
        let proxy = Proxy::to(origin.address).await;
        let mut client = Raw::connect(proxy.address).await;
        assert_eq!(client.ask("GET", "/").await.text(), "once");
        for nth in 1..=5 {
            proxy.counters_until("the connection is kept", |now| now.named("upstream_idle") == 1).await;
            proxy.freeze().await;
            let body = if streamed { "" } else { "body" };
            client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\n{body}")).await;
            go.steps(1);
            within("the end of the kept connection", closed.wait()).await.unwrap();
            proxy.signal(Signal::CONT);
            if streamed {
                client.send("body").await;
            }
            assert_eq!(client.answer_to("POST").await.text(), "once", "request {nth}, streamed: {streamed}");
            let counted =
                |now: &Counters| (now.named("upstream_stale"), now.upstream_retries, now.upstream_connects);
            assert_eq!(counted(&proxy.counters().await), (nth, 0, nth + 1), "streamed: {streamed}");
        }
    }
}

/// One that can be sent again costs no look.
#[tokio::test]
async fn a_get_on_a_connection_that_has_just_ended_is_sent_again() {
    let (go, closed) = (Go::new(), Go::new());
    let origin = origin::ends_idle_on_signal(go.clone(), closed.clone()).await;
    let proxy = Proxy::to(origin.address).await;
    let mut client = Raw::connect(proxy.address).await;
    assert_eq!(client.ask("GET", "/").await.text(), "once");
    proxy.counters_until("the connection is kept", |now| now.named("upstream_idle") == 1).await;
    proxy.freeze().await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    go.steps(1);
    within("the end of the kept connection", closed.wait()).await.unwrap();
    proxy.signal(Signal::CONT);
    assert_eq!(client.answer_to("GET").await.text(), "once");
    let counters = proxy.counters().await;
    assert_eq!((counters.named("upstream_stale"), counters.upstream_retries), (0, 1), "{counters:?}");
}
