#!/usr/bin/env python3
"""scripts/track: every step of a run once in the tracker, whatever is killed.

Against the stand-in of fake_mlflow.py, or with LOCKSTEP_TRACKER=mlflow against MLflow's own server.
LOCKSTEP_BINARY is the program; LOCKSTEP_SEED, if set, that of the kills.
"""

import json
import os
import pathlib
import random
import shutil
import signal
import socket
import tempfile
import threading
import time
import unittest

from support import (LOCKSTEP, ROOT, MlflowServer, Server, end, expected_points, prepare, start_tracker,
                     track, train, wait_for, wait_for_end)

REAL = os.environ.get("LOCKSTEP_TRACKER") == "mlflow"
SEED = int(os.environ.get("LOCKSTEP_SEED", time.time_ns() % 10**6))
TIMES = ("train/step_seconds", "train/tokens_per_second")
DONE = {"version": 1, "attempt": 9, "exit_code": 0}


class WrittenRun:
    """Writes metrics.jsonl as a run would, steps computed again coming out alike but for their times."""

    def __init__(self, output):
        self.output = output
        (output / "exit").mkdir(parents=True)
        (output / "config.yaml").write_text("run: {name: written}\n")
        self.path = output / "metrics.jsonl"
        self.lengths = {}  # by step of a checkpoint
        self.attempt(1)
        with self.path.open("w") as file:
            file.write(json.dumps({"event": "run", "version": "0.1.0", "name": "written", "hosts": ["here"]}) + "\n")

    def attempt(self, number):
        lock = {"version": 1, "attempt": number, "host": socket.gethostname(), "pid": os.getpid()}
        (self.output / "lock").write_text(json.dumps(lock))

    def write(self, first, last, shift=0.0, pause=0.0):
        for step in range(first, last + 1):
            event = {"event": "step", "step": step, "applied": step % 7 != 0, "loss": 5 / (step + 1) + shift,
                     "grad_norm": None if step % 7 == 0 else 1 / 3 + step, "learning_rate": 1e-3,
                     "tokens_per_second": random.random(), "step_seconds": random.random()}
            self.line(event)
            if step % 10 == 0:
                self.line({"event": "validation", "step": step, "loss": 1 / step + shift})
                self.line({"event": "checkpoint", "step": step, "directory": f"step-{step:08}"})
                self.lengths[step] = self.path.stat().st_size
            time.sleep(pause)

    def line(self, event):
        with self.path.open("a") as file:
            file.write(json.dumps(event) + "\n")

    def resume(self, step, torn=True):
        """Cut back to the checkpoint of a step, after a line that was torn by the kill."""
        if torn:
            with self.path.open("a") as file:
                file.write('{"event":"st')
        os.truncate(self.path, self.lengths[step])
        self.line({"event": "resume", "step": step})

    def end(self, record=None):
        (self.output / "exit/rank-0000.json").write_text(json.dumps(record or DONE))


class FollowingTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="lockstep-test-"))
        self.addCleanup(shutil.rmtree, self.folder)

    def start(self, run, *options, **more):
        tracker = start_tracker(run, *options, **more)
        self.addCleanup(end, tracker)
        return tracker


class TrackerTest(FollowingTest):
    def setUp(self):
        super().setUp()
        self.server = self.make_server()
        self.options = ["--to", "mlflow", "--uri", self.server.uri]

    def make_server(self, **options):
        server = MlflowServer(self.folder) if REAL else Server(self.folder, **options)
        self.addCleanup(server.kill)
        return server.start()

    def check(self, run, entry):
        """Every step once; all values as in the file, but times may be of an earlier attempt."""
        expected = expected_points(run)
        self.assertEqual(sorted(entry["points"]), sorted(expected))
        for key, points in expected.items():
            found = sorted(entry["points"][key])
            self.assertEqual([step for step, _ in found], [step for step, _ in points], key)
            if key not in TIMES:
                self.assertEqual(found, points, key)

    def current(self):
        entries = [entry for entry in self.server.entries() if "lockstep.superseded" not in entry["tags"]]
        self.assertEqual(len(entries), 1, entries)
        return entries[0]

    def written_run(self):
        return WrittenRun(self.folder / "run")


