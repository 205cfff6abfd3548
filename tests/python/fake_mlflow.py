#!/usr/bin/env python3
"""The part of MLflow's tracking server that a tracker of runs uses, over a journal.

usage: fake_mlflow.py PORT JOURNAL [--lose N]

Like the server it leaves lists out that are empty, and over a database it keeps points that are equal in key, value, step and time once, and
all others. What it has answered is in the journal, from which a killed one goes on. With --lose every
N-th request that changes something is carried out and never answered, and every N-th is refused with
500 and not carried out.
"""

import http.server
import json
import pathlib
import sys
import threading
import urllib.parse


class Refusal(Exception):
    def __init__(self, status, code, message):
        super().__init__(message)
        self.status, self.code = status, code


def without_empty(value):
    if isinstance(value, dict):
        return {key: without_empty(part) for key, part in value.items() if part != []}
    return [without_empty(part) for part in value] if isinstance(value, list) else value


class Store:
    def __init__(self):
        self.experiments, self.runs = {}, {}

    def change(self, method, body):
        """What a request changes; deterministic, so that the journal can be replayed."""
        if method == "experiments/create":
            if body["name"] in self.experiments:
                raise Refusal(400, "RESOURCE_ALREADY_EXISTS", body["name"])
            self.experiments[body["name"]] = str(len(self.experiments))
            return {"experiment_id": self.experiments[body["name"]]}
        if method == "runs/create":
            run_id = f"run{len(self.runs)}"
            info = {"run_id": run_id, "experiment_id": body["experiment_id"], "run_name": body["run_name"],
                    "status": "RUNNING", "start_time": body["start_time"], "lifecycle_stage": "active"}
            tags = {tag["key"]: tag["value"] for tag in body["tags"]}
            self.runs[run_id] = {"info": info, "tags": tags, "params": {}, "metrics": {}}
            return {"run": self.view(self.runs[run_id])}
        run = self.find(body["run_id"])
        if method == "runs/set-tag":
            run["tags"][body["key"]] = body["value"]
        elif method == "runs/update":
            run["info"].update({key: body[key] for key in ("status", "end_time") if key in body})
        elif method == "runs/delete":
            run["info"]["lifecycle_stage"] = "deleted"
        elif method == "runs/log-batch":
            self.log(run, body)
        else:
            raise Refusal(404, "ENDPOINT_NOT_FOUND", method)
        return {}

    def log(self, run, body):
        metrics, params = body.get("metrics", []), body.get("params", [])
        if len(metrics) > 1000 or len(params) > 100:
            raise Refusal(400, "INVALID_PARAMETER_VALUE", "too many metrics or parameters at once")
        for param in params:
            if run["params"].setdefault(param["key"], param["value"]) != param["value"]:
                raise Refusal(400, "INVALID_PARAMETER_VALUE", f"parameter {param['key']} cannot change")
        for metric in metrics:
            points = run["metrics"].setdefault(metric["key"], {})
            points[(float(metric["value"]), int(metric["step"]), int(metric["timestamp"]))] = None

    def read(self, method, body):
        if method == "experiments/get-by-name":
            if body["experiment_name"] not in self.experiments:
                raise Refusal(404, "RESOURCE_DOES_NOT_EXIST", body["experiment_name"])
            return {"experiment": {"experiment_id": self.experiments[body["experiment_name"]]}}
        if method == "runs/get":
            return {"run": self.view(self.find(body["run_id"]))}
        if method == "runs/search":
            name, value = body["filter"].removeprefix("tags.").split(" = ")
            found = [run for run in self.runs.values() if run["info"]["lifecycle_stage"] == "active"
                     and run["info"]["experiment_id"] in body["experiment_ids"]
                     and run["tags"].get(name.strip("`")) == value.strip("'")]
            return {"runs": [self.view(run) for run in found]}
        return self.history(body)

    def history(self, body):
        points = list(self.find(body["run_id"])["metrics"].get(body["metric_key"], {}))
        begin, page = int(body.get("page_token", 0)), min(int(body["max_results"]), 7)
        found = [{"key": body["metric_key"], "value": value, "step": step, "timestamp": time}
                 for value, step, time in points[begin:begin + page]]
        return {"metrics": found, **({"next_page_token": str(begin + page)} if begin + page < len(points) else {})}

    def find(self, run_id):
        if run_id not in self.runs:
            raise Refusal(404, "RESOURCE_DOES_NOT_EXIST", run_id)
        return self.runs[run_id]

    def view(self, run):
        latest = [(key, max(points, key=lambda p: (p[1], p[2], p[0]))) for key, points in run["metrics"].items()]
        return {"info": run["info"], "data": {
            "metrics": [{"key": key, "value": v, "step": s, "timestamp": t} for key, (v, s, t) in latest],
            "params": [{"key": key, "value": value} for key, value in run["params"].items()],
            "tags": [{"key": key, "value": value} for key, value in run["tags"].items()]}}


class Handler(http.server.BaseHTTPRequestHandler):
    store, journal, lose, lock, changes = Store(), None, 0, threading.Lock(), 0

    def log_message(self, *_):
        pass

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        if url.path == "/health":
            return self.answer(200, {})
        return self.serve(url.path, dict(urllib.parse.parse_qsl(url.query)), reads=True)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return self.serve(self.path, body, reads=self.path.endswith("runs/search"))

    def serve(self, path, body, reads):
        method = path.removeprefix("/api/2.0/mlflow/")
        try:
            with self.lock:
                if reads:
                    return self.answer(200, self.store.read(method, body))
                Handler.changes += 1
                if self.lose and self.changes % self.lose == 0:
                    return self.answer(500, {"error_code": "INTERNAL_ERROR", "message": "as the test asked"})
                found = self.store.change(method, body)
                self.journal.write(json.dumps([method, body]) + "\n")
                self.journal.flush()
                if self.lose and self.changes % self.lose == self.lose // 2:
                    self.close_connection = True
                    return None
            return self.answer(200, found)
        except Refusal as refusal:
            return self.answer(refusal.status, {"error_code": refusal.code, "message": str(refusal)})

    def answer(self, status, document):
        text = json.dumps(without_empty(document)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def main():
    port, journal = int(sys.argv[1]), pathlib.Path(sys.argv[2])
    if journal.exists():
        for line in journal.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                Handler.store.change(*json.loads(line))
    Handler.journal = journal.open("a")
    Handler.lose = int(sys.argv[4]) if "--lose" in sys.argv else 0
    http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
