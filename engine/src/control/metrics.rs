//! `GET /metrics`: the shards' counters and memory in the text format of Prometheus, on an address of its own.
//!
//! An ordinary thread answers one request at a time and closes the connection after each response. Scraping does not affect the
//! data path. Requests are parsed as strictly as those of clients.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Sender, SyncSender, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use sluice_proto::h1::{AnswerBody, ConnectionField, HeadStore, Parsed, parse_request, write_answer};
use sluice_proto::{Fault, HeadLimits, Method};

use super::live::{Live, LiveServer, LiveTls};
use super::series;
use crate::counters;
use crate::upstream::board::ServerBoard;

/// How long a visitor may take to ask, the control thread to look, and the visitor to take the answer; each.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest request.
const LIMITS: HeadLimits =
    HeadLimits { request_line_bytes_max: 1_024, head_bytes_max: 8_192, fields_max: 64 };

/// An address on which metrics will be served.
pub(crate) struct Metrics {
    listener: TcpListener,
}

/// An answer before it is written.
struct Answer {
    status: u16,
    fields: &'static [(&'static str, &'static str)],
    body: String,
    is_head_only: bool,
}

impl Metrics {
    /// Takes the address.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Metrics> {
        Ok(Metrics { listener: TcpListener::bind(address)? })
    }

    /// Where that is: port 0 takes any.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Begins to answer; what is asked about the shards goes to the control thread.
    pub(crate) fn serve<E: From<Sender<Live>> + Send + 'static>(
        self,
        events: SyncSender<E>,
        servers: Arc<ServerBoard>,
    ) -> io::Result<()> {
        let serve = move || {
            for stream in self.listener.incoming() {
                match stream {
                    // A visitor who is gone needs no answer.
                    Ok(stream) => drop(visit(stream, &events, &servers)),
                    // Out of descriptors: they may come back.
                    Err(_) => thread::sleep(PATIENCE),
                }
            }
        };
        thread::Builder::new().name("metrics".into()).spawn(serve).map(drop)
    }
}

fn visit<E: From<Sender<Live>>>(
    mut stream: TcpStream,
    events: &SyncSender<E>,
    servers: &ServerBoard,
) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let answer = answer(&mut stream, events, servers)?;
    let mut out = Vec::new();
    let date = httpdate::fmt_http_date(SystemTime::now());
    let Answer { status, fields, body, is_head_only } = &answer;
    write_answer(
        &mut out,
        *status,
        fields,
        &date,
        AnswerBody::text(body),
        ConnectionField::Close,
        *is_head_only,
    );
    stream.write_all(&out)
}

/// Reads a request and makes its answer.
fn answer<E: From<Sender<Live>>>(
    stream: &mut TcpStream,
    events: &SyncSender<E>,
    servers: &ServerBoard,
) -> io::Result<Answer> {
    let until = Instant::now() + PATIENCE;
    let (mut bytes, mut store) = (Vec::new(), HeadStore::default());
    loop {
        match parse_request(&bytes, &mut store, &LIMITS) {
            Ok(Parsed::Complete { head, .. }) => {
                return Ok(to_request(head.method, head.path, events, servers));
            }
            Ok(Parsed::Partial) => {}
            Err(fault) => return Ok(Answer::to_fault(fault)),
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let mut piece = [0; 1_024];
        match stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => bytes.extend_from_slice(&piece[..count]),
        }
    }
}

fn to_request<E: From<Sender<Live>>>(
    method: Method<'_>,
    path: &str,
    events: &SyncSender<E>,
    servers: &ServerBoard,
) -> Answer {
    let is_head_only = method == Method::Head;
    let plain = |status, body: &str| Answer { status, fields: &[], body: format!("{body}\n"), is_head_only };
    if path != "/metrics" {
        return plain(404, "only /metrics is here");
    }
    if !matches!(method, Method::Get | Method::Head) {
        return Answer { fields: &[("Allow", "GET, HEAD")], ..plain(405, "metrics can only be read") };
    }
    let (reply, replied) = channel();
    let asked = events.send(reply.into()).ok();
    match asked.and_then(|()| replied.recv_timeout(PATIENCE).ok()) {
        Some(live) => Answer { body: text(&live) + &series::text(servers), ..plain(200, "") },
        None => plain(503, "the control thread does not answer"),
    }
}

impl Answer {
    fn to_fault(fault: Fault) -> Answer {
        let body = format!("{}\n", fault.reason());
        Answer { status: fault.status(), fields: &[], body, is_head_only: false }
    }
}

