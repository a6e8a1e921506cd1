//! The keys of TLS together, with certificates made by rcgen.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use sluice_tls::handshake::{MinVersion, Profile};

use super::*;

const REST: &str = "[[upstream]]\nname = \"a\"\nservers = [\"http://a\"]\n[[route]]\nupstream = \"a\"\n";

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A directory of files for one test.
struct Folder(tempfile::TempDir);

impl Folder {
    /// With `shop.pem` and `shop.key`, `both.pem` with its key, and `ca.pem`.
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().expect("a directory"));
        let (cert, key) = pair(365 * DAY);
        folder.write("shop.pem", &cert);
        folder.write("shop.key", &key);
        let (cert, key) = pair(365 * DAY);
        folder.write("both.pem", &(cert + &key));
        folder.write("ca.pem", &authority());
        folder
    }

    fn write(&self, name: &str, text: &str) {
        let file = self.path(name);
        fs::create_dir_all(file.parent().expect("a parent")).expect("a directory");
        fs::write(&file, text).expect("a file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&file, mode).expect("a mode");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn raw(&self, text: &str) -> Result<Raw, String> {
        Raw::parse(&self.path("f.toml"), text.to_owned()).map_err(|errors| self.relative(&errors))
    }

    fn check_whole(&self, text: &str) -> Result<Config, String> {
        let raw = self.raw(text)?;
        let config = Config::check(&raw).map_err(|errors| self.relative(&errors))?;
        // What is printed as the whole of it is a file of the same meaning, wherever it lies.
        let printed = Raw::parse(Path::new("/elsewhere/f.toml"), effective(&raw)).expect("TOML");
        let printed = Config::check(&printed).unwrap_or_else(|errors| panic!("{errors}"));
        let silent = |config: &Config| Config { warnings: Vec::new(), ..config.clone() };
        assert_eq!(silent(&config), silent(&printed));
        Ok(config)
    }

    /// `top`, and then an upstream and its route.
    fn check(&self, top: &str) -> Result<Config, String> {
        self.check_whole(&format!("{top}\n{REST}"))
    }

    fn flags(&self, args: &[&str]) -> Result<Config, String> {
        let in_folder = |value: &str| match value.rsplit_once('.') {
            Some((_, "pem" | "key")) => self.path(value).display().to_string(),
            _ => value.to_owned(),
        };
        let line = args.chunks(2).fold(CommandLine::default(), |mut line, pair| {
            line.flags.push((pair[0].to_owned().into(), in_folder(pair[1])));
            line
        });
        resolve(&line).map_err(|errors| self.relative(&errors))
    }

    fn relative(&self, errors: &dyn std::fmt::Display) -> String {
        errors.to_string().replace(&format!("{}/", self.0.path().display()), "")
    }

    fn warnings(&self, config: &Config) -> Vec<String> {
        config.warnings.iter().map(|warning| self.relative(warning)).collect()
    }
}

