//! The keys of session tickets: made at the start or read from `state_dir`, replaced by their age, and dropped when no ticket of
//! theirs may be used any more.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sluice_tls::tickets::TicketKeys;
use zeroize::Zeroizing;

use super::state_file;
use crate::config::Config;
use crate::log;

/// The file in `state_dir`.
const FILE: &str = "ticket-keys";

/// The ring in force.
pub(crate) struct TicketRing {
    keys: Arc<TicketKeys>,
    rotation_s: u64,
    lifetime_s: u64,
    state_dir: Option<PathBuf>,
}

impl TicketRing {
    /// The ring of the process before this one, if it has left one.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(crate) fn start(config: &Config, now_s: u64) -> Result<TicketRing, String> {
        let read = config.state_dir.as_deref().and_then(read);
        let is_fresh = read.is_none();
        let keys = match read {
            Some(keys) => keys,
            None => TicketKeys::generate(now_s)?,
        };
        let mut ring = TicketRing {
            keys: Arc::new(keys),
            rotation_s: config.tls.ticket_rotation.as_secs(),
            lifetime_s: config.tls.ticket_lifetime.as_secs(),
            state_dir: config.state_dir.clone(),
        };
        if ring.state_dir.is_none() {
            log::debug("no state_dir: clients cannot resume their TLS sessions after a restart");
        }
        if is_fresh {
            ring.save();
        }
        // Those that were read may be old.
        ring.look(now_s);
        Ok(ring)
    }

    /// The keys in force.
    pub(crate) fn keys(&self) -> &Arc<TicketKeys> {
        &self.keys
    }

    /// When the newest one was made, in seconds since 1970.
    pub(super) fn newest_s(&self) -> u64 {
        self.keys.newest_s()
    }

    /// Replaces and drops keys by their age; says whether it did.
    pub(super) fn look(&mut self, now_s: u64) -> bool {
        // A key of the future is one from before the clock was set back.
        let is_old = self.keys.newest_s().abs_diff(now_s) >= self.rotation_s;
        let changed = match is_old {
            true => self.keys.rotate(now_s, self.lifetime_s).map(Some),
            false => Ok(self.keys.without_old(now_s, self.lifetime_s)),
        };
        match changed {
            Ok(None) => return false,
            Ok(Some(keys)) => self.keys = Arc::new(keys),
            Err(why) => {
                log::warn(format_args!("the keys of session tickets are not replaced: {why}"));
                return false;
            }
        }
        log::debug(format_args!(
            "session tickets: {} keys, {}",
            self.keys.count(),
            if is_old { "one new" } else { "old ones dropped" }
        ));
        self.save();
        true
    }

    fn save(&self) {
        let Some(directory) = &self.state_dir else { return };
        let content = Zeroizing::new(self.keys.to_bytes());
        if let Err(why) = state_file::write(directory, FILE, &content) {
            log::warn(format_args!("{why}: clients cannot resume their TLS sessions after a restart"));
        }
    }
}

/// The ring in a directory, if there is one that can be used.
fn read(directory: &Path) -> Option<TicketKeys> {
    let path = directory.join(FILE);
    let parse = |content: Zeroizing<Vec<u8>>| {
        TicketKeys::from_bytes(&content).map_err(|why| format!("{}: {why}", path.display()))
    };
    state_file::read(&path).and_then(|content| content.map(parse).transpose()).unwrap_or_else(|why| {
        log::warn(format_args!("{why}; session tickets get fresh keys"));
        None
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::CommandLine;

    /// A ring with a rotation of 100 seconds and tickets that live for 250.
    fn ring(directory: Option<&Path>, now_s: u64) -> TicketRing {
        let flags =
            CommandLine::default().with("--listen", "127.0.0.1:1").with("--upstream", "http://127.0.0.1:1");
        let mut config = crate::config::resolve(&flags).unwrap();
        config.tls.ticket_rotation = Duration::from_secs(100);
        config.tls.ticket_lifetime = Duration::from_secs(250);
        config.state_dir = directory.map(Into::into);
        TicketRing::start(&config, now_s).unwrap()
    }

    #[test]
    fn keys_are_replaced_and_dropped_by_their_age() {
        let mut ring = ring(None, 1_000);
        assert!(!ring.look(1_099));
        assert!(ring.look(1_100));
        assert_eq!((ring.keys.count(), ring.newest_s()), (2, 1_100));
        assert!(ring.look(1_200));
        assert_eq!(ring.keys.count(), 3);
        assert!(!ring.look(1_249));
        assert!(ring.look(1_250), "the first one is gone between two rotations");
        assert_eq!((ring.keys.count(), ring.newest_s()), (2, 1_200));
        assert!(ring.look(5_000));
        assert_eq!((ring.keys.count(), ring.newest_s()), (1, 5_000));
        assert!(ring.look(100), "the clock was set back");
        assert_eq!(ring.newest_s(), 100);
    }

    #[test]
    fn keys_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("state");
        let mut first = ring(Some(&directory), 1_000);
        let second = ring(Some(&directory), 1_050);
        assert_eq!(second.keys.to_bytes(), first.keys.to_bytes());
        assert!(first.look(1_100));
        let third = ring(Some(&directory), 1_120);
        assert_eq!(third.keys.to_bytes(), first.keys.to_bytes());
        let late = ring(Some(&directory), 9_000);
        assert_eq!((late.keys.count(), late.newest_s()), (1, 9_000), "old keys are not used");
        assert_eq!(ring(Some(&directory), 9_010).keys.to_bytes(), late.keys.to_bytes());
    }

    #[test]
    fn a_damaged_file_leads_to_fresh_keys() {
        let folder = tempfile::tempdir().unwrap();
        let before = ring(Some(folder.path()), 1_000);
        let mut bytes = before.keys.to_bytes();
        bytes[40] ^= 1;
        state_file::write(folder.path(), FILE, &bytes).unwrap();
        let after = ring(Some(folder.path()), 1_000);
        assert_ne!(after.keys.to_bytes(), before.keys.to_bytes());
        assert_eq!(
            ring(Some(folder.path()), 1_001).keys.to_bytes(),
            after.keys.to_bytes(),
            "they were saved"
        );
    }
}
