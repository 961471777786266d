//! The network of a run, and what is written down about it before it is trained.

use std::sync::{Arc, Once};
use std::time::Instant;

use candle_core::Device;
use serde_json::json;
use taper::data::{self, Dataset};
use taper::nn::{Cnn, CnnConfig, Mlp, MlpConfig, Model, Params};
use taper::report::Run;
use taper::train::{self, CROSS_ENTROPY, LoadConfig, OptimizerConfig};
use taper_examples::{Screen, Stop, Stored, locked_version};

use crate::cells::Cell;
use crate::options::{Args, Kind, name_of};

/// What all runs of a grid share.
pub struct Shared<'a> {
    pub args: &'a Args,
    pub data: &'a Dataset,
    pub held_back: Option<data::Split>,
    pub optimizer: OptimizerConfig,
    pub device: &'a Device,
    pub screen: &'a Screen,
    pub stop: Arc<Stop>,
    pub checksum: String,
    /// The options that lead to these runs.
    pub command: &'a [String],
    /// What `--resume` found.
    pub stored: Option<&'a Stored>,
    /// When the program was started, and whether a batch was trained on since.
    pub started: Instant,
    pub first_batch: Once,
}

/// A network before training, and what is written down about it.
pub struct Network {
    pub run: Run,
    pub params: Params,
    pub model: Box<dyn Model + Send + Sync>,
}

/// The network of one cell.
pub fn network(shared: &Shared<'_>, cell: &Cell) -> train::Result<Network> {
    let (args, data) = (shared.args, shared.data);
    let input @ (c, h, w) = data.train.shape();
    let (inputs, classes) = (c * h * w, data.classes);
    let widths = match args.model {
        Kind::Mlp => args.widths.clone().unwrap_or(vec![512, 256]),
        Kind::Cnn => args.widths.clone().unwrap_or(vec![128]),
        Kind::Linear => vec![],
    };
    let join = |sizes: &[usize]| sizes.iter().map(|n| format!("{n}-")).collect::<String>();
    let (activation, init, dropout) = (cell.activation, args.init, cell.dropout);
    let text = match args.model {
        Kind::Cnn => format!("cnn {}pool-{}{classes}", join(&args.channels), join(&widths)),
        kind => format!("{} {inputs}-{}{classes}", name_of(kind), join(&widths)),
    };
    let params = Params::of_run(cell.seed, shared.device);
    let model: Box<dyn Model + Send + Sync> = match args.model {
        Kind::Cnn => {
            let channels = args.channels.clone();
            let rest = CnnConfig::default();
            let config = CnnConfig { input, channels, widths, classes, activation, init, dropout, ..rest };
            Box::new(Cnn::new(&config, params.builder())?)
        }
        _ => {
            let config = MlpConfig { inputs, widths, classes, activation, init, dropout };
            Box::new(Mlp::new(&config, params.builder())?)
        }
    };
    let run = Run {
        name: cell.name.clone(),
        dataset: data.name.clone(),
        model: text,
        labels: [("act".into(), activation.to_string().into()), ("dropout".into(), dropout.into())].into(),
        loss: CROSS_ENTROPY.into(),
        seed: cell.seed,
        parameters: params.count() as u64,
        epochs: args.epochs,
        config: config(shared),
    };
    Ok(Network { run, params, model })
}

/// Sets the weights that a run starts from, if they come from a file.
pub fn load_start(args: &Args, params: &Params) -> train::Result<()> {
    let config = LoadConfig { convert: args.convert, ..LoadConfig::default() };
    args.load.as_ref().map_or(Ok(()), |path| config.load(params, path).map(drop))
}

/// Everything that is needed to repeat a run and that a [`Run`] does not say itself.
fn config(shared: &Shared<'_>) -> serde_json::Value {
    let Shared { args, data, optimizer, .. } = shared;
    json!({
        "command": shared.command,
        "batch_size": args.batch_size,
        "optimizer": format!("{:?}", optimizer.rule),
        "learning_rate": optimizer.learning_rate,
        "schedule": args.schedule,
        "clip_norm": optimizer.clip_norm,
        "max_norm": optimizer.max_norm,
        "on_nonfinite": optimizer.on_nonfinite.to_string(),
        "init": args.init.map_or("by activation".to_string(), |init| init.to_string()),
        "scale": args.scale.to_string(),
        "data": { "mean": data.mean, "std": data.std, "train": data.train.len(), "test": data.test.len(), "sha256": shared.checksum },
        "validation": args.validation,
        "load": args.load,
        "device": name_of(args.device),
        "threads": rayon::current_num_threads(),
        "track": name_of(args.track),
        "taper": env!("CARGO_PKG_VERSION"),
        "candle": locked_version("candle-core"),
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
    })
}
