use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    path::Path,
};

/// Writes a file atomically: after a kill or a power failure it is either complete or as before. It is written as
/// `NAME.part` next to the file, synced, and renamed.
///
/// # Errors
///
/// Errors of the system. `NAME.part` is removed then.
pub fn write_whole(path: impl AsRef<Path>, bytes: &[u8]) -> io::Result<()> {
    let path = path.as_ref();
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    let write = || {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        sync_dir(path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    };
    write().inspect_err(|_| {
        // A full disk should not stay full because of an incomplete file, which may not even exist.
        let _ = fs::remove_file(&beside);
    })
}

/// Syncs a directory: the names of the files in it.
///
/// # Errors
///
/// Errors of the system.
pub fn sync_dir(path: impl AsRef<Path>) -> io::Result<()> {
    // On other systems a directory cannot be opened like a file.
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

/// An error for a file that was deleted while it was written; the system itself reports nothing.
pub(crate) fn still_there(path: &Path) -> io::Result<()> {
    fs::metadata(path).map(drop).map_err(|cause| match cause.kind() {
        ErrorKind::NotFound => io::Error::new(ErrorKind::NotFound, "it was removed during the run"),
        _ => cause,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_fails_leaves_the_old_file_and_no_other() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("file");
        write_whole(&path, b"one")?;
        write_whole(&path, b"two")?;
        assert_eq!(fs::read(&path)?, b"two");
        // A directory cannot be replaced by a file.
        let taken = dir.path().join("directory");
        fs::create_dir(&taken)?;
        assert!(write_whole(&taken, b"three").is_err());
        assert!(taken.is_dir() && fs::read_dir(dir.path())?.count() == 2);
        Ok(())
    }
}
