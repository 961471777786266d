use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use crate::cpu::{Values, values};
use crate::gradient::Gradient;
use crate::tape;

/// One differentiable operation on f32 values on the CPU: made for one call, with the shapes of its inputs.
pub(crate) trait Kernel: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// Of the result.
    fn shape(&self) -> Shape;

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32>;

    /// A gradient for every input that wants one, from that of the result `ys`.
    fn backward(
        &self,
        inputs: &[&[f32]],
        ys: &Tensor,
        grad_ys: Gradient,
        wanted: &[bool],
    ) -> Vec<Option<Gradient>>;
}

/// The kernel's result for these inputs: written down on this thread's tape if there is one, as an operation in
/// candle's graph otherwise.
pub(crate) fn apply(kernel: impl Kernel, inputs: &[&Tensor]) -> Result<Tensor> {
    let inputs: Vec<Tensor> = inputs.iter().map(|t| t.contiguous()).collect::<Result<_>>()?;
    if tape::is_recording() {
        return tape::apply(Box::new(kernel), inputs);
    }
    let operation = Operation(kernel);
    match &inputs[..] {
        [a] => a.apply_op1(operation),
        [a, b] => a.apply_op2(b, operation),
        [a, b, c] => a.apply_op3(b, c, operation),
        _ => candle_core::bail!("{}: expected one to three inputs", operation.0.name()),
    }
}

/// A kernel as an operation in candle's graph.
struct Operation<K>(K);

impl<K: Kernel> Operation<K> {
    fn forward(&self, inputs: &[(&CpuStorage, &Layout)]) -> Result<(CpuStorage, Shape)> {
        let inputs: Vec<&[f32]> = inputs.iter().map(|(s, l)| values(s, l)).collect::<Result<_>>()?;
        Ok((CpuStorage::F32(self.0.forward(&inputs)), self.0.shape()))
    }

    fn backward<const N: usize>(
        &self,
        inputs: [&Tensor; N],
        ys: &Tensor,
        grad_ys: &Tensor,
    ) -> Result<[Option<Tensor>; N]> {
        let grad_ys = Gradient::Dense(Values::of(&grad_ys.contiguous()?)?.to_vec());
        let gradients = backward(&self.0, &inputs, ys, grad_ys)?;
        let mut tensors = [const { None }; N];
        for ((tensor, input), gradient) in tensors.iter_mut().zip(inputs).zip(gradients) {
            if let Some(gradient) = gradient {
                *tensor = Some(Tensor::from_vec(gradient.into_dense(), input.shape(), input.device())?);
            }
        }
        Ok(tensors)
    }
}

/// The kernel's backward pass on tensors: a gradient for every input on which something that is learned depends.
pub(crate) fn backward(
    kernel: &dyn Kernel,
    inputs: &[&Tensor],
    ys: &Tensor,
    grad_ys: Gradient,
) -> Result<Vec<Option<Gradient>>> {
    let wanted: Vec<bool> = inputs.iter().map(|t| t.track_op()).collect();
    let inputs: Vec<Values<'_>> = inputs.iter().map(|t| Values::of(t)).collect::<Result<_>>()?;
    let inputs: Vec<&[f32]> = inputs.iter().map(|values| &**values).collect();
    Ok(kernel.backward(&inputs, ys, grad_ys, &wanted))
}

impl<K: Kernel> CustomOp1 for Operation<K> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward(&[(storage, layout)])
    }

    fn bwd(&self, xs: &Tensor, ys: &Tensor, grad_ys: &Tensor) -> Result<Option<Tensor>> {
        let [grad_xs] = self.backward([xs], ys, grad_ys)?;
        Ok(grad_xs)
    }
}

impl<K: Kernel> CustomOp2 for Operation<K> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward(&[(s1, l1), (s2, l2)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        ys: &Tensor,
        grad_ys: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok(self.backward([a, b], ys, grad_ys)?.into())
    }
}

impl<K: Kernel> CustomOp3 for Operation<K> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward(&[(s1, l1), (s2, l2), (s3, l3)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        ys: &Tensor,
        grad_ys: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        Ok(self.backward([a, b, c], ys, grad_ys)?.into())
    }
}
