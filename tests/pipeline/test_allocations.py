"""Named allocations: what they find where the answer is known, and the one door through which searches use them."""

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from decoders import DECODER, RESNET
from hypothesis import given
from hypothesis import strategies as st
from known_nets import quick_on

from blendsearch.blend.allocation import allocate_along, allocate_globally, make_widths
from blendsearch.blend.allocation_rules import (
    compute_global_scores,
    make_global_rule,
    make_path_rule,
    make_uniform_rule,
)
from blendsearch.cli.main import main
from blendsearch.engine.local import LocalEngine
from blendsearch.errors import ConfigError
from blendsearch.events import ignore_event
from blendsearch.pipeline.methods.sensitivity.method import Curve, find_widths, make_curve, measure_sensitivity
from blendsearch.pipeline.optimizers.baselines import make_baselines
from blendsearch.pipeline.problem.builder import build_problem
from blendsearch.pipeline.problem.persistence import record
from blendsearch.pipeline.problem.session import SearchSession
from blendsearch.runs.config.loading import parse_config
from blendsearch.runs.run import open_run
from blendsearch.structure.groups import unpack_cut

SIZES = RESNET.maps.sizes


@given(st.integers(0, 10_000), st.floats(0.08, 1.0))
def test_along_any_path_the_budget_is_met_and_all_but_reached(seed: int, ratio: float) -> None:
    rng = np.random.default_rng(seed)
    power = rng.uniform(0.2, 3, len(SIZES))

    def path(level: float) -> np.ndarray:
        return SIZES * level**power

    counts = allocate_along(RESNET.oracle, DECODER.allowed, {"macs": ratio}, path, (0.0, 1.0))
    found = float(RESNET.oracle.compute_ratio("macs", counts))
    assert found <= ratio and (counts >= DECODER.allowed.low).all() and (counts <= SIZES).all()
    steps = (counts + np.eye(len(counts), dtype=int))[counts < SIZES]
    assert found >= ratio - 0.005 or all(RESNET.oracle.compute_ratio("macs", row) > ratio for row in steps)


def test_one_threshold_over_a_criterion_is_the_allocation_of_its_global_baseline() -> None:
    seeded = dict(make_baselines(DECODER, 1))
    for row, name in enumerate(DECODER.table.criteria):
        fixed = make_global_rule(DECODER.table, DECODER.oracle, DECODER.allowed, name)
        scores = compute_global_scores(DECODER.table, DECODER.oracle, DECODER.allowed, row)
        assert scores is not None
        counts = fixed.widths(DECODER.oracle, DECODER.compute_budget(0.0))
        budget = DECODER.compute_budget(0.0)
        assert (counts == allocate_globally(DECODER.oracle, DECODER.allowed, budget, scores)).all()
        assert np.abs(counts - DECODER.decode_counts(seeded[f"{name} global"])).max() <= 2  # its shares are clipped
    with pytest.raises(ConfigError, match="expected blend or one of a, b"):
        make_global_rule(DECODER.table, DECODER.oracle, DECODER.allowed, "magic")


def test_a_criterion_without_scores_in_some_group_has_no_global_allocation() -> None:
    scores = tuple(values.copy() for values in DECODER.table.scores)
    scores[3][1] = np.nan
    table = replace(DECODER.table, scores=scores)
    with pytest.raises(ConfigError, match="no score in some group"):
        make_global_rule(table, DECODER.oracle, DECODER.allowed, "b")
    counts = make_global_rule(table, DECODER.oracle, DECODER.allowed, "blend").widths(DECODER.oracle, {"macs": 0.5})
    assert float(RESNET.oracle.compute_ratio("macs", counts)) <= 0.5


def test_within_a_named_allocation_only_the_blend_is_left_to_genomes() -> None:
    for fixed in (
        make_uniform_rule(DECODER.allowed),
        make_global_rule(DECODER.table, DECODER.oracle, DECODER.allowed, "blend"),
    ):
        held = replace(DECODER, allocation_rule=fixed)
        rng = np.random.default_rng(0)
        genomes = [held.space.sample(rng) for _ in range(10)]
        expected = fixed.widths(held.oracle, held.compute_budget(0.0))
        assert all((RESNET.maps.count_kept(held.decode(genome)) == expected).all() for genome in genomes)
        assert len({held.decode(genome).tobytes() for genome in genomes}) == 10
        assert {name.rpartition(" ")[2] for name, _ in make_baselines(held, 1)} == {fixed.name}


