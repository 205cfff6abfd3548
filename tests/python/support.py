"""Runs, servers and trackers for the tests of the Python package."""

import contextlib
import json
import os
import pathlib
import random
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOCKSTEP = os.environ.get("LOCKSTEP_BINARY", str(ROOT / "build/bin/lockstep"))
DEADLINE = 120  # seconds, for what takes a second

if not os.environ.get("LOCKSTEP_PACKAGES"):  # else as installed by pip
    sys.path.insert(0, str(ROOT / "python"))

CONFIG = """
run: {{name: tiny, seed: 1, output: {folder}/run}}
model: {{family: gpt, layers: 2, heads: 2, width: 16, context: 16, vocab: 64}}
data: {{train: {folder}/tokens.bin, validation: {folder}/tokens.bin}}
batch: {{global: 4, micro: 2}}
train: {{steps: 20, validate_every: 5, validate_batches: 1}}
optimizer: {{name: adamw, learning_rate: 0.001}}
checkpoint: {{every_steps: 5, keep: 10}}
backend: {{threads: 1, device: cpu}}
"""


def prepare(folder):
    """A configuration in the folder, and tokens for it."""
    numbers = random.Random(1)
    tokens = [numbers.randrange(60) for _ in range(5000)]
    (folder / "tokens.bin").write_bytes(struct.pack("<5000H", *tokens))
    (folder / "config.yaml").write_text(CONFIG.format(folder=folder))


def train(folder, *options, code=0, ranks=None):
    """Trains; returns the output directory."""
    more = [] if ranks is None else ["--ranks", str(ranks)]
    command = [LOCKSTEP, "train", str(folder / "config.yaml"), *more]
    for option in options:
        command += ["--resume", option[1]] if option[0] == "--resume" else ["--set", option]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == code, f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return folder / "run"


@contextlib.contextmanager
def coordinator(folder):
    """The address of one that serves while the block runs; its files are in the folder."""
    (folder / "socket").mkdir(mode=0o700)
    address = f"unix:{folder}/socket/s"
    (folder / "coordinator.yaml").write_text(
        f"state_directory: {folder}/state\nlisten: {address}\nhosts: [{{name: here, address: localhost, slots: 2}}]\n")
    with (folder / "coordinator.log").open("w") as log:
        serving = subprocess.Popen([LOCKSTEP, "coordinator", "--config", folder / "coordinator.yaml"],
                                   stdout=log, stderr=log)
    try:
        wait_for((folder / "socket/s").exists, "the coordinator")
        yield address
    finally:
        serving.terminate()
        serving.wait(30)


def submit(folder, address):
    """Submits the folder's configuration; the run's name."""
    command = [LOCKSTEP, "submit", folder / "config.yaml", "--address", address, "--label", "kind=test", "-o", "name"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def wait_for(condition, what):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE} s"
        time.sleep(0.02)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A tracking server that can be killed and started again; the stand-in, or MLflow's own."""

    def __init__(self, folder, lose=0):
        self.folder, self.lose, self.process = folder, lose, None
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"

    def command(self):
        lose = ["--lose", str(self.lose)] if self.lose else []
        return [sys.executable, str(ROOT / "tests/python/fake_mlflow.py"), str(self.port),
                str(self.folder / "journal"), *lose]

    def start(self):
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(self.command(), start_new_session=True, stdout=subprocess.DEVNULL,
                                            stderr=log)
        wait_for(self.answers, "the server")
        return self

    def answers(self):
        assert self.process.poll() is None, (self.folder / "server.log").read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(self.uri + "/health", timeout=5) as answer:
            return answer.status == 200
        return False

    def kill(self):
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def call(self, method, body=None):
        request = urllib.request.Request(f"{self.uri}/api/2.0/mlflow/{method}",
                                         data=None if body is None else json.dumps(body).encode(),
                                         headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def entries(self, experiment="lockstep"):
        """The runs of an experiment: dictionaries of `info`, `tags`, `params` and `points` by key."""
        number = self.call(f"experiments/get-by-name?experiment_name={experiment}")["experiment"]["experiment_id"]
        found = self.call("runs/search", {"experiment_ids": [number], "filter": self.filter, "max_results": 100})
        return [self.entry(run) for run in found.get("runs", [])]

    filter = "tags.`lockstep.version` = '0.1.0'"

    def entry(self, run):
        points = {}
        for metric in run["data"].get("metrics", []):
            points[metric["key"]], token = [], ""
            while True:
                page = self.call("metrics/get-history?max_results=1000&run_id={}&metric_key={}{}".format(
                    run["info"]["run_id"], metric["key"], f"&page_token={token}" if token else ""))
                points[metric["key"]] += [(point.get("step", 0), point["value"]) for point in page.get("metrics", [])]
                token = page.get("next_page_token")
                if not token:
                    break
        return {"info": run["info"], "points": points,
                "tags": {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])},
                "params": {param["key"]: param["value"] for param in run["data"].get("params", [])}}


class MlflowServer(Server):
    """MLflow's own server, over SQLite."""

    def command(self):
        return [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                "--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db",
                "--default-artifact-root", str(self.folder / "artifacts")]


def start_tracker(run, *options, environment=()):
    command = [sys.executable, str(ROOT / "scripts/track"), *map(str, options), "--poll", "0.05", str(run)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "PYTHONFAULTHANDLER": "1", **dict(environment)})


def end(process):
    """Kills a process of start_tracker() if it still runs."""
    process.kill()
    process.communicate()


def wait_for_end(tracker, code=0):
    """Waits for the process of start_tracker(), which must end with this exit code; what it said."""
    try:
        said = tracker.communicate(timeout=DEADLINE)[1]
    except subprocess.TimeoutExpired:
        tracker.send_signal(signal.SIGABRT)  # it shows where it hangs
        said = f"it did not end within {DEADLINE} s\n" + tracker.communicate()[1]
    assert tracker.returncode == code, f"exit code {tracker.returncode}\n{said}"
    return said


def track(run, *options, code=0, environment=()):
    """Runs a tracker to its end; returns what it said."""
    tracker = start_tracker(run, *options, environment=environment)
    try:
        return wait_for_end(tracker, code)
    finally:
        end(tracker)


def expected_points(run):
    """What a tracker must have of metrics.jsonl: (step, value) by key, told without the package."""
    points = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        event = json.loads(line)
        prefix = {"step": "train/", "validation": "validation/", "layers": "layers/"}.get(event["event"])
        parts = [(prefix, event)] if prefix else []
        parts += [(f"{prefix}{layer['name']}/", layer) for layer in event.get("layers", [])]
        for begin, fields in parts:
            for name, value in fields.items():
                if isinstance(value, (int, float)) and name != "step":
                    points.setdefault(begin + name, []).append((event["step"], float(value)))
    return points
