//! HTTPS to an authority, as instant-acme wants it: one request on a connection of its own, on the thread that asks.
//!
//! An order takes some twenty requests every two months: neither an event loop nor kept connections are worth their code.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::future::Future;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use sluice_proto::h1::{ChunkEvent, ChunkedDecoder, HeadStore, Parsed, parse_response};
use sluice_proto::{BodyLength, ChunkLimits, Fault, HeadLimits, Method, RequestKind};
use sluice_tls::certificates::load_roots;

/// How long an authority may take to be reached, and for each response.
const PATIENCE: Duration = Duration::from_secs(30);

/// The largest response; a chain of certificates has some KiB.
const RESPONSE_BYTES_MAX: usize = 1 << 20;

const LIMITS: HeadLimits =
    HeadLimits { request_line_bytes_max: 8_192, head_bytes_max: 65_536, fields_max: 128 };

const CHUNKS: ChunkLimits =
    ChunkLimits { extension_bytes_max: 1_024, trailer_bytes_max: 8_192, trailer_fields_max: 16 };

/// A client of authorities.
#[derive(Clone)]
pub(super) struct Https(Arc<ClientConfig>);

impl Https {
    /// One that verifies servers by this file, or by the authorities of the system.
    ///
    /// # Errors
    /// One line: no authority can be read.
    pub(super) fn new(ca: Option<&Path>) -> Result<Https, String> {
        let roots = load_roots(ca)?.store;
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
        Ok(Https(Arc::new(builder.with_root_certificates(roots).with_no_client_auth())))
    }

    fn exchange(&self, request: &http::Request<()>, body: &[u8]) -> Result<http::Response<Bytes>, Failure> {
        let uri = request.uri();
        let host = uri.host().ok_or("an address without a host")?;
        // IPv6 addresses have brackets in an address, and none in a certificate.
        let name = host.trim_matches(['[', ']']).to_owned();
        if uri.scheme_str() != Some("https") {
            return Err(format!("{uri} is not an https:// address").into());
        }
        let until = Instant::now() + PATIENCE;
        let stream = connect(&name, uri.port_u16().unwrap_or(443), until)?;
        let connection = ClientConnection::new(self.0.clone(), ServerName::try_from(name)?)?;
        let mut stream = StreamOwned::new(connection, stream);
        stream.write_all(&head(request, host, body.len())?)?;
        stream.write_all(body)?;
        stream.flush()?;
        read_response(&mut stream, request.method() == http::Method::HEAD, until)
    }
}

type Failure = Box<dyn StdError + Send + Sync>;

impl HttpClient for Https {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let Ok(body) = body.collect().await;
            let body = body.to_bytes();
            let request = http::Request::from_parts(parts, ());
            let response = client.exchange(&request, &body).map_err(|why| {
                Error::Other(
                    format!("{}: {why}", request.uri().authority().map_or("?", |host| host.as_str())).into(),
                )
            })?;
            let (parts, body) = response.into_parts();
            Ok(BytesResponse { parts, body: Box::new(body) })
        })
    }
}