/// A certificate that is valid for so long, and its key.
fn pair(valid: Duration) -> (String, String) {
    let mut params = CertificateParams::new(["shop.example.com".to_owned()]).expect("a name");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time");
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(DAY);
    params.not_after = epoch + now + valid;
    let key = KeyPair::generate().expect("a key");
    (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
}

fn authority() -> String {
    let mut params = CertificateParams::new(Vec::new()).expect("no name");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").pem()
}

/// The text has one error, which begins so.
#[track_caller]
fn one_error(found: Result<Config, String>, wanted: &str) {
    let found = found.expect_err(wanted);
    assert!(found.lines().count() == 1 && found.contains(wanted), "{found}\nwanted: {wanted}");
}

const CERTIFICATE: &str = "[[certificate]]\ncert = \"shop.pem\"\nkey = \"shop.key\"\n";

// ---- what is written, and what it comes to ----

/// Whole files of the manual and of the examples are in order, once the files that they name are there.
#[test]
fn every_example_of_tls_is_in_order() {
    let manual = include_str!("../../../docs/tls.md");
    let fenced = manual.split("```toml\n").skip(1).map(|part| part.split("```").next().unwrap_or_default());
    let whole: Vec<_> = fenced.filter(|part| part.contains("[[route]]")).collect();
    assert!(whole.len() >= 3, "{}", whole.len());
    for text in whole.into_iter().chain([include_str!("../../../examples/tls.toml")]) {
        let folder = Folder::new();
        let mut pairs = BTreeMap::new();
        for name in text.split('"').skip(1).step_by(2).filter(|name| name.starts_with("certs/")) {
            if name.ends_with("-ca.pem") {
                folder.write(name, &authority());
                continue;
            }
            let stem = name.rsplit_once('.').expect("an ending").0;
            let (cert, key) = pairs.entry(stem.to_owned()).or_insert_with(|| pair(365 * DAY));
            let with_key = !text.contains(&format!("{stem}.key"));
            match name.ends_with(".key") {
                true => folder.write(name, key),
                false if with_key => folder.write(name, &format!("{cert}{key}")),
                false => folder.write(name, cert),
            }
        }
        let config = folder.check_whole(text).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        assert_eq!(folder.warnings(&config), [""; 0], "{text}");
    }
}

#[test]
fn without_a_key_of_tls_there_is_none() {
    let config = Folder::new().check("listen = [\"127.0.0.1:80\"]").unwrap();
    let listener = &config.listeners[0];
    assert_eq!((&listener.tls, listener.https_redirect), (&None, None));
    assert_eq!(config.upstreams[0].tls, UpstreamTls::default());
    assert_eq!(config.upstreams[0].servers[0].scheme, Scheme::Http);
    assert_eq!((config.certificates.len(), &config.acme, config.routes[0].hsts), (0, &None, None));
    assert!(!config.routes[0].client_certificate && !config.forwarding.policy.tls.ja4);
    assert_eq!(config.explain_tls(0), "");
    assert_eq!(config.summary(), "listening on 127.0.0.1:80; 1 route to 1 upstream with 1 server");
}

#[test]
fn listeners_inherit_from_tls() {
    let folder = Folder::new();
    let config = folder
        .check(&format!(
            "listen = [\"127.0.0.1:80\"]\nlisten_tls = [\"127.0.0.1:443\"]\ntls.profile = \"modern\"\n\
             tls.kernel_tls = true\n{CERTIFICATE}\
             [[listener]]\naddress = \"127.0.0.1:1\"\ntls = \"detect\"\nprofile = \"intermediate\"\nkernel_tls = false\n\
             client_certificates = \"required\"\nclient_ca = \"ca.pem\"\nhttps_redirect = true\n\
             [[listener]]\naddress = \"127.0.0.1:2\"\nhttps_redirect = 443\n\
             [[listener]]\naddress = \"127.0.0.1:3\"\ntls = \"on\"\nmin_version = \"1.3\"\nprofile = \"intermediate\"\n"
        ))
        .unwrap();
    let plain = ListenerTls {
        mode: TlsMode::On,
        min_version: MinVersion::Tls13,
        profile: Profile::Modern,
        client_certificates: ClientCertificatesMode::Off,
        client_ca: None,
        kernel_tls: true,
    };
    let asking = ListenerTls {
        mode: TlsMode::Detect,
        min_version: MinVersion::Tls12,
        profile: Profile::Intermediate,
        client_certificates: ClientCertificatesMode::Required,
        client_ca: Some(folder.path("ca.pem")),
        kernel_tls: false,
    };
    let last = ListenerTls { profile: Profile::Intermediate, ..plain.clone() };
    let found: Vec<_> = config.listeners.iter().map(|one| (one.tls.clone(), one.https_redirect)).collect();
    let wanted =
        [(None, None), (Some(plain), None), (Some(asking), Some(1)), (None, Some(443)), (Some(last), None)];
    assert_eq!(found, wanted);
    let files = CertificateFiles { cert: folder.path("shop.pem"), key: folder.path("shop.key"), ocsp: None };
    assert_eq!(config.certificates, [files]);
    assert!(config.summary().contains("127.0.0.1:443 (TLS), 127.0.0.1:1 (TLS or clear text), "));
}

#[test]
fn servers_have_their_tls() {
    let folder = Folder::new();
    let text = "listen = [\"127.0.0.1:80\"]\n[[upstream]]\nname = \"a\"\nservers = [\"https://a\", \"http://b\"]\n\
                [upstream.tls]\nca = \"ca.pem\"\nserver_name = \"App.Internal.\"\ncert = \"both.pem\"\nmin_version = \"1.3\"\n\
                pins = [\"sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\"]\n[[route]]\nupstream = \"a\"\n";
    let config = folder.check_whole(text).unwrap();
    assert_eq!(folder.warnings(&config), [""; 0]);
    let both = folder.path("both.pem");
    let tls = &config.upstreams[0].tls;
    assert_eq!(
        (tls.ca.clone(), tls.verify, tls.server_name.as_deref()),
        (Some(folder.path("ca.pem")), true, Some("app.internal"))
    );
    assert_eq!(tls.certificate, Some(CertificateFiles { cert: both.clone(), key: both, ocsp: None }));
    assert_eq!((tls.min_version, tls.pins.len()), (MinVersion::Tls13, 1));
    // SHA-256 of nothing.
    let digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(sluice_tls::certificates::hex(&tls.pins[0]), digest);
    let explained = folder.relative(&config.explain_tls(0));
    assert_eq!(
        explained,
        "# from 127.0.0.1:80: clear text\n\
         # to https://a: TLS from 1.3, verified as app.internal, authorities: those of ca.pem, 1 pin, with a certificate of ours\n\
         # to http://b: clear text\n"
    );
}

#[test]
fn flags_alone_are_enough_for_tls() {
    let folder = Folder::new();
    let config = folder
        .flags(&[
            "--listen-tls",
            "127.0.0.1:8443",
            "--tls-cert",
            "shop.pem",
            "--tls-key",
            "shop.key",
            "--upstream",
            "https://a",
            "--upstream-ca",
            "ca.pem",
        ])
        .unwrap();
    assert!(config.listeners.len() == 1 && config.listeners[0].tls.is_some());
    assert_eq!(config.certificates[0].key, folder.path("shop.key"));
    assert_eq!(
        (config.upstreams[0].servers[0].port, &config.upstreams[0].tls.ca),
        (443, &Some(folder.path("ca.pem")))
    );
    let base = ["--listen-tls", "127.0.0.1:1", "--upstream", "http://a"];
    let with = |more: &[&str]| folder.flags(&[&base[..], more].concat());
    // One file with both; keys behind their certificates, or all in front.
    let config =
        with(&["--tls-cert", "both.pem", "--tls-cert", "shop.pem", "--tls-key", "shop.key"]).unwrap();
    let keys: Vec<_> =
        config.certificates.iter().map(|files| files.key.file_name().unwrap().to_owned()).collect();
    assert_eq!(keys, ["both.pem", "shop.key"]);
    let config = with(&["--tls-key", "shop.key", "--tls-cert", "shop.pem"]).unwrap();
    assert_eq!(config.certificates[0].key, folder.path("shop.key"));
    let in_front = [
        "--tls-key",
        "both.pem",
        "--tls-key",
        "shop.key",
        "--tls-cert",
        "both.pem",
        "--tls-cert",
        "shop.pem",
    ];
    assert_eq!(with(&in_front).unwrap().certificates[1].key, folder.path("shop.key"));
    let twice = ["--tls-cert", "shop.pem", "--tls-key", "shop.key", "--tls-key", "shop.key"];
    one_error(with(&twice), "--tls-key: `shop.key` is a second key of one certificate");
    one_error(
        with(&[]),
        "--listen-tls: TLS needs a certificate (hint: add --tls-cert FILE --tls-key FILE, or try: sluice cert make --host localhost)",
    );
    one_error(
        with(&["--upstream-ca", "ca.pem", "--tls-cert", "both.pem"]),
        "--upstream-ca: no server of this upstream has TLS (hint: write --upstream https://...)",
    );
    one_error(with(&["--tls-cert", "none.pem"]), "--tls-cert: cannot read none.pem: No such file");
}

#[test]
fn flags_replace_listeners_and_certificates_of_the_file() {
    let folder = Folder::new();
    folder.write("f.toml", &format!("listen_tls = [\"127.0.0.1:443\"]\n{CERTIFICATE}{REST}"));
    let config = |args: &[&'static str]| {
        let line = args.chunks(2).fold(CommandLine::default(), |line, pair| line.with(pair[0], pair[1]));
        resolve(&CommandLine { config: Some(folder.path("f.toml")), ..line }).unwrap()
    };
    let clear = config(&["--listen", "127.0.0.1:80"]);
    assert!(clear.listeners.len() == 1 && clear.listeners[0].tls.is_none());
    assert!(folder.warnings(&clear)[0].contains("no listener has TLS, so no client sees this certificate"));
    let both = folder.path("both.pem").display().to_string();
    let mut line = CommandLine { config: Some(folder.path("f.toml")), ..CommandLine::default() };
    line.flags.push(("--tls-cert".into(), both));
    let config = resolve(&line).unwrap();
    assert_eq!((config.certificates.len(), &config.certificates[0].key), (1, &folder.path("both.pem")));
    assert_eq!(folder.warnings(&config), ["--tls-cert: replaces the 1 certificates of the file"]);
}

#[test]
fn names_of_files_are_relative_to_the_file_that_has_them() {
    let folder = Folder::new();
    folder.write(
        "conf.d/tls.toml",
        "[[certificate]]\ncert = \"../both.pem\"\n[[certificate]]\ncert = \"own/one.pem\"\n",
    );
    let (cert, key) = pair(365 * DAY);
    folder.write("conf.d/own/one.pem", &(cert + &key));
    let config = folder.check("listen_tls = [\"127.0.0.1:1\"]\ninclude = [\"conf.d/*.toml\"]").unwrap();
    assert_eq!(config.certificates[1].cert, folder.path("conf.d/own/one.pem"));
    assert!(config.certificates.iter().all(|files| files.cert.is_absolute()));
}

// ---- what is wrong with it ----

#[test]
fn each_slip_is_one_error_at_its_place() {
    let folder = Folder::new();
    let tls = "listen_tls = [\"127.0.0.1:1\"]";
    let listener =
        |keys: &str| format!("{tls}\n{CERTIFICATE}[[listener]]\naddress = \"127.0.0.1:2\"\n{keys}");
    for (text, wanted) in [
        (tls.to_owned(), "f.toml:1:15: listen_tls: TLS needs a certificate (hint: add [[certificate]]"),
        (
            "[[listener]]\naddress = \"127.0.0.1:2\"\ntls = \"on\"".to_owned(),
            "f.toml:3:7: listener.tls: TLS needs a certificate",
        ),
        (format!("{tls}\n[[certificate]]"), "f.toml:2:1: certificate.cert: a certificate needs its file"),
        (
            format!("{tls}\n{CERTIFICATE}{CERTIFICATE}"),
            "f.toml:6:8: certificate.cert: shop.pem is there twice",
        ),
        (
            format!("{tls}\n[[certificate]]\ncert = \"\""),
            "f.toml:3:8: certificate.cert: the name of the file is empty",
        ),
        (
            listener("tls = true"),
            "f.toml:7:7: listener.tls: expected a string, found a boolean (hint: write \"on\"",
        ),
        (
            listener("client_certificates = \"optional\""),
            "f.toml:7:23: listener.client_certificates: this listener has no TLS",
        ),
        (listener("min_version = \"1.3\""), "f.toml:7:15: listener.min_version: this listener has no TLS"),
        (listener("kernel_tls = true"), "f.toml:7:14: listener.kernel_tls: this listener has no TLS"),
        (
            listener("tls = \"on\"\nclient_certificates = \"optional\""),
            "f.toml:8:23: listener.client_certificates: clients are asked",
        ),
        (
            listener("tls = \"on\"\nclient_ca = \"ca.pem\""),
            "f.toml:8:13: listener.client_ca: this listener asks clients for no",
        ),
        (
            listener("tls = \"on\"\nclient_certificates = \"required\"\nclient_ca = \"no.pem\""),
            "f.toml:9:13: listener.client_ca: cannot read no.pem",
        ),
        (
            listener("tls = \"on\"\nclient_certificates = \"required\"\nclient_ca = \"shop.key\""),
            "f.toml:9:13: listener.client_ca: shop.key: ",
        ),
        (
            listener("tls = \"on\"\nprofile = \"modern\"\nmin_version = \"1.2\""),
            "f.toml:9:15: listener.min_version: the modern profile is TLS 1.3 only",
        ),
        (
            listener("tls = \"on\"\nprofile = \"modern\"\n[tls]\nmin_version = \"1.2\""),
            "f.toml:8:11: listener.profile: the modern profile is TLS 1.3 only, and min_version in [tls]",
        ),
    ] {
        one_error(folder.check(&text), wanted);
    }
}

#[test]
fn slips_of_redirects_and_at_the_top_of_the_file() {
    let folder = Folder::new();
    let tls = "listen_tls = [\"127.0.0.1:1\"]";
    let listener =
        |keys: &str| format!("{tls}\n{CERTIFICATE}[[listener]]\naddress = \"127.0.0.1:2\"\n{keys}");
    for (text, wanted) in [
        (
            format!("{tls}\ntls = {{ profile = \"modern\", min_version = \"1.2\" }}\n{CERTIFICATE}"),
            "f.toml:2:43: tls.min_version: the modern profile",
        ),
        (
            listener("tls = \"on\"\nhttps_redirect = true"),
            "f.toml:8:18: listener.https_redirect: this listener takes nothing but TLS",
        ),
        (
            listener("https_redirect = 2"),
            "f.toml:7:18: listener.https_redirect: this listener itself is on port 2",
        ),
        (
            listener("https_redirect = 0"),
            "f.toml:7:18: listener.https_redirect: `0` is neither true nor a port",
        ),
        (
            format!("{tls}\ntls.ticket_lifetime = \"1h\"\n{CERTIFICATE}"),
            "f.toml:2:23: tls.ticket_lifetime: ticket_lifetime is below ticket_rotation",
        ),
        (
            format!("{tls}\ntls.key_log = \"no/such/log\"\n{CERTIFICATE}"),
            "f.toml:2:15: tls.key_log: there is no directory no/such",
        ),
        (
            format!("{tls}\ntls.key_log = 5\n{CERTIFICATE}"),
            "f.toml:2:15: tls.key_log: expected a string, found a number",
        ),
        (
            "listen = [\"127.0.0.1:1\"]\ntls = true".to_owned(),
            "f.toml:2:7: tls: expected a table, found a boolean (hint: write listen_tls",
        ),
        (
            format!("{tls}\nstate_dir = \"shop.pem\"\n{CERTIFICATE}"),
            "f.toml:2:13: state_dir: shop.pem is not a directory",
        ),
    ] {
        one_error(folder.check(&text), wanted);
    }
}

#[test]
fn slips_of_upstreams_and_routes() {
    let folder = Folder::new();
    let file = |servers: &str, tls: &str, route: &str| {
        let text = format!(
            "listen = [\"127.0.0.1:1\"]\n[[upstream]]\nname = \"a\"\nservers = [{servers}]\n{tls}\n[[route]]\nupstream = \"a\"\n{route}\n"
        );
        folder.check_whole(&text)
    };
    for (tls, wanted) in [
        ("tls = true", "f.toml:5:7: upstream.tls: expected a table, found a boolean"),
        (
            "tls.sni = \"a\"",
            "f.toml:5:5: upstream.tls.sni: unknown key (hint: write `server_name` in [upstream.tls])",
        ),
        ("tls.pins = []", "f.toml:5:12: upstream.tls.pins: no pin is left"),
        ("tls.pins = [\"sha1/x\"]", "f.toml:5:13: upstream.tls.pins: `sha1/x` is not a pin"),
        ("tls.ca = \"no.pem\"", "f.toml:5:10: upstream.tls.ca: cannot read no.pem"),
        ("tls.server_name = \"a b\"", "f.toml:5:19: upstream.tls.server_name: `a b` is not a host name"),
        ("tls.key = \"shop.key\"", "f.toml:5:11: upstream.tls.key: a key without its certificate"),
        ("tls = { cert = \"shop.pem\", key = \"both.pem\" }", "f.toml:5:34: upstream.tls.key: both.pem: "),
        (
            "tls = { verify = false, ca = \"ca.pem\" }",
            "f.toml:5:30: upstream.tls.ca: certificates are not verified",
        ),
    ] {
        one_error(file("\"https://a\"", tls, ""), wanted);
    }
    one_error(
        file("\"http://a\"", "tls.server_name = \"b\"", ""),
        "f.toml:5:19: upstream.tls.server_name: no server of this upstream has TLS",
    );
    // The server that cannot be read may be the one with TLS.
    one_error(
        file("\"https:/a\", \"http://b\"", "tls.server_name = \"b\"", ""),
        "upstream.servers: `https:/a`",
    );
    for (route, wanted) in [
        ("client_certificate = true", "f.toml:8:22: route.client_certificate: no listener asks clients"),
        ("hsts = \"\"", "f.toml:8:8: route.hsts: max-age is missing"),
        (
            "server_name = \"a\"",
            "f.toml:8:1: route.server_name: unknown key (hint: write `host` in a [[route]])",
        ),
        ("cert = \"a\"", "f.toml:8:1: route.cert: unknown key (hint: `cert` belongs in [[certificate]])"),
    ] {
        one_error(file("\"http://a\"", "", route), wanted);
    }
    let config = file("\"https://a\"", "tls.verify = false", "hsts = \"max-age=1; preload\"").unwrap();
    let warnings = folder.warnings(&config);
    let wanted = [
        "f.toml:5:14: upstream.tls.verify: the servers' certificates are not verified",
        "f.toml:8:8: route.hsts: the field is sent over TLS only",
        "f.toml:8:8: route.hsts: preload needs includeSubDomains",
    ];
    assert_eq!(warnings.len(), wanted.len(), "{warnings:#?}");
    assert!(warnings.iter().zip(wanted).all(|(found, wanted)| found.starts_with(wanted)), "{warnings:#?}");
}

/// A certificate without a listener, headers without a source, secrets in a file.
#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let folder = Folder::new();
    let config = folder
        .check(&format!(
            "listen = [\"127.0.0.1:1\"]\nforwarding = {{ client_certificate = true, ja4 = true }}\ntls.key_log = \"log\"\n{CERTIFICATE}"
        ))
        .unwrap();
    let warnings = folder.warnings(&config);
    let wanted = [
        "f.toml:2:37: forwarding.client_certificate: no listener asks",
        "f.toml:2:49: forwarding.ja4: no listener has TLS",
        "f.toml:3:15: tls.key_log: the secrets of all TLS connections are written to log",
        "f.toml:4:1: certificate: no listener has TLS, so no client sees this certificate (hint: add listen_tls",
    ];
    assert_eq!(warnings.len(), wanted.len(), "{warnings:#?}");
    assert!(warnings.iter().zip(wanted).all(|(found, wanted)| found.starts_with(wanted)), "{warnings:#?}");
}

