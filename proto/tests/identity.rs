//! The forwarding fields that a server gets, by the peer of the request and by configuration.

use std::net::IpAddr;

use sluice_proto::forwarded::{HopList, client_address};
use sluice_proto::h1::{
    CertificateIdentity, ClientIdentity, Forwarding, HeadStore, IdentityPolicy, Parsed, RealIp, RequestId,
    TlsFields, TlsIdentity, Trust, parse_request, write_request,
};
use sluice_proto::{HeadLimits, RequestHead};

const PEER: &str = "10.0.0.9";

fn with_head<R>(fields: &str, see: impl FnOnce(&RequestHead<'_>) -> R) -> R {
    let request = format!("GET / HTTP/1.1\r\nHost: a.example:8443\r\n{fields}\r\n");
    let mut store = HeadStore::default();
    let parsed = parse_request(request.as_bytes(), &mut store, &HeadLimits::default());
    let Ok(Parsed::Complete { head, .. }) = parsed else { panic!("{parsed:?}") };
    see(&head)
}

/// The fields that a server gets, after Host, when the client was found to be `client`.
fn sent(policy: &IdentityPolicy, trust: Trust, client: &str, fields: &str) -> Vec<String> {
    sent_over_tls(policy, trust, client, fields, None)
}

fn sent_over_tls(
    policy: &IdentityPolicy,
    trust: Trust,
    client: &str,
    fields: &str,
    tls: Option<&TlsIdentity<'_>>,
) -> Vec<String> {
    with_head(fields, |head| {
        let sender = ClientIdentity {
            peer: PEER.as_bytes(),
            client: client.as_bytes(),
            trust,
            proto: "http",
            request_id: 7,
            tls,
        };
        let mut out = Vec::new();
        write_request(
            &mut out,
            head,
            &Forwarding { identity: policy, sender, host: "up", body: head.body, edits: None },
        );
        let text = String::from_utf8(out).unwrap();
        text.trim_end().split("\r\n").skip(2).map(str::to_owned).collect()
    })
}

const NEW_ID: &str = "X-Request-Id: 00000000000000000000000000000007";
const VIA: &str = "Via: 1.1 sluice";

const FORGED: &str = "X-Forwarded-For: 1.1.1.1\r\nx-forwarded-proto: https\r\nX-Forwarded-Host: admin\r\n\
    X-Forwarded-Port: 1\r\nX-Forwarded-Prefix: /admin\r\nForwarded: for=1.1.1.1\r\nX-Real-IP: 1.1.1.1\r\n\
    X-Request-Id: mine\r\nX_Forwarded_Prefix: /admin\r\nX-Forwarded_Whatever: 1\r\n\
    user_id: kept\r\nVia: 1.1 other\r\n";

#[test]
fn fields_of_untrusted_peers_are_dropped() {
    let sent = sent(&IdentityPolicy::default(), Trust::Untrusted, PEER, FORGED);
    assert_eq!(
        sent,
        [
            "user_id: kept",
            "Via: 1.1 other",
            "X-Forwarded-For: 10.0.0.9",
            "X-Forwarded-Proto: http",
            "X-Forwarded-Host: a.example:8443",
            "X-Forwarded-Port: 8443",
            NEW_ID,
            VIA
        ]
    );
}

#[test]
fn trusted_proxies_are_continued() {
    let policy = IdentityPolicy::default();
    let supplied = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: HTTPS\r\nX-Forwarded-Host: shop.example\r\n\
        X-Forwarded-Port: 443\r\nX-Forwarded-Prefix: /shop\r\nX-Forwarded-For: \r\nX-Forwarded-For: 10.0.0.1\r\n\
        Forwarded: for=1.1.1.1\r\nX-Real-IP: 192.0.2.1\r\nX-Request-Id: theirs\r\n";
    assert_eq!(
        sent(&policy, Trust::Trusted, "192.0.2.1", supplied),
        [
            "X-Forwarded-Prefix: /shop",
            "X-Real-IP: 192.0.2.1",
            "X-Request-Id: theirs",
            "X-Forwarded-For: 192.0.2.1, 10.0.0.1, 10.0.0.9",
            "X-Forwarded-Proto: HTTPS",
            "X-Forwarded-Host: shop.example",
            "X-Forwarded-Port: 443",
            VIA
        ]
    );
    // What it does not say we do; its port we cannot know.
    assert_eq!(
        sent(&policy, Trust::Trusted, PEER, ""),
        [
            "X-Forwarded-For: 10.0.0.9",
            "X-Forwarded-Proto: http",
            "X-Forwarded-Host: a.example:8443",
            NEW_ID,
            VIA
        ]
    );
}

#[test]
fn what_a_trusted_proxy_says_must_be_well_formed() {
    for fields in [
        "X-Forwarded-Proto: gopher\r\nX-Forwarded-Host: a b\r\nX-Forwarded-Port: 80,81\r\nX-Request-Id: a b\r\n",
        "X-Forwarded-Proto: http, https\r\nX-Forwarded-Host: a, b\r\nX-Forwarded-Port: 123456\r\nX-Request-Id: \r\n",
        "X-Forwarded-Proto: https\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: b\r\nX-Forwarded-Host: b\r\n\
         X-Forwarded-Port: 1\r\nX-Forwarded-Port: 1\r\nX-Request-Id: a\r\nX-Request-Id: a\r\n",
        "X-Forwarded-Proto: \"https\"\r\nX-Forwarded-Host: u@b\r\nX-Forwarded-Port: -1\r\nX-Request-Id: \u{e9}\r\n",
        "X-Forwarded-Port: 99999\r\n",
        "X-Forwarded-Port: 65536\r\n",
        "X-Forwarded-Port: 0\r\n",
        "X-Forwarded-Port: 0443\r\n",
        "X-Forwarded-Port: 00000\r\n",
    ] {
        assert_eq!(
            sent(&IdentityPolicy::default(), Trust::Trusted, PEER, fields),
            [
                "X-Forwarded-For: 10.0.0.9",
                "X-Forwarded-Proto: http",
                "X-Forwarded-Host: a.example:8443",
                NEW_ID,
                VIA
            ],
            "{fields}"
        );
    }
}

#[test]
fn connection_cannot_take_away_what_a_proxy_recorded() {
    let fields = "Connection: X-Forwarded-Port, X-Real-IP, X-Request-Id, X-Forwarded-For\r\n\
        X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Port: 443\r\nX-Real-IP: 192.0.2.1\r\nX-Request-Id: a\r\n";
    let sent = sent(&IdentityPolicy::default(), Trust::Trusted, "192.0.2.1", fields);
    for line in [
        "X-Real-IP: 192.0.2.1",
        "X-Request-Id: a",
        "X-Forwarded-For: 192.0.2.1, 10.0.0.9",
        "X-Forwarded-Port: 443",
    ] {
        assert!(sent.contains(&line.to_owned()), "{line} in {sent:?}");
    }
}

#[test]
fn forwarded_is_quoted_where_it_must_be() {
    let policy = IdentityPolicy {
        x_forwarded: false,
        forwarded: true,
        trusted_list: HopList::Forwarded,
        request_id: RequestId::Remove,
        ..IdentityPolicy::default()
    };
    let line = |policy, trust, client, fields| sent(policy, trust, client, fields).swap_remove(0);
    assert_eq!(
        line(
            &policy,
            Trust::Untrusted,
            "10.0.0.9",
            FORGED.split("Via").next().unwrap().trim_end_matches("user_id: kept\r\n")
        ),
        "Forwarded: for=10.0.0.9;host=\"a.example:8443\";proto=http"
    );
    assert_eq!(
        line(&policy, Trust::Untrusted, "2001:db8::7", ""),
        "Forwarded: for=\"[2001:db8::7]\";host=\"a.example:8443\";proto=http"
    );
    let named = IdentityPolicy { by: "_edge".into(), ..policy.clone() };
    assert_eq!(
        line(
            &named,
            Trust::Trusted,
            "192.0.2.1",
            "Forwarded: for=192.0.2.1;proto=https, for=10.0.0.1\r\nForwarded: for=10.0.0.2\r\n"
        ),
        "Forwarded: for=192.0.2.1;proto=https, for=10.0.0.1, for=10.0.0.2, for=10.0.0.9;by=_edge;\
         host=\"a.example:8443\";proto=http"
    );
    // Quotes that are left open must not swallow what follows them.
    for open in ["for=\"x, for=192.0.2.1", "for=192.0.2.1;host=\"\\\"\""] {
        let received = format!("Forwarded: {open}\r\n");
        let begun_anew = "Forwarded: for=192.0.2.1;by=_edge;host=\"a.example:8443\";proto=http";
        assert_eq!(sent(&named, Trust::Trusted, "192.0.2.1", &received)[0], begun_anew);
    }
    // With the other list trusted, it is begun with the client that was found.
    let both = IdentityPolicy { x_forwarded: true, trusted_list: HopList::XForwardedFor, ..policy };
    let sent =
        sent(&both, Trust::Trusted, "192.0.2.1", "X-Forwarded-For: 192.0.2.1\r\nForwarded: for=1.1.1.1\r\n");
    assert!(sent.contains(&"X-Forwarded-For: 192.0.2.1, 10.0.0.9".to_owned()), "{sent:?}");
    assert!(
        sent.contains(&"Forwarded: for=192.0.2.1;host=\"a.example:8443\";proto=http".to_owned()),
        "{sent:?}"
    );
}

/// What a client claims of its own certificate.
const FORGED_TLS: &str = "X-Client-Cert-Subject: CN=root\r\nx_client_cert_subject: CN=root\r\n\
    X-Client_Cert-SAN: DNS:root\r\nX-Client-Cert-Fingerprint: 00\r\nX-Client-Cert: 00\r\n\
    X-JA4: forged\r\nx_ja4: forged\r\nX-Client-Id: kept\r\n";

#[test]
fn servers_learn_of_certificates_from_the_handshake_only() {
    let quiet =
        IdentityPolicy { x_forwarded: false, request_id: RequestId::Remove, ..IdentityPolicy::default() };
    let tls = TlsFields { client_certificate: true, ja4: false };
    let certificates = IdentityPolicy { tls, ..quiet.clone() };
    let both = IdentityPolicy { tls: TlsFields { ja4: true, ..tls }, ..quiet.clone() };
    let certificate = CertificateIdentity { subject: "CN=me", alt_names: "DNS:me", fingerprint: "ab" };
    let shown = TlsIdentity { certificate: Some(certificate), ja4: Some("t13d") };
    let claimed: Vec<_> = FORGED_TLS.trim_end().split("\r\n").collect();
    let kept = "X-Client-Id: kept";
    let sent = |policy, trust, tls| sent_over_tls(policy, trust, PEER, FORGED_TLS, tls);

    let (untrusted, trusted) = (Trust::Untrusted, Trust::Trusted);
    assert_eq!(sent(&both, untrusted, None), [kept, VIA]);
    let subject = "X-Client-Cert-Subject: CN=me";
    let rest = ["X-Client-Cert-SAN: DNS:me", "X-Client-Cert-Fingerprint: ab", "X-JA4: t13d", VIA];
    assert_eq!(sent(&both, untrusted, Some(&shown)), [&[kept, subject][..], &rest].concat());
    // A part that is empty is left out.
    let nameless = CertificateIdentity { subject: "", alt_names: "", ..certificate };
    let nameless = TlsIdentity { certificate: Some(nameless), ja4: None };
    assert_eq!(sent(&both, untrusted, Some(&nameless)), [kept, "X-Client-Cert-Fingerprint: ab", VIA]);
    // Each option for itself.
    assert_eq!(
        sent(&certificates, untrusted, Some(&shown)),
        ["X-JA4: forged", "x_ja4: forged", kept, subject, rest[0], rest[1], VIA]
    );
    assert_eq!(sent(&quiet, untrusted, Some(&shown)), [&claimed[..], &[VIA]].concat());
    // A trusted proxy speaks for its client, whose certificate is not its own.
    assert_eq!(sent(&both, trusted, Some(&shown)), [&claimed[..], &[VIA]].concat());
}

#[test]
fn every_field_can_be_left_out() {
    let none = IdentityPolicy {
        x_forwarded: false,
        real_ip: RealIp::Remove,
        request_id: RequestId::Remove,
        via: "edge-1".into(),
        ..IdentityPolicy::default()
    };
    for trust in [Trust::Untrusted, Trust::Trusted] {
        let fields = FORGED.split("X-Forwarded-Prefix").next().unwrap().to_owned() + "Via: 1.1 other\r\n";
        assert_eq!(sent(&none, trust, PEER, &fields), ["Via: 1.1 other", "Via: 1.1 edge-1"]);
    }
    let passing = IdentityPolicy {
        request_id: RequestId::Pass,
        real_ip: RealIp::Set,
        x_forwarded: false,
        ..IdentityPolicy::default()
    };
    assert_eq!(
        sent(
            &passing,
            Trust::Untrusted,
            PEER,
            "X-Request-Id: a b\r\nX-Real-IP: 1.1.1.1\r\nX_Real: 1.1.1.1\r\n"
        ),
        ["X-Request-Id: a b", "X_Real: 1.1.1.1", "X-Real-IP: 10.0.0.9", VIA]
    );
}

#[test]
fn clients_are_found_past_trusted_proxies() {
    let is_trusted = |ip: IpAddr| ip.to_string().starts_with("10.") || ip.to_string().starts_with("fd00:");
    let client = |peer: &str, fields: &str, list| {
        with_head(fields, |head| {
            client_address(&head.field_list(), list, peer.parse().unwrap(), is_trusted).to_string()
        })
    };
    for (peer, list, client_wanted) in [
        ("192.0.2.9", "1.1.1.1", "192.0.2.9"),
        ("10.0.0.9", "1.1.1.1", "1.1.1.1"),
        ("::ffff:10.0.0.9", "1.1.1.1", "1.1.1.1"),
        ("10.0.0.9", "6.6.6.6, 1.1.1.1", "1.1.1.1"),
        ("10.0.0.9", "6.6.6.6, 1.1.1.1, 10.0.0.1, fd00::1", "1.1.1.1"),
        ("10.0.0.9", "1.1.1.1:1234, [fd00::1]:80", "1.1.1.1"),
        ("10.0.0.9", "10.0.0.1, 10.0.0.2", "10.0.0.1"),
        // An entry that is no address ends the walk, and so does an empty one.
        ("10.0.0.9", "1.1.1.1, unknown, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.9", "1.1.1.1, , 10.0.0.2", "10.0.0.2"),
        ("10.0.0.9", "1.1.1.1, 10.0.0.2;", "10.0.0.9"),
        ("10.0.0.9", "", "10.0.0.9"),
        ("fd00::9", "2001:db8::7", "2001:db8::7"),
        ("10.0.0.9", "::ffff:1.1.1.1", "1.1.1.1"),
    ] {
        assert_eq!(
            client(peer, &format!("X-Forwarded-For: {list}\r\n"), HopList::XForwardedFor),
            client_wanted,
            "{list}"
        );
    }
    let lines =
        "X-Forwarded-For: 6.6.6.6, 1.1.1.1\r\nX-Forwarded-For: 10.0.0.2\r\nForwarded: for=7.7.7.7\r\n";
    assert_eq!(client("10.0.0.9", lines, HopList::XForwardedFor), "1.1.1.1");
    assert_eq!(client("10.0.0.9", lines, HopList::Forwarded), "7.7.7.7");
    let lines = "Forwarded: for=6.6.6.6\r\nForwarded: for=\"[2001:db8::7]:1\";proto=https, for=10.0.0.3\r\n";
    assert_eq!(client("10.0.0.9", lines, HopList::Forwarded), "2001:db8::7");
    assert_eq!(client("10.0.0.9", lines, HopList::XForwardedFor), "10.0.0.9");
}

#[test]
fn lookalikes_in_trailers_are_dropped() {
    use sluice_proto::ChunkLimits;
    use sluice_proto::h1::Framing;
    use sluice_proto::h1::{BodyDecoder, BodyEvent, write_last_chunk};
    let wire =
        b"0\r\nX_Forwarded_For: 1.1.1.1\r\nX_Forwarded_Prefix: /x\r\nX-Forwarded-Prefix: /x\r\nX-Request-Id: 1\r\nX-Sum: 1\r\n\r\n";
    let mut decoder = BodyDecoder::new(Framing::Chunked, ChunkLimits::default());
    let mut rest = &wire[..];
    let mut out = Vec::new();
    loop {
        let (used, event) = decoder.next(rest).unwrap();
        rest = &rest[used..];
        match event {
            BodyEvent::Trailers(trailers) => write_last_chunk(&mut out, Some(&trailers)),
            BodyEvent::End => break,
            BodyEvent::Data(_) | BodyEvent::NeedMore => {}
        }
    }
    assert_eq!(String::from_utf8(out).unwrap(), "0\r\nX-Sum: 1\r\n\r\n");
}
