"""Configs of runs that earlier versions made mean what they meant, whatever the defaults are now."""

from typing import Any

import yaml
from golden.cases import RUNS

from blendsearch.runs.config.loading import dump_config, parse_config, parse_stored_config


def test_runs_without_multiples_keep_all_widths(quick: dict[str, Any]) -> None:
    quick["budget"] = {"macs": 0.5}
    assert parse_stored_config(quick, "run.json").budget.round_to == 1
    assert parse_config(quick, "config.yaml").budget.round_to == "auto"


def test_a_stored_choice_stays(quick: dict[str, Any]) -> None:
    for choice in ("auto", 1, 8):
        quick["budget"] = {"macs": 0.5, "round_to": choice}
        stored = yaml.safe_load(dump_config(parse_config(quick, "config.yaml")))
        assert parse_stored_config(stored, "run.json").budget.round_to == choice


def test_runs_of_earlier_versions_are_not_rounded() -> None:
    stored = yaml.safe_load((RUNS / "digits" / "config.yaml").read_text(encoding="utf-8"))
    assert parse_stored_config(stored, "run.json").budget.round_to == 1


def test_runs_without_a_temperature_keep_the_loss_of_their_own(quick: dict[str, Any]) -> None:
    stored = yaml.safe_load((RUNS / "digits" / "config.yaml").read_text(encoding="utf-8"))
    assert parse_stored_config(stored, "run.json").fitness.temperature == "own"
    for choice in ("own", "fitted"):
        quick["fitness"] = {**quick.get("fitness", {}), "temperature": choice}
        again = yaml.safe_load(dump_config(parse_config(quick, "config.yaml")))
        assert parse_stored_config(again, "run.json").fitness.temperature == choice