#[test]
fn every_file_that_is_wrong_is_reported_at_its_key() {
    let folder = Folder::new();
    let tls = "listen_tls = [\"127.0.0.1:1\"]\n";
    let errors = folder
        .check(&format!("{tls}[[certificate]]\ncert = \"a.pem\"\nkey = \"b.key\"\nocsp = \"c\""))
        .unwrap_err();
    let places: Vec<_> = errors.lines().map(|line| line.split(": cannot read").next().unwrap()).collect();
    assert_eq!(
        places,
        ["f.toml:3:8: certificate.cert", "f.toml:4:7: certificate.key", "f.toml:5:8: certificate.ocsp"]
    );
    let (_, other_key) = pair(DAY);
    folder.write("other.key", &other_key);
    folder.write("empty", "");
    for (cert, key, wanted) in [
        ("shop.pem", "other.key", "f.toml:4:7: certificate.key: other.key: the key"),
        ("shop.pem", "shop.pem", "f.toml:3:8: certificate.cert: shop.pem: "),
        ("empty", "shop.key", "f.toml:3:8: certificate.cert: empty: "),
        ("shop.pem", "empty", "f.toml:4:7: certificate.key: empty: "),
        ("shop.pem", "/", "f.toml:4:7: certificate.key: cannot read /: Is a directory"),
    ] {
        let key = if key == cert { String::new() } else { format!("key = \"{key}\"\n") };
        one_error(folder.check(&format!("{tls}[[certificate]]\ncert = \"{cert}\"\n{key}")), wanted);
    }
}

