//! Downloads the files of a set over HTTPS: resumes if possible, verifies, then renames into place.

use crate::{Checksum, Error, FileSet, Options, RemoteFile, Result};
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::Duration,
};
use ureq::{Agent, Body, config::Config, http};

/// The size limit of a download; MNIST's largest file has 10 MB.
const MAX_BYTES: u64 = 64 << 20;
/// A slow server that sends a byte now and then never reaches the stall time-out, so there is a total one.
const MAX_TIME: Duration = Duration::from_secs(3600);

/// The progress of one file's download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DownloadProgress<'a> {
    /// The file's name, without `.gz`.
    pub file: &'a str,
    /// Bytes so far, including those of an earlier, interrupted run.
    pub received: u64,
    /// Total bytes, if the server says.
    pub total: Option<u64>,
}

/// Puts the four files of `set` into `dir` and returns their paths; correct files that exist are kept.
pub(crate) fn download(
    set: &FileSet,
    dir: &Path,
    options: &Options,
    progress: &mut dyn FnMut(&DownloadProgress<'_>),
) -> Result<[PathBuf; 4], Vec<String>> {
    let one = |e: Error| vec![e.to_string()];
    let checksums = set.files.each_ref().map(|file| file.checksum.as_ref());
    let [Some(a), Some(b), Some(c), Some(d)] = checksums else {
        return Err(vec![format!("no download (no checksums of {} are known)", set.name)]);
    };
    fs::create_dir_all(dir).map_err(Error::io(dir, "create")).map_err(one)?;
    let _lock = lock(dir).map_err(one)?;
    let paths = set.files.each_ref().map(|file| dir.join(format!("{}.gz", file.name)));
    for ((file, path), checksum) in set.files.iter().zip(&paths).zip([a, b, c, d]) {
        if path.is_file() && file.mismatch(checksum, path).map_err(one)?.is_none() {
            continue;
        }
        let mirrors = if options.mirrors.is_empty() { &set.mirrors } else { &options.mirrors };
        let mut failures = Vec::new();
        let done = mirrors.iter().any(|mirror| {
            let url = format!("{}/{}.gz", mirror.trim_end_matches('/'), file.name);
            let result = fetch(&url, (file, checksum), path, options, progress);
            result.map_err(|e| failures.push(e.to_string())).is_ok()
        });
        if !done {
            failures.extend(mirrors.is_empty().then(|| format!("{} (no mirror is known)", file.name)));
            return Err(failures);
        }
    }
    Ok(paths)
}

/// Makes a second process wait for the first; without effect on file systems without locks.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(".lock");
    let file = File::create(&path).map_err(Error::io(path, "create"))?;
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        tracing::info!("{}: waiting for another process that downloads here", dir.display());
        let _ = file.lock();
    }
    Ok(file)
}

