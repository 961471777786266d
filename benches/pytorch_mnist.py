#!/usr/bin/env python3
"""The PyTorch side of the benchmark: the same models, batch sizes and optimisers on MNIST, on the CPU.

Prints one line per epoch: training samples per second (without evaluation), mean loss, test accuracy.
--hooks full adds forward hooks that record nearly what Taper's recorder does behind every ReLU: exact zeros, moments,
a histogram, and mean and firing count of each unit. --hooks counts leaves out moments and histogram.
Needs torch and numpy.
"""

import argparse
import gzip
import json
import resource
import sys
import time
from pathlib import Path

MODELS = {"mlp": [512, 256], "mlp1000": [1000, 1000, 1000], "cnn": [128]}
MEAN, STD = 0.1307, 0.3081
TEST_BATCH = 1000


def since_start():
    """Seconds since the process was started, to a hundredth: importing torch counts."""
    # The program's name, in parentheses, may hold blanks; field 22, the start, is the 20th behind it.
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / 100


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"error: {message} (see --help)\n")


def arguments():
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="the four IDX files of MNIST, gzipped")
    add("--model", choices=MODELS, default="mlp", help="default: %(default)s")
    add("--widths", metavar="W,W,..", help="hidden widths of an MLP, in place of the model's")
    add("--optimizer", choices=["sgd", "adamw"], default="sgd", help="default: %(default)s")
    add("--lr", type=float, metavar="RATE", help="learning rate; default: 0.05 for sgd, 0.001 for adamw")
    add("--hooks", choices=["full", "counts"], help="record what the activations do; counts: no moments, no histogram")
    add("--epochs", type=int, default=2, metavar="N", help="default: %(default)s")
    add("--samples", type=int, default=60_000, metavar="N", help="per epoch; default: %(default)s")
    add("--test-samples", type=int, default=10_000, metavar="N", help="to evaluate on; default: %(default)s")
    add("--batch-size", type=int, default=128, metavar="N", help="default: %(default)s")
    add("--threads", type=int, default=2, metavar="N", help="default: %(default)s")
    add("--dropout", type=float, default=0.0, metavar="P", help="default: %(default)s")
    add("--json", action="store_true", help="print JSON lines: one per epoch, and one at the end")
    args = parser.parse_args()
    if args.widths and args.model == "cnn":
        parser.error("--widths is for MLPs: leave out --model cnn")
    try:
        args.hidden = [int(width) for width in args.widths.split(",")] if args.widths else MODELS[args.model]
    except ValueError:
        parser.error(f"--widths: expected whole numbers with commas between them, found {args.widths}")
    if not 1 <= args.batch_size <= args.samples <= 60_000:
        parser.error("expected 1 <= --batch-size <= --samples <= 60000")
    if not 1 <= args.test_samples <= 10_000:
        parser.error("expected 1 <= --test-samples <= 10000")
    return args


args = arguments()
try:
    import numpy
    import torch
    import torch.nn.functional as F
    from torch import nn
except ImportError as error:
    sys.exit(f"error: {error}; needs torch and numpy")


def idx(name, header):
    """The bytes of an IDX file behind its header."""
    path = args.data / f"{name}.gz"
    try:
        with gzip.open(path) as file:
            return numpy.frombuffer(file.read(), numpy.uint8, offset=header).copy()
    except OSError as error:
        sys.exit(f"error: {path}: {error.strerror or error}")


def load(name):
    """Images (N, 784), for a CNN (N, 1, 28, 28), and labels (N)."""
    shape = (1, 28, 28) if args.model == "cnn" else (28 * 28,)
    pixels = torch.tensor(idx(f"{name}-images-idx3-ubyte", 16)).reshape(-1, *shape)
    labels = torch.tensor(idx(f"{name}-labels-idx1-ubyte", 8))
    # In place: temporary copies of the whole set would stand in the peak of memory.
    return pixels.float().div_(255).sub_(MEAN).div_(STD), labels.long()


def network():
    layers, inputs = [], 28 * 28
    dropout = [nn.Dropout(args.dropout)] if args.dropout > 0 else []
    if args.model == "cnn":
        layers = [
            nn.Conv2d(1, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            *dropout,
        ]
        inputs = 64 * 12 * 12
    for width in args.hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU(), *dropout]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 10))


class Recorder:
    """What a forward hook on one ReLU adds up."""

    def __init__(self):
        self.values = self.fired = self.sums = 0
        self.powers = torch.zeros(4, dtype=torch.float64)
        self.histogram = torch.zeros(64)

    def __call__(self, module, inputs, ys):
        ys, samples = ys.detach(), (0, 2, 3) if ys.dim() == 4 else 0
        self.values += ys.numel()
        self.fired += (ys > 0).sum(samples)
        self.sums += ys.sum(samples)
        if args.hooks == "full":
            self.powers += torch.stack([(ys**k).sum() for k in range(1, 5)]).double()
            self.histogram += torch.histc(ys, 64, -1, 10)


def accuracy(net, images, labels):
    net.eval()
    with torch.no_grad():
        batches = zip(images.split(TEST_BATCH), labels.split(TEST_BATCH))
        return sum((net(xs).argmax(1) == ys).sum().item() for xs, ys in batches) / len(labels)


def main():
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    images, labels = load("train")
    test_images, test_labels = (of[: args.test_samples] for of in load("t10k"))
    net = network()
    recorders = [Recorder() for layer in net if args.hooks and isinstance(layer, nn.ReLU)]
    for recorder, layer in zip(recorders, (layer for layer in net if isinstance(layer, nn.ReLU))):
        layer.register_forward_hook(recorder)
    if args.optimizer == "sgd":
        optimizer = torch.optim.SGD(net.parameters(), lr=args.lr or 0.05)
    else:
        optimizer = torch.optim.AdamW(net.parameters(), lr=args.lr or 1e-3)

    first_batch = None
    for epoch in range(1, args.epochs + 1):
        net.train()
        start = time.perf_counter()
        order = torch.randperm(len(labels))[: args.samples // args.batch_size * args.batch_size]
        # A single sample is a view; a batch must be copied.
        batches = [slice(i, i + 1) for i in order.tolist()] if args.batch_size == 1 else order.split(args.batch_size)
        total = steps = 0
        for chosen in batches:
            xs, ys = images[chosen], labels[chosen]
            if first_batch is None:
                first_batch = since_start()
            loss = F.cross_entropy(net(xs), ys)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
            steps += 1
        speed = steps * args.batch_size / (time.perf_counter() - start)
        right = accuracy(net, test_images, test_labels)
        if args.json:
            line = {"epoch": epoch, "samples_per_second": speed, "loss": total / steps, "accuracy": right}
            print(json.dumps(line), flush=True)
        else:
            percent = f"{100 * right:.2f} %"
            print(f"epoch {epoch} {speed:.0f} samples/s loss {total / steps:.4f} test {percent}", flush=True)

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if args.json:
        print(json.dumps({"peak_rss_mib": peak, "start_to_first_batch_s": first_batch}))
        return
    for recorder in recorders:
        dead = int((recorder.fired == 0).sum())
        zeros = 1 - int(recorder.fired.sum()) / recorder.values
        print(f"zeros {zeros:.4f} dead {dead}/{len(recorder.fired)}")
    print(f"peak {peak:.0f} MiB, first batch {first_batch:.2f} s after the start")


main()
