"""What taper_torch promises: `python test_taper_torch.py`."""

import copy
import json
import math
import pathlib
import tempfile
import unittest
import warnings

import taper_torch
import torch
import torch.nn.functional as F
from torch import nn


def mlp(*activations):
    torch.manual_seed(1)
    first, second = activations or (nn.ReLU(), nn.Tanh())
    return nn.Sequential(nn.Linear(4, 8), first, nn.Linear(8, 8), second, nn.Linear(8, 2))


class Residual(nn.Module):
    """One ReLU at several places, and functions that are no modules."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3, self.act = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2), nn.ReLU()

    def forward(self, xs):
        xs = self.act(self.fc1(xs))
        for _ in range(3):
            xs = xs + self.act(self.fc2(xs))
        return F.softplus(self.fc3(xs))


class TaperTorch(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.dir.name) / "run"
        torch.manual_seed(2)
        self.xs = torch.randn(30, 4)

    def tearDown(self):
        self.dir.cleanup()

    def watch(self, net, **options):
        return taper_torch.Watch(net, self.path, dataset="noise", epochs=1, loss="none", **options)

    def layers(self, watch):
        return [json.loads(line) for line in (watch.path / "layers.jsonl").read_text().splitlines()]

    def observe(self, net, xs=None, **options):
        """The records of one evaluation pass, by site."""
        watch = self.watch(net.eval(), **options)
        with watch.test(), torch.no_grad():
            net(self.xs if xs is None else xs)
        watch.end_epoch(test={"loss": 1.0})
        return {line["site"]: line for line in self.layers(watch)}

    def test_a_watch_changes_neither_weights_nor_gradients_nor_random_numbers(self):
        def trained(watched):
            net = nn.Sequential(*mlp(nn.SiLU(inplace=True), nn.PReLU()), nn.Dropout(0.3))
            watch = self.watch(net) if watched else None
            optimizer = torch.optim.SGD(net.parameters(), 0.1)
            torch.manual_seed(3)
            with watch.train() if watched else torch.enable_grad():
                for _ in range(5):
                    optimizer.zero_grad()
                    net(self.xs).square().mean().backward()
                    optimizer.step()
            return [*net.parameters(), *(p.grad for p in net.parameters()), torch.rand(3)]

        for a, b in zip(trained(True), trained(False)):
            self.assertTrue(torch.equal(a, b))

    def test_a_site_has_the_name_of_the_layer_in_front_and_a_shared_function_is_a_site_at_each(self):
        found = self.observe(Residual())
        self.assertEqual({name: line["uses"] for name, line in found.items()}, {"fc1": 1, "fc2": 3})
        self.assertEqual((found["fc1"]["samples"], found["fc2"]["samples"]), (30, 90))

    def test_a_second_function_behind_one_layer_has_its_own_name(self):
        net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Sigmoid())
        found = {name: line["activation"] for name, line in self.observe(net).items()}
        self.assertEqual(found, {"0": "tanh", "2": "sigmoid"})

    def test_a_function_that_is_no_module_is_named_with_the_layer_in_front(self):
        net = Residual()
        found = self.observe(net, sites={"fc3": F.softplus, "fc1": None, "act": None}, units={"act": 1})
        self.assertEqual([found[name]["activation"] for name in ("fc3", "fc1", "act")], ["softplus", None, "relu"])
        self.assertEqual(found["fc3"]["positives"], 60)
        self.assertEqual([found["fc1"][field] for field in ("dead", "flat_low", "rare", "dead_fraction")], [None] * 4)
        self.assertGreater(found["fc1"]["negatives"], 0)

    def test_a_module_of_ones_own_is_found_once_it_is_among_the_activations(self):
        class Square(nn.Module):
            def forward(self, xs):
                return xs.relu().square()

        self.addCleanup(taper_torch.ACTIVATIONS.pop, Square)
        taper_torch.ACTIVATIONS[Square] = "relu2"
        line = self.observe(mlp(Square(), nn.GELU("tanh")))["0"]
        self.assertEqual((line["activation"], line["zeros"] / line["values"]), ("relu2", line["zero_fraction"]))
        self.assertIsNotNone(line["rare"])
        self.assertGreater(line["flat_low"], 0)

    def test_units_of_the_output_are_not_called_dormant(self):
        found = self.observe(mlp(), output="4")
        self.assertEqual((found["4"]["dormant_0"], found["4"]["activation"]), (None, None))
        self.assertEqual(found["0"]["dormant_0"], found["0"]["dead"])

    def test_units_are_the_last_axis_behind_a_linear_layer_and_the_second_behind_a_convolution(self):
        linear = self.observe(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), torch.randn(5, 3, 4))["0"]
        conv = self.observe(nn.Sequential(nn.Conv1d(4, 6, 1), nn.ReLU()), torch.randn(5, 4, 7))["0"]
        self.assertEqual((linear["units"], linear["values"]), (8, 5 * 3 * 8))
        self.assertEqual((conv["units"], conv["values"]), (6, 5 * 6 * 7))

    def test_a_site_that_cannot_be_recorded_is_a_warning_and_training_goes_on(self):
        net = nn.Sequential(nn.Identity(), nn.ReLU())
        with self.assertWarnsRegex(RuntimeWarning, "site '1' is left out.*units"):
            found = self.observe(net, torch.randn(5, 4, 7))
        self.assertEqual(found, {})
        self.assertEqual(self.observe(net, torch.randn(5, 4, 7), units={"1": -1})["1"]["units"], 7)

    def test_trouble_is_recorded_and_the_numbers_are_of_what_came_before(self):
        watch = self.watch(net := nn.Sequential(nn.Identity(), nn.ReLU()))
        with watch.train(), self.assertWarnsRegex(RuntimeWarning, "site '1' is not recorded further"):
            for width in 4, 3, 4:
                net(self.xs[:, :width])
        watch.end_epoch(train={"loss": 1.0})
        with watch.train(), self.assertWarnsRegex(RuntimeWarning, "modes_mixed"):
            net(self.xs)
            net.eval()(self.xs)
        watch.end_epoch(train={"loss": 1.0})
        first, second = self.layers(watch)
        self.assertEqual((first["trouble"], first["samples"]), ({"units_changed": {"expected": 4, "found": 3}}, 30))
        self.assertEqual((second["trouble"], second["samples"]), ("modes_mixed", 30))

    def test_a_batch_without_samples_and_a_site_with_trouble_from_the_start_are_no_error(self):
        watch = self.watch(net := Residual())
        with watch.train(), warnings.catch_warnings(record=True):
            net.train()(self.xs[:0])
            net.eval()(self.xs)
        with watch.test():
            net(self.xs)
        watch.end_epoch(train={"loss": 1.0}, test={"loss": 1.0})
        self.assertEqual({line["split"] for line in self.layers(watch)}, {"test"})

    def test_only_passes_of_the_network_in_a_window_are_counted(self):
        watch, other = self.watch(net := mlp()), None
        net(self.xs)
        with watch.train():
            net(self.xs)
            net[0:2](self.xs)  # a part of it, as checkpointing repeats one
            other = copy.deepcopy(net)
            other(self.xs)
        watch.close()
        with watch.train():
            net(self.xs)
        watch.end_epoch(train={"loss": 1.0})
        self.assertEqual([line["samples"] for line in self.layers(watch)], [30, 30])

    def test_what_does_not_fit_is_refused_with_the_cure(self):
        for options, cure in [
            ({"sites": {"fc9": None}}, "expected the name of a module, found 'fc9': the network has 0, 1"),
            ({"output": "fc9"}, "found 'fc9'"),
            ({"kinds": {"mae": "low"}}, "expected one of share, higher, lower"),
            ({"labels": {"x": math.nan}}, "JSON"),
        ]:
            with self.assertRaisesRegex(ValueError, cure):
                self.watch(mlp(), **options)
        with self.assertRaisesRegex(ValueError, "sites="):
            self.watch(nn.Sequential(nn.Linear(4, 2)))
        self.assertFalse(self.path.exists())

        watch = self.watch(net := mlp())
        with self.assertRaisesRegex(ValueError, r"call net.eval\(\) first"), watch.test():
            net(self.xs)
        with self.assertRaisesRegex(ValueError, "a second"), watch.test():
            pass
        with self.assertRaisesRegex(ValueError, "expected passes of the network"):
            watch.end_epoch(test={"loss": 1.0})
        with watch.train():
            net(self.xs)
            with self.assertRaisesRegex(ValueError, r"expected no open window, found watch.train\(\)"), watch.test():
                pass
            with self.assertRaisesRegex(ValueError, "behind the with block"):
                watch.end_epoch(train={"loss": 1.0})
        with self.assertRaisesRegex(ValueError, r"\(test, train\), found train"):
            watch.end_epoch(train={"loss": 1.0})
        self.assertEqual((watch.path / "metrics.jsonl").read_text(), "")

    def test_metrics_have_kinds_and_what_is_not_finite_is_null(self):
        watch = self.watch(net := mlp(), kinds={"mae": "lower"})
        with watch.train():
            net(self.xs)
        with self.assertRaisesRegex(ValueError, "'r2' are better"):
            watch.end_epoch(train={"loss": 1.0, "r2": 0.5})
        with self.assertRaisesRegex(ValueError, "expected a loss"):
            watch.end_epoch(train={"r2": 0.5})
        watch.end_epoch(train={"loss": math.nan, "accuracy": torch.tensor(0.5), "mae": math.inf}, learning_rate=0.1)
        line = json.loads((watch.path / "metrics.jsonl").read_text())
        self.assertEqual((line["loss"], line["metrics"]), (None, {"accuracy": 0.5, "mae": None}))
        self.assertEqual((line["kinds"], line["learning_rate"]), ({"accuracy": "share", "mae": "lower"}, 0.1))

    def test_nothing_is_overwritten(self):
        paths = [self.watch(mlp()).path.name for _ in range(3)]
        self.assertEqual(paths, ["run", "run-2", "run-3"])

    def test_dead_units_are_compared_with_the_window_before_and_never_with_the_untrained_network(self):
        watch = self.watch(net := nn.Sequential(nn.Linear(1, 2), nn.ReLU()).eval())
        for epoch, biases in enumerate([[-1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, -1.0]]):
            with torch.no_grad(), watch.test():
                net[0].weight.zero_()
                net[0].bias.copy_(torch.tensor(biases))
                net(torch.ones(3, 1))
            watch.end_epoch(epoch, test={"loss": 1.0})
        changes = [(line["died"], line["revived"], line["still_dead"]) for line in self.layers(watch)]
        self.assertEqual(changes, [(None, None, None), (None, None, None), (1, 1, 0), (0, 0, 1)])
        with self.assertRaisesRegex(ValueError, "expected an epoch above 3"):
            watch.end_epoch(3)

    def test_half_precision_and_inference_mode_are_recorded(self):
        net = mlp().eval()
        watch = self.watch(net)
        with watch.test(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            net(self.xs)
            net(self.xs)
        watch.end_epoch(test={"loss": 1.0})
        self.assertEqual([(line["samples"], line["nan"]) for line in self.layers(watch)], [(60, 0)] * 2)


if __name__ == "__main__":
    warnings.simplefilter("default")
    unittest.main()
