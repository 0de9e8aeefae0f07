"""The search of rehearsal.sh: over a head and two workers that are up already, one of which is killed on the way.

    python docker/rehearse.py PLACE PROJECT     # run by rehearsal.sh; prints what was lost, what was repeated, how long

Containers are spoken to by `podman exec`, as DOCKER_HOST's service is; PLACE holds the token and gets the config.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

DASHBOARD = "http://127.0.0.1:8265"
CONFIG = """
model: {factory: digits_net, arguments: {width: 16}, train: {epochs: 5, rate: 0.1}}
data: {dataset: digits, val_size: 0.3}
criteria: {pool: [l1, bn_gamma, apoz, taylor_gate], images: 128}
budget: {macs: 0.5}
fitness: {fidelity: tuned, device: cpu, tuning: {epochs: 2}}
search: {evaluations: 160, population: 16}
engine: {threads: 1, workers: 4}
seed: 3
"""
KILL_AFTER = 40
"""Evaluations."""

COUNT_CALLS = """
from ray.util.state import list_tasks
from collections import Counter
calls = list_tasks(filters=[("name", "=", "Worker.evaluate")], limit=10000, raise_on_missing_output=False)
print(__import__("json").dumps(Counter(call.state for call in calls)))
"""
ROWS = """
import sqlite3
ask = sqlite3.connect("file:/runs/rehearsal/run.sqlite?mode=ro", uri=True).execute
rows = [list(row) for row in ask("SELECT digest, fidelity, seed, loss, error, failure FROM evaluations")]
rows += [[*row, ""] for row in ask("SELECT subject, 'test', 0, loss, error FROM tests")]
print(__import__("json").dumps(rows))
"""


def told(*words: str, seconds: float = 120) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[:6])} ...: {done.stderr.strip()[-500:]}")
    return done.stdout


def main(place: Path, project: str) -> None:
    head, doomed = f"{project}-head-1", f"{project}-worker-2"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(place / "token")
    os.environ["RAY_AUTH_MODE"] = "token"
    (place / "rehearsal.yaml").write_text(CONFIG)
    ours = (sys.executable, "-m", "blendsearch")
    elsewhere = place / "here"
    elsewhere.mkdir(exist_ok=True)
    os.chdir(elsewhere)  # nothing here to send along: what runs is what the image holds

    def in_head(*words: str, seconds: float = 120) -> str:
        return told("podman", "exec", head, *words, seconds=seconds)

    def rows() -> set[tuple[Any, ...]]:
        return {tuple(row) for row in json.loads(in_head("python", "-c", ROWS))}

    def again_until(what: Any, seconds: float) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if found := what():
                    return found
            except RuntimeError as error:
                if time.monotonic() > deadline:
                    raise
                print(f"  not yet: {str(error)[-200:]}", flush=True)
            if time.monotonic() > deadline:
                raise RuntimeError(f"not within {seconds:g} s")
            time.sleep(2)

    start = time.monotonic()
    words = [*ours, "submit", str(place / "rehearsal.yaml"), "--address", DASHBOARD, "--name", "rehearsal", "--json"]
    job = json.loads(again_until(lambda: told(*words), 120))["job"]
    print(f"submitted after {time.monotonic() - start:.0f} s", flush=True)

    def over() -> str:
        state = told(*ours, "job", "status", job, "--address", DASHBOARD).partition(":")[0]
        return state if state in ("SUCCEEDED", "FAILED", "STOPPED") else ""

    def well_under_way() -> bool:
        if over():
            raise SystemExit(told(*ours, "job", "logs", job, "--address", DASHBOARD)[-3000:])
        return bool(json.loads(in_head(*looking))["evaluations"] >= KILL_AFTER)

    looking = ("blendsearch", "status", "rehearsal", "--runs", "/runs", "--json")
    again_until(well_under_way, 300)
    # by its process: `podman kill` waits for more than the death, and not always long enough
    os.kill(int(told("podman", "inspect", "--format", "{{.State.Pid}}", doomed)), signal.SIGKILL)
    killed, before = time.monotonic(), rows()
    print(f"{doomed} killed after {len(before)} evaluations and {killed - start:.0f} s", flush=True)

    state = again_until(over, 900)
    wall = time.monotonic() - start
    after = rows()
    calls = json.loads(in_head("python", "-c", COUNT_CALLS))
    failed = sum(bool(row[-1]) for row in after)
    print(f"{state} after {wall:.0f} s: {len(after)} evaluations with those on test images, {failed} of them failed")
    print(f"lost: {len(before - after)}; repeated: {calls.get('FINISHED', 0) - len(after)}; ", end="")
    print(f"cut off and done elsewhere: {calls.get('FAILED', 0)}", flush=True)
    told("podman", "cp", str(place / "rehearsal.yaml"), f"{head}:/tmp/whole.yaml")
    in_head("blendsearch", "search", "/tmp/whole.yaml", "--name", "whole", "--runs", "/tmp/runs", seconds=900)
    fronts = [
        json.loads(in_head("blendsearch", "front", name, "--runs", runs, "--json"))["front"]
        for name, runs in (("rehearsal", "/runs"), ("whole", "/tmp/runs"))
    ]
    print(f"front the same as that of an undisturbed search in one container: {fronts[0] == fronts[1]}")
    if state != "SUCCEEDED" or before - after or failed or fronts[0] != fronts[1]:
        raise SystemExit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
