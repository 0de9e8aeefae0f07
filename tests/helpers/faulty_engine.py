"""An evaluator that fails on request."""

import sys

import faulty
from evaluations import make_evaluator

from blendsearch.fitness.evaluator import Evaluator

HARNESS = [sys.executable, faulty.__file__]


def faulty_evaluator() -> Evaluator:
    held = make_evaluator()
    return faulty.Faulty(held.model, held.maps, held.splits, held.recipe, held.device)
