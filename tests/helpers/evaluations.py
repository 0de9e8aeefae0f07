"""Evaluators of small networks, and requests to them."""

import numpy as np
import torch

from blendsearch.data.splits import DataSpec, Splits, load_splits
from blendsearch.engine.base import Engine
from blendsearch.fitness.evaluator import Evaluator, Outcome, make_request
from blendsearch.structure.trace import trace_structure
from blendsearch.training.recovery import Recipe
from blendsearch.training.refit import RefitOptions, make_refitter
from blendsearch.training.schedule import Schedule
from blendsearch.zoo.digits_net import digits_net


def make_evaluator(repair: bool = False) -> Evaluator:
    torch.manual_seed(0)
    model = digits_net(width=8)
    structure = trace_structure(model, (1, 8, 8))
    splits = load_splits(DataSpec("digits"), 0)
    recipe = Recipe(64, 50, Schedule(0.2, 0.05, 32), Schedule(0.4, 0.05, 32))
    device = torch.device("cpu")
    model.eval()
    refitter = None
    if repair:
        options = RefitOptions(recalibration=True)
        refitter = make_refitter(model, structure.maps, splits, images=64, device=device, options=options)
    return Evaluator(model, structure.maps, splits, recipe, device, refitter)


def make_requests(number: int, fidelity: str = "recalibrated") -> list:
    held = make_evaluator()
    rng = np.random.default_rng(0)
    cuts = [rng.random(held.maps.channels) < 0.7 for _ in range(number)]
    for cut in cuts:
        cut[held.maps.offsets[:-1]] = True
    return [make_request(cut, fidelity, 0) for cut in cuts]


def collect_outcomes(engine: Engine, requests: list) -> dict[str, Outcome]:
    for item in requests:
        engine.submit(item)
    outcomes = list(engine.iter_outcomes())
    assert len(outcomes) == len(requests)
    return {outcome.digest: outcome for outcome in outcomes}


def load_digits_splits(augment: tuple[str, ...] = (), train_limit: int | None = None) -> Splits:
    return load_splits(DataSpec("digits", augment=augment, train_limit=train_limit), 0)
