"""Loads a pruned network into PyTorch by its metadata and compares its answers with those in a file.

    python pruned.py net.safetensors XS YS     (raw little-endian f32)
"""

import json
import sys

import torch
from safetensors import safe_open
from torch import nn

with safe_open(sys.argv[1], "pt") as file:
    metadata = file.metadata()
    tensors = {name: file.get_tensor(name) for name in file.keys()}
units = dict(json.loads(metadata["units"]))
header = json.loads(metadata["taper_frozen"])
channels, height, width = header["input"]
assert header["layers"] == (
    "conv 3 pad 1, batch_norm, relu, max_pool 2, conv 3 pad 1, relu, flatten, batch_norm, linear, relu, linear"
), header


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        features = units["conv2"] * (height // 2) * (width // 2)
        self.conv1 = nn.Conv2d(channels, units["conv1"], 3, padding=1)
        self.norm1 = nn.BatchNorm2d(units["conv1"])
        self.conv2 = nn.Conv2d(units["conv1"], units["conv2"], 3, padding=1)
        self.norm2 = nn.BatchNorm1d(features)
        self.fc1 = nn.Linear(features, units["fc1"])
        self.fc2 = nn.Linear(units["fc1"], units["fc2"])

    def forward(self, xs):
        xs = torch.max_pool2d(torch.relu(self.norm1(self.conv1(xs))), 2)
        xs = self.norm2(torch.relu(self.conv2(xs)).flatten(1))
        return self.fc2(torch.relu(self.fc1(xs)))


def floats(path):
    with open(path, "rb") as file:
        return torch.frombuffer(bytearray(file.read()), dtype=torch.float32)


net = Net().eval()
missing, unexpected = net.load_state_dict(tensors, strict=False)
# The number of batches, which evaluation does not use.
assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing), (missing, unexpected)
xs = floats(sys.argv[2]).reshape(-1, channels, height, width)
with torch.no_grad():
    logits = net((xs - header["mean"]) / header["std"])
own = floats(sys.argv[3]).reshape(len(xs), -1)
differ = (logits.argmax(1) != own.argmax(1)).sum().item()
furthest = (logits - own).abs().max().item()
assert furthest <= 1e-4 * own.abs().max().item(), furthest
print(f"{len(xs)} images, {differ} answers differ")
