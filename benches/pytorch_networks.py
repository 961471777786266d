#!/usr/bin/env python3
"""Trains a network of `crates/taper/benches/networks.rs` with PyTorch, without hooks; prints microseconds a step."""

import argparse
import pathlib
import sys
import time

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("network", choices=["batch_norm", "transformer"])
parser.add_argument("--steps", type=int, default=200, metavar="N", help="that are measured; default: %(default)s")
parser.add_argument("--threads", type=int, default=2, metavar="N", help="default: %(default)s")
args = parser.parse_args()
try:
    import torch
    import torch.nn.functional as F
    from torch import nn

    sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "crates/taper/tests/goldens"))
    from make_transformer import Transformer
except ImportError as error:
    sys.exit(f"error: {error}; needs torch and safetensors")


def batch_norm():
    layers = []
    for inputs, outputs in [(1, 8), (8, 16)]:
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 7 * 7, 10))


torch.manual_seed(0)
torch.set_num_threads(args.threads)
if args.network == "transformer":
    net, shape = Transformer(steps=28, inputs=28, width=64, heads=4, classes=10), (64, 28, 28)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.01)
else:
    net, shape = batch_norm(), (128, 1, 28, 28)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3)
batches = [(torch.randn(shape), torch.randint(0, 10, shape[:1])) for _ in range(16)]
for step in range(-args.steps // 4, args.steps):
    if step == 0:
        start = time.perf_counter()
    xs, ys = batches[step % len(batches)]
    loss = F.cross_entropy(net(xs), ys)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    loss.item()
print(1e6 * (time.perf_counter() - start) / args.steps)