@given(st.integers(0, 1000))
def test_a_search_can_start_from_any_widths_at_its_budget(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kept = rng.uniform(0.3, 1.0, len(SIZES))
    fixed = make_path_rule("some", DECODER.allowed, lambda level: SIZES * kept * level, (0.0, 4.0))
    genome = DECODER.apply_allocation(DECODER.space.make_equal_blend(), fixed)
    assert np.abs(DECODER.decode_counts(genome) - fixed.widths(DECODER.oracle, DECODER.compute_budget(0.0))).max() <= 1


def test_the_curve_is_read_where_it_was_measured_and_between() -> None:
    # error 0.1 whole; 0.08 (noise) at 0.75; 0.1 at 0.5; 0.3 at 0.25; guessing is 0.9
    found = make_curve([(0.5, 0.1), (0.25, 0.3), (0.75, 0.08)], 0.1, 0.9)
    assert found.find_narrowest(0.0) == 0.5  # free
    assert found.find_narrowest(0.1) == pytest.approx(0.375)
    assert found.find_narrowest(0.2) == pytest.approx(0.25)
    assert found.find_narrowest(0.5) == pytest.approx(0.125)
    assert found.find_narrowest(0.8) == found.find_narrowest(9.0) == 0.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0, 1), st.floats(0, 1))
def test_more_drop_never_widens_a_group(values: list[float], one: float, other: float) -> None:
    kept = np.linspace(0.9, 0.1, len(values))
    found = make_curve(list(zip(kept, values, strict=True)), 0.1, 0.9)
    low, high = sorted((one, other))
    assert 0 <= found.find_narrowest(high) <= found.find_narrowest(low) <= 1


def test_widths_allow_every_group_the_same_drop() -> None:
    """Two kinds of groups with straight curves: one loses four times what the other does, so it gives a quarter."""
    steep, flat = Curve(np.array([1.0, 0.0]), np.array([0.0, 0.8])), Curve(np.array([1.0, 0.0]), np.array([0.0, 0.2]))
    found = [steep if number % 2 else flat for number in range(len(SIZES))]
    allowed = make_widths(SIZES * 1, 1, 0.0, 1)
    held = replace(DECODER, allowed=allowed)
    counts = find_widths(found, held).widths(held.oracle, {"macs": 0.8})
    gone = 1 - counts / SIZES
    wide = SIZES >= 32
    assert gone[1::2][wide[1::2]].mean() == pytest.approx(gone[0::2][wide[0::2]].mean() / 4, abs=0.03)


def test_sensitivity_takes_first_what_is_provably_useless(quick: dict[str, Any], useless: Path, tmp_path: Path) -> None:
    config = parse_config(quick_on(quick, useless, method="sensitivity", budget={"macs": 0.75, "round_to": 1}), "test")
    problem = build_problem(config, ignore_event)
    run = record(problem, tmp_path, "one", [])
    store = run.open_store()
    events: list[Any] = []
    session = SearchSession(run, problem, LocalEngine(problem.evaluator), store, events.append)
    fixed = measure_sensitivity(session)
    names = [group.name for group in problem.structure.maps.groups]
    inner = next(number for number, name in enumerate(names) if name.startswith("inner"))
    for ratio in (0.9, 0.75):
        counts = fixed.widths(problem.structure.oracle, {"macs": ratio})
        gone = 1 - counts / problem.structure.maps.sizes
        assert float(problem.structure.oracle.compute_ratio("macs", counts)) <= ratio
        assert np.argmax(gone) == inner and gone[inner] > 2 * np.delete(gone, inner).max()
    # everything that was measured is stored: the whole network and three widths of every group, none of them twice
    probes = store.read_probes()
    assert len(probes) == events[-1].of == 1 + 3 * len(names)
    assert len({item.loss for item in probes if item.subject in ("dense", names[inner])}) == 1
    again = measure_sensitivity(dataclasses.replace(session, engine=_NoEngine()))
    assert (
        again.widths(problem.structure.oracle, {"macs": 0.6}) == fixed.widths(problem.structure.oracle, {"macs": 0.6})
    ).all()


