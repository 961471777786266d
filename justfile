# What CI runs: the tests, then formatting, lints and documentation with warnings denied.
check:
    bash .ci/run

# All tests; set TAPER_DATA to a directory with the MNIST files to run those that need them.
test:
    cargo test --workspace
    cargo build --quiet --example infer --features images
    cargo test --workspace --features images --test images --test infer

# Train on MNIST and watch: `just mnist --act selu`.
mnist *ARGS:
    cargo run --example mnist -- {{ARGS}}

# Write the output of commands into the blocks of the manual that name their command; `--check` compares.
docs-outputs *ARGS:
    .ci/docs-outputs {{ARGS}}

# The documentation of all crates, in a browser.
doc:
    cargo doc --workspace --no-deps --open

# Fuzz one reader for some seconds: `just fuzz idx 60`. Needs cargo-fuzz.
fuzz TARGET SECONDS="60":
    RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer address {{TARGET}} -- -max_total_time={{SECONDS}} -max_len=4096 -timeout=10

# The kernels' tests under AddressSanitizer, which finds accesses out of bounds or after a free, and leaks.
asan *FILTERS:
    RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address cargo test -p taper-kernels --lib --tests --target $(rustc --print host-tuple) --target-dir target/asan -- {{FILTERS}}

# The kernels' unit tests under Miri, which finds undefined behaviour. It is slow, so name some: `just miri sparse:: transpose::`.
# CPU features are not detected under Miri, so the scalar paths run. Needs `rustup +nightly component add miri rust-src`.
miri *FILTERS:
    MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-ignore-leaks -Zmiri-tree-borrows" cargo +nightly miri test -p taper-kernels --lib -- {{FILTERS}}

# Licences, sources and duplicates of all dependencies; known vulnerabilities with `just deny advisories`. Needs cargo-deny.
deny *CHECKS="licenses bans sources":
    cargo deny check {{CHECKS}}

# Speed and memory compared with PyTorch, candle and burn, in alternate runs: `just bench --help`.
bench *ARGS:
    python3 benches/run.py {{ARGS}}

# Compares inference with ONNX Runtime, PyTorch, candle and tract, for files that `infer RUN --save FILE` wrote.
bench-infer *ARGS:
    python3 benches/infer.py {{ARGS}}

# Compares values, statistics and speed on a CUDA device with the CPU and PyTorch; skips without a device.
gpu:
    bash benches/gpu.sh

# The cost of recording everything, in alternate steps; needs MNIST in $TAPER_DATA: `just recording mlp`.
recording *CASES:
    cargo bench -p taper --bench recording --profile dev -- {{CASES}}

# Several processes over MPI: equal bytes, sweeps, bad input, twenty kills. Needs Open MPI; see docs/scaling.md.
mpi:
    cargo build --quiet -p taper-examples --features mpi --example mnist
    .ci/mpi --kills 20 "${CARGO_TARGET_DIR:-target}/debug/examples/mnist"

# Kills a training process fifty times, resumes it each time, and compares the results.
crash:
    cargo test -p taper-examples --test crash -- --nocapture
