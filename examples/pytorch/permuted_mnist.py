#!/usr/bin/env python3
"""Online permuted MNIST in PyTorch, on one core: the accuracy of each task, and the time of a step.

    python3 examples/pytorch/permuted_mnist.py MNIST_DIR [TASKS [IMAGES]]

MNIST_DIR holds MNIST's four files, gzipped or not. Network, initialisation and steps are those of the authors' program (Dohare
et al. 2024), and of `papers permuted-mnist`: see docs/papers.md.
"""

import gzip
import pathlib
import sys
import time

import numpy
import torch
from torch import nn
from torch.nn.functional import cross_entropy


def idx(directory, name):
    path = next(p for p in sorted(pathlib.Path(directory).iterdir()) if p.name.replace(".idx", "-idx").startswith(name))
    data = gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes()
    shape = [int.from_bytes(data[4 * i + 4 : 4 * i + 8], "big") for i in range(data[3])]
    return torch.from_numpy(numpy.frombuffer(data, numpy.uint8, offset=4 + 4 * len(shape)).reshape(shape).copy())


def network():
    layers = []
    for inputs, units in (784, 100), (100, 100), (100, 100), (100, 10):
        linear = nn.Linear(inputs, units)
        nn.init.kaiming_uniform_(linear.weight, nonlinearity="linear" if units == 10 else "relu")
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def main(directory, tasks="3", images="60000"):
    torch.set_num_threads(1)
    torch.manual_seed(1)
    xs = idx(directory, "train-images").flatten(1).float() / 255
    ys, net = idx(directory, "train-labels").long(), network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.003)
    for task in range(int(tasks)):
        order = torch.randperm(len(xs))
        xs, ys = xs[order][:, torch.randperm(784)], ys[order]
        correct, begin = 0, time.process_time()
        for i in range(int(images)):
            optimizer.zero_grad()
            logits = net(xs[i : i + 1])
            cross_entropy(logits, ys[i : i + 1]).backward()
            optimizer.step()
            correct += int(logits.argmax() == ys[i])
        seconds = time.process_time() - begin
        print(f"task {task}: {100 * correct / int(images):.2f} %, {1e6 * seconds / int(images):.1f} us of CPU a step", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
