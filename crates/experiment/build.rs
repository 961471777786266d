//! Says which candle a program is built with: runs are resumed only with the same one.

use std::path::Path;

fn main() {
    // The build directory lies within the program's own workspace, wherever this package lies.
    let out = std::env::var_os("OUT_DIR").unwrap_or_default();
    let locks = Path::new(&out).ancestors().map(|dir| dir.join("Cargo.lock"));
    let Some(lock) = locks.into_iter().find(|path| path.is_file()) else { return };
    println!("cargo::rerun-if-changed={}", lock.display());
    let text = std::fs::read_to_string(&lock).unwrap_or_default();
    let version = text.split_once("name = \"candle-core\"\nversion = \"");
    if let Some((version, _)) = version.and_then(|(_, rest)| rest.split_once('"')) {
        println!("cargo::rustc-env=CANDLE_VERSION={version}");
    }
}
