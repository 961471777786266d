#!/usr/bin/env python3
"""Inference of one image at a time, on one thread: Taper with all multiplications and with zeros skipped, ONNX Runtime
and PyTorch, in turns.

Networks are files that `infer RUN --save FILE` wrote. Each round runs every competitor in a process of its own; trust
the ratios more than the microseconds. Needs MNIST in --data or $TAPER_DATA, and in --python torch, safetensors and
numpy, with onnx and onnxruntime for that competitor.
"""

import argparse
import gzip
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from run import Failure, cargo, note, span, table

PEERS = ["onnxruntime", "pytorch"]
# As many as `infer` times in a turn, and the turns.
IMAGES, TURNS = 200, 10


def images(data):
    """The test images in [0, 1], (N, 1, 28, 28)."""
    import numpy

    path = Path(data) / "t10k-images-idx3-ubyte"
    raw = path.read_bytes() if path.is_file() else gzip.open(f"{path}.gz").read()
    pixels = numpy.frombuffer(raw, numpy.uint8, offset=16).reshape(-1, 1, 28, 28)
    return (pixels[: IMAGES * TURNS] / 255).astype(numpy.float32)


def network(path):
    """The layers of a file, each with its words and tensors, and how its input is scaled."""
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        header = json.loads(file.metadata()["taper_frozen"])
        names = list(dict.fromkeys(name.rpartition(".")[0] for name in file.keys()))
        tensors = {name: [file.get_tensor(f"{name}.{part}") for part in ("weight", "bias")] for name in names}
    kinds = {kind: sorted(n for n in names if tensors[n][0].ndim == d) for kind, d in (("conv", 4), ("linear", 2))}
    layers = []
    for layer in header["layers"].split(", "):
        words = layer.split()
        layers.append((words, tensors[kinds[words[0]].pop(0)] if words[0] in kinds else []))
    return layers, header["mean"], header["std"]


def with_pytorch(path):
    import torch
    from torch import nn

    torch.set_num_threads(1)
    modules, flat = [], False
    layers, mean, std = network(path)
    for (kind, *rest), tensors in layers:
        if kind in ("conv", "linear"):
            weight, bias = map(torch.from_numpy, tensors)
            if kind == "linear" and not flat:
                modules.append(nn.Flatten())
                flat = True
            made = nn.Linear(*weight.shape[::-1]) if kind == "linear" else nn.Conv2d(*weight.shape[1::-1], weight.shape[2:])
            made.weight.data, made.bias.data = weight, bias
        else:
            made = {"relu": nn.ReLU, "selu": nn.SELU}[kind]() if kind in ("relu", "selu") else nn.MaxPool2d(int(rest[0]))
        modules.append(made)
    net = nn.Sequential(*modules).eval()

    def run(image):
        with torch.inference_mode():
            return net(torch.from_numpy(image))

    return run, mean, std


def with_onnxruntime(path):
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    layers, mean, std = network(path)
    nodes, constants, at, flat = [], [], "x", False
    for i, ((kind, *rest), tensors) in enumerate(layers):
        inputs = [at]
        for part, values in zip("wb", tensors):
            constants.append(numpy_helper.from_array(values, f"{part}{i}"))
            inputs.append(f"{part}{i}")
        if kind == "linear" and not flat:
            nodes.append(helper.make_node("Flatten", inputs[:1], ["flat"]))
            inputs[0], flat = "flat", True
        at = f"y{i}"
        name = {"linear": "Gemm", "conv": "Conv", "relu": "Relu", "selu": "Selu", "max_pool": "MaxPool"}[kind]
        side = int(rest[0]) if rest else 0
        more = {"linear": {"transB": 1}, "max_pool": {"kernel_shape": [side] * 2, "strides": [side] * 2}}.get(kind, {})
        nodes.append(helper.make_node(name, inputs, [at], **more))
    shapes = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 1, 28, 28]), (at, None))]
    graph = helper.make_graph(nodes, "net", shapes[:1], shapes[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return (lambda image: session.run(None, {"x": image})[0]), mean, std


def peer(name, path, data):
    """Prints the median of the microseconds an image."""
    run, mean, std = {"pytorch": with_pytorch, "onnxruntime": with_onnxruntime}[name](path)
    xs = ((images(data) - mean) / std).astype("float32")
    times = []
    for i in range(len(xs)):
        x = xs[i : i + 1]
        start = time.perf_counter()
        run(x)
        times.append(time.perf_counter() - start)
    print(json.dumps({"us": 1e6 * median(times)}))


def ours(program, path, data):
    """Microseconds an image: all multiplications, zeros skipped."""
    line = [program, path, "--dataset", "mnist", "--data-dir", str(data)]
    printed = subprocess.run(line, capture_output=True, text=True)
    if printed.returncode != 0:
        raise Failure(f"infer: {printed.stderr.strip()}")
    return [
        float(re.search(rf"^{what}\s+([\d.]+)", printed.stdout, re.MULTILINE)[1])
        for what in ("all multiplications", "zeros skipped")
    ]


def theirs(python, name, path, data):
    line = [python, __file__, "--peer", name, "--data", str(data), path]
    environment = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    printed = subprocess.run(line, capture_output=True, text=True, env=environment)
    if printed.returncode != 0:
        raise Failure(f"{name} is left out: {(printed.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    return json.loads(printed.stdout)["us"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", metavar="FILE", help="that `infer RUN --save FILE` wrote, for MNIST")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="[default: 5]")
    parser.add_argument("--data", default=os.environ.get("TAPER_DATA"), metavar="DIR", help="[default: $TAPER_DATA]")
    parser.add_argument("--python", default="python3", metavar="PROGRAM", help="[default: python3]")
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.data is None:
        parser.error("where is MNIST? give --data DIR or set TAPER_DATA")
    if args.peer:
        return peer(args.peer, args.networks[0], args.data)
    program, peers = cargo(["--example", "infer"], "infer"), list(PEERS)
    rows = [["", "dense", "skipping", *PEERS, *(f"{what}/skipping" for what in ("dense", *PEERS)), "onnxruntime/dense"]]
    for path in args.networks:
        found = {}
        for round in range(args.rounds):
            dense, skipping = ours(program, path, args.data)
            found.setdefault("dense", []).append(dense)
            found.setdefault("skipping", []).append(skipping)
            for name in list(peers):
                try:
                    found.setdefault(name, []).append(theirs(args.python, name, path, args.data))
                except Failure as failure:
                    note(failure)
                    peers.remove(name)
            note(f"{path}  round {round + 1}/{args.rounds}")
        cells = [f"{median(found[what]):.1f}" if found.get(what) else "-" for what in ("dense", "skipping", *PEERS)]
        for top, under in [("dense", "skipping"), *((name, "skipping") for name in PEERS), ("onnxruntime", "dense")]:
            ratios = [a / b for a, b in zip(found.get(top, []), found[under])]
            cells.append(f"{median(ratios):.2f} ({span(ratios, '.2f')})" if ratios else "-")
        rows.append([Path(path).stem, *cells])
    print("microseconds an image, one thread; medians over rounds, ratios by round")
    table(rows)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"error: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
