use candle_core::{Result, Tensor};
use candle_nn::{Init, Module, VarBuilder};
use taper_kernels::{Error, embedding};

/// A table with a row of features for every id.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// `(V, F)`.
    pub weight: Tensor,
}

impl Embedding {
    /// For ids below `ids`, with `features` each; the parameter `weight`, drawn from N(0, 1) as in PyTorch, under
    /// `vb`'s prefix.
    ///
    /// # Errors
    /// When either number is 0.
    pub fn new(ids: usize, features: usize, vb: VarBuilder<'_>) -> Result<Self> {
        if ids == 0 || features == 0 {
            let message = format!(
                "layer '{}': expected at least one id and feature, found {ids}×{features}",
                vb.prefix()
            );
            return Err(Error::Argument(message).into());
        }
        let start = Init::Randn { mean: 0.0, stdev: 1.0 };
        Ok(Self { weight: vb.get_with_hints((ids, features), "weight", start)? })
    }

    /// The rows of `ids`: see [`taper_kernels::embedding`].
    ///
    /// # Shapes
    /// `ids`: any, as u32; the result is `(.., F)`.
    ///
    /// # Errors
    /// When an id has no row.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        embedding(ids, &self.weight)
    }
}

impl Module for Embedding {
    fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        self.forward(ids)
    }
}
