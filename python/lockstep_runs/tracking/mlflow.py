"""An MLflow tracking server, through its REST API.

Every request but two changes nothing when it is repeated. `runs/create` may leave a second, empty run
when its answer is lost; `open` then removes it. A point of `runs/log-batch` always has the same time,
the beginning of the entry plus the seconds of training, and servers keep equal points once; besides,
after an unanswered request the server is asked what it has.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from lockstep_runs.tracking.history import History, history_of
from lockstep_runs.tracking.rows import is_compared
from lockstep_runs.tracking.sink import Misused, Point, Refused, RunFacts, Unreachable

_ID, _SUPERSEDED, _GENERATION = "lockstep.track_id", "lockstep.superseded", "lockstep.generation"
_METRICS_AT_ONCE, _PARAMS_AT_ONCE, _HISTORY_PAGE = 1000, 100, 20000  # limits of the API
_LONGEST_PARAM, _LONGEST_TAG = 500, 5000
_TIMEOUT = 60  # seconds
_COME_AGAIN = (408, 425, 429)  # HTTP status codes; so are all from 500 on

Json = dict[str, Any]


class MlflowSink:
    def __init__(self, uri: str, experiment: str, tolerance: float = 0.0):
        if urllib.parse.urlsplit(uri).scheme not in ("http", "https"):
            raise Misused(
                f"--uri: expected http://HOST:PORT or https://... of an MLflow server, found '{uri}'; for files "
                "or a database start one: mlflow server --backend-store-uri ..."
            )
        self._api = _Api(uri)
        self._experiment = experiment
        self._tolerance = tolerance
        self._run_id = ""
        self._start_ms = 0

    def open(self, facts: RunFacts) -> History:
        experiment = self._experiment_id()
        entries = self._entries(experiment, facts.id)
        current = [entry for entry in entries if _SUPERSEDED not in _tags(entry)]
        entry = current[0] if current else self._create(experiment, facts, len(entries) + 1)
        for other in current[1:]:
            self._remove_if_empty(other)
        self._run_id = entry["info"]["run_id"]
        self._start_ms = int(entry["info"]["start_time"])
        if entry["info"]["status"] != "RUNNING":
            self._post("runs/update", run_id=self._run_id, status="RUNNING")
        self._log_params(entry, facts)
        return history_of(self._points(), self._tolerance)

    def send(self, points: list[Point]) -> None:
        batch: list[Json] = []
        for _, of_step in groupby(points, lambda point: point.step):
            metrics = [
                {"key": p.key, "value": p.value, "step": p.step, "timestamp": self._start_ms + int(p.seconds * 1000)}
                for p in of_step
            ]
            if len(batch) + len(metrics) > _METRICS_AT_ONCE:
                self._log_metrics(batch)
                batch = []
            batch += metrics
        self._log_metrics(batch)

    def supersede(self, reason: str) -> None:
        self._post("runs/set-tag", run_id=self._run_id, key=_SUPERSEDED, value=reason[:_LONGEST_TAG])
        self._post("runs/update", run_id=self._run_id, status="KILLED", end_time=_now_ms())

    def finish(self, status: str) -> None:
        if status != "RUNNING":
            self._post("runs/update", run_id=self._run_id, status=status, end_time=_now_ms())

    def _experiment_id(self) -> str:
        try:
            found = self._api.get("experiments/get-by-name", experiment_name=self._experiment)
            return str(found["experiment"]["experiment_id"])
        except _NotFound:
            pass
        try:
            return str(self._post("experiments/create", name=self._experiment)["experiment_id"])
        except _Exists:  # made meanwhile
            found = self._api.get("experiments/get-by-name", experiment_name=self._experiment)
            return str(found["experiment"]["experiment_id"])

    def _entries(self, experiment: str, track_id: str) -> list[Json]:
        """Oldest first."""
        found: list[Json] = []
        token = ""
        while True:
            page = self._post(
                "runs/search",
                experiment_ids=[experiment],
                filter=f"tags.`{_ID}` = '{track_id}'",
                run_view_type="ACTIVE_ONLY",
                order_by=["attributes.start_time ASC"],
                max_results=1000,
                **({"page_token": token} if token else {}),
            )
            found += page.get("runs", [])
            token = page.get("next_page_token", "")
            if not token:
                return sorted(found, key=lambda entry: int(_tags(entry)[_GENERATION]))

    def _create(self, experiment: str, facts: RunFacts, generation: int) -> Json:
        tags = {**facts.tags, _ID: facts.id, _GENERATION: str(generation)}
        created = self._post(
            "runs/create",
            experiment_id=experiment,
            run_name=facts.name,
            start_time=_now_ms(),
            tags=[{"key": key, "value": value[:_LONGEST_TAG]} for key, value in tags.items()],
        )
        entry: Json = created["run"]
        print(f"track: MLflow run {entry['info']['run_id']} in experiment '{self._experiment}'", file=sys.stderr)
        return entry

    def _remove_if_empty(self, entry: Json) -> None:
        if not entry["data"].get("metrics"):
            self._post("runs/delete", run_id=entry["info"]["run_id"])

    def _log_params(self, entry: Json, facts: RunFacts) -> None:
        """Those that the entry lacks; a parameter of MLflow never changes."""
        known = {param["key"] for param in entry["data"].get("params", [])}
        params = [
            {"key": key, "value": value[:_LONGEST_PARAM]} for key, value in facts.config.items() if key not in known
        ]
        for begin in range(0, len(params), _PARAMS_AT_ONCE):
            self._post("runs/log-batch", run_id=self._run_id, params=params[begin : begin + _PARAMS_AT_ONCE])

    def _log_metrics(self, batch: list[Json]) -> None:
        for begin in range(0, len(batch), _METRICS_AT_ONCE):
            self._post("runs/log-batch", run_id=self._run_id, metrics=batch[begin : begin + _METRICS_AT_ONCE])

    def _points(self) -> Iterator[tuple[str, int, float]]:
        """All points of keys that are compared, of others the newest."""
        entry = self._api.get("runs/get", run_id=self._run_id)["run"]
        for metric in entry["data"].get("metrics", []):
            key = metric["key"]
            if not is_compared(key):
                yield key, int(metric.get("step", 0)), float(metric["value"])
                continue
            for point in self._history_of(key):
                yield key, int(point.get("step", 0)), float(point["value"])

    def _history_of(self, key: str) -> Iterator[Json]:
        token = ""
        while True:
            page = self._api.get(
                "metrics/get-history",
                run_id=self._run_id,
                metric_key=key,
                max_results=str(_HISTORY_PAGE),
                **({"page_token": token} if token else {}),
            )
            yield from page.get("metrics", [])
            token = page.get("next_page_token", "")
            if not token:
                return

    def _post(self, method: str, **body: Any) -> Json:
        return self._api.post(method, body)


class _NotFound(Refused):
    pass


class _Exists(Refused):
    pass


class _Api:
    """JSON over HTTP, with the environment variables that MLflow's own client knows."""

    def __init__(self, uri: str):
        self._base = uri.rstrip("/") + "/api/2.0/mlflow/"
        self._headers = {"Content-Type": "application/json"}
        user, token = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_TOKEN")
        if user is not None:
            secret = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}".encode()
            self._headers["Authorization"] = "Basic " + base64.b64encode(secret).decode()
        elif token is not None:
            self._headers["Authorization"] = "Bearer " + token
        self._tls = ssl.create_default_context(cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"))

    def get(self, method: str, **query: str) -> Json:
        return self._call(f"{method}?{urllib.parse.urlencode(query)}", None)

    def post(self, method: str, body: Json) -> Json:
        return self._call(method, json.dumps(body).encode())

    def _call(self, path: str, body: bytes | None) -> Json:
        request = urllib.request.Request(self._base + path, data=body, headers=self._headers)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT, context=self._tls) as response:
                found: Json = json.loads(response.read() or b"{}")
                return found
        except urllib.error.HTTPError as error:
            raise _error_of(self._base, error) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unreachable(f"{self._base}: {error}") from None


def _error_of(base: str, error: urllib.error.HTTPError) -> Exception:
    try:
        answer = json.loads(error.read())
        code, message = answer.get("error_code", ""), answer.get("message", "")
    except (OSError, ValueError, AttributeError, http.client.HTTPException):
        code, message = "", error.reason
    text = f"{base}: HTTP {error.code} {code}: {message}"
    if error.code >= 500 or error.code in _COME_AGAIN:
        return Unreachable(text)
    return {"RESOURCE_DOES_NOT_EXIST": _NotFound, "RESOURCE_ALREADY_EXISTS": _Exists}.get(code, Refused)(text)


def _tags(entry: Json) -> dict[str, str]:
    return {tag["key"]: tag.get("value", "") for tag in entry["data"].get("tags", [])}


def _now_ms() -> int:
    return int(time.time() * 1000)
