//! OpenSSL's command-line client against our handshakes, over sockets.

mod common;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use sluice_tls::handshake::{FailureKind, HandshakeFailure, Progress, ServerConfig, ServerHandshake};

/// Serves one handshake; says how it ended.
fn serve(config: &ServerConfig, mut socket: TcpStream) -> Result<(), HandshakeFailure> {
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut handshake = ServerHandshake::new(config);
    let (mut inbox, mut piece) = (Vec::new(), [0; 1024]);
    loop {
        let count = socket.read(&mut piece).unwrap();
        if count == 0 {
            return Err(handshake.interrupted());
        }
        inbox.extend_from_slice(&piece[..count]);
        let mut out = Vec::new();
        let (used, result) = handshake.advance(&inbox, &mut out);
        inbox.drain(..used);
        socket.write_all(&out).unwrap();
        if result? == Progress::Done {
            return Ok(());
        }
    }
}

/// Runs `openssl s_client` with these arguments against one handshake.
fn connect(
    config: &ServerConfig,
    authority: &str,
    arguments: &[&str],
) -> (Result<(), HandshakeFailure>, String) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(authority.as_bytes()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let client = Command::new("openssl")
        .args([
            "s_client",
            "-connect",
            &address,
            "-servername",
            common::NAME,
            "-verify_return_error",
            "-CAfile",
        ])
        .arg(file.path())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (socket, _) = listener.accept().unwrap();
    let end = serve(config, socket);
    let Output { stdout, stderr, .. } = client.wait_with_output().unwrap();
    (end, [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat())
}

fn is_installed() -> bool {
    let is_there =
        Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success());
    if !is_there {
        eprintln!("skipped: openssl is not installed");
    }
    is_there
}

#[test]
fn openssl_completes_handshakes_of_both_versions_with_each_cipher_and_group() {
    if !is_installed() {
        return;
    }
    let (config, authority) = common::listener(&rcgen::PKCS_ECDSA_P256_SHA256);
    let table: [&[&str]; 10] = [
        &["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"],
        &["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"],
        &["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"],
        &["-tls1_3", "-groups", "P-256"],
        &["-tls1_3", "-groups", "P-384"],
        // The first group is not served: the client is asked again.
        &["-tls1_3", "-groups", "P-521:X25519"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"],
        &["-alpn", "h2,http/1.1"],
    ];
    for arguments in table {
        let (end, text) = connect(&config, &authority, arguments);
        assert_eq!(end, Ok(()), "{arguments:?}: {text}");
        assert!(text.contains("Verify return code: 0 (ok)"), "{arguments:?}: {text}");
        if arguments[0] == "-alpn" {
            assert!(text.contains("ALPN protocol: http/1.1"), "{text}");
        }
    }
}

#[test]
fn openssl_is_refused_with_alerts() {
    if !is_installed() {
        return;
    }
    let (config, authority) = common::listener(&rcgen::PKCS_ECDSA_P256_SHA256);
    // Its security level keeps old versions off otherwise.
    let table: [(&[&str], &str); 4] = [
        (&["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"], "alert number 70"),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"], "alert number 40"),
        (&["-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256"], "alert number 40"),
        (&["-tls1_3", "-alpn", "h3"], "alert number 120"),
    ];
    for (arguments, alert) in table {
        let (end, text) = connect(&config, &authority, arguments);
        let failure = end.unwrap_err();
        assert_eq!(failure.kind, FailureKind::NothingInCommon, "{failure:?}");
        assert!(text.contains(alert), "{arguments:?}: {text}");
    }
}
