"""What `run.py` and `infer.py` compute and answer, without running a network: `python3 benches/test_run.py`."""

import contextlib
import io
import json
import os
import tempfile
import unittest
from pathlib import Path

import infer
import run


def record(peer, number, speed, **more):
    return {"case": "mlp/sgd", "peer": peer, "round": number, "samples_per_second": speed, "peak_mib": 100.0} | more


class Tables(unittest.TestCase):
    def test_a_ratio_is_that_of_medians_and_its_spread_that_of_the_rounds(self):
        speeds = {"taper": [10.0, 20.0, 40.0], "candle": [5.0, 5.0, 4.0]}
        records = [record(peer, i, x) for peer, of in speeds.items() for i, x in enumerate(of)]
        ratio = run.ratios(records, "taper", "samples_per_second")["candle"]
        self.assertEqual(ratio, {"ratio": 4.0, "median": 4.0, "min": 2.0, "max": 10.0})

    def test_a_round_that_one_of_two_did_not_finish_is_in_no_ratio(self):
        records = [record("taper", 1, 10.0), record("candle", 1, 5.0), record("candle", 2, 1.0)]
        ratio = run.ratios(records, "taper", "samples_per_second")["candle"]
        self.assertEqual((ratio["min"], ratio["max"]), (2.0, 2.0))

    def test_a_table_names_every_competitor_and_its_record_says_the_same(self):
        more = {"first_batch_s": 0.25, "accuracy": 0.975}
        records = [record("taper", 1, 30000.0, **more), record("candle", 1, 10000.0, **more)]
        with contextlib.redirect_stdout(io.StringIO()) as text:
            lines = run.summary(records, "taper", "samples_per_second", ",.0f")
        rows = text.getvalue().splitlines()
        self.assertEqual([row.split()[0] for row in rows[1:]], ["taper", "candle"])
        for cell in ("10,000", "3.00", "3.00..3.00", "100", "0.25 s", "97.5%"):
            self.assertIn(cell, rows[2])
        self.assertEqual(lines[1]["taper_over_it"]["ratio"], 3.0)


class Turns(unittest.TestCase):
    def test_every_round_begins_with_another_and_who_fails_drops_out(self):
        def made(peer, setup, work):
            if peer == "c":
                raise run.Failure("c: broken")
            return {"samples_per_second": 1.0}

        before, run.run = run.run, made
        try:
            with contextlib.redirect_stderr(io.StringIO()) as notes:
                done = list(run.rounds(["a", "b", "c"], 2, lambda peer: {}, "case", None))
        finally:
            run.run = before
        self.assertEqual([(of["round"], of["peer"]) for of in done], [(1, "a"), (1, "b"), (2, "b"), (2, "a")])
        self.assertEqual(notes.getvalue().count("c: broken"), 1)


class Records(unittest.TestCase):
    def test_a_peer_is_read_from_its_last_epoch_and_its_end(self):
        lines = [
            {"epoch": 1, "samples_per_second": 1.0, "loss": 2.0, "accuracy": 0.1},
            {"epoch": 2, "samples_per_second": 3.0, "loss": 1.0, "accuracy": 0.2},
            {"peak_rss_mib": 7.0, "start_to_first_batch_s": 0.5},
        ]
        took = run.peer_record("\n".join(map(json.dumps, lines)))
        self.assertEqual(took, {"samples_per_second": 3.0, "loss": 1.0, "accuracy": 0.2, "first_batch_s": 0.5})

    def test_every_point_of_a_sweep_has_a_whole_batch_and_not_more_than_mnist(self):
        for kind, values in run.SWEEPS.items():
            for value in values:
                work = run.point(kind, value, 2)
                self.assertTrue(work["batch"] <= work["samples"] <= 60_000, (kind, value))


class Cases(unittest.TestCase):
    def line(self, name, peer):
        work = run.case_work(name, peer, run.arguments(["--threads", "2"]))
        return " ".join(run.command(peer, {"taper": "mnist", "candle": "candle"}, "python", "data", work, "out"))

    def test_online_trains_on_one_sample_a_step_on_one_thread(self):
        for peer in ("taper", "taper-off", "pytorch", "pytorch-hooks", "candle"):
            for option in ("--batch-size 1 ", "--threads 1", "--widths 100,100,100", "--lr 0.001"):
                self.assertIn(option, self.line("online/sgd", peer) + " ", peer)

    def test_who_records_records_counts_online_and_everything_elsewhere(self):
        for name, track in [("online/sgd", "counts"), ("cnn/sgd", "full")]:
            self.assertIn(f"--track {track}", self.line(name, "taper"))
            self.assertIn("--track off", self.line(name, "taper-off"))
            self.assertIn(f"--hooks {track}", self.line(name, "pytorch-hooks"))
            self.assertNotIn("--hooks", self.line(name, "pytorch"))


