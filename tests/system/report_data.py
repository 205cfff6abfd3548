#!/usr/bin/env python3
"""The data inside a report, the server of `watch`, and `compare`, without a browser.

usage: report_data.py LOCKSTEP
"""

import json
import math
import re
import sys
import tempfile
import time
import urllib.error
import urllib.request

from report_runs import Workshop


def lines_of(shop, run, event):
    every = map(json.loads, (shop.directory / run / "metrics.jsonl").read_text().splitlines())
    return [line for line in every if line["event"] == event]


def check_report(shop):
    shop.run("report", "a", "b", "--output", "page.html")
    page = (shop.directory / "page.html").read_text()
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])
    for run in data["runs"]:
        steps = lines_of(shop, run["label"], "step")
        for field in ("loss", "grad_norm", "learning_rate", "loss_scale", "clip_coefficient"):
            shown = [[line["step"], line[field]] for line in steps]
            xs, ys = run["curves"][field]
            assert xs == [x for x, _ in shown], field
            for (_, expected), y in zip(shown, ys):
                assert y is None and expected is None or math.isclose(y, expected, rel_tol=1e-5), (field, y, expected)
        validations = lines_of(shop, run["label"], "validation")
        assert run["curves"]["validation"][0] == [line["step"] for line in validations]
        assert len(run["curves"]["ema_validation"][1]) == len(validations)
        assert run["axes"]["tokens"][1][-1] == sum(line["tokens"] for line in steps)
        step, outcome, why = run["unapplied"]["rows"][0]
        assert (step, outcome) == (5, "overflow") and "rank 0, block.1" in why and "1024 -> 512" in why, why
        assert run["curves"]["overflow"] == [[5], [1024]]
        assert run["clip_threshold"] == 0.5
        assert run["findings"] == shop.findings(run["label"])
    assert data["config"] == [{"key": "optimizer.learning_rate", "values": ["0.001", "0.01"]}], data["config"]
    assert "default-src 'none'" in page and "connect-src 'none'" in page
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    outside = re.findall(r'(?:src|href)="(?!data:)|@import|url\(|{{', markup)
    assert not outside, outside


def get(url, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


def check_watch(shop):
    (shop.directory / "c").mkdir()
    watching, url = shop.watch("c")
    training = None
    try:
        assert "connect-src 'self'" in get(url)[1]
        assert json.loads(get(url + "data.json")[1])["runs"][0]["steps"] == 0
        training = shop.start(*shop.settings("c", "train.steps=400"), stderr=-3)
        seen, deadline = set(), time.time() + 100
        while 400 not in seen and time.time() < deadline:
            status, text, headers = get(url + "data.json")
            assert status == 200, text
            seen.add(json.loads(text)["runs"][0]["steps"])
        assert training.wait(timeout=60) == 0 and 400 in seen and len(seen) > 2, seen
        text, headers = get(url + "data.json")[1:]
        assert get(url + "data.json", **{"If-None-Match": headers["ETag"]})[0] == 304
        part = json.loads(get(url + "data.json?from=10&to=19")[1])["runs"][0]["curves"]
        assert part["loss"][0] == list(range(10, 20)) and part["validation"][0] == [10]
        assert get(url + "data.json?from=x")[0] == 400
        assert get(url + "data.json", Host="elsewhere.example")[0] == 403
        assert get(url + "config.yaml")[0] == 404
        with open(shop.directory / "c" / "metrics.jsonl", "a") as file:
            file.write("nonsense\n")
        status, text, _ = get(url + "data.json")
        assert status == 500 and "metrics.jsonl:" in text, text
    finally:
        for process in (watching, training):
            if process is not None:
                process.terminate()
                process.wait()


def check_compare(shop):
    compared = json.loads(shop.run("compare", "a", "-o", "json", "--", "b").stdout)
    finals = [lines_of(shop, run, "validation")[-1]["loss"] for run in "ab"]
    assert compared["difference"] == finals[1] - finals[0]
    assert compared["verdict"] == ("better" if finals[1] < finals[0] else "worse") and "same seed" in compared["reason"]
    assert compared["p_value"] is None and compared["confidence_interval"] is None
    assert compared["config_differences"] == [{"key": "optimizer.learning_rate", "a": ["0.001"], "b": ["0.01"]}]
    groups = json.loads(shop.run("compare", "-o", "json", "a", "a", "--", "b", "b").stdout)
    assert groups["p_value"] == 0 and groups["confidence_interval"] == [groups["difference"]] * 2
    assert "B is" in shop.run("compare", "--target", "3.5", "a", "--", "b").stdout


def check_refusals(shop):
    (shop.directory / "empty").mkdir()
    for arguments, exit_code, words in (
            (["report", "nowhere"], 3, "found nothing"), (["report", "empty"], 3, "expected step lines"),
            (["report", "a", "--output", "no/where.html"], 3, "no/where.html"), (["watch", "a", "--listen", "0.0.0.0:0"], 2, "ssh -L"),
            (["watch", "a", "--listen", "8000"], 2, "ADDRESS:PORT"), (["compare", "a", "b"], 2, "both sides"),
            (["compare", "a", "--", "nowhere"], 3, "nowhere")):
        said = shop.run(*arguments, exit_code=exit_code).stderr
        assert words in said, said


def main():
    with tempfile.TemporaryDirectory() as directory:
        shop = Workshop(sys.argv[1], directory)
        shop.train("a")
        shop.train("b", "optimizer.learning_rate=0.01")
        check_report(shop)
        check_compare(shop)
        check_refusals(shop)
        check_watch(shop)
    print("report_data: all passed")


if __name__ == "__main__":
    main()
