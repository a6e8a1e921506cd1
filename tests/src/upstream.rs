//! A proxy in front of servers of HTTP/2, as several tests have it.

use std::net::SocketAddr;

use crate::{http2::Answer, origin, proxy::Proxy};

/// A proxy of one shard, with these flags.
pub async fn proxy_to(origin: SocketAddr, flags: &[&str]) -> Proxy {
    let target = format!("h2c://{origin}");
    let fixed = ["--listen", "127.0.0.1:0", "--shards", "1", "--upstream", &target];
    Proxy::start(&[&fixed, flags].concat()).await
}

/// Nothing is left of what was at work, and nothing remains at the end.
pub async fn assert_nothing_left(proxy: Proxy) {
    proxy
        .counters_until("nothing at work", |now| {
            let named = |name| now.named(name);
            named("h2_streams") == 0
                && named("h2_bodies_buffered") == 0
                && now.tasks_busy == 0
                && now.connections == 0
        })
        .await;
    proxy.drain().await.assert_clean();
}

/// Answers requests that are complete with the number of their connection.
pub fn by_connection(nth: usize, stream: u32, request: &Answer) -> Option<Vec<u8>> {
    request.is_complete.then(|| origin::answer(stream, &nth.to_string()))
}

/// What a request asks for.
pub fn path(request: &Answer) -> &str {
    request.field(":path").unwrap_or_default()
}
