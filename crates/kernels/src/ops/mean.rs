use candle_core::{Result, Shape, Tensor};

use crate::autograd::{Backward, Gradient, Op, apply, by_candle};
use crate::error::argument;
use crate::parallel::{CHUNK, filled};
use crate::simd::simd;
use crate::values::is_fast;

/// The mean over the steps of every sequence, as in a transformer for classification.
///
/// candle's `mean(1)` gives the same values up to rounding; it runs on one thread.
///
/// # Shapes
/// `xs`: `(N, T, F)`; the result is `(N, F)`.
///
/// # Errors
/// When the sequences have no steps.
pub fn mean_of_steps(xs: &Tensor) -> Result<Tensor> {
    let (n, steps, features) = xs.dims3()?;
    if steps == 0 {
        return argument(format!("mean_of_steps: expected at least one step, found shape {:?}", xs.dims()));
    }
    if is_fast(&[xs]) {
        apply(MeanOfSteps { n, steps, features }, &[xs])
    } else {
        by_candle(twin::mean_of_steps(xs))
    }
}

struct MeanOfSteps {
    n: usize,
    steps: usize,
    features: usize,
}

impl MeanOfSteps {
    fn sequence(&self) -> usize {
        self.steps * self.features
    }

    /// Sequences for one task.
    fn group(&self) -> usize {
        (CHUNK / self.sequence().max(1)).max(1)
    }
}

impl Op for MeanOfSteps {
    fn name(&self) -> &'static str {
        "mean_of_steps"
    }

    fn shape(&self) -> Shape {
        (self.n, self.features).into()
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        let (xs, width, factor) = (inputs[0], self.features.max(1), (self.steps as f32).recip());
        // SAFETY: the first step of each sequence writes all its means.
        unsafe {
            filled(self.n * self.features, self.group() * width, |start, means| {
                simd(
                    #[inline(always)]
                    || {
                        let sequences = xs[start * self.steps..].chunks_exact(self.sequence());
                        for (means, sequence) in means.chunks_exact_mut(width).zip(sequences) {
                            let (first, rest) = sequence.split_at(width);
                            means.iter_mut().zip(first).for_each(
                                #[inline(always)]
                                |(mean, x)| {
                                    mean.write(*x);
                                },
                            );
                            // All of them are written above.
                            let means = means.assume_init_mut();
                            for step in rest.chunks_exact(width) {
                                means.iter_mut().zip(step).for_each(
                                    #[inline(always)]
                                    |(mean, x)| *mean += x,
                                );
                            }
                            means.iter_mut().for_each(
                                #[inline(always)]
                                |mean| *mean *= factor,
                            );
                        }
                    },
                )
            })
        }
    }

    fn backward(&self, Backward { grad_ys, .. }: Backward<'_>) -> Vec<Option<Gradient>> {
        let (grads, width, factor) =
            (grad_ys.into_dense(), self.features.max(1), (self.steps as f32).recip());
        // SAFETY: every step of each sequence is written.
        let grad_xs = unsafe {
            filled(self.n * self.sequence(), self.group() * self.sequence(), |start, out| {
                simd(
                    #[inline(always)]
                    || {
                        let grads = grads[start / self.steps..].chunks_exact(width);
                        for (sequence, grads) in out.chunks_exact_mut(self.sequence()).zip(grads) {
                            for step in sequence.chunks_exact_mut(width) {
                                step.iter_mut().zip(grads).for_each(
                                    #[inline(always)]
                                    |(out, grad)| {
                                        out.write(factor * grad);
                                    },
                                );
                            }
                        }
                    },
                )
            })
        };
        vec![Some(Gradient::Dense(grad_xs))]
    }
}

pub(crate) mod twin {
    use super::*;

    /// See [`crate::mean_of_steps`].
    pub fn mean_of_steps(xs: &Tensor) -> Result<Tensor> {
        xs.mean(1)
    }
}
