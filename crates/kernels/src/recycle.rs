use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};

/// Blocks from this size on are recycled.
const SMALLEST: usize = 1 << 14;
/// Sizes are rounded up to eight steps an octave, so that at most an eighth of a block is wasted.
const STEPS: usize = 8;
/// Octaves from [`SMALLEST`] on.
const OCTAVES: usize = 22;
/// Blocks are aligned to this; requests for more go to the system.
const ALIGN: usize = 64;

/// A global allocator that keeps large blocks for the next step instead of giving them back to the system.
///
/// A training step frees what the next one asks for again: activations and their gradients, many megabytes
/// each. The system's allocator returns such blocks to the kernel, and a CPU then spends more time on page
/// faults than on arithmetic. candle allocates every tensor anew, so no library can help this from inside; a
/// program can, with one line:
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: taper_kernels::Recycle = taper_kernels::Recycle::new();
/// # fn main() { assert_eq!(vec![1.0_f32; 100_000].iter().sum::<f32>(), 100_000.0); }
/// ```
///
/// Blocks of 16 KiB and more are kept in lists by size; smaller ones are the system's. Of each size as many are
/// kept as were in use at once.
pub struct Recycle {
    /// The first free block of each size; a free block begins with the address of the next.
    free: [Mutex<Free>; STEPS * OCTAVES],
}

struct Free(*mut u8);

// SAFETY: the pointer is to a block that nobody else knows of while it is in the list, and the list is only
// reached under its lock.
#[allow(unsafe_code)]
unsafe impl Send for Free {}

impl Recycle {
    /// Nothing is kept yet.
    pub const fn new() -> Self {
        Self { free: [const { Mutex::new(Free(null_mut())) }; STEPS * OCTAVES] }
    }
}

impl Default for Recycle {
    fn default() -> Self {
        Self::new()
    }
}

/// The list for a request, and the size of its blocks; `None` if the request is the system's.
fn class(layout: Layout) -> Option<(usize, usize)> {
    let size = layout.size();
    // Rounded up, a size stays below twice what it was: no block is larger than an allocation may be.
    if size < SMALLEST || size > isize::MAX as usize / 2 || layout.align() > ALIGN {
        return None;
    }
    let octave = (size / SMALLEST).ilog2() as usize;
    let step = (SMALLEST << octave) / STEPS;
    // From 0 to 8: a size just below the next octave is rounded up into it.
    let steps = (size - (SMALLEST << octave)).div_ceil(step);
    let class = octave * STEPS + steps;
    (class < STEPS * OCTAVES).then_some((class, (SMALLEST << octave) + steps * step))
}

impl Recycle {
    /// A kept block of this class, if there is one.
    #[allow(unsafe_code)]
    fn take(&self, class: usize) -> Option<*mut u8> {
        let mut free = self.free[class].lock().unwrap_or_else(PoisonError::into_inner);
        let block = free.0;
        if block.is_null() {
            return None;
        }
        // SAFETY: every block in the list begins with the address of the next, written in `dealloc`, and is
        // aligned for it.
        free.0 = unsafe { block.cast::<*mut u8>().read() };
        Some(block)
    }
}

