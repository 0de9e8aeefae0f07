"""The answer of a run: a network that is worth taking, the next command, and a short table."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blendsearch.cli.answer_text import print_answer
from blendsearch.cli.main import main
from blendsearch.results.answer import MAX_ROWS, Answer, compose_answer
from blendsearch.results.formatting import format_bytes, format_factor, format_signed_points
from blendsearch.results.latency_text import describe_slowness
from blendsearch.results.records import FinalRecord, NetworkRecord, RunSummary
from blendsearch.results.summary import summarize_run
from blendsearch.runs.records import Latency
from blendsearch.runs.run import Run, open_run

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Provide a copy of the golden runs ``digits`` (a range of budgets), ``single`` and ``killed-cma``."""
    for name in ("digits", "single", "killed-cma"):
        shutil.copytree(GOLDEN / name, tmp_path / name)
    return tmp_path


def network(run: Run, number: int, cost: float, accuracy: float | None, **facts: Any) -> NetworkRecord:
    """Make a network of the front of a finished run."""
    fields: dict[str, Any] = {
        "origin": "evolved",
        "params_ratio": cost,
        "val_loss": 1 - (accuracy or 0),
        "test_accuracy": accuracy,
    }
    fields |= {"cut": f"{number:064x}", "fidelity": "recalibrated", "val_accuracy": accuracy} | facts
    return NetworkRecord(id=number, macs_ratio=cost, **fields)


def answer_of(run: Run, rows: list[NetworkRecord], finals: tuple[FinalRecord, ...] = ()) -> Answer:
    """Compose the answer of `run` with other networks on its front."""
    dense = replace(summarize_run(run).dense[0], val_accuracy=0.9, test_accuracy=0.9)
    return compose_answer(
        run, RunSummary(dense=(dense,), baselines=(), front=tuple(rows), fidelities=(), finals=finals)
    )


def test_the_sentence_names_gains_and_losses(runs: Path) -> None:
    run = open_run(runs, "single")
    best = network(run, 13, 0.37, 0.891)
    with run.open_store() as store:
        store.add_latency(best.cut, Latency(0.8, 0.004))
    answer = answer_of(run, [best])
    assert re.fullmatch(
        r"Take network 13: 2\.7x fewer MACs, 1\.98 kB instead of 5\.34 kB, 1\.2x faster on .*, -0\.9 points before "
        r"training \(test accuracy 89\.1% instead of 90\.0%\)\.",
        answer.sentences[0],
    )
    assert answer.dense is not None and answer.dense.latency_ms == pytest.approx(5.0)
    assert answer.command == f"blendsearch export single 13 --out single-13 --runs {runs}"
    assert answer.hint.startswith("It is not trained yet: blendsearch resume single --set finals.picks=1")


