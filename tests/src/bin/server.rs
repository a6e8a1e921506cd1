//! A server of HTTP/1.1 in a process of its own, which a test can stop, continue and kill: `server NAME [PORT]`.
//!
//! It prints the port it listens on, and answers every request with its name, as soon as it has come. A path `/after/MS` is answered
//! after so many milliseconds, `/status/CODE` with this status. A server `NAME:MS` takes so many milliseconds for everything.

use std::{
    env,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

fn main() -> io::Result<()> {
    let mut arguments = env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let port: u16 = arguments.next().and_then(|port| port.parse().ok()).unwrap_or(0);
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    println!("{}", listener.local_addr()?.port());
    for stream in listener.incoming() {
        let (name, stream) = (name.clone(), stream?);
        thread::spawn(move || serve(&name, stream));
    }
    Ok(())
}

/// Answers the requests of a connection, until it ends.
fn serve(name: &str, stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = (BufReader::new(stream.try_clone()?), stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut length = 0;
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            if line.trim_end().is_empty() {
                break;
            }
            let value = line.to_ascii_lowercase();
            if let Some(value) = value.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        io::copy(&mut reader.by_ref().take(length), &mut io::sink())?;
        let number = |prefix| path.strip_prefix(prefix).and_then(|number: &str| number.parse().ok());
        let its_own = name.split_once(':').and_then(|(_, ms)| ms.parse().ok());
        if let Some(ms) = number("/after/").or(its_own) {
            thread::sleep(Duration::from_millis(ms));
        }
        let status = number("/status/").unwrap_or(200);
        let response = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{name}", name.len());
        writer.write_all(response.as_bytes())?;
    }
}