/// Downloads `url` to `path` through `path.part`.
///
/// If the transfer stops, the part stays for the next attempt. A complete and wrong part is removed, and if its
/// beginning came from another attempt, the whole file is fetched again.
fn fetch(
    url: &str,
    (file, checksum): (&RemoteFile, &Checksum),
    path: &Path,
    options: &Options,
    progress: &mut dyn FnMut(&DownloadProgress<'_>),
) -> Result<()> {
    let part = path.with_added_extension("part");
    let agent = agent(url, options)?;
    let mut resumed = transfer(&agent, url, file, &part, options, progress)?;
    while let Some(found) = file.mismatch(checksum, &part)? {
        fs::remove_file(&part).map_err(Error::io(&part, "remove"))?;
        if !resumed {
            return Err(http_error(url, checksum.to_string(), found));
        }
        resumed = transfer(&agent, url, file, &part, options, progress)?;
    }
    fs::rename(&part, path).map_err(Error::io(path, "rename the finished download to"))
}

/// Appends the missing bytes to `part`; returns whether any were there before.
fn transfer(
    agent: &Agent,
    url: &str,
    file: &RemoteFile,
    part: &Path,
    options: &Options,
    progress: &mut dyn FnMut(&DownloadProgress<'_>),
) -> Result<bool> {
    let too_long = |found: u64| http_error(url, format!("at most {MAX_BYTES} bytes"), found.to_string());
    let mut have = fs::metadata(part).map_or(0, |meta| meta.len());
    // Decompression in transit would change the MD5 of the archive.
    let mut request = agent.get(url).header("Accept-Encoding", "identity");
    if have > 0 {
        request = request.header("Range", format!("bytes={have}-"));
    }
    let response = request.call().map_err(|e| transport_error(url, e, options))?;
    match response.status().as_u16() {
        200 => have = 0,
        206 if have > 0 && content_range_start(&response) == Some(have) => {}
        // The part is as long as the file or longer, or the server sends another range: start again, without a range.
        206 | 416 if have > 0 => {
            fs::remove_file(part).map_err(Error::io(part, "remove"))?;
            return transfer(agent, url, file, part, options, progress);
        }
        _ => return Err(http_error(url, "status 200".to_owned(), format!("status {}", response.status()))),
    }
    let resumed = have > 0;
    let total = response.body().content_length().and_then(|rest| rest.checked_add(have));
    if let Some(total) = total.filter(|&total| total > MAX_BYTES) {
        return Err(too_long(total));
    }

    let mut out = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(part)
        .map_err(Error::io(part, "create"))?;
    out.set_len(have).and_then(|()| out.seek(SeekFrom::End(0))).map_err(Error::io(part, "write"))?;
    let (mut body, mut chunk) = (response.into_body().into_reader(), vec![0; 1 << 16]);
    progress(&DownloadProgress { file: &file.name, received: have, total });
    loop {
        let n = match body.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(transport_error(url, e.into(), options)),
        };
        out.write_all(&chunk[..n]).map_err(Error::io(part, "write"))?;
        have += n as u64;
        if have > MAX_BYTES {
            fs::remove_file(part).map_err(Error::io(part, "remove"))?;
            return Err(too_long(have));
        }
        progress(&DownloadProgress { file: &file.name, received: have, total });
    }
    match total {
        Some(total) if have < total => Err(http_error(url, format!("{total} bytes"), format!("{have}"))),
        _ => Ok(resumed),
    }
}

/// The first byte position of `Content-Range: bytes 500-999/1000`.
fn content_range_start(response: &http::Response<Body>) -> Option<u64> {
    let value = response.headers().get("content-range")?.to_str().ok()?;
    value.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// A client for HTTPS only, through redirects too; on this machine also HTTP, without redirects and proxies.
fn agent(url: &str, options: &Options) -> Result<Agent> {
    let uri: http::Uri = url
        .parse()
        .map_err(|e: http::uri::InvalidUri| http_error(url, "an address".to_owned(), e.to_string()))?;
    let local = matches!(uri.host(), Some("127.0.0.1" | "localhost" | "[::1]"));
    let mut config = Config::builder()
        .http_status_as_error(false)
        .timeout_global(Some(MAX_TIME))
        .timeout_resolve(Some(options.connect_timeout))
        .timeout_connect(Some(options.connect_timeout))
        .timeout_per_read(Some(options.stall_timeout))
        .timeout_per_write(Some(options.stall_timeout))
        .max_redirects(5);
    match uri.scheme_str() {
        Some("https") => config = config.https_only(true),
        Some("http") if local => config = config.proxy(None).max_redirects(0).max_redirects_will_error(false),
        _ => {
            let found = uri.scheme_str().unwrap_or("no scheme").to_owned();
            return Err(http_error(url, "an https address".to_owned(), found));
        }
    }
    Ok(config.build().new_agent())
}

fn http_error(url: &str, expected: String, found: String) -> Error {
    Error::Http { url: url.to_owned(), expected, found }
}

fn transport_error(url: &str, e: ureq::Error, options: &Options) -> Error {
    use ureq::Timeout::{Connect, PerRead, PerWrite, Resolve};
    let found = match e {
        ureq::Error::Timeout(PerRead | PerWrite) => {
            format!("nothing for {} s (time-out)", options.stall_timeout.as_secs_f64())
        }
        ureq::Error::Timeout(Connect | Resolve) => {
            format!("no connection within {} s (time-out)", options.connect_timeout.as_secs_f64())
        }
        ureq::Error::Io(e) => e.to_string(),
        e => e.to_string(),
    };
    http_error(url, "a server that sends the whole file".to_owned(), found)
}
