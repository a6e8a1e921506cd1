//! What TLS changes about requests: the host that a connection is for, certificates of clients, HSTS, and the way to https://.

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sluice_tests::{
    client::{self, Raw},
    origin,
    proxy::{Proxy, binary, config_file},
    skip,
    wire::{Reader, Response},
    within,
};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, net::TcpStream, process::Command};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// An authority, two certificates for servers and one for a client, as files.
struct Certificates {
    folder: TempDir,
    authority: CertificateDer<'static>,
    client: (CertificateDer<'static>, PrivateKeyDer<'static>),
}

impl Certificates {
    /// One certificate is for a.example and b.example, the other for c.example and *.d.example.
    fn new() -> Certificates {
        let folder = TempDir::new().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "trial authority");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        let make = |file: &str, names: &[&str], subject: &str| {
            let mut params =
                CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, subject);
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap();
            fs::write(folder.path().join(format!("{file}.pem")), certificate.pem()).unwrap();
            fs::write(folder.path().join(format!("{file}.key")), key.serialize_pem()).unwrap();
            (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        };
        make("first", &["a.example", "b.example"], "first");
        make("second", &["c.example", "*.d.example"], "second");
        let client = make("client", &["partner.example"], "partner, of ours");
        Certificates { authority: certificate.der().clone(), client, folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A proxy with this configuration beside the certificates, and where its listeners are.
    async fn proxy(&self, text: &str) -> (Proxy, Vec<SocketAddr>) {
        let folder = self.folder.path().display();
        let certificate = |name: &str| {
            format!("[[certificate]]\ncert = \"{folder}/{name}.pem\"\nkey = \"{folder}/{name}.key\"\n")
        };
        let text = text.replace("CA.PEM", &self.file("ca.pem").display().to_string());
        let text = format!("shards = 1\n{}{}{text}", certificate("first"), certificate("second"));
        let config = config_file(".toml", &text);
        let mut command = Command::new(binary().await);
        command.arg("--config").arg(config.path());
        let proxy = Proxy::spawn(command, Some(config)).await;
        let addresses =
            |line: String| line.strip_prefix("listening on ").and_then(|address| address.parse().ok());
        let addresses = proxy.messages().into_iter().filter_map(addresses).collect();
        (proxy, addresses)
    }

    /// What clients trust, and whether they show their certificate.
    fn settings(&self, shows: Shows) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).unwrap();
        let builder = ClientConfig::builder().with_root_certificates(roots);
        Arc::new(match shows {
            Shows::Nothing => builder.with_no_client_auth(),
            Shows::Certificate => {
                let (certificate, key) = &self.client;
                builder.with_client_auth_cert(vec![certificate.clone()], key.clone_key()).unwrap()
            }
        })
    }

    async fn connect(&self, address: SocketAddr, name: &str) -> Client {
        Client::connect(&self.settings(Shows::Nothing), address, name).await
    }
}

#[derive(Clone, Copy)]
enum Shows {
    Nothing,
    Certificate,
}

/// A client over TLS.
struct Client(Reader<TlsStream<TcpStream>>);

impl Client {
    async fn connect(settings: &Arc<ClientConfig>, address: SocketAddr, name: &str) -> Client {
        let stream = within("connect", TcpStream::connect(address)).await.unwrap();
        // The certificate is for names: rustls asks for none where it is given an address, and none is verified then.
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connecting = TlsConnector::from(settings.clone()).connect(name, stream);
        Client(Reader::new(within("the handshake", connecting).await.expect("the proxy is trusted")))
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let stream = self.0.stream();
        within("sending", async {
            stream.write_all(bytes.as_ref()).await?;
            stream.flush().await
        })
        .await
        .unwrap();
    }

    async fn response(&mut self) -> Response {
        within("a response", self.0.response("GET")).await.expect("a whole response")
    }

    async fn ask(&mut self, host: &str) -> u16 {
        self.send(get("/", host)).await;
        self.response().await.status()
    }
}

