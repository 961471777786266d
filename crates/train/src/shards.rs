//! Batches that are split into shards, whose results are summed along one binary tree, by one process or several.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{BoxError, Error, Result};

mod part;
mod recorders;
mod step;

pub(crate) use recorders::ShardRecorders;
pub(crate) use step::{evaluate_shards, train_shards};

/// The processes that train one model together.
///
/// Implemented for MPI and for the threads of one process in the crate `taper-distributed`.
pub trait Group: fmt::Debug + Send + Sync {
    /// The number of this process, from 0.
    fn rank(&self) -> usize;

    /// The number of processes.
    fn size(&self) -> usize;

    /// Sends `bytes` to the process `partner`, which calls this with this process's rank, and returns its bytes.
    ///
    /// # Errors
    /// When the partner has ended.
    fn exchange(&self, partner: usize, bytes: &[u8]) -> Result<Vec<u8>, BoxError>;
}

/// The group of a program that runs alone.
#[derive(Debug)]
struct Alone;

impl Group for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn exchange(&self, partner: usize, _bytes: &[u8]) -> Result<Vec<u8>, BoxError> {
        Err(format!("expected a second process, found none with rank {partner}").into())
    }
}

/// The number of shards that every batch is split into, and the processes that share them.
///
/// Data parallelism. Each shard is a micro-batch: its gradient, its statistics and its metrics are computed alone. They are
/// summed along a binary tree over the numbers of the shards, weighted by samples, for one step of the optimiser. A process
/// computes a block of shards, which is a subtree; the levels above are an all-reduce by recursive doubling. So a number of
/// shards gives the same bits with any number of processes. Another number of shards gives other rounding, and batch
/// normalisation other statistics: it normalises each shard by itself, and the running statistics become the mean over the
/// shards.
///
/// In evaluation whole batches are dealt to the shards in turn.
#[derive(Clone, Debug)]
pub struct Shards {
    /// The number of shards: a power of two. With 1, batches are not split.
    pub count: usize,
    /// The processes, whose number divides `count`.
    pub group: Arc<dyn Group>,
}

impl Default for Shards {
    /// One shard, one process.
    fn default() -> Self {
        Self { count: 1, group: Arc::new(Alone) }
    }
}

impl Shards {
    /// Checks that the numbers of shards and processes go together.
    ///
    /// # Errors
    /// [`Error::Config`] when they do not.
    pub fn check(&self) -> Result<()> {
        let (count, size) = (self.count, self.group.size());
        if !count.is_power_of_two() {
            return Err(Error::Config(format!(
                "expected a power of two as the number of shards, found {count}"
            )));
        }
        if !size.is_power_of_two() || size > count {
            let fewer = 1 << size.min(count).ilog2();
            let more = match count.max(size.next_power_of_two()) {
                shards if size.is_power_of_two() => format!(", or {shards} shards"),
                _ => String::new(),
            };
            return Err(Error::Config(format!(
                "expected a number of processes that divides the number of shards, {count}, found {size}: start {fewer}{more}"
            )));
        }
        Ok(())
    }

    /// Whether this process is the first, which writes files.
    pub fn is_first(&self) -> bool {
        self.group.rank() == 0
    }

    /// Whether batches are split.
    pub(crate) fn are_many(&self) -> bool {
        self.count > 1
    }

    /// The shards of this process.
    pub(crate) fn own(&self) -> Range<usize> {
        let each = self.count / self.group.size();
        let first = self.group.rank() * each;
        first..first + each
    }

    /// The samples of a shard: as many in each, or one more.
    pub(crate) fn samples(&self, shard: usize, all: usize) -> Range<usize> {
        let from = |shard: usize| (shard as u128 * all as u128 / self.count as u128) as usize;
        from(shard)..from(shard + 1)
    }

