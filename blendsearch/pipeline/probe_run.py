"""The probe: a run of method ``rules``, made from the config of a search."""

import shutil
from pathlib import Path
from typing import NamedTuple

from blendsearch.engine.base import Engine
from blendsearch.errors import BudgetError, ConfigError
from blendsearch.events import Reporter, Warned
from blendsearch.pipeline.launch import set_up_run
from blendsearch.pipeline.methods.rules.spec import SPEC
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.config.loading import parse_config
from blendsearch.runs.config.schema import Config
from blendsearch.runs.run import Run

LEAST_EPOCHS = 1.0
"""Least length of a training of the probe."""


class ProbeOptions(NamedTuple):
    """The settings of a probe: compression factors, rules trained at each, and the share of the finals' epochs."""

    factors: tuple[float, ...]
    rules: int
    share: float


def make_probe_config(config: Config, options: ProbeOptions) -> Config:
    """Make the config of a probe from that of a search.

    The first budgeted cost spans the factors. The other fields that a probe has no use for keep their defaults.
    """
    costs = list(config.budget.get_spans())
    if not costs:
        raise ConfigError("a probe needs a budgeted cost, not budget.keep: set budget.macs")
    if config.transform != "none":
        raise ConfigError("a probe decomposes no layers: leave transform out")
    budget = config.budget.model_copy(update=dict.fromkeys(costs)).model_dump(mode="json")
    budget[costs[0]] = [1 / max(options.factors), 1 / min(options.factors)]
    tree = config.model_dump(mode="json", exclude={"search", "promote", "ladder", "allocation", "method"})
    tuning = tree["finals"]["tuning"]
    epochs = min(tuning["epochs"], max(LEAST_EPOCHS, options.share * tuning["epochs"]))
    finals = tree["finals"] | {"picks": 1, "seeds": 1, "stages": 1, "tuning": tuning | {"epochs": epochs}}
    section = {"factors": list(options.factors), "trained": options.rules}
    tree |= {"method": SPEC.name, "budget": budget, "finals": finals, SPEC.section_name: section}
    return parse_config(tree, "the probe")


def set_up_probe(
    config: Config, options: ProbeOptions, folder: Path, name: str, command: list[str], report: Reporter
) -> tuple[Run, Problem, Engine]:
    """Make the run of a probe, its problem and its engine; factors out of reach are left out, with a warning."""
    while True:
        try:
            made = set_up_run(make_probe_config(config, options), folder, name, command, report)
        except BudgetError as error:
            if len(options.factors) == 1:
                raise
            last = options.factors[-1]
            report(Warned(text=f"the factor {last:g} is left out: {error}"))
            options = options._replace(factors=options.factors[:-1])
        else:
            _check_shares(*made)
            return made


def _check_shares(run: Run, problem: Problem, engine: Engine) -> None:
    """Remove the run and raise ConfigError where networks have no accuracy, nor another metric that is a share."""
    if not problem.has_error:
        engine.close()
        shutil.rmtree(run.path)
        raise ConfigError("a probe compares accuracies or another share in [0, 1]: this task has none; use search")
