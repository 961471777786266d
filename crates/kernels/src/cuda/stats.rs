//! The statistics of a batch on a CUDA device, in two launches without waiting.

use candle_core::{DType, Result, Tensor};

use super::{Arg, STATS, address, code, launch, unwritten};
use crate::stats::device::{Observed, Window};

/// Adds a batch to a window; `false` if its activation function has no kernel.
pub fn add(batch: &Observed<'_>, window: &Window, faults: &Tensor) -> Result<bool> {
    let (f, p) = match batch.f.map(code) {
        Some(Some(code)) => code,
        Some(None) => return Ok(false),
        None => (-1, 0.0),
    };
    let ys = batch.ys.detach().contiguous()?;
    let xs = batch.xs.map_or(Ok(ys.clone()), |xs| xs.detach().contiguous())?;
    let (units, positions) = (batch.units, batch.positions);
    let size = units * positions;
    let samples = ys.elem_count() / size;
    let device = ys.device().as_cuda_device()?;
    /// Sums per sample.
    const PARTIAL: usize = 8;
    let partials = unwritten(samples * PARTIAL, DType::F64, ys.device())?;
    let run = |name: &str, grid, args: &[Arg]| {
        // SAFETY: `xs` and `ys` are `samples` times `size` values; counts and sums have the layout of `Window`, which those
        // of `cuda/stats.cu` have, for these units.
        unsafe { launch(device, &STATS, name, grid, args) }
    };
    let (xs, y, counts, sums) = (
        || address::<f32>(&xs),
        || address::<f32>(&ys),
        || address::<i64>(&window.counts),
        || address::<f64>(&window.sums),
    );
    if window.values == 0 {
        run("set_shift", (1, 1), &[sums()?, y()?])?;
    }
    let own = || address::<f64>(&partials);
    let threads = (size / 8).next_power_of_two().clamp(64, 512);
    let args = [
        xs()?,
        y()?,
        Arg::U32(size),
        Arg::I32(f),
        Arg::F32(p),
        counts()?,
        sums()?,
        own()?,
        address::<i64>(faults)?,
    ];
    run("by_sample", (samples, threads), &args)?;
    let (name, grid, a, b) = match batch.units_last || positions == 1 {
        true => ("by_row", (units.div_ceil(32) + 1, 1024), samples * positions, units),
        false => ("by_plane", (units + 1, 512), units, positions),
    };
    let args = [
        xs()?,
        y()?,
        Arg::U32(samples),
        Arg::U32(a),
        Arg::U32(b),
        Arg::I32(f),
        Arg::F32(p),
        counts()?,
        sums()?,
        own()?,
    ];
    run(name, grid, &args)?;
    Ok(true)
}
