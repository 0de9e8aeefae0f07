"""What a run measures, derives or trains before its search begins: named allocations, for whoever asks for them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from blendsearch.blend.allocation_rules import Measured
from blendsearch.engine.base import Engine
from blendsearch.pipeline.methods.derived.method import derived
from blendsearch.pipeline.methods.sensitivity import sensitivity
from blendsearch.pipeline.methods.tailored.method import tailored
from blendsearch.pipeline.problem.problem import Report, Setting
from blendsearch.runs.records import Final
from blendsearch.runs.run import Run
from blendsearch.runs.store import Store
from blendsearch.structure.groups import cut_digest
from blendsearch.structure.surgery import narrow


def _sensitivity(run: Run, setting: Setting, engine: Engine, store: Store, report: Report) -> Measured:
    return Measured(sensitivity(setting, engine, store, report))


def _derived(run: Run, setting: Setting, engine: Engine, store: Store, report: Report) -> Measured:
    return derived(run, setting, report)


def _tailored(run: Run, setting: Setting, engine: Engine, store: Store, report: Report) -> Measured:
    return tailored(run, setting, report)


FOUND_BY: dict[str, Callable[[Run, Setting, Engine, Store, Report], Measured]] = {
    "sensitivity": _sensitivity,
    "derived": _derived,
    "tailored": _tailored,
}


def with_measured(run: Run, setting: Setting, engine: Engine, store: Store, report: Report) -> Setting:
    """`setting` with the allocations that its config asks for; what a run has found already is not done again."""
    config = setting.config
    wanted: dict[str, None] = dict.fromkeys([*config.search.seeds, config.allocation, config.method])
    measured: dict[str, Measured] = {
        name: FOUND_BY[name](run, setting, engine, store, report) for name in wanted if name in FOUND_BY
    }
    decoder = setting.decoder
    if config.allocation in measured:
        decoder = replace(decoder, fixed=measured[config.allocation].fixed)
    return replace(setting, decoder=decoder, measured=measured)


def keep_trained(run: Run, setting: Setting, store: Store, report: Report) -> None:
    """Keep and judge the network of a method that trained it, as what was fine-tuned to the end; once."""
    found = setting.measured.get(setting.config.method)
    if found is None or found.cut is None or found.weights is None:
        return
    digest = cut_digest(found.cut)
    if any(item.digest == digest for item in store.finals()):
        return
    module = narrow(setting.model, setting.structure.maps, found.cut)
    module.load_state_dict({name: torch.from_numpy(np.asarray(array)) for name, array in found.weights.items()})
    held = setting.evaluator
    run.keep_weights(digest, 0, found.weights)
    store.add_final(Final(digest, 0, *held.measure(module, "val"), *held.measure(module, "test"), found.seconds))
    report("final", {"done": 1, "of": 1})
