use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::gradient::Gradient;
use super::op::{Op, backward};
use super::tape;
use crate::values::{Values, values};

/// The result of `op` for these inputs: on this thread's tape if there is one, without a graph within
/// [`no_grad`](super::no_grad), as an operation in candle's graph otherwise.
pub(crate) fn apply(op: impl Op, inputs: &[&Tensor]) -> Result<Tensor> {
    if !tape::is_in_graph() {
        return tape::apply(Box::new(op), inputs);
    }
    let inputs: Vec<Tensor> = inputs.iter().map(|t| t.contiguous()).collect::<Result<_>>()?;
    let node = GraphOp(op);
    match &inputs[..] {
        [a] => a.apply_op1(node),
        [a, b] => a.apply_op2(b, node),
        [a, b, c] => a.apply_op3(b, c, node),
        _ => candle_core::bail!("{}: expected one to three inputs", node.0.name()),
    }
}

/// An operation in candle's graph.
struct GraphOp<O>(O);

impl<O: Op> GraphOp<O> {
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
        let wanted = inputs.map(|t| t.track_op());
        let gradients = backward(&self.0, &inputs, &wanted, ys, grad_ys)?;
        let mut tensors = [const { None }; N];
        for ((tensor, input), gradient) in tensors.iter_mut().zip(inputs).zip(gradients) {
            if let Some(gradient) = gradient {
                *tensor = Some(Tensor::from_vec(gradient.into_dense(), input.shape(), input.device())?);
            }
        }
        Ok(tensors)
    }
}

impl<O: Op> CustomOp1 for GraphOp<O> {
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

impl<O: Op> CustomOp2 for GraphOp<O> {
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

impl<O: Op> CustomOp3 for GraphOp<O> {
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
