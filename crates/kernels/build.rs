//! Compiles the CUDA kernels of `src/cuda`, under the feature `cuda` alone.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    {
        println!("cargo::rerun-if-changed=src/cuda");
        let out = std::env::var("OUT_DIR").expect("cargo sets it");
        // As candle builds its own: with nvcc, for CUDA_COMPUTE_CAP or the GPU at hand.
        let built = cudaforge::KernelBuilder::new()
            .source_files(["src/cuda/layers.cu", "src/cuda/optim.cu", "src/cuda/stats.cu"])
            .watch(["src/cuda/activation.cuh", "src/cuda/threads.cuh"])
            .arg("-O3")
            .arg("-std=c++17")
            .build_ptx()
            .and_then(|ptx| ptx.write(std::path::Path::new(&out).join("ptx.rs")));
        if let Err(error) = built {
            panic!("the CUDA kernels cannot be compiled: is nvcc on the PATH, or NVCC set? {error}");
        }
    }
}
