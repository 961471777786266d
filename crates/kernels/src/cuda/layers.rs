//! The layers of `ops` on a CUDA device. Shapes were checked by the public functions.

use candle_core::{CudaDevice, CudaStorage, DType, Layout, Result, Shape, Tensor};

use super::{
    Arg, Grid, Input, LAYERS, Sizes, address, address_of, code, each, launch, product, unwritten,
    unwritten_storage, whole,
};
use crate::Activation;
use crate::autograd::{Node, apply_in_graph};

/// Launches a kernel of this module.
///
/// # Safety
/// As [`launch`].
pub(super) unsafe fn run(device: &CudaDevice, name: &str, grid: Grid, args: &[Arg]) -> Result<()> {
    // SAFETY: the caller ensures it.
    unsafe { launch(device, &LAYERS, name, grid, args) }
}

pub(super) fn at((storage, layout): Input<'_>) -> Result<Arg> {
    address_of::<f32>(storage, layout).map(Arg::At)
}

struct Activate((i32, f32));

/// See [`crate::activate`]; `f` is the [`code`] of the function.
pub fn activate(xs: &Tensor, f: (i32, f32)) -> Result<Tensor> {
    apply_in_graph(Activate(f), &[xs])
}

impl Node for Activate {
    fn name(&self) -> &'static str {
        "activate"
    }

    fn on_cuda(&self, device: &CudaDevice, inputs: &[Input<'_>]) -> Result<(CudaStorage, Shape)> {
        let (shape, (f, p)) = (inputs[0].1.shape(), self.0);
        let n = shape.elem_count();
        let ys = unwritten_storage(n, device)?;
        let args = [at(inputs[0])?, whole(&ys, n)?, Arg::Size(n), Arg::I32(f), Arg::F32(p)];
        // SAFETY: both have `n` values.
        unsafe { run(device, "activate", each(n), &args)? };
        Ok((ys, shape.clone()))
    }

    fn backward(&self, inputs: &[&Tensor], _: &Tensor, grad_ys: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(scale(self.0, inputs[0], grad_ys)?)])
    }
}

/// `f'(xs) · grads`
fn scale((f, p): (i32, f32), xs: &Tensor, grads: &Tensor) -> Result<Tensor> {
    let n = xs.elem_count();
    let scaled = unwritten(xs.shape(), DType::F32, xs.device())?;
    let args = [
        address::<f32>(xs)?,
        address::<f32>(grads)?,
        address::<f32>(&scaled)?,
        Arg::Size(n),
        Arg::I32(f),
        Arg::F32(p),
    ];
    // SAFETY: a gradient has the shape of its tensor.
    unsafe { run(xs.device().as_cuda_device()?, "activate_back", each(n), &args)? };
    Ok(scaled)
}

/// Adds the bias of every unit of `(.., units, positions)` and applies a function, in place.
fn finish(
    device: &CudaDevice,
    ys: &CudaStorage,
    bias: Option<&Input<'_>>,
    (n, units, positions): (usize, usize, usize),
    (f, p): (i32, f32),
) -> Result<()> {
    if bias.is_none() && f == 0 {
        return Ok(());
    }
    let bias = bias.map_or(Ok(Arg::At(0)), |bias| at(*bias))?;
    let args =
        [whole(ys, n)?, bias, Arg::Size(n), Arg::U32(units), Arg::U32(positions), Arg::I32(f), Arg::F32(p)];
    // SAFETY: there are `n` values, and a bias for every unit.
    unsafe { run(device, "bias_act", each(n), &args) }
}

/// Sums of `(samples, units, positions)` by unit.
fn unit_sums(xs: &Tensor, (samples, units, positions): (usize, usize, usize)) -> Result<Tensor> {
    let (device, sums) = (xs.device().as_cuda_device()?, unwritten(units, DType::F32, xs.device())?);
    let (from, to) = (address::<f32>(xs)?, address::<f32>(&sums)?);
    // SAFETY: the caller's sizes are the sizes of `xs`.
    unsafe {
        match positions {
            1 => {
                let args = [from, to, Arg::U32(samples), Arg::U32(units)];
                run(device, "sum_rows", (units.div_ceil(32), 1024), &args)?;
            }
            _ => {
                let args = [from, to, Arg::U32(samples), Arg::U32(units), Arg::U32(positions)];
                run(device, "sum_planes", (units, 512), &args)?;
            }
        }
    }
    Ok(sums)
}

struct Linear {
    n: usize,
    i: usize,
    o: usize,
    f: (i32, f32),
}

/// `f` of [`crate::linear`]; the slope of `f` shows in its value.
pub fn linear_act(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>, f: Activation) -> Result<Tensor> {
    let (o, i) = weight.dims2()?;
    // A reshape is a node of the graph, with a gradient of its own.
    let rows = if xs.rank() == 2 { xs.clone() } else { xs.reshape(((), i))? };
    let Some(f) = code(f) else { candle_core::bail!("linear: {} has no kernel", f.name()) };
    let op = Linear { n: rows.dim(0)?, i, o, f };
    let ys = match bias {
        Some(bias) => apply_in_graph(op, &[&rows, weight, bias])?,
        None => apply_in_graph(op, &[&rows, weight])?,
    };
    match xs.dims() {
        [_, _] => Ok(ys),
        [rest @ .., _] => ys.reshape([rest, &[o]].concat()),
        [] => candle_core::bail!("linear: expected inputs of {i} features, found a scalar"),
    }
}

