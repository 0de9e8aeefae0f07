"""What a run measures, derives or trains before its search begins: named allocations, for whoever asks for them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from blendsearch.blend.allocation_rules import PreparedAllocation
from blendsearch.engine.base import Engine
from blendsearch.pipeline.methods.derived.method import derive_widths
from blendsearch.pipeline.methods.sensitivity import measure_sensitivity
from blendsearch.pipeline.methods.tailored.method import train_tailored
from blendsearch.pipeline.problem.problem import Problem, Reporter
from blendsearch.runs.records import FinalResult
from blendsearch.runs.run import Run
from blendsearch.runs.store import Store
from blendsearch.structure.groups import compute_cut_digest
from blendsearch.structure.surgery import narrow


def _run_sensitivity(run: Run, problem: Problem, engine: Engine, store: Store, report: Reporter) -> PreparedAllocation:
    return PreparedAllocation(measure_sensitivity(problem, engine, store, report))


def _run_derived(run: Run, problem: Problem, engine: Engine, store: Store, report: Reporter) -> PreparedAllocation:
    return derive_widths(run, problem, report)


def _run_tailored(run: Run, problem: Problem, engine: Engine, store: Store, report: Reporter) -> PreparedAllocation:
    return train_tailored(run, problem, report)


PREPARERS: dict[str, Callable[[Run, Problem, Engine, Store, Reporter], PreparedAllocation]] = {
    "sensitivity": _run_sensitivity,
    "derived": _run_derived,
    "tailored": _run_tailored,
}


def prepare_allocations(run: Run, problem: Problem, engine: Engine, store: Store, report: Reporter) -> Problem:
    """`setting` with the allocations that its config asks for; what a run has found already is not done again."""
    config = problem.config
    wanted: dict[str, None] = dict.fromkeys([*config.search.seeds, config.allocation, config.method])
    measured: dict[str, PreparedAllocation] = {
        name: PREPARERS[name](run, problem, engine, store, report) for name in wanted if name in PREPARERS
    }
    decoder = problem.decoder
    if config.allocation in measured:
        decoder = replace(decoder, allocation_rule=measured[config.allocation].rule)
    return replace(problem, decoder=decoder, allocations=measured)


def store_trained_network(run: Run, problem: Problem, store: Store, report: Reporter) -> None:
    """Keep and judge the network of a method that trained it, as what was fine-tuned to the end; once."""
    found = problem.allocations.get(problem.config.method)
    if found is None or found.cut is None or found.weights is None:
        return
    digest = compute_cut_digest(found.cut)
    if any(item.digest == digest for item in store.read_finals()):
        return
    module = narrow(problem.model, problem.structure.maps, found.cut)
    module.load_state_dict({name: torch.from_numpy(np.asarray(array)) for name, array in found.weights.items()})
    held = problem.evaluator
    run.save_weights(digest, 0, found.weights)
    store.add_final(FinalResult(digest, 0, *held.measure(module, "val"), *held.measure(module, "test"), found.seconds))
    report("final", {"done": 1, "of": 1})