#[test]
fn certificates_that_expire_are_warnings() {
    let folder = Folder::new();
    let tls = "listen_tls = [\"127.0.0.1:1\"]\n[[certificate]]\ncert = \"one.pem\"\n";
    for (valid, wanted) in [
        (Duration::ZERO, Some("f.toml:3:8: certificate.cert: one.pem: the certificate expire")),
        (5 * DAY + DAY / 2, Some("in 5 days")),
        (13 * DAY, Some("one.pem: the certificate expires on 2")),
        (15 * DAY, None),
    ] {
        let (cert, key) = pair(valid);
        folder.write("one.pem", &(cert + &key));
        let warnings = folder.warnings(&folder.check(tls).unwrap());
        let is_right = match (warnings.first(), wanted) {
            (None, None) => true,
            (Some(found), Some(wanted)) => warnings.len() == 1 && found.contains(wanted),
            _ => false,
        };
        assert!(is_right, "{valid:?}: {warnings:?}");
    }
}

#[test]
fn acme_needs_its_surroundings() {
    let folder = Folder::new();
    let whole = "listen_tls = [\"127.0.0.1:1\"]\nstate_dir = \"state\"\n[acme]\nhosts = [\"Shop.Example.com\"]\ncontact = [\"a@b.c\"]\n";
    let config = folder.check(whole).unwrap();
    let acme = config.acme.expect("there is one");
    assert_eq!(
        (&acme.hosts[..], &acme.contact[..]),
        (&["shop.example.com".to_owned()][..], &["mailto:a@b.c".to_owned()][..])
    );
    assert_eq!(
        (acme.challenge, &*acme.directory),
        (AcmeChallenge::TlsAlpn01, "https://acme-v02.api.letsencrypt.org/directory")
    );
    assert_eq!(config.state_dir, Some(folder.path("state")));
    for (from, to, wanted) in [
        ("listen_tls", "listen", "f.toml:3:1: acme: no listener has TLS"),
        ("\"Shop.Example.com\"", "", "f.toml:4:9: acme.hosts: no host to get"),
        ("hosts", "# hosts", "f.toml:3:1: acme.hosts: no host to get"),
        ("Shop.Example.com", "*.example.com", "f.toml:4:10: acme.hosts: `*.example.com`: neither challenge"),
        ("Shop.Example.com", "192.0.2.1", "acme.hosts: `192.0.2.1`: certificates are for names"),
        ("Shop.Example.com", "localhost", "acme.hosts: `localhost`: no authority"),
        ("\"Shop.Example.com\"", "\"a.b\", \"A.b\"", "f.toml:4:17: acme.hosts: `a.b` is there twice"),
        ("a@b.c", "admin", "f.toml:5:12: acme.contact: `admin` is not a mail address"),
        (
            "contact = [\"a@b.c\"]",
            "directory = \"http://a/\"",
            "f.toml:5:13: acme.directory: `http://a/` is not an https://",
        ),
        (
            "contact = [\"a@b.c\"]",
            "challenge = \"http-01\"",
            "f.toml:5:13: acme.challenge: http-01 comes to port 80",
        ),
        ("contact = [\"a@b.c\"]", "ca = \"no.pem\"", "f.toml:5:6: acme.ca: cannot read no.pem"),
        ("[acme]", "acme = 5\n[limits]", "acme: expected a table"),
    ] {
        let text = whole.replacen(from, to, 1);
        let text =
            if to.contains("[limits]") { text.split_once("[limits]").unwrap().0.to_owned() } else { text };
        let found = folder.check(&text);
        one_error(found, wanted);
    }
    if std::env::var_os("STATE_DIRECTORY").is_none() {
        one_error(
            folder.check(&whole.replace("state_dir", "# state_dir")),
            "f.toml:3:1: acme: ACME needs a directory",
        );
    }
}

