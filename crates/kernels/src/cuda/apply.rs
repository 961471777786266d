use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor,
};

/// What a kernel is given of a tensor. It is contiguous.
pub(crate) type Input<'a> = (&'a CudaStorage, &'a Layout);

/// A differentiable operation on f32 values on a CUDA device, as a node of candle's graph.
pub(crate) trait CudaOp: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    fn forward(&self, device: &CudaDevice, inputs: &[Input<'_>]) -> Result<(CudaStorage, Shape)>;

    /// The gradients of the inputs, in their order; `grad_ys` is contiguous. None need be computed for an input that does not
    /// track operations, as a batch of images.
    fn backward(&self, inputs: &[&Tensor], ys: &Tensor, grad_ys: &Tensor) -> Result<Vec<Option<Tensor>>>;
}

/// The result of `op` for one to three inputs.
pub(crate) fn apply(op: impl CudaOp, inputs: &[&Tensor]) -> Result<Tensor> {
    let inputs: Vec<Tensor> = inputs.iter().map(|t| t.contiguous()).collect::<Result<_>>()?;
    match &inputs[..] {
        [a] => a.apply_op1(Node(op)),
        [a, b] => a.apply_op2(b, Node(op)),
        [a, b, c] => a.apply_op3(b, c, Node(op)),
        _ => candle_core::bail!("{}: expected one to three inputs", op.name()),
    }
}

struct Node<O>(O);

impl<O: CudaOp> Node<O> {
    fn elsewhere<T>(&self) -> Result<T> {
        candle_core::bail!("{}: expected values on a CUDA device, found some on the CPU", self.0.name())
    }

    fn backward<const N: usize>(
        &self,
        inputs: [&Tensor; N],
        ys: &Tensor,
        grad_ys: &Tensor,
    ) -> Result<[Option<Tensor>; N]> {
        let gradients = self.0.backward(&inputs, ys, &grad_ys.contiguous()?)?;
        let mut own = [const { None }; N];
        own.iter_mut().zip(gradients).for_each(|(own, gradient)| *own = gradient);
        Ok(own)
    }
}

impl<O: CudaOp> CustomOp1 for Node<O> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.elsewhere()
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        self.0.forward(storage.device(), &[(storage, layout)])
    }

    fn bwd(&self, xs: &Tensor, ys: &Tensor, grad_ys: &Tensor) -> Result<Option<Tensor>> {
        let [grad_xs] = self.backward([xs], ys, grad_ys)?;
        Ok(grad_xs)
    }
}

impl<O: CudaOp> CustomOp2 for Node<O> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.elsewhere()
    }

    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.0.forward(s1.device(), &[(s1, l1), (s2, l2)])
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

impl<O: CudaOp> CustomOp3 for Node<O> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.elsewhere()
    }

    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
        s3: &CudaStorage,
        l3: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.0.forward(s1.device(), &[(s1, l1), (s2, l2), (s3, l3)])
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
