"""Allocations that methods find before the search, and the network of a method that trains its own."""

from dataclasses import replace

import numpy as np
import torch

from blendsearch.blend.allocation_rules import PreparedAllocation
from blendsearch.events import FinalTrained
from blendsearch.pipeline.methods.method import load_method
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.pipeline.problem.session import SearchSession
from blendsearch.runs.config.method_registry import list_method_names
from blendsearch.runs.records import FinalResult
from blendsearch.structure.groups import compute_cut_digest
from blendsearch.structure.surgery import narrow


def prepare_allocations(session: SearchSession) -> Problem:
    """Return the problem with the allocations that its config asks for; stored results are not computed again."""
    problem = session.problem
    config = problem.config
    measured: dict[str, PreparedAllocation] = {}
    for name in dict.fromkeys([*config.search.seeds, config.allocation, config.method]):
        if name in list_method_names():
            found = load_method(name).prepare_allocation(session)
            if found is not None:
                measured[name] = found
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
