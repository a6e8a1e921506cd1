//! Files in `state_dir`: for their owner alone, and replaced as a whole, so that a crash leaves the old one or the new one.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use zeroize::Zeroizing;

/// Far above what Sluice writes.
const BYTES_MAX: u64 = 1 << 20;

/// The bits of a mode by which others than the owner can read or write.
const OTHERS: u32 = 0o077;

/// Writes the file `name` in `directory`, which is made if it is not there.
///
/// # Errors
/// One line that names the file.
pub(super) fn write(directory: &Path, name: &str, content: &[u8]) -> Result<(), String> {
    let path = directory.join(name);
    let failed = |error: io::Error| format!("cannot write {}: {error}", path.display());
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    // Of this process alone: another one that starts while this one ends may write too.
    let temporary = directory.join(format!(".{name}.{}", std::process::id()));
    let _ = fs::remove_file(&temporary);
    let written = write_new(&temporary, content).and_then(|()| fs::rename(&temporary, &path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    // The new name has to be on disk too.
    written.and_then(|()| File::open(directory)?.sync_all()).map_err(failed)
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(content)?;
    file.sync_all()
}

/// Reads a file that only its owner can read or write; `None` if it is not there.
///
/// # Errors
/// One line that names the file: it cannot be read, or others could have read or written it.
pub(super) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
    let name = path.display();
    let failed = |error: io::Error| format!("cannot read {name}: {error}");
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let facts = file.metadata().map_err(failed)?;
    if facts.mode() & OTHERS != 0 || facts.uid() != sluice_sys::effective_user() {
        return Err(format!("{name} has secrets, and others than Sluice's user may have read or written it"));
    }
    // In one piece: a vector that grows leaves copies behind.
    let mut content = Zeroizing::new(Vec::with_capacity(facts.len().min(BYTES_MAX) as usize + 1));
    file.take(BYTES_MAX).read_to_end(&mut content).map_err(failed)?;
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("a/b");
        let path = directory.join("keys");
        assert!(read(&path).unwrap().is_none());
        write(&directory, "keys", b"first").unwrap();
        let first = fs::metadata(&path).unwrap();
        write(&directory, "keys", b"second").unwrap();
        let second = fs::metadata(&path).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().as_slice(), b"second");
        assert_eq!((first.mode() & 0o777, second.mode() & 0o777), (0o600, 0o600));
        assert_ne!(first.ino(), second.ino(), "the old one was never written to");
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "nothing else is left behind");
    }

    #[test]
    fn a_file_that_others_can_read_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "keys", b"secret").unwrap();
        let path = folder.path().join("keys");
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(read(&path).unwrap_err().contains("others than Sluice's user"), "{mode:o}");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_one_line() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let error = write(&folder.path().join("file/below"), "keys", b"").unwrap_err();
        assert!(error.starts_with("cannot write ") && error.contains("file/below/keys: "), "{error}");
    }
}
