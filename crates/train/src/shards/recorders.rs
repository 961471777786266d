use taper_hooks::{Observer, Recorder, Seen};
use taper_report::{SiteSteps, Split};

use super::{Shards, Tree};
use crate::{Error, Result};

/// The recorders of the shards of one process, and the one that their numbers are merged into where a window ends.
pub(crate) struct ShardRecorders<'a> {
    pub whole: &'a mut Option<Recorder>,
    /// Of the process's own shards, in their order; empty if nothing is recorded.
    pub own: &'a mut [Recorder],
    pub shards: &'a Shards,
}

impl ShardRecorders<'_> {
    /// Gives the numbers of all shards to the recorder of the whole. The shards' recorders go on.
    pub fn merge(&mut self) -> Result<()> {
        let Some(whole) = self.whole else { return Ok(()) };
        let join = |mut left: Recorder, right: Recorder| {
            left.merge(&right).map_err(|error| Error::Config(error.to_string()))?;
            Ok(left)
        };
        if let Some(own) = Tree::of(self.own.iter().cloned(), join)? {
            whole.set_window(self.shards.join_json(own, join)?);
        }
        Ok(())
    }

    /// Ends the window: the recorder of the whole has its numbers, and the shards' recorders are empty.
    pub fn close(&mut self) -> Result<()> {
        self.merge()?;
        self.own.iter_mut().for_each(|own| *own = Recorder::of(own.parts()));
        Ok(())
    }
}

/// Of a pass over several shards; the passes over each have its own recorder as their observer.
impl Observer for ShardRecorders<'_> {
    fn observe(&mut self, seen: &Seen<'_>) -> candle_core::Result<()> {
        self.whole.observe(seen)
    }

    fn begin(&mut self, split: Split, continues: bool) -> candle_core::Result<()> {
        self.own.iter_mut().try_for_each(|own| own.begin(split, continues))
    }

    fn end_window(&mut self) -> candle_core::Result<Vec<SiteSteps>> {
        self.merge().map_err(candle_core::Error::wrap)?;
        self.whole.end_window()
    }
}
