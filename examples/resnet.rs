//! A small residual network with batch normalisation: two blocks of two convolutions, with their input added to their
//! output.
//!
//!     cargo run --release --example resnet
//!     cargo run --release --example resnet -- --dataset mnist --epochs 3
//!     cargo run --release --example resnet -- --resume runs/NAME

use std::process::ExitCode;

use candle_core::Tensor;
use candle_nn::VarBuilder;
use clap::Parser;
use serde::{Deserialize, Serialize};
use taper::data::ImageSet;
use taper::nn::{
    Act, Activation, BatchNorm2d, Conv2d, Conv2dConfig, Conv2dGeometry, Init, Linear, Model, Pass, add,
    global_avg_pool2d, max_pool2d,
};
use taper::train::{CROSS_ENTROPY, classify};
use taper_experiment::{Data, ImageOptions, Options, Result, Setup, Trial};

/// Train a residual network and see what its blocks do.
#[derive(Parser, Serialize, Deserialize)]
#[command(name = "resnet", mut_arg("learning_rate", |arg| arg.default_value("0.003")))]
#[command(mut_arg("dataset", |arg| arg.default_value("digits")))]
#[command(mut_arg("epochs", |arg| arg.default_value("10")), mut_arg("batch_size", |arg| arg.default_value("64")))]
struct Args {
    #[command(flatten)]
    #[serde(flatten)]
    images: ImageOptions,
    #[command(flatten)]
    #[serde(flatten)]
    options: Options,
}

/// Convolution, normalisation and ReLU. The convolution needs no bias, because the normalisation subtracts it.
struct Layer(Conv2d, BatchNorm2d, Act);

impl Layer {
    fn new(inputs: usize, outputs: usize, vb: VarBuilder) -> candle_core::Result<Self> {
        let geometry = Conv2dGeometry { stride: 1, padding: 1 };
        let conv = Conv2dConfig { geometry, bias: false, ..Default::default() };
        let bn = vb.pp("bn");
        Ok(Self(
            Conv2d::new(inputs, outputs, conv, vb.pp("conv"))?,
            BatchNorm2d::new(outputs, Default::default(), bn.clone())?,
            Act::new(Activation::Relu, bn)?,
        ))
    }

    /// `relu(bn(conv(xs)))`
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> candle_core::Result<Tensor> {
        self.1.forward_act(pass, &self.0.forward(xs)?, &self.2)
    }
}

struct ResNet {
    stem: Layer,
    blocks: Vec<[Layer; 2]>,
    fc: Linear,
}

impl ResNet {
    fn new(inputs: usize, classes: usize, vb: VarBuilder) -> candle_core::Result<Self> {
        let layer = |name: &str| Layer::new(16, 16, vb.pp(name));
        Ok(Self {
            stem: Layer::new(inputs, 16, vb.pp("stem"))?,
            blocks: vec![[layer("block1.0")?, layer("block1.1")?], [layer("block2.0")?, layer("block2.1")?]],
            fc: Linear::new(16, classes, Init::LeCun, vb.pp("fc"))?,
        })
    }
}

impl Model for ResNet {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> candle_core::Result<Tensor> {
        let mut xs = max_pool2d(&self.stem.forward(pass, xs)?, (2, 2), (2, 2))?;
        for [first, Layer(conv, bn, act)] in &self.blocks {
            let ys = conv.forward(&first.forward(pass, &xs)?)?;
            let sum = add(&xs, &bn.forward(pass, &ys)?)?;
            xs = act.forward(pass, &sum)?;
        }
        self.fc.forward(&global_avg_pool2d(&xs)?)
    }
}

fn load(args: &mut Args, setup: &Setup<'_>) -> Result<Data<ImageSet>> {
    args.images.load(setup)
}

fn train(_: &Args, trial: &mut Trial<'_, ImageSet>) -> Result<()> {
    let data = &trial.data.train;
    let net = ResNet::new(data.shape().0, data.classes(), trial.params.builder())?;
    trial.start("resnet 16-16-16", CROSS_ENTROPY)?;
    trial.fit(&classify(&net))
}

fn main() -> ExitCode {
    taper_experiment::run(load, train)
}
