//! CPU kernels for training small networks on candle: custom operations that keep candle's autograd.
//!
//! Every function takes and returns candle tensors. For `f32` on the CPU it runs a kernel of this crate; for other devices
//! and dtypes it runs its *twin*, the same formula in candle operations, which the tests compare the kernel with. Kernels
//! choose their instructions at run time, so a program built with default flags gets the speed of the CPU it runs on.
//! Elementwise kernels compute the same bits on every CPU; matrix products need not, because they use what the CPU has.
//!
//! Linear layers and convolutions measure how many values of an input or a gradient are zero, and choose between dense
//! products and sums over the others. `RUST_LOG=taper_kernels=debug` shows these choices and the density behind them.
//!
//! Reductions have a fixed order: the same input gives the same bits with any number of threads.
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use taper_kernels::{Activation, activate};
//!
//! let xs = Var::new(&[-1.0_f32, 0.0, 2.0, f32::NAN], &Device::Cpu)?;
//! let ys = activate(&xs, Activation::Relu)?;
//! let gradient = ys.sum_all()?.backward()?.get(&xs).unwrap().to_vec1::<f32>()?;
//! assert_eq!(gradient[..3], [0.0, 0.0, 1.0]);
//! assert!(ys.to_vec1::<f32>()?[3].is_nan()); // a broken network must not look sparse
//! # Ok::<(), candle_core::Error>(())
//! ```

#![deny(unsafe_op_in_unsafe_fn)]
// The only crate with unsafe code: every block states why it is sound.
#![allow(unsafe_code)]
#![warn(clippy::undocumented_unsafe_blocks)]

mod activation;
mod autograd;
#[cfg(feature = "cuda")]
mod cuda;
mod device;
mod error;
mod gemm;
pub mod inference;
mod math;
mod ops;
mod optim;
mod parallel;
mod simd;
mod sparse;
pub mod stats;
mod values;

pub use activation::{Activation, CustomActivation, SELU_ALPHA, SELU_LAMBDA};
pub use autograd::{
    Gradients, Tape, VarGradient, all_finite, first_non_finite, no_grad, non_finite_flag, off_the_record,
    record,
};
pub use device::{check_stream, cuda};
pub use error::Error;
pub use ops::activate::{activate, derivatives, prelu};
pub use ops::add::add;
pub use ops::attention::{Mask, attention, self_attention};
pub use ops::batch_norm::{Moments, batch_norm, batch_norm_with};
pub use ops::conv2d::{Conv2dGeometry, conv2d, conv2d_act};
pub use ops::cross_entropy::{count_correct, cross_entropy};
pub use ops::dropout::{Draw, alpha_dropout, dropout};
pub use ops::embedding::embedding;
pub use ops::grouped_linear::grouped_linear;
pub use ops::linear::{linear, linear_act};
pub use ops::loss::{binary_cross_entropy, mse, soft_cross_entropy};
pub use ops::mean::mean_of_steps;
pub use ops::norm::{layer_norm, rms_norm};
pub use ops::pool2d::{avg_pool2d, global_avg_pool2d, max_pool2d};
pub use ops::softmax::{log_softmax, softmax};
pub use optim::{Norms, Rule, Slots};
pub use simd::simd;
pub use values::with_values;

/// The same formulas in candle's own operations, with candle's autograd: what the kernels are tested
/// against, and what runs on other devices and for other dtypes.
pub mod twin {
    pub use crate::ops::activate::twin::{activate, prelu};
    pub use crate::ops::add::twin::add;
    pub use crate::ops::attention::twin::{attention, self_attention};
    pub use crate::ops::batch_norm::twin::{batch_norm, batch_norm_with};
    pub use crate::ops::conv2d::twin::conv2d;
    pub use crate::ops::cross_entropy::twin::cross_entropy;
    pub use crate::ops::dropout::twin::{alpha_dropout, dropout};
    pub use crate::ops::embedding::twin::embedding;
    pub use crate::ops::grouped_linear::twin::grouped_linear;
    pub use crate::ops::linear::twin::linear;
    pub use crate::ops::loss::twin::{binary_cross_entropy, mse, soft_cross_entropy};
    pub use crate::ops::mean::twin::mean_of_steps;
    pub use crate::ops::norm::twin::{layer_norm, rms_norm};
    pub use crate::ops::pool2d::twin::{avg_pool2d, max_pool2d};
    pub use crate::ops::softmax::twin::{log_softmax, softmax};
    pub use crate::optim::twin::step;
}
