#!/usr/bin/env python3
"""Inference of one image at a time, on one thread: Taper with all multiplications and with zeros skipped, ONNX Runtime,
PyTorch, candle and tract, in turns.

Networks are files that `infer RUN --save FILE` wrote. Each round runs every competitor in a process of its own; trust
the ratios more than the microseconds. Needs MNIST in --data or $TAPER_DATA, and in --python torch and safetensors for
PyTorch, onnx and safetensors for tract, and onnxruntime too for ONNX Runtime. A competitor that is not there is left
out, and a line says why. The first build of tract takes some ten minutes on one core.
"""

import argparse
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path
from statistics import median

from run import ROOT, Failure, cargo, environment, names_of, note, span, table, whole_number

PEERS = ["onnxruntime", "pytorch", "candle", "tract"]
# Those that read an ONNX file.
ONNX = ("onnxruntime", "tract")
# As many images as `infer` times.
IMAGES = 2000
# Longer headers of a network's file are not read.
MAX_HEADER = 256 << 10


# What the competitors read.


def values(data, name, header):
    """The bytes of a file of MNIST behind its header."""
    path = Path(data) / name
    raw = path.read_bytes() if path.is_file() else gzip.open(f"{path}.gz").read()
    return raw[header:]


def metadata(path):
    """The metadata of a network's file: the values of `taper_frozen` and `units`."""
    try:
        with open(path, "rb") as file:
            header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), MAX_HEADER)))
        return [json.loads(header["__metadata__"][key]) for key in ("taper_frozen", "units")]
    except (KeyError, ValueError) as error:
        raise Failure(f"{path}: expected a file that `infer RUN --save FILE` wrote") from error


def scaled(pixels, path):
    """The images as the network wants them: f32, (N, 1, 28, 28)."""
    frozen, _ = metadata(path)
    of = [(pixel / 255 - frozen["mean"]) / frozen["std"] for pixel in range(256)]
    return array("f", (of[pixel] for pixel in pixels))


def layers(frozen, units):
    """The words of each layer, with the name of its tensors or `None`."""
    names, found = [name for name, _ in units], []
    for layer in frozen["layers"].split(", "):
        if not re.fullmatch(r"linear|conv \d+|max_pool \d+|relu|selu", layer):
            raise Failure(f"expected linear, conv, max_pool, relu or selu, found '{layer}'")
        words = layer.split()
        found.append((words, names.pop(0) if words[0] in ("linear", "conv") else None))
    return found


def network(path):
    """The layers of a file, each with its words and tensors."""
    from safetensors.numpy import load_file

    tensors = load_file(path)
    return [
        (words, [tensors[f"{name}.{part}"] for part in ("weight", "bias")] if name else [])
        for words, name in layers(*metadata(path))
    ]


# Competitors in Python.


def with_pytorch(path):
    import torch
    from torch import nn

    torch.set_num_threads(1)
    modules, flat = [], False
    for (kind, *rest), tensors in network(path):
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

    return run


def write_onnx(path, to):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, at, flat = [], [], "x", False
    for i, ((kind, *rest), tensors) in enumerate(network(path)):
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
    onnx.save(model, to)


def with_onnxruntime(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"x": image})[0]


def peer(name, path, images):
    """Prints the seconds and the answer of each image."""
    import numpy

    run = {"pytorch": with_pytorch, "onnxruntime": with_onnxruntime}[name](path)
    seconds, answers = [], []
    for image in numpy.fromfile(images, "float32").reshape(-1, 1, 1, 28, 28):
        start = time.perf_counter()
        logits = run(image)
        seconds.append(time.perf_counter() - start)
        answers.append(int(logits.argmax()))
    print(json.dumps({"seconds": seconds, "answers": answers}))


# One process.


