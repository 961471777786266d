//! A custom model: layers of Taper, with an `Act` for each activation to record. Layers of candle_nn work too, but this
//! network trains about six times faster with Taper's (docs/performance.md).
//!
//!     cargo run --example custom_model

use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;
use taper::hooks::{Activation, Pass, Rng};
use taper::nn::{
    Act, Conv2d, Conv2dConfig, Conv2dGeometry, Dropout, Init, Linear, Model, Params, avg_pool2d,
};
use taper::report::{ConsoleConfig, ConsoleSink, Sink};
use taper::train::{Fit, Optimizer, OptimizerConfig, Rule, classify, fit};

struct Net {
    conv1: Conv2d,
    act1: Act,
    fc1: Linear,
    act2: Act,
    dropout: Dropout,
    fc2: Linear,
}

impl Net {
    fn new(vb: VarBuilder) -> Result<Self> {
        let (relu, celu) = (Activation::Relu, Activation::Celu { alpha: 0.5 });
        let geometry = Conv2dGeometry { padding: 1, ..Default::default() };
        let config = Conv2dConfig { geometry, ..Default::default() };
        Ok(Self {
            conv1: Conv2d::new(1, 16, config, vb.pp("conv1"))?,
            act1: Act::new(relu, vb.pp("conv1"))?, // the name of the site is `conv1`
            fc1: Linear::new(16 * 4 * 4, 48, Init::of(celu), vb.pp("fc1"))?,
            act2: Act::new(celu, vb.pp("fc1"))?,
            dropout: Dropout::new(0.2)?,
            fc2: Linear::new(48, 10, Init::LeCun, vb.pp("fc2"))?,
        })
    }
}

impl Model for Net {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
        // The layer and its activation in one step; after another layer: `self.act1.forward(pass, &ys)`.
        let xs = self.conv1.forward_act(pass, xs, &self.act1)?;
        let xs = avg_pool2d(&xs, (2, 2), (2, 2))?.flatten_from(1)?;
        let xs = self.fc1.forward_act(pass, &xs, &self.act2)?;
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
    console.finish()?; // prints the table of the layers
    Ok(())
}
