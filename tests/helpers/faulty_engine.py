"""An evaluator that fails on request."""

import sys
from dataclasses import replace

import faulty
from evaluations import make_evaluator

from blendsearch.fitness.evaluator import Evaluator
from blendsearch.task import Task

HARNESS = [sys.executable, faulty.__file__]


def faulty_evaluator() -> Evaluator:
    held = make_evaluator()
    return faulty.Faulty(held.model, held.maps, held.splits, held.recipe, held.device)


def slow_evaluator() -> Evaluator:
    """Return an evaluator whose construction and first evaluation take long in every process."""
    held = make_evaluator()
    recipe = replace(held.recipe, task=Task(evaluate=faulty.evaluate_slowly_first))
    return faulty.SlowStart(held.model, held.maps, held.splits, recipe, held.device)
