//! `sluice cert`: pairs that it makes are read by OpenSSL, and files that it shows are those of OpenSSL.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sluice_tests::{
    proxy::{Finished, finish, run},
    skip,
};
use tempfile::TempDir;
use tokio::process::Command;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// `sluice cert make` with these flags and, in the end, the folder to write to.
async fn make(folder: &Path, flags: &[&str]) -> Finished {
    let out = ["--out", folder.to_str().expect("UTF-8")];
    run(&[&["cert", "make"], flags, &out].concat()).await
}

#[track_caller]
fn assert_ok(finished: &Finished) {
    assert!(finished.code == Some(0) && finished.stderr.is_empty(), "{finished:?}");
}

/// One line to stderr, nothing to stdout.
#[track_caller]
fn assert_refused(finished: &Finished, code: i32, words: &[&str]) {
    assert!(finished.code == Some(code) && finished.stdout.is_empty(), "{finished:?}");
    assert!(code == 2 || finished.stderr.lines().count() == 1, "{finished:?}");
    words.iter().for_each(|words| assert!(finished.stderr.contains(words), "no {words:?} in {finished:?}"));
}

/// What `sluice cert show --json` says of a file.
async fn facts(file: &Path) -> Value {
    let shown = run(&["cert", "show", "--json", file.to_str().expect("UTF-8")]).await;
    assert_ok(&shown);
    let mut files: Vec<Value> = serde_json::from_str(&shown.stdout).expect("JSON");
    assert_eq!(files.len(), 1);
    files.remove(0)
}

/// Runs openssl with these arguments; `None`, with a notice, if it is not installed.
async fn openssl(arguments: &[&str]) -> Option<Finished> {
    let found = ["/usr/bin/openssl", "/bin/openssl", "/usr/local/bin/openssl"];
    let Some(path) = found.into_iter().find(|path| fs::exists(path).unwrap_or(false)) else {
        skip("openssl is not installed");
        return None;
    };
    let mut command = Command::new(path);
    command.args(arguments);
    Some(finish(command).await)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it was written").permissions().mode() & 0o777
}

/// A CA, its certificate and its key.
async fn make_ca(folder: &Path) -> [PathBuf; 2] {
    assert_ok(&make(folder, &["--make-ca"]).await);
    ["ca.pem", "ca-key.pem"].map(|name| folder.join(name))
}

#[tokio::test]
async fn makes_a_pair_and_says_how_to_use_it() {
    let folder = folder();
    let out = folder.path().join("new");
    let made = make(&out, &["--host", "App.Example", "--host", "*.app.example", "--host", "::1"]).await;
    assert_ok(&made);
    let (cert, key) = (out.join("cert.pem"), out.join("key.pem"));
    let used = format!("--tls-cert {} --tls-key {}", cert.display(), key.display());
    for words in
        [&used, "--listen-tls", "signed by    itself", "for          app.example, *.app.example, ::1\n"]
    {
        assert!(made.stdout.contains(words), "no {words:?} in {made:?}");
    }
    assert_eq!([mode(&cert), mode(&key)], [0o644, 0o600]);
    let shown = facts(&cert).await;
    let certificate = &shown["certificates"][0];
    assert_eq!(certificate["names"], serde_json::json!(["app.example", "*.app.example", "::1"]));
    assert_eq!(certificate["key"], "ECDSA P-256");
    // An hour more than was asked for, for peers whose clocks are behind.
    let [from, to] = ["not_before_s", "not_after_s"].map(|key| certificate[key].as_i64().expect("a time"));
    assert_eq!(to - from, 365 * 86_400 + 3600);
}

