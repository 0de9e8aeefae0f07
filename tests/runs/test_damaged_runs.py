"""Damaged runs: every verb refuses in one line, warns, or answers as for the intact run, and leaves the files alone.

The default sample takes half a minute, and BLENDSEARCH_DAMAGES=N takes N damages of each run. ``pytest -m slow`` drives
every verb on every damage, half a million pairs, which takes days; BLENDSEARCH_DAMAGES_PART=3/100 takes every hundredth
damage from the third, so that many machines share it.
"""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from golden.cases import RUNS

pytest.importorskip("fastapi")
from damaged_verbs import SLOW, VERBS, Drive
from damages import Damage, list_damages, sign

SAMPLE = int(os.environ.get("BLENDSEARCH_DAMAGES", "2"))
RUN_NAMES = ("digits", "killed-nsga2", "killed-tailored", "killed-steady", "latency")
"""A finished run with promotions and fine-tunes, three that were killed, and one with cost models."""
FINE = ("same", "refused", "warned", "plausible")


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Drive]:
    names = (*RUN_NAMES, *CHECKPOINTS, "fork", "python")
    return {name: Drive(tmp_path_factory.mktemp(name), RUNS / name) for name in names}


CHECKPOINTS = {
    "killed-cma": "checkpoints/generation-00002.json",
    "killed-derived": "derived/generation-00001.json",
    "killed-groups": "checkpoints/generation-00002.json",
    "killed-legr": "checkpoints/generation-00001.json",
    "killed-nsga3": "checkpoints/generation-00002.json",
    "killed-surrogate": "checkpoints/generation-00002.json",
}


def sample_damages(run: Path, count: int) -> list[Damage]:
    """Return `count` damages to the files of a run, the same at every call, alike many of each file."""
    drawn = random.Random(run.name)
    by_file: dict[str, list[Damage]] = {}
    for damage in list_damages(run):
        by_file.setdefault(damage.file, []).append(damage)
    queues = [drawn.sample(found, len(found)) for found in by_file.values()]
    drawn.shuffle(queues)
    found = [queue[number] for number in range(max(map(len, queues))) for queue in queues if number < len(queue)]
    return found[:count]


def check(drive: Drive, damage: Damage, verbs: Any) -> None:
    found = drive.check(damage, verbs)
    wrong = {verb: end for verb, end in found.items() if end[0] not in FINE}
    assert not wrong, f"{damage}: {wrong}"


@pytest.mark.parametrize("name", RUN_NAMES)
def test_verbs_refuse_or_answer_alike_on_a_damaged_run(drives: dict[str, Drive], name: str) -> None:
    torch.set_num_threads(1)
    for number, damage in enumerate(sample_damages(RUNS / name, SAMPLE)):
        fast = [verb for verb in VERBS if verb not in SLOW]
        check(drives[name], damage, [*fast, SLOW[number % len(SLOW)]])


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_signed_checkpoint_with_other_content_is_refused(drives: dict[str, Drive], name: str) -> None:
    file = CHECKPOINTS[name]
    found = [item for item in list_damages(RUNS / name, only=file) if item.name.startswith("signed")]
    for damage in random.Random(name).sample(found, 1):
        check(drives[name], damage, ["resume"])


@pytest.mark.parametrize(
    ("name", "file", "kind", "verbs"),
    [
        ("digits", "run.sqlite", "tests, all rows removed", ["text", "python"]),
        ("digits", "run.json", "structure.clusters.0 = []", ["criteria map"]),
        ("latency", "run.sqlite", "evaluations.origin 1 = 'None'", ["runs", "api list"]),
        ("killed-groups", "run.sqlite", "completions.place 21 = '-1'", ["status"]),
        ("killed-steady", "run.json", "provenance.scores_sha256 missing", ["show"]),
        ("digits", "run.sqlite", "finals dropped", ["status", "text", "api network"]),
        ("digits", "run.sqlite", "evaluations, rows doubled", ["runs", "api list"]),
        ("digits", "dense.safetensors", "signed, classifier.bias shorter", ["fork"]),
        ("digits", "run.sqlite", "finals, rows doubled", ["status", "text", "api network"]),
        ("killed-steady", "run.sqlite", "cut = x''", ["show dense", "python", "export"]),
        ("digits", "finished.json", "a link to itself", ["runs", "status"]),
        ("killed-nsga2", "run.sqlite", "evaluations.genome 21: deviation.0.2 = True", ["report"]),
        ("killed-nsga2", "run.sqlite", "first cut = x''", ["resume"]),
        ("killed-nsga2", "dense.safetensors", "a pipe", ["resume", "export"]),
        ("killed-nsga2", "run.sqlite", "a hard link", ["status", "resume"]),
        ("killed-nsga2", "run.sqlite", "evaluations with a trigger", ["front", "resume"]),
        ("killed-nsga2", "run.sqlite", "evaluations an endless view", ["status"]),
        ("killed-nsga2", "run.sqlite", "evaluations with a unique index", ["resume"]),
        ("killed-nsga2", "run.sqlite", "completions without keys", ["resume"]),
        ("killed-nsga2", "run.sqlite", "evaluations with a further column", ["front", "resume"]),
        ("killed-nsga2", "run.sqlite", "ids negative", ["status"]),
        ("killed-nsga2", "run.sqlite", "of run killed-cma", ["status", "front", "python", "resume"]),
        ("killed-nsga2", "run.json", "of run killed-cma", ["status", "front"]),
        ("killed-nsga2", "run.sqlite", "rejudged.error missing", ["resume"]),
        ("killed-nsga2", "run.json", "provenance.packages.deap missing", ["show", "resume"]),
        ("killed-derived", "run.sqlite", "evaluations.loss 1 = 'inf'", ["resume"]),
        ("killed-nsga2", "checkpoints", "folder, a file", ["resume"]),
        ("killed-derived", "checkpoints/generation-99999.json", "added, a file", ["resume"]),
        ("killed-derived", "finished.json", "added, a socket", ["compare"]),
        ("fork", "run.sqlite", "evaluations.genome 16: share missing", ["report"]),
        ("python", "dense.safetensors", "8.weight a scalar", ["export"]),
        ("killed-cma", "checkpoints/generation-00002.json", "signed, evolution.numpy.state.inc = False", ["resume"]),
        ("killed-nsga2", "engine.json", "workers missing", ["status"]),
        ("killed-nsga2", "run.json", "provenance.code = {}", ["show dense"]),
        ("digits", "run.sqlite", "completions, rows doubled", ["status"]),
        ("digits", "finals/4a0da01a4c2ee488-0.safetensors", "top.1.weight of bytes", ["export"]),
        ("latency", "finished.json", "missing", ["resume"]),
        ("latency", "engine.json", "missing", ["status", "text"]),
        ("latency", "costs.safetensors", "latency.dense infinite", ["front"]),
        ("latency", "costs.safetensors", "latency.weights of bytes", ["front"]),
    ],
)
def test_damages_that_were_once_missed(
    drives: dict[str, Drive], name: str, file: str, kind: str, verbs: list[str]
) -> None:
    (damage,) = (item for item in list_damages(RUNS / name, only=file) if item.name == kind)
    check(drives[name], damage, verbs)


