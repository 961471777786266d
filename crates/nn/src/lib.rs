//! Layers and models on candle whose activations can be observed.
//!
//! A model implements [`Model`]: its forward pass takes a [`Pass`], which [`Act`] and [`Tap`] call with their values,
//! and which has the mode for [`Dropout`]. The rest is candle: parameters come from a `VarBuilder`, and layers of
//! `candle_nn` work unchanged.
//!
//! ```
//! use candle_core::{Device, Result, Tensor};
//! use candle_nn::{Module, VarBuilder};
//! use taper_nn::{Act, Activation, Dropout, Init, Linear, Model, Params, Pass};
//!
//! struct Net {
//!     fc1: Linear,
//!     act1: Act,
//!     dropout: Dropout,
//!     fc2: candle_nn::Linear,
//! }
//!
//! impl Net {
//!     fn new(vb: VarBuilder) -> Result<Self> {
//!         let selu = Activation::Selu;
//!         Ok(Self {
//!             fc1: Linear::new(784, 100, Init::of(selu), vb.pp("fc1"))?,
//!             act1: Act::new(selu, vb.pp("fc1"))?, // observed under the name `fc1`
//!             dropout: Dropout::matching(selu, 0.1)?,
//!             fc2: candle_nn::linear(100, 10, vb.pp("fc2"))?,
//!         })
//!     }
//! }
//!
//! impl Model for Net {
//!     fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
//!         let xs = self.fc1.forward(&xs.flatten_from(1)?)?;
//!         let xs = self.act1.forward(pass, &xs)?;
//!         self.fc2.forward(&self.dropout.forward(pass, &xs)?)
//!     }
//! }
//!
//! let params = Params::new(1, &Device::Cpu);
//! let net = Net::new(params.builder())?;
//! let logits = net.forward(&mut Pass::eval(&mut ()), &Tensor::zeros((2, 1, 28, 28), candle_core::DType::F32, &Device::Cpu)?)?;
//! assert_eq!(logits.dims(), [2, 10]);
//! assert_eq!(params.names(), ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]);
//! # Ok::<(), candle_core::Error>(())
//! ```

mod act;
mod action;
mod architecture;
mod arrange;
mod batch_norm;
mod cnn;
mod consumers;
mod conv2d;
mod dropout;
mod embedding;
mod init;
mod k_winners;
mod l1;
mod layers;
mod linear;
mod link;
mod mlp;
mod model;
mod names;
mod network;
mod norm;
mod params;
mod sample_shape;
mod sparseout;
mod tap;

pub use act::Act;
pub use architecture::Architecture;
pub use batch_norm::{BatchNorm1d, BatchNorm2d, BatchNormConfig};
pub use cnn::{Cnn, CnnConfig};
pub use conv2d::{Conv2d, Conv2dConfig};
pub use dropout::Dropout;
pub use embedding::Embedding;
pub use init::Init;
pub use k_winners::{KWinners, KWinnersConfig};
pub use l1::l1;
pub use layers::{Layer, Layers};
pub use linear::{Linear, LinearConfig};
pub use link::Link;
pub use mlp::{Mlp, MlpConfig};
pub use model::Model;
pub use names::{layer_names, own_names};
pub use network::Network;
pub use norm::{LayerNorm, RmsNorm};
pub use params::Params;
pub use sample_shape::SampleShape;
pub use sparseout::Sparseout;
pub use tap::Tap;
pub use taper_hooks::{Activation, CustomActivation, Mode, Pass, Units};
pub use taper_kernels::{
    Conv2dGeometry, Mask, add, attention, avg_pool2d, global_avg_pool2d, log_softmax, max_pool2d,
    mean_of_steps, no_grad, self_attention, softmax,
};
