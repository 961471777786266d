//! A model of one's own: layers of candle_nn stay as they are, and each activation worth watching is an `Act`.
//!
//!     cargo run --example custom_model

use candle_core::{Device, Result, Tensor};
use candle_nn::{Conv2dConfig, Module, VarBuilder};
use taper::hooks::{Activation, Pass, Rng};
use taper::nn::{Act, Dropout, Model, Params, avg_pool2d};
use taper::report::{ConsoleConfig, ConsoleSink};
use taper::train::{Fit, Optimizer, OptimizerConfig, Rule, classify, fit};

struct Net {
    conv1: candle_nn::Conv2d,
    act1: Act,
    fc1: candle_nn::Linear,
    act2: Act,
    dropout: Dropout,
    fc2: candle_nn::Linear,
}

impl Net {
    fn new(vb: VarBuilder) -> Result<Self> {
        let same = Conv2dConfig { padding: 1, ..Default::default() };
        Ok(Self {
            conv1: candle_nn::conv2d(1, 16, 3, same, vb.pp("conv1"))?,
            act1: Act::new(Activation::Relu, vb.pp("conv1"))?, // the site is called `conv1`
            fc1: candle_nn::linear(16 * 4 * 4, 48, vb.pp("fc1"))?,
            act2: Act::new(Activation::Celu { alpha: 0.5 }, vb.pp("fc1"))?,
            dropout: Dropout::new(0.2)?,
            fc2: candle_nn::linear(48, 10, vb.pp("fc2"))?,
        })
    }
}

impl Model for Net {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
        let xs = self.act1.forward(pass, &self.conv1.forward(xs)?)?;
        let xs = avg_pool2d(&xs, (2, 2), (2, 2))?.flatten_from(1)?;
        let xs = self.act2.forward(pass, &self.fc1.forward(&xs)?)?;
        self.fc2.forward(&self.dropout.forward(pass, &xs)?)
    }
}

fn main() -> anyhow::Result<()> {
    let data = taper::data::digits()?; // bundled: 1,797 digits of 8×8 pixels
    let params = Params::new(1, &Device::Cpu);
    let net = Net::new(params.builder())?;
    let mut optimizer = Optimizer::new(params.vars(), OptimizerConfig::new(Rule::adam(0.0), 3e-3))?;
    let mut console = ConsoleSink::stdout(ConsoleConfig { color: true, ..Default::default() });
    let options = Fit { epochs: 5, seed: 2 };
    let (train, test) = (|rng: &mut Rng| data.train.shuffled(rng, 32), || data.test.batches(32));
    fit(&classify(&net), &mut optimizer, train, test, options, &mut console)?;
    Ok(())
}
