use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use taper_report::write_whole;

use crate::{Error, Result, html, load_runs};

/// The page of a running training: rewritten regularly, and reloaded by the browser.
///
/// A rewrite takes place at most every ten seconds, and takes less than a hundredth of the time. The file is always
/// complete. The browser reloads it at the same position. The last page, that of [`html_report`](crate::html_report),
/// does not reload itself.
///
/// ```no_run
/// let mut page = taper_view::LivePage::new("runs/one/report.html", vec!["runs/one".into()]);
/// for _step in 0..1000 {
///     // … train …
///     page.update()?;
/// }
/// page.finish()?;
/// # Ok::<(), taper_view::Error>(())
/// ```
#[derive(Debug)]
pub struct LivePage {
    path: PathBuf,
    runs: Vec<PathBuf>,
    due: Instant,
}

/// The shortest time between two rewrites.
const EVERY: Duration = Duration::from_secs(10);
/// The time between two rewrites is at least this multiple of a rewrite's time.
const SHARE: u32 = 100;

impl LivePage {
    /// The page at `path` for the runs in these directories, which need not exist yet; nothing is written before
    /// [`update`](Self::update).
    pub fn new(path: impl Into<PathBuf>, runs: Vec<PathBuf>) -> Self {
        Self { path: path.into(), runs, due: Instant::now() }
    }

    /// Rewrites the page if it is due, and returns whether it was. Unreadable parts, as before a run's first record,
    /// are left out.
    ///
    /// # Errors
    ///
    /// The page could not be written. The next attempt is ten seconds later.
    pub fn update(&mut self) -> Result<bool> {
        self.update_at(Instant::now())
    }

    fn update_at(&mut self, now: Instant) -> Result<bool> {
        if now < self.due {
            return Ok(false);
        }
        let start = Instant::now();
        let written = self.write(Some(EVERY.as_secs()));
        self.due = now + EVERY.max(SHARE * start.elapsed());
        written.map(|()| true)
    }

    /// Writes the last page.
    ///
    /// # Errors
    ///
    /// The page could not be written.
    pub fn finish(self) -> Result<()> {
        self.write(None)
    }

    fn write(&self, reload: Option<u64>) -> Result<()> {
        let page = html::page(&load_runs(&self.runs).0, reload);
        write_whole(&self.path, page.as_bytes()).map_err(Error::io(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_page_is_rewritten_every_ten_seconds_and_the_last_one_stays() -> Result<()> {
        let dir = tempfile::tempdir().map_err(Error::io("a temporary directory"))?;
        let path = dir.path().join("report.html");
        let mut page = LivePage::new(&path, vec![dir.path().join("not-yet")]);
        let start = page.due;
        let read = || fs::read_to_string(&path).map_err(Error::io(&path));
        assert!(page.update_at(start)?);
        assert!(read()?.contains("\"reload\":10"));
        assert!(!page.update_at(start + Duration::from_secs(9))?);
        // Rare enough for a slow machine: a rewrite may have taken more than a tenth of a second.
        assert!(page.update_at(page.due)?);
        page.finish()?;
        assert!(read()?.contains("\"reload\":null"));
        Ok(())
    }
}