class WholeRuns(TrackerTest):
    def test_a_finished_run(self):
        prepare(self.folder)
        run = train(self.folder, "metrics.per_layer_every=5")
        track(run, *self.options)
        entry = self.current()
        self.check(run, entry)
        self.assertEqual(len(entry["points"]["layers/block.1/grad_norm"]), 4)
        self.assertEqual(len(entry["points"]["validation/loss"]), 4)
        self.assertEqual(entry["info"]["status"], "FINISHED")
        self.assertEqual(entry["info"]["run_name"], "tiny")
        self.assertEqual(entry["tags"]["lockstep.output"], str(run))
        if entry["params"]:  # where PyYAML is installed
            self.assertEqual(entry["params"]["optimizer.learning_rate"], "0.001")
        before = entry["points"]
        track(run, *self.options)
        self.assertEqual(self.current()["points"], before, "a second tracker added something")

    def test_a_run_that_is_killed_and_resumed(self):
        prepare(self.folder)
        run = self.folder / "run"
        run.mkdir()
        tracker = self.start(run, *self.options, "--linger", "60")
        train(self.folder, "fault=[{kind: kill, step: 13, rank: 0}]", ("--resume", "auto"), code=-9)
        train(self.folder, "fault=[{kind: kill, step: 13, rank: 0}]", ("--resume", "auto"))
        wait_for_end(tracker)
        self.check(run, self.current())

    def test_a_run_that_goes_back(self):
        prepare(self.folder)
        run = self.folder / "run"
        run.mkdir()
        tracker = self.start(run, *self.options)
        train(self.folder, "train.steps=40", "fault=[{kind: nan, step: 28, rank: 0, layer: 1}]",
              "health.on_divergence=rollback", "metrics.per_layer_every=3", ("--resume", "auto"))
        wait_for_end(tracker)
        entry = self.current()
        self.check(run, entry)
        self.assertIn((28, 0), entry["points"]["train/applied"])


class Kills(TrackerTest):
    def test_tracker_server_and_run_are_killed(self):
        """For some seconds each is killed at random, while the run goes on to its end."""
        chance = random.Random(SEED)
        run = self.written_run()
        over = threading.Event()

        def compute():
            step, attempt = 0, 1
            while step < 200:
                last = min(step + chance.randrange(8, 40), 200)
                run.write(step + 1, last, pause=0.005)
                step = last
                if step < 200 and chance.random() < 0.5:
                    attempt += 1
                    run.attempt(attempt)
                    step = step // 10 * 10 - chance.choice([0, 0, 10])
                    step = max(step, 10) if step >= 10 else step
                    if step in run.lengths:
                        run.resume(step)
                    else:
                        step = last
            run.end()
            over.set()

        writer = threading.Thread(target=compute)
        writer.start()
        killed = 0
        while not over.is_set() or killed < 3:
            tracker = start_tracker(run.output, *self.options)
            time.sleep(chance.uniform(0.05, 0.6))
            if chance.random() < 0.4:
                self.server.kill()
                time.sleep(chance.uniform(0, 0.3))
                self.server.start()
            end(tracker)
            killed += 1
        writer.join()
        track(run.output, *self.options)
        self.check(run.output, self.current())

    @unittest.skipIf(REAL, "the stand-in alone can lose answers")
    def test_answers_are_lost(self):
        self.server.kill()
        server = self.server = self.make_server(lose=4)
        self.options[-1] = server.uri
        run = self.written_run()
        run.write(1, 300)
        run.end()
        track(run.output, *self.options)
        self.check(run.output, self.current())
        entries = server.entries()
        self.assertTrue(all(entry["points"] for entry in entries), "an empty entry was left")

    def test_the_server_comes_back_in_time(self):
        run = self.written_run()
        run.write(1, 30)
        self.server.kill()
        tracker = self.start(run.output, *self.options, "--once")
        while "trying again" not in (said := tracker.stderr.readline()):
            self.assertTrue(said, "the tracker ended")
        self.server.start()
        wait_for_end(tracker)
        self.check(run.output, self.current())

    def test_the_server_stays_away(self):
        run = self.written_run()
        run.write(1, 3)
        self.server.kill()
        said = track(run.output, *self.options, "--patience", "0.5", code=6)
        self.assertIn(self.server.uri, said)