    /// All-reduce: combines the values of all processes with `join`, in the order of the tree, and returns the result in each.
    /// Collective: every process must call it.
    ///
    /// # Errors
    /// When a process has ended, and errors of `join`.
    pub(crate) fn join<T>(
        &self,
        own: T,
        write: impl Fn(&T) -> Result<Vec<u8>>,
        read: impl Fn(Vec<u8>) -> Result<T>,
        mut join: impl FnMut(T, T) -> Result<T>,
    ) -> Result<T> {
        let (rank, size, mut whole) = (self.group.rank(), self.group.size(), own);
        let exchange = |partner, bytes: &[u8]| self.group.exchange(partner, bytes).map_err(Error::other);
        // Only in sweeps can there be more processes than a power of two. Each of these sends its value to a lower rank and
        // receives the result.
        let power = 1 << size.ilog2();
        if rank >= power {
            exchange(rank - power, &write(&whole)?)?;
            return read(exchange(rank - power, &[])?);
        }
        let beyond = Some(rank + power).filter(|beyond| *beyond < size);
        if let Some(beyond) = beyond {
            whole = join(whole, read(exchange(beyond, &[])?)?)?;
        }
        for level in 0..size.ilog2() {
            let partner = rank ^ (1 << level);
            let other = read(exchange(partner, &write(&whole)?)?)?;
            whole = if rank < partner { join(whole, other)? } else { join(other, whole)? };
        }
        if let Some(beyond) = beyond {
            exchange(beyond, &write(&whole)?)?;
        }
        Ok(whole)
    }

    /// Like [`Shards::join`], with values that are sent as JSON.
    pub(crate) fn join_json<T: Serialize + DeserializeOwned>(
        &self,
        own: T,
        join: impl FnMut(T, T) -> Result<T>,
    ) -> Result<T> {
        let write = |of: &T| serde_json::to_vec(of).map_err(Error::other);
        let read = |bytes: Vec<u8>| serde_json::from_slice(&bytes).map_err(Error::other);
        self.join(own, write, read, join)
    }

    /// All-reduce: the maximum of the numbers of all processes. Collective: every process must call it.
    ///
    /// # Errors
    /// When a process has ended.
    pub fn max(&self, own: u64) -> Result<u64> {
        self.join_json(own, |a, b| Ok(a.max(b)))
    }

    /// Broadcast: returns the value of the lowest rank that passes one. Collective: every process must call it.
    ///
    /// # Errors
    /// When a process has ended, or no process passes a value.
    pub fn share<T: Serialize + DeserializeOwned>(&self, own: Option<T>) -> Result<T> {
        let shared = self.join_json(own, |a, b| Ok(a.or(b)))?;
        shared.ok_or_else(|| Error::Config("expected a process with a value to broadcast, found none".into()))
    }

    /// All-gather: concatenates the lists of all processes, in the order of their ranks if the number of processes is a power
    /// of two. Collective: every process must call it.
    ///
    /// # Errors
    /// When a process has ended.
    pub fn gather<T: Serialize + DeserializeOwned>(&self, own: Vec<T>) -> Result<Vec<T>> {
        self.join_json(own, |mut left, right| {
            left.extend(right);
            Ok(left)
        })
    }

    /// Like [`Shards::share`], for bytes. An empty list is no value.
    pub(crate) fn share_bytes(&self, own: Vec<u8>) -> Result<Vec<u8>> {
        self.join(own, |bytes| Ok(bytes.clone()), Ok, |a, b| Ok(if a.is_empty() { b } else { a }))
    }
}

/// Combines the results of consecutive shards pairwise, in the order of a binary tree, while they are computed. `None` is a
/// shard without samples.
pub(crate) struct Tree<T> {
    /// The subtrees so far, each with its number of shards; each larger than the next.
    subtrees: Vec<(usize, Option<T>)>,
}

impl<T> Tree<T> {
    pub fn new() -> Self {
        Self { subtrees: Vec::new() }
    }

