"""Forks: what is taken over from a run, what is judged again, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from run_files import journal
from verbs import refused, run

from blendsearch.fitness.evaluator import Evaluator, Outcome, Request
from blendsearch.results.summary import summarize_run
from blendsearch.runs.run import Run, open_run


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digests of what is really judged on validation images from now on."""
    found: list[str] = []
    evaluate = Evaluator.evaluate

    def counted(self: Evaluator, asked: Request) -> Outcome:
        if asked.split == "val":
            found.append(asked.digest)
        return evaluate(self, asked)

    monkeypatch.setattr(Evaluator, "evaluate", counted)
    return found


def numbers(of: Run) -> dict[str, tuple[Any, ...]]:
    return {digest: (loss, failure) for _, digest, loss, failure in journal(of)}


@pytest.mark.parametrize(
    ("schedule", "optimizer"),
    [
        ("generational", "cma"),
        pytest.param("generational", "nsga2", marks=pytest.mark.slow),
        ("steady", "cma"),
        pytest.param("steady", "random", marks=pytest.mark.slow),
    ],
)
def test_a_fork_begins_with_what_was_found_and_judges_none_of_it_again(
    schedule: str, optimizer: str, config_file: Path, tmp_path: Path, judged: list[str], capsys: Any
) -> None:
    choice = ("--set", f"search.optimizer={optimizer}", "--set", f"search.schedule={schedule}")
    run("search", tmp_path, config_file, "--name", "one", *choice)
    before, parent = numbers(open_run(tmp_path, "one")), open_run(tmp_path, "one")
    best = min(loss for loss, _ in before.values())
    judged.clear()
    run("fork", tmp_path, "one", "--name", "two", "--set", "search.evaluations=50")
    said = capsys.readouterr().out
    assert "forked from one: 8 of its networks begin the search; 31 evaluations are inherited" in said
    assert "search.evaluations: 30 -> 50" in said
    forked = open_run(tmp_path, "two")
    after = numbers(forked)
    assert len(after) == 50 and not set(judged) & set(before)
    assert len(judged) == len(set(after) - set(before)) >= 15
    assert all(after[digest] == before[digest] for digest in set(after) & set(before))
    assert min(loss for loss, _ in after.values()) <= best
    assert forked.provenance["parent"]["parent"] == "one"
    assert forked.provenance["weights_sha256"] == parent.provenance["weights_sha256"]
    assert summarize_run(forked).dense[0].val_loss == summarize_run(parent).dense[0].val_loss
    # and it is a run like any other
    (forked.path / "finished.json").unlink()
    judged.clear()
    run("resume", tmp_path, "two")
    assert numbers(forked) == after and not judged
    run("fork", tmp_path, "two", "--name", "three", "--set", "search.evaluations=60")
    assert not set(judged) & (set(before) | set(after))


def test_a_fork_at_another_budget_judges_the_same_genomes_there(
    config_file: Path, tmp_path: Path, judged: list[str], capsys: Any
) -> None:
    run("search", tmp_path, config_file, "--name", "one")
    for name, budget, most in (("less", "budget={macs: 0.3}", 0.3), ("span", "budget={params: [0.2, 0.6]}", 1.0)):
        judged.clear()
        capsys.readouterr()
        run("fork", tmp_path, "one", "--name", name, "--set", budget, "--set", "search.evaluations=40", "--json")
        events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        facts = next(item for item in events if item.get("event") == "forked")
        assert facts["begins"] == 8 and facts["again"] == "" and "budget.macs" in facts["changed"]
        found = summarize_run(open_run(tmp_path, name))
        assert len(judged) >= 30
        assert all(row.macs_ratio <= most for row in found.front)
        assert min(row.val_loss for row in found.front) <= min(row.val_loss for row in found.baselines)
    assert all(row.params_ratio <= 0.6 for row in found.front) and len(found.front) > 2


@pytest.mark.parametrize("change", ["fitness.fidelity=raw", pytest.param("seed=9", marks=pytest.mark.slow)])
def test_where_it_judges_otherwise_everything_is_judged_again(
    change: str, config_file: Path, tmp_path: Path, judged: list[str], capsys: Any
) -> None:
    run("search", tmp_path, config_file, "--name", "one")
    judged.clear()
    capsys.readouterr()
    run("fork", tmp_path, "one", "--set", change)
    said = capsys.readouterr().out
    assert f"no evaluation is inherited, since {change.partition('=')[0]} changed" in said
    forked = open_run(tmp_path, "one-fork-1")
    assert len(judged) == 30 + 1 == len(numbers(forked)) + 1
    splits = (open_run(tmp_path, name).provenance["data_sha256"] for name in ("one", "one-fork-1"))
    assert len(set(splits)) == 1


def test_a_legr_run_is_forked(quick: dict[str, Any], tmp_path: Path, judged: list[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**quick, "method": "legr", "criteria": {"pool": ["l2"], "images": 32}}))
    run("search", tmp_path, path, "--name", "one")
    before = numbers(open_run(tmp_path, "one"))
    judged.clear()
    run("fork", tmp_path, "one", "--name", "two", "--set", "search.evaluations=20")
    best = sorted(before, key=lambda digest: before[digest])[:8]
    assert set(best) <= set(numbers(open_run(tmp_path, "two"))) and not set(judged) & set(before)


def test_what_a_fork_cannot_change_is_refused(config_file: Path, tmp_path: Path, capsys: Any) -> None:
    run("search", tmp_path, config_file, "--name", "one", "--set", "search.evaluations=12")
    for change, why in [
        ("criteria.pool=[l1]", "would mean something else"),
        ("data.val_size=0.2", "would mean something else"),
        ("model.arguments.width=4", "would mean something else"),
        ("search.blend=group", "would mean something else"),
        ("search.evalutions=99", "did you mean evaluations"),
        ("budget.macs=0.0001", "reach"),
    ]:
        assert why in refused(capsys, "fork", tmp_path, "one", "--name", "two", "--set", change)
    assert "already in" in refused(capsys, "fork", tmp_path, "one", "--name", "one")
    assert not (tmp_path / "two").exists()