class ChangedPasts(TrackerTest):
    def setUp(self):
        super().setUp()
        self.run_files = self.written_run()
        self.run_files.write(1, 36)

    def test_the_same_steps_again(self):
        track(self.run_files.output, *self.options, "--once")
        before = self.current()
        self.run_files.resume(20)
        track(self.run_files.output, *self.options, "--once")
        self.assertEqual(self.current()["points"], before["points"])
        self.run_files.write(21, 50)
        self.run_files.end()
        track(self.run_files.output, *self.options)
        entry = self.current()
        self.check(self.run_files.output, entry)
        self.assertEqual(entry["info"]["run_id"], before["info"]["run_id"])
        self.assertEqual(len(self.server.entries()), 1)

    def test_other_values(self):
        track(self.run_files.output, *self.options, "--once")
        old = self.current()
        self.run_files.resume(20)
        self.run_files.write(21, 30, shift=0.25)
        said = track(self.run_files.output, *self.options, "--once")
        self.assertIn("step 21: train/loss was", said)
        entry = self.current()
        self.assertNotEqual(entry["info"]["run_id"], old["info"]["run_id"])
        self.check(self.run_files.output, entry)
        superseded = [one for one in self.server.entries() if "lockstep.superseded" in one["tags"]]
        self.assertEqual([one["info"]["run_id"] for one in superseded], [old["info"]["run_id"]])
        self.assertIn("step 21", superseded[0]["tags"]["lockstep.superseded"])
        self.assertEqual(superseded[0]["points"], old["points"])

    def test_other_values_while_it_follows(self):
        tracker = self.start(self.run_files.output, *self.options)
        wait_for(lambda: self.sent() == 36, "the first 36 steps")
        self.run_files.resume(20)
        self.run_files.write(21, 60, shift=0.25)
        self.run_files.end()
        wait_for_end(tracker)
        self.check(self.run_files.output, self.current())

    def sent(self):
        try:
            return len(self.current()["points"].get("train/loss", []))
        except (OSError, AssertionError):  # no such experiment or entry yet
            return 0

    def test_values_within_the_tolerance(self):
        track(self.run_files.output, *self.options, "--once")
        self.run_files.resume(20)
        self.run_files.write(21, 40, shift=1e-9)
        track(self.run_files.output, *self.options, "--once", "--tolerance", "1e-6")
        self.assertEqual(len(self.server.entries()), 1)
        self.assertEqual(len(self.current()["points"]["train/loss"]), 40)

    def test_a_run_that_ends_before_where_it_was(self):
        track(self.run_files.output, *self.options, "--once")
        self.run_files.resume(20)
        self.run_files.write(21, 25)
        self.run_files.end()
        track(self.run_files.output, *self.options)
        self.check(self.run_files.output, self.current())

    def test_a_run_that_failed_is_waited_for(self):
        self.run_files.end({"version": 1, "attempt": 1, "exit_code": 4})
        track(self.run_files.output, *self.options, "--linger", "0.2")
        self.assertEqual(self.current()["info"]["status"], "FAILED")
        self.run_files.attempt(10)
        self.run_files.resume(30)
        self.run_files.write(31, 40)
        self.run_files.end({**DONE, "attempt": 10})
        track(self.run_files.output, *self.options)
        self.check(self.run_files.output, self.current())
        self.assertEqual(self.current()["info"]["status"], "FINISHED")


