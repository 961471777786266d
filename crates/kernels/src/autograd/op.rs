use candle_core::{Result, Shape, Tensor};

use super::gradient::Gradient;
use crate::values::Values;

/// One differentiable operation on f32 values on the CPU: made for one call, with the shapes of its inputs.
///
/// A public function checks shapes. It calls the twin unless [`is_fast`](crate::values::is_fast) holds for all inputs,
/// and otherwise [`apply`](super::apply) with up to three inputs, which become contiguous. Values that `forward` keeps
/// for `backward` go into a `OnceLock` of the struct; compute them before, because nothing parallel may run in
/// `get_or_init`. `Prelu` in `ops/activate.rs` is a short example with two inputs.
pub(crate) trait Op: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// The shape of the result.
    fn shape(&self) -> Shape;

    /// The values of the result in row-major order, from inputs in row-major order.
    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32>;

    /// The gradients of the inputs, in their order. `None` if a gradient is not wanted or does not exist; an unwanted
    /// one may be returned.
    fn backward(&self, args: Backward<'_>) -> Vec<Option<Gradient>>;
}

/// The arguments of [`Op::backward`].
pub(crate) struct Backward<'a> {
    /// The arguments of [`Op::forward`].
    pub inputs: &'a [&'a [f32]],
    /// Its result, as a contiguous tensor.
    pub ys: &'a Tensor,
    /// The gradient of the loss with respect to `ys`.
    pub grad_ys: Gradient,
    /// `wanted[i]`: whether input `i` needs a gradient.
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
