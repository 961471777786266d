use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor,
};

use super::gradient::Gradient;
use super::op::{Op, backward};
use super::tape;
use crate::values::{Values, values};

/// The result of `op` for these inputs: on this thread's tape if there is one, without a graph within
/// [`no_grad`](super::no_grad), as an operation in candle's graph otherwise.
pub(crate) fn apply(op: impl Op, inputs: &[&Tensor]) -> Result<Tensor> {
    if tape::is_in_graph() { apply_in_graph(OnCpu(op), inputs) } else { tape::apply(Box::new(op), inputs) }
}

/// A differentiable operation that becomes a node of candle's graph. All its inputs are on one device, and contiguous.
pub(crate) trait Node: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    fn on_cpu(&self, _inputs: &[(&CpuStorage, &Layout)]) -> Result<(CpuStorage, Shape)> {
        candle_core::bail!("{}: expected values on a CUDA device, found some on the CPU", self.name())
    }

    fn on_cuda(
        &self,
        _device: &CudaDevice,
        _inputs: &[(&CudaStorage, &Layout)],
    ) -> Result<(CudaStorage, Shape)> {
        candle_core::bail!("{}: expected values on the CPU, found some on a CUDA device", self.name())
    }

    /// The gradients of the inputs, in their order; `grad_ys` is contiguous. An input that tracks no operations, such as a
    /// batch of images, needs no gradient.
    fn backward(&self, inputs: &[&Tensor], ys: &Tensor, grad_ys: &Tensor) -> Result<Vec<Option<Tensor>>>;
}

/// The result of `node` for one to three inputs.
pub(crate) fn apply_in_graph(node: impl Node, inputs: &[&Tensor]) -> Result<Tensor> {
    let inputs: Vec<Tensor> = inputs.iter().map(|t| t.contiguous()).collect::<Result<_>>()?;
    match &inputs[..] {
        [a] => a.apply_op1(InGraph(node)),
        [a, b] => a.apply_op2(b, InGraph(node)),
        [a, b, c] => a.apply_op3(b, c, InGraph(node)),
        _ => candle_core::bail!("{}: expected one to three inputs, found {}", node.name(), inputs.len()),
    }
}

/// An operation on f32 values on the CPU.
struct OnCpu<O>(O);

impl<O: Op> Node for OnCpu<O> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn on_cpu(&self, inputs: &[(&CpuStorage, &Layout)]) -> Result<(CpuStorage, Shape)> {
        let inputs: Vec<&[f32]> = inputs.iter().map(|(s, l)| values(s, l)).collect::<Result<_>>()?;
        Ok((CpuStorage::F32(self.0.forward(&inputs)), self.0.shape()))
    }

    fn backward(&self, inputs: &[&Tensor], ys: &Tensor, grad_ys: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let grad_ys = Gradient::Dense(Values::of(grad_ys)?.to_vec());
        let wanted: Vec<bool> = inputs.iter().map(|t| t.track_op()).collect();
        let tensor = |(input, gradient): (&&Tensor, Option<Gradient>)| {
            let of =
                |gradient: Gradient| Tensor::from_vec(gradient.into_dense(), input.shape(), input.device());
            gradient.map(of).transpose()
        };
        inputs.iter().zip(backward(&self.0, inputs, &wanted, ys, grad_ys)?).map(tensor).collect()
    }
}

/// candle has a trait for each number of inputs.
struct InGraph<N>(N);

impl<N: Node> InGraph<N> {
    fn backward<const I: usize>(
        &self,
        inputs: [&Tensor; I],
        ys: &Tensor,
        grad_ys: &Tensor,
    ) -> Result<[Option<Tensor>; I]> {
        let mut gradients = self.0.backward(&inputs, ys, &grad_ys.contiguous()?)?.into_iter();
        Ok(inputs.map(|_| gradients.next().flatten()))
    }
}

macro_rules! custom_op {
    ($trait:ident, $gradients:ty, ($first:ident, $layout:ident, $x:ident) $(, ($s:ident, $l:ident, $y:ident))*) => {
        impl<N: Node> $trait for InGraph<N> {
            fn name(&self) -> &'static str {
                self.0.name()
            }

            fn cpu_fwd(
                &self,
                $first: &CpuStorage,
                $layout: &Layout,
                $($s: &CpuStorage, $l: &Layout,)*
            ) -> Result<(CpuStorage, Shape)> {
                self.0.on_cpu(&[($first, $layout), $(($s, $l)),*])
            }

            fn cuda_fwd(
                &self,
                $first: &CudaStorage,
                $layout: &Layout,
                $($s: &CudaStorage, $l: &Layout,)*
            ) -> Result<(CudaStorage, Shape)> {
                self.0.on_cuda($first.device(), &[($first, $layout), $(($s, $l)),*])
            }

            #[allow(clippy::double_parens)] // around the one gradient of one input
            fn bwd(&self, $x: &Tensor, $($y: &Tensor,)* ys: &Tensor, grad_ys: &Tensor) -> Result<$gradients> {
                let [$x, $($y),*] = self.backward([$x, $($y),*], ys, grad_ys)?;
                Ok(($x $(, $y)*))
            }
        }
    };
}

custom_op!(CustomOp1, Option<Tensor>, (s1, l1, a));
custom_op!(CustomOp2, (Option<Tensor>, Option<Tensor>), (s1, l1, a), (s2, l2, b));
custom_op!(
    CustomOp3,
    (Option<Tensor>, Option<Tensor>, Option<Tensor>),
    (s1, l1, a),
    (s2, l2, b),
    (s3, l3, c)
);
