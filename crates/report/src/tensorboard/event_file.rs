use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use prost::Message;

use super::proto::{Event, Summary, Value, What};
use crate::{Error, Result};

/// An event file: records of one [`Event`] each, in the framing of TFRecord.
#[derive(Debug)]
pub(super) struct EventFile {
    path: PathBuf,
    file: File,
    /// Tags with a description in the file.
    described: BTreeSet<String>,
}

impl EventFile {
    /// Creates the directory, its parents, and a new file in it.
    pub(super) fn create(dir: &Path) -> Result<Self> {
        create_dir(dir)?;
        let wall_time = now();
        let name = format!("events.out.tfevents.{}.taper", wall_time as u64);
        let mut path = dir.join(&name);
        for n in 2_u32.. {
            match OpenOptions::new().append(true).create_new(true).open(&path) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => path = dir.join(format!("{name}.{n}")),
                Err(e) => return Err(Error::io(path)(e)),
                Ok(file) => {
                    let mut events = Self { path, file, described: BTreeSet::new() };
                    let version = What::FileVersion("brain.Event:2".into());
                    events.append(&Event { wall_time, step: 0, what: Some(version) })?;
                    return Ok(events);
                }
            }
        }
        Err(Error::io(path)(ErrorKind::AlreadyExists.into()))
    }

    /// Appends all values of one step in one record. TensorBoard takes descriptions from the first value of a tag, so later ones
    /// are left out.
    pub(super) fn summary(&mut self, step: i64, mut value: Vec<Value>) -> Result<()> {
        for Value { tag, metadata, .. } in &mut value {
            if let Some(described) = metadata.as_mut().filter(|of| !of.summary_description.is_empty())
                && !self.described.insert(tag.clone())
            {
                described.summary_description.clear();
            }
        }
        self.append(&Event { wall_time: now(), step, what: Some(What::Summary(Summary { value })) })
    }

    fn append(&mut self, event: &Event) -> Result<()> {
        // One write without a buffer: readers see whole epochs, and the data survive the end of the process.
        self.file.write_all(&record(&event.encode_to_vec())).map_err(Error::io(&self.path))
    }
}

/// Truncates the event files of a directory at an incomplete record or a record of a step after `last`.
pub(super) fn cut(dir: &Path, last: i64) -> Result<()> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries {
        let path = entry.map_err(Error::io(dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with("events.out.tfevents.") || !name.contains(".taper") {
            continue;
        }
        let bytes = fs::read(&path).map_err(Error::io(&path))?;
        let mut known = 0;
        while let Some((_, length)) = first(&bytes[known..]).filter(|(event, _)| event.step <= last) {
            known += length;
        }
        if known < bytes.len() {
            let file = OpenOptions::new().write(true).open(&path);
            file.and_then(|file| file.set_len(known as u64)).map_err(Error::io(&path))?;
        }
    }
    Ok(())
}

/// The event of the first record and the record's length, if it is complete.
fn first(bytes: &[u8]) -> Option<(Event, usize)> {
    let length = usize::try_from(u64::from_le_bytes(*bytes.first_chunk()?)).ok()?;
    let data = bytes.get(12..length.checked_add(12)?)?;
    let whole = record(data);
    let event = bytes.starts_with(&whole).then(|| Event::decode(data).ok())??;
    Some((event, whole.len()))
}

/// Creates a directory and its parents.
pub(super) fn create_dir(dir: &Path) -> Result<()> {
    // For a file with the name of the directory the system only says that it exists.
    let cause = |e| if dir.is_file() { ErrorKind::NotADirectory.into() } else { e };
    fs::create_dir_all(dir).map_err(cause).map_err(Error::io(dir))
}

/// Seconds since 1970.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Length, its checksum, the data, their checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut bytes = Vec::with_capacity(data.len() + 16);
    bytes.extend(length);
    bytes.extend(masked_crc(&length).to_le_bytes());
    bytes.extend(data);
    bytes.extend(masked_crc(data).to_le_bytes());
    bytes
}

/// A masked CRC-32C, for data that contain CRCs: rotated, plus a constant.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Expected values from `masked_crc32c` and `RecordWriter` of tensorboard 2.21:
    //     record_writer.RecordWriter(w).write(
    //         event_pb2.Event(wall_time=1.5, file_version="brain.Event:2").SerializeToString())
    #[test]
    fn records_are_those_of_the_python_package_to_the_byte() {
        assert_eq!(masked_crc(b""), 0xa282_ead8);
        assert_eq!(masked_crc(b"123456789"), 0xc78a_b0e5);
        assert_eq!(masked_crc(&[0; 32]), 0x0fd7_fffa);
        let version = What::FileVersion("brain.Event:2".into());
        let event = Event { wall_time: 1.5, step: 0, what: Some(version) };
        let expected = b"\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x22\
            \x09\0\0\0\0\0\0\xf8\x3f\x1a\x0dbrain.Event:2\x2a\x28\x64\x6c";
        assert_eq!(record(&event.encode_to_vec()), expected);
    }
}
