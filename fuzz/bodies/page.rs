use super::{one_line, with_file};
use std::{fs, path::Path, sync::OnceLock};
use taper_view::{html_report, load_runs};

/// A whole run directory, its four files one after the other with a byte 0 between them: the page that is made
/// of it, in which nothing of a file can end a script or begin an element.
pub fn check(bytes: &[u8]) {
    with_file(b"", |path| {
        let dir = path.with_extension("page");
        fs::create_dir_all(&dir).expect("a temporary directory");
        let mut parts = bytes.splitn(4, |b| *b == 0);
        for name in ["config.json", "metrics.jsonl", "layers.jsonl", "timing.jsonl"] {
            fs::write(dir.join(name), parts.next().unwrap_or_default()).expect("a temporary file");
        }
        let (runs, errors) = load_runs(&[Path::to_path_buf(&dir)]);
        errors.iter().for_each(one_line);
        let count = |page: &str| ["</script", "<img", "<iframe"].map(|text| page.matches(text).count());
        static OWN: OnceLock<[usize; 3]> = OnceLock::new();
        let own = OWN.get_or_init(|| count(&html_report(&[])));
        assert_eq!(count(&html_report(&runs)), *own, "a file has ended a script or begun an element");
    });
}
