//! A transformer that reads the rows of an image as a sequence: tested by `programs/transformer.rs`, timed by `benches/networks.rs`.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use taper::nn::{
    Act, Activation, Init, LayerNorm, Linear, Mask, Model, Pass, add, mean_of_steps, self_attention,
};

/// Of one block, without dropout.
pub struct Transformer {
    heads: usize,
    embed: Linear,
    position: Tensor,
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    up: Linear,
    act: Act,
    down: Linear,
    norm3: LayerNorm,
    head: Linear,
}

impl Transformer {
    /// `(N, steps, inputs)` to `(N, classes)`, with `width` features in `heads` heads.
    pub fn new(
        (steps, inputs): (usize, usize),
        (width, heads): (usize, usize),
        classes: usize,
        vb: VarBuilder,
    ) -> Result<Self> {
        let linear = |i, o, name| Linear::new(i, o, Init::PyTorch, vb.pp(name));
        let norm = |name| LayerNorm::new(width, vb.pp(name));
        let start = candle_nn::Init::Randn { mean: 0.0, stdev: 0.02 };
        Ok(Self {
            heads,
            embed: linear(inputs, width, "embed")?,
            position: vb.get_with_hints((steps, width), "position", start)?,
            norm1: norm("norm1")?,
            qkv: linear(width, 3 * width, "qkv")?,
            proj: linear(width, width, "proj")?,
            norm2: norm("norm2")?,
            up: linear(width, 4 * width, "up")?,
            act: Act::new(Activation::Gelu, vb.pp("up"))?,
            down: linear(4 * width, width, "down")?,
            norm3: norm("norm3")?,
            head: linear(width, classes, "head")?,
        })
    }
}

impl Model for Transformer {
    fn forward(&self, pass: &mut Pass<'_>, xs: &Tensor) -> Result<Tensor> {
        let xs = add(&self.embed.forward(xs)?, &self.position)?;
        let qkv = self.qkv.forward(&self.norm1.forward(&xs)?)?;
        let xs = add(&xs, &self.proj.forward(&self_attention(&qkv, self.heads, Mask::None)?)?)?;
        let hidden = self.up.forward_act(pass, &self.norm2.forward(&xs)?, &self.act)?;
        let xs = add(&xs, &self.down.forward(&hidden)?)?;
        self.head.forward(&mean_of_steps(&self.norm3.forward(&xs)?)?)
    }
}
