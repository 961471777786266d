//! Plain candle as it comes: layers, loss and optimisers of `candle_nn`, for the comparison of speeds.

#[path = "../../common/peer.rs"]
mod peer;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use candle_core::{D, DType, Device, Tensor};
use candle_nn::{
    AdamW, Conv2d, Conv2dConfig, Dropout, Linear, Module as _, Optimizer, ParamsAdamW, SGD, VarBuilder,
    VarMap, conv2d, linear, loss,
};
use clap::Parser as _;
use peer::{Args, Kind, MEAN_AND_STD, Rule, TEST_BATCH};
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use taper_data::{Choice, ImageSet, Options};

struct Net {
    convolutions: Vec<Conv2d>,
    hidden: Vec<Linear>,
    output: Linear,
    dropout: Option<Dropout>,
}

impl Net {
    fn new(args: &Args, vb: &VarBuilder<'_>) -> Result<Self> {
        let (mut convolutions, mut inputs) = (Vec::new(), 28 * 28);
        if args.model == Kind::Cnn {
            let config = Conv2dConfig::default();
            convolutions.push(conv2d(1, 32, 3, config, vb.pp("conv1"))?);
            convolutions.push(conv2d(32, 64, 3, config, vb.pp("conv2"))?);
            inputs = 64 * 12 * 12;
        }
        let mut hidden = Vec::new();
        for (i, width) in args.hidden()?.into_iter().enumerate() {
            hidden.push(linear(inputs, width, vb.pp(format!("fc{}", i + 1)))?);
            inputs = width;
        }
        let output = linear(inputs, 10, vb.pp("output"))?;
        let dropout = (args.dropout > 0.0).then(|| Dropout::new(args.dropout as f32));
        Ok(Self { convolutions, hidden, output, dropout })
    }

    /// `xs`: `(N, 1, 28, 28)`; the result is `(N, 10)`.
    fn forward(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        let drop = |xs: Tensor| match &self.dropout {
            Some(dropout) => dropout.forward(&xs, train),
            None => Ok(xs),
        };
        let mut xs = xs.clone();
        for layer in &self.convolutions {
            xs = layer.forward(&xs)?.relu()?;
        }
        if !self.convolutions.is_empty() {
            xs = drop(xs.max_pool2d(2)?)?;
        }
        xs = xs.flatten_from(1)?;
        for layer in &self.hidden {
            xs = drop(layer.forward(&xs)?.relu()?)?;
        }
        Ok(self.output.forward(&xs)?)
    }
}

/// Either optimiser: the trait of `candle_nn` cannot be boxed.
enum Steps {
    Sgd(SGD),
    AdamW(AdamW),
}

impl Steps {
    fn backward_step(&mut self, loss: &Tensor) -> candle_core::Result<()> {
        match self {
            Self::Sgd(optimizer) => optimizer.backward_step(loss),
            Self::AdamW(optimizer) => optimizer.backward_step(loss),
        }
    }
}

/// Images `(N, 1, 28, 28)` and labels `(N)`.
fn tensors(split: &ImageSet) -> Result<(Tensor, Tensor)> {
    let (n, device) = (split.len(), Device::Cpu);
    let (mean, std) = MEAN_AND_STD;
    let pixels: Vec<f32> = split.pixels().iter().map(|&x| (f32::from(x) / 255.0 - mean) / std).collect();
    let labels = split.labels().to_vec();
    Ok((Tensor::from_vec(pixels, (n, 1, 28, 28), &device)?, Tensor::from_vec(labels, n, &device)?))
}

/// The share of the samples that the network gets right.
fn accuracy(net: &Net, images: &Tensor, labels: &Tensor) -> Result<f64> {
    let (n, mut correct) = (labels.dim(0)?, 0.0);
    for start in (0..n).step_by(TEST_BATCH) {
        let take = TEST_BATCH.min(n - start);
        let logits = net.forward(&images.narrow(0, start, take)?, false)?;
        let right = logits.argmax(D::Minus1)?.eq(&labels.narrow(0, start, take)?)?;
        correct += f64::from(right.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?);
    }
    Ok(correct / n as f64)
}

fn main() -> ExitCode {
    peer::exit_code(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    args.hidden()?;
    args.set_threads(&["RAYON_NUM_THREADS"])?;
    let options = Options { data_dir: Some(args.data.clone()), download: false, ..Options::default() };
    let data = taper_data::load(Choice::Mnist, &options, &mut |_| ())?;
    let (images, labels) = tensors(&data.train)?;
    let (test_images, test_labels) = tensors(&data.test.take(args.test_samples))?;

    let device = Device::Cpu;
    let variables = VarMap::new();
    let net = Net::new(args, &VarBuilder::from_varmap(&variables, DType::F32, &device))?;
    let lr = args.learning_rate();
    let mut optimizer = match args.optimizer {
        Rule::Sgd => Steps::Sgd(SGD::new(variables.all_vars(), lr)?),
        Rule::Adamw => {
            let config = ParamsAdamW { lr, weight_decay: 0.01, ..ParamsAdamW::default() };
            Steps::AdamW(AdamW::new(variables.all_vars(), config)?)
        }
    };
    let mut rng = rand::rngs::Xoshiro256PlusPlus::seed_from_u64(0);
    let mut order: Vec<u32> = (0..labels.dim(0)? as u32).collect();
    let mut first_batch = None;
    for epoch in 1..=args.epochs {
        let start = Instant::now();
        order.shuffle(&mut rng);
        let (mut total, mut steps) = (0.0, 0);
        for chosen in order[..args.samples].chunks_exact(args.batch_size) {
            let chosen = Tensor::new(chosen, &device)?;
            let (xs, ys) = (images.index_select(&chosen, 0)?, labels.index_select(&chosen, 0)?);
            if first_batch.is_none() {
                first_batch = Some(peer::since_start()?);
            }
            let loss = loss::cross_entropy(&net.forward(&xs, true)?, &ys)?;
            optimizer.backward_step(&loss)?;
            total += f64::from(loss.to_scalar::<f32>()?);
            steps += 1;
        }
        let speed = (steps * args.batch_size) as f64 / start.elapsed().as_secs_f64();
        args.epoch(
            epoch,
            speed,
            total / f64::from(steps as u32),
            accuracy(&net, &test_images, &test_labels)?,
        );
    }
    args.end(first_batch.unwrap_or(0.0))
}
