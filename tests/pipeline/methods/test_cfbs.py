"""The paper's method by name: its space, its operators, and a whole small run to the long fine-tune."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from decoders import DECODER

import blendsearch
from blendsearch.blend.allocation_rules import make_constant_rule, make_uniform_rule
from blendsearch.blend.decoder import Decoder
from blendsearch.blend.genome import unflatten_genome
from blendsearch.blend.group_space import GroupSpace
from blendsearch.cli.main import main
from blendsearch.errors import ConfigError
from blendsearch.pipeline.methods.cfbs.method import Cfbs
from blendsearch.pipeline.optimizers.base import Candidate, CandidateResult
from blendsearch.pipeline.optimizers.baselines import make_baselines
from blendsearch.pipeline.optimizers.evolution import Evolution
from blendsearch.runs.config.loading import parse_config

SPACE = GroupSpace(DECODER.space.criteria, DECODER.space.ranks, DECODER.space.clusters, means=False)
PAPER = Decoder(
    SPACE, DECODER.table, DECODER.oracle, DECODER.allowed, DECODER.budget, make_uniform_rule(DECODER.allowed)
)
MODEL_AND_DATA = {"model": {"factory": "digits_net", "train": {"epochs": 1}}, "data": {"dataset": "digits"}}


def rules(drop: float = 0.05, mutation: float = 0.1) -> Cfbs:
    return Cfbs(SPACE, mutation, drop, 0.08)


def test_the_preset_is_the_papers_and_a_config_stands_above_it() -> None:
    config = parse_config({"method": "cfbs", **MODEL_AND_DATA, "budget": {"keep": 0.5}}, "test")
    assert len(config.criteria.pool) == 12 and config.criteria.clusters == 3
    search = config.search
    assert (search.population, search.crossover, search.mutation, search.drop, search.drop_ratio) == (
        *(20, 0.8, 0.1),
        *(0.05, 0.08),
    )
    assert search.evaluations == 20 * 50 + 13
    tuning = config.fitness.tuning
    assert (tuning.epochs, tuning.rate, tuning.momentum, tuning.weight_decay) == (3, 0.001, 0.9, 1e-4)
    assert config.finals.tuning.epochs == 40 and config.finals.picks == 5
    other = parse_config(
        {"method": "cfbs", **MODEL_AND_DATA, "budget": {"macs": 0.5}, "search": {"evaluations": 40}}, "test"
    )
    assert other.search.evaluations == 40 and other.search.population == 20


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"budget": {"macs": [0.3, 0.5]}}, "one budget"),
        ({"budget": {"keep": 0.5, "macs": 0.5}}, "leave out budget.macs"),
        ({"budget": {"macs": 0.5}, "allocation": "evolved"}, "leave allocation uniform"),
    ],
)
def test_what_the_method_cannot_do_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_config({"method": "cfbs", **MODEL_AND_DATA, **changes}, "test")


def test_one_criterion_per_cluster_never_their_mean() -> None:
    rng = np.random.default_rng(0)
    there = SPACE.max_choices > 0
    seen = set()
    for _ in range(50):
        genome = SPACE.sample(rng)
        assert (SPACE.get_choices(genome)[there] >= 1).all() and (SPACE.get_choices(genome) <= SPACE.max_choices).all()
        seen.add(SPACE.get_choices(genome).tobytes())
    assert len(seen) > 40
    genes = SPACE.sample(rng).flatten()
    for _ in range(50):
        rules(mutation=1.0).mutate(genes)
        genome = unflatten_genome(SPACE, genes)
        assert (SPACE.get_choices(genome)[there] >= 1).all() and (SPACE.get_choices(genome) <= SPACE.max_choices).all()
        assert (SPACE.get_factors(genome) >= 0).all() and (SPACE.get_factors(genome) <= 1).all()


def test_criterion_and_factor_are_crossed_together() -> None:
    random.seed(0)
    a = SPACE.make_genome(SPACE.min_choices, np.full(SPACE.max_choices.shape, 0.25)).flatten()
    b = SPACE.make_genome(SPACE.max_choices, np.full(SPACE.max_choices.shape, 0.75)).flatten()
    rules().mate(a, b)
    first, second = unflatten_genome(SPACE, a), unflatten_genome(SPACE, b)
    assert 0 < (SPACE.get_factors(first) == 0.75).sum() < SPACE.max_choices.size  # it does cross
    for child in (first, second):
        from_other = SPACE.get_factors(child) == 0.75
        assert (SPACE.get_choices(child) == np.where(from_other, SPACE.max_choices, SPACE.min_choices)).all()


def test_drop_silences_a_part_of_the_criteria_in_that_share_of_children() -> None:
    random.seed(1)
    there = int((SPACE.max_choices > 0).sum())
    silenced = []
    for _ in range(2000):
        genes = SPACE.make_genome(SPACE.min_choices, np.full(SPACE.max_choices.shape, 0.5)).flatten()
        rules(drop=0.05, mutation=0.0).mutate(genes)
        silenced.append(genes[SPACE.max_choices.size : 2 * SPACE.max_choices.size].count(0.0))
    counts = set(silenced)
    assert counts == {0, max(1, round(0.08 * there))}
    assert 0.03 < np.mean(np.array(silenced) > 0) < 0.07


def test_controls_stay_beside_the_population_and_the_best_of_it_survives() -> None:
    held = Evolution(SPACE, PAPER.decode, rules(), 8, 0.8, np.random.default_rng(0))
    seeds = make_baselines(PAPER, 1)
    assert all("global" not in name for name, _ in seeds)  # one allocation, given beforehand
    first = held.ask_first(seeds, 100)
    assert sum(item.origin == "evolved" for item in first) == 8

    def judged(candidates: list[Candidate]) -> list[CandidateResult]:
        return [
            CandidateResult(item.genome, (float(SPACE.get_factors(item.genome).sum()), 0.0), item.digest, item.origin)
            for item in candidates
        ]

    held.tell(judged(first))
    controls = {item.digest for item in first if item.origin != "evolved"}
    assert len(held.population) == 8 and not controls & {item.digest for item in held.population}
    known = {item.digest for item in first}
    best = min(item.fitness.values[0] for item in held.population)
    for _ in range(5):
        asked = held.ask(8, known)
        known |= {item.digest for item in asked}
        held.tell(judged(asked))
        now = min(item.fitness.values[0] for item in held.population)
        assert now <= best
        best = now


def test_every_cut_has_the_widths_given_beforehand() -> None:
    rng = np.random.default_rng(0)
    counts = {tuple(PAPER.decode_counts(SPACE.sample(rng))) for _ in range(20)}
    assert len(counts) == 1
    held = Decoder(
        SPACE, DECODER.table, DECODER.oracle, DECODER.allowed, {}, make_constant_rule(DECODER.allowed.sizes // 2)
    )
    cut = held.decode(SPACE.sample(rng))
    assert cut.sum() == (DECODER.allowed.sizes // 2).sum()


def test_a_whole_run_by_name(tmp_path: Path, quick: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    quick["criteria"] = {"images": 128}
    quick |= {"method": "cfbs", "budget": {"keep": {"*": 0.5}}}
    quick["fitness"]["tuning"] = {"epochs": 0.2}
    quick["finals"] = {"picks": 2, "seeds": 2, "tuning": {"epochs": 2, "rate": 0.1}}
    quick["search"] = {"evaluations": 40, "population": 8}
    path = tmp_path / "cfbs.yaml"
    path.write_text(yaml.safe_dump(quick))
    main(["search", str(path), "--runs", str(tmp_path), "--name", "paper"])
    assert "after training" in capsys.readouterr().out
    main(["front", "paper", "--runs", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert len({row["macs_ratio"] for key in ("front", "baselines", "finals") for row in found[key]}) == 1
    finals = found["finals"]
    assert len(finals) >= 3 and all(row["seeds"] == 2 for row in finals)
    assert sum(row["origin"] == "evolved" for row in finals) == 2  # controls are beside, never among the picks
    assert any(row["val_spread"] > 0 for row in finals)  # two seeds are two fine-tunes
    accuracies = [row["val_accuracy"] for row in finals]
    assert accuracies == sorted(accuracies, reverse=True)
    main(["export", "paper", "--runs", str(tmp_path), "--to", str(tmp_path / "out"), "--json"])
    exported = json.loads(capsys.readouterr().out)
    assert exported["id"] == finals[0]["id"]
    facts = json.loads((tmp_path / "out" / "network.json").read_text())
    assert facts["fidelity"] == "final"
    assert blendsearch.load(tmp_path / "out") is not None


def test_a_pattern_that_names_no_group_is_refused(
    tmp_path: Path, quick: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    quick["budget"] = {"keep": {"layer9.*": 0.5}}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(quick))
    with pytest.raises(SystemExit) as stopped:
        main(["search", str(path), "--runs", str(tmp_path)])
    assert stopped.value.code == 2
    assert "no group is called 'layer9.*'" in capsys.readouterr().err
