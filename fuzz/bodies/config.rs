use super::{one_line, with_file};
use taper::report::{Run, RunDir, Sink, read_config};

/// A `config.json`: a round trip gives the same configuration.
pub fn check(bytes: &[u8]) {
    let run = match with_file(bytes, |path| read_config(path)) {
        Ok(run) => run,
        Err(error) => return one_line(&error),
    };
    with_file(b"", |path| {
        let dir = path.with_extension("run");
        let _ = std::fs::remove_dir_all(&dir);
        let mut sink = RunDir::create(&dir).expect("a temporary directory");
        // Written with blanks it may be too large.
        if sink.begin(&run).is_ok() {
            let again: Run = read_config(dir.join("config.json")).expect("its own file");
            assert_eq!(again, run);
        }
    });
}