#[test]
fn hsts_is_read_as_browsers_read_it() {
    let hsts = |max_age_s, include_subdomains, preload| Hsts {
        max_age: Duration::from_secs(max_age_s),
        include_subdomains,
        preload,
    };
    for (text, wanted, written) in [
        ("max-age=0", hsts(0, false, false), "max-age=0"),
        ("Max-Age=\"5\" ;", hsts(5, false, false), "max-age=5"),
        (
            "includesubdomains; max-age = 7;preload",
            hsts(7, true, true),
            "max-age=7; includeSubDomains; preload",
        ),
    ] {
        let found = Hsts::parse(text).unwrap();
        assert_eq!((found, &*found.to_string()), (wanted, written), "{text}");
    }
    for (text, words) in [
        ("includeSubDomains", "max-age is missing"),
        ("max-age=-1", "`-1` is not a number of seconds"),
        ("max-age=", "`` is not a number"),
        ("max-age=\"5", "`\"5` is not a number"),
        ("max-age=1; max-age=2", "`max-age=2` is there twice"),
        ("max-age", "`max-age` is there twice, or has"),
        ("max-age=1; preload=1", "`preload=1`"),
        ("max-age=1, includeSubDomains", "`1, includeSubDomains` is not a number"),
        ("max-age=1; always", "`always` is no directive"),
        ("true", "`true` is no directive"),
    ] {
        let fault = Hsts::parse(text).unwrap_err().to_string();
        assert!(fault.contains(words), "{text}: {fault}");
    }
}
