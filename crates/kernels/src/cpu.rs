//! What all kernels share: slices out of tensors, run-time CPU dispatch, and memory that threads fill together.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut, Range};

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor};
use rayon::prelude::*;

/// Runs `op` compiled for the best instruction set that this CPU has.
///
/// Loops inside `op` become vector code if everything they call is `#[inline(always)]`; write the closure as
/// `simd(#[inline(always)] || ..)`.
#[inline(always)]
pub fn simd<R>(op: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(op)
}

/// Elements that one task of an elementwise loop handles: small enough to share, large enough to pay.
pub(crate) const CHUNK: usize = 32 * 1024;

/// Whether the kernels of this crate can run on these tensors; otherwise their twins do.
pub(crate) fn is_fast(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| t.device().is_cpu() && t.dtype() == DType::F32)
}

/// The values of a contiguous f32 tensor on the CPU, for reading.
pub(crate) struct Values<'a> {
    storage: Box<dyn Deref<Target = Storage> + 'a>,
    range: Range<usize>,
}

impl<'a> Values<'a> {
    pub fn of(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let bounds = layout.contiguous_offsets();
        match (&*storage, bounds) {
            (Storage::Cpu(CpuStorage::F32(_)), Some((start, end))) => {
                Ok(Self { storage: Box::new(storage), range: start..end })
            }
            _ => candle_core::bail!("expected a contiguous f32 tensor on the CPU, found layout {layout:?}"),
        }
    }
}

impl Deref for Values<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &**self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            // `of` has made sure that there are some.
            _ => &[],
        }
    }
}

/// Calls `f` with the values of a contiguous f32 tensor on the CPU.
pub(crate) fn of_contiguous<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> R {
    f(&Values::of(tensor).expect("the kernel was made for such a tensor"))
}

/// The values of a contiguous f32 tensor's storage.
pub(crate) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => candle_core::bail!("expected a contiguous tensor, found layout {layout:?}"),
    }
}

/// Calls `f` with the tensor's values in row-major order: borrowed where they lie if it is a contiguous
/// f32 tensor on the CPU, converted otherwise, which costs a copy, and on a GPU a wait.
///
/// # Errors
/// When the tensor cannot be copied or converted.
pub fn with_values<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let tensor = tensor.to_device(&candle_core::Device::Cpu)?.to_dtype(DType::F32)?.contiguous()?;
    Ok(f(&Values::of(&tensor)?))
}

/// Calls `op(offset, chunk of ys)` over chunks of `ys`, on all threads if there is more than one chunk.
pub(crate) fn for_chunks(ys: &mut [f32], op: impl Fn(usize, &mut [f32]) + Sync) {
    if ys.len() <= CHUNK {
        op(0, ys);
    } else {
        ys.par_chunks_mut(CHUNK).enumerate().for_each(|(i, chunk)| op(i * CHUNK, chunk));
    }
}

/// A vector of `len` values, made chunk by chunk on all threads: `write(offset, chunk)` writes every element of its
/// chunk. Saves the time in which zeros would be written first.
///
/// # Safety
/// `write` leaves no element of a chunk as it was.
#[allow(unsafe_code)]
pub(crate) unsafe fn filled(
    len: usize,
    chunk: usize,
    write: impl Fn(usize, &mut [MaybeUninit<f32>]) + Sync,
) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    let chunks = values.spare_capacity_mut()[..len].par_chunks_mut(chunk.max(1));
    chunks.enumerate().for_each(|(i, own)| write(i * chunk, own));
    // SAFETY: the chunks cover all of it, and the caller vouches for each.
    unsafe { values.set_len(len) };
    values
}