#[tokio::test]
async fn files_are_replaced_by_force_only() {
    let folder = folder();
    assert_ok(&make(folder.path(), &["--host", "a"]).await);
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let before = [&cert, &key].map(|path| fs::read(path).unwrap());
    assert_refused(
        &make(folder.path(), &["--host", "b"]).await,
        1,
        &["cert.pem: already exists (hint: --force"],
    );
    fs::remove_file(&cert).unwrap();
    assert_refused(
        &make(folder.path(), &["--host", "b"]).await,
        1,
        &["key.pem: already exists (hint: --force"],
    );
    assert!(!cert.exists() && fs::read(&key).unwrap() == before[1]);
    // Neither the mode of an old file is taken over, nor what a link points to.
    fs::set_permissions(&key, fs::Permissions::from_mode(0o666)).unwrap();
    let elsewhere = folder.path().join("elsewhere");
    fs::write(&elsewhere, "kept").unwrap();
    std::os::unix::fs::symlink(&elsewhere, &cert).unwrap();
    assert_ok(&make(folder.path(), &["--host", "b", "--force"]).await);
    assert_eq!((mode(&key), fs::read_to_string(&elsewhere).unwrap().as_str()), (0o600, "kept"));
    assert_ne!([&cert, &key].map(|path| fs::read(path).unwrap()), before);
    assert_eq!(facts(&cert).await["certificates"][0]["names"], serde_json::json!(["b"]));
}

#[tokio::test]
async fn a_ca_signs_and_openssl_agrees() {
    let folder = folder();
    let [ca, ca_key] = make_ca(folder.path()).await;
    assert_eq!([mode(&ca), mode(&ca_key)], [0o644, 0o600]);
    let signed =
        ["--ca", text(&ca), "--ca-key", text(&ca_key), "--host", "app.example", "--host", "127.0.0.1"];
    for (kind, name, bits) in [("ecdsa", "ECDSA P-256", "(256 bit)"), ("rsa", "RSA 2048", "(2048 bit)")] {
        let out = folder.path().join(kind);
        // Longer than the CA: its end is that of the CA.
        let made = make(&out, &[&signed[..], &["--key-type", kind, "--days", "36500"]].concat()).await;
        assert_ok(&made);
        let (cert, key) = (out.join("cert.pem"), out.join("key.pem"));
        let (leaf, issuer) = (facts(&cert).await, facts(&ca).await);
        let (leaf, issuer) = (&leaf["certificates"][0], &issuer["certificates"][0]);
        assert_eq!((&leaf["key"], &leaf["issuer"]), (&name.into(), &issuer["subject"]));
        assert_eq!(leaf["not_after_s"], issuer["not_after_s"]);

        let Some(read) = openssl(&["x509", "-noout", "-text", "-in", text(&cert)]).await else { return };
        assert_ok(&read);
        for words in
            ["DNS:app.example, IP Address:127.0.0.1", "CA:FALSE", "TLS Web Server Authentication", bits]
        {
            assert!(read.stdout.contains(words), "no {words:?} in {}", read.stdout);
        }
        let verify = ["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", text(&ca)];
        let name = ["-verify_hostname", "app.example", text(&cert)];
        assert_ok(&openssl(&[&verify[..], &name].concat()).await.unwrap());
        let other = ["-verify_hostname", "other.example", text(&cert)];
        assert_ne!(openssl(&[&verify[..], &other].concat()).await.unwrap().code, Some(0));
        let of_cert = openssl(&["x509", "-noout", "-pubkey", "-in", text(&cert)]).await.unwrap();
        let of_key = openssl(&["pkey", "-pubout", "-in", text(&key)]).await.unwrap();
        assert_ok(&of_key);
        assert_eq!(of_cert.stdout, of_key.stdout);
    }
}

#[tokio::test]
async fn an_intermediate_is_sent_along() {
    let folder = folder();
    let [root, root_key] = make_ca(&folder.path().join("root")).await;
    // --make-ca makes roots only; OpenSSL signs an intermediate.
    let file = |name: &str| folder.path().join(name);
    let [extensions, request, key, cert] = ["extensions", "request", "key", "cert"].map(file);
    fs::write(
        &extensions,
        "basicConstraints=critical,CA:TRUE\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n",
    )
    .unwrap();
    let new = [
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=middle",
    ];
    let files = ["-keyout", text(&key), "-out", text(&request)];
    let Some(requested) = openssl(&[&new[..], &files].concat()).await else { return };
    assert_eq!(requested.code, Some(0), "{requested:?}");
    let sign =
        ["x509", "-req", "-in", text(&request), "-CA", text(&root), "-CAkey", text(&root_key), "-days", "30"];
    let files = ["-CAcreateserial", "-extfile", text(&extensions), "-out", text(&cert)];
    let signed = openssl(&[&sign[..], &files].concat()).await.unwrap();
    assert_eq!(signed.code, Some(0), "{signed:?}");

    let out = file("out");
    assert_ok(&make(&out, &["--host", "app.example", "--ca", text(&cert), "--ca-key", text(&key)]).await);
    let made = out.join("cert.pem");
    let shown = facts(&made).await;
    assert_eq!(shown["certificates"].as_array().map(Vec::len), Some(2), "{shown}");
    assert_eq!(
        (&shown["certificates"][1]["subject"], &shown["chain_in_order"]),
        (&"CN=middle".into(), &true.into())
    );
    let verify = ["verify", "-CAfile", text(&root), "-untrusted", text(&made), text(&made)];
    assert_ok(&openssl(&verify).await.unwrap());
}

