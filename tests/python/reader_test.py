#!/usr/bin/env python3
"""The package lockstep_runs against runs that the program itself has just written.

LOCKSTEP_BINARY is the program. Frames and tensors are tested where pandas, numpy and safetensors are
installed (scripts/python_check); with LOCKSTEP_PACKAGES=1 their absence is a failure.
"""

import hashlib
import importlib.util
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import tempfile
import unittest

from support import LOCKSTEP, ROOT, coordinator, prepare, submit, train

from lockstep_runs import CheckpointError, Coordinator, CoordinatorError, Cut, LedgerError, Run, RunError, hashing
from lockstep_runs.growing_file import GrowingFile

HAVE_PACKAGES = all(importlib.util.find_spec(name) for name in ("numpy", "pandas", "safetensors", "xxhash", "yaml"))
needs_packages = unittest.skipUnless(
    HAVE_PACKAGES or os.environ.get("LOCKSTEP_PACKAGES"),
    "numpy, pandas, safetensors, xxhash and PyYAML are not all there; scripts/python_check has them")


def folder_of(case):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="lockstep-test-"))
    case.addClassCleanup(shutil.rmtree, folder)
    return folder


class ARun(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = folder_of(cls)
        prepare(cls.folder)
        cls.original = train(cls.folder, "metrics.per_layer_every=10")

    def setUp(self):
        """A copy, to be damaged."""
        self.output = self.folder / self.id()
        shutil.copytree(self.original, self.output)
        self.run_of_test = Run(self.output)

    def damage(self, name, old, new):
        data = (self.output / name).read_bytes()
        self.assertIn(old, data)
        (self.output / name).write_bytes(data.replace(old, new, 1))


class Metrics(ARun):
    def test_events_are_the_lines(self):
        lines = [json.loads(line) for line in (self.output / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual(list(self.run_of_test.events()), lines)
        self.assertEqual([event["step"] for event in self.run_of_test.steps()], list(range(1, 21)))
        self.assertEqual([event["step"] for event in self.run_of_test.validations()], [5, 10, 15, 20])

    def test_a_torn_line_does_not_count_and_a_wrong_one_is_named(self):
        count = len(list(self.run_of_test.events()))
        with (self.output / "metrics.jsonl").open("a") as file:
            file.write('{"event":"st')
        self.assertEqual(len(list(self.run_of_test.events())), count)
        with (self.output / "metrics.jsonl").open("a") as file:
            file.write("\n")
        with self.assertRaisesRegex(RunError, f"line {count + 1}"):
            list(self.run_of_test.events())

    def test_layers(self):
        rows = list(self.run_of_test.layers())
        lines = list(self.run_of_test.events("layers"))
        self.assertEqual([line["step"] for line in lines], [10, 20])
        self.assertEqual(rows, [{"step": line["step"], **layer} for line in lines for layer in line["layers"]])
        self.assertEqual([row["name"] for row in rows[:3]], ["embeddings", "block.0", "block.1"])
        self.assertGreater(rows[1]["grad_norm"], 0)

    def test_following_a_run_that_is_cut_back(self):
        path = self.output / "metrics.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:8]))
        events = self.run_of_test.follow(poll_seconds=0.01)
        first = [next(events) for _ in range(8)]
        self.assertEqual(first, [json.loads(line) for line in lines[:8]])
        changed = lines[5].replace(b'"loss":', b'"loss":1')
        path.write_bytes(b"".join([*lines[:5], changed, *lines[6:]]))  # cut, and longer than before at once
        self.assertEqual(next(events), Cut(5))
        self.assertEqual(next(events), json.loads(changed))
        self.assertEqual(next(events), json.loads(lines[6]))

    def test_no_run(self):
        with self.assertRaisesRegex(RunError, "no directory"):
            Run(self.folder / "nowhere")
        (self.folder / "empty").mkdir(exist_ok=True)
        with self.assertRaisesRegex(RunError, "no such file"):
            list(Run(self.folder / "empty").steps())

    @needs_packages
    def test_frames(self):
        steps = self.run_of_test.steps_frame()
        self.assertEqual(list(steps.index), list(range(1, 21)))
        self.assertEqual(list(steps["loss"]), [event["loss"] for event in self.run_of_test.steps()])
        self.assertEqual(steps["applied"].dtype, bool)
        self.assertEqual(list(self.run_of_test.validations_frame().index), [5, 10, 15, 20])
        layers = self.run_of_test.layers_frame()
        self.assertEqual(layers.loc[(20, "block.1"), "weight_norm"], list(self.run_of_test.layers())[-2]["weight_norm"])
        config = self.run_of_test.config()
        self.assertEqual(config["optimizer"]["learning_rate"], 0.001)
        self.assertEqual(config["model"]["norm_eps"], 1e-5)


class Growing(unittest.TestCase):
    def test_every_line_once_and_every_cut_told(self):
        numbers = random.Random(19)
        path = folder_of(type(self)) / "lines"
        file, given, written = GrowingFile(path), [], []
        for _ in range(2000):
            if numbers.random() < 0.1:
                written = written[: numbers.randrange(len(written) + 1)]
            written = written + [b"%d" % numbers.randrange(3) * numbers.randrange(900)
                                 for _ in range(numbers.randrange(4))]
            torn = b"torn" if numbers.random() < 0.3 else b""
            path.write_bytes(b"".join(line + b"\n" for line in written) + torn)
            if numbers.random() < 0.5:
                for item in file.poll():
                    if isinstance(item, Cut):
                        self.assertLess(item.kept, len(given))
                        del given[item.kept:]
                    else:
                        given.append(item.text)
                        self.assertEqual(item.number, len(given))
                self.assertEqual(given, written)


class Ledger(ARun):
    def test_the_chain_is_verified(self):
        records = list(self.run_of_test.ledger())
        self.assertEqual([record.step for record in records], list(range(1, 21)))
        self.assertEqual({record.outcome for record in records}, {"applied"})
        head = self.run_of_test.latest_checkpoint().manifest["chain_head"]
        self.assertEqual(f"{records[-1].hash:016x}", head)

    def test_what_was_altered_is_named(self):
        self.damage("ledger.jsonl", b'"step":7,', b'"step":8,')
        with self.assertRaisesRegex(LedgerError, r"line 7 \(step 8\): the chain is broken"):
            list(self.run_of_test.ledger())

    def test_a_line_that_was_removed(self):
        lines = (self.output / "ledger.jsonl").read_bytes().splitlines(keepends=True)
        (self.output / "ledger.jsonl").write_bytes(b"".join(lines[:4] + lines[5:]))
        read = self.run_of_test.ledger()
        self.assertEqual([next(read).step for _ in range(4)], [1, 2, 3, 4])
        with self.assertRaisesRegex(LedgerError, r"line 5 \(step 6\)"):
            next(read)

    def test_torn_and_foreign_lines(self):
        with (self.output / "ledger.jsonl").open("a") as file:
            file.write('{"version":1,"st')
        self.assertEqual(len(list(self.run_of_test.ledger())), 20)
        with (self.output / "ledger.jsonl").open("a") as file:
            file.write("\n")
        with self.assertRaisesRegex(LedgerError, "line 21 is not a ledger record"):
            list(self.run_of_test.ledger())

    @needs_packages
    def test_frame(self):
        frame = self.run_of_test.ledger_frame()
        self.assertEqual(list(frame["loss"]), [event["loss"] for event in self.run_of_test.steps()])


class Hashes(unittest.TestCase):
    def test_known_values(self):
        self.assertEqual(hashing.xxh3_64(b""), 0x2D06800538D394C2)

    @needs_packages
    def test_package_and_library_agree(self):
        import xxhash

        function = hashing._library().XXH3_64bits_withSeed
        function.restype, function.argtypes = hashing.ctypes.c_uint64, [
            hashing.ctypes.c_char_p, hashing.ctypes.c_size_t, hashing.ctypes.c_uint64]
        for size in (0, 1, 16, 17, 128, 129, 240, 241, 5000):
            data = hashlib.shake_128(b"%d" % size).digest(size)
            for seed in (0, 1, 2**64 - 1):
                self.assertEqual(function(data, size, seed), xxhash.xxh3_64_intdigest(data, seed))


class Checkpoints(ARun):
    def test_whole_ones(self):
        found = self.run_of_test.checkpoints()
        self.assertEqual([checkpoint.step for checkpoint in found], [5, 10, 15, 20])
        self.assertEqual([checkpoint.healthy for checkpoint in found], [True, True, False, False])
        (self.output / "checkpoints/step-00000025.tmp-1").mkdir()
        self.assertEqual(self.run_of_test.latest_checkpoint().step, 20)
        for checkpoint in found:
            checkpoint.verify()

    def test_what_was_altered_is_named(self):
        checkpoint = self.run_of_test.latest_checkpoint()
        path = checkpoint.path / "model.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with self.assertRaisesRegex(CheckpointError, "model.safetensors: expected hash"):
            checkpoint.verify()
        path.write_bytes(data[:-4])
        with self.assertRaisesRegex(CheckpointError, r"model.safetensors: expected \d+ bytes"):
            checkpoint.verify()
        path.unlink()
        with self.assertRaisesRegex(CheckpointError, "model.safetensors: cannot be read"):
            checkpoint.verify()

    def test_an_altered_manifest(self):
        self.damage("checkpoints/step-00000020/manifest.json", b'"seed": 1,', b'"seed": 2,')
        with self.assertRaisesRegex(CheckpointError, "its own hash does not fit"):
            self.run_of_test.checkpoints()

    @needs_packages
    def test_weights_are_those_of_the_file(self):
        checkpoint = self.run_of_test.latest_checkpoint()
        data = (checkpoint.path / "model.safetensors").read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8:8 + size])
        header.pop("__metadata__", None)
        self.assertEqual(list(checkpoint.weights), sorted(header))
        for name, entry in header.items():
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            values = struct.unpack(f"<{(end - begin) // 4}f", data[begin:end])
            self.assertEqual(list(checkpoint.weights[name].shape), entry["shape"])
            self.assertEqual(tuple(checkpoint.weights[name].ravel()), values)
        self.assertEqual(checkpoint.weights_frame()["elements"].sum(), sum(
            (entry["data_offsets"][1] - entry["data_offsets"][0]) // 4 for entry in header.values()))
        self.assertEqual(list(self.run_of_test.checkpoints_frame().index), [5, 10, 15, 20])

    @needs_packages
    def test_optimizer_state_is_the_same_from_any_number_of_ranks(self):
        states = []
        for ranks in (1, 2):
            folder = self.folder / f"{self.id()}-{ranks}"
            folder.mkdir()
            prepare(folder)
            output = train(folder, "run.reproducible=ranks", "train.steps=5", ranks=ranks)
            checkpoint = Run(output).latest_checkpoint()
            self.assertEqual(checkpoint.manifest["world_size"], ranks)
            states.append({name: values.tobytes() for name, values in checkpoint.optimizer_state.items()})
        self.assertGreater(len(states[0]), 20)
        self.assertEqual(states[0], states[1])

    @needs_packages
    def test_a_missing_shard(self):
        checkpoint = self.run_of_test.latest_checkpoint()
        (checkpoint.path / "optimizer-00000-of-00001.safetensors").unlink()
        with self.assertRaisesRegex(CheckpointError, "optimizer-00000-of-00001"):
            list(checkpoint.optimizer_state)


class OfACoordinator(unittest.TestCase):
    def test_runs_events_metrics_and_logs(self):
        folder = folder_of(type(self))
        prepare(folder)
        with coordinator(folder) as address:
            self.use(Coordinator(address, command=LOCKSTEP), folder, address)
        with self.assertRaises(CoordinatorError) as gone:
            list(Coordinator(address, command=LOCKSTEP).runs())
        self.assertEqual(gone.exception.code, 6)

    def use(self, server, folder, address):
        self.assertEqual(list(server.runs()), [])
        submitted = submit(folder, address)
        losses = [event["loss"] for event in server.metrics(submitted, follow=True) if event["event"] == "step"]
        self.assertEqual(losses, [event["loss"] for event in Run(folder / "run").steps()])
        subprocess.run([LOCKSTEP, "wait", submitted, "--address", address], check=True, stdout=subprocess.DEVNULL)
        run, = server.runs(states=["SUCCEEDED"], labels={"kind": "test"})
        self.assertEqual(run["etag"], server.run(submitted)["etag"])
        self.assertEqual(run["progress"]["step"], 20)
        self.assertEqual(list(server.runs(labels={"kind": "other"})), [])
        self.assertEqual([found["step"] for found in server.checkpoints(submitted)], [20, 15, 10, 5])
        self.assertEqual(list(server.events(submitted))[-1]["kind"], "terminal")
        self.assertTrue(any("step 20/20" in line for line in server.logs(submitted)))
        self.assertEqual([host["name"] for host in server.hosts()], ["here"])
        with self.assertRaisesRegex(CoordinatorError, "there is no run 'nope'") as missing:
            server.run("nope")
        self.assertEqual(missing.exception.code, 5)
        if HAVE_PACKAGES:
            frame = server.runs_frame()
            self.assertEqual(list(frame["progress.loss"]), [losses[-1]])
            self.assertGreater(frame["endTime"].iloc[0], frame["startTime"].iloc[0])
            self.assertEqual(server.events_frame(submitted)["kind"].iloc[-1], "terminal")


if __name__ == "__main__":
    assert pathlib.Path(LOCKSTEP).exists(), f"{LOCKSTEP}: set LOCKSTEP_BINARY"
    assert (ROOT / "python").exists()
    unittest.main()
