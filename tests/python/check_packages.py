#!/usr/bin/env python3
"""Tests what needs packages from PyPI, in the environment of scripts/python_check.

    python3 tests/python/check_packages.py LOCKSTEP [types|reader|notebooks|tracker]...

types: mypy, strictly; reader: reader_test.py against the package as pip installs it; notebooks:
docs/notebooks/*.py; tracker: tracker_test.py against MLflow's own server and W&B's own library. Exit
code 77 (skipped) where there is no such environment.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "tests/python"
PARTS = ("types", "reader", "notebooks", "tracker")


def run(*command, cwd=ROOT, **environment):
    print(f"== {' '.join(map(str, command))}", flush=True)
    done = subprocess.run(command, check=False, cwd=cwd, env={**os.environ, **environment}, timeout=1500)
    return done.returncode == 0


def notebooks(lockstep):
    """Each as a script, on a run that a coordinator has trained for it."""
    os.environ["LOCKSTEP_BINARY"] = str(lockstep)
    sys.path.insert(0, str(HERE))
    from support import coordinator, prepare, submit

    with tempfile.TemporaryDirectory(prefix="lockstep-test-") as name:
        folder = pathlib.Path(name)
        prepare(folder)
        scripts = sorted((ROOT / "docs/notebooks").glob("*.py"))
        with coordinator(folder) as address:
            subprocess.run([lockstep, "wait", submit(folder, address), "--address", address], check=True)
            environment = {"LOCKSTEP_RUN": str(folder / "run"), "LOCKSTEP_ADDRESS": address, "MPLBACKEND": "Agg"}
            return bool(scripts) and all([run(sys.executable, script, cwd=folder, **environment) for script in scripts])


def main():
    lockstep, parts = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:] or PARTS
    try:
        import mlflow  # noqa: F401
        import wandb  # noqa: F401
    except ImportError as missing:
        # The environment of scripts/python_check, in the build folder of the program.
        python = lockstep.parent.parent / "python_check/bin/python"
        if python.exists() and pathlib.Path(sys.prefix) != python.parent.parent:
            os.execv(python, [str(python), *sys.argv])
        print(f"skipped: {missing}; scripts/python_check makes an environment that has it")
        return 77
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", "--no-build-isolation"]
    if not run(*pip, ROOT / "python"):
        return 1
    common = {"LOCKSTEP_BINARY": str(lockstep), "LOCKSTEP_PACKAGES": "1"}
    checks = {
        "types": lambda: run(sys.executable, "-m", "mypy", "--strict", "--cache-dir", os.devnull, "lockstep_runs",
                             cwd=ROOT / "python"),
        "reader": lambda: run(sys.executable, HERE / "reader_test.py", **common),
        "notebooks": lambda: notebooks(lockstep),
        "tracker": lambda: run(sys.executable, HERE / "tracker_test.py", LOCKSTEP_TRACKER="mlflow", **common),
    }
    failed = [part for part in parts if not checks[part]()]
    print(f"failed: {' '.join(failed)}" if failed else f"passed: {' '.join(parts)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
