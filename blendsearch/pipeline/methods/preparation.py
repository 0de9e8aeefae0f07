"""What a run measures, derives or trains before its search begins: named allocations, for whoever asks for them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from blendsearch.blend.allocation_rules import PreparedAllocation
from blendsearch.events import FinalTrained
from blendsearch.pipeline.methods.derived.method import derive_widths
from blendsearch.pipeline.methods.sensitivity import measure_sensitivity
from blendsearch.pipeline.methods.tailored.method import train_tailored
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.pipeline.problem.session import SearchSession
from blendsearch.runs.records import FinalResult
from blendsearch.structure.groups import compute_cut_digest
from blendsearch.structure.surgery import narrow

PREPARERS: dict[str, Callable[[SearchSession], PreparedAllocation]] = {
    "sensitivity": lambda session: PreparedAllocation(measure_sensitivity(session)),
    "derived": derive_widths,
    "tailored": train_tailored,
}


def prepare_allocations(session: SearchSession) -> Problem:
    """Return the problem with the allocations that its config asks for; stored results are not computed again."""
    problem = session.problem
    config = problem.config
    wanted: dict[str, None] = dict.fromkeys([*config.search.seeds, config.allocation, config.method])
    measured: dict[str, PreparedAllocation] = {name: PREPARERS[name](session) for name in wanted if name in PREPARERS}
    decoder = problem.decoder
    if config.allocation in measured:
        decoder = replace(decoder, allocation_rule=measured[config.allocation].rule)
    return replace(problem, decoder=decoder, allocations=measured)


def store_trained_network(session: SearchSession) -> None:
    """Save and evaluate the network of a method that trains its own, as a final result, once."""
    problem, store = session.problem, session.store
    found = problem.allocations.get(problem.config.method)
    if found is None or found.cut is None or found.weights is None:
        return
    digest = compute_cut_digest(found.cut)
    if any(item.digest == digest for item in store.read_finals()):
        return
    module = narrow(problem.model, problem.structure.maps, found.cut)
    module.load_state_dict({name: torch.from_numpy(np.asarray(array)) for name, array in found.weights.items()})
    held = problem.evaluator
    session.run.save_weights(digest, 0, found.weights)
    store.add_final(FinalResult(digest, 0, *held.measure(module, "val"), *held.measure(module, "test"), found.seconds))
    session.report(FinalTrained(done=1, of=1))
