use candle_core::{Result, Shape, Tensor};

use super::gradient::Gradient;
use crate::values::Values;

/// One differentiable operation on f32 values on the CPU: made for one call, with the shapes of its inputs.
///
/// A public function checks shapes, calls the twin unless [`is_fast`](crate::values::is_fast) for all inputs, and otherwise
/// [`apply`](super::apply) with up to three inputs, which it makes contiguous. What `forward` keeps for `backward` goes into a
/// `OnceLock` of the struct; compute it before, as nothing parallel may run in its `get_or_init`. `Prelu` in
/// `ops/activate.rs` is a short example with two inputs.
pub(crate) trait Op: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// The shape of the result.
    fn shape(&self) -> Shape;

    /// The values of the result, in row-major order; so are the inputs.
    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32>;

    /// The gradients of the inputs: as many as there are inputs, in their order. `None` where none is wanted or there is none;
    /// one that is not wanted may be given all the same.
    fn backward(&self, args: Backward<'_>) -> Vec<Option<Gradient>>;
}

/// What [`Op::backward`] is given.
pub(crate) struct Backward<'a> {
    /// What [`Op::forward`] was given.
    pub inputs: &'a [&'a [f32]],
    /// What it returned, as a contiguous tensor.
    pub ys: &'a Tensor,
    /// The gradient of the loss with respect to `ys`.
    pub grad_ys: Gradient,
    /// For every input, whether something that is learned depends on it.
    pub wanted: &'a [bool],
}

/// The backward pass of `op` on contiguous tensors.
pub(super) fn backward(
    op: &dyn Op,
    inputs: &[&Tensor],
    wanted: &[bool],
    ys: &Tensor,
    grad_ys: Gradient,
) -> Result<Vec<Option<Gradient>>> {
    let inputs: Vec<Values<'_>> = inputs.iter().map(|t| Values::of(t)).collect::<Result<_>>()?;
    let inputs: Vec<&[f32]> = inputs.iter().map(|values| &**values).collect();
    Ok(op.backward(Backward { inputs: &inputs, ys, grad_ys, wanted }))
}
