//! A certificate of the configuration whose files may change while Sluice runs.
//!
//! Files are looked at by stat(2) about once a second, not by inotify(7): a path may lead through links that are swapped at any
//! level (certbot, Kubernetes) and through file systems of other hosts, and both are the same to stat.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use sluice_tls::certificates::{Certificate, CertificateFacts, utc};

use super::expiry::Expiry;
use crate::config::CertificateFiles;
use crate::log::{self, Level};

/// Whether the operator has asked for a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// It is time.
    Time,
    /// SIGHUP: whatever is wrong is said, and at once.
    Asked,
}

/// What changes when the file behind a path does: its device, inode, size, and times of content and of state in nanoseconds.
type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

/// What is known of the files as they are now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// They were read.
    Read,
    /// They had changed at the last look, so they may be in the middle of a change: they are read once more.
    Changing,
    /// They cannot be used, which was said. They are read at every look: what helps may be no change of theirs.
    Refused,
}

/// The result of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// The certificate is the one it was.
    Same,
    /// There is another one.
    Replaced,
    /// What is there now cannot be used, which was said just now.
    Refused,
}

/// A certificate and its files.
pub(super) struct Watched {
    files: CertificateFiles,
    stamps: [Option<Stamp>; 3],
    known: Known,
    certificate: Arc<Certificate>,
    expiry: Expiry,
}

impl Watched {
    /// A certificate that was read from these files. The first look reads them again: they may have changed since.
    pub(super) fn new(files: &CertificateFiles, certificate: &Arc<Certificate>, now_s: i64) -> Watched {
        Watched {
            files: files.clone(),
            stamps: [None; 3],
            known: Known::Read,
            certificate: certificate.clone(),
            expiry: Expiry::of_checked(certificate, now_s),
        }
    }

    /// The certificate in force.
    pub(super) fn certificate(&self) -> &Arc<Certificate> {
        &self.certificate
    }

    /// What it is called in messages and metrics.
    pub(super) fn name(&self) -> String {
        self.files.cert.display().to_string()
    }

    /// Reads the files if they have changed, and takes over a certificate that can be used.
    pub(super) fn look(&mut self, now_s: i64, occasion: Occasion) -> Look {
        let stamps = self.stamp();
        let has_changed = std::mem::replace(&mut self.stamps, stamps) != stamps;
        if !has_changed && occasion == Occasion::Time && self.known == Known::Read {
            return Look::Same;
        }
        let now_known = if has_changed { Known::Changing } else { Known::Read };
        let before = std::mem::replace(&mut self.known, now_known);
        match self.read(now_s) {
            Ok((certificate, _)) if is_same(&certificate, &self.certificate) => Look::Same,
            Ok((certificate, warnings)) => {
                self.put_in_force(certificate, &warnings, now_s);
                Look::Replaced
            }
            // A pair is written one file after the other: at the next look it may be complete.
            Err(_) if has_changed && occasion == Occasion::Time => Look::Same,
            Err(why) => {
                self.known = Known::Refused;
                if before == Known::Refused && occasion == Occasion::Time {
                    return Look::Same;
                }
                self.refuse(&why);
                Look::Refused
            }
        }
    }

    /// Says what is to be said of its end.
    pub(super) fn say_expiry(&mut self, now_s: i64) {
        let name = self.name();
        self.expiry.say(&name, &self.certificate, now_s);
    }

    fn stamp(&self) -> [Option<Stamp>; 3] {
        let CertificateFiles { cert, key, ocsp } = &self.files;
        [Some(cert), Some(key), ocsp.as_ref()].map(|path| path.and_then(|path| stamp(path)))
    }

    /// The pair, with what is to be said of it; an error if it is worse than none.
    fn read(&self, now_s: i64) -> Result<(Certificate, Vec<String>), String> {
        let CertificateFiles { cert, key, ocsp } = &self.files;
        let read = Certificate::load_with_warnings(cert, key, ocsp.as_deref(), now_s)?;
        let facts = &read.0.facts;
        if facts.not_after_s <= now_s {
            return Err(format!("{}: the certificate expired on {}", cert.display(), utc(facts.not_after_s)));
        }
        if facts.not_before_s > now_s {
            let when = utc(facts.not_before_s);
            return Err(format!("{}: the certificate is not valid before {when}", cert.display()));
        }
        Ok(read)
    }

    fn put_in_force(&mut self, certificate: Certificate, warnings: &[String], now_s: i64) {
        let is_renewed = certificate.chain != self.certificate.chain;
        let what = if is_renewed { "new certificate" } else { "new key or OCSP response" };
        say_in_force(&self.name(), what, &certificate.facts, now_s.unsigned_abs());
        warnings.iter().for_each(log::warn);
        self.certificate = Arc::new(certificate);
    }

    fn refuse(&self, why: &str) {
        let facts = &self.certificate.facts;
        log::warn(format_args!(
            "the old certificate for {}, valid to {}, stays in force: {why}",
            facts.display_name(),
            utc(facts.not_after_s)
        ));
    }
}

/// Says that there is something new for clients.
pub(super) fn say_in_force(name: &str, what: &str, facts: &CertificateFacts, now_s: u64) {
    let (names, valid_to) = (facts.names.join(", "), utc(facts.not_after_s));
    let days = facts.days_left(i64::try_from(now_s).unwrap_or(i64::MAX));
    log::write(
        Level::Info,
        format_args!("{name}: {what} in force for {names}; valid to {valid_to}, {days} days"),
        &[
            ("certificate", name.into()),
            ("names", facts.names.clone().into()),
            ("valid_to", facts.not_after_s.into()),
        ],
    );
}