// SAFETY: a block is either handed out by `take`, which removes it from its list, or fresh from the system with
// the size of its class, which is at least what was asked for; it has the alignment of `ALIGN`, which is at least
// what was asked for. `dealloc` sees the same layout as `alloc` did and hence finds the same class.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Recycle {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match class(layout) {
            // SAFETY: the caller's promise is passed on.
            None => unsafe { System.alloc(layout) },
            Some((class, size)) => self.take(class).unwrap_or_else(|| {
                // SAFETY: the size is not 0, and size and alignment are valid as those asked for were.
                unsafe { System.alloc(Layout::from_size_align_unchecked(size, ALIGN)) }
            }),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some((class, size)) = class(layout) else {
            // SAFETY: the caller's promise is passed on.
            return unsafe { System.alloc_zeroed(layout) };
        };
        match self.take(class) {
            Some(block) => {
                // SAFETY: the block has at least this size and is ours.
                unsafe { block.write_bytes(0, layout.size()) };
                block
            }
            // SAFETY: as in `alloc`.
            None => unsafe { System.alloc_zeroed(Layout::from_size_align_unchecked(size, ALIGN)) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match class(layout) {
            // SAFETY: a block without a class came from the system, with this layout.
            None => unsafe { System.dealloc(block, layout) },
            Some((class, _)) => {
                let mut free = self.free[class].lock().unwrap_or_else(PoisonError::into_inner);
                // SAFETY: the block is the caller's to give back, large enough and aligned for an address.
                unsafe { block.cast::<*mut u8>().write(free.0) };
                free.0 = block;
            }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `size`, rounded up to the alignment, does not overflow.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (class(layout), class(wanted)) {
            // SAFETY: the caller's promise is passed on.
            (None, None) => unsafe { System.realloc(block, layout, size) },
            (Some(old), Some(new)) if old == new => block,
            _ => {
                // SAFETY: both blocks are at least as large as what is copied, and they do not overlap.
                unsafe {
                    let new = self.alloc(wanted);
                    if !new.is_null() {
                        new.copy_from_nonoverlapping(block, layout.size().min(size));
                        self.dealloc(block, layout);
                    }
                    new
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(unsafe_code)]
mod tests {
    use super::*;

    #[test]
    fn a_class_holds_what_was_asked_for_and_wastes_at_most_an_eighth() {
        let mut size = 1;
        while size < 1 << 40 {
            let layout = Layout::from_size_align(size, 16).expect("valid");
            match class(layout) {
                None => assert!(!(SMALLEST..1 << 34).contains(&size)),
                Some((_, block)) => assert!(block >= size && block - size <= size / 8, "{size}: {block}"),
            }
            size = size * 9 / 8 + 1;
        }
    }

    #[test]
    fn sizes_of_one_class_share_its_blocks_and_classes_grow_with_size() {
        let at = |size| class(Layout::from_size_align(size, 4).expect("valid")).expect("has a class");
        let mut last = at(SMALLEST);
        for size in (SMALLEST..1 << 20).step_by(997) {
            let own = at(size);
            assert!(own >= last && (own.0 == last.0) == (own.1 == last.1), "{size}");
            last = own;
        }
    }

    #[test]
    fn a_freed_block_is_handed_out_again_and_zeroed_on_request() {
        let recycle = Recycle::new();
        let layout = Layout::from_size_align(100_000, 4).expect("valid");
        // SAFETY: blocks are used within their size and freed once, with their own layout.
        unsafe {
            let first = recycle.alloc(layout);
            first.write_bytes(7, 100_000);
            recycle.dealloc(first, layout);
            let second = recycle.alloc_zeroed(layout);
            assert_eq!(first, second);
            assert!((0..100_000).all(|i| second.add(i).read() == 0));
            second.add(99_999).write(5);
            let third = recycle.realloc(second, layout, 300_000);
            assert_eq!(third.add(99_999).read(), 5);
            assert_eq!(recycle.alloc(layout), second);
        }
    }

    #[test]
    fn threads_never_share_a_block() {
        let recycle = Recycle::new();
        let layout = Layout::from_size_align(SMALLEST, 4).expect("valid");
        std::thread::scope(|scope| {
            for mark in 1..=4_u8 {
                let recycle = &recycle;
                scope.spawn(move || {
                    for _ in 0..2000 {
                        // SAFETY: as above.
                        unsafe {
                            let block = recycle.alloc(layout);
                            block.write_bytes(mark, SMALLEST);
                            assert!((0..SMALLEST).step_by(512).all(|i| block.add(i).read() == mark));
                            recycle.dealloc(block, layout);
                        }
                    }
                });
            }
        });
    }
}
