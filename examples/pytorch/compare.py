"""Runs every activation module behind three kinds of layers, watched, and keeps what went in and came out.

    python compare.py OUT

writes the run directory OUT/run and OUT/tensors.safetensors, with `SITE.BATCH.xs` and `.ys` in f32. The test
`examples/tests/pytorch.rs` gives the same tensors to Taper's recorder and compares every number. It needs no numpy.
"""

import array
import json
import math
import pathlib
import struct
import sys

import taper_torch
import torch
from torch import nn

ACTIVATIONS = [
    *taper_torch.ACTIVATIONS, lambda: nn.LeakyReLU(0.2), lambda: nn.ELU(0.5), lambda: nn.CELU(2.0),
    lambda: nn.GELU("tanh"), lambda: nn.ReLU(inplace=True), lambda: nn.SiLU(inplace=True), lambda: nn.ELU(inplace=True),
]  # fmt: skip
UNITS = 12


class Branches(nn.Module):
    """Side by side: a layer and an activation each."""

    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList()
        for make in ACTIVATIONS:
            for layer in nn.Linear(288, UNITS), nn.Linear(36, UNITS), nn.Conv2d(8, UNITS, 3):
                self.branches.append(nn.Sequential(layer, make()))
        with torch.no_grad():
            for layer, _ in self.branches:
                # Far below zero, far above, seldom above; the others are at kinks throughout.
                layer.bias[:3] = torch.tensor([-1000.0, 1000.0, -3.0])
                layer.weight[3:9] = 0
                layer.bias[3:9] = torch.tensor([0.0, 1.0, -1.0, 3.0, -3.0, 6.0])

    def forward(self, xs):
        for branch in self.branches:
            shape = {288: (len(xs), 288), 36: (len(xs), 8, 36)}.get(getattr(branch[0], "in_features", None), xs.shape)
            branch(xs.reshape(shape))


def save(path, tensors):
    """The safetensors format: the length of the header, the header, the values."""
    header, values = {}, array.array("f")
    for name, xs in tensors.items():
        start = 4 * len(values)
        values.extend(xs.flatten().tolist())
        header[name] = {"dtype": "F32", "shape": list(xs.shape), "data_offsets": [start, 4 * len(values)]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + values.tobytes())


out = pathlib.Path(sys.argv[1])
torch.manual_seed(1)
net = Branches().eval()
watch = taper_torch.Watch(net, out / "run", dataset="noise", epochs=1, loss="none")
tensors, batch = {}, 0
for i, (layer, act) in enumerate(net.branches):
    # Clones, as the activation may work in place.
    keep = lambda what, i=i: lambda _module, _args, xs: tensors.update({f"branches.{i}.0.{batch}.{what}": xs.clone()})
    layer.register_forward_hook(keep("xs"))
    act.register_forward_hook(keep("ys"))
with torch.no_grad(), watch.test():
    for batch, size in enumerate([40, 23, 1]):
        xs = 3 * torch.randn(size, 8, 6, 6)
        if batch == 1:
            xs[3, 2, 1, 1], xs[5, 0, 0, 0], xs[7, 0, 5, 5] = math.nan, math.inf, -math.inf
        net(xs)
watch.end_epoch(test={"loss": 0.0})
save(out / "tensors.safetensors", tensors)
