//! CUDA kernels in f32, for operations that candle lacks or runs as many launches. Sources are in `cuda/`.
//!
//! All work runs on the device's one stream (see [`cuda`](crate::cuda)), in the order of the launches.

use candle_core::backend::BackendStorage;
use candle_core::cuda::cudarc::driver::{DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg};
use candle_core::cuda::{CudaDType, CudaError, WrapErr};
use candle_core::{CudaDevice, CudaStorage, DType, Device, Layout, Result, Shape, Storage, Tensor};

use crate::Activation;

pub(crate) mod layers;
pub(crate) mod loss;
pub(crate) mod optim;
pub(crate) mod stats;

mod ptx {
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

/// A file of kernels.
pub(crate) struct Module(&'static str, &'static str);

pub(crate) const LAYERS: Module = Module("taper_layers", ptx::LAYERS);
pub(crate) const OPTIM: Module = Module("taper_optim", ptx::OPTIM);
pub(crate) const STATS: Module = Module("taper_stats", ptx::STATS);

/// A kernel's view of a contiguous tensor.
pub(crate) type Input<'a> = (&'a CudaStorage, &'a Layout);

/// Whether the kernels of this module can run on these tensors.
pub(crate) fn is_fast(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| t.device().is_cuda() && t.dtype() == DType::F32)
}

/// Number and parameter of a function; `None` for one that has no kernel.
pub(crate) fn code(f: Activation) -> Option<(i32, f32)> {
    use Activation::*;
    let parameter = match f {
        Custom(_) => return None,
        LeakyRelu { slope: p } | Prelu { slope: p } | Elu { alpha: p } | Celu { alpha: p } => p as f32,
        _ => 0.0,
    };
    let number = Activation::ALL.iter().position(|known| known.name() == f.name())?;
    Some((number as i32, parameter))
}

/// An argument of a kernel.
pub(crate) enum Arg {
    /// An address on the device; 0 for a missing tensor.
    At(u64),
    Size(usize),
    U32(usize),
    U64(u64),
    I32(i32),
    F32(f32),
    Sizes8(Sizes<8>),
    Sizes9(Sizes<9>),
    Floats(Floats),
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Sizes<const N: usize>(pub [u32; N]);
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Floats(pub [f32; 9]);

// SAFETY: plain numbers, in the layout of C.
unsafe impl<const N: usize> DeviceRepr for Sizes<N> {}
// SAFETY: plain numbers, in the layout of C.
unsafe impl DeviceRepr for Floats {}

/// Blocks and threads of a launch.
pub(crate) type Grid = (usize, usize);

/// A grid of threads for each of `n` values; kernels loop where there are more values than threads.
pub(crate) fn each(n: usize) -> Grid {
    (n.div_ceil(256).clamp(1, 1 << 16), 256)
}

/// Launches a kernel.
///
/// # Safety
/// The arguments must match the kernel, and the memory at each address must be as large as the kernel assumes.
pub(crate) unsafe fn launch(
    device: &CudaDevice,
    module: &Module,
    name: &str,
    (blocks, threads): Grid,
    args: &[Arg],
) -> Result<()> {
    let kernel = device.get_or_load_custom_func(name, module.0, module.1)?;
    let small = |n: &usize| u32::try_from(*n).map_err(|_| CudaError::InternalError("a size beyond 2^32"));
    let size = |arg: &Arg| if let Arg::U32(n) = arg { small(n) } else { Ok(0) };
    let sizes = args.iter().map(size).collect::<std::result::Result<Vec<u32>, _>>()?;
    let mut builder = kernel.builder();
    for (arg, size) in args.iter().zip(&sizes) {
        match arg {
            Arg::At(x) | Arg::U64(x) => builder.arg(x),
            Arg::Size(x) => builder.arg(x),
            Arg::U32(_) => builder.arg(size),
            Arg::I32(x) => builder.arg(x),
            Arg::F32(x) => builder.arg(x),
            Arg::Sizes8(x) => builder.arg(x),
            Arg::Sizes9(x) => builder.arg(x),
            Arg::Floats(x) => builder.arg(x),
        };
    }
    let config = LaunchConfig {
        grid_dim: (small(&blocks)?, 1, 1),
        block_dim: (small(&threads)?, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: the caller ensures it.
    unsafe { builder.launch(config) }.w()?;
    Ok(())
}

/// The address of the first value of a contiguous part of a storage.
pub(crate) fn address_of<T: CudaDType + DeviceRepr>(storage: &CudaStorage, layout: &Layout) -> Result<u64> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("expected a contiguous tensor, found layout {layout:?}")
    };
    let slice = storage.as_cuda_slice::<T>()?;
    if end > slice.len() {
        candle_core::bail!("expected a storage of {end} values, found {}", slice.len());
    }
    let (first, _ordered) = slice.device_ptr(slice.stream());
    Ok(first + (start * size_of::<T>()) as u64)
}

/// The address of the values of a contiguous tensor.
pub(crate) fn address<T: CudaDType + DeviceRepr>(tensor: &Tensor) -> Result<Arg> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cuda(storage) => address_of::<T>(storage, layout).map(Arg::At),
        _ => candle_core::bail!("expected a tensor on a CUDA device, found one on {:?}", tensor.device()),
    }
}

/// A tensor for a kernel that writes all of its values.
pub(crate) fn unwritten(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
    // SAFETY: the caller's kernel writes every value before it is read.
    unsafe { Tensor::empty(shape, dtype, device) }
}

/// A storage for a kernel that writes all of its values.
pub(crate) fn unwritten_storage(n: usize, device: &CudaDevice) -> Result<CudaStorage> {
    // SAFETY: as above.
    let slice = unsafe { device.alloc::<f32>(n) }?;
    Ok(CudaStorage::wrap_cuda_slice(slice, device.clone()))
}

/// The address of all values of a storage from [`unwritten_storage`] or a product.
pub(crate) fn whole(storage: &CudaStorage, n: usize) -> Result<Arg> {
    address_of::<f32>(storage, &Layout::contiguous(n)).map(Arg::At)
}

/// A matrix product of two storages, by cuBLAS.
pub(crate) fn product(
    (a, a_layout): (&CudaStorage, &Layout),
    (b, b_layout): (&CudaStorage, &Layout),
    bmnk: (usize, usize, usize, usize),
) -> Result<CudaStorage> {
    a.matmul(b, bmnk, a_layout, b_layout)
}

/// Loads a module; fails if driver and build do not match.
pub(crate) fn loads(device: &CudaDevice, module: &Module) -> Result<()> {
    device.get_or_load_custom_func("step", module.0, module.1).map(drop)
}