impl Node for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn on_cuda(&self, device: &CudaDevice, inputs: &[Input<'_>]) -> Result<(CudaStorage, Shape)> {
        let Self { n, i, o, f } = *self;
        let transposed = inputs[1].1.transpose(0, 1)?;
        let ys = product(inputs[0], (inputs[1].0, &transposed), (1, n, o, i))?;
        finish(device, &ys, inputs.get(2), (n * o, o, 1), f)?;
        Ok((ys, (n, o).into()))
    }

    fn backward(&self, inputs: &[&Tensor], ys: &Tensor, grad_ys: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let grads = &back(self.f, ys, grad_ys)?;
        let (xs, weight) = (inputs[0].detach(), inputs[1].detach());
        let grad_xs = inputs[0].track_op().then(|| grads.matmul(&weight)).transpose()?;
        let grad_weight = inputs[1].track_op().then(|| grads.t()?.matmul(&xs)).transpose()?;
        let grad_bias = inputs.get(2).map(|_| unit_sums(grads, (self.n, self.o, 1))).transpose()?;
        Ok(vec![grad_xs, grad_weight, grad_bias])
    }
}

/// The gradient with respect to the input of `f`, whose slope shows in its value.
fn back(f: (i32, f32), ys: &Tensor, grad_ys: &Tensor) -> Result<Tensor> {
    if f.0 == 0 { Ok(grad_ys.detach()) } else { scale(f, ys, grad_ys) }
}

/// Sizes of a convolution: images, outputs, and the sizes that the kernel takes.
#[derive(Clone, Copy)]
pub struct Conv {
    pub n: usize,
    pub o: usize,
    /// Channels, height, width, those of the kernel, stride, padding, those of the result.
    pub sizes: [usize; 9],
}

impl Conv {
    /// Rows and columns of an image's columns.
    fn columns(&self) -> (usize, usize) {
        let [c, _, _, kh, kw, _, _, out_h, out_w] = self.sizes;
        (c * kh * kw, out_h * out_w)
    }

    fn sizes(&self) -> Arg {
        // Checked where the convolution was: maps have fewer than 2^32 pixels.
        Arg::Sizes9(Sizes(self.sizes.map(|n| n as u32)))
    }
}

struct Conv2d {
    of: Conv,
    f: (i32, f32),
}

/// `f` of [`crate::conv2d`]; the slope of `f` shows in its value.
pub fn conv2d_act(
    xs: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    of: Conv,
    f: Activation,
) -> Result<Tensor> {
    let Some(f) = code(f) else { candle_core::bail!("conv2d: {} has no kernel", f.name()) };
    match bias {
        Some(bias) => apply_in_graph(Conv2d { of, f }, &[xs, weight, bias]),
        None => apply_in_graph(Conv2d { of, f }, &[xs, weight]),
    }
}

impl Node for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn on_cuda(&self, device: &CudaDevice, inputs: &[Input<'_>]) -> Result<(CudaStorage, Shape)> {
        let (Conv { n, o, sizes }, (k, p)) = (self.of, self.of.columns());
        let columns = unwritten_storage(n * k * p, device)?;
        let args = [at(inputs[0])?, whole(&columns, n * k * p)?, Arg::Size(n * k * p), self.of.sizes()];
        // SAFETY: `xs` are the images, and the columns have these sizes.
        unsafe { run(device, "im2col", each(n * k * p), &args)? };
        // Every image is multiplied with the same weight.
        let weight = Layout::new((n, o, k).into(), vec![0, k, 1], inputs[1].1.start_offset());
        let ys = product((inputs[1].0, &weight), (&columns, &Layout::contiguous((n, k, p))), (n, o, p, k))?;
        finish(device, &ys, inputs.get(2), (n * o * p, o, p), self.f)?;
        Ok((ys, (n, o, sizes[7], sizes[8]).into()))
    }

    fn backward(&self, inputs: &[&Tensor], ys: &Tensor, grad_ys: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (Conv { n, o, .. }, (k, p)) = (self.of, self.of.columns());
        let (xs, weight) = (inputs[0].detach(), inputs[1].detach());
        let device = xs.device();
        let grads = back(self.f, ys, grad_ys)?.reshape((n, o, p))?;
        let grad_bias = inputs.get(2).map(|_| unit_sums(&grads, (n, o, p))).transpose()?;
        let mut grad_weight = None;
        if inputs[1].track_op() {
            let columns = unwritten((n, k, p), DType::F32, device)?;
            let args =
                [address::<f32>(&xs)?, address::<f32>(&columns)?, Arg::Size(n * k * p), self.of.sizes()];
            // SAFETY: as in the forward pass.
            unsafe { run(device.as_cuda_device()?, "im2col", each(n * k * p), &args)? };
            // A product for each image, which the GPU computes side by side, and their sum.
            let each_image = grads.matmul(&columns.t()?)?;
            grad_weight = Some(unit_sums(&each_image, (n, o * k, 1))?.reshape(weight.shape())?);
        }
        let mut grad_xs = None;
        if inputs[0].track_op() {
            let columns = weight.reshape((1, o, k))?.t()?.broadcast_as((n, k, o))?.matmul(&grads)?;
            let (xs, count) = (unwritten(xs.shape(), DType::F32, device)?, xs.elem_count());
            let args = [address::<f32>(&columns)?, address::<f32>(&xs)?, Arg::Size(count), self.of.sizes()];
            // SAFETY: as above.
            unsafe { run(device.as_cuda_device()?, "col2im", each(count), &args)? };
            grad_xs = Some(xs);
        }
        Ok(vec![grad_xs, grad_weight, grad_bias])
    }
}

