//! Microseconds a sample of one linear layer with all multiplications and with zeros skipped, in turns, on one thread: over the
//! share of zeros, the width and the batch size. `cargo bench -p taper-frozen --bench growth --profile dev`
#![allow(missing_docs)]

use std::time::Instant;

use taper_frozen::{Form, Frozen, Part, Scaling, Sequential, Values};
use taper_nn::Layer;

/// Evenly spread values in `[0, 1)`.
fn spread(n: usize) -> impl Iterator<Item = f32> {
    (1..=n as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / (1_u64 << 24) as f32)
}

/// Medians of microseconds a sample: all multiplications, zeros skipped.
fn measure(width: usize, zeros: f32, batch: usize) -> taper_frozen::Result<[f64; 2]> {
    let weight = spread(width * width).map(|w| w - 0.5).collect();
    let values = Values { name: "fc".into(), outputs: width, inputs: width, weight, ..Default::default() };
    let parts = vec![Part { layer: Layer::Linear, values: Some(values) }];
    let network = Sequential { input: (width, 1, 1), scaling: Scaling::default(), parts };
    let frozen = Frozen::new(&network)?;
    // Several samples take turns: the rows that one of them uses would stay in the caches.
    let sets = (64 / batch).max(2);
    let size = width * batch;
    let xs: Vec<f32> = spread(size * sets).map(|x| if x < zeros { 0.0 } else { x }).collect();
    let mut ys = vec![0.0; size];
    let mut scratch = frozen.scratch(batch);
    let mut times = [vec![], vec![]];
    let calls = (20_000_000 / (width * width * batch)).clamp(3, 1000);
    for _ in 0..7 {
        for (form, times) in [Form::Dense, Form::Best].into_iter().zip(&mut times) {
            for call in 0..=calls {
                let xs = &xs[call % sets * size..][..size];
                let start = Instant::now();
                frozen.run_as(form, xs, &mut ys, &mut scratch)?;
                // The first call finds what the other form left in the caches.
                if call > 0 {
                    times.push(start.elapsed().as_secs_f64() * 1e6 / batch as f64);
                }
            }
        }
    }
    Ok(times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }))
}

fn main() -> taper_frozen::Result<()> {
    println!(
        "{:>6} {:>6} {:>6} {:>10} {:>10} {:>6}",
        "width", "zeros", "batch", "dense", "skipping", "ratio"
    );
    let row = |width: usize, zeros: f32, batch: usize| {
        let [dense, skipping] = measure(width, zeros, batch)?;
        let (percent, ratio) = (100.0 * zeros, dense / skipping);
        println!("{width:>6} {percent:>4.0} % {batch:>6} {dense:>10.2} {skipping:>10.2} {ratio:>6.2}");
        Ok::<(), taper_frozen::Error>(())
    };
    for zeros in [0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99] {
        row(1024, zeros, 1)?;
    }
    for width in [64, 128, 256, 512, 1024, 2048, 4096, 8192] {
        row(width, 0.8, 1)?;
    }
    for zeros in [0.5, 0.8] {
        for batch in [1, 2, 4, 8, 16, 32, 64, 128, 256] {
            row(1024, zeros, batch)?;
        }
    }
    Ok(())
}