class Inference(unittest.TestCase):
    def network(self, layers, directory, units=(("conv1", 8), ("fc1", 10))):
        frozen = {"layers": layers, "mean": 0.5, "std": 0.25}
        header = {"__metadata__": {"taper_frozen": json.dumps(frozen), "units": json.dumps(units)}}
        text = json.dumps(header).encode()
        path = Path(directory) / "net.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        return path

    def test_layers_have_their_tensors_and_images_the_scale_of_the_file(self):
        with tempfile.TemporaryDirectory() as directory:
            path = self.network("conv 3, relu, max_pool 2, linear", directory)
            found = infer.layers(*infer.metadata(path))
            self.assertEqual(
                found, [(["conv", "3"], "conv1"), (["relu"], None), (["max_pool", "2"], None), (["linear"], "fc1")]
            )
            self.assertEqual(list(infer.scaled(bytes([0, 255]), path)), [-2.0, 2.0])

    def test_a_layer_that_the_competitors_do_not_build_is_named(self):
        with tempfile.TemporaryDirectory() as directory:
            for layer in ("conv 3 pad 1", "max_pool 3 stride 2", "tanh"):
                with self.assertRaisesRegex(run.Failure, f"found '{layer}'"):
                    infer.layers(*infer.metadata(self.network(f"{layer}, linear", directory)))

    def test_a_file_of_another_program_is_named(self):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "other"
            for content in (b"", b"\xff" * 16, b"\x02" + bytes(7) + b"{}"):
                path.write_bytes(content)
                with self.assertRaisesRegex(run.Failure, "other: expected a file"):
                    infer.metadata(path)

    def test_both_times_of_taper_and_its_right_answers_are_read(self):
        text = (
            "accuracy 97.55 %, as the model evaluates itself 97.55 %; 0 answers differ\n"
            "all multiplications           47.5       60.1\nzeros skipped                  6.0        8.2\n"
        )
        found = infer.ours(text)
        self.assertEqual(found["dense"], {"us": 47.5, "right": 1951})
        self.assertEqual(found["skipping"], {"us": 6.0, "right": 1951})

    def test_a_ratio_is_by_round_and_other_answers_are_counted(self):
        def took(answers, *seconds):
            return [infer.theirs(json.dumps({"seconds": [x], "answers": answers}), bytes([1, 2, 3])) for x in seconds]

        found = {
            "dense": [{"us": x, "right": 3} for x in (8.0, 8.0, 8.0)],
            "skipping": [{"us": x, "right": 3} for x in (2.0, 4.0, 2.0)],
            "pytorch": took([1, 2, 3], 8e-6, 8e-6, 12e-6),
            # It failed in the second round.
            "candle": took([1, 2, 0], 16e-6),
        }
        rows = {row[0]: row[1:] for row in infer.rows("net", found)[1:]}
        self.assertEqual(rows["pytorch"], ["8.0", "4.00", "2.00..6.00", "1.00", "3 of 2000", "0"])
        self.assertEqual(rows["candle"], ["16.0", "8.00", "8.00..8.00", "2.00", "2 of 2000", "1"])
        self.assertEqual(rows["dense"][-1], "")

    def test_who_is_compared_can_be_chosen(self):
        self.assertEqual(infer.arguments(["--data", ".", "--peers", "tract,candle", "net"]).peers, ["tract", "candle"])


class CommandLine(unittest.TestCase):
    def refuse(self, *args):
        with contextlib.redirect_stderr(io.StringIO()) as error, self.assertRaises(SystemExit) as exit:
            run.arguments(args)
        self.assertEqual((exit.exception.code, error.getvalue().count("\n")), (2, 1), error.getvalue())
        return error.getvalue()

    def test_wrong_usage_is_one_line(self):
        for args, says in [
            (["--cases", "rnn"], "mlp/sgd"),
            (["--peers", "jax"], "pytorch-hooks"),
            (["--rounds", "0"], "at least 1"),
            (["--samples", "60001"], "60000"),
            (["--sweep", "colour"], "width"),
            (["--whole", "--sweep", "batch"], "not allowed with"),
        ]:
            self.assertIn(says, self.refuse(*args))

    def test_cases_go_by_model_and_taper_is_always_there(self):
        args = run.arguments(["--cases", "cnn,mlp", "--peers", "candle"])
        self.assertEqual(args.cases, ["cnn/sgd", "mlp/sgd", "mlp/adamw"])
        self.assertEqual(args.peers, ["taper", "candle"])

    def test_case_is_another_spelling_of_cases(self):
        self.assertEqual(run.arguments(["--case", "online"]).cases, ["online/sgd"])

    def test_missing_data_is_named(self):
        with tempfile.TemporaryDirectory() as empty:
            with self.assertRaisesRegex(run.Failure, "train-images-idx3-ubyte.gz is not there"):
                run.link_data(run.arguments(["--data", empty]), Path(empty))
        given = os.environ.pop("TAPER_DATA", None)
        try:
            with self.assertRaisesRegex(run.Failure, "--data"):
                run.link_data(run.arguments([]), Path("."))
        finally:
            if given is not None:
                os.environ["TAPER_DATA"] = given


if __name__ == "__main__":
    unittest.main()
