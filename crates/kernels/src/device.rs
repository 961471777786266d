use candle_core::{Device, Result};

/// A CUDA device, counted from 0, on which all threads of the program share one stream.
///
/// Use it instead of [`Device::new_cuda`], which gives every thread its own stream: a step may then read weights that
/// another thread still writes. On this device operations run in the order of submission, and candle's events, which
/// order streams, are off.
///
/// # Errors
/// When the build has no feature `cuda`, there is no GPU, the driver is too old, or the kernels were compiled for another GPU.
pub fn cuda(ordinal: usize) -> Result<Device> {
    by_feature::cuda(ordinal)
}

#[cfg(not(feature = "cuda"))]
mod by_feature {
    use super::*;
    use crate::error::argument;

    pub fn cuda(_: usize) -> Result<Device> {
        argument(
            "cuda: expected a build with the feature cuda, found one without: build with --features cuda"
                .to_string(),
        )
    }

    pub fn has_one_stream(_: &Device) -> bool {
        true
    }
}

#[cfg(feature = "cuda")]
mod by_feature {
    use candle_core::cuda::{CudaError, cudarc::driver::sys::CUresult};
    use candle_core::{CudaDevice, Error};

    use super::*;
    use crate::cuda::{OPTIM, loads};
    use crate::error::argument;

    pub fn cuda(ordinal: usize) -> Result<Device> {
        let device = CudaDevice::new_with_stream(ordinal).and_then(|device| {
            loads(&device, &OPTIM)?;
            Ok(device)
        });
        match device {
            Ok(device) => {
                // SAFETY: every tensor of this device is allocated, used and freed on its one stream, in the order of submission.
                unsafe { device.disable_event_tracking() };
                Ok(Device::Cuda(device))
            }
            Err(error) => argument(format!("cuda: {}", cause(ordinal, &error))),
        }
    }

    fn cause(ordinal: usize, error: &Error) -> String {
        use CUresult::*;
        let text = match code(error) {
            Some(CUDA_ERROR_NO_DEVICE) => {
                "expected a GPU, found none: does nvidia-smi show one, and CUDA_VISIBLE_DEVICES name it?"
            }
            Some(CUDA_ERROR_INVALID_DEVICE) => {
                return format!("expected at least {} GPUs, found fewer", ordinal.saturating_add(1));
            }
            Some(CUDA_ERROR_OUT_OF_MEMORY) => {
                "expected free memory on the GPU, found none: does another program use it?"
            }
            Some(
                CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
                | CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE
                | CUDA_ERROR_UNSUPPORTED_PTX_VERSION
                | CUDA_ERROR_STUB_LIBRARY,
            ) => {
                "expected a driver for the CUDA version of this build, found an older one: update the driver, or build with an \
                 older CUDA"
            }
            Some(CUDA_ERROR_NO_BINARY_FOR_GPU | CUDA_ERROR_INVALID_PTX) => {
                "expected a build for this GPU, found one for another: set CUDA_COMPUTE_CAP and build again"
            }
            _ => match error {
                Error::WithBacktrace { inner, .. } => return cause(ordinal, inner),
                error => return format!("the GPU cannot be used: {error}"),
            },
        };
        text.to_string()
    }

    /// The driver's code in an error of candle.
    fn code(error: &Error) -> Option<CUresult> {
        match error {
            Error::WithBacktrace { inner, .. } | Error::Context { inner, .. } => code(inner),
            Error::Cuda(inner) => match inner.downcast_ref::<CudaError>()? {
                CudaError::Cuda(error) => Some(error.0),
                CudaError::Load { cuda, .. } => Some(cuda.0),
                _ => None,
            },
            _ => None,
        }
    }

    pub fn has_one_stream(device: &Device) -> bool {
        /// `CU_STREAM_PER_THREAD` of the driver's interface.
        const PER_THREAD: usize = 2;
        match device {
            Device::Cuda(device) => device.cuda_stream().cu_stream().addr() != PER_THREAD,
            _ => true,
        }
    }
}

/// Refuses a CUDA device with a stream per thread, as [`Device::new_cuda`] makes it.
///
/// # Errors
/// For such a device.
pub fn check_stream(device: &Device) -> Result<()> {
    match by_feature::has_one_stream(device) {
        true => Ok(()),
        false => crate::error::argument(
            "device: expected one stream for all threads, found one for each: make the device with taper::cuda(0)".to_string(),
        ),
    }
}
