//! burn on the CPU, for the comparison of speeds: its layers, loss and optimisers on its backend `flex`, or, built
//! with the feature `ndarray`, on `ndarray` with OpenBLAS.

#[path = "../../common/peer.rs"]
mod peer;

use std::fs::File;
use std::io::Read as _;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams, SgdConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor, TensorData};
use clap::{Parser, ValueEnum};
use flate2::read::GzDecoder;
use peer::{Args, Kind, MEAN_AND_STD, Rule, TEST_BATCH};
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;

#[derive(Parser)]
struct All {
    #[command(flatten)]
    args: Args,
    /// flex, or ndarray if built with the feature of that name
    #[arg(long, value_enum, default_value_t = Backend::Flex)]
    backend: Backend,
}

#[derive(ValueEnum, Clone, Copy)]
enum Backend {
    Flex,
    #[cfg(feature = "ndarray")]
    Ndarray,
}

impl Backend {
    fn device(self) -> Device {
        match self {
            Self::Flex => Device::flex(),
            #[cfg(feature = "ndarray")]
            #[allow(deprecated)]
            // burn means to give it up, and has nothing else that goes through a BLAS
            Self::Ndarray => Device::ndarray(),
        }
    }
}

#[derive(Module, Debug)]
struct Net {
    convolutions: Vec<Conv2d>,
    pool: MaxPool2d,
    hidden: Vec<Linear>,
    output: Linear,
    dropout: Dropout,
}

impl Net {
    fn new(args: &Args, device: &Device) -> Result<Self> {
        let (mut convolutions, mut inputs) = (Vec::new(), 28 * 28);
        if args.model == Kind::Cnn {
            convolutions.push(Conv2dConfig::new([1, 32], [3, 3]).init(device));
            convolutions.push(Conv2dConfig::new([32, 64], [3, 3]).init(device));
            inputs = 64 * 12 * 12;
        }
        let mut hidden = Vec::new();
        for width in args.hidden()? {
            hidden.push(LinearConfig::new(inputs, width).init(device));
            inputs = width;
        }
        Ok(Self {
            convolutions,
            pool: MaxPool2dConfig::new([2, 2]).init(),
            hidden,
            output: LinearConfig::new(inputs, 10).init(device),
            dropout: DropoutConfig::new(args.dropout).init(),
        })
    }

    /// `xs`: `(N, 1, 28, 28)`; the result is `(N, 10)`.
    fn forward(&self, mut xs: Tensor<4>) -> Tensor<2> {
        for layer in &self.convolutions {
            xs = relu(layer.forward(xs));
        }
        if !self.convolutions.is_empty() {
            xs = self.dropout.forward(self.pool.forward(xs));
        }
        let mut xs = xs.flatten::<2>(1, 3);
        for layer in &self.hidden {
            xs = self.dropout.forward(relu(layer.forward(xs)));
        }
        self.output.forward(xs)
    }
}

/// The bytes of an IDX file after its header.
fn idx(args: &Args, name: &str, header: usize) -> Result<Vec<u8>> {
    let path = args.data.join(format!("{name}.gz"));
    let mut bytes = Vec::new();
    let read = File::open(&path).and_then(|file| GzDecoder::new(file).read_to_end(&mut bytes));
    read.with_context(|| path.display().to_string())?;
    ensure!(bytes.len() > header, "{}: expected an IDX file", path.display());
    Ok(bytes.split_off(header))
}

/// The first `n` images `(N, 1, 28, 28)` and labels `(N)`.
fn tensors(args: &Args, name: &str, n: usize, device: &Device) -> Result<(Tensor<4>, Tensor<1, Int>)> {
    let (mean, std) = MEAN_AND_STD;
    let pixels = idx(args, &format!("{name}-images-idx3-ubyte"), 16)?;
    let labels = idx(args, &format!("{name}-labels-idx1-ubyte"), 8)?;
    let n = n.min(labels.len());
    ensure!(pixels.len() >= n * 28 * 28, "{}: fewer images than labels", args.data.display());
    let pixels: Vec<f32> =
        pixels.into_iter().take(n * 28 * 28).map(|x| (f32::from(x) / 255.0 - mean) / std).collect();
    let labels: Vec<i32> = labels.into_iter().take(n).map(i32::from).collect();
    Ok((
        Tensor::from_data(TensorData::new(pixels, [n, 1, 28, 28]), device),
        Tensor::from_data(TensorData::new(labels, [n]), device),
    ))
}

/// The share of the samples that the network gets right.
fn accuracy(net: &Net, images: &Tensor<4>, labels: &Tensor<1, Int>) -> f64 {
    let ([n], mut correct) = (labels.dims(), 0);
    for start in (0..n).step_by(TEST_BATCH) {
        let end = n.min(start + TEST_BATCH);
        let logits = net.forward(images.clone().slice([start..end]));
        let right = logits.argmax(1).flatten::<1>(0, 1).equal(labels.clone().slice([start..end]));
        correct += right.int().sum().into_scalar::<i64>();
    }
    correct as f64 / n as f64
}

fn main() -> ExitCode {
    peer::exit_code(run(&All::parse()))
}

fn run(All { args, backend }: &All) -> Result<()> {
    args.hidden()?;
    args.set_threads(&["RAYON_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MATMUL_NUM_THREADS"])?;
    let plain = backend.device();
    let device = plain.clone().autodiff();
    device.seed(0);
    let (images, labels) = tensors(args, "train", 60_000, &device)?;
    let (test_images, test_labels) = tensors(args, "t10k", args.test_samples, &plain)?;

    let mut net = Net::new(args, &device)?;
    let loss: CrossEntropyLoss = CrossEntropyLossConfig::new().init(&device);
    let rate = args.learning_rate();
    let mut optimizer = match args.optimizer {
        Rule::Sgd => SgdConfig::new().init(),
        Rule::Adamw => AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(0.01).init(),
    };
    let mut rng = rand::rngs::Xoshiro256PlusPlus::seed_from_u64(0);
    let [n] = labels.dims();
    let mut order: Vec<i32> = (0..n as i32).collect();
    let mut first_batch = None;
    for epoch in 1..=args.epochs {
        let start = Instant::now();
        order.shuffle(&mut rng);
        let (mut total, mut steps) = (0.0, 0);
        for chosen in order[..args.samples].chunks_exact(args.batch_size) {
            let chosen =
                Tensor::<1, Int>::from_data(TensorData::new(chosen.to_vec(), [args.batch_size]), &device);
            let (xs, ys) = (images.clone().select(0, chosen.clone()), labels.clone().select(0, chosen));
            if first_batch.is_none() {
                first_batch = Some(peer::since_start()?);
            }
            let loss = loss.forward(net.forward(xs), ys);
            let gradients = GradientsParams::from_grads(loss.backward(), &net);
            net = optimizer.step(rate, net, gradients);
            total += f64::from(loss.into_scalar::<f32>());
            steps += 1;
        }
        let speed = (steps * args.batch_size) as f64 / start.elapsed().as_secs_f64();
        let accuracy = accuracy(&net.valid(), &test_images, &test_labels);
        args.epoch(epoch, speed, total / f64::from(steps as u32), accuracy);
    }
    args.end(first_batch.unwrap_or(0.0))
}
