//! Training and evaluation, optimisers with serialisable state, schedules, weight files, and checkpoints.
//!
//! A training step is a closure that returns the loss to minimise, and metrics, for a batch ([`Step`]); [`classify`],
//! [`regress`], [`reconstruct`] and [`binary`] are such closures. The user holds the loop: early stopping, schedules
//! and progress are plain Rust around [`train_epoch`] and [`evaluate`]. Batches are any iterator, so `.inspect(..)`
//! draws a progress bar and `.take_while(..)` stops early. [`fit`] is the simplest loop, and [`Session`] records,
//! interrupts and resumes a loop.
//!
//! ```
//! use candle_core::Device;
//! use taper_hooks::{Recorder, rng};
//! use taper_nn::{Mlp, MlpConfig, Params};
//! use taper_report::Split;
//! use taper_train::{Optimizer, OptimizerConfig, Rule, classify, evaluate, train_epoch};
//!
//! let data = taper_data::digits()?;
//! let params = Params::new(1, &Device::Cpu);
//! let net = Mlp::new(&MlpConfig { inputs: 64, widths: vec![32], ..Default::default() }, params.builder())?;
//! let mut optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(Rule::SGD, 0.1))?;
//! let (step, mut rng) = (classify(&net), rng(2));
//! let (mut in_training, mut in_test) = (Recorder::new(), Recorder::new());
//! for _epoch in 1..=5 {
//!     let batches = data.train.shuffled(&mut rng, 32);
//!     train_epoch(&step, &mut optimizer, batches, &mut in_training, 2)?;
//!     let test = evaluate(&step, Split::Test, data.test.batches(360), &mut in_test)?;
//!     let (trained, tested) = (in_training.finish(), in_test.finish());
//!     println!("{:?} {:.3} zeros, {:.3} in training", test.score.metric("accuracy"), tested[0].zero_fraction, trained[0].zero_fraction);
//! }
//! let score = evaluate(&step, Split::Test, data.test.batches(360), &mut ())?.score;
//! assert!(score.metric("accuracy") > Some(0.85));
//! # Ok::<(), taper_train::Error>(())
//! ```

mod checkpoint;
mod epoch;
mod error;
mod fault;
mod fit;
mod keep;
mod optimizer;
mod optimizer_config;
mod rules;
mod run;
mod same_run;
mod schedule;
mod session;
mod shards;
mod spin;
mod step;
mod steps;
mod threads;
mod units;
mod upkeep;
mod weight_file;
mod weights;
mod window;

pub use checkpoint::{Checkpoint, Checkpoints, Point};
pub use epoch::{Progress, evaluate, flush, train_batches, train_epoch};
pub use error::{BoxError, Error, Result};
pub use fault::OnNonFinite;
pub use fit::{Fit, fit};
pub use keep::Keep;
pub use optimizer::{Optimizer, OptimizerState};
pub use optimizer_config::{OptimizerConfig, ParamGroup};
pub use rules::parse_rule;
pub use run::{AnyStep, Here, NoSpin, StepFn};
pub use same_run::same_run;
pub use schedule::{CustomSchedule, Schedule};
pub use session::{SaveEvery, Session, SessionConfig};
pub use shards::{Group, Shards};
pub use step::{Step, StepError};
pub use steps::{
    BINARY_CROSS_ENTROPY, CROSS_ENTROPY, Classify, MSE, Pair, binary, classify, classify_with, reconstruct,
    regress,
};
pub use taper_data::Shard;
pub use taper_kernels::{Rule, binary_cross_entropy, cross_entropy, mse, soft_cross_entropy};
pub use taper_report::{Fault, Place, Split};
pub use threads::start_threads;
pub use units::{Continual, ContinualConfig, InputMasks, L2Init, Redo, Revive, redo, restart_units};
pub use upkeep::Upkeep;
pub use weights::{
    LoadConfig, Loaded, Misshapen, Origin, load_matching, load_weights, save_weights, weight_origin,
    weight_shapes,
};
