use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    path::Path,
};

/// Writes a file that is either whole or as it was before, also if the process is killed or the machine loses its
/// power meanwhile: written beside it as `NAME.part`, brought to the disk, and renamed.
///
/// # Errors
///
/// What the system says. Nothing is left behind then.
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
        // A disk that is full should not stay so for a file that is of no use; it may not even be there.
        let _ = fs::remove_file(&beside);
    })
}

/// Brings to the disk which files a directory holds.
///
/// # Errors
///
/// What the system says.
pub fn sync_dir(path: impl AsRef<Path>) -> io::Result<()> {
    // Elsewhere a directory cannot be opened like a file.
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

/// What a file that is there no more tells whoever wrote to it: the system itself would not say.
pub(crate) fn still_there(path: &Path) -> io::Result<()> {
    fs::metadata(path).map(drop).map_err(|cause| match cause.kind() {
        ErrorKind::NotFound => io::Error::new(ErrorKind::NotFound, "it was removed while the run went on"),
        _ => cause,
    })
}