def test_a_folder_with_the_name_of_a_draft_is_refused_in_one_line(drives: dict[str, Drive]) -> None:
    for file in (".run.json.draft", "finished.json"):
        damage = Damage(file, "a folder", lambda run, file=file: (run / file).mkdir(exist_ok=True))
        check(drives["killed-nsga2"], damage, ["resume"])


def test_facts_of_another_type_about_the_parent_of_a_fork_are_refused(tmp_path: Path) -> None:
    (damage,) = (
        item
        for item in list_damages(RUNS / "fork")
        if (item.file, item.name) == ("run.json", "provenance.parent.begins = x")
    )
    check(Drive(tmp_path, RUNS / "fork"), damage, ["show"])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*RUN_NAMES, *CHECKPOINTS])
def test_every_verb_on_every_damage(drives: dict[str, Drive], name: str) -> None:
    part, parts = map(int, os.environ.get("BLENDSEARCH_DAMAGES_PART", "1/1").split("/"))
    for damage in list_damages(RUNS / name)[part - 1 :: parts]:
        check(drives[name], damage, VERBS)


@pytest.mark.parametrize("text", ['{"format": 1}', "[]", "null", "{", "[" * 100_000])
def test_one_damaged_run_does_not_hide_the_others(drives: dict[str, Drive], text: str) -> None:
    drive = drives["digits"]
    found = drive.check(Damage("run.json", text[:20], lambda run: _write(run / "run.json", text)), ["runs", "api list"])
    assert {kind for kind, _ in found.values()} == {"warned"}
    listed = {row["run"]: row for row in drive.drive("runs").out}
    assert listed["other"]["state"] == "finished" and listed["one"]["state"].startswith("unreadable")
    assert "run.json" in listed["one"]["state"]


def test_odd_log_lines_are_skipped_with_a_warning(drives: dict[str, Drive]) -> None:
    def append(run: Path) -> None:
        with open(run / "logs/worker-0.jsonl", "ab") as log:
            log.write(b'\xff"again"\n["again"]\n{"at": "x", "event": "failed", "again": 1}\n{"at": NaN, "again": 1}\n')

    drive = drives["digits"]
    assert drive.check(Damage("logs/worker-0.jsonl", "odd lines", append), ["status"])["status"][0] == "same"
    assert "worker-0.jsonl is damaged: 4 of its lines" in drive.drive("status").err


@pytest.mark.parametrize("change", ["NaN", "missing", "shape"])
def test_a_signed_checkpoint_that_does_not_fit_is_refused_in_one_line(drives: dict[str, Drive], change: str) -> None:
    def damage(run: Path) -> None:
        path = run / "checkpoints/generation-00002.json"
        state = json.loads(json.loads(path.read_text())["state"])
        first = state["evolution"]["population"][0]
        if change == "NaN":
            first["genes"][0] = float("nan")
        elif change == "missing":
            del state["evolution"]["numpy"]
        else:
            first["genes"].pop()
        path.write_bytes(sign(state))

    found = drives["killed-nsga2"].check(Damage("checkpoints/generation-00002.json", change, damage), ["resume"])
    kind, text = found["resume"]
    # NaN is no JSON: the checkpoint counts as damaged, and the one before it is used
    assert kind == ("same" if change == "NaN" else "refused") and (change == "NaN" or "does not fit its run" in text)


def _write(path: Path, text: str) -> None:
    path.write_text(text)