fn get(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// Routes everything to this server.
fn all_to(origin: SocketAddr) -> String {
    format!("[[upstream]]\nname = \"o\"\nservers = [\"http://{origin}\"]\n[[route]]\nupstream = \"o\"\n")
}

fn listener(more: &str) -> String {
    format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{more}\n")
}

/// Every value of a field in what a server has got.
fn values<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    let fields = text.split("\r\n").filter_map(|line| line.split_once(": "));
    fields.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
}

#[tokio::test]
async fn a_host_with_another_certificate_is_misdirected() {
    let origin = origin::answers(origin::ok("ok")).await;
    let certificates = Certificates::new();
    let text = listener("tls = \"on\"") + &all_to(origin.address);
    let (proxy, addresses) = certificates.proxy(&text).await;
    let (mut refused, mut served) = (0, 0);
    for (name, hosts) in [
        (
            "a.example",
            &[
                ("a.example", 200),
                ("A.Example:443", 200),
                ("a.example.", 200),
                ("b.example", 200),
                ("c.example", 421),
                ("x.d.example", 421),
                ("a.example", 200),
                // They would get the first certificate too.
                ("unknown.example", 200),
                ("[::1]", 200),
            ][..],
        ),
        (
            "x.d.example",
            &[
                ("x.d.example", 200),
                ("Y.D.example:8443", 200),
                ("c.example", 200),
                ("x.y.d.example", 421),
                ("d.example", 421),
                ("a.example", 421),
                ("unknown.example", 421),
                ("127.0.0.1", 421),
                ("[::1]:1", 421),
            ],
        ),
    ] {
        // The second connection resumes the session of the first, and is for the same name.
        let settings = certificates.settings(Shows::Nothing);
        for _ in 0..2 {
            let mut client = Client::connect(&settings, addresses[0], name).await;
            // All at once: each request is judged by itself.
            client.send(hosts.iter().map(|(host, _)| get("/", host)).collect::<String>()).await;
            for (host, status) in hosts {
                let response = client.response().await;
                assert_eq!(response.status(), *status, "{host} over a connection for {name}");
                if *status == 421 {
                    let text = "Misdirected Request: this connection was opened for another host\n";
                    assert_eq!(response.text(), text);
                    refused += 1;
                } else {
                    served += 1;
                }
            }
        }
    }
    // A whole URI as the target counts like Host.
    let mut client = certificates.connect(addresses[0], "a.example").await;
    for (host, status) in [("b.example", 200), ("c.example:443", 421)] {
        client.send(get(&format!("https://{host}/"), host)).await;
        assert_eq!(client.response().await.status(), status, "{host}");
    }
    // A request with a body that nothing has read ends the connection.
    let mut client = certificates.connect(addresses[0], "a.example").await;
    client.send("POST / HTTP/1.1\r\nHost: c.example\r\nContent-Length: 5\r\n\r\nGET /").await;
    let response = client.response().await;
    assert_eq!((response.status(), response.field("Connection")), (421, Some("close")));
    // Of a client of HTTP/1.0 nothing is known that differs.
    let mut client = certificates.connect(addresses[0], "c.example").await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.response().await.status(), 200);
    let counters = proxy.counters().await;
    assert_eq!(counters.named("requests_misdirected"), refused + 2);
    assert_eq!(counters.named("tls_resumptions"), 2);
    assert_eq!(origin.recorder.text().matches(" HTTP/1.1\r\n").count(), served + 2);
}

#[tokio::test]
async fn a_client_that_asks_for_no_name_may_name_any_host() {
    let origin = origin::answers(origin::ok("ok")).await;
    let certificates = Certificates::new();
    let text = listener("tls = \"on\"") + &all_to(origin.address);
    let (_proxy, addresses) = certificates.proxy(&text).await;
    let mut settings = ClientConfig::clone(&certificates.settings(Shows::Nothing));
    settings.enable_sni = false;
    let mut client = Client::connect(&Arc::new(settings), addresses[0], "a.example").await;
    for host in ["a.example", "c.example", "unknown.example"] {
        assert_eq!(client.ask(host).await, 200, "{host}");
    }
}

