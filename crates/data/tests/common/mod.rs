//! A small set in four IDX files, and a server on this machine that serves it well or badly.

#![allow(dead_code, clippy::unwrap_used)]

use flate2::{Compression, write::GzEncoder};
use md5::Digest;
use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use taper_data::{Checksum, FileSet, Options, RemoteFile};

pub const NAMES: [&str; 4] = ["train-images", "train-labels", "test-images", "test-labels"];

/// An IDX file of unsigned bytes.
pub fn idx(sizes: &[u32], values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, sizes.len() as u8];
    sizes.iter().for_each(|size| bytes.extend(size.to_be_bytes()));
    bytes.extend(values);
    bytes
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Values that do not compress to nothing, so that a transfer can be cut in the middle.
fn noise(n: usize) -> Vec<u8> {
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// The four files' contents: 30 training and 10 test images of 4 × 5, three classes.
pub fn contents() -> [Vec<u8>; 4] {
    let labels = |n: u8| (0..n).map(|i| i % 3).collect::<Vec<u8>>();
    [
        idx(&[30, 4, 5], &noise(600)),
        idx(&[30], &labels(30)),
        idx(&[10, 4, 5], &noise(200)),
        idx(&[10], &labels(10)),
    ]
}

/// The set that [`contents`] is; its training files are known by SHA-256, its test files by MD5.
pub fn fake_set(mirrors: &[&str]) -> FileSet {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let contents = contents();
    let files = std::array::from_fn(|i| RemoteFile {
        name: NAMES[i].to_owned(),
        content_bytes: Some(contents[i].len() as u64),
        checksum: Some(match i {
            0 | 1 => Checksum::Sha256OfContent(hex(&sha2::Sha256::digest(&contents[i]))),
            _ => Checksum::Md5OfArchive(hex(&md5::Md5::digest(gzip(&contents[i])))),
        }),
    });
    let mirrors = mirrors.iter().map(|&mirror| mirror.to_owned()).collect();
    FileSet {
        name: "fake".to_owned(),
        mirrors,
        files,
        image_size: Some((4, 5)),
        classes: Some(3),
        ..FileSet::idx()
    }
}

/// Writes the four files into `dir`, gzipped or plain.
pub fn write_set(dir: &Path, zipped: bool) {
    fs::create_dir_all(dir).unwrap();
    for (name, content) in NAMES.iter().zip(contents()) {
        let (name, bytes) = match zipped {
            true => (format!("{name}.gz"), gzip(&content)),
            false => (name.to_string(), content),
        };
        fs::write(dir.join(name), bytes).unwrap();
    }
}

/// Options that touch nothing outside `cache` and this machine, and wait a fraction of a second.
pub fn options(cache: &Path) -> Options {
    Options {
        cache_dir: Some(cache.to_owned()),
        connect_timeout: Duration::from_secs(5),
        stall_timeout: Duration::from_millis(300),
        ..Options::default()
    }
}

/// What the server does with a request.
#[derive(Clone, Copy, PartialEq)]
pub enum Behaviour {
    /// Sends the file or the range asked for.
    Serve,
    /// Sends the whole file, ignoring the requested range.
    IgnoreRange,
    /// Answers 404.
    Missing,
    /// Announces everything, sends this many bytes and closes the connection.
    CutAfter(usize),
    /// Announces everything, sends this many bytes and then nothing.
    StallAfter(usize),
    /// Accepts the connection and never answers.
    Silent,
    /// Sends other bytes of the right length.
    Corrupt,
    /// Announces this many bytes.
    Claim(u64),
    /// Sends the client elsewhere, over plain HTTP.
    Redirect,
}

/// A request as the server saw it: the file's name and the `Range` header.
pub type Request = (String, Option<String>);

/// An HTTP server on 127.0.0.1 that lives until the test process ends.
pub struct Server {
    pub url: String,
    pub requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Serves the gzipped [`contents`]; `behaviour` decides by the file's name.
    pub fn start(behaviour: impl Fn(&str) -> Behaviour + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/data/", listener.local_addr().unwrap());
        let files: HashMap<String, Vec<u8>> =
            NAMES.iter().zip(contents()).map(|(name, bytes)| (format!("{name}.gz"), gzip(&bytes))).collect();
        let shared = Arc::new((files, behaviour));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (shared, log) = (shared.clone(), log.clone());
                // The client may disconnect at any time, which is tested.
                std::thread::spawn(move || {
                    stream.and_then(|stream| answer(stream, &shared.0, &shared.1, &log)).ok()
                });
            }
        });
        Self { url, requests }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(
    mut stream: TcpStream,
    files: &HashMap<String, Vec<u8>>,
    behaviour: &impl Fn(&str) -> Behaviour,
    log: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap()?;
    let name = first.split(' ').nth(1).unwrap().rsplit('/').next().unwrap().to_owned();
    let mut range = None;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        range = line.strip_prefix("range: ").map(str::to_owned).or(range);
    }
    log.lock().unwrap().push((name.clone(), range.clone()));

    let behaviour = behaviour(&name);
    let mut bytes = files[&name].clone();
    let whole = bytes.len();
    let start = range.filter(|_| behaviour != Behaviour::IgnoreRange);
    let start = start.map(|range| range["bytes=".len()..].trim_end_matches('-').parse::<usize>().unwrap());
    let head = match (behaviour, start) {
        (Behaviour::Missing, _) => "404 Not Found".to_owned(),
        (Behaviour::Redirect, _) => "302 Found\r\nLocation: http://127.0.0.1:9/".to_owned(),
        (_, Some(start)) if start >= whole => "416 Range Not Satisfiable".to_owned(),
        (_, Some(start)) => {
            bytes.drain(..start);
            format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{whole}", whole - 1)
        }
        (_, None) => "200 OK".to_owned(),
    };
    if !head.starts_with('2') {
        bytes.clear();
    }
    let claim = if let Behaviour::Claim(n) = behaviour { n } else { bytes.len() as u64 };
    match behaviour {
        Behaviour::CutAfter(n) | Behaviour::StallAfter(n) => bytes.truncate(n),
        Behaviour::Corrupt => bytes.iter_mut().for_each(|byte| *byte ^= 1),
        Behaviour::Silent => return wait_for_hang_up(stream),
        _ => {}
    }
    write!(stream, "HTTP/1.1 {head}\r\nContent-Length: {claim}\r\nConnection: close\r\n\r\n")?;
    stream.write_all(&bytes)?;
    match behaviour {
        Behaviour::StallAfter(_) => wait_for_hang_up(stream),
        _ => Ok(()),
    }
}

fn wait_for_hang_up(mut stream: TcpStream) -> std::io::Result<()> {
    stream.read_to_end(&mut Vec::new()).map(|_| ())
}