class Usage(TrackerTest):
    def test_what_is_wrong_is_named(self):
        run = self.written_run()
        run.write(1, 3)
        for options, code, text in (
            (["--to", "mlflow"], 2, "--uri or MLFLOW_TRACKING_URI"),
            (["--to", "mlflow", "--uri", "sqlite:///x.db"], 2, "mlflow server"),
            (["--to", "tensorboard"], 2, "invalid choice"),
            *([] if REAL else [(["--to", "wandb"], 2, "pip install wandb")]),
        ):
            self.assertIn(text, track(run.output, *options, code=code, environment={"MLFLOW_TRACKING_URI": ""}))
        self.assertIn("found no directory", track(self.folder / "nowhere", *self.options, code=2))
        (self.folder / "empty").mkdir()
        self.assertIn("has not begun", track(self.folder / "empty", *self.options, "--once", code=3))
        with run.path.open("a") as file:
            file.write("not JSON\n")
        self.assertIn("line 5", track(run.output, *self.options, "--once", code=3))

    def test_one_tracker_at_a_time_and_stopping_it(self):
        run = self.written_run()
        run.write(1, 12)
        first = self.start(run.output, *self.options)
        wait_for(lambda: (run.output / "track/mlflow.json").exists(), "the first tracker")
        self.assertIn("another process", track(run.output, *self.options, "--once", code=2))
        first.send_signal(signal.SIGTERM)
        wait_for_end(first, 7)
        track(run.output, *self.options, "--once")
        self.check(run.output, self.current())


def rows_of_stand_in(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows_of_package(path):
    """History of an offline file: records of LevelDB's log format, each a protocol buffer."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole, rows = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4:at + 6], "little"), data[at + 6]
        whole = (whole if kind in (3, 4) else b"") + data[at + 7:at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record.FromString(whole)
            if record.HasField("history"):
                rows.append({item.key or item.nested_key[0]: json.loads(item.value_json)
                             for item in record.history.item})
    return rows


class OfflineFiles(FollowingTest):
    """Of the package where LOCKSTEP_TRACKER=mlflow, else of stand_in/wandb."""

    def setUp(self):
        super().setUp()
        self.run_files = WrittenRun(self.folder / "run")
        stand_in = {} if REAL else {"PYTHONPATH": str(ROOT / "tests/python/stand_in")}
        self.environment = stand_in

    def track(self, *options, **more):
        return track(self.run_files.output, "--to", "wandb", *options, environment=self.environment, **more)

    def files(self):
        return list(self.run_files.output.glob("track/wandb/offline-run-*/*.wandb"))

    def check(self):
        files = self.files()
        self.assertEqual(len(files), 1, files)
        rows = (rows_of_package if REAL else rows_of_stand_in)(files[0])
        points = {}
        for row in rows:
            for key, value in row.items():
                if not key.startswith("_"):
                    points.setdefault(key, []).append((row["_step"], value))
        self.assertEqual(points, expected_points(self.run_files.output))

    def test_kills_and_changed_pasts(self):
        self.run_files.write(1, 36)
        tracker = start_tracker(self.run_files.output, "--to", "wandb", environment=self.environment)
        wait_for(lambda: self.files() or tracker.poll() is not None, "the file")
        end(tracker)
        self.run_files.resume(20)
        self.run_files.write(21, 40, shift=0.25)
        self.track("--once")
        self.check()
        tracker = self.start(self.run_files.output, "--to", "wandb", environment=self.environment)
        self.run_files.write(41, 55)
        self.run_files.resume(40)
        self.run_files.write(41, 60, shift=0.5)
        self.run_files.end()
        wait_for_end(tracker)
        self.check()


if __name__ == "__main__":
    assert pathlib.Path(LOCKSTEP).exists(), f"{LOCKSTEP}: set LOCKSTEP_BINARY"
    print(f"seed {SEED}", flush=True)
    unittest.main()