/// Two vectors of `len` values side by side, made as [`filled`] makes one.
///
/// # Safety
/// `write` leaves no element of either chunk as it was.
#[allow(unsafe_code)]
pub(crate) unsafe fn filled_both<A: Send, B: Send>(
    len: usize,
    chunk: usize,
    write: impl Fn(usize, &mut [MaybeUninit<A>], &mut [MaybeUninit<B>]) + Sync,
) -> (Vec<A>, Vec<B>) {
    let (mut first, mut second) = (Vec::with_capacity(len), Vec::with_capacity(len));
    let chunks = first.spare_capacity_mut()[..len].par_chunks_mut(chunk.max(1));
    let chunks = chunks.zip(second.spare_capacity_mut()[..len].par_chunks_mut(chunk.max(1)));
    chunks.enumerate().for_each(|(i, (a, b))| write(i * chunk, a, b));
    // SAFETY: the chunks cover all of both, and the caller vouches for each.
    unsafe {
        first.set_len(len);
        second.set_len(len);
    }
    (first, second)
}

/// A matrix of `rows` times `width`, made by blocks of `block` columns on all threads: `write(first column, columns)`
/// writes every element of its block.
///
/// # Safety
/// `write` leaves no element of its block as it was.
#[allow(unsafe_code)]
pub(crate) unsafe fn filled_by_columns(
    (rows, width): (usize, usize),
    block: usize,
    write: impl Fn(usize, Columns<'_>) + Sync,
) -> Vec<f32> {
    let mut values = Vec::with_capacity(rows * width);
    let all = Lent::at(values.as_mut_ptr(), rows * width);
    (0..width.div_ceil(block)).into_par_iter().with_max_len(1).for_each(|b| {
        let own = b * block..((b + 1) * block).min(width);
        // SAFETY: the matrix has room for `rows` times `width` values, and no column is in two blocks.
        let first = unsafe { all.pointer().add(own.start) };
        write(own.start, Columns { first, rows, width, own: own.len(), matrix: PhantomData });
    });
    // SAFETY: the blocks cover all columns, and the caller vouches for each.
    unsafe { values.set_len(rows * width) };
    values
}

/// Some columns of a matrix that is being made, side by side.
pub(crate) struct Columns<'a> {
    first: *mut f32,
    rows: usize,
    /// Of the matrix.
    width: usize,
    own: usize,
    matrix: PhantomData<&'a mut [MaybeUninit<f32>]>,
}

impl Columns<'_> {
    /// What row `i` has in these columns.
    #[allow(unsafe_code)]
    pub fn row(&mut self, i: usize) -> &mut [MaybeUninit<f32>] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        // SAFETY: the row is one of the matrix; its part in these columns is lent out here alone, for as long as `self` is.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(i * self.width).cast(), self.own) }
    }
}