struct MaxPool2d {
    shape: [usize; 4],
    /// Height, width, window, stride and the size of the result.
    sizes: [usize; 8],
    /// The indices of the largest values, kept for the backward pass.
    winners: Tensor,
}

/// See [`crate::max_pool2d`].
pub fn max_pool2d(
    xs: &Tensor,
    kernel: (usize, usize),
    stride: (usize, usize),
    out: (usize, usize),
) -> Result<Tensor> {
    let (n, c, h, w) = xs.dims4()?;
    let sizes = [h, w, kernel.0, kernel.1, stride.0, stride.1, out.0, out.1];
    let winners = unwritten((n, c, out.0, out.1), DType::U32, xs.device())?;
    apply_in_graph(MaxPool2d { shape: [n, c, h, w], sizes, winners }, &[xs])
}

impl MaxPool2d {
    fn sizes(&self) -> Arg {
        Arg::Sizes8(Sizes(self.sizes.map(|n| n as u32)))
    }
}

impl Node for MaxPool2d {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn on_cuda(&self, device: &CudaDevice, inputs: &[Input<'_>]) -> Result<(CudaStorage, Shape)> {
        let winners = &self.winners;
        let n = winners.elem_count();
        let ys = unwritten_storage(n, device)?;
        let args = [at(inputs[0])?, whole(&ys, n)?, address::<u32>(winners)?, Arg::Size(n), self.sizes()];
        // SAFETY: every window is within the images.
        unsafe { run(device, "max_pool", each(n), &args)? };
        Ok((ys, winners.shape().clone()))
    }

    fn backward(&self, inputs: &[&Tensor], _: &Tensor, grad_ys: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let n = self.shape.iter().product();
        let grad_xs = unwritten(&self.shape[..], DType::F32, inputs[0].device())?;
        let args = [
            address::<u32>(&self.winners)?,
            address::<f32>(grad_ys)?,
            address::<f32>(&grad_xs)?,
            Arg::Size(n),
            self.sizes(),
        ];
        // SAFETY: as in the forward pass.
        unsafe { run(grad_xs.device().as_cuda_device()?, "max_pool_back", each(n), &args)? };
        Ok(vec![Some(grad_xs)])
    }
}

/// A mask in the form of the kernel's argument.
#[derive(Clone, Copy)]
pub struct Masked {
    pub width: usize,
    pub seed: u64,
    pub first_row: u64,
    pub bound: u32,
    pub scale: f32,
    pub shift: f32,
    pub dropped: f32,
}

/// See [`crate::dropout`].
pub fn masked(xs: &Tensor, mask: Masked) -> Result<Tensor> {
    apply_in_graph(mask, &[xs])
}

impl Masked {
    fn run(&self, device: &CudaDevice, xs: Arg, ys: Arg, n: usize) -> Result<()> {
        let Self { width, seed, first_row, bound, scale, shift, dropped } = *self;
        let args = [
            xs,
            ys,
            Arg::Size(n),
            Arg::Size(width.max(1)),
            Arg::U64(seed),
            Arg::U64(first_row),
            Arg::U32(bound as usize),
            Arg::F32(scale),
            Arg::F32(shift),
            Arg::F32(dropped),
        ];
        // SAFETY: both have `n` values.
        unsafe { run(device, "masked", each(n), &args) }
    }
}

impl Node for Masked {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn on_cuda(&self, device: &CudaDevice, inputs: &[Input<'_>]) -> Result<(CudaStorage, Shape)> {
        let shape = inputs[0].1.shape();
        let n = shape.elem_count();
        let ys = unwritten_storage(n, device)?;
        self.run(device, at(inputs[0])?, whole(&ys, n)?, n)?;
        Ok((ys, shape.clone()))
    }

    fn backward(&self, inputs: &[&Tensor], _: &Tensor, grad_ys: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let grad_xs = unwritten(inputs[0].shape(), DType::F32, inputs[0].device())?;
        let (from, to, n) = (address::<f32>(grad_ys)?, address::<f32>(&grad_xs)?, grad_xs.elem_count());
        let back = Self { shift: 0.0, dropped: 0.0, ..*self };
        back.run(grad_xs.device().as_cuda_device()?, from, to, n)?;
        Ok(vec![Some(grad_xs)])
    }
}