#[tokio::test]
async fn where_clients_are_asked_for_certificates_the_host_is_the_name() {
    let origin = origin::answers(origin::ok("ok")).await;
    let certificates = Certificates::new();
    for mode in ["optional", "required"] {
        let own = format!("tls = \"on\"\nclient_certificates = \"{mode}\"\nclient_ca = \"CA.PEM\"");
        let (_proxy, addresses) = certificates.proxy(&(listener(&own) + &all_to(origin.address))).await;
        let settings = certificates.settings(Shows::Certificate);
        let mut client = Client::connect(&settings, addresses[0], "a.example").await;
        for (host, status) in
            [("a.example", 200), ("A.EXAMPLE.:443", 200), ("b.example", 421), ("c.example", 421)]
        {
            assert_eq!(client.ask(host).await, status, "{host}, {mode}");
        }
    }
}

#[tokio::test]
async fn curl_is_refused_and_served_by_host() {
    let origin = origin::answers(origin::ok("ok")).await;
    let certificates = Certificates::new();
    let text = listener("tls = \"on\"") + &all_to(origin.address);
    let (_proxy, addresses) = certificates.proxy(&text).await;
    let port = addresses[0].port();
    let (url, to) = (format!("https://a.example:{port}/"), format!("a.example:{port}:127.0.0.1"));
    let authority = certificates.file("ca.pem").display().to_string();
    for (host, status) in
        [(format!("a.example:{port}"), "200"), ("b.example".into(), "200"), ("c.example".into(), "421")]
    {
        let host = format!("Host: {host}");
        let fixed =
            ["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", &authority, "--resolve", &to];
        let arguments = [&fixed[..], &["-H", &host, &url]].concat();
        let Some(printed) = client::program("curl", &arguments).await else { return };
        assert_eq!(printed, status, "{host}");
    }
}

/// A request to this path in which a client claims a certificate.
fn forged(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: a.example\r\nX-Client-Cert-Subject: CN=root\r\n\
         X_Client_Cert_Subject: CN=root\r\nx-client_cert-san: DNS:root\r\nX-CLIENT-CERT-FINGERPRINT: 00\r\n\
         X-Client-Cert: root\r\nX-JA4: root\r\nX_JA4: root\r\nX-Client-Id: 7\r\n\r\n"
    )
}

const WITH_PARTNERS: &str =
    "[[route]]\npath_prefix = \"/partners\"\nupstream = \"o\"\nclient_certificate = true\n";

#[tokio::test]
async fn servers_learn_of_certificates_what_the_handshake_says() {
    let origin = origin::answers(origin::ok("ok")).await;
    let certificates = Certificates::new();
    let ask = "tls = \"detect\"\nclient_certificates = \"optional\"\nclient_ca = \"CA.PEM\"";
    let options = "[forwarding]\nclient_certificate = true\nja4 = true\n";
    let text = listener(ask) + options + &all_to(origin.address) + WITH_PARTNERS;
    let (proxy, addresses) = certificates.proxy(&text).await;
    let mut seen = 0;
    let mut new = || {
        let text = origin.recorder.text();
        let part = text[seen..].to_owned();
        seen = text.len();
        part
    };

    // Twice: the second connection resumes the session of the first.
    let settings = certificates.settings(Shows::Certificate);
    for is_resumed in [false, true] {
        let mut client = Client::connect(&settings, addresses[0], "a.example").await;
        client.send(forged("/partners/1")).await;
        assert_eq!(client.response().await.status(), 200);
        let got = new();
        assert_eq!(values(&got, "X-Client-Cert-Subject"), ["CN=partner\\, of ours"], "{got}");
        assert_eq!(values(&got, "X-Client-Cert-SAN"), ["DNS:partner.example"]);
        let fingerprint = values(&got, "X-Client-Cert-Fingerprint");
        assert!(fingerprint.len() == 1 && fingerprint[0].len() == 64, "{fingerprint:?}");
        let ja4 = values(&got, "X-JA4");
        assert!(ja4.len() == 1 && ja4[0].starts_with("t13d"), "{ja4:?}");
        assert!(!got.contains("root") && got.contains("X-Client-Id: 7\r\n"), "{got}");
        assert_eq!(proxy.counters().await.named("tls_resumptions"), u64::from(is_resumed));
    }

    // Without a certificate: no field of these, and no way to the partners' part.
    let mut client = certificates.connect(addresses[0], "a.example").await;
    client.send(forged("/") + &forged("/partners/1")).await;
    assert_eq!(client.response().await.status(), 200);
    let refused = client.response().await;
    assert_eq!(
        (refused.status(), &*refused.text()),
        (403, "Forbidden: a client certificate is needed here\n")
    );
    let got = new();
    assert!(values(&got, "X-JA4").len() == 1 && !got.contains("root") && !got.contains("Cert"), "{got}");

    // The same without TLS.
    let mut client = Raw::connect(addresses[0]).await;
    client.send(forged("/") + &forged("/partners/1")).await;
    assert_eq!(client.answer_to("GET").await.status(), 200);
    assert_eq!(client.answer_to("GET").await.status(), 403);
    let got = new();
    assert!(!got.contains("root") && !got.contains("Cert") && !got.contains("JA4"), "{got}");
    assert_eq!(proxy.counters().await.named("client_certificates_missing"), 2);
}

