//! A name server on loopback that says what a test has written down.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use tokio::{net::UdpSocket, sync::watch, task::JoinHandle};

const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const IN: u16 = 1;

/// What a name has.
#[derive(Debug, Clone, Default)]
struct Records {
    ttl: u32,
    addresses: Vec<IpAddr>,
    /// Priority, weight, port and host.
    services: Vec<(u16, u16, u16, String)>,
}

/// The server; it stops when dropped.
#[derive(Debug)]
pub struct Dns {
    /// Where it listens.
    pub address: SocketAddr,
    names: Arc<Mutex<BTreeMap<String, Records>>>,
    is_silent: Arc<watch::Sender<bool>>,
    questions: Arc<watch::Sender<usize>>,
    task: JoinHandle<()>,
}

impl Dns {
    /// Starts on a free port.
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let address = socket.local_addr().expect("bound");
        let names: Arc<Mutex<BTreeMap<String, Records>>> = Arc::default();
        let (is_silent, questions) = (Arc::new(watch::Sender::new(false)), Arc::new(watch::Sender::new(0)));
        let (known, silent, asked) = (names.clone(), is_silent.clone(), questions.clone());
        let task = tokio::spawn(async move {
            let mut question = [0; 1500];
            while let Ok((bytes, peer)) = socket.recv_from(&mut question).await {
                asked.send_modify(|asked| *asked += 1);
                if *silent.borrow() {
                    continue;
                }
                let answer = answer(&question[..bytes], &known.lock().expect("no panic"));
                let _ = socket.send_to(&answer, peer).await;
            }
        });
        Self { address, names, is_silent, questions, task }
    }

    /// From now on a name has these addresses.
    pub fn set(&self, name: &str, ttl: u32, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().expect("an address")).collect();
        self.write(name, Records { ttl, addresses, services: Vec::new() });
    }

    /// From now on a name has these SRV records: priority, weight, port and host.
    pub fn set_services(&self, name: &str, ttl: u32, services: &[(u16, u16, u16, &str)]) {
        let services = services
            .iter()
            .map(|(priority, weight, port, host)| (*priority, *weight, *port, (*host).to_owned()));
        self.write(name, Records { ttl, addresses: Vec::new(), services: services.collect() });
    }

    fn write(&self, name: &str, records: Records) {
        self.names.lock().expect("no panic").insert(name.to_owned(), records);
    }

    /// From now on there is no answer, or there is one again.
    pub fn be_silent(&self, is_silent: bool) {
        self.is_silent.send_replace(is_silent);
    }

    /// How many questions have come.
    pub fn questions(&self) -> usize {
        *self.questions.borrow()
    }

    /// The keys of an upstream that asks this server.
    pub fn keys(&self, more: &str) -> String {
        format!("resolve = {{ min = \"100ms\", nameservers = [\"{}\"]{more} }}", self.address)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// RFC 1035, section 4. Names that are not written down do not exist.
fn answer(question: &[u8], names: &BTreeMap<String, Records>) -> Vec<u8> {
    let (name, end) = read_name(question, 12);
    let kind = u16::from_be_bytes([question[end], question[end + 1]]);
    let records = names.get(&name.to_ascii_lowercase());
    let mut data: Vec<(u16, Vec<u8>)> = Vec::new();
    for address in records.iter().flat_map(|records| &records.addresses) {
        match address {
            IpAddr::V4(v4) if kind == A => data.push((A, v4.octets().to_vec())),
            IpAddr::V6(v6) if kind == AAAA => data.push((AAAA, v6.octets().to_vec())),
            _ => {}
        }
    }
    for (priority, weight, port, host) in records.iter().flat_map(|records| &records.services) {
        if kind == SRV {
            let mut record: Vec<u8> = [priority, weight, port].iter().flat_map(|n| n.to_be_bytes()).collect();
            for label in host.split('.') {
                record.push(label.len() as u8);
                record.extend_from_slice(label.as_bytes());
            }
            record.push(0);
            data.push((SRV, record));
        }
    }
    let no_such_name = if records.is_none() { 3 } else { 0 };
    let mut out = vec![question[0], question[1], 0x81, 0x80 | no_such_name, 0, 1];
    out.extend_from_slice(&(data.len() as u16).to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&question[12..end + 4]);
    for (kind, data) in data {
        // A pointer to the name in the question.
        out.extend_from_slice(&[0xc0, 12]);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&IN.to_be_bytes());
        out.extend_from_slice(&records.map_or(0, |records| records.ttl).to_be_bytes());
        out.extend_from_slice(&(data.len() as u16).to_be_bytes());
        out.extend_from_slice(&data);
    }
    out
}

/// The name at this place, and where it ends.
fn read_name(message: &[u8], mut at: usize) -> (String, usize) {
    let mut labels = Vec::new();
    while message[at] != 0 {
        let end = at + 1 + usize::from(message[at]);
        labels.push(String::from_utf8_lossy(&message[at + 1..end]).into_owned());
        at = end;
    }
    (labels.join("."), at + 1)
}