fn connect(name: &str, port: u16, until: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (name, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left(until)?) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// The head of the request. The connection ends with its response.
fn head(request: &http::Request<()>, host: &str, length: usize) -> Result<Vec<u8>, Failure> {
    let uri = request.uri();
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let port = uri.port().map(|port| format!(":{port}")).unwrap_or_default();
    let mut head =
        format!("{} {target} HTTP/1.1\r\nHost: {host}{port}\r\nConnection: close\r\n", request.method());
    for (name, value) in request.headers() {
        write!(head, "{name}: {}\r\n", value.to_str()?)?;
    }
    if request.method() == http::Method::POST {
        write!(head, "Content-Length: {length}\r\n")?;
    }
    head.push_str("\r\n");
    Ok(head.into_bytes())
}

/// Reads until the response is complete.
fn read_response(
    stream: &mut StreamOwned<ClientConnection, TcpStream>,
    is_head: bool,
    until: Instant,
) -> Result<http::Response<Bytes>, Failure> {
    let kind = RequestKind::from(if is_head { Method::Head } else { Method::Get });
    let (mut bytes, mut has_ended) = (Vec::new(), false);
    loop {
        if let Some(response) = parse(&bytes, &kind, has_ended)? {
            return Ok(response);
        }
        if has_ended {
            return Err("the response was cut off".into());
        }
        if bytes.len() > RESPONSE_BYTES_MAX {
            return Err("the response is too large".into());
        }
        stream.sock.set_read_timeout(Some(left(until)?))?;
        let mut piece = [0; 4_096];
        match stream.read(&mut piece) {
            Ok(0) => has_ended = true,
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            // Without close_notify nothing is known to be complete that does not say how long it is.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err("the response was cut off".into());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The response in these bytes if they are all of it.
fn parse(
    bytes: &[u8],
    kind: &RequestKind,
    has_ended: bool,
) -> Result<Option<http::Response<Bytes>>, Failure> {
    let mut store = HeadStore::default();
    let parsed = parse_response(bytes, &mut store, &LIMITS, kind).map_err(Fault::reason)?;
    let Parsed::Complete { head, bytes: head_bytes } = parsed else { return Ok(None) };
    let rest = &bytes[head_bytes..];
    if head.is_interim() {
        return parse(rest, kind, has_ended);
    }
    let body = match head.body {
        BodyLength::None => Some(Vec::new()),
        BodyLength::Length(length) => {
            usize::try_from(length).ok().and_then(|length| rest.get(..length)).map(<[u8]>::to_vec)
        }
        BodyLength::Streamed if head.until_close => has_ended.then(|| rest.to_vec()),
        BodyLength::Streamed => decode(rest)?,
    };
    let Some(body) = body else { return Ok(None) };
    let mut response = http::Response::builder().status(head.status);
    for field in head.fields() {
        response = response.header(field.name, field.value);
    }
    Ok(Some(response.body(body.into())?))
}

/// The data of a body in chunks, if all of it is there.
fn decode(mut rest: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
    let mut decoder = ChunkedDecoder::new(CHUNKS);
    let mut data = Vec::new();
    loop {
        let (used, event) = decoder.next(rest).map_err(Fault::reason)?;
        match event {
            ChunkEvent::Data(range) => data.extend_from_slice(&rest[range]),
            ChunkEvent::NeedMore => return Ok(None),
            ChunkEvent::End => return Ok(Some(data)),
            _ => {}
        }
        rest = &rest[used..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(bytes: &str, method: Method<'_>, has_ended: bool) -> Option<(u16, Vec<u8>)> {
        let response = parse(bytes.as_bytes(), &RequestKind::from(method), has_ended).unwrap()?;
        Some((response.status().as_u16(), response.body().to_vec()))
    }

    #[test]
    fn a_response_is_complete_with_its_last_byte() {
        let length = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 2\r\nReplay-Nonce: n\r\n\r\n{}";
        let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n";
        for (text, status) in [(length, 201), (chunks, 200)] {
            for end in 0..text.len() {
                assert_eq!(parsed(&text[..end], Method::Post, false), None, "{end}");
            }
            assert_eq!(parsed(text, Method::Post, false), Some((status, b"{}".to_vec())));
        }
        let closed = "HTTP/1.1 200 OK\r\n\r\n{}";
        assert_eq!(parsed(closed, Method::Get, false), None);
        assert_eq!(parsed(closed, Method::Get, true), Some((200, b"{}".to_vec())));
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 700\r\nReplay-Nonce: n\r\n\r\n";
        assert_eq!(parsed(head, Method::Head, false), Some((200, Vec::new())));
    }

    #[test]
    fn a_request_names_the_host_with_its_port() {
        let request = http::Request::post("https://[::1]:14000/a?b").header("A", "b").body(()).unwrap();
        let text = String::from_utf8(head(&request, "[::1]", 7).unwrap()).unwrap();
        let expected = "POST /a?b HTTP/1.1\r\nHost: [::1]:14000\r\nConnection: close\r\na: b\r\nContent-Length: 7\r\n\r\n";
        assert_eq!(text, expected);
    }
}
