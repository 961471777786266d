//! Vector code: run-time dispatch, and small loops that many operations share.

use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};

/// Runs `op` compiled for the best instruction set that this CPU has.
///
/// Loops inside `op` become vector code if everything they call is `#[inline(always)]`; write the closure as
/// `simd(#[inline(always)] || ..)`.
#[inline(always)]
pub fn simd<R>(op: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(op)
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

/// Prefetches values into the second-level cache. The range may be out of bounds.
#[inline(always)]
pub(crate) fn prefetch(first: *const f32, len: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        const LINE: usize = 64 / size_of::<f32>();
        // One more line, because the first value may be within a line.
        for at in (0..len + LINE - 1).step_by(LINE) {
            // SAFETY: nothing is read, so any address will do.
            unsafe {
                _mm_prefetch::<_MM_HINT_T1>(first.wrapping_add(at).cast());
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (first, len);
}

/// The values of a vector of the widest kind.
pub(crate) const WIDE: usize = 16;

/// Calls `op` with sixteen values of `row` at a time; the last vector is padded with `pad`. For use within [`simd`].
#[inline(always)]
pub(crate) fn by_wide(row: &mut [f32], pad: f32, mut op: impl FnMut(&mut [f32; WIDE])) {
    let (chunks, rest) = row.as_chunks_mut::<WIDE>();
    chunks.iter_mut().for_each(&mut op);
    if !rest.is_empty() {
        let mut padded = [pad; WIDE];
        padded[..rest.len()].copy_from_slice(rest);
        op(&mut padded);
        rest.copy_from_slice(&padded[..rest.len()]);
    }
}

/// The sum of sixteen lanes, by halves: each step is one vector addition.
#[inline(always)]
pub(crate) fn total(lanes: [f32; WIDE]) -> f32 {
    let (mut eight, mut four) = ([0.0; 8], [0.0; 4]);
    for i in 0..8 {
        eight[i] = lanes[i] + lanes[i + 8];
    }
    for i in 0..4 {
        four[i] = eight[i] + eight[i + 4];
    }
    (four[0] + four[2]) + (four[1] + four[3])
}

/// `Σ op(x, y)`, added up in sixteen interleaved lanes. For use within [`simd`].
#[inline(always)]
pub(crate) fn sum_by(xs: &[f32], ys: &[f32], op: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; WIDE];
    let ((xs, last_xs), (ys, last_ys)) = (xs.as_chunks::<WIDE>(), ys.as_chunks::<WIDE>());
    for (xs, ys) in xs.iter().zip(ys) {
        for i in 0..WIDE {
            lanes[i] += op(xs[i], ys[i]);
        }
    }
    for ((lane, x), y) in lanes.iter_mut().zip(last_xs).zip(last_ys) {
        *lane += op(*x, *y);
    }
    total(lanes)
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

/// Values aligned to a cache line, so no vector crosses two lines.
#[derive(Debug)]
pub struct Aligned {
    values: Vec<f32>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// Zeros.
    pub fn new(n: usize) -> Self {
        // SAFETY: all are written.
        unsafe { Self::filled(n, |values| values.fill(MaybeUninit::new(0.0))) }
    }

    /// The values that `write` writes.
    ///
    /// # Safety
    /// `write` must write every value.
    pub(crate) unsafe fn filled(n: usize, write: impl FnOnce(&mut [MaybeUninit<f32>])) -> Self {
        const LINE: usize = 64;
        const ROOM: usize = LINE / size_of::<f32>();
        let mut values: Vec<f32> = Vec::with_capacity(n + ROOM);
        let start = values.as_ptr().align_offset(LINE).min(ROOM);
        let (before, rest) = values.spare_capacity_mut()[..n + ROOM].split_at_mut(start);
        let (own, behind) = rest.split_at_mut(n);
        before.fill(MaybeUninit::new(0.0));
        write(own);
        behind.fill(MaybeUninit::new(0.0));
        // SAFETY: the parts before and after are written above, and the caller ensures it for the middle.
        unsafe { values.set_len(n + ROOM) };
        Self { values, start, len: n }
    }
}

impl Clone for Aligned {
    fn clone(&self) -> Self {
        let mut copy = Self::new(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[self.start..][..self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[self.start..][..self.len]
    }
}
