"""Makes the golden values of batch normalisation over several steps with PyTorch.

usage: make_goldens.py OUT_DIR
Each file is a state dict, with a batch for every step of training, the outputs for them, and the output in evaluation for the
first batch. `cumulative` has momentum None. Needs torch and safetensors.
"""
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file

torch.manual_seed(1); torch.set_num_threads(1)
for name, norm, size in [("2d", torch.nn.BatchNorm2d(3), (5, 3, 4, 2)), ("1d", torch.nn.BatchNorm1d(3), (5, 3)),
                         ("cumulative", torch.nn.BatchNorm1d(3, momentum=None), (5, 3, 2))]:
    with torch.no_grad():
        norm.weight.copy_(torch.randn(3)); norm.bias.copy_(torch.randn(3))
        xs = torch.randn(4, *size) * 3 + 2
        ys = torch.stack([norm.train()(x) for x in xs])
        out = norm.eval()(xs[0])
    save_file({**norm.state_dict(), "xs": xs, "ys": ys, "eval": out}, str(Path(sys.argv[1]) / f"batch_norm_{name}.safetensors"), metadata={"format": "pt"})
