"""Cheap first, dear later: promotion, how far the cheap judgement can be trusted, stop rules, distillation."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy.stats import kendalltau

from blendsearch.cli.main import main
from blendsearch.pipeline.stopping import find_stop_reason
from blendsearch.runs.config.schema import SearchConfig
from blendsearch.runs.run import open_run


@pytest.fixture
def searched(tmp_path: Path, quick: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> tuple[Path, dict[str, Any]]:
    """A run whose best fifth was fine-tuned shortly, and two picks for longer with a teacher."""
    quick |= {"promote": {"share": 0.2}, "finals": {"picks": 2, "distillation": 0.5, "tuning": {"epochs": 1}}}
    quick["fitness"]["tuning"] = {"epochs": 0.5, "rate": 0.05}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(quick))
    main(["search", str(path), "--runs", str(tmp_path), "--name", "one"])
    capsys.readouterr()
    main(["front", "one", "--all", "--runs", str(tmp_path)])
    assert "Kendall's tau between recalibrated and tuned losses" in capsys.readouterr().out
    main(["front", "one", "--runs", str(tmp_path), "--json"])
    return tmp_path, json.loads(capsys.readouterr().out)


def test_the_best_share_is_judged_again_and_the_agreement_stated(searched: tuple[Path, dict[str, Any]]) -> None:
    folder, found = searched
    store = open_run(folder, "one").open_store(read_only=True)
    rows = {row.digest: row for row in store.read_evaluations() if row.id}
    again = {item.digest: item.loss for item in store.read_promotions()}
    picks = {item.digest for item in store.read_finals()}
    best = sorted(rows.values(), key=lambda row: (row.loss, row.error, row.id))[: round(0.2 * len(rows))]
    assert {row.digest for row in best} <= again.keys()
    assert all(item.fidelity == "tuned" for item in store.read_promotions())
    expected = kendalltau([rows[digest].loss for digest in sorted(again)], [again[digest] for digest in sorted(again)])
    stage = found["fidelities"][0]
    assert (stage["cheaper"], stage["dearer"], stage["networks"]) == ("recalibrated", "tuned", len(again))
    assert stage["tau"] == pytest.approx(expected.statistic)
    assert found["fidelities"][1]["dearer"] == "final"
    # what is fine-tuned for long is the best by the dearer judgement
    assert min(again, key=lambda digest: again[digest]) in picks


def test_a_search_without_promotion_states_no_agreement(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["search", str(config_file), "--runs", str(tmp_path), "--name", "plain", "--set", "search.evaluations=12"])
    capsys.readouterr()
    main(["front", "plain", "--runs", str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out)["fidelities"] == []


def generations(*losses: float, volume: float = 0.5, wall: float = 10.0) -> list[dict[str, Any]]:
    return [{"wall": wall, "summary": {"best_loss": loss, "hypervolume": volume}} for loss in losses]


def test_a_search_ends_when_nothing_better_is_found_or_its_time_is_over() -> None:
    stalled, timed = SearchConfig(stalled=2), SearchConfig(seconds=25)
    assert find_stop_reason(stalled, generations(3, 2, 1)) is None
    assert find_stop_reason(stalled, generations(3, 1, 1)) is None
    assert "2 generations" in str(find_stop_reason(stalled, generations(3, 1, 1, 1)))
    grown = [*generations(1, 1), *generations(1, volume=0.6)]
    assert find_stop_reason(stalled, grown) is None
    assert find_stop_reason(timed, generations(3, 3)) is None
    assert "time is over" in str(find_stop_reason(timed, generations(3, 2, 1)))
    assert find_stop_reason(SearchConfig(), generations(*[1.0] * 50, wall=1e6)) is None


def test_a_stalled_search_still_finishes_its_run(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["search", str(config_file), "--runs", str(tmp_path), "--name", "short"]
    main([*words, "--set", "search.seconds=0.001", "--set", "search.evaluations=500"])
    assert "stopped early: the time is over" in capsys.readouterr().out
    run = open_run(tmp_path, "short")
    assert run.finished and 8 <= len(run.open_store(read_only=True).read_evaluations()) < 40
