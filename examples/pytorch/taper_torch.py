"""Watches what activations do while a PyTorch network trains, and writes the run directory that Taper's page shows.

    watch = taper_torch.Watch(net, "runs/torch", dataset="digits", epochs=5, loss="cross-entropy", labels={"act": "relu"})
    for epoch in range(5):
        with watch.train():
            ...  # the training batches: net in train mode
        with watch.test():
            ...  # the test batches: net in evaluation mode
        watch.end_epoch(train={"loss": 0.4, "accuracy": 0.88}, test={"loss": 0.5, "accuracy": 0.85})

Then `cargo run --example report -- runs/torch` draws the page. Every number is defined in Taper's docs/statistics.md,
the files in docs/formats.md. Copy this file into your project: it needs PyTorch 2.1 or newer and the standard library.
"""

import contextlib
import itertools
import json
import math
import pathlib
import time
import warnings

import torch
from torch import nn

VERSION = 2  # of the format
BINS = 258  # of magnitude, on each side of zero
NEAR_ZERO = FLAT = 0.01
KINDS = ("share", "higher", "lower")

# Modules that are found by themselves: any elementwise module may be added. Its derivative comes from autograd.
ACTIVATIONS = {
    nn.ReLU: "relu", nn.LeakyReLU: "leaky_relu", nn.PReLU: "prelu", nn.ELU: "elu", nn.CELU: "celu", nn.SELU: "selu",
    nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.Softplus: "softplus", nn.Softsign: "softsign", nn.Hardtanh: "hardtanh",
    nn.Hardsigmoid: "hardsigmoid", nn.Hardswish: "hardswish", nn.ReLU6: "relu6", nn.GELU: "gelu", nn.SiLU: "silu",
    nn.Mish: "mish",
}  # fmt: skip
PARAMETERS = {
    "leaky_relu": ("negative_slope", 0.01), "elu": ("alpha", 1.0), "celu": ("alpha", 1.0), "softplus": ("beta", 1.0),
}  # fmt: skip
ZERO_FLOORED = ("relu", "relu2", "relu6")