def printed(line):
    """What a process prints, on one thread."""
    program = Path(line[0]).name
    try:
        ended = subprocess.run(line, capture_output=True, text=True, env=environment({"threads": 1}))
    except OSError as error:
        raise Failure(f"{program}: {error.strerror}") from error
    if ended.returncode != 0:
        raise Failure(f"{program}: {(ended.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    return ended.stdout


def ours(text):
    """What `infer` prints: of all multiplications and with zeros skipped the microseconds and the right answers."""
    share = float(re.search(r"^accuracy ([\d.]+) %", text, re.MULTILINE)[1])
    return {
        name: {
            "us": float(re.search(rf"^{what}\s+([\d.]+)", text, re.MULTILINE)[1]),
            "right": round(share * IMAGES / 100),
        }
        for name, what in (("dense", "all multiplications"), ("skipping", "zeros skipped"))
    }


def theirs(text, labels):
    """What a competitor prints: the median of its microseconds, its answers and the number of right ones."""
    found = json.loads(text)
    right = sum(answer == label for answer, label in zip(found["answers"], labels, strict=True))
    return {"us": 1e6 * median(found["seconds"]), "right": right, "answers": found["answers"]}


def build(peers):
    """Builds what the competitors need; returns their programs, and takes those that cannot be had from `peers`."""
    made = {
        "candle": (["--bin", "bench-candle-inference"], "bench-candle-inference"),
        "tract": (["--release", "--manifest-path", str(ROOT / "benches/tract/Cargo.toml")], "bench-tract"),
    }
    programs = {"taper": cargo(["--example", "infer"], "infer")}
    for name in [name for name in peers if name in made]:
        try:
            programs[name] = cargo(*made[name])
        except Failure as failure:
            note(f"{name} is left out: {failure}")
            peers.remove(name)
    return programs


def compare(path, peers, programs, args, labels, scratch):
    """Runs everybody `--rounds` times; returns what each of them took, by name. Who fails leaves `peers`."""
    images, onnx, found = scratch / "images", scratch / "net.onnx", {}
    images.write_bytes(scaled(values(args.data, "t10k-images-idx3-ubyte", 16)[: IMAGES * 28 * 28], path))
    script = [args.python, __file__]
    lines = {
        "onnxruntime": [*script, "--peer", "onnxruntime", onnx, images],
        "pytorch": [*script, "--peer", "pytorch", path, images],
        "candle": [programs.get("candle"), path, images],
        "tract": [programs.get("tract"), onnx, images],
    }

    def leave_out(names, failure):
        for name in names:
            note(f"{name} is left out: {failure}")
            peers.remove(name)

    if readers := [name for name in peers if name in ONNX]:
        try:
            printed([*script, "--onnx", path, onnx])
        except Failure as failure:
            leave_out(readers, failure)
    own = [programs["taper"], path, "--dataset", "mnist", "--data-dir", args.data, "--limit", str(IMAGES)]
    for round in range(args.rounds):
        for name, took in ours(printed(own)).items():
            found.setdefault(name, []).append(took)
        for name in list(peers):
            try:
                took = theirs(printed(lines[name]), labels)
            except Failure as failure:
                leave_out([name], failure)
                continue
            found.setdefault(name, []).append(took)
        note(f"{path}  round {round + 1}/{args.rounds}")
    return found


def rows(title, found):
    """A row for each competitor: microseconds, how many times those of Taper, right answers, and answers other than
    those of the first competitor that says its answers."""
    lines = [[title, "us", "it/skipping", "min..max", "it/dense", "right", "other answers"]]
    known = [runs[0]["answers"] for runs in found.values() if "answers" in runs[0]]
    for name, runs in found.items():
        by_skipping, by_dense = (
            [run["us"] / own["us"] for run, own in zip(runs, found[base])] for base in ("skipping", "dense")
        )
        answers = runs[0].get("answers")
        lines.append(
            [
                name,
                f"{median(run['us'] for run in runs):.1f}",
                f"{median(by_skipping):.2f}",
                span(by_skipping, ".2f"),
                f"{median(by_dense):.2f}",
                f"{runs[0]['right']} of {IMAGES}",
                str(sum(a != b for a, b in zip(answers, known[0]))) if answers else "",
            ]
        )
    return lines


def arguments(given=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("networks", nargs="+", metavar="FILE", help="that `infer RUN --save FILE` wrote, for MNIST")
    peers = f"{', '.join(PEERS)} [default: all]"
    add("--peers", type=lambda text: names_of(text, PEERS), default=list(PEERS), metavar="P,..", help=peers)
    add("--rounds", type=whole_number, default=5, metavar="N", help="[default: 5]")
    add("--data", default=os.environ.get("TAPER_DATA"), metavar="DIR", help="[default: $TAPER_DATA]")
    add("--python", default="python3", metavar="PROGRAM", help="[default: python3]")
    # What the program calls itself with, in --python.
    add("--peer", choices=PEERS, help=argparse.SUPPRESS)
    add("--onnx", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(given)
    if args.data is None and not (args.peer or args.onnx):
        parser.error("where is MNIST? give --data DIR or set TAPER_DATA")
    return args


def main():
    args = arguments()
    if args.peer:
        return peer(args.peer, *args.networks)
    if args.onnx:
        return write_onnx(*args.networks)
    labels = values(args.data, "t10k-labels-idx1-ubyte", 8)[:IMAGES]
    peers = list(args.peers)
    programs = build(peers)
    print("microseconds an image, one thread; medians over rounds, ratios by round")
    with tempfile.TemporaryDirectory() as scratch:
        for path in args.networks:
            found = compare(path, peers, programs, args, labels, Path(scratch))
            print()
            table(rows(Path(path).stem, found))


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"error: {failure}")
    except OSError as error:
        sys.exit(f"error: {error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        sys.exit(130)
