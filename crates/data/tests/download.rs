//! Downloads from a server on this machine, which behaves as servers do.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Behaviour, NAMES, Server, contents, fake_set, gzip, options};
use std::{fs, path::Path, time::Instant};
use taper_data::{Choice, Dataset, Result, load, load_files};
use tempfile::tempdir;

fn fetch(cache: &Path, mirrors: &[&str]) -> Result<Dataset> {
    load_files(&fake_set(mirrors), &options(cache), &mut |_| {})
}

/// The file names in the cache directory of the set, sorted, without the lock.
fn kept(cache: &Path) -> Vec<String> {
    let files = fs::read_dir(cache.join("fake")).unwrap();
    let mut names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != ".lock");
    names.sort();
    names
}

/// Behaves so for the first file, and well for the others.
fn on_first(behaviour: Behaviour) -> impl Fn(&str) -> Behaviour {
    move |name| if name.starts_with(NAMES[0]) { behaviour } else { Behaviour::Serve }
}

#[test]
fn a_download_is_kept_and_not_repeated() {
    let (server, cache) = (Server::start(|_| Behaviour::Serve), tempdir().unwrap());
    let data = fetch(cache.path(), &[&server.url]).unwrap();
    assert_eq!((data.name.as_str(), data.train.len(), data.test.len()), ("fake", 30, 10));
    assert_eq!(data.train.pixels(), &contents()[0][16..]);
    assert_eq!(
        kept(cache.path()),
        ["test-images.gz", "test-labels.gz", "train-images.gz", "train-labels.gz"]
    );

    fetch(cache.path(), &[&server.url]).unwrap();
    assert_eq!(server.requests().len(), 4);
}

#[test]
fn progress_ends_with_the_size_of_each_file() {
    let (server, cache) = (Server::start(|_| Behaviour::Serve), tempdir().unwrap());
    let mut last = std::collections::BTreeMap::new();
    let set = fake_set(&[&server.url]);
    load_files(&set, &options(cache.path()), &mut |p| {
        last.insert(p.file.to_owned(), (p.received, p.total));
    })
    .unwrap();
    for (name, content) in NAMES.iter().zip(contents()) {
        let size = gzip(&content).len() as u64;
        assert_eq!(last[*name], (size, Some(size)));
    }
}

#[test]
fn a_file_missing_on_one_mirror_comes_from_the_next() {
    let (first, second) = (Server::start(|_| Behaviour::Missing), Server::start(|_| Behaviour::Serve));
    let cache = tempdir().unwrap();
    fetch(cache.path(), &[&first.url, &second.url]).unwrap();
    assert_eq!((first.requests().len(), second.requests().len()), (4, 4));
}

#[test]
fn mirrors_in_the_options_replace_those_of_the_set() {
    let (server, cache) = (Server::start(|_| Behaviour::Serve), tempdir().unwrap());
    let mut options = options(cache.path());
    options.mirrors = vec![server.url.clone()];
    load_files(&fake_set(&["https://no.invalid/"]), &options, &mut |_| {}).unwrap();
}

#[test]
fn when_all_mirrors_fail_the_error_names_every_place() {
    let (first, second) = (Server::start(|_| Behaviour::Missing), Server::start(|_| Behaviour::Missing));
    let cache = tempdir().unwrap();
    let error = fetch(cache.path(), &[&first.url, &second.url]).unwrap_err().to_string();
    for place in [
        format!("{} (no such directory)", Path::new("datasets").join("fake").display()),
        format!("{} (no such directory)", cache.path().join("fake").display()),
        format!("{}train-images.gz: expected status 200, found status 404", first.url),
        format!("{}train-images.gz: expected status 200, found status 404", second.url),
    ] {
        assert!(error.contains(&place), "{place} is not in: {error}");
    }
    assert_eq!(error.lines().count(), 1);
}

#[test]
fn a_body_cut_off_is_an_error_and_leaves_only_the_part() {
    let (server, cache) = (Server::start(on_first(Behaviour::CutAfter(200))), tempdir().unwrap());
    let error = fetch(cache.path(), &[&server.url]).unwrap_err().to_string();
    assert!(error.contains("train-images.gz: expected a server that sends the whole file, found"), "{error}");
    assert_eq!(kept(cache.path()), ["train-images.gz.part"]);
}

#[test]
fn a_wrong_checksum_leaves_nothing() {
    for name in NAMES {
        let corrupt = move |file: &str| match file.starts_with(name) {
            true => Behaviour::Corrupt,
            false => Behaviour::Serve,
        };
        let (server, cache) = (Server::start(corrupt), tempdir().unwrap());
        let error = fetch(cache.path(), &[&server.url]).unwrap_err().to_string();
        assert!(error.contains(&format!("{name}.gz: expected a file ")), "{error}");
        assert!(kept(cache.path()).iter().all(|file| !file.starts_with(name)), "{:?}", kept(cache.path()));
    }
}

#[test]
fn a_stall_ends_with_the_time_out() {
    for behaviour in [Behaviour::StallAfter(100), Behaviour::Silent] {
        let (server, cache) = (Server::start(on_first(behaviour)), tempdir().unwrap());
        let start = Instant::now();
        let error = fetch(cache.path(), &[&server.url]).unwrap_err().to_string();
        assert!(error.contains("nothing for 0.3 s (time-out)"), "{error}");
        assert!(start.elapsed().as_secs() < 10);
    }
}