class Watch:
    """Records the activations of `net` in windows, and writes what they did as each epoch ends.

    net      the network; its weights and gradients, and random numbers, are as without a watch
    path     directory of the run; where it is taken, `path-2` and so on: see `watch.path`
    dataset, loss, model   what they are, as text; the model is its class without it
    epochs   how many are planned
    labels   what tells this run from others: names and texts, numbers or truth values
    sites    None: behind every module of `ACTIVATIONS`, under the name of the layer in front, which is the last module
             with a weight of two or more axes that ran before. Or a dict of module names: `{"fc1": F.relu}` is the
             place behind the function that the model applies to the output of `fc1`; `{"fc1": None}` is the output
             itself; a module of `ACTIVATIONS` is a place behind its own function
    units    axis of the units by site, 1 or -1, where the layer in front does not imply it: the last one behind
             `nn.Linear`, the second behind a convolution
    output   name of the module whose output is the network's: recorded too, and none of its units is called dormant
    kinds    which values of a metric are better: "share" (in [0, 1], more is better), "higher" or "lower"
    config   anything else that is needed to repeat the run

    Tensors have the batch first. The seed of the run is `torch.initial_seed()`. Wrong use is a ValueError with the cure.
    What goes wrong at a site while the network trains is a RuntimeWarning, and that window's record leaves it out.
    """

    def __init__(
        self, net, path, *, dataset, epochs, loss, model=None, labels=None,
        sites=None, units=None, output=None, kinds=None, config=None,
    ):  # fmt: skip
        self._net, self._units, self._output = net, dict(units or {}), output
        self._kinds = {"accuracy": "share", **(kinds or {})}
        for name, kind in self._kinds.items():
            if kind not in KINDS:
                raise ValueError(f"kinds: expected one of {', '.join(KINDS)} for '{name}', found {kind!r}")
        self._names = {module: name for name, module in net.named_modules()}
        modules = {name: module for module, name in self._names.items() if name}
        found = {name: None for name, module in modules.items() if text(module)} if sites is None else dict(sites)
        if not found and sites is None:
            raise ValueError("expected modules of ACTIVATIONS, found none: name places, as in sites={'fc1': F.relu}")
        if output is not None:
            found.setdefault(output, None)
        for name in (*found, *self._units):
            if name not in modules:
                raise ValueError(f"expected the name of a module, found '{name}': the network has {', '.join(modules)}")
        self._named = {modules[name]: name for name in found} if sites is not None else {}
        self._functions = {modules[name]: f for name, f in found.items()}
        self._owners = {}  # the module that each site is behind, by the site's name
        self._windows, self._open, self._pass = {}, None, None  # of this epoch; the open one; the pass that runs
        self._inputs = {}  # of modules that work in place
        self._epoch, self._dead = -1, {}  # the last one, and by split and site which units were dead

        self._run = {"labels": dict(sorted((labels or {}).items())), "seed": torch.initial_seed()}
        record = {
            "dataset": dataset, "model": model or type(net).__name__, **self._run, "loss": loss,
            "parameters": sum(p.numel() for p in net.parameters() if p.requires_grad),
            "epochs": epochs, "config": {"torch": torch.__version__, **(config or {})},
        }  # fmt: skip
        json.dumps(record, allow_nan=False)  # what cannot be written is an error before there is a directory
        self.path = fresh_directory(path)
        self._run = {"run": self.path.name, **self._run}
        record = json.dumps({"v": VERSION, "name": self.path.name, **record}, indent=2, ensure_ascii=False)
        (self.path / "config.json").write_bytes(record.encode() + b"\n")
        # Bound methods: a deep copy of the network has hooks of its own, which record nothing.
        self._hooks = [net.register_forward_pre_hook(self._begin_pass, with_kwargs=True)]
        for module in self._names:
            if module in self._functions:
                if getattr(module, "inplace", False):
                    self._hooks.append(module.register_forward_pre_hook(self._save_input))
                self._hooks.append(module.register_forward_hook(self._see))
            if is_layer(module):
                self._hooks.append(module.register_forward_hook(self._layer_ran))
        self._hooks.append(net.register_forward_hook(self._end_pass, always_call=True))

    def train(self):
        """The window of the training batches, while the weights move; it may be entered again within an epoch."""
        return self._window("train")

    def validation(self):
        """The window of one pass over the validation split, in evaluation mode."""
        return self._window("validation")

    def test(self):
        """The window of one pass over the test split, in evaluation mode."""
        return self._window("test")

    def end_epoch(self, epoch=None, *, train=None, validation=None, test=None, learning_rate=None):
        """Writes the epoch's lines. Each split that had a window has scores: `loss`, the mean per sample, and metrics.

        Epochs count from 1 by themselves; `end_epoch(0, test=...)` is the untrained network, before the first.
        """
        scores = {"train": train, "validation": validation, "test": test}
        scores = {split: dict(score) for split, score in scores.items() if score is not None}
        epoch = max(self._epoch, 0) + 1 if epoch is None else epoch
        if self._open:
            found = f"watch.{self._open.split}()"
            raise ValueError(f"end_epoch: expected no open window, found {found}: call it behind the with block")
        if scores.keys() != self._windows.keys():
            expected, given = ", ".join(self._windows) or "none", ", ".join(scores) or "none"
            raise ValueError(f"end_epoch: expected scores of the splits that had a window ({expected}), found {given}")
        if epoch <= self._epoch:
            raise ValueError(f"end_epoch: expected an epoch above {self._epoch}, found {epoch}")
        if epoch == 0 and "train" in scores:
            raise ValueError("end_epoch: expected epoch 0 to be the untrained network, found a window of train")
        files = {"metrics": b"", "layers": b"", "timing": b""}
        dead_now = {}
        for split, score in scores.items():
            window = self._windows[split]
            start = {"v": VERSION, **self._run, "epoch": epoch, "split": split}
            rate = learning_rate if split == "train" else None
            files["metrics"] += line(start, self._metrics(window, score, rate))
            for name, tally in window.sites.items():
                if not tally.sums:  # trouble from the start, of which there was a warning
                    continue
                before = self._dead.get(split, {}).get(name)
                stats, dead = tally.stats(name, before)
                if dead is not None and epoch > 0:
                    dead_now.setdefault(split, {})[name] = dead
                if stats["nan"] or stats["infinite"]:
                    what = f"{stats['nan']} NaN and {stats['infinite']} infinite activations"
                    warn(f"{what} at site '{name}' in epoch {epoch} ({split})")
                files["layers"] += line(start, stats)
            timing = {
                "seconds": window.seconds,
                "samples_per_second": window.samples / window.seconds,
                "tracking_fraction": window.tracking / window.seconds,
            }
            files["timing"] += line(start, timing)
        for name, lines in files.items():
            # Not created anew: a file that was deleted meanwhile is an error.
            with open(self.path / f"{name}.jsonl", "r+b") as file:
                file.seek(0, 2)
                file.write(lines)
        self._dead |= dead_now
        self._epoch, self._windows = epoch, {}

    def close(self):
        """Takes the hooks off the network."""
        for hook in self._hooks:
            hook.remove()

    def _metrics(self, window, score, learning_rate):
        split = window.split
        if window.samples == 0:
            raise ValueError(f"watch.{split}(): expected passes of the network that Watch was given, found none")
        if "loss" not in score:
            found = ", ".join(score) or "none"
            raise ValueError(f"end_epoch: expected a loss among the scores of {split}, found {found}")
        loss, metrics = finite(score.pop("loss")), {name: finite(value) for name, value in score.items()}
        for name in metrics:
            if name not in self._kinds:
                cure = f"Watch(kinds={{'{name}': 'lower'}})"
                raise ValueError(f"end_epoch: expected to know which values of '{name}' are better: {cure}")
        return {
            "loss": loss, "samples": window.samples,
            "metrics": metrics, "kinds": {name: self._kinds[name] for name in metrics},
            "learning_rate": None if learning_rate is None else finite(learning_rate),
        }  # fmt: skip

    @contextlib.contextmanager
    def _window(self, split):
        if self._open:
            raise ValueError(f"watch.{split}(): expected no open window, found watch.{self._open.split}()")
        if split != "train" and split in self._windows:
            raise ValueError(f"watch.{split}(): expected one window an epoch, found a second: call end_epoch first")
        self._open = window = self._windows.setdefault(split, Window(split))
        start = time.perf_counter()
        try:
            yield
        finally:
            window.seconds += time.perf_counter() - start
            self._open = self._pass = None

    def _begin_pass(self, net, args, kwargs):
        if (window := self._open) is None:
            return
        if net.training and window.split != "train":
            raise ValueError(f"watch.{window.split}(): expected the network in evaluation mode: call net.eval() first")
        xs = next((xs for xs in (*args, *kwargs.values()) if isinstance(xs, torch.Tensor) and xs.dim() > 0), None)
        window.samples += 0 if xs is None else len(xs)
        window.training = net.training if window.training is None else window.training
        self._pass = Pass()

    def _end_pass(self, _net, _args, _ys):
        self._pass = None
        self._inputs.clear()

    def _layer_ran(self, module, _args, _ys):
        if self._pass:
            self._pass.layer = module

    def _save_input(self, module, args):
        if self._pass:
            self._inputs[module] = args[0].detach().clone()

    def _see(self, module, args, ys):
        # What runs outside of a pass of the network was counted before, as where checkpointing repeats a part of one.
        if (seen := self._pass) is None:
            return
        start, window = time.perf_counter(), self._open
        layer = module if is_layer(module) else seen.layer
        name = self._name(module, layer)
        try:
            if name not in window.faulty:
                self._record(window, name, module, layer, args, ys)
        except Exception as error:  # training goes on, and the site is not in the records as if all were well
            window.faulty.add(name)
            window.sites.pop(name, None)
            warn(f"site '{name}' is left out of this window of {window.split}: {type(error).__name__}: {error}")
        window.tracking += time.perf_counter() - start

    def _name(self, module, layer):
        if module in self._named:
            return self._named[module]
        name = self._names[module if layer is None else layer]
        # A second function behind one layer has a name of its own.
        return name if self._owners.setdefault(name, module) is module else self._names[module]

    def _record(self, window, name, module, layer, args, ys):
        f, label, xs, slope = self._functions[module], text(module), None, None
        if not isinstance(ys, torch.Tensor) or not ys.is_floating_point():
            found = ys.dtype if isinstance(ys, torch.Tensor) else type(ys).__name__
            raise ValueError(f"expected a tensor of floats, found {found}")
        axis = unit_axis(ys.shape, layer, self._units.get(name))
        if label:
            xs = self._inputs.pop(module, None)
            xs = args[0].detach() if xs is None else xs
            slope = values_and_slopes(module.forward, xs)[1]
        elif f is not None:
            label, xs = text(f) or getattr(f, "__name__", type(f).__name__), ys.detach()
            ys, slope = values_and_slopes(f, xs)
        self._pass.uses[name] = uses = self._pass.uses.get(name, 0) + 1
        units, is_output = ys.shape[axis], self._names[module] == self._output
        tally = window.sites.setdefault(name, Tally(label, units, slope is not None, is_output))
        if tally.trouble is None:
            if window.training != self._net.training:
                tally.trouble = "modes_mixed"
            elif tally.units != units:
                tally.trouble = {"units_changed": {"expected": tally.units, "found": units}}
            if tally.trouble:
                warn(f"site '{name}' is not recorded further in this window of {window.split}: {tally.trouble}")
        if tally.trouble is None and ys.numel() > 0:
            tally.uses = max(tally.uses, uses)
            tally.add(*(None if t is None else in_rows(t, axis) for t in (ys, xs, slope)))


