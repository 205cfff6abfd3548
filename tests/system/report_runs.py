"""Runs and commands for the tests of reports."""

import json
import pathlib
import random
import struct
import subprocess

CONFIG = """
run: {seed: 7}
model: {layers: 2, heads: 2, width: 32, context: 16, vocab: 64}
data: {train: tokens.bin, validation: tokens.bin}
batch: {global: 8, micro: 4}
train: {steps: 60, validate_every: 10, validate_batches: 1}
optimizer: {learning_rate: 0.001}
clip: {threshold: 0.5}
precision: {compute: fp16, loss_scale: {initial: 1024}}
ema: {decay: 0.9}
fault: [{kind: overflow, step: 5, rank: 0, layer: 1}]
"""


class Workshop:
    """A directory with a configuration and tokens, where the program is started."""

    def __init__(self, lockstep, directory):
        self.lockstep = lockstep
        self.directory = pathlib.Path(directory)
        (self.directory / "config.yaml").write_text(CONFIG)
        numbers = random.Random(1)
        tokens = [(k * 3 + numbers.randrange(4)) % 64 for k in range(6000)]
        (self.directory / "tokens.bin").write_bytes(struct.pack("<6000H", *tokens))

    def start(self, *arguments, **options):
        return subprocess.Popen([self.lockstep, *arguments], cwd=self.directory, text=True, **options)

    def run(self, *arguments, exit_code=0):
        done = subprocess.run([self.lockstep, *arguments], cwd=self.directory, text=True, timeout=120,
                              capture_output=True, check=False)
        assert done.returncode == exit_code, (arguments, done.returncode, done.stdout, done.stderr)
        return done

    def findings(self, run):
        done = subprocess.run([self.lockstep, "doctor", run, "-o", "json"], cwd=self.directory, text=True, timeout=60,
                              stdout=subprocess.PIPE, check=False)
        return json.loads(done.stdout)["findings"]

    @staticmethod
    def settings(output, *settings):
        return ["train", "config.yaml", *(word for s in (f"run.output={output}", *settings) for word in ("--set", s))]

    def train(self, output, *settings):
        self.run(*self.settings(output, *settings))

    def watch(self, *arguments):
        """The process and its address."""
        watching = self.start("watch", *arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return watching, watching.stdout.readline().strip()
