#!/usr/bin/env python3
"""The first steps of a CNN in PyTorch: units of fc1 that fall silent, with the rate of fc1.weight scaled by a factor.

    python3 examples/pytorch/dead_units.py MNIST_DIR [FACTOR]

MNIST_DIR holds MNIST's four files, gzipped or not. The network, its initialisation and the data are those of
`mnist --model cnn --limit 4000 --epochs 1 --dropout 0`; see docs/dead-units.md. Per seed: units silent for the whole batch at
steps 1, 2, 3, 6, 11 and 21, then on 4,000 test samples, and the test accuracy.
"""

import gzip
import math
import pathlib
import sys

import numpy
import torch
from torch import nn
from torch.nn.functional import cross_entropy, max_pool2d, relu

SAMPLES, BATCH, RATE = 4000, 128, 1e-3


def idx(directory, name):
    path = next(p for p in sorted(pathlib.Path(directory).iterdir()) if p.name.replace(".idx", "-idx").startswith(name))
    data = gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes()
    shape = [int.from_bytes(data[4 * i + 4 : 4 * i + 8], "big") for i in range(data[3])]
    values = numpy.frombuffer(data, numpy.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    return torch.from_numpy(values[:SAMPLES].copy())


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3)
        self.fc1, self.fc2 = nn.Linear(9216, 128), nn.Linear(128, 10)
        for layer in (self.conv1, self.conv2, self.fc1):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.fc2.weight, std=128**-0.5)
        nn.init.zeros_(self.fc2.bias)

    def hidden(self, xs):
        return relu(self.fc1(max_pool2d(relu(self.conv2(relu(self.conv1(xs)))), 2).flatten(1)))


def run(seed, factor, train, test):
    torch.manual_seed(seed)
    net = Cnn()
    groups = [{"params": [p], "factor": factor if name == "fc1.weight" else 1.0} for name, p in net.named_parameters()]
    optimizer = torch.optim.Adam(groups, lr=RATE)
    order, steps, silent = torch.randperm(SAMPLES), math.ceil(SAMPLES / BATCH), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * group["factor"] * 0.5 * (1 + math.cos(math.pi * step / steps))
        batch = order[step * BATCH : (step + 1) * BATCH]
        hidden = net.hidden(train[0][batch])
        if step in (0, 1, 2, 5, 10, 20):
            silent.append(int((hidden <= 0).all(0).sum()))
        optimizer.zero_grad()
        cross_entropy(net.fc2(hidden), train[1][batch]).backward()
        optimizer.step()
    with torch.no_grad():
        hidden = torch.cat([net.hidden(xs) for xs in test[0].split(500)])
        accuracy = (net.fc2(hidden).argmax(1) == test[1]).double().mean()
    dead = int((hidden <= 0).all(0).sum())
    print(f"seed {seed}: silent {silent}, dead on test {dead} of 128, accuracy {accuracy:.2%}", flush=True)


def main(directory, factor="1"):
    torch.set_num_threads(1)
    images = [idx(directory, f"{split}-images").float()[:, None] / 255 for split in ("train", "t10k")]
    mean, std = images[0].mean(), images[0].std()
    train, test = ((xs - mean) / std for xs in images)
    labels = [idx(directory, f"{split}-labels").long() for split in ("train", "t10k")]
    for seed in (1, 2, 3):
        run(seed, eval_fraction(factor), (train, labels[0]), (test, labels[1]))


def eval_fraction(text):
    """`1/18` or `0.05`."""
    above, _, below = text.partition("/")
    return float(above) / float(below or 1)


main(*sys.argv[1:])
