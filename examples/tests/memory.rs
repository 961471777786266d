//! How much memory a file can make its reader take: never a piece above twice what the file itself has, whatever it
//! claims, and altogether no more than the figures below, which `docs/reliability.md` repeats.
//!
//! The allocator of this program counts, so its tests are one: others beside it would be counted with it.

#![allow(clippy::unwrap_used, unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use candle_core::Device;
use taper::data::{read_images, read_labels};
use taper::nn::{Activation, Mlp, MlpConfig, Params};
use taper::report::{LayerLine, MetricsLine, TimingLine, read_config, read_lines};
use taper::train::{load_weights, save_weights, weight_shapes};

/// Bytes in use, the most of them so far, and the largest piece so far.
static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn taken(bytes: usize) {
    LARGEST.fetch_max(bytes, Relaxed);
    MOST.fetch_max(NOW.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

// SAFETY: every call is passed on to the system's allocator; only counting is added.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        taken(size);
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// The largest piece, and the most at a time, that `read` takes of a file of these bytes.
fn cost(bytes: &[u8], read: impl Fn(&Path)) -> (usize, usize) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, bytes).unwrap();
    // Once before: memory of first uses does not belong to the file.
    read(&path);
    let before = NOW.load(Relaxed);
    MOST.store(before, Relaxed);
    LARGEST.store(0, Relaxed);
    read(&path);
    (LARGEST.load(Relaxed), MOST.load(Relaxed) - before)
}

fn idx(sizes: &[u32], values: usize) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, sizes.len() as u8];
    sizes.iter().for_each(|size| bytes.extend(size.to_be_bytes()));
    bytes.resize(bytes.len() + values, 1);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn weights(header: &str, values: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + values, 0);
    bytes
}

fn images(path: &Path) {
    let _ = (read_images(path), read_labels(path, 10));
}

fn headers(path: &Path) {
    let _ = weight_shapes(path);
    let params = Params::new(1, &Device::Cpu);
    Mlp::new(&MlpConfig { inputs: 2, widths: vec![2], ..Default::default() }, params.builder()).unwrap();
    let _ = load_weights(&params, path);
}

fn lines(path: &Path) {
    let _ = read_lines::<MetricsLine>(path);
    let _ = read_lines::<TimingLine>(path);
    let _ = read_lines::<LayerLine>(path);
}

fn config_file(path: &Path) {
    let _ = read_config(path);
}

fn activation(path: &Path) {
    let _ = std::fs::read_to_string(path).unwrap_or_default().parse::<Activation>();
}

#[test]
fn no_file_takes_a_piece_of_memory_above_twice_its_size() {
    const N: usize = 3_000_000;
    let golden = |name: &str| {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/report/tests/golden");
        std::fs::read_to_string(dir.join(name)).unwrap()
    };
    let shape =
        |n: usize| format!(r#"{{"a":{{"dtype":"F32","shape":[{}1],"data_offsets":[0,4]}}}}"#, "1,".repeat(n));
    let tensor = |i: usize| format!(r#""{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}},"#);
    let tensors: String = (0..4500).map(tensor).collect();
    let tensors = format!(r#"{{{tensors}"a":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#);
    let settings = |n: usize| {
        let lists = format!(r#""lr": [{}0]"#, r#"{"":0},"#.repeat(n));
        golden("config.json").replace(r#""lr": 0.1"#, &lists)
    };
    // A network of a million parameters, and its file.
    let params = Params::new(1, &Device::Cpu);
    let config = MlpConfig { inputs: 1000, widths: vec![1000], ..Default::default() };
    Mlp::new(&config, params.builder()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    save_weights(&params, &dir.path().join("model")).unwrap();
    let model = std::fs::read(dir.path().join("model")).unwrap();
    let own = move |path: &Path| drop(load_weights(&params, path));

    // Name; file; reader; allowed memory in addition to twice the file's size, in bytes.
    const LITTLE: usize = 256 << 10;
    type Read = Box<dyn Fn(&Path)>;
    let cases: Vec<(&str, Vec<u8>, Read, usize)> = vec![
        ("images", idx(&[3, 1000, 1000], N), Box::new(images), LITTLE),
        ("images cut off", idx(&[3, 1000, 1000], N / 2), Box::new(images), LITTLE),
        ("images that claim 1 GiB", idx(&[1024, 1024, 1024], N), Box::new(images), LITTLE),
        ("a plain file after the values", idx(&[1, 2, 2], N), Box::new(images), LITTLE),
        ("a gzip bomb", gzip(&idx(&[1, 2, 2], 40 * N)), Box::new(images), LITTLE),
        ("weights", model, Box::new(own), LITTLE),
        ("weights of another network", weights(&shape(0), 4), Box::new(headers), LITTLE),
        ("a header of ones", weights(&shape(125_000), 4), Box::new(headers), 12 << 20),
        ("a header of tensors", weights(&tensors, 4), Box::new(headers), 12 << 20),
        ("a header that claims to be vast", weights("{}", N), Box::new(headers), LITTLE),
        ("blank lines", vec![b'\n'; N], Box::new(lines), N + LITTLE),
        ("short lines", b"x\n".repeat(N / 2), Box::new(lines), N + LITTLE),
        ("no line at all", vec![b'['; N], Box::new(lines), LITTLE),
        ("a config of lists", settings(30_000).into_bytes(), Box::new(config_file), 32 << 20),
        ("a config that is too long", settings(300_000).into_bytes(), Box::new(config_file), LITTLE),
        ("a long activation", vec![b'r'; N], Box::new(activation), LITTLE),
    ];
    let (mut text, mut good) = (String::new(), true);
    for (what, bytes, read, more) in cases {
        let (largest, most) = cost(&bytes, read);
        // A small file still takes the buffers of a reader, and JSON of bounded length its multiple.
        let bounded = ["a header of ones", "a header of tensors", "a config of lists"].contains(&what);
        let allowed = if bounded { more } else { 2 * bytes.len() + LITTLE };
        let within = largest <= allowed && most <= 2 * bytes.len() + more;
        good &= within;
        let mark = if within { "" } else { " (too much)" };
        text += &format!("{what}: {} bytes, largest piece {largest}, at a time {most}{mark}\n", bytes.len());
    }
    assert!(good, "{text}");
    println!("{text}");
}