fn stamp(path: &Path) -> Option<Stamp> {
    let facts = fs::metadata(path).ok()?;
    let (content, state) = ((facts.mtime(), facts.mtime_nsec()), (facts.ctime(), facts.ctime_nsec()));
    Some((facts.dev(), facts.ino(), facts.size(), content, state))
}

fn is_same(one: &Certificate, other: &Certificate) -> bool {
    one.chain == other.chain && one.key.secret_der() == other.key.secret_der() && one.ocsp == other.ocsp
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;

    use super::*;

    const NOW_S: i64 = 1_800_000_000;
    const DAY_S: i64 = 24 * 3600;

    /// A certificate for this name that begins and ends so many days from now, and its key, in PEM.
    fn pair(name: &str, days: (i64, i64)) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let at = |days: i64| {
            let since = std::time::Duration::from_secs((NOW_S + days * DAY_S).unsigned_abs());
            rcgen::date_time_ymd(1970, 1, 1) + since
        };
        (params.not_before, params.not_after) = (at(days.0), at(days.1));
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn write(folder: &Path, (cert, key): &(String, String)) {
        put(folder, "cert", cert);
        put(folder, "key", key);
    }

    /// A new file in the place of the old one, so that it differs in more than a time that may be coarse.
    fn put(folder: &Path, name: &str, content: &str) {
        fs::write(folder.join("temporary"), content).unwrap();
        fs::rename(folder.join("temporary"), folder.join(name)).unwrap();
    }

    /// What is watched at these files, after its first look.
    fn watch(folder: &Path) -> Watched {
        let (cert, key) = (folder.join("cert"), folder.join("key"));
        let certificate = Arc::new(Certificate::load(&cert, &key, None).unwrap());
        let mut watched = Watched::new(&CertificateFiles { cert, key, ocsp: None }, &certificate, NOW_S);
        assert_eq!(looks(&mut watched, 2), [Look::Same; 2]);
        watched
    }

    fn look(watched: &mut Watched) -> Look {
        watched.look(NOW_S, Occasion::Time)
    }

    fn looks(watched: &mut Watched, count: usize) -> Vec<Look> {
        (0..count).map(|_| look(watched)).collect()
    }

    fn name(watched: &Watched) -> &str {
        watched.certificate().facts.display_name()
    }

    /// A folder with a valid pair for `a.example`, and what watches it.
    fn start() -> (TempDir, Watched) {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &pair("a.example", (-1, 30)));
        let watched = watch(folder.path());
        (folder, watched)
    }

    #[test]
    fn a_new_pair_is_taken_over_once() {
        let (folder, mut watched) = start();
        write(folder.path(), &pair("b.example", (-1, 30)));
        assert_eq!(looks(&mut watched, 4), [Look::Replaced, Look::Same, Look::Same, Look::Same]);
        assert_eq!(name(&watched), "b.example");
        // Touched, but the same.
        let cert = fs::read_to_string(folder.path().join("cert")).unwrap();
        put(folder.path(), "cert", &cert);
        assert_eq!(looks(&mut watched, 3), [Look::Same; 3]);
    }

    #[test]
    fn a_pair_that_is_half_there_is_waited_for() {
        let (folder, mut watched) = start();
        let (cert, key) = pair("b.example", (-1, 30));
        put(folder.path(), "cert", &cert);
        assert_eq!(look(&mut watched), Look::Same);
        put(folder.path(), "key", &key);
        assert_eq!(looks(&mut watched, 3), [Look::Replaced, Look::Same, Look::Same]);
    }

    #[test]
    fn what_cannot_be_used_is_said_once_for_each_change() {
        let (folder, mut watched) = start();
        let whole = pair("b.example", (-1, 30));
        let broken = (whole.0[..100].to_owned(), whole.1.clone());
        let mismatched = (pair("b.example", (-1, 30)).0, whole.1.clone());
        let cases = [broken, mismatched, pair("b.example", (-10, -1)), pair("b.example", (1, 30))];
        for (number, case) in cases.iter().enumerate() {
            write(folder.path(), case);
            let expected = [Look::Same, Look::Refused, Look::Same, Look::Same];
            assert_eq!(looks(&mut watched, 4), expected, "case {number}");
            assert_eq!(name(&watched), "a.example", "case {number}");
        }
        assert_eq!(watched.look(NOW_S, Occasion::Asked), Look::Refused, "the operator has asked");
        assert_eq!(watched.look(NOW_S + 2 * DAY_S, Occasion::Time), Look::Replaced, "it is valid now");
        fs::remove_file(folder.path().join("key")).unwrap();
        assert_eq!(looks(&mut watched, 3), [Look::Same, Look::Refused, Look::Same]);
        write(folder.path(), &whole);
        assert_eq!(look(&mut watched), Look::Replaced);
    }

    #[test]
    fn a_swapped_link_is_seen() {
        let (old, mut watched) = start();
        let (new, links) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(new.path(), &pair("b.example", (-1, 30)));
        let data = links.path().join("data");
        symlink(old.path(), &data).unwrap();
        // As Kubernetes has it: the files are links too, which do not change.
        for (name, file) in [("cert", &mut watched.files.cert), ("key", &mut watched.files.key)] {
            *file = links.path().join(name);
            symlink(data.join(name), file).unwrap();
        }
        assert_eq!(looks(&mut watched, 2), [Look::Same; 2]);
        symlink(new.path(), links.path().join("temporary")).unwrap();
        fs::rename(links.path().join("temporary"), &data).unwrap();
        assert_eq!(looks(&mut watched, 2), [Look::Replaced, Look::Same]);
        assert_eq!(name(&watched), "b.example");
    }
}
