"""The automatic precision: chosen by measured seconds, stored as what was chosen."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from blendsearch.cli.main import main
from blendsearch.runs.run import open_run
from blendsearch.training.device import choose_precision, measure_precisions
from blendsearch.zoo.digits_net import digits_net


@pytest.mark.parametrize(
    ("seconds", "precision"),
    [((1.0, 0.5), "bfloat16"), ((1.0, 0.95), "float32"), ((1.0, 1.0), "float32"), ((1.0, 9.0), "float32")],
)
def test_bfloat16_is_chosen_where_it_is_faster_by_more_than_noise(seconds: tuple[float, float], precision: str) -> None:
    assert choose_precision({"float32": seconds[0], "bfloat16": seconds[1]}) == precision


def test_both_precisions_are_measured() -> None:
    seconds = measure_precisions(digits_net(width=4).eval(), torch.zeros(8, 1, 8, 8), repeats=1)
    assert set(seconds) == {"float32", "bfloat16"} and min(seconds.values()) > 0


def test_a_run_stores_the_precision_that_was_chosen(
    quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    found = {"float32": 1.0, "bfloat16": 0.1}
    monkeypatch.setattr("blendsearch.pipeline.problem.base_network.measure_precisions", lambda *_: found)
    quick["fitness"]["precision"] = "auto"
    quick["search"]["evaluations"] = 1
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(quick))
    main(["search", str(tmp_path / "config.yaml"), "--runs", str(tmp_path), "--name", "one", "--json"])
    assert open_run(tmp_path, "one").config.fitness.precision == "bfloat16"
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (event,) = [item for item in events if item.get("event") == "precision"]
    assert event["precision"] == "bfloat16" and event["seconds"] == found