class Pass:
    """One forward pass: the layer that ran last, and how often each site came."""

    def __init__(self):
        self.layer, self.uses = None, {}


class Window:
    """What is summed up over one split in one epoch."""

    def __init__(self, split):
        self.split, self.training, self.samples, self.seconds, self.tracking = split, None, 0, 0.0, 0.0
        self.sites, self.faulty = {}, set()


class Tally:
    """Everything that is summed up at one site over a window. It grows with the number of units, not of samples."""

    def __init__(self, activation, units, has_slope, is_output):
        self.activation, self.units, self.has_slope, self.is_output = activation, units, has_slope, is_output
        self.uses, self.trouble, self.sums, self.moments, self.extremes = 0, None, {}, None, None

    def add(self, ys, xs, slope):
        """Adds a batch, f32 of the shape `(N, units, positions)`; without a function `xs` and `slope` are None."""
        keep = ys.isfinite()
        y = torch.where(keep, ys, 0).double()
        size, square = y.abs(), y * y
        counted, active = keep.sum((1, 2)), (y != 0).sum((1, 2))
        population, hoyer, scored = sparseness(counted, size.sum((1, 2)), square.sum((1, 2)))
        batch = {
            "samples": len(ys), "values": ys.numel(), "nan": ys.isnan().sum(), "infinite": ys.isinf().sum(),
            "zeros": (ys == 0).sum(), "negatives": (y < 0).sum(), "positives": (y > 0).sum(),
            "near_zeros": (keep & (ys.abs() <= NEAR_ZERO)).sum(), "bins": bins(ys, keep),
            # of each unit
            "observations": keep.sum((0, 2)), "fired": (y > 0).sum((0, 2)),
            "size": size.sum((0, 2)), "square": square.sum((0, 2)),
            # over samples with a finite value
            "counted": (counted > 0).sum(), "active": active.sum(), "all_zero": ((counted > 0) & (active == 0)).sum(),
            "scored": scored.sum(), "population": population.sum(), "hoyer": hoyer.sum(),
        }  # fmt: skip
        if slope is not None:
            flat = keep & (slope.abs() < FLAT)
            batch["flat_low"], batch["flat_high"] = (flat & (xs <= 0)).sum(), (flat & (xs > 0)).sum()
            batch["passed"] = (keep & (slope != 0)).sum((0, 2))
        for name, value in batch.items():
            self.sums[name] = self.sums.get(name, 0) + value
        least = torch.where(counted > 0, active, torch.iinfo(active.dtype).max)
        low, high = torch.where(keep, ys, math.inf), torch.where(keep, ys, -math.inf)
        extremes = [low.amin(), -high.amax(), least.amin(), -active.amax()]
        if self.extremes is not None:
            extremes = [torch.minimum(a, b) for a, b in zip(self.extremes, extremes)]
        self.extremes = extremes
        moments = central_moments(y, keep)
        self.moments = moments if self.moments is None else merged(self.moments, moments)

    def stats(self, name, dead_before):
        """The fields of a line of `layers.jsonl`, and which units are dead."""
        s = {key: value.tolist() if isinstance(value, torch.Tensor) else value for key, value in self.sums.items()}
        observations, fired = self.sums["observations"].cpu(), self.sums["fired"].cpu()
        size, square, seen = self.sums["size"].cpu(), self.sums["square"].cpu(), observations > 0
        low, high, least, most = (x.item() for x in self.extremes)
        number, mean, m2, m3, m4 = (x.item() for x in self.moments)
        some = number > 0
        variance = m2 / number if some else None
        count = lambda which: (seen & which).sum().item()
        share = lambda part, whole: part / whole if whole else None
        # A score of Sokar et al. 2023 for each unit; units without a finite value count nowhere.
        mean_size = torch.where(seen, size / observations, 0)
        dormancy = mean_size / (mean_size.sum() / seen.sum().clamp(min=1) + 1e-9)
        dormant = lambda tau: None if self.is_output else count(dormancy <= tau)
        partly = seen & (fired > 0) & (fired < observations)
        twentieth = 20 * fired[partly] // observations[partly]
        lifetime, _, scored = sparseness(observations, size, square)
        floored = self.has_slope and self.activation in ZERO_FLOORED
        dead = passed = None
        if self.has_slope:
            passed = self.sums["passed"].cpu()
            dead = (seen & (passed == 0)).tolist()
        rare = (passed > 0) & (fired / observations < 0.01) if floored else None
        compare = dead is not None and dead_before is not None and len(dead_before) == len(dead)
        crossed = lambda was, now: sum((b, d) == (was, now) for b, d in zip(dead_before, dead)) if compare else None
        flat = lambda side: share(s[side], number) if self.has_slope else None
        samples = s["counted"] > 0
        histogram, quantiles, asymmetry = from_bins(s["bins"]) if some else (None, None, None)
        stats = {
            "site": name, "activation": self.activation, "uses": self.uses,
            **({"trouble": self.trouble} if self.trouble else {}),
            "units": self.units, "samples": s["samples"], "values": s["values"],
            "zeros": s["zeros"], "negatives": s["negatives"], "positives": s["positives"],
            "near_zeros": s["near_zeros"], "near_zero_bound": NEAR_ZERO, "nan": s["nan"], "infinite": s["infinite"],
            "zero_fraction": s["zeros"] / s["values"],
            "mean": mean if some else None, "variance": variance,
            "skewness": m3 / number / variance**1.5 if variance else None,
            "excess_kurtosis": m4 / number / variance**2 - 3 if variance else None,
            # Adding 0 makes -0 a plain 0.
            "min": low + 0.0 if some else None, "max": -high + 0.0 if some else None,
            "histogram": histogram, "quantiles": quantiles, "asymmetry": asymmetry,
            "flat_low": flat("flat_low"), "flat_high": flat("flat_high"),
            "dead": None if dead is None else sum(dead),
            "rare": count(rare) if floored else None,
            "always_on": count(fired == observations),
            "dormant_0": dormant(0.0), "dormant_0_025": dormant(0.025), "dormant_0_1": dormant(0.1),
            "died": crossed(False, True), "revived": crossed(True, False), "still_dead": crossed(True, True),
            "dead_units": [unit for unit, is_dead in enumerate(dead or []) if is_dead],
            "rare_units": torch.nonzero(seen & rare).flatten().tolist() if floored else [],
            "firing_rate": {
                "never": count(fired == 0), "between": torch.bincount(twentieth, minlength=20).tolist(),
                "always": count((fired == observations) & (fired > 0)),
            },
            "active_per_sample": {"mean": s["active"] / s["counted"], "min": least, "max": -most} if samples else None,
            "population_sparseness": share(s["population"], s["scored"]), "hoyer": share(s["hoyer"], s["scored"]),
            "samples_all_zero": s["all_zero"] if samples else None,
            "lifetime_sparseness": share(lifetime.sum().item(), scored.sum().item()),
            "std": None if variance is None else math.sqrt(variance),
            "dead_fraction": None if dead is None else sum(dead) / self.units,
        }  # fmt: skip
        return stats, dead


