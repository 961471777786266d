#!/usr/bin/env bash
# What a CUDA build computes and how fast it trains, beside PyTorch on the same GPU: `just gpu`. Some minutes, with the program
# built beforehand. GPU names a program that was built elsewhere, PYTHON one with torch.
set -euo pipefail
cd "$(dirname "$0")/.."
gpu() {
    if [ -n "${GPU:-}" ]; then "$GPU" "$@"; else cargo bench --quiet -p taper --features cuda --bench gpu --profile dev -- "$@"; fi
}
if [ -z "${GPU:-}" ] && ! command -v nvidia-smi >/dev/null; then
    echo "skipped: no GPU here (there is no nvidia-smi)"
    exit 0
fi
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader || true
failed=0
gpu check || failed=1
gpu pools || failed=1
for width in 512 3072 4096; do gpu bits "$width" || failed=1; done
# In turns, so that a change of clocks meets all of them.
for _ in 1 2; do
    for model in mlp cnn; do
        gpu train "$model" off
        gpu train "$model" recorded
        if "${PYTHON:-python3}" -c 'import torch' 2>/dev/null; then
            "${PYTHON:-python3}" benches/pytorch_gpu.py "$model" off
            "${PYTHON:-python3}" benches/pytorch_gpu.py "$model" recorded
        fi
    done
done
exit $failed
