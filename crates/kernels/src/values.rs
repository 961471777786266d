//! Access to the values of tensors as slices.

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, DType, Layout, Result, Storage, StorageRef, Tensor};

/// Whether the kernels of this crate can run on these tensors; otherwise the twins in candle operations are used.
pub(crate) fn is_fast(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| t.device().is_cpu() && t.dtype() == DType::F32)
}

/// The values of a contiguous f32 tensor on the CPU, for reading.
pub(crate) struct Values<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl<'a> Values<'a> {
    pub fn of(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let bounds = layout.contiguous_offsets();
        match (&*storage, bounds) {
            (Storage::Cpu(CpuStorage::F32(_)), Some((start, end))) => Ok(Self { range: start..end, storage }),
            _ => candle_core::bail!("expected a contiguous f32 tensor on the CPU, found layout {layout:?}"),
        }
    }
}

impl Deref for Values<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            // Unreachable: `of` accepts only f32 tensors on the CPU.
            _ => &[],
        }
    }
}

/// Calls `f` with the values of a contiguous f32 tensor on the CPU.
pub(crate) fn of_contiguous<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> R {
    f(&Values::of(tensor).expect("the caller's tensor is contiguous, f32 and on the CPU"))
}

/// The values of a contiguous f32 tensor's storage.
pub(crate) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => candle_core::bail!("expected a contiguous tensor, found layout {layout:?}"),
    }
}

/// Calls `f` with the tensor's values in row-major order. The values of a contiguous f32 tensor on the CPU are
/// borrowed; other tensors are copied, which on a GPU also waits for pending work.
///
/// # Errors
/// When the tensor cannot be copied or converted.
pub fn with_values<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let tensor = tensor.to_device(&candle_core::Device::Cpu)?.to_dtype(DType::F32)?.contiguous()?;
    Ok(f(&Values::of(&tensor)?))
}
