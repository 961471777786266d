use taper_kernels::inference::{Active, Aligned, ConvRows, LinearRows, Windows};

use crate::error::argument;
use crate::frozen::{Form, Step};
use crate::{Frozen, Result};

/// A linear layer skips zeros up to this share of nonzero inputs: see `docs/performance.md`.
const LIMIT: f64 = 0.95;
/// The same from [`BATCH`] samples on, because a dense product then uses each weight several times.
const LIMIT_IN_BATCH: f64 = 0.4;
const BATCH: usize = 4;

/// The memory of calls of [`Frozen::run`], and the counts of the last call.
#[derive(Debug)]
pub struct Scratch {
    batch: usize,
    /// The inputs of the next layer: the first `len` values.
    from: Aligned,
    len: usize,
    /// Room for its outputs.
    to: Aligned,
    active: Active,
    work: Vec<Work>,
}

/// Counts of a linear layer or a convolution in a call of [`Frozen::run`], over all samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Name of the layer, as in the network's file.
    pub name: String,
    /// Number of inputs.
    pub inputs: u64,
    /// Number of inputs that are 0. [`Form::Dense`] does not count them.
    pub zeros: u64,
    /// Number of multiplications without skipping.
    pub multiplications: u64,
    /// Number of multiplications done.
    pub done: u64,
}

impl Scratch {
    pub(crate) fn new(frozen: &Frozen, batch: usize) -> Self {
        let (values, rows, listed) = sizes(frozen, batch);
        Self {
            batch,
            from: Aligned::new(values),
            len: 0,
            to: Aligned::new(values),
            active: Active::with_capacity(rows, listed),
            work: frozen.products.iter().map(|name| Work { name: name.clone(), ..Work::default() }).collect(),
        }
    }

    /// The batch size: number of samples that are computed together.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The counts of each linear layer and convolution in the last call.
    pub fn work(&self) -> &[Work] {
        &self.work
    }

    /// Begins a call.
    pub(crate) fn begin(&mut self, frozen: &Frozen) -> Result<()> {
        let is_own = self.work.len() == frozen.products.len()
            && self.work.iter().zip(&frozen.products).all(|(work, name)| work.name == *name)
            && self.from.len() >= sizes(frozen, self.batch).0;
        if !is_own {
            return argument(
                "scratch: expected the scratch of this network, found another: call Frozen::scratch"
                    .to_string(),
            );
        }
        for work in &mut self.work {
            (work.inputs, work.zeros, work.multiplications, work.done) = (0, 0, 0, 0);
        }
        Ok(())
    }

    pub(crate) fn load(&mut self, xs: &[f32]) {
        self.from[..xs.len()].copy_from_slice(xs);
        self.len = xs.len();
    }

    pub(crate) fn values(&self) -> &[f32] {
        &self.from[..self.len]
    }

    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        &mut self.from[..self.len]
    }

    /// Transposes the matrix of each sample.
    pub(crate) fn transpose(&mut self, (rows, columns): (usize, usize)) {
        let size = rows * columns;
        for (from, to) in self.from[..self.len].chunks_exact(size).zip(self.to.chunks_exact_mut(size)) {
            for (i, to) in to.iter_mut().enumerate() {
                *to = from[i % rows * columns + i / rows];
            }
        }
        std::mem::swap(&mut self.from, &mut self.to);
    }

    pub(crate) fn linear(
        &mut self,
        layer: &LinearRows,
        form: Form,
        samples: usize,
        product: usize,
    ) -> Result<()> {
        let xs = &self.from[..self.len];
        let work = &mut self.work[product];
        let all = (xs.len() * layer.outputs()) as u64;
        let mut is_dense = form == Form::Dense;
        if !is_dense {
            self.active.clear();
            self.active.push(xs, layer.inputs());
            work.zeros += (xs.len() - self.active.len()) as u64;
            let limit = if samples < BATCH { LIMIT } else { LIMIT_IN_BATCH };
            is_dense = form == Form::Best && self.active.len() as f64 > limit * xs.len() as f64;
        }
        match is_dense {
            true => layer.dense(xs, &mut self.to)?,
            false => layer.sparse(&self.active, &mut self.to)?,
        }
        work.inputs += xs.len() as u64;
        work.multiplications += all;
        work.done += if is_dense { all } else { (self.active.len() * layer.outputs()) as u64 };
        self.end(samples * layer.outputs());
        Ok(())
    }

    pub(crate) fn conv(
        &mut self,
        layer: &ConvRows,
        size: (usize, usize),
        form: Form,
        samples: usize,
        product: usize,
    ) -> Result<()> {
        let xs = &self.from[..self.len];
        let out = layer.size(size).map_or(0, |(h, w)| h * w * layer.outputs());
        let work = &mut self.work[product];
        for (i, xs) in xs.chunks_exact(xs.len() / samples).enumerate() {
            let to = &mut self.to[i * out..];
            let (active, done) = layer.run(xs, size, form != Form::Dense, &mut self.active, to)?;
            work.zeros += (xs.len() - active) as u64;
            work.done += done;
        }
        work.inputs += xs.len() as u64;
        work.multiplications += samples as u64 * layer.multiplications(size);
        self.end(samples * out);
        Ok(())
    }

    pub(crate) fn pool(
        &mut self,
        windows: Windows,
        samples: usize,
        op: impl Fn(&Windows, &[f32], &mut [f32]) -> std::result::Result<(), taper_kernels::Error>,
    ) -> Result<()> {
        let (size, (h, w), (.., c)) = (self.len / samples, windows.size(), windows.image);
        let out = h * w * c;
        for (xs, ys) in self.from[..self.len].chunks_exact(size).zip(self.to.chunks_exact_mut(out)) {
            op(&windows, xs, ys)?;
        }
        self.end(samples * out);
        Ok(())
    }

    /// The outputs become the inputs of the next layer.
    fn end(&mut self, len: usize) {
        std::mem::swap(&mut self.from, &mut self.to);
        self.len = len;
    }
}

/// Sizes of a scratch: the values of the widest layer, and the rows and values of [`Active`].
fn sizes(frozen: &Frozen, batch: usize) -> (usize, usize, usize) {
    let (mut values, mut rows, mut listed) = (frozen.inputs() * batch, batch, 0);
    for step in &frozen.steps {
        match step {
            Step::Linear(layer) => {
                values = values.max(layer.padded() * batch);
                listed = listed.max(layer.inputs() * batch);
            }
            Step::Conv { rows: layer, size } => {
                let out = layer.size(*size).unwrap_or_default();
                values = values.max(out.0 * out.1 * layer.padded() * batch);
                let (pixels, inputs) = layer.listed(size.1);
                (rows, listed) = (rows.max(pixels), listed.max(inputs));
            }
            _ => {}
        }
    }
    (values, rows, listed)
}