#[test]
fn a_second_run_resumes_the_download_of_the_first() {
    let cache = tempdir().unwrap();
    let interrupted = Server::start(on_first(Behaviour::CutAfter(200)));
    fetch(cache.path(), &[&interrupted.url]).unwrap_err();

    let server = Server::start(|_| Behaviour::Serve);
    let data = fetch(cache.path(), &[&server.url]).unwrap();
    assert_eq!(server.requests()[0], ("train-images.gz".to_owned(), Some("bytes=200-".to_owned())));
    assert_eq!(server.requests().len(), 4, "the rest of the first file is one request, not a new start");
    assert_eq!(data.train.pixels(), &contents()[0][16..]);
    assert_eq!(kept(cache.path()).len(), 4);
}

#[test]
fn a_server_without_ranges_sends_the_file_from_the_start() {
    let cache = tempdir().unwrap();
    let interrupted = Server::start(on_first(Behaviour::StallAfter(200)));
    fetch(cache.path(), &[&interrupted.url]).unwrap_err();

    let server = Server::start(|_| Behaviour::IgnoreRange);
    fetch(cache.path(), &[&server.url]).unwrap();
    assert_eq!(server.requests().len(), 4);
}

#[test]
fn a_part_that_does_not_match_is_downloaded_again() {
    let whole = gzip(&contents()[0]);
    for part in [vec![7; 200], whole.clone(), vec![7; whole.len() + 1]] {
        let (server, cache) = (Server::start(|_| Behaviour::Serve), tempdir().unwrap());
        fs::create_dir(cache.path().join("fake")).unwrap();
        fs::write(cache.path().join("fake/train-images.gz.part"), part).unwrap();
        fetch(cache.path(), &[&server.url]).unwrap();
        let ranges: Vec<_> = server.requests().into_iter().map(|(_, range)| range.is_some()).collect();
        assert_eq!(ranges, [true, false, false, false, false]);
    }
}

#[test]
fn a_broken_file_in_the_cache_is_replaced_and_the_others_stay() {
    let (server, cache) = (Server::start(|_| Behaviour::Serve), tempdir().unwrap());
    fetch(cache.path(), &[&server.url]).unwrap();
    fs::write(cache.path().join("fake/test-labels.gz"), "not labels").unwrap();
    fetch(cache.path(), &[&server.url]).unwrap();
    assert_eq!(server.requests()[4..], [("test-labels.gz".to_owned(), None)]);
}

#[test]
fn a_file_announced_beyond_the_limit_is_not_fetched() {
    let (server, cache) = (Server::start(on_first(Behaviour::Claim(1 << 40))), tempdir().unwrap());
    let error = fetch(cache.path(), &[&server.url]).unwrap_err().to_string();
    assert!(error.contains("expected at most 67108864 bytes, found 1099511627776"), "{error}");
    assert!(kept(cache.path()).is_empty());
}

#[test]
fn a_gzip_bomb_is_unzipped_no_further_than_the_file_should_go() {
    let (server, cache) = (Server::start(|_| Behaviour::Serve), tempdir().unwrap());
    let mut set = fake_set(&[&server.url]);
    set.files[0].content_bytes = Some(contents()[0].len() as u64 - 10);
    let error = load_files(&set, &options(cache.path()), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("expected a file whose content has the SHA-256"), "{error}");
}

#[test]
fn plain_http_is_refused_except_on_this_machine() {
    for url in
        ["http://example.com/", "http://127.0.0.1.example.com/", "http://127.0.0.1@example.com/", "ftp://a/"]
    {
        let error = fetch(tempdir().unwrap().path(), &[url]).unwrap_err().to_string();
        assert!(error.contains("expected an https address, found"), "{url}: {error}");
    }
}

#[test]
fn a_redirect_from_plain_http_is_not_followed() {
    let (server, cache) = (Server::start(|_| Behaviour::Redirect), tempdir().unwrap());
    let error = fetch(cache.path(), &[&server.url]).unwrap_err().to_string();
    assert!(error.contains("expected status 200, found status 302"), "{error}");
}

#[test]
fn two_at_once_fetch_each_file_once() {
    let (server, cache) = (Server::start(|_| Behaviour::Serve), tempdir().unwrap());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| fetch(cache.path(), &[&server.url]).unwrap());
        }
    });
    assert_eq!(server.requests().len(), 4);
}

#[test]
fn without_network_auto_is_digits_and_mnist_is_an_error() {
    let cache = tempdir().unwrap();
    let mut options = options(cache.path());
    // Nobody listens on port 9 of this machine.
    options.mirrors = vec!["http://127.0.0.1:9/".to_owned()];
    assert_eq!(load(Choice::Auto, &options, &mut |_| {}).unwrap().name, "digits");
    for (choice, name) in
        [(Choice::Mnist, "mnist"), (Choice::FashionMnist, "fashion-mnist"), (Choice::Kmnist, "kmnist")]
    {
        let error = load(choice, &options, &mut |_| {}).unwrap_err().to_string();
        assert!(error.starts_with(&format!("data set {name} not found; tried ")), "{error}");
        assert!(error.contains("http://127.0.0.1:9/train-images-idx3-ubyte.gz"), "{error}");
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_reported_and_auto_uses_digits() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "in the way").unwrap();
    let options = options(&file);
    assert_eq!(load(Choice::Auto, &options, &mut |_| {}).unwrap().name, "digits");
    let error = load(Choice::Mnist, &options, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains(&format!("{}: cannot create: ", file.join("mnist").display())), "{error}");
}