#[tokio::test]
async fn shows_what_openssl_shows() {
    let folder = folder();
    assert_ok(&make(folder.path(), &["--host", "app.example", "--days", "10"]).await);
    let cert = folder.path().join("cert.pem");
    let shown = run(&["cert", "show", text(&cert)]).await;
    assert_ok(&shown);
    for words in
        ["names        app.example\n", "key          ECDSA P-256\n", "issuer       itself\n", " days left)\n"]
    {
        assert!(shown.stdout.contains(words), "no {words:?} in {shown:?}");
    }
    let Some(read) = openssl(&["x509", "-noout", "-fingerprint", "-sha256", "-in", text(&cert)]).await else {
        return;
    };
    let fingerprint =
        read.stdout.trim().rsplit('=').next().unwrap_or_default().replace(':', "").to_lowercase();
    assert!(fingerprint.len() == 64 && shown.stdout.contains(&fingerprint), "{read:?} {shown:?}");
}

#[tokio::test]
async fn show_reads_the_files_that_it_can() {
    let folder = folder();
    assert_ok(&make(folder.path(), &["--host", "a"]).await);
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    let shown = run(&["cert", "show", text(&key), text(&cert), "/no/file.pem"]).await;
    assert_eq!(shown.code, Some(1), "{shown:?}");
    assert!(shown.stdout.contains("names        a\n"), "{shown:?}");
    let lines: Vec<_> = shown.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{shown:?}");
    assert!(lines[0].contains("key.pem: no CERTIFICATE block in it, only PRIVATE KEY (hint: "), "{shown:?}");
    assert_eq!(
        lines[1],
        "sluice: /no/file.pem: no such file (hint: check the path, and whether it is mounted)"
    );
}

#[tokio::test]
async fn a_ca_that_cannot_sign_is_refused() {
    let folder = folder();
    let [ca, ca_key] = make_ca(folder.path()).await;
    assert_ok(&make(folder.path(), &["--host", "a"]).await);
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    for (ca, ca_key, words) in [
        (&cert, &key, "cert.pem: is not the certificate of a CA (hint: "),
        (&ca, &key, "key.pem: the key (ECDSA P-256) does not belong to the certificate in "),
        (&ca, &ca, "ca.pem: no PRIVATE KEY block in it, only CERTIFICATE (hint: "),
        (&folder.path().join("no.pem"), &ca_key, "no.pem: no such file (hint: "),
    ] {
        let out = folder.path().join("out");
        let made = make(&out, &["--host", "b", "--ca", text(ca), "--ca-key", text(ca_key)]).await;
        assert_refused(&made, 1, &[words]);
        assert!(!out.exists());
    }
}

#[tokio::test]
async fn wrong_flags_are_2() {
    let folder = folder();
    for (flags, words) in [
        (&[][..], "--host <NAME>"),
        (&["--host", "https://a"], "without scheme and path"),
        (&["--host", "a:443"], "without a port"),
        (&["--host", "a", "--days", "0"], "--days <N>"),
        (&["--host", "a", "--make-ca"], "cannot be used with"),
        (&["--host", "a", "--ca", "f"], "--ca-key <FILE>"),
        (&["--host", "a", "--key-type", "dsa"], "possible values: ecdsa, rsa"),
        (&["--host", "a", "--cert", "f"], "--cert <FILE>"),
    ] {
        assert_refused(&make(folder.path(), flags).await, 2, &[words]);
    }
    assert_refused(&run(&["cert", "show"]).await, 2, &["<FILE>..."]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
