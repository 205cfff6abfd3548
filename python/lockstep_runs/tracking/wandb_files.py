"""Weights & Biases' offline files, which `wandb sync` uploads.

The library offers no way to ask what an offline file holds, so the file is made from metrics.jsonl
anew whenever the tracker starts or the run's past changes, under the same id, and the one before it
removed. What is there is then always one file with every step once.
"""

from __future__ import annotations

import pathlib
import shutil
from itertools import groupby
from typing import Any

from lockstep_runs.tracking.history import History
from lockstep_runs.tracking.sink import Misused, Point, RunFacts


class WandbSink:
    def __init__(self, directory: pathlib.Path, project: str, tolerance: float = 0.0):
        """`directory` will have a folder `wandb`. Raises Misused where the package is missing."""
        try:
            import wandb
        except ImportError:
            raise Misused("--to wandb needs the package wandb: pip install wandb") from None
        self._wandb: Any = wandb
        self._directory = directory
        self._project = project
        self._tolerance = tolerance
        self._run: Any = None

    def open(self, facts: RunFacts) -> History:
        self._remove(facts.id)
        self._run = self._wandb.init(
            mode="offline",
            id=facts.id,
            name=facts.name,
            project=self._project,
            dir=str(self._directory),
            config={**facts.config, **facts.tags},
            settings=self._wandb.Settings(
                console="off", silent=True, disable_git=True, disable_code=True, x_disable_stats=True, x_disable_meta=True
            ),
        )
        return History(tolerance=self._tolerance)

    def send(self, points: list[Point]) -> None:
        for step, of_step in groupby(points, lambda point: point.step):
            self._run.log({point.key: point.value for point in of_step}, step=step)

    def supersede(self, reason: str) -> None:
        self._run.finish(exit_code=0)

    def finish(self, status: str) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if status in ("FINISHED", "RUNNING") else 1)

    def _remove(self, track_id: str) -> None:
        for path in (self._directory / "wandb").glob(f"offline-run-*-{track_id}"):
            shutil.rmtree(path)
