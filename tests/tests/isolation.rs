//! One client's bytes never reach another, however their requests interleave.
//!
//! Buffers of a proxy pass from connection to connection; a stale one shows as a byte of another client. So
//! every client here fills its bodies with a byte of its own, and looks at every byte that comes back.

use sluice_tests::{client::Raw, origin, proxy::Proxy};
use tokio::task::JoinSet;

const CLIENTS: u8 = 16;
const ROUNDS: usize = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_of_an_answer_is_for_its_client() {
    let origin = origin::real("real").await;
    let proxy = Proxy::to(origin.address).await;
    let mut clients = JoinSet::new();
    for byte in 1..=CLIENTS {
        clients.spawn(echoes(Raw::connect(proxy.address).await, byte));
    }
    // Meanwhile others come, leave bytes of their own in the buffers, and vanish in the middle.
    let address = proxy.address;
    clients.spawn(async move {
        for round in 0..ROUNDS {
            let mut client = Raw::connect(address).await;
            let head = "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n";
            let _ = client.try_send([head.as_bytes(), &[0xee; 20_000]].concat()).await;
            if round % 2 == 0 {
                client.reset();
            }
        }
    });
    clients.join_all().await;
}

/// Posts bodies of `byte` in sizes around those of buffers, and checks what comes back.
async fn echoes(mut client: Raw, byte: u8) {
    const SIZES: [usize; 8] = [1, 63, 1024, 4095, 4096, 8200, 16_383, 33_000];
    for round in 0..ROUNDS {
        let size = SIZES[(round + usize::from(byte)) % SIZES.len()];
        let (framing, body) = if round % 3 == 0 {
            let chunk = [format!("{size:x}\r\n").as_bytes(), &vec![byte; size], b"\r\n0\r\n\r\n"].concat();
            ("Transfer-Encoding: chunked".to_owned(), chunk)
        } else {
            (format!("Content-Length: {size}"), vec![byte; size])
        };
        let head = format!("POST /copy HTTP/1.1\r\nHost: test\r\nX-Client: {byte}\r\n{framing}\r\n\r\n");
        client.send([head.as_bytes(), &body].concat()).await;
        let answer = client.answer_to("POST").await;
        let foreign = answer.body.iter().position(|&found| found != byte);
        assert_eq!((answer.body.len(), foreign), (size, None), "client {byte}, round {round}");
    }
}