class _NoEngine(LocalEngine):
    """An engine that nothing may be asked of."""

    def __init__(self) -> None:
        super().__init__(None)  # type: ignore[arg-type]

    def submit(self, asked: Any) -> None:
        raise AssertionError("asked for what is stored already")


def searched(folder: Path, name: str, tree: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree))
    main(["search", str(path), "--runs", str(folder), "--name", name])
    capsys.readouterr()
    main(["front", name, "--runs", str(folder), "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_blend_is_searched_within_measured_widths_and_a_search_can_start_from_them(
    quick: dict[str, Any], useless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    within = quick_on(quick, useless, allocation="sensitivity", search={"evaluations": 14, "population": 4})
    searched(tmp_path, "within", within, capsys)
    run = open_run(tmp_path, "within")
    store = run.open_store(read_only=True)
    sizes = [group["channels"] for group in run.structure["groups"]]
    starts = np.cumsum([0, *sizes[:-1]])
    rows = [row for row in store.read_evaluations() if row.id]
    kept = {tuple(np.add.reduceat(unpack_cut(row.cut, sum(sizes)), starts, dtype=int)) for row in rows}
    assert len(kept) == 1 and len(rows) > 3  # so small a network has few cuts of these widths
    assert {name.rpartition(" ")[2] for row in rows for name in row.origin.split(" = ")} <= {"sensitivity", "evolved"}
    seeds = {"evaluations": 16, "population": 4, "seeds": ["sensitivity"]}
    searched(tmp_path, "from", quick_on(quick, useless, search=seeds), capsys)
    names = {
        name
        for row in open_run(tmp_path, "from").open_store(read_only=True).read_evaluations()
        for name in row.origin.split(" = ")
    }
    assert {"l1 sensitivity", "equal blend sensitivity", "l1 uniform", "l1 global"} <= names


def test_the_method_by_name_judges_one_network_of_its_own(
    quick: dict[str, Any], useless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = quick_on(quick, useless, method="sensitivity")
    del tree["search"], tree["criteria"]
    found = searched(tmp_path, "named", tree, capsys)
    assert [row["origin"] for row in found["front"]] == ["sensitivity"]
    assert 0.48 <= found["front"][0]["macs_ratio"] <= 0.5 and found["front"][0]["test_accuracy"] > 0.1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"allocation": "sensitivity", "budget": {"keep": 0.5}}, "give one instead of budget.keep"),
        ({"search": {"seeds": ["tailored"]}, "budget": {"macs": [0.3, 0.5]}}, "one network is trained towards one"),
        ({"search": {"seeds": ["derived"]}, "allocation": "global"}, "search.seeds begin a search"),
        ({"method": "tailored", "finals": {"picks": 2}}, "leave finals.picks"),
        ({"allocation": "tailored", "budget": {"memory": 0.5}}, "leave budget.memory"),
        ({"allocating": {"ratios": [1.0]}}, "each below 1"),
    ],
)
def test_what_does_not_go_together_is_refused(quick: dict[str, Any], changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_config(quick | changes, "test")


def test_torch_prunings_widths_seed_a_search(quick: dict[str, Any], useless: Path, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("torch_pruning")
    seeds = {"evaluations": 16, "population": 4, "seeds": ["torch-pruning"]}
    searched(tmp_path, "from", quick_on(quick, useless, search=seeds), capsys)
    with open_run(tmp_path, "from").open_store(read_only=True) as store:
        rows = [row for row in store.read_evaluations() if "equal blend torch-pruning" in row.origin]
    dense = open_run(tmp_path, "from").structure["dense"]["macs"]
    assert len(rows) == 1 and rows[0].macs <= 0.5 * dense