def sparseness(n, sum_abs, sum_squares):
    """Population sparseness and Hoyer's of sets of `n` values, and which sets have one; 0 for the others."""
    scored = (n > 1) & (sum_squares > 0)
    n, sum_squares = torch.where(scored, n, 2).double(), torch.where(scored, sum_squares, 1)
    a = sum_abs * sum_abs / (n * sum_squares)
    population = (1 - a) / (1 - 1 / n)
    hoyer = (n.sqrt() - sum_abs / sum_squares.sqrt()) / (n.sqrt() - 1)
    return torch.where(scored, population, 0), torch.where(scored, hoyer, 0), scored


def central_moments(y, keep):
    """Number, mean, and sums of the second to fourth powers of the deviations from it, of the values to `keep`."""
    number = keep.sum().double()
    mean = y.sum() / number.clamp(min=1)
    d = torch.where(keep, y - mean, 0)
    return number, mean, (d**2).sum(), (d**3).sum(), (d**4).sum()


def merged(one, other):
    """Moments of both sets of values together (Pébay 2008)."""
    (na, mean, a2, a3, a4), (nb, mean_b, b2, b3, b4) = one, other
    n, d = na + nb, mean_b - mean
    a, b = na / n.clamp(min=1), nb / n.clamp(min=1)
    m2 = a2 + b2 + d**2 * na * b
    m3 = a3 + b3 + d**3 * na * b * (a - b) + 3 * d * (a * b2 - b * a2)
    m4 = a4 + b4 + d**4 * na * b * (a * a - a * b + b * b)
    m4 = m4 + 6 * d**2 * (a * a * b2 + b * b * a2) + 4 * d * (a * b3 - b * a3)
    return n, mean + d * b, m2, m3, m4


