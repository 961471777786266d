use std::time::Instant;

use taper::data::ImageSet;
use taper::frozen::{Form, Frozen, Result};

/// The pixels of all images, in `[0, 1]`: `(N, C, H, W)`.
pub fn pixels(split: &ImageSet) -> Vec<f32> {
    let white = f32::from(split.white());
    split.pixels().iter().map(|pixel| f32::from(*pixel) / white).collect()
}

/// The class with the largest logit; the last one if several are equal.
pub fn argmax(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap_or(0)
}

/// Microseconds per image in calls with `batch` images on one thread, for several networks or forms in alternation.
///
/// # Errors
/// As [`Frozen::run_as`].
pub fn alternately<const N: usize>(
    ways: [(&Frozen, Form); N],
    xs: &[f32],
    batch: usize,
) -> Result<[Vec<f64>; N]> {
    const IMAGES: usize = 200;
    let turns = if batch == 1 { 10 } else { 4 };
    let calls = (IMAGES / batch).max(3);
    let mut memory = ways.map(|(frozen, _)| (frozen.scratch(batch), vec![0.0; frozen.outputs() * batch]));
    let mut times = [const { Vec::new() }; N];
    for turn in 0..turns {
        for (((frozen, form), (scratch, ys)), times) in ways.iter().zip(&mut memory).zip(&mut times) {
            let inputs = frozen.inputs() * batch;
            for call in 0..=calls {
                let at = (turn * calls + call) % (xs.len() / inputs);
                let start = Instant::now();
                frozen.run_as(*form, &xs[at * inputs..][..inputs], ys, scratch)?;
                // The first call is not counted: the caches have the data of another network or form.
                if call > 0 {
                    times.push(start.elapsed().as_secs_f64() * 1e6 / batch as f64);
                }
            }
        }
    }
    Ok(times)
}

/// The quantile `at` in [0, 1]: the median for 0.5.
pub fn quantile(times: &[f64], at: f64) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times[((times.len() - 1) as f64 * at) as usize]
}
