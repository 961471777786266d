#!/usr/bin/env python3
"""Trains the same networks with Taper and with others, in turns, and compares speed, memory and start.

Every number is from a process of its own. The competitors take turns, each round in another order, so that what
else the machine does hits all of them alike: trust the ratios more than the speeds.

Needs the four files of MNIST, gzipped, in --data or $TAPER_DATA. A competitor that is not there (no torch, no
burn) is left out, and a line says why.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
FILES = [
    f"{split}-{what}.gz"
    for split in ("train", "t10k")
    for what in ("images-idx3-ubyte", "labels-idx1-ubyte")
]

# Epochs, and samples in each of them, so that a process takes five to ten seconds on two cores; behind them the
# samples for competitors that are many times slower.
CASES = {
    "mlp/sgd": {"epochs": 3, "samples": 60_000, "fewer": {"candle": 30_000}},
    "mlp/adamw": {"epochs": 3, "samples": 60_000, "fewer": {"candle": 15_000}},
    "mlp1000/sgd": {"epochs": 2, "samples": 20_000, "fewer": {"candle": 10_000}},
    "cnn/sgd": {
        "epochs": 2,
        "samples": 3840,
        # One step an epoch: the convolutions of ndarray make five or ten samples a second.
        "fewer": {"candle": 512, "burn-flex": 1280, "burn-ndarray": 128},
    },
    # One sample a step, on one thread, with counts recorded. A higher learning rate diverges.
    "online/sgd": {
        "lr": 0.001,
        "epochs": 2,
        "samples": 20_000,
        "fewer": {"pytorch": 5000, "pytorch-hooks": 5000, "candle": 2000, "burn-flex": 2000, "burn-ndarray": 2000},
        "batch": 1,
        "threads": 1,
        "track": "counts",
    },
}
BATCH = 128
WIDTHS = {"mlp": "512,256", "mlp1000": "1000,1000,1000", "cnn": "128", "online": "100,100,100"}
LEARNING_RATES = {"sgd": 0.05, "adamw": 0.001}
PEERS = ["taper", "taper-off", "pytorch", "pytorch-hooks", "candle", "burn-flex", "burn-ndarray"]
SWEEPS = {
    "batch": [1, 4, 16, 64, 128, 256, 1024, 4096],
    "width": [2**k for k in range(6, 14)],
    "depth": [1, 2, 5, 10, 20, 50],
    "threads": [1, 2],
    "data": [3750, 7500, 15_000, 30_000, 60_000],
}


class Failure(Exception):
    """One line for whoever called."""


def note(text):
    print(text, file=sys.stderr, flush=True)


# Competitors.


def build(peers):
    """Builds what the competitors need; returns their programs, and says which cannot be had."""
    programs = {}
    if any(peer.startswith("taper") for peer in peers):
        programs["taper"] = cargo(["--example", "mnist"], "mnist")
    if "candle" in peers:
        programs["candle"] = cargo(["--bin", "bench-candle"], "bench-candle")
    burn = ["--release", "--manifest-path", str(ROOT / "benches/burn/Cargo.toml")]
    if "burn-ndarray" in peers:
        try:
            programs["burn-ndarray"] = cargo([*burn, "--features", "ndarray"], "bench-burn")
            programs["burn-flex"] = programs["burn-ndarray"]
        except Failure as failure:
            note(f"burn-ndarray is left out: {failure}")
    if "burn-flex" in peers and "burn-flex" not in programs:
        try:
            programs["burn-flex"] = cargo(burn, "bench-burn")
        except Failure as failure:
            note(f"burn-flex is left out: {failure}")
    return programs


def cargo(arguments, name):
    """Builds a program; returns where it is."""
    command = ["cargo", "build", "--message-format", "json-render-diagnostics", *arguments]
    note(f"building {name}")
    try:
        built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except OSError as error:
        raise Failure(f"cargo: {error.strerror}") from error
    if built.returncode != 0:
        errors = [line for line in built.stderr.splitlines() if line.startswith("error")]
        raise Failure(f"`{' '.join(command)}` fails: {errors[0] if errors else 'no reason given'}")
    for line in built.stdout.splitlines():
        artifact = json.loads(line)
        if artifact.get("executable") and artifact["target"]["name"] == name:
            return artifact["executable"]
    raise Failure(f"cargo built no {name}")


def torch_version(python):
    """The version of torch, or `None` and a line that says why there is none."""
    try:
        code = "import numpy, torch; print(torch.__version__)"
        asked = subprocess.run([python, "-c", code], capture_output=True, text=True)
    except OSError as error:
        note(f"pytorch is left out: {python}: {error.strerror}")
        return None
    if asked.returncode != 0:
        reason = (asked.stderr.strip().splitlines() or ["no reason given"])[-1]
        note(f"pytorch is left out: {python}: {reason}")
        return None
    return asked.stdout.strip()


def command(peer, programs, python, data, work, out):
    """The command line with which `peer` does `work`, and where its run is written, if it writes one."""
    if peer.startswith("taper"):
        track = "off" if peer == "taper-off" else work["track"]
        text = (
            f"--dataset mnist --data-dir {data} --act relu --dropout 0 --schedule constant --quiet"
            f" --model {'cnn' if work['model'] == 'cnn' else 'mlp'} --widths {work['widths']}"
            f" --optimizer {work['optimizer']} --lr {work['lr']} --epochs {work['epochs']}"
            f" --limit {work['samples']} --batch-size {work['batch']} --threads {work['threads']}"
            f" --track {track} --out {out}"
        )
        return [programs["taper"], *text.split()]
    text = (
        f"--json --data {data} --model {work['model']} --optimizer {work['optimizer']}"
        f" --epochs {work['epochs']} --samples {work['samples']} --batch-size {work['batch']}"
        f" --test-samples {min(work['samples'], 10_000)} --threads {work['threads']}"
    )
    if work["model"] != "cnn":
        text += f" --widths {work['widths']}"
    text += f" --lr {work['lr']}"
    if peer.startswith("pytorch"):
        hooks = ["--hooks", work["track"]] if peer == "pytorch-hooks" else []
        return [python, str(ROOT / "benches/pytorch_mnist.py"), *text.split(), *hooks]
    backend = ["--backend", peer.removeprefix("burn-")] if peer.startswith("burn-") else []
    return [programs[peer], *text.split(), *backend]


# One process.


def run(peer, setup, work):
    """Runs one process to its end; returns what it took."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "run"
        line = command(peer, setup["programs"], setup["python"], setup["data"], work, out)
        with open(Path(scratch) / "out", "w+") as stdout, open(Path(scratch) / "err", "w+") as stderr:
            start = time.monotonic()
            process = subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=environment(work)
            )
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except KeyboardInterrupt:
                process.kill()
                raise
            wall = time.monotonic() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            for file in (stdout, stderr):
                file.seek(0)
            printed, errors = stdout.read(), stderr.read()
        if process.returncode != 0:
            reason = (errors.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
            raise Failure(f"{peer}: {reason}")
        took = taper_record(out, errors) if peer.startswith("taper") else peer_record(printed)
    # What the kernel counted, for all alike. It cannot be less than what this program itself has, some 20 MiB.
    took |= {"peak_mib": usage.ru_maxrss / 1024, "cpu_s": usage.ru_utime + usage.ru_stime, "wall_s": wall}
    return took


def environment(work):
    """The environment of a competitor: with as many threads as it is given, whoever it asks."""
    own = dict(os.environ, RUST_LOG="taper_experiment=debug")
    for name in ("RAYON", "OMP", "MKL", "OPENBLAS", "MATMUL"):
        own[f"{name}_NUM_THREADS"] = str(work["threads"])
    # Python's own cache of compiled modules belongs to a start as people see it.
    own.pop("PYTHONDONTWRITEBYTECODE", None)
    return own


def taper_record(out, errors):
    def lines(name):
        return [json.loads(line) for line in (out / name).read_text().splitlines()]

    timing = [line for line in lines("timing.jsonl") if line["split"] == "train"]
    metrics = lines("metrics.jsonl")
    marks = [line.rpartition("=")[2] for line in errors.splitlines() if "first batch seconds=" in line]
    return {
        "samples_per_second": timing[-1]["samples_per_second"],
        "loss": [line["loss"] for line in metrics if line["split"] == "train"][-1],
        "accuracy": [line["metrics"]["accuracy"] for line in metrics if line["split"] == "test"][-1],
        "first_batch_s": float(marks[0]) if marks else None,
    }


def peer_record(printed):
    *epochs, end = [json.loads(line) for line in printed.splitlines()]
    last = {name: epochs[-1][name] for name in ("samples_per_second", "loss", "accuracy")}
    return last | {"first_batch_s": end["start_to_first_batch_s"]}


def rounds(peers, count, works, label, setup):
    """Runs every competitor `count` times, in turns; yields a record per process. Who fails drops out."""
    peers = list(peers)
    for i in range(count):
        # Each round begins with another one: nobody always runs behind the same neighbour.
        for peer in peers[i % len(peers) :] + peers[: i % len(peers)] if peers else []:
            try:
                took = run(peer, setup, works(peer))
            except Failure as failure:
                note(f"{label}: {failure}")
                peers.remove(peer)
                continue
            note(f"{label}  round {i + 1}/{count}  {peer:<13}  {took['samples_per_second']:>9,.0f} samples/s")
            yield {"case": label, "peer": peer, "round": i + 1} | works(peer) | took


# Numbers and tables.


def by_peer(records):
    peers = {}
    for record in records:
        peers.setdefault(record["peer"], []).append(record)
    return peers


def ratios(records, base, field):
    """Of every competitor: median of `base` over its own, and the same round by round.

    Above 1 `base` has more of `field`.
    """
    peers, found = by_peer(records), {}
    own = {record["round"]: record[field] for record in peers.get(base, [])}
    for peer, runs in peers.items():
        pairs = [own[of["round"]] / of[field] for of in runs if of["round"] in own and of[field]]
        if pairs:
            whole = median(own.values()) / median(of[field] for of in runs)
            found[peer] = {"ratio": whole, "median": median(pairs), "min": min(pairs), "max": max(pairs)}
    return found


def table(rows):
    """Columns as wide as they must be; the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        print("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())


def span(values, form):
    return f"{min(values):{form}}..{max(values):{form}}"


def seconds(values):
    known = [value for value in values if value is not None]
    return f"{median(known):.2f} s" if known else "-"


def summary(records, base, field, form):
    """Prints one row per competitor, and returns what it says as records."""
    ratio, lines = ratios(records, base, field), []
    compared_with = [f"{base}/it", "by round", "min..max"]
    rows = [["", field.replace("_", " "), "min..max", *compared_with, "MiB", "first batch", "test"]]
    for peer, runs in by_peer(records).items():
        values = [of[field] for of in runs]
        compared = ratio.get(peer) if peer != base else None
        cells = ["", "", ""]
        if compared:
            around = span([compared["min"], compared["max"]], ".2f")
            cells = [f"{compared['ratio']:.2f}", f"{compared['median']:.2f}", around]
        peak, first = median(of["peak_mib"] for of in runs), seconds(of["first_batch_s"] for of in runs)
        accuracy = f"{100 * median(of['accuracy'] for of in runs):.1f}%"
        rows.append([peer, f"{median(values):{form}}", span(values, form), *cells, f"{peak:,.0f}", first, accuracy])
        lines.append(
            {
                "case": runs[0]["case"],
                "peer": peer,
                "rounds": len(runs),
                field: {"median": median(values), "min": min(values), "max": max(values)},
                f"{base}_over_it": compared,
                "peak_mib": peak,
            }
        )
    table(rows)
    return lines


# What can be asked for.


def case_work(name, peer, args):
    """The work of one competitor in a case."""
    case, (model, optimizer) = CASES[name], name.split("/")
    return {
        "model": "cnn" if model == "cnn" else "mlp",
        "widths": WIDTHS[model],
        "optimizer": optimizer,
        "lr": case.get("lr", LEARNING_RATES[optimizer]),
        "epochs": case["epochs"],
        "samples": args.samples or case["fewer"].get(peer, case["samples"]),
        "batch": case.get("batch", BATCH),
        "threads": case.get("threads", args.threads),
        "track": case.get("track", "full"),
    }


def compare(args, setup, write):
    for name in args.cases:
        records = []
        for record in rounds(
            setup["peers"], args.rounds or 5, lambda peer: case_work(name, peer, args), name, setup
        ):
            record["us_per_step"] = 1e6 * record["batch"] / record["samples_per_second"]
            records.append(record)
            write("process", record)
        work = case_work(name, "taper", args)
        print(
            f"\n{name}  batch {work['batch']}, threads {work['threads']}, recorded: {work['track']};"
            " the last epoch, training only"
        )
        field, form = ("us_per_step", ",.1f") if work["batch"] == 1 else ("samples_per_second", ",.0f")
        for line in summary(records, "taper", field, form):
            write("summary", line)


def whole(args, setup, write):
    work = {
        "model": "mlp",
        "widths": WIDTHS["mlp"],
        "optimizer": "sgd",
        "lr": LEARNING_RATES["sgd"],
        "epochs": 2,
        "samples": args.samples or 60_000,
        "batch": BATCH,
        "threads": args.threads,
        "track": "full",
    }
    records = []
    for record in rounds(setup["peers"], args.rounds or 5, lambda peer: work, "whole", setup):
        records.append(record)
        write("process", record)
    print(f"\nwhole job: mlp/sgd, 2 epochs, {args.threads} threads, from the start of the process to its end")
    for line in summary(records, "taper", "wall_s", ".2f"):
        write("summary", line)


def point(kind, value, threads):
    """The work of one point of a sweep: small, and fewer samples where each takes longer."""
    work = {"model": "mlp", "widths": WIDTHS["mlp"], "optimizer": "sgd", "epochs": 2, "batch": BATCH}
    # The least rate that a deep network does not fall over: how fast it is does not depend on it.
    work |= {"lr": 0.001, "samples": 20_000, "threads": threads, "track": "full"}
    if kind == "batch":
        work |= {"batch": value, "samples": {1: 2000, 4: 8000, 16: 16_000}.get(value, max(20_000, 5 * value))}
    elif kind == "width":
        work |= {"widths": str(value), "samples": min(20_000, max(3840, 128 * (80_000 // value)))}
    elif kind == "depth":
        work |= {"widths": ",".join(["256"] * value), "samples": min(20_000, 128 * (800 // value))}
    elif kind == "threads":
        work["threads"] = value
    else:
        work["samples"] = value
    return work


def sweep(args, setup, write):
    records = {}
    for value in SWEEPS[args.sweep]:
        work = point(args.sweep, value, args.threads)
        if args.samples:
            work["samples"] = max(args.samples, work["batch"])
        for record in rounds(setup["peers"], args.rounds or 1, lambda peer: work, f"{args.sweep} {value}", setup):
            record["us_per_sample"] = 1e6 / record["samples_per_second"]
            records.setdefault(value, []).append(record)
            write("process", record | {"sweep": args.sweep, "value": value})
    print(f"\n{args.sweep}: microseconds a sample in training, and peak MiB; {args.threads} threads where not said")
    rows = [[args.sweep, *(f"{peer} {what}" for what in ("us", "MiB") for peer in setup["peers"])]]
    for value, of in records.items():
        peers = by_peer(of)
        cells = [
            f"{median(run[field] for run in peers[peer]):,.{digits}f}" if peer in peers else "-"
            for field, digits in (("us_per_sample", 1), ("peak_mib", 0))
            for peer in setup["peers"]
        ]
        rows.append([str(value), *cells])
    table(rows)


# The command line.


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"error: {message} (see --help)\n")


def whole_number(text):
    value = int(text) if text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text}")
    return value


def cases(text):
    """`cnn/sgd`, or `mlp` for all of that model."""
    chosen = []
    for part in text.split(","):
        found = [name for name in CASES if part in (name, name.split("/")[0])]
        if not found:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(CASES)}, found {part}")
        chosen += [name for name in found if name not in chosen]
    return chosen


def names_of(text, known):
    chosen = list(dict.fromkeys(text.split(",")))
    for part in chosen:
        if part not in known:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(known)}, found {part}")
    return chosen


def peer_names(text):
    chosen = names_of(text, PEERS)
    # Everything is compared with it.
    return chosen if "taper" in chosen else ["taper", *chosen]


def arguments(given=None):
    parser = Parser(
        prog="just bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  just bench                                     everything; half an hour\n"
        "  just bench --cases mlp,cnn --peers pytorch     some of it\n"
        "  just bench --case online --peers pytorch       batch 1 on one thread: microseconds a step\n"
        "  just bench --whole                             from the start of the process to its end\n"
        "  just bench --sweep width --out width.jsonl     a curve, and its numbers in a file\n",
    )
    add = parser.add_argument
    add("--cases", "--case", type=cases, default=list(CASES), metavar="C,..", help=f"{', '.join(CASES)} [default: all]")
    add("--peers", type=peer_names, metavar="P,..", help=f"{', '.join(PEERS)} [default: all]")
    add("--rounds", type=whole_number, metavar="N", help="processes of each [default: 5, in a sweep 1]")
    add("--samples", type=whole_number, metavar="N", help="per epoch, in place of those of the case: for trying out")
    add("--threads", type=whole_number, default=2, metavar="N", help="of each [default: 2]")
    what = parser.add_mutually_exclusive_group()
    job = "two epochs of the MLP, from the start of the process to its end, Taper and PyTorch"
    what.add_argument("--whole", action="store_true", help=job)
    what.add_argument("--sweep", choices=SWEEPS, help="a curve over this, Taper and PyTorch")
    add("--data", type=Path, metavar="DIR", help="MNIST's four files, gzipped [default: $TAPER_DATA]")
    add("--python", default="python3", metavar="PROGRAM", help="a Python that has torch and numpy [default: python3]")
    add("--out", type=Path, metavar="FILE", help="also append everything to this file, as JSON lines")
    args = parser.parse_args(given)
    if args.peers is None:
        args.peers = ["taper", "pytorch"] if args.whole or args.sweep else PEERS
    if args.samples and args.samples > 60_000:
        parser.error(f"argument --samples: MNIST has 60000, found {args.samples}")
    return args


def link_data(args, into):
    """A directory that has the gzipped files alone: nobody reads plain ones that lie beside them."""
    found = args.data or os.environ.get("TAPER_DATA")
    if not found:
        raise Failure("where is MNIST? give --data DIR or set TAPER_DATA")
    for name in FILES:
        path = Path(found).resolve() / name
        if not path.is_file():
            raise Failure(f"{path} is not there: expected MNIST's four files, gzipped")
        (into / name).symlink_to(path)


def machine(args, torch):
    """What the numbers depend on besides the programs."""
    try:
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = models[0].partition(":")[2].strip()
    except (OSError, IndexError):
        cpu = platform.processor()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit.stdout.strip() or None,
        "cpu": cpu,
        "cores": os.cpu_count(),
        "torch": torch,
        "threads": args.threads,
    }


def main():
    args = arguments()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            data = Path(scratch)
            link_data(args, data)
            out = open(args.out, "a", encoding="utf-8") if args.out else None
            peers = list(args.peers)
            torch = torch_version(args.python) if any(peer.startswith("pytorch") for peer in peers) else None
            programs = build(peers)
            here = {"pytorch", "pytorch-hooks"} if torch else set()
            here |= set(programs) | {"taper-off"}
            peers = [peer for peer in peers if peer in here]

            def write(kind, record):
                if out:
                    print(json.dumps({"kind": kind} | record), file=out, flush=True)

            write("machine", machine(args, torch))
            setup = {"peers": peers, "programs": programs, "python": args.python, "data": data}
            (whole if args.whole else sweep if args.sweep else compare)(args, setup, write)
    except Failure as failure:
        sys.exit(f"error: {failure}")
    except OSError as error:
        sys.exit(f"error: {error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
