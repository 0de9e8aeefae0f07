"""The elastic tune of the dense network before a search; candidates are then sliced out of the tuned network.

The tuned weights are kept in the run (``elastic.safetensors``), so that resumed searches, exports and forks use the
same ones. The dense network stays what the loss, the refit and the distillation compare with.
"""

import copy
from dataclasses import replace

import numpy as np
from torch import nn

from blendsearch.events import MethodProgress
from blendsearch.pipeline.problem.from_config import make_schedule
from blendsearch.pipeline.problem.persistence import get_state_arrays, load_tuned
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.pipeline.problem.session import SearchSession
from blendsearch.runs.run import ELASTIC_FILE
from blendsearch.structure.groups import Cut
from blendsearch.training.elastic import SubNetworks, tune_elastic
from blendsearch.training.teacher import LiveTeacher
from blendsearch.training.training_options import CheckpointOptions, TrainingOptions

KEY = "elastic"
"""Entry of the training store with the state of a tune in progress."""


def attach_elastic(session: SearchSession) -> Problem:
    """Return the problem with the tuned network that its config asks for, and pass it to the engine.

    A network that the run keeps is loaded, not tuned again.
    """
    problem, run = session.problem, session.run
    if not problem.config.training.elastic.epochs or problem.evaluator.tuned is not None:
        return problem
    tuned = load_tuned(run, problem.model)
    if tuned is None:
        tuned = tune_network(session)
        run.save_arrays(ELASTIC_FILE, get_state_arrays(tuned))
        problem.evaluator.store.delete(KEY)
    session.engine.attach_tuned(tuned)
    return replace(problem, evaluator=replace(problem.evaluator, tuned=tuned))


def tune_network(session: SearchSession) -> nn.Module:
    """Return a copy of the dense network after the elastic tune, in evaluation mode; a stored state is continued."""
    problem = session.problem
    config, evaluator = problem.config.training.elastic, problem.evaluator
    recipe, tuned = evaluator.recipe, copy.deepcopy(problem.model)
    teacher = None
    if recipe.task.loss is None:
        teacher = LiveTeacher(problem.model.eval(), config.distillation)
    options = TrainingOptions(
        recipe.precision,
        recipe.task,
        teacher,
        hooks=recipe.hooks,
        checkpoints=CheckpointOptions(evaluator.store, KEY, recipe.checkpoint_seconds),
    )
    rng = np.random.default_rng([problem.config.seed, 3])

    def report_progress(done: float, loss: float) -> None:
        line = f"dense network tuned with its sub-networks, last loss {loss:.3f}" if done == 1 else ""
        facts = {"loss": loss}
        event = MethodProgress(done=done, of=1, name=KEY, activity="elastic tuning", line=line, facts=facts)
        session.report(event)

    schedule, device = make_schedule(config), evaluator.device
    tune_elastic(tuned, make_sub_networks(problem), problem.splits, schedule, device, rng, options, report_progress)
    return tuned


def make_sub_networks(problem: Problem) -> SubNetworks:
    """Make the sub-networks of a tune: random genomes, the first of each step at the smallest budget.

    The others are at random budgets between the smallest one and the dense network. Fixed widths have no budget.
    """
    config, decoder = problem.config, problem.decoder
    spans = {name: (low, 1.0) for name, (low, _) in decoder.budget.items()}
    wide = replace(decoder, budget=spans)

    def sample_cuts(step: int) -> list[Cut]:
        rng = np.random.default_rng([config.seed, 4, step])
        genomes = [wide.space.sample(rng) for _ in range(config.training.elastic.sub_cuts)]
        return [
            wide.decode(genome._replace(target=genome.target if number else 0.0))
            for number, genome in enumerate(genomes)
        ]

    return SubNetworks(problem.structure.maps, sample_cuts, f"{config.seed} {config.training.elastic.sub_cuts} {spans}")