/// Has the CPU bring values into its second-level cache, for they will be needed soon. No matter whether there are any.
#[inline(always)]
pub(crate) fn prefetch(first: *const f32, len: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        const LINE: usize = 64 / size_of::<f32>();
        // They may begin within a line, and then end in one more.
        for at in (0..len + LINE - 1).step_by(LINE) {
            // SAFETY: nothing is read, so any address will do.
            #[allow(unsafe_code)]
            unsafe {
                _mm_prefetch::<_MM_HINT_T1>(first.wrapping_add(at).cast());
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (first, len);
}

/// How many `f32` a vector has on this CPU.
pub(crate) fn lanes() -> usize {
    struct Lanes;
    impl pulp::WithSimd for Lanes {
        type Output = usize;
        fn with_simd<S: pulp::Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    pulp::Arch::new().dispatch(Lanes)
}

/// `size` values for each of `images`, written by `op(state, image, its values)`. Every `group` images share a state and a
/// thread; also returned are the groups' states, in order.
///
/// # Safety
/// `op` leaves no value of its image as it was.
#[allow(unsafe_code)]
pub(crate) unsafe fn per_image<State: Send>(
    images: usize,
    size: usize,
    group: usize,
    state: impl Fn() -> State + Sync,
    op: impl Fn(&mut State, usize, &mut [MaybeUninit<f32>]) + Sync,
) -> (Vec<f32>, Vec<State>) {
    let mut values = Vec::with_capacity(images * size);
    let all = Lent::at(values.as_mut_ptr(), images * size);
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
    // SAFETY: the groups cover all images, and the caller vouches for each.
    unsafe { values.set_len(images * size) };
    (values, states)
}

/// Values of which the first begins a cache line, so that no vector of them lies across two.
pub(crate) struct Aligned {
    values: Vec<f32>,
    start: usize,
}

impl Aligned {
    /// Zeros.
    #[allow(unsafe_code)]
    pub fn new(n: usize) -> Self {
        // SAFETY: all are written.
        unsafe { Self::filled(n, |values| values.fill(MaybeUninit::new(0.0))) }
    }

    /// What `write` writes.
    ///
    /// # Safety
    /// It leaves no value as it was.
    #[allow(unsafe_code)]
    pub unsafe fn filled(n: usize, write: impl FnOnce(&mut [MaybeUninit<f32>])) -> Self {
        const LINE: usize = 64;
        const ROOM: usize = LINE / size_of::<f32>();
        let mut values: Vec<f32> = Vec::with_capacity(n + ROOM);
        let start = values.as_ptr().align_offset(LINE).min(ROOM);
        let (before, rest) = values.spare_capacity_mut()[..n + ROOM].split_at_mut(start);
        let (own, behind) = rest.split_at_mut(n);
        before.fill(MaybeUninit::new(0.0));
        write(own);
        behind.fill(MaybeUninit::new(0.0));
        // SAFETY: the parts before and behind have been written, and the caller vouches for the one in between.
        unsafe { values.set_len(n + ROOM) };
        Self { values, start }
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[self.start..]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[self.start..]
    }
}

/// Values of which each of many threads is lent a part of its own.
#[derive(Clone, Copy)]
pub(crate) struct Lent<'a> {
    first: *mut f32,
    len: usize,
    values: PhantomData<&'a mut [f32]>,
}

// SAFETY: values are reached through `part` and `pointer` alone, and whoever calls these answers for what is shared.
#[allow(unsafe_code)]
unsafe impl Send for Lent<'_> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Lent<'_> {}

impl<'a> Lent<'a> {
    pub fn of(values: &'a mut [f32]) -> Self {
        Self::at(values.as_mut_ptr(), values.len())
    }

    /// `len` values in memory that is yet to be written.
    pub fn at(first: *mut f32, len: usize) -> Self {
        Self { first, len, values: PhantomData }
    }

    /// Those of a range; none of no values at all.
    ///
    /// # Safety
    /// Nobody else has any of them.
    #[allow(unsafe_code)]
    #[inline(always)]
    pub unsafe fn part(&self, range: Range<usize>) -> &'a mut [f32] {
        if self.len == 0 {
            return &mut [];
        }
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} values", self.len);
        // SAFETY: the range is one of the values, and they are the caller's alone.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(range.start), range.len()) }
    }

    /// Has the CPU fetch those of a range, if there are so many.
    #[inline(always)]
    pub fn prefetch(&self, range: Range<usize>) {
        if range.end <= self.len {
            prefetch(self.first.wrapping_add(range.start), range.len());
        }
    }

    /// To the first of them. Takes the whole wrapper into a closure, not the pointer alone.
    pub fn pointer(&self) -> *mut f32 {
        self.first
    }
}

/// The sum of `xs`, added up in sixteen interleaved lanes.
pub(crate) fn sum(xs: &[f32]) -> f32 {
    simd(
        #[inline(always)]
        || {
            let mut lanes = [0.0_f32; 16];
            let chunks = xs.chunks_exact(16);
            let rest: f32 = chunks.remainder().iter().sum();
            for chunk in chunks {
                for (lane, x) in lanes.iter_mut().zip(chunk) {
                    *lane += x;
                }
            }
            lanes.iter().sum::<f32>() + rest
        },
    )
}
