"""Training of the base network before a search: a stopped one continues."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blendsearch.events import BaseTrained, Event, ignore_event
from blendsearch.pipeline.problem.builder import build_problem
from blendsearch.pipeline.problem.persistence import get_state_arrays
from blendsearch.pipeline.stages import _select_along_front
from blendsearch.runs.config.loading import parse_config
from blendsearch.runs.records import Evaluation
from blendsearch.training.training_store import FolderStore


def test_a_base_training_that_was_stopped_continues(quick: dict[str, Any], tmp_path: Path) -> None:
    tree = copy.deepcopy(quick)
    tree["model"]["train"]["epochs"] = 4
    tree.setdefault("training", {})["checkpoint_seconds"] = 1e-6
    config, store = parse_config(tree, "test"), FolderStore(tmp_path / ".training")
    wanted = get_state_arrays(build_problem(config, ignore_event).model)

    def stop(event: Event) -> None:
        if isinstance(event, BaseTrained) and event.done >= 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_problem(config, stop, checkpoints=store)
    done: list[float] = []
    problem = build_problem(
        config, lambda event: done.append(event.done) if isinstance(event, BaseTrained) else None, checkpoints=store
    )
    assert done[0] >= 0.5 and done[-1] == 1
    for name, array in get_state_arrays(problem.model).items():
        np.testing.assert_array_equal(array, wanted[name])
    other = parse_config({**tree, "seed": 9}, "test")
    done.clear()
    build_problem(
        other, lambda event: done.append(event.done) if isinstance(event, BaseTrained) else None, checkpoints=store
    )
    assert done[0] == 0.25


def test_a_single_final_of_a_span_is_the_best_network() -> None:
    def make(number: int, macs: int, loss: float) -> Evaluation:
        return Evaluation(number, f"{number}", b"", "raw", 0, 0, "evolved", "", macs, 1, loss, loss, 1.0, "")

    front = [make(1, 10, 0.9), make(2, 20, 0.5), make(3, 30, 0.3), make(4, 40, 0.3)]
    assert [row.id for row in _select_along_front(front, 1)] == [3]
    assert [row.id for row in _select_along_front(front, 2)] == [1, 4]
    assert [row.id for row in _select_along_front(front, 9)] == [1, 2, 3, 4]