def test_latency_in_onnx_runtime_is_beside_that_in_torch(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = open_run(runs, "single")
    best = network(run, 14, 0.5, 0.891)
    with run.open_store() as store:
        store.add_latency(best.cut, Latency(0.8, 0.004))
        store.add_runtime_latency(best.cut, "onnxruntime", Latency(1.3, 0.0026))
    answer = answer_of(run, [best])
    assert re.search(r"1\.2x faster on [\w ]+ \(1\.3x slower in ONNX Runtime\), ", answer.sentences[0])
    assert answer.rows[0].runtimes == {"onnxruntime": {"ms": pytest.approx(2.6), "ratio": 1.3}}
    assert answer.dense is not None and answer.dense.runtimes["onnxruntime"]["ms"] == pytest.approx(2.0)
    assert answer.warning == (
        "warning: network 14 is slower than its MACs promise: 50% of the MACs take 130% of the time in ONNX Runtime; a "
        "coarser budget.round_to or a budget of latency can help"
    )
    print_answer(answer)
    shown = capsys.readouterr().out
    assert answer.warning in shown and "2.60 ms (130%)" in shown and "beside it in ONNX Runtime" in shown


@pytest.mark.parametrize(
    ("macs", "time", "slow"), [(0.5, 0.74, False), (0.5, 0.76, True), (0.9, 1.02, True), (0.05, 0.5, False)]
)
def test_a_warning_needs_less_than_half_of_the_saving(macs: float, time: float, slow: bool) -> None:
    assert bool(describe_slowness({"torch": (2.0, 2.0 * time), "onnxruntime": (2.0, 0.01)}, macs)) == slow
    assert describe_slowness({"torch": (0.5, 0.6)}, macs) == ""  # calls take most of so short a pass
    assert describe_slowness({}, macs) == ""


def test_the_command_exports_the_network(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["front", "one", "--runs", str(searched)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(("Take ", "The best network found"))
    words = shlex.split(lines[1])
    assert words[0] == "blendsearch"
    main(words[1:])
    assert (tmp_path / words[words.index("--out") + 1] / "weights.safetensors").exists()


def test_a_search_measures_latency_without_a_budget_for_it(searched: Path) -> None:
    answer = compose_answer(open_run(searched, "one"))
    best = next(row for row in answer.rows if "best" in row.mark)
    assert best.latency_ms and best.latency_ratio and answer.dense is not None
    assert answer.dense.latency_ms == pytest.approx(best.latency_ms / best.latency_ratio)
    assert "faster" in answer.sentences[0] or "slower" in answer.sentences[0] or "as fast" in answer.sentences[0]
    assert answer.conditions.startswith("latency on cpu, batch 1, float32")


def test_the_table_is_short_and_pareto_optimal_in_accuracy(runs: Path) -> None:
    run = open_run(runs, "digits")
    front = summarize_run(run).front
    many = [network(run, 100 + place, 0.3 + 0.01 * place, 0.70 + 0.005 * place) for place in range(30)]
    useless = [
        network(run, 200, 0.3005, 0.60),  # dominated
        network(run, 201, 0.2995, 0.69),  # 0.05 % of cost less than network 100, and a point worse
        network(run, 202, 0.20, 0.11),  # no accuracy left
    ]
    answer = answer_of(run, [*many, *useless, *front])
    shown = [row.id for row in answer.rows]
    assert len(shown) <= MAX_ROWS + 2 and not {200, 201, 202} & set(shown) and {100, 129} <= set(shown)
    pairs = [(row.macs_ratio, row.val_accuracy) for row in answer.rows if not row.mark]
    assert pairs == sorted(pairs) and len({accuracy for _, accuracy in pairs}) == len(pairs)
    assert sum("best" in row.mark for row in answer.rows) == 1


def test_a_smaller_network_that_is_about_as_accurate_is_named(runs: Path) -> None:
    run = open_run(runs, "digits")
    rows = [network(run, 100, 0.2, 0.80), network(run, 101, 0.3, 0.886), network(run, 102, 0.5, 0.89)]
    first, second = answer_of(run, rows).sentences
    assert first.startswith("Take network 102") and second.startswith("Or, smaller, network 101: 3.3x fewer MACs")


def test_a_network_that_loses_much_is_not_recommended(runs: Path) -> None:
    run = open_run(runs, "single")
    assert answer_of(run, [network(run, 13, 0.37, 0.5)]).sentences[0].startswith("The best network found is")


def test_networks_without_accuracy_are_described_by_loss(runs: Path) -> None:
    run = open_run(runs, "single")
    answer = answer_of(run, [network(run, 13, 0.37, None, val_loss=0.25)])
    assert "validation loss 0.25 instead of" in answer.sentences[0]


def test_an_unfinished_run_says_so(runs: Path) -> None:
    answer = compose_answer(open_run(runs, "killed-cma"))
    assert answer.sentences[-1] == "The search stopped: 17 of 24 networks are evaluated."


def test_all_rows_are_printed_on_request(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["front", "digits", "--runs", str(runs)])
    short = capsys.readouterr().out
    assert "best" in short and "val loss" not in short and "more networks: blendsearch front digits --all" in short
    main(["front", "digits", "--all", "--runs", str(runs)])
    whole = capsys.readouterr().out
    assert "val loss" in whole and "before training" in whole and len(whole) > len(short)


def test_json_has_the_answer_and_the_version_of_its_schema(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["front", "digits", "--runs", str(runs), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == 1 and found["answer"]["rows"] and found["answer"]["command"].startswith("blendsearch ")


def test_numbers_are_short() -> None:
    assert [format_bytes(count) for count in (12, 1_500, 68_400, 12_345_000, 3.2e9)] == [
        "12 B",
        "1.5 kB",
        "68 kB",
        "12.3 MB",
        "3.2 GB",
    ]
    assert format_factor(0.37, "fewer MACs") == "2.7x fewer MACs" and format_factor(1.5, "fewer MACs").endswith(
        "more MACs"
    )
    assert format_signed_points(-0.009) == "-0.9 points" and format_signed_points(0.0001) == "no accuracy lost"
