"""The latency model, on latencies that are made up and therefore known; and a search that is held to a measured one."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from blendsearch.blend.allocation import allocate, make_widths
from blendsearch.cli.main import main
from blendsearch.errors import BudgetError, ConfigError
from blendsearch.events import Event, Warned, ignore_event
from blendsearch.fitness.latency_benchmark import BenchmarkSettings, measure_latencies
from blendsearch.pipeline.problem.builder import build_problem
from blendsearch.pipeline.problem.costs import _check_margin
from blendsearch.pipeline.problem.persistence import restore
from blendsearch.runs.config.loading import load_config
from blendsearch.runs.records import Latency
from blendsearch.runs.run import open_run
from blendsearch.runs.store import Store
from blendsearch.runs.tables import AGES
from blendsearch.structure.latency_model import LatencyModel, extract_layers, fit_latency_model
from blendsearch.structure.peak_memory import trace_peak_memory
from blendsearch.structure.trace import trace_structure
from blendsearch.zoo.cifar_resnet import cifar_resnet
from blendsearch.zoo.digits_net import digits_net

MODEL = cifar_resnet(20)
NET = trace_structure(MODEL, (3, 32, 32))
SIZES, LAYERS = NET.maps.sizes, extract_layers(NET.oracle)
DENSE = 10_000_000


def drawn(seed: int, cuts: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    ratio = rng.uniform(0.05, 1.0, (cuts, 1)) * np.exp(rng.normal(0, 0.4, (cuts, len(SIZES))))
    return np.clip((ratio * SIZES).astype(np.int64), 2, SIZES)


def true_share(counts: np.ndarray, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """A machine on which a pass costs 10 % whatever the width, and one kind of layer more than others."""
    features = LAYERS.compute_features(counts)
    part = features / LAYERS.compute_features(SIZES)
    weights = np.zeros(features.shape[-1])
    weights[[0, 1, 2, 6, 10]] = [0.1, 0.2, 0.3, 0.25, 0.15]
    return part @ weights * np.exp(np.random.default_rng(seed).normal(0, noise, len(counts)))


def model_of(noise: float, seed: int = 0) -> LatencyModel:
    counts = drawn(seed, 60)
    return fit_latency_model(LAYERS, counts, true_share(counts, noise, seed), DENSE, np.arange(60) >= 20)


FIT = model_of(0.02)
PEAK = trace_peak_memory(MODEL, NET.maps, (3, 32, 32))
STEADY = {"cuts": 15, "repeats": 3, "max_margin": 1e9}
"""A short measurement, whatever else the machine does."""
ORACLE = NET.oracle.add_cost("latency", FIT, DENSE).add_cost("memory", PEAK, int(PEAK(SIZES)))


def test_the_layers_do_all_the_multiply_accumulates() -> None:
    counts = drawn(1, 5)
    kinds = int(LAYERS.kind.max()) + 1
    assert (
        LAYERS.compute_features(counts)[:, 1 : 1 + kinds].sum(axis=1).tolist()
        == NET.oracle.compute_cost("macs", counts).tolist()
    )


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_known_machine_is_learnt_and_fresh_cuts_are_rarely_slower_than_charged(noise: float) -> None:
    fit = model_of(noise)
    fresh = drawn(99, 400)
    truth = true_share(fresh, noise, 98)
    assert np.median(np.abs(truth / fit.predict(fresh) - 1)) < 0.01 + noise
    assert (truth <= fit.predict(fresh) * (1 + fit.margin)).mean() > 0.88
    assert fit.margin < 0.02 + 4 * noise


@given(st.integers(0, 10_000), st.integers(0, len(SIZES) - 1), st.integers(1, 40))
def test_a_wider_network_is_never_charged_less(seed: int, group: int, more: int) -> None:
    counts = drawn(seed, 1)[0]
    wider = counts.copy()
    wider[group] = min(counts[group] + more, SIZES[group])
    assert FIT(wider) >= FIT(counts)
    assert FIT(counts) <= DENSE


@given(
    st.integers(0, 10_000),
    st.sampled_from(["latency", "latency macs", "latency memory", "latency macs params memory"]),
    st.floats(0.3, 0.95),
)
def test_budgets_with_latency_are_met_and_used_up(seed: int, names: str, ratio: float) -> None:
    rng = np.random.default_rng(seed)
    allowed = make_widths(SIZES, 2, 0.02, 1)
    budget = {name: ratio ** rng.uniform(0.7, 1.4) for name in names.split()}
    budget["latency"] = max(budget["latency"], float(ORACLE.compute_ratio("latency", allowed.low)))
    counts = allocate(ORACLE, allowed, budget, rng.uniform(-1, 1, len(SIZES)))
    assert all(ORACLE.compute_ratio(name, counts) <= most for name, most in budget.items())
    near = any(ORACLE.compute_ratio(name, counts) >= most - 0.005 for name, most in budget.items())
    steps = (counts + np.eye(len(SIZES), dtype=int))[counts < SIZES]
    assert near or all(any(ORACLE.compute_ratio(name, row) > budget[name] for name in budget) for row in steps)


def test_a_model_is_the_same_when_it_has_been_stored() -> None:
    again = LatencyModel.from_arrays(FIT.to_arrays())
    counts = drawn(3, 50)
    assert again(counts).tolist() == FIT(counts).tolist()
    assert again.margin == FIT.margin


def test_the_dense_network_beside_itself_takes_as_long() -> None:
    model = digits_net()
    maps = trace_structure(model, (1, 8, 8)).maps
    settings = BenchmarkSettings((1, 8, 8), 4, "float32", 9)
    for _ in range(5):  # machines that test do other things too
        seconds = measure_latencies(model.eval(), maps, [maps.make_unpruned_cut()] * 3, settings)
        assert seconds.shape == (3, 2)
        assert (seconds > 0).all()
        if 0.5 < (ratio := np.median(seconds[:, 1] / seconds[:, 0])) < 2:
            break
    assert 0.5 < ratio < 2
    assert measure_latencies(model, maps, [], BenchmarkSettings((1, 8, 8), 1, "float32", 3)).shape == (0, 2)


def known_machine(model: Any, maps: Any, cuts: list[Any], conditions: BenchmarkSettings) -> np.ndarray:
    """A stand-in for the stop watch: a pass takes 1 ms, a fifth of it whatever the width."""
    counts = np.array([maps.count_kept(cut) for cut in cuts]).reshape(-1, len(maps.sizes))
    oracle = trace_structure(digits_net(width=8), (1, 8, 8)).oracle
    return np.stack([np.full(len(cuts), 1e-3), 1e-3 * (0.2 + 0.8 * oracle.compute_ratio("macs", counts))], axis=1)


def test_a_search_is_held_to_all_four_budgets_and_reports_them(
    quick: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = {"macs": 0.7, "params": 0.8, "memory": 0.7, "latency": 0.9, "measured": {"cuts": 15, "repeats": 3}}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(quick | {"budget": budget}))
    changes = ["--set", "search.evaluations=12", "--set", "criteria.pool=[l1, apoz]"]
    for place in ("blendsearch.fitness.latency_benchmark", "blendsearch.pipeline.stages"):
        monkeypatch.setattr(f"{place}.measure_latencies", known_machine)
    main(["search", str(path), "--runs", str(tmp_path), "--name", "four", *changes])
    said = capsys.readouterr().out
    assert "% of memory" in said and "% of latency" in said and "held-out cuts" in said
    main(["front", "four", "--runs", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    for row in [*found["baselines"], *found["front"]]:
        assert all(row[f"{name}_ratio"] <= budget[name] for name in ("macs", "params", "memory", "latency"))
        assert row["latency_predicted"] <= row["latency_ratio"]
        assert row["latency_measured"] <= row["latency_ratio"] + 0.01
    assert found["dense"][0]["memory_ratio"] == 1
    main(["front", "four", "--all", "--runs", str(tmp_path)])
    said = capsys.readouterr().out
    assert all(column in said for column in ("memory", "latency", "measured", "batch 1, float32"))

    run = open_run(tmp_path, "four")
    assert run.structure["latency"]["held_out"] == 10
    monkeypatch.setattr("blendsearch.pipeline.problem.costs.build_latency_model", None)  # resuming measures nothing
    monkeypatch.setattr("blendsearch.pipeline.problem.costs.trace_peak_memory", None)
    oracle = restore(run).decoder.oracle
    assert oracle.dense == run.structure["dense"]
    row = run.open_store(read_only=True).read_evaluations()[-1]
    assert row.macs / oracle.dense["macs"] <= 0.7


def test_a_latency_out_of_reach_is_refused_with_the_range_before_there_is_a_run(
    quick: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(quick | {"budget": {"latency": 0.001, "measured": STEADY}}))
    with pytest.raises(SystemExit):
        main(["search", str(path), "--runs", str(tmp_path / "runs")])
    assert "% of the dense latency: reachable is" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    with pytest.raises(BudgetError, match="reachable is"):
        build_problem(load_config(path, ["budget.memory=0.001"]), ignore_event)
    with pytest.raises(ConfigError, match=r"leave out budget\.latency"):
        load_config(path, ["budget.keep=0.5"])


def test_a_wide_margin_ends_a_search_before_there_is_a_run() -> None:
    reported: list[Event] = []
    _check_margin(0.1, 0.5, reported.append)
    assert not reported
    _check_margin(0.3, 0.5, reported.append)
    (warning,) = reported
    assert isinstance(warning, Warned) and "cuts are charged 30% extra" in warning.text
    with pytest.raises(BudgetError, match="charged 62% more than predicted, and .*max_margin is 50%") as raised:
        _check_margin(0.62, 0.5, reported.append)
    assert "--set budget.measured.max_margin=0.7" in str(raised.value) and "\n" not in str(raised.value)
    _check_margin(0.62, 0.7, reported.append)


def test_a_search_is_held_to_the_latency_of_a_board(quick: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("onnx")
    board = tmp_path / "board.sh"
    board.write_text('echo run >> "$0.log"\necho $(($(wc -c < "$1") / 100)).5\n')  # slower for larger files
    measured = {"command": f"sh {shlex.quote(str(board))} {{onnx}}", "cuts": 15}
    quick["search"] = {"evaluations": 6, "population": 4}
    quick["criteria"] = {"pool": ["l1", "apoz"], "images": 32}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(quick | {"budget": {"latency": 0.7, "measured": measured, "round_to": 1}}))
    main(["search", str(path), "--runs", str(tmp_path), "--name", "board"])
    assert "the command 'sh " in capsys.readouterr().out
    main(["front", "board", "--runs", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert all(row["latency_ratio"] <= 0.7 for row in [*found["baselines"], *found["front"]])
    assert all(row["latency_measured"] < 0.8 for row in found["front"])
    assert {"torch"} <= set(found["answer"]["rows"][0]["runtimes"]) <= {"torch", "onnxruntime"}
    assert len(Path(f"{board}.log").read_text().splitlines()) >= 3 * (15 + 3)

    board.write_text("echo no route to board >&2; exit 255\n")
    with pytest.raises(SystemExit):
        main(["search", str(path), "--runs", str(tmp_path / "runs")])
    error = capsys.readouterr().err.splitlines()[-1]
    assert "budget.measured.command 'sh " in error and "ended with code 255: no route to board" in error
    assert not (tmp_path / "runs").exists()


def test_a_latency_budget_in_onnx_runtime_names_it(quick: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("onnxruntime")
    measured = {"runtime": "onnxruntime", **STEADY}
    quick["search"], quick["criteria"] = {"evaluations": 4, "population": 4}, {"pool": ["l1"], "images": 32}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(quick | {"budget": {"latency": 1.0, "measured": measured}}))
    main(["search", str(path), "--runs", str(tmp_path), "--name", "one"])
    assert "ONNX Runtime, cpu, 1 of " in capsys.readouterr().out
    with open_run(tmp_path, "one").open_store(read_only=True) as store:
        further = store.read_runtime_latencies()
    assert further and all(list(item) == ["torch"] for item in further.values())


def test_a_run_from_before_latencies_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path / "run.sqlite")
    store.add_latency("a", Latency(0.5, 0.01))
    store.add_latency("a", Latency(0.6, 0.02))
    assert store.read_latencies() == {"a": Latency(0.5, 0.01)}
    store.add_runtime_latency("a", "onnxruntime", Latency(0.7, 0.03))
    store.add_runtime_latency("a", "onnxruntime", Latency(0.8, 0.04))
    assert store.read_runtime_latencies() == {"a": {"onnxruntime": Latency(0.7, 0.03)}}
    for table in sorted(AGES.keys() - {"finals", "rejudged"}):
        store._connection.execute(f"DROP TABLE {table}")
    store.close()
    old = Store(tmp_path / "run.sqlite", read_only=True)
    assert old.read_latencies() == old.read_runtime_latencies() == {}