    /// Adds the next shard.
    pub fn push(&mut self, item: Option<T>, mut join: impl FnMut(T, T) -> Result<T>) -> Result<()> {
        let mut new = (1, item);
        while let Some((size, left)) = self.subtrees.pop_if(|(size, _)| *size == new.0) {
            new = (2 * size, either(left, new.1, &mut join)?);
        }
        self.subtrees.push(new);
        Ok(())
    }

    /// The combined result. The number of shards must be a power of two.
    pub fn root(mut self) -> Option<T> {
        self.subtrees.pop().and_then(|(_, root)| root)
    }

    /// Combines all items; their number must be a power of two.
    pub fn of(
        items: impl IntoIterator<Item = T>,
        mut join: impl FnMut(T, T) -> Result<T>,
    ) -> Result<Option<T>> {
        let mut tree = Self::new();
        items.into_iter().try_for_each(|item| tree.push(Some(item), &mut join))?;
        Ok(tree.root())
    }
}

/// Both joined, or the one that there is.
pub(crate) fn either<T>(
    a: Option<T>,
    b: Option<T>,
    mut join: impl FnMut(T, T) -> Result<T>,
) -> Result<Option<T>> {
    match (a, b) {
        (Some(a), Some(b)) => join(a, b).map(Some),
        (a, b) => Ok(a.or(b)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_shards_is_joined_as_the_tree_over_all_joins_it() {
        let join = |a: String, b: String| Ok(format!("({a}{b})"));
        let of = |items: &[&str]| Tree::of(items.iter().map(|x| x.to_string()), join).unwrap().unwrap();
        assert_eq!(of(&["a"]), "a");
        assert_eq!(of(&["a", "b", "c", "d"]), "((ab)(cd))");
        let halves = [of(&["a", "b", "c", "d"]), of(&["e", "f", "g", "h"])];
        assert_eq!(of(&["a", "b", "c", "d", "e", "f", "g", "h"]), format!("({}{})", halves[0], halves[1]));
        let mut with_gaps = Tree::new();
        for item in [None, Some("b"), None, None] {
            with_gaps.push(item.map(String::from), join).unwrap();
        }
        assert_eq!(with_gaps.root().unwrap(), "b");
    }

    #[test]
    fn shards_are_consecutive_and_differ_by_one_sample_at_most() {
        for (count, all) in [(8, 128), (8, 96), (8, 3), (4, 1), (1, 60), (2, 5)] {
            let shards = Shards { count, ..Shards::default() };
            let ranges: Vec<_> = (0..count).map(|shard| shards.samples(shard, all)).collect();
            assert_eq!((ranges[0].start, ranges[count - 1].end), (0, all));
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
            let sizes: Vec<_> = ranges.iter().map(ExactSizeIterator::len).collect();
            assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{sizes:?}");
        }
    }

    #[test]
    fn a_number_of_processes_that_does_not_divide_the_shards_is_refused_with_the_cure() {
        #[derive(Debug)]
        struct Of(usize);
        impl Group for Of {
            fn rank(&self) -> usize {
                0
            }
            fn size(&self) -> usize {
                self.0
            }
            fn exchange(&self, _: usize, _: &[u8]) -> Result<Vec<u8>, BoxError> {
                Err("nobody".into())
            }
        }
        let says = |count, size| match (Shards { count, group: Arc::new(Of(size)) }).check() {
            Ok(()) => "fine".to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!([says(1, 1), says(8, 1), says(8, 4), says(8, 8)], ["fine"; 4]);
        assert!(says(8, 16).ends_with("found 16: start 8, or 16 shards"), "{}", says(8, 16));
        assert!(says(8, 3).ends_with("found 3: start 2"), "{}", says(8, 3));
        assert!(says(1, 4).ends_with("found 4: start 1, or 4 shards"), "{}", says(1, 4));
        assert!(says(6, 2).contains("expected a power of two"), "{}", says(6, 2));
    }
}