/// The shards in the text format of Prometheus, version 0.0.4.
fn text(live: &Live) -> String {
    let mut text = String::with_capacity(16 << 10);
    let names = live.shards.first().map(|shard| shard.counters.keys()).into_iter().flatten();
    for name in names {
        let (suffix, kind) = if counters::is_of_now(name) { ("", "gauge") } else { ("_total", "counter") };
        let _ = writeln!(text, "# TYPE sluice_{name}{suffix} {kind}");
        for shard in &live.shards {
            let value = shard.counters.get(name).copied().unwrap_or(0);
            let _ = writeln!(text, "sluice_{name}{suffix}{{shard=\"{}\"}} {value}", shard.shard);
        }
    }
    text.push_str("# TYPE sluice_counters_age_seconds gauge\n");
    for shard in &live.shards {
        let age = shard.counters_age_ms as f64 / 1e3;
        let _ = writeln!(text, "sluice_counters_age_seconds{{shard=\"{}\"}} {age}", shard.shard);
    }
    text.push_str("# TYPE sluice_memory_pages gauge\n");
    for shard in &live.shards {
        for part in &shard.memory {
            let places = [
                ("local", part.pages_on_node),
                ("remote", part.pages_off_node),
                ("unknown", part.pages_unknown),
            ];
            for (place, pages) in places {
                let _ = writeln!(
                    text,
                    "sluice_memory_pages{{shard=\"{}\",part=\"{}\",node=\"{place}\"}} {pages}",
                    shard.shard, part.what,
                );
            }
        }
    }
    text.push_str("# TYPE sluice_shard_info gauge\n");
    for shard in &live.shards {
        let _ = writeln!(
            text,
            "sluice_shard_info{{shard=\"{}\",cpu=\"{}\",node=\"{}\",memory_node=\"{}\"}} 1",
            shard.shard, shard.cpu, shard.node, shard.memory_node,
        );
    }
    live.tls.iter().for_each(|tls| tls_text(&mut text, tls));
    if !live.servers.is_empty() {
        servers_text(&mut text, &live.servers);
    }
    let _ = writeln!(
        text,
        "# TYPE sluice_info gauge\nsluice_info{{version=\"{}\",steering=\"{}\",steered_by=\"{}\"}} 1",
        env!("CARGO_PKG_VERSION"),
        live.steering,
        live.steered_by,
    );
    text
}

fn tls_text(text: &mut String, tls: &LiveTls) {
    text.push_str("# TYPE sluice_tls_certificate_expiry_seconds gauge\n");
    for certificate in &tls.certificates {
        let _ = writeln!(
            text,
            "sluice_tls_certificate_expiry_seconds{{certificate=\"{}\",name=\"{}\"}} {}",
            label(&certificate.certificate),
            label(&certificate.name),
            certificate.expires_s,
        );
    }
    let age_s = tls.ticket_key_age_s;
    let _ = writeln!(
        text,
        "# TYPE sluice_tls_ticket_key_age_seconds gauge\nsluice_tls_ticket_key_age_seconds {age_s}"
    );
}

/// The servers that are checked.
fn servers_text(text: &mut String, servers: &[LiveServer]) {
    let labels = |server: &LiveServer| {
        format!("upstream=\"{}\",server=\"{}\"", label(&server.upstream), label(&server.server))
    };
    text.push_str("# TYPE sluice_health_checks_total counter\n");
    for server in servers {
        for (result, count) in [("passed", server.checks_passed), ("failed", server.checks_failed)] {
            let _ = writeln!(
                text,
                "sluice_health_checks_total{{{},result=\"{result}\"}} {count}",
                labels(server)
            );
        }
    }
    text.push_str("# TYPE sluice_health_checks_late_total counter\n");
    for server in servers {
        let _ =
            writeln!(text, "sluice_health_checks_late_total{{{}}} {}", labels(server), server.checks_late);
    }
}

/// The value of a label.
pub(super) fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::super::live::LiveCertificate;
    use super::*;

    #[test]
    fn certificates_are_a_series_each() {
        let certificate = LiveCertificate {
            certificate: "/etc/a \"b\"\\c\n.pem".into(),
            name: "shop.example".into(),
            expires_s: 1_795_309_323,
        };
        let tls = LiveTls { certificates: vec![certificate], ticket_key_age_s: 61 };
        let mut text = String::new();
        tls_text(&mut text, &tls);
        assert_eq!(
            text,
            "# TYPE sluice_tls_certificate_expiry_seconds gauge\n\
             sluice_tls_certificate_expiry_seconds{certificate=\"/etc/a \\\"b\\\"\\\\c\\n.pem\",name=\"shop.example\"} \
             1795309323\n\
             # TYPE sluice_tls_ticket_key_age_seconds gauge\nsluice_tls_ticket_key_age_seconds 61\n"
        );
    }
}