#[tokio::test]
async fn openssl_shows_its_certificate_in_both_versions() {
    let origin = origin::answers(origin::ok("ok")).await;
    let certificates = Certificates::new();
    let ask = "tls = \"on\"\nclient_certificates = \"optional\"\nclient_ca = \"CA.PEM\"";
    let options = "[forwarding]\nclient_certificate = true\nja4 = true\n";
    let text = listener(ask) + options + &all_to(origin.address) + WITH_PARTNERS;
    let (_proxy, addresses) = certificates.proxy(&text).await;
    let folder = certificates.folder.path().display();
    let request =
        "GET /partners/1 HTTP/1.1\\r\\nHost: a.example\\r\\nX-JA4: forged\\r\\nConnection: close\\r\\n\\r\\n";
    for (version, ja4) in [("-tls1_2", "t12d"), ("-tls1_3", "t13d")] {
        for (shown, status) in [("", "403 Forbidden"), ("-cert client.pem -key client.key", "200 OK")] {
            let script = format!(
                "cd {folder} && command -v openssl >/dev/null || exit 0; printf '{request}' | openssl s_client {version} \
                 -quiet -verify_return_error -CAfile ca.pem -servername a.example {shown} -connect {} 2>/dev/null",
                addresses[0]
            );
            let Some(printed) = client::program("sh", &["-c", &script]).await else { return };
            if printed.is_empty() {
                return skip("openssl is not installed");
            }
            assert!(printed.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{version} {shown}: {printed}");
        }
        let got = origin.recorder.text();
        let fields = values(&got, "X-JA4");
        assert!(fields.last().is_some_and(|last| last.starts_with(ja4)), "{fields:?}");
        assert_eq!(values(&got, "X-Client-Cert-SAN").last(), Some(&"DNS:partner.example"));
    }
}

#[tokio::test]
async fn a_trusted_proxy_speaks_of_its_clients_certificate() {
    let origin = origin::answers(origin::ok("ok")).await;
    let certificates = Certificates::new();
    let ask = "tls = \"on\"\nclient_certificates = \"required\"\nclient_ca = \"CA.PEM\"";
    let options = "[forwarding]\nclient_certificate = true\nja4 = true\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let text = listener(ask) + options + &all_to(origin.address) + WITH_PARTNERS;
    let (_proxy, addresses) = certificates.proxy(&text).await;
    let settings = certificates.settings(Shows::Certificate);
    let mut client = Client::connect(&settings, addresses[0], "a.example").await;
    client.send(forged("/partners/1")).await;
    assert_eq!(client.response().await.status(), 200);
    let got = origin.recorder.text();
    assert_eq!(values(&got, "X-Client-Cert-Subject"), ["CN=root"], "{got}");
    assert_eq!(values(&got, "X-JA4"), ["root"]);
    assert!(!got.contains("partner\\,"), "{got}");
}

#[tokio::test]
async fn hsts_is_for_responses_over_tls() {
    let own = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\
               Strict-Transport-Security: max-age=1\r\nstrict-transport-security:max-age=2\r\n\r\nok";
    let origin = origin::answers(own).await;
    let nothing = origin::refusing();
    let certificates = Certificates::new();
    let hsts = "hsts = \"max-age=300; includeSubDomains\"\n";
    let route = |path: &str, upstream: &str, more: &str| {
        format!("[[route]]\npath_prefix = \"{path}\"\nupstream = \"{upstream}\"\n{more}")
    };
    let upstream = |name: &str, address: SocketAddr| {
        format!("[[upstream]]\nname = \"{name}\"\nservers = [\"http://{address}\"]\n")
    };
    let text = listener("tls = \"on\"")
        + &listener("")
        + &upstream("o", origin.address)
        + &upstream("down", nothing.address)
        + &route("/strict", "o", hsts)
        + &route("/down", "down", hsts)
        + &route("/small", "o", &format!("{hsts}limits = {{ body_bytes = 1 }}\n"))
        + &route("/plain", "o", "");
    let (_proxy, addresses) = certificates.proxy(&text).await;
    const OURS: &str = "max-age=300; includeSubDomains";
    const THEIRS: [&str; 2] = ["max-age=1", "max-age=2"];
    let post = "POST /small HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nab".to_owned();
    for (request, status, secure, clear) in [
        (get("/strict", "a.example"), 200, &[OURS][..], &THEIRS[..]),
        (get("/down", "a.example"), 502, &[OURS], &[]),
        (get("/plain", "a.example"), 200, &THEIRS, &THEIRS),
        (get("/elsewhere", "a.example"), 404, &[], &[]),
        (post, 413, &[OURS], &[]),
    ] {
        let check = |response: &Response, expected: &[&str]| {
            let sent: Vec<_> = response.head.fields.all("Strict-Transport-Security").collect();
            assert_eq!((response.status(), &*sent), (status, expected), "{request}");
            let of_interim =
                response.interim.iter().flat_map(|head| head.fields.all("Strict-Transport-Security"));
            assert_eq!(of_interim.count(), 0);
        };
        let mut client = certificates.connect(addresses[0], "a.example").await;
        client.send(&request).await;
        check(&client.response().await, secure);
        check(&client::exchange(addresses[1], &request).await, clear);
    }
}

#[tokio::test]
async fn clear_text_and_tls_take_turns_at_one_listener() {
    let origin = origin::answers(origin::ok("ok")).await;
    let certificates = Certificates::new();
    let text = listener("tls = \"detect\"\nhttps_redirect = 8443") + &all_to(origin.address);
    let (proxy, addresses) = certificates.proxy(&text).await;
    let mut kept = Raw::connect(addresses[0]).await;
    for turn in 0..5 {
        let mut client = certificates.connect(addresses[0], "a.example").await;
        assert_eq!(client.ask("a.example").await, 200);
        // New, and on a connection that was redirected before.
        let request = get(&format!("/{turn}?x=1"), "a.example:80");
        kept.send(&request).await;
        for response in [client::exchange(addresses[0], &request).await, kept.answer_to("GET").await] {
            assert_eq!(response.status(), 308);
            assert_eq!(response.field("Location"), Some(&*format!("https://a.example:8443/{turn}?x=1")));
        }
    }
    assert_eq!(origin.recorder.text().matches("GET / ").count(), 5);
    assert!(!origin.recorder.text().contains("x=1"));
    let counters = proxy.counters().await;
    assert_eq!((counters.named("https_redirects"), counters.local_responses), (10, 0));
}

#[tokio::test]
async fn a_redirect_repeats_nothing_but_a_valid_host_and_target() {
    let origin = origin::answers(origin::ok("ok")).await;
    let certificates = Certificates::new();
    let text = listener("https_redirect = true") + &listener("tls = \"on\"") + &all_to(origin.address);
    let (proxy, addresses) = certificates.proxy(&text).await;
    for (request, location) in [
        ("GET / HTTP/1.1\r\nHost: a.example", "https://a.example/"),
        ("GET /a?b=c&d HTTP/1.1\r\nHost: A.example:8080", "https://A.example/a?b=c&d"),
        ("GET / HTTP/1.1\r\nHost: [::1]:81", "https://[::1]/"),
        ("GET / HTTP/1.1\r\nHost: a.example:", "https://a.example/"),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\nHost: a.example", "https://a.example/"),
        ("GET http://b.example:81/p HTTP/1.1\r\nHost: b.example:81", "https://b.example/p"),
        ("GET http://b.example?q HTTP/1.1\r\nHost: b.example", "https://b.example/?q"),
        ("OPTIONS * HTTP/1.1\r\nHost: a.example", "https://a.example"),
        // A host ends at the first slash, and nothing behind it is another one.
        ("GET //evil.example/ HTTP/1.1\r\nHost: a.example", "https://a.example//evil.example/"),
        ("GET /\\evil.example HTTP/1.1\r\nHost: a.example", "https://a.example/\\evil.example"),
        ("GET /@evil.example/..%2f HTTP/1.1\r\nHost: a.example", "https://a.example/@evil.example/..%2f"),
        (
            "GET /%0d%0aSet-Cookie:%20a=b HTTP/1.1\r\nHost: a.example",
            "https://a.example/%0d%0aSet-Cookie:%20a=b",
        ),
        (
            "GET /<script> HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-Host: evil.example",
            "https://a.example/<script>",
        ),
        ("PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0", "https://a.example/"),
    ] {
        let response = client::exchange(addresses[0], format!("{request}\r\n\r\n")).await;
        assert_eq!((response.status(), response.field("Location")), (308, Some(location)), "{request}");
        assert_eq!(response.text(), "Permanent Redirect: this is served over https:// only\n");
        assert!(
            response.field("Set-Cookie").is_none() && response.field("Strict-Transport-Security").is_none()
        );
    }
    for request in [
        &b"GET / HTTP/1.0"[..],
        b"OPTIONS * HTTP/1.1\r\nHost:",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443",
        b"GET / HTTP/1.1\r\nHost: a.example/evil",
        b"GET / HTTP/1.1\r\nHost: evil.example@a.example",
        b"GET / HTTP/1.1\r\nHost: a.example\\@evil.example",
        b"GET / HTTP/1.1\r\nHost: a.example, evil.example",
        b"GET / HTTP/1.1\r\nHost: a.example\rSet-Cookie: a=b",
        b"GET / HTTP/1.1\r\nHost: a.example\0",
        b"GET / HTTP/1.1\r\nHost: a.example\r\nHost: evil.example",
        b"GET /\x80 HTTP/1.1\r\nHost: a.example",
        b"GET /\x01 HTTP/1.1\r\nHost: a.example",
        b"GET /a\tb HTTP/1.1\r\nHost: a.example",
        b"GET @evil.example/ HTTP/1.1\r\nHost: a.example",
        b"GET .evil.example/ HTTP/1.1\r\nHost: a.example",
    ] {
        let response = client::exchange(addresses[0], [request, b"\r\n\r\n"].concat()).await;
        let what = request.escape_ascii();
        assert_eq!((response.status(), response.field("Location")), (400, None), "{what}");
        assert_eq!(response.field("Connection"), Some("close"), "{what}");
    }
    // A body that was not read could be taken for the next request.
    let request = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 30\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n1234";
    let response = client::exchange(addresses[0], request).await;
    assert_eq!((response.status(), response.field("Connection")), (308, Some("close")));
    assert_eq!(proxy.counters().await.named("https_redirects"), 15);
    assert_eq!(origin.recorder.text(), "");
}
