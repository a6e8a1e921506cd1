//! Sessions that go on in another connection, by tickets alone.

use super::peers::*;
use super::servers::shake;
use super::*;
use crate::tickets::TicketKeys;

/// Whether a session that was begun with the first ring is resumed with the second one.
fn is_resumed(
    authority: &Authority,
    plain: &Plain,
    from: (&ServerSettings, &TicketKeys),
    to: (&ServerSettings, &TicketKeys),
) -> bool {
    // As on two shards, or before and after a restart: nothing is common but the ring and the files.
    let config = |(settings, keys): (&ServerSettings, &TicketKeys)| {
        let certificates = set([authority.certificate(&[NAME], Kind::P256)]);
        ServerConfig::new(settings, &certificates, &Arc::new(keys.clone())).unwrap()
    };
    let first = shake(&config(from), plain, NAME, 1).unwrap();
    assert!(!first.is_resumed);
    let second = shake(&config(to), plain, NAME, 2).unwrap();
    assert_eq!(second.observed.server_name.as_deref(), Some(NAME));
    assert_eq!(second.alpn, Some(Alpn::Http1));
    second.is_resumed
}

#[test]
fn sessions_are_resumed_as_long_as_their_key_is_there() {
    let authority = Authority::new();
    let settings = server_settings();
    let keys = TicketKeys::generate(1_000).unwrap();
    let read_back = TicketKeys::from_bytes(&keys.to_bytes()).unwrap();
    let rotated = keys.rotate(1_050, 100).unwrap();
    let gone = rotated.rotate(1_200, 100).unwrap();
    let other = TicketKeys::generate(1_000).unwrap();
    for versions in [TLS12, TLS13] {
        let check = |to| {
            is_resumed(
                &authority,
                &Plain::new(&authority, versions, None),
                (&settings, &keys),
                (&settings, to),
            )
        };
        assert!(check(&keys));
        assert!(check(&read_back));
        assert!(check(&rotated));
        assert!(!check(&gone));
        assert!(!check(&other));
    }
}

#[test]
fn a_session_without_certificate_is_not_resumed_where_one_is_required() {
    let authority = Authority::new();
    let shown = authority.certificate(&["client.example"], Kind::P256);
    let (off, keys) = (server_settings(), TicketKeys::generate(1_000).unwrap());
    let with = |client_certificates| ServerSettings { client_certificates, ..server_settings() };
    let required = with(ClientCertificates::Required(authority.roots()));
    let optional = with(ClientCertificates::Optional(authority.roots()));
    let others = with(ClientCertificates::Required(Authority::new().roots()));
    for versions in [TLS12, TLS13] {
        let plain = || Plain::new(&authority, versions, Some(&shown));
        assert!(!is_resumed(&authority, &plain(), (&off, &keys), (&required, &keys)));
        assert!(!is_resumed(&authority, &plain(), (&optional, &keys), (&required, &keys)));
        assert!(is_resumed(&authority, &plain(), (&required, &keys), (&required, &keys)));
        let config = |settings| {
            let certificates = set([authority.certificate(&[NAME], Kind::P256)]);
            ServerConfig::new(settings, &certificates, &Arc::new(keys.clone())).unwrap()
        };
        // The session goes on with the certificate that it began with.
        let plain = plain();
        shake(&config(&required), &plain, NAME, 3).unwrap();
        let resumed = shake(&config(&required), &plain, NAME, 4).unwrap();
        assert!(resumed.is_resumed && resumed.peer_certificates == shown.chain);
        // Its authority is not trusted any more.
        let failure = shake(&config(&others), &plain, NAME, 5).err().unwrap();
        assert_eq!(failure.kind, FailureKind::Certificate);
    }
}

#[test]
fn a_session_is_resumed_for_its_name_only() {
    let authority = Authority::new();
    let keys = tickets();
    let certificates = set([authority.certificate(&[NAME, "b.example"], Kind::P256)]);
    let config = ServerConfig::new(&server_settings(), &certificates, &keys).unwrap();
    for versions in [TLS12, TLS13] {
        let plain = Plain::new(&authority, versions, None);
        shake(&config, &plain, NAME, 1).unwrap();
        assert!(!shake(&config, &plain, "b.example", 2).unwrap().is_resumed);
        assert!(shake(&config, &plain, NAME, 3).unwrap().is_resumed);
    }
}
