"""Methods ``scratch`` and ``scratch-long``: the uniformly pruned network, trained from random weights.

Liu et al. 2019, "Rethinking the Value of Network Pruning". The schedule is that of the finals, `finals.tuning`, once or
`ladder.cost` times as long: the most that a search with a ladder spends on training. Where the finals find their
learning rate by probes on a pruned network, `RATE` is taken, since random weights need a larger one. Distillation is
left out.

It runs in the searching process. A training that was interrupted continues.
"""

import time
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from blendsearch.blend.allocation_rules import PreparedAllocation, make_uniform_rule
from blendsearch.errors import ModelError
from blendsearch.pipeline.methods.one_network import OneNetworkMethod
from blendsearch.pipeline.problem.from_config import make_schedule
from blendsearch.pipeline.problem.persistence import get_state_arrays
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.pipeline.problem.session import SearchSession
from blendsearch.runs.array_checkpoint import load_array_checkpoint, save_array_checkpoint
from blendsearch.runs.checkpoint import refuse_unfit_state
from blendsearch.runs.decoding import check_type
from blendsearch.structure.surgery import narrow
from blendsearch.training.device import convert_to_channels_last
from blendsearch.training.trainer import train
from blendsearch.training.training_options import CheckpointOptions, TrainingOptions

RATE = 0.1
"""Learning rate where `finals.tuning.rate` is auto."""


class Scratch(OneNetworkMethod):
    """One network, with the uniform cut of the equal blend and weights of its own."""

    def prepare_allocation(self, session: SearchSession) -> PreparedAllocation:
        """Train the network, unless the run has it."""
        problem, folder = session.problem, session.run.path / "scratch"
        cut = problem.decoder.decode(problem.decoder.space.make_equal_blend())
        found = load_array_checkpoint(folder, session.warn)
        if found is None:
            start = time.perf_counter()
            module = convert_to_channels_last(narrow(problem.model, problem.structure.maps, cut))
            train_from_scratch(module, problem, self.get_length(problem))
            seconds, arrays = time.perf_counter() - start, get_state_arrays(module)
            save_array_checkpoint(folder, 1, {"seconds": seconds}, arrays)
        else:
            with refuse_unfit_state(folder):
                check_type(found[0], dict[str, float])
                seconds, arrays = found[0]["seconds"], found[1]
        return PreparedAllocation(make_uniform_rule(problem.decoder.allowed), cut, arrays, seconds)

    def get_length(self, problem: Problem) -> float:
        """Return the length of the training, in that of a final."""
        return 1.0


class LongScratch(Scratch):
    """The same network, trained as long as all rungs and finals of a search."""

    def get_length(self, problem: Problem) -> float:
        return problem.config.ladder.cost


def train_from_scratch(module: nn.Module, problem: Problem, length: float) -> None:
    """Draw the weights of `module` anew, and train it in place for `length` times the epochs of a final."""
    held, config = problem.evaluator, problem.config
    rate = config.finals.tuning.rate
    schedule = make_schedule(config.finals.tuning)
    schedule = replace(schedule, rate=RATE if rate == "auto" else rate, epochs=length * schedule.epochs)
    draw_weights(module, config.seed)
    checkpoints = CheckpointOptions(held.store, "scratch", held.recipe.checkpoint_seconds)
    recipe = held.recipe
    options = TrainingOptions(
        recipe.precision, recipe.task, hooks=recipe.hooks, checkpoints=checkpoints, graphs=recipe.graphs
    )
    train(module, held.splits, schedule, held.device, np.random.default_rng([config.seed, 15]), options)
    held.store.delete("scratch")


def draw_weights(module: nn.Module, seed: int) -> None:
    """Draw all parameters of `module` anew, as its layers do when they are made.

    Raises ModelError for parameters of a module that cannot draw them.
    """
    device = next(module.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for name, layer in module.named_modules():
            if callable(reset := getattr(layer, "reset_parameters", None)):
                reset()
            elif next(layer.parameters(recurse=False), None) is not None:
                raise ModelError(f"{name or type(layer).__name__} has no reset_parameters: its weights are not redrawn")