def bins(ys, keep):
    """Counts of f32 values by bin, read from the bits, eight to the octave: positive, negative, then zeros."""
    magnitude = ((ys.contiguous().view(torch.int32) & 0x7FFFFFFF) >> 20) - ((127 - 20) << 3) + 1
    code = magnitude.clamp(0, BINS - 1) + torch.where(ys < 0, BINS, 0)
    code = torch.where(ys == 0, 2 * BINS, torch.where(keep, code, 2 * BINS + 1))
    return torch.bincount(code.flatten(), minlength=2 * BINS + 2)[:-1]


def from_bins(counts):
    """Histogram as it is written, quantiles, asymmetry."""
    positive, negative, zeros = counts[:BINS], counts[BINS : 2 * BINS], counts[2 * BINS]
    total = sum(counts)
    edge = lambda i: 2.0 ** (i // 8 - 20) * (1 + i % 8 / 8)
    middle = [edge(0) / 2, *((edge(i) + edge(i + 1)) / 2 for i in range(BINS - 2)), edge(BINS - 2)]
    values = [-x for x in reversed(middle)] + [0.0] + middle
    seen = list(itertools.accumulate(negative[::-1] + [zeros] + positive))

    def quantile(q):
        rank = min(max(math.ceil(q * total), 1), total)
        return next(value for value, n in zip(values, seen) if n >= rank)

    sparse = lambda side: [[bin, n] for bin, n in enumerate(side) if n]
    histogram = {"zeros": zeros, "negative": sparse(negative), "positive": sparse(positive)}
    quantiles = {f"q{p:02}": quantile(p / 100) for p in (1, 5, 25, 50, 75, 95, 99)}
    return histogram, quantiles, sum(abs(p - n) for p, n in zip(positive, negative)) / total


def values_and_slopes(f, xs):
    """`f(xs)` and `f'(xs)` of an elementwise function, by autograd on a copy: the slopes that training has."""
    with torch.inference_mode(False), torch.enable_grad():
        xs = xs.detach().clone().requires_grad_()
        # A second copy, for functions that work in place.
        ys = f(xs.clone())
        return ys.detach(), torch.autograd.grad(ys, xs, torch.ones_like(ys))[0]


def in_rows(xs, axis):
    """f32 of the shape `(N, units, positions)`."""
    xs = xs.detach().float().movedim(axis, 1)
    xs = xs.reshape(*xs.shape[:2], -1)
    return xs.cpu() if xs.device.type == "mps" else xs  # which has no f64


def unit_axis(shape, layer, told):
    """The axis of the units: as told, else as the layer in front implies, else the second."""
    if len(shape) < 2:
        raise ValueError(f"expected the shape (N, units, ..) or (N, .., units), found {tuple(shape)}")
    if told is not None:
        return told
    if isinstance(layer, nn.modules.conv._ConvNd):
        return 1
    if isinstance(layer, (nn.Linear, nn.Bilinear, nn.Embedding)):
        return -1
    if len(shape) == 3:
        raise ValueError(f"expected to know the axis of the units of {tuple(shape)}: Watch(units={{SITE: 1}}) or -1")
    return 1


def is_layer(module):
    """Whether it has a weight of two or more axes: it gives its name to the activation behind."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and (nn.parameter.is_lazy(weight) or weight.dim() > 1)


def text(module):
    """The activation function as Taper writes it: `relu`, `leaky_relu:0.2`; None if the module is none."""
    name = next((ACTIVATIONS[of] for of in type(module).__mro__ if of in ACTIVATIONS), None)
    if name == "gelu" and getattr(module, "approximate", "none") == "tanh":
        return "gelu_tanh"
    attribute, default = PARAMETERS.get(name, ("", None))
    value = getattr(module, attribute, default)
    return name if value == default else f"{name}:{value:.12g}"


def fresh_directory(path):
    """Makes the directory, or `path-2` and so on: nothing is overwritten, and no two processes share one."""
    path = pathlib.Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    for n in itertools.count(1):
        candidate = path if n == 1 else path.with_name(f"{path.name}-{n}")
        with contextlib.suppress(FileExistsError):
            candidate.mkdir(exist_ok=True)
            if not any(candidate.iterdir()):
                # Of two processes that see an empty directory, one can create its first file.
                for name in ("metrics", "layers", "timing"):
                    open(candidate / f"{name}.jsonl", "x").close()
                return candidate


def line(start, fields):
    record = json.dumps({**start, **fields}, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return record.encode() + b"\n"


def finite(x):
    """A number for JSON, which has no NaN and no infinity."""
    x = float(x)
    return x if math.isfinite(x) else None


def warn(what):
    warnings.warn(what, RuntimeWarning, stacklevel=3)
