//! Linear layers, convolutions and pooling for inference. The products can skip inputs that are 0, with the same bits.
//!
//! Each output is a chain of fused multiply-adds. It starts at the bias and takes the inputs in a fixed order. An input of
//! `+0` or `−0` times a finite weight changes nothing but the sign of a zero sum, and the last step adds `+0`, which makes
//! that sign positive. So the chain over all inputs and the chain over the nonzero inputs give the same bits, also with NaN
//! and infinite inputs. Weights must be finite, because `0 · ∞` is NaN.
//!
//! Feature maps are stored pixel by pixel, `(H, W, C)`, so that one input is multiplied with the weights of all output
//! channels at once.
//!
//! ```
//! use taper_kernels::inference::{Active, LinearRows};
//!
//! let layer = LinearRows::new(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[0.5, -0.5])?;
//! let (mut dense, mut sparse) = (vec![0.0; layer.padded()], vec![0.0; layer.padded()]);
//! layer.dense(&[1.0, 0.0, -1.0], &mut dense)?;
//! let mut active = Active::default();
//! active.push(&[1.0, 0.0, -1.0], 3);
//! assert_eq!(active.row(0), (&[0, 2][..], &[1.0, -1.0][..]));
//! layer.sparse(&active, &mut sparse)?;
//! assert_eq!(dense[..2], [-1.5, -2.5]);
//! assert_eq!(sparse[..2], dense[..2]);
//! # Ok::<(), taper_kernels::Error>(())
//! ```

mod active;
mod conv;
mod elementwise;
mod linear;

pub use crate::simd::Aligned;
pub use active::Active;
pub use conv::ConvRows;
pub use elementwise::{Windows, apply, scale_shift};
pub use linear::LinearRows;

use crate::error::Error;
use crate::simd::simd;

fn finite(what: &str, values: &[f32]) -> Result<(), Error> {
    match values.iter().find(|x| !x.is_finite()) {
        None => Ok(()),
        Some(x) => Err(Error::Argument(format!("{what}: expected finite values, found {x}"))),
    }
}

/// Replaces −0 by +0.
fn finish(sums: &mut [f32]) {
    simd(
        #[inline(always)]
        || sums.iter_mut().for_each(|sum| *sum += 0.0),
    );
}

/// Removes the padding of `n` rows of `padded` values: keeps the first `width` values of each row.
fn pack(values: &mut [f32], n: usize, padded: usize, width: usize) {
    if width < padded {
        for row in 1..n {
            values.copy_within(row * padded..row * padded + width, row * width);
        }
    }
}
