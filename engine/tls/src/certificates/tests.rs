//! Pairs made by rcgen, whole and broken; what rcgen does not make is in `fixtures`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, Issuer, KeyPair, SanType,
};

use super::text::TEXT_MAX;
use super::*;

/// 2026-11-23, a time at which rcgen's certificates and the OCSP responses are valid.
const NOW_S: i64 = 1_795_404_875;

macro_rules! fixture {
    ($name:literal) => {
        &include_bytes!(concat!("fixtures/", $name))[..]
    };
}

/// A folder for the files of one test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    /// Writes a file that its owner alone can read.
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// A text without the path of this folder.
    fn without_path(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.0.path().display()), "")
    }

    /// The message for a pair of files of this folder.
    fn refusal(&self, cert: &str, key: &str) -> String {
        let [cert, key] = [cert, key].map(|name| self.0.path().join(name));
        self.without_path(&Certificate::load(&cert, &key, None).unwrap_err())
    }

    /// The warnings for a pair of files of this folder.
    fn warnings(&self, cert: &Path, key: &Path, ocsp: Option<&Path>, now_s: i64) -> Vec<String> {
        let (_, warnings) = Certificate::load_with_warnings(cert, key, ocsp, now_s).unwrap();
        warnings.iter().map(|line| self.without_path(line)).collect()
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// Certificate and key in PEM, self-signed.
fn pair_of(kind: &'static rcgen::SignatureAlgorithm) -> (String, String) {
    let key = KeyPair::generate_for(kind).unwrap();
    (params("app.example").self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn pair() -> (String, String) {
    pair_of(&rcgen::PKCS_ECDSA_P256_SHA256)
}

/// A root, an intermediate and a leaf with its key, in PEM.
fn chain() -> [String; 4] {
    let root_key = KeyPair::generate().unwrap();
    let root = ca_params("root");
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let root = Issuer::new(root, root_key);
    let middle_key = KeyPair::generate().unwrap();
    let middle = ca_params("middle");
    let middle_pem = middle.signed_by(&middle_key, &root).unwrap().pem();
    let middle = Issuer::new(middle, middle_key);
    let key = KeyPair::generate().unwrap();
    let leaf = params("app.example").signed_by(&key, &middle).unwrap().pem();
    [root_pem, middle_pem, leaf, key.serialize_pem()]
}

#[test]
fn pairs_of_every_kind_are_read() {
    let folder = Folder::new();
    for (kind, text) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, "ECDSA P-256"),
        (&rcgen::PKCS_ECDSA_P384_SHA384, "ECDSA P-384"),
        (&rcgen::PKCS_ECDSA_P521_SHA512, "ECDSA P-521"),
        (&rcgen::PKCS_ED25519, "Ed25519"),
        (&rcgen::PKCS_RSA_SHA256, "RSA 2048"),
    ] {
        let (cert, key) = pair_of(kind);
        let (cert_file, key_file) = (folder.file("cert", &cert), folder.file("key", &key));
        let apart = Certificate::load(&cert_file, &key_file, None).unwrap();
        assert_eq!(apart.facts.key, text);
        assert_eq!(key::kind_of(&apart.key).as_deref(), Some(text));
        assert_eq!(apart.facts.names, ["app.example"]);
        assert_eq!(folder.warnings(&cert_file, &key_file, None, NOW_S), [""; 0]);
        let both = folder.file("both", format!("{key}{cert}"));
        let together = Certificate::load(&both, &both, None).unwrap();
        assert_eq!((together.facts, together.chain), (apart.facts, apart.chain));
    }
}

#[test]
fn keys_are_read_in_every_form() {
    let folder = Folder::new();
    let cert = folder.file("cert", fixture!("staple.pem"));
    for key in [fixture!("p256.pem"), fixture!("p256-sec1.pem")] {
        let pair = Certificate::load(&cert, &folder.file("key", key), None).unwrap();
        assert_eq!(key::kind_of(&pair.key).as_deref(), Some("ECDSA P-256"));
    }
    // As `openssl ecparam -genkey` writes them: parameters first, and text around the blocks.
    let text = [
        b"some text\n-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n",
        fixture!("p256-sec1.pem"),
    ];
    Certificate::load(&cert, &folder.file("key", text.concat()), None).unwrap();
}

#[test]
#[expect(clippy::too_many_lines, reason = "it is a table")]
fn every_broken_file_has_its_line() {
    let folder = Folder::new();
    let (cert, key) = pair();
    let (_, other_key) = pair_of(&rcgen::PKCS_RSA_SHA256);
    let der = |pem: &str| pem::blocks(Path::new("x"), pem.as_bytes()).unwrap().remove(0).1;
    folder.file("cert", &cert);
    folder.file("key", &key);
    folder.file("empty", "");
    folder.file("text", "hello\n");
    folder.file("cert.der", der(&cert));
    folder.file("key.der", der(&key));
    folder.file("store.p12", [0x30, 5, 2, 1, 3, 5, 0]);
    folder.file("cut", &cert[..cert.len() - 30]);
    folder.file("dashes", cert.replace("BEGIN CERTIFICATE-----", "BEGIN CERTIFICATE---"));
    folder.file("base64", cert.replacen("MII", "M!I", 1));
    folder.file("garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    folder.file("two-keys", format!("{key}{other_key}"));
    folder.file("other-key", &other_key);
    folder.file("broken-key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    folder.file("encrypted", fixture!("encrypted.pem"));
    folder.file("encrypted-old", fixture!("encrypted-traditional.pem"));
    folder.file("dsa", fixture!("dsa.pem"));
    folder.file("dsa-old", fixture!("dsa-traditional.pem"));
    folder.file("rsa-1024", fixture!("rsa-1024.pem"));
    folder.file("secp256k1", fixture!("secp256k1.pem"));
    folder.file("ssh", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n");
    folder.file("large", vec![b'\n'; (1 << 20) + 1]);
    fs::create_dir(folder.0.path().join("folder")).unwrap();
    let again = "(hint: copy the file again, all of it)";
    let new_key = "(hint: make one of ECDSA P-256 or RSA 2048, and request a certificate for it)";
    for (files, line) in [
        (["no", "key"], "no: no such file (hint: check the path, and whether it is mounted)"),
        (["cert", "no"], "no: no such file (hint: check the path, and whether it is mounted)"),
        (["folder", "key"], "folder: is a directory (hint: name a file in it)"),
        (
            ["empty", "key"],
            "empty: the file is empty (hint: write the PEM blocks of certificate or key to it)",
        ),
        (
            ["large", "key"],
            "large: the file is larger than 1 MiB (hint: name a PEM file of certificates or a key)",
        ),
        (
            ["text", "key"],
            "text: no CERTIFICATE block in it, no PEM block at all (hint: name the PEM file with the certificate and its chain)",
        ),
        (
            ["key", "key"],
            "key: no CERTIFICATE block in it, only PRIVATE KEY (hint: name the PEM file with the certificate and its chain)",
        ),
        (
            ["cert.der", "key"],
            "cert.der: is DER, not PEM (hint: openssl x509 -inform der -in cert.der -out cert.der.pem, and name that file)",
        ),
        (
            ["store.p12", "key"],
            "store.p12: is a PKCS#12 store, not PEM (hint: openssl pkcs12 -in store.p12 -nodes -out store.p12.pem, and name \
             that file)",
        ),
        (["cut", "key"], &format!("cut: a PEM block has no END line {again}")),
        (["dashes", "key"], &format!("dashes: a BEGIN line does not end in five dashes {again}")),
        (["base64", "key"], &format!("base64: a PEM block is not base64 {again}")),
        (
            ["cert", "cert"],
            "cert: no PRIVATE KEY block in it, only CERTIFICATE (hint: name the PEM file with the key of the certificate)",
        ),
        (
            ["cert", "key.der"],
            "key.der: is DER, not PEM (hint: openssl pkey -inform der -in key.der -out key.der.pem, and name that file)",
        ),
        (
            ["cert", "store.p12"],
            "store.p12: is a PKCS#12 store, not PEM (hint: openssl pkcs12 -in store.p12 -nodes -out store.p12.pem, and name \
             that file)",
        ),
        (["cert", "two-keys"], "two-keys: has 2 keys (hint: leave only the key of the certificate in it)"),
        (
            ["cert", "other-key"],
            "other-key: the key (RSA 2048) does not belong to the certificate in cert (`app.example`, ECDSA P-256) (hint: name \
             the key that the certificate was requested with)",
        ),
        (
            ["cert", "broken-key"],
            "broken-key: the key is broken (hint: openssl pkey -check -noout -in broken-key)",
        ),
        (
            ["cert", "encrypted"],
            "encrypted: the key is encrypted (hint: openssl pkey -in encrypted -out encrypted.plain, mode 600, and name that \
             file)",
        ),
        (
            ["cert", "encrypted-old"],
            "encrypted-old: the key is encrypted (hint: openssl pkey -in encrypted-old -out encrypted-old.plain, mode 600, and \
             name that file)",
        ),
        (["cert", "dsa"], &format!("dsa: keys of kind DSA are not supported {new_key}")),
        (["cert", "dsa-old"], &format!("dsa-old: keys of kind DSA are not supported {new_key}")),
        (
            ["cert", "secp256k1"],
            &format!("secp256k1: keys of kind ECDSA secp256k1 are not supported {new_key}"),
        ),
        (
            ["cert", "rsa-1024"],
            "rsa-1024: is an RSA key of 1024 bits, 2048 to 8192 are supported (hint: make a new key and request a certificate \
             for it)",
        ),
        (
            ["cert", "ssh"],
            "ssh: is a key of OpenSSH, not of TLS (hint: ssh-keygen -p -m PKCS8 -f ssh, or make a key for the certificate)",
        ),
    ] {
        assert_eq!(folder.refusal(files[0], files[1]), line, "{files:?}");
    }
    let garbage = folder.refusal("garbage", "key");
    assert!(
        garbage.starts_with("garbage: certificate 1 is not a certificate: ") && garbage.ends_with(again),
        "{garbage}"
    );
}

/// Root reads everything: the kernel says it of a file that only a user without rights is refused, so the error is made here.
#[test]
fn files_that_others_may_not_read_have_their_line() {
    let error = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    assert_eq!(
        pem::unreadable(Path::new("key.pem"), &error),
        "key.pem: permission denied (hint: let the user that runs sluice read it: chgrp and chmod 640)"
    );
}

#[test]
fn chains_are_brought_into_order() {
    let folder = Folder::new();
    let [root, middle, leaf, key] = chain();
    let key = folder.file("key", key);
    let good = folder.file("good", format!("{leaf}{middle}{root}"));
    let sorted = Certificate::load(&good, &key, None).unwrap();
    assert_eq!(sorted.facts.names, ["app.example"]);
    assert_eq!(folder.warnings(&good, &key, None, NOW_S), [""; 0]);
    for order in [[&root, &middle, &leaf], [&middle, &leaf, &root], [&leaf, &root, &middle]] {
        let file = folder.file("mixed", order.map(String::as_str).concat());
        let mixed = Certificate::load(&file, &key, None).unwrap();
        assert_eq!((&mixed.chain, &mixed.facts), (&sorted.chain, &sorted.facts));
        assert_eq!(
            folder.warnings(&file, &key, None, NOW_S),
            ["mixed: the chain is not in order, it is sent with the certificate of the key first"]
        );
    }
}

#[test]
fn chains_that_break_are_reported() {
    let folder = Folder::new();
    let [root, _, leaf, key] = chain();
    let [_, namesake, ..] = chain();
    let key = folder.file("key", key);
    for (name, text, bad) in [("gap", &root, "CN=root"), ("namesake", &namesake, "CN=middle")] {
        let file = folder.file(name, format!("{leaf}{text}"));
        assert_eq!(
            folder.warnings(&file, &key, None, NOW_S),
            [format!(
                "{name}: certificate 2 of the chain is `{bad}`, but the issuer of certificate 1 is `CN=middle`"
            )]
        );
    }
}

#[test]
fn validity_is_judged_by_the_time_that_is_passed() {
    let folder = Folder::new();
    let key_pair = KeyPair::generate().unwrap();
    let mut params = params("app.example");
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2026, 3, 1);
    let cert = folder.file("cert", params.self_signed(&key_pair).unwrap().pem());
    let key = folder.file("key", key_pair.serialize_pem());
    let (from, to) = (1_767_225_600, 1_772_323_200);
    assert_eq!(
        folder.warnings(&cert, &key, None, from - 1),
        ["cert: the certificate is not valid before 2026-01-01 00:00:00 UTC"]
    );
    assert_eq!(folder.warnings(&cert, &key, None, from), [""; 0]);
    assert_eq!(folder.warnings(&cert, &key, None, to), [""; 0]);
    assert_eq!(
        folder.warnings(&cert, &key, None, to + 1),
        ["cert: the certificate expired on 2026-03-01 00:00:00 UTC"]
    );
    let facts = Certificate::load(&cert, &key, None).unwrap().facts;
    assert_eq!((facts.not_before_s, facts.not_after_s), (from, to));
    assert_eq!([facts.days_left(from), facts.days_left(to), facts.days_left(to + 1)], [59, 0, -1]);
}

#[test]
fn keys_that_everyone_can_read_are_reported() {
    let folder = Folder::new();
    let (cert, key) = pair();
    let (cert, key) = (folder.file("cert", cert), folder.file("key", key));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(folder.warnings(&cert, &key, None, NOW_S), [""; 0]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let warnings = folder.warnings(&cert, &key, None, NOW_S);
    assert_eq!(warnings, ["key: every user of this host can read the key (hint: chmod 640 key)"]);
}

#[test]
fn certificates_that_clients_refuse_are_reported() {
    let folder = Folder::new();
    let key_pair = KeyPair::generate().unwrap();
    let key = folder.file("key", key_pair.serialize_pem());
    let mut unnamed = ca_params("app.example");
    unnamed.subject_alt_names.clear();
    let cert = folder.file("cert", unnamed.self_signed(&key_pair).unwrap().pem());
    assert_eq!(
        folder.warnings(&cert, &key, None, NOW_S),
        [
            "cert: the certificate has no subjectAltName: clients accept it for no name",
            "cert: the certificate is marked as a CA: some clients refuse it as that of a server"
        ]
    );
    let facts = Certificate::load(&cert, &key, None).unwrap().facts;
    assert_eq!((facts.names.len(), facts.display_name()), (0, "CN=app.example"));
}

#[test]
fn staples_are_checked() {
    let folder = Folder::new();
    let cert = folder.file("cert", fixture!("staple.pem"));
    let key = folder.file("key", fixture!("p256.pem"));
    let good = folder.file("good", fixture!("staple-good.der"));
    let revoked = folder.file("revoked", fixture!("staple-revoked.der"));
    let loaded = Certificate::load(&cert, &key, Some(&good)).unwrap();
    assert_eq!(loaded.ocsp.as_deref(), Some(fixture!("staple-good.der")));
    assert_eq!(folder.warnings(&cert, &key, Some(&good), NOW_S), [""; 0]);
    let later = NOW_S + 31 * 86_400;
    assert_eq!(
        folder.warnings(&cert, &key, Some(&good), later),
        ["cert: the OCSP response expired on 2026-12-22 03:52:08 UTC"]
    );
    assert_eq!(
        folder.warnings(&cert, &key, Some(&revoked), NOW_S),
        ["cert: the OCSP response says that the certificate was revoked"]
    );
    let hint = "(hint: fetch it again: openssl ocsp -issuer CHAIN -cert CERT -url URL -respout FILE)";
    folder.file("cut", &fixture!("staple-good.der")[..600]);
    folder.file("try-later", [0x30, 3, 0x0a, 1, 3]);
    for (name, what) in [
        ("cut", "is not an OCSP response in DER"),
        ("cert", "is not an OCSP response in DER"),
        ("try-later", "is an OCSP response without success: tryLater"),
    ] {
        let why = Certificate::load(&cert, &key, Some(&folder.0.path().join(name))).unwrap_err();
        assert_eq!(folder.without_path(&why), format!("{name}: {what} {hint}"));
    }
    let (other, other_key) = pair();
    let (other, other_key) = (folder.file("other", other), folder.file("other-key", other_key));
    let why = Certificate::load(&other, &other_key, Some(&good)).unwrap_err();
    assert_eq!(
        folder.without_path(&why),
        format!("good: is an OCSP response for another certificate {hint}")
    );
}

#[test]
fn facts_are_those_of_openssl() {
    let certificate = pem::certificates_of(Path::new("x"), fixture!("staple.pem")).unwrap().remove(0);
    let facts = CertificateFacts::of(&certificate).unwrap();
    assert_eq!((facts.subject.as_str(), facts.issuer.as_str()), ("CN=staple.example", "CN=OCSP CA"));
    // openssl x509 -in staple.pem -noout -fingerprint -sha256
    assert_eq!(hex(&facts.fingerprint), "2a858072011e765c582e8c0519097a61cd644895e7ce9c4ebf7e13c0b191093b");
    // openssl x509 -in staple.pem -noout -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64
    assert_eq!(base64(&facts.spki), "2C+RE1d+OgRI2WjC3HXhqny2fxFU/I+V7xe1WDoNI8s=");
}

#[test]
fn names_are_in_lower_case_and_addresses_as_text() {
    let mut params = params("x");
    params.subject_alt_names = vec![
        SanType::DnsName("App.Example".try_into().unwrap()),
        SanType::DnsName("*.App.Example".try_into().unwrap()),
        SanType::DnsName("bad\nname".try_into().unwrap()),
        SanType::IpAddress("10.0.0.1".parse().unwrap()),
        SanType::IpAddress("2001:db8::1".parse().unwrap()),
        SanType::Rfc822Name("a@app.example".try_into().unwrap()),
        SanType::URI("spiffe://app/a".try_into().unwrap()),
    ];
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    let facts = CertificateFacts::of(certificate.der()).unwrap();
    assert_eq!(facts.names, ["app.example", "*.app.example", "10.0.0.1", "2001:db8::1"]);
    assert_eq!(
        PeerCertificate::of(certificate.der()).unwrap().alt_names,
        "DNS:App.Example,DNS:*.App.Example,DNS:bad\\0Aname,IP:10.0.0.1,IP:2001:db8::1,email:a@app.example,URI:spiffe://app/a"
    );
}

/// Printable ASCII of at most 2 KiB.
fn assert_is_field(text: &str) {
    assert!(text.len() <= TEXT_MAX, "{} bytes", text.len());
    assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text:?}");
}

#[test]
fn hostile_names_do_not_leave_their_field() {
    let mut params = params("x");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, DnValue::Utf8String("Müller, Söhne".to_owned()));
    params
        .distinguished_name
        .push(DnType::OrganizationalUnitName, DnValue::BmpString("é".try_into().unwrap()));
    params
        .distinguished_name
        .push(DnType::CommonName, DnValue::Utf8String("a\r\nX-Admin: 1\0,CN=root".to_owned()));
    params.subject_alt_names =
        vec![SanType::DnsName("a,DNS:admin.example\r\nX-Admin: 1".try_into().unwrap())];
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    let peer = PeerCertificate::of(certificate.der()).unwrap();
    assert_eq!(
        peer.subject,
        "CN=a\\0D\\0AX-Admin: 1\\00\\,CN=root,OU=\\C3\\A9,O=M\\C3\\BCller\\, S\\C3\\B6hne"
    );
    assert_eq!(peer.alt_names, "DNS:a\\,DNS:admin.example\\0D\\0AX-Admin: 1");
    assert_eq!(peer.fingerprint, hex(&CertificateFacts::of(certificate.der()).unwrap().fingerprint));
    [&peer.subject, &peer.alt_names].into_iter().for_each(|text| assert_is_field(text));
}

#[test]
fn many_or_long_names_are_cut() {
    let mut long = params("x");
    long.distinguished_name.push(DnType::OrganizationName, "\u{1}".repeat(5000));
    let name = |number: usize| SanType::DnsName(format!("name-{number}.example").try_into().unwrap());
    long.subject_alt_names = (0..2500).map(name).collect();
    let certificate = long.self_signed(&KeyPair::generate().unwrap()).unwrap();
    assert!(certificate.der().len() > 50_000);
    let peer = PeerCertificate::of(certificate.der()).unwrap();
    assert_eq!(peer.subject, "...");
    assert!(peer.alt_names.ends_with(".example,..."), "{}", peer.alt_names);
    [&peer.subject, &peer.alt_names].into_iter().for_each(|text| assert_is_field(text));
    assert_eq!(CertificateFacts::of(certificate.der()).unwrap().names.len(), 2500);
    long.subject_alt_names = (0..5000).map(name).collect();
    let certificate = long.self_signed(&KeyPair::generate().unwrap()).unwrap();
    let refusal = PeerCertificate::of(certificate.der()).unwrap_err();
    assert!(refusal.ends_with("bytes, at most 65535 can be sent"), "{refusal}");
}

proptest! {
    /// A certificate with any bytes of it replaced is read or refused.
    #[test]
    fn broken_der_never_panics(at in 0_usize..1000, bytes in proptest::collection::vec(any::<u8>(), 1..8)) {
        let whole = pem::certificates_of(Path::new("x"), fixture!("staple.pem")).unwrap().remove(0);
        let mut der = whole.to_vec();
        let at = at % der.len();
        let end = (at + bytes.len()).min(der.len());
        der[at..end].copy_from_slice(&bytes[..end - at]);
        let der = CertificateDer::from(der);
        prop_assert_eq!(CertificateFacts::of(&der).is_ok(), PeerCertificate::of(&der).is_ok());
        if let Ok(peer) = PeerCertificate::of(&der) {
            assert_is_field(&peer.subject);
            assert_is_field(&peer.alt_names);
        }
        let _ = ocsp::of(&der, &whole);
        let _ = bad_links(&[der.clone(), whole.clone()]);
        let _ = bad_links(&[whole, der]);
    }
}

#[test]
fn authorities_are_read_from_a_file() {
    let folder = Folder::new();
    let [root, middle, ..] = chain();
    let roots = load_roots(Some(&folder.file("roots", format!("{root}{middle}")))).unwrap();
    assert_eq!((roots.store.len(), roots.warnings.len()), (2, 0));
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let roots = load_roots(Some(&folder.file("part", format!("{garbage}{root}")))).unwrap();
    assert_eq!(roots.store.len(), 1);
    let warning = folder.without_path(&roots.warnings[0]);
    assert!(warning.starts_with("part: certificate 1 is not used: "), "{warning}");
    let why = load_roots(Some(&folder.file("none", garbage))).unwrap_err();
    assert_eq!(
        folder.without_path(&why),
        "none: none of its 1 certificates can be used as an authority (hint: name the PEM file of the CA that signs the peers' \
         certificates)"
    );
    let why = load_roots(Some(Path::new("/no/file"))).unwrap_err();
    assert_eq!(why, "/no/file: no such file (hint: check the path, and whether it is mounted)");
}

#[test]
fn a_system_without_authorities_says_which_package_has_them() {
    let why = roots::from_system(rustls_native_certs::CertificateResult::default()).unwrap_err();
    assert_eq!(
        why,
        "this system has no certificate authorities (hint: install the package ca-certificates, or name a file with \
         --upstream-ca)"
    );
}
