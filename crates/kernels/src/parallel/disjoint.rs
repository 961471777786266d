use std::marker::PhantomData;
use std::ops::Range;

use crate::simd::prefetch;

/// A slice that is handed out in disjoint parts, one per thread.
#[derive(Clone, Copy)]
pub(crate) struct DisjointSlices<'a> {
    first: *mut f32,
    len: usize,
    values: PhantomData<&'a mut [f32]>,
}

// SAFETY: `part` and `pointer` are the only access to elements, and their callers ensure that no two threads have the
// same.
unsafe impl Send for DisjointSlices<'_> {}
// SAFETY: as above.
unsafe impl Sync for DisjointSlices<'_> {}

impl<'a> DisjointSlices<'a> {
    pub fn of(values: &'a mut [f32]) -> Self {
        // SAFETY: the slice is borrowed for `'a`.
        unsafe { Self::at(values.as_mut_ptr(), values.len()) }
    }

    /// `len` values in uninitialised memory.
    ///
    /// # Safety
    /// There is room for `len` values at `first`, which nobody else uses for `'a`.
    pub unsafe fn at(first: *mut f32, len: usize) -> Self {
        Self { first, len, values: PhantomData }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The elements of a range. Every range of an empty slice is empty; it represents a slot that a rule does not have.
    ///
    /// # Safety
    /// The elements are initialised, and no other reference to them exists while the result lives.
    #[inline(always)]
    pub unsafe fn part(&self, range: Range<usize>) -> &'a mut [f32] {
        if self.len == 0 {
            return &mut [];
        }
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} values", self.len);
        // SAFETY: the range is in bounds, and its elements are the caller's alone.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(range.start), range.len()) }
    }

    /// Prefetches the elements of a range, if it is in bounds.
    #[inline(always)]
    pub fn prefetch(&self, range: Range<usize>) {
        if range.end <= self.len {
            prefetch(self.first.wrapping_add(range.start), range.len());
        }
    }

    /// Points to the first element. A method, so that closures capture the wrapper, which is `Sync`, and not the pointer.
    pub fn pointer(&self) -> *mut f32 {
        self.first
    }
}
