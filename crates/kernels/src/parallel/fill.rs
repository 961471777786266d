use std::marker::PhantomData;
use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::disjoint::DisjointSlices;

/// Elements for one task of an elementwise loop: small enough to share, large enough to be worth a task.
pub(crate) const CHUNK: usize = 32 * 1024;

/// Calls `op(offset, chunk of ys)` over chunks of `ys`, on all threads if there is more than one chunk.
pub(crate) fn for_chunks(ys: &mut [f32], op: impl Fn(usize, &mut [f32]) + Sync) {
    if ys.len() <= CHUNK {
        op(0, ys);
    } else {
        ys.par_chunks_mut(CHUNK).enumerate().for_each(|(i, chunk)| op(i * CHUNK, chunk));
    }
}

/// A vector of `len` values, written chunk by chunk on all threads: `write(offset, chunk)` writes every element of its
/// chunk. The vector is not filled with zeros first.
///
/// # Safety
/// `write` writes every element of its chunk.
pub(crate) unsafe fn filled(
    len: usize,
    chunk: usize,
    write: impl Fn(usize, &mut [MaybeUninit<f32>]) + Sync,
) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    let room = &mut values.spare_capacity_mut()[..len];
    if 0 < len && len <= chunk {
        write(0, room);
    } else {
        room.par_chunks_mut(chunk.max(1)).enumerate().for_each(|(i, own)| write(i * chunk, own));
    }
    // SAFETY: the chunks cover the vector, and the caller ensures that each is written.
    unsafe { values.set_len(len) };
    values
}

/// Two vectors of `len` values at once, as [`filled`].
///
/// # Safety
/// `write` writes every element of both chunks.
pub(crate) unsafe fn filled_both<A: Send, B: Send>(
    len: usize,
    chunk: usize,
    write: impl Fn(usize, &mut [MaybeUninit<A>], &mut [MaybeUninit<B>]) + Sync,
) -> (Vec<A>, Vec<B>) {
    let (mut first, mut second) = (Vec::with_capacity(len), Vec::with_capacity(len));
    let chunks = first.spare_capacity_mut()[..len].par_chunks_mut(chunk.max(1));
    let chunks = chunks.zip(second.spare_capacity_mut()[..len].par_chunks_mut(chunk.max(1)));
    chunks.enumerate().for_each(|(i, (a, b))| write(i * chunk, a, b));
    // SAFETY: the chunks cover both vectors, and the caller ensures that each is written.
    unsafe {
        first.set_len(len);
        second.set_len(len);
    }
    (first, second)
}

/// A matrix of `rows` times `width`, made in blocks of `block` columns on all threads: `write(first column, columns)`
/// writes every element of its block.
///
/// # Safety
/// `write` writes every element of its block.
pub(crate) unsafe fn filled_by_columns(
    (rows, width): (usize, usize),
    block: usize,
    write: impl Fn(usize, Columns<'_>) + Sync,
) -> Vec<f32> {
    let size = rows.checked_mul(width).expect("a matrix that fits into memory");
    let mut values = Vec::with_capacity(size);
    // SAFETY: there is room for `size` values, and the memory outlives the blocks.
    let all = unsafe { DisjointSlices::at(values.as_mut_ptr(), size) };
    (0..width.div_ceil(block)).into_par_iter().with_max_len(1).for_each(|b| {
        let own = b * block..((b + 1) * block).min(width);
        let first = all.pointer().wrapping_add(own.start);
        write(own.start, Columns { first, rows, width, own: own.len(), matrix: PhantomData });
    });
    // SAFETY: the blocks cover all columns, and the caller ensures that each is written.
    unsafe { values.set_len(size) };
    values
}

/// A block of neighbouring columns of a matrix that is being written.
pub(crate) struct Columns<'a> {
    first: *mut f32,
    rows: usize,
    /// Of the matrix.
    width: usize,
    own: usize,
    matrix: PhantomData<&'a mut [MaybeUninit<f32>]>,
}

impl Columns<'_> {
    /// The part of row `i` in these columns.
    pub fn row(&mut self, i: usize) -> &mut [MaybeUninit<f32>] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        // SAFETY: the row is in bounds, and this block's columns are accessible only through `self`, which is borrowed
        // as long.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(i * self.width).cast(), self.own) }
    }
}

/// `size` values for each of `images`, written by `op(state, image, its values)`. Every `group` images share a state
/// and a thread; the groups' states are returned in order.
///
/// # Safety
/// `op` writes every value of its image.
pub(crate) unsafe fn per_image<State: Send>(
    images: usize,
    size: usize,
    group: usize,
    state: impl Fn() -> State + Sync,
    op: impl Fn(&mut State, usize, &mut [MaybeUninit<f32>]) + Sync,
) -> (Vec<f32>, Vec<State>) {
    let total = images.checked_mul(size).expect("images that fit into memory");
    let mut values = Vec::with_capacity(total);
    // SAFETY: there is room for `total` values, and the memory outlives the groups.
    let all = unsafe { DisjointSlices::at(values.as_mut_ptr(), total) };
    let group_of_images = |g: usize| {
        let mut state = state();
        for n in g * group..((g + 1) * group).min(images) {
            // SAFETY: there is room for `size` values of each image, and no image is in two groups.
            let own = unsafe { std::slice::from_raw_parts_mut(all.pointer().add(n * size).cast(), size) };
            op(&mut state, n, own);
        }
        state
    };
    let states = (0..images.div_ceil(group)).into_par_iter().map(group_of_images).collect();
    // SAFETY: the groups cover all images, and the caller ensures that each is written.
    unsafe { values.set_len(total) };
    (values, states)
}
