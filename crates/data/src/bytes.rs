//! Reads plain or gzipped files, up to a limit.

use crate::{Error, Result};
use flate2::bufread::GzDecoder;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

const CURE_MISSING: &str = "check the path, or download the file again";

/// An open file, decompressed if it is gzipped.
pub(crate) struct Source<'a> {
    reader: Box<dyn Read + Send + 'a>,
    /// The maximum number of bytes, if it is known: a gzip file does not say.
    left: Option<u64>,
}

impl Source<'_> {
    /// Reads to the end or to `limit` bytes, whichever comes first. `seen` receives every piece while the next is read.
    ///
    /// The memory is at most about twice the bytes read, however large `limit` is; or the `expected` bytes, if the
    /// maximum is unknown.
    pub fn read_at_most(
        &mut self,
        limit: u64,
        expected: u64,
        mut seen: impl FnMut(&[u8]) + Send,
    ) -> io::Result<Vec<u8>> {
        let expected = self.left.unwrap_or(expected).min(limit);
        let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
        let (mut piece, mut next, mut to_go) = (Vec::new(), Vec::new(), limit);
        loop {
            // Small pieces for a short file: two pieces are in memory in addition to the result.
            let size = (bytes.len() as u64 / 8).clamp(1 << 16, 1 << 20);
            let mut reader = (&mut self.reader).take(to_go.min(size));
            let keep = || {
                seen(&piece);
                bytes.extend_from_slice(&piece);
            };
            let (read, ()) = rayon::join(|| reader.read_to_end(&mut next), keep);
            match read? as u64 {
                0 => break,
                n => to_go -= n,
            }
            std::mem::swap(&mut piece, &mut next);
            next.clear();
        }
        self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
        Ok(bytes)
    }
}

impl Read for Source<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.reader.read(bytes)
    }
}

/// Opens a file for reading, decompressed if it starts like a gzip file, whatever its name.
pub(crate) fn open(path: &Path) -> Result<Source<'static>> {
    let absent = |found: &str| Error::BadFile {
        path: path.to_owned(),
        expected: "a file".to_owned(),
        found: found.to_owned(),
        cure: CURE_MISSING.to_owned(),
    };
    // Checked before opening: opening a named pipe would wait for a writer.
    let size = match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => meta.len(),
        Ok(meta) if meta.is_dir() => return Err(absent("a directory")),
        Ok(_) => return Err(absent("a device or a pipe")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(absent("nothing")),
        Err(e) => return Err(Error::io(path, "open")(e)),
    };
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    uncompressed(BufReader::with_capacity(1 << 16, file), size).map_err(Error::io(path, "read"))
}

/// The `size` bytes, decompressed if they start with gzip's two magic bytes.
pub(crate) fn uncompressed<'a>(mut reader: impl BufRead + Send + 'a, size: u64) -> io::Result<Source<'a>> {
    let zipped = reader.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    Ok(match zipped {
        true => Source { reader: Box::new(Members(Some(GzDecoder::new(reader)))), left: None },
        false => Source { reader: Box::new(reader), left: Some(size) },
    })
}

/// Decompresses a gzip file of one or more members. Like `gzip`, ignores trailing zero bytes (padding) after a member; other
/// trailing data is an error.
struct Members<R>(Option<GzDecoder<R>>);

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.0 {
            let n = member.read(bytes)?;
            if n > 0 || bytes.is_empty() {
                return Ok(n);
            }
            let Some(mut rest) = self.0.take().map(GzDecoder::into_inner) else { break };
            loop {
                let ahead = rest.fill_buf()?;
                if ahead.is_empty() {
                    return Ok(0);
                }
                let zeros = ahead.iter().take_while(|&&byte| byte == 0).count();
                let only_zeros = zeros == ahead.len();
                rest.consume(zeros);
                if !only_zeros {
                    break;
                }
            }
            self.0 = Some(GzDecoder::new(rest));
        }
        Ok(0)
    }
}

/// Whether an error means that the compressed data are broken, and not the disk.
pub(crate) fn is_broken_gzip(e: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    matches!(e.kind(), InvalidData | InvalidInput | UnexpectedEof)
}
