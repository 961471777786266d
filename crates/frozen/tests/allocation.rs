//! A call allocates nothing. The allocator of this program counts, so that its test is alone.
#![allow(clippy::unwrap_used, unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use candle_core::Device;
use taper_frozen::{Form, Frozen, Scaling, Sequential};
use taper_nn::{Cnn, CnnConfig, Params};

static PIECES: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is handed to the system's allocator as it came; what is added is counting.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PIECES.fetch_add(1, Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[test]
fn a_call_allocates_nothing() {
    let params = Params::new(1, &Device::Cpu);
    let config =
        CnnConfig { input: (2, 8, 8), channels: vec![5, 20], widths: vec![30], ..Default::default() };
    Cnn::new(&config, params.builder()).unwrap();
    let scaling = Scaling { mean: 0.1, std: 0.3 };
    let network = Sequential::new(&config.layers(), &params, (2, 8, 8), scaling).unwrap();
    let frozen = Frozen::new(&network).unwrap();
    let (xs, mut ys) = (vec![0.5; 5 * 128], vec![0.0; 50]);
    let mut scratch = frozen.scratch(2);
    for form in [Form::Best, Form::Dense, Form::Sparse] {
        let before = PIECES.load(Relaxed);
        frozen.run_as(form, &xs, &mut ys, &mut scratch).unwrap();
        assert_eq!(PIECES.load(Relaxed), before, "{form:?}");
    }
}
