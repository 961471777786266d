//! Training and evaluation: two verbs, optimisers whose state can be read, schedules, weight files, and checkpoints.
//!
//! The user holds the loop: early stopping, checkpoints and progress are plain Rust around [`train_epoch`]
//! and [`evaluate`]. Batches are any iterator, so `.inspect(..)` draws a progress bar and `.take_while(..)`
//! stops early. [`fit`] is that loop written down once.
//!
//! ```
//! use candle_core::Device;
//! use taper_hooks::{Recorder, rng};
//! use taper_nn::{Mlp, MlpConfig, Params};
//! use taper_train::{Optimizer, OptimizerConfig, Rule, evaluate, train_epoch};
//!
//! let data = taper_data::digits()?;
//! let params = Params::new(1, &Device::Cpu);
//! let net = Mlp::new(&MlpConfig { inputs: 64, widths: vec![32], ..Default::default() }, params.builder())?;
//! let mut optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(Rule::SGD, 0.1))?;
//! let (mut rng, mut live, mut frozen) = (rng(2), Recorder::new(), Recorder::new());
//! for _epoch in 1..=5 {
//!     let batches = data.train.shuffled(&mut rng, 32);
//!     train_epoch(&net, &mut optimizer, batches, &mut live, &mut rng)?;
//!     let test = evaluate(&net, data.test.batches(360), &mut frozen)?;
//!     let layers = frozen.finish();
//!     println!("{} {:.3} zeros", test.score.primary(), layers[0].zero_fraction);
//! }
//! assert!(evaluate(&net, data.test.batches(360), &mut ())?.score.primary().value > 0.85);
//! # Ok::<(), taper_train::Error>(())
//! ```

mod awake;
mod checkpoint;
mod epoch;
mod error;
mod fault;
mod fit;
mod keep;
mod optimizer;
mod rules;
mod schedule;
mod weights;

pub use checkpoint::{Checkpoint, Checkpoints, Point};
pub use epoch::{Progress, evaluate, not_finite, train_batches, train_epoch};
pub use error::{Error, Result};
pub use fault::OnNonFinite;
pub use fit::{Fit, fit};
pub use keep::Keep;
pub use optimizer::{Optimizer, OptimizerConfig, OptimizerState};
pub use rules::parse_rule;
pub use schedule::Schedule;
pub use taper_kernels::{Rule, cross_entropy};
pub use taper_report::Place;
pub use weights::{load_weights, save_weights, weight_shapes};
