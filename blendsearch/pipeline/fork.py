"""Forks: new runs that start from the results of another run, under another budget, other settings, or for longer.

A fork shares its parent's network, data and score table, so that a genome means the same in both. Its first generation
is the baselines, then the parent's population: its front, and the best others. Where both runs evaluate alike (same
fitness settings, seed, code, versions and device), the fork inherits every evaluation of the parent, whatever the
budget: an evaluation depends on cut, fidelity and seed alone. Otherwise the population is evaluated again. Test results
and fine-tuned networks are never inherited.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blendsearch.errors import ConfigError, RunError
from blendsearch.events import Forked, Reporter
from blendsearch.pipeline.methods.method import make_search_optimizer
from blendsearch.pipeline.optimizers.base import parse_stored_genome
from blendsearch.pipeline.problem.inputs import NO_USER_INPUTS, UserInputs
from blendsearch.pipeline.problem.persistence import record, restore
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.compatibility import find_differences
from blendsearch.runs.config.checks import check_searchable
from blendsearch.runs.config.loading import apply_overrides, parse_config
from blendsearch.runs.config.method_registry import get_method
from blendsearch.runs.config.schema import Config
from blendsearch.runs.config_changes import diff_configs
from blendsearch.runs.origin import EVOLVED, Origin
from blendsearch.runs.pareto import select_evaluated, select_front
from blendsearch.runs.records import Evaluation, InheritedEvaluation
from blendsearch.runs.run import Run, check_name, find_free_name

CHANGEABLE = ("search.", "budget.", "fitness.", "promote.", "finals.", "ladder.", "engine.", "seed", "allocation")
"""Fields, or their sections, that a fork may change: those that do not change the meaning of a genome."""

SPACE_FIELDS = ("search.blend", "search.members", "search.deviations")
"""Fields of those sections that do change it."""

EVALUATION_FIELDS = ("fitness.", "seed")
"""Fields, or their sections, that change evaluations."""


@dataclass(frozen=True)
class Fork:
    """A new run and its problem, ready to be searched, and the event that describes the fork."""

    run: Run
    problem: Problem
    event: Forked


def fork(
    parent: Run,
    folder: Path,
    name: str | None,
    overrides: Sequence[str],
    command: list[str],
    report: Reporter,
    inputs: UserInputs = NO_USER_INPUTS,
) -> Fork:
    """Make run `name` in `folder`, with `overrides` (`section.field=value`) over the config of `parent`.

    Without `name`, the run is named after its parent. The parent may still be running; its evaluations up to now count.
    Reports `Forked`. Raises ConfigError for a field that a fork cannot change, and RunError where the parent has no
    evaluation yet.
    """
    config, changed = make_fork_config(parent, overrides)
    name = name or find_free_name(folder, f"{parent.name}-fork")
    check_name(folder, name)
    with parent.open_store(read_only=True) as store:
        rows, before = store.read_evaluations(), store.read_inherited()
    if not select_evaluated(rows):
        raise RunError(f"run {parent.name!r} has no evaluated network yet: there is nothing to fork")
    problem = restore(parent, config, report, inputs)
    fields = [f"{field} changed" for field in changed if field.startswith(EVALUATION_FIELDS)]
    again = "; ".join([*fields, *(item.text for item in find_differences(parent, str(problem.evaluator.device)))])
    items = collect_inherited(rows, before, problem, parent.config, reevaluate=bool(again))
    event = Forked(
        parent=parent.name,
        changed=changed,
        begins=sum(item.begins for item in items),
        judgements=sum(item.judged for item in items),
        again=again,
    )
    run = record(problem, folder, name, command, vars(event), items)
    report(event)
    return Fork(run, problem, event)


def make_fork_config(parent: Run, overrides: Sequence[str]) -> tuple[Config, dict[str, list[Any]]]:
    """Return the parent's config with `overrides`, and the changes: [old, new] by field."""
    _check_population(parent)
    tree = parent.config.model_dump(mode="json")
    if parent.config.data.split_seed is None:
        # another seed must not draw other splits: the dense network may have been trained on one side of these
        tree["data"]["split_seed"] = parent.config.seed
    source = f"fork of {parent.name}"
    pinned = parse_config(tree, source).model_dump(mode="json")
    config = parse_config(apply_overrides(tree, overrides), source)
    check_searchable(config)
    changed = dict(diff_configs(pinned, config.model_dump(mode="json")))
    for field in changed:
        if field.startswith(SPACE_FIELDS) or not field.startswith(CHANGEABLE):
            raise ConfigError(
                f"{field} cannot change in a fork: the networks of run {parent.name!r} would mean something else; "
                "start a new search, or change only search, budget, fitness, promote, finals, ladder, engine, seed, "
                "allocation"
            )
    return config, changed


def _check_population(parent: Run) -> None:
    """Raise ConfigError for a method without a population."""
    method = get_method(parent.config.method)
    if method.traits.population:
        return
    instead = f", with search.seeds=[{method.name}] for its widths in the first generation"
    raise ConfigError(
        f"run {parent.name!r} holds the fixed networks of method {method.name}: it has no population to fork; start a "
        f"new search{instead if method.traits.seeds_others else ''}"
    )


def collect_inherited(
    rows: Sequence[Evaluation],
    before: Sequence[InheritedEvaluation],
    problem: Problem,
    parent: Config,
    *,
    reevaluate: bool,
) -> list[InheritedEvaluation]:
    """Collect what a fork inherits from the `rows` of its parent, and from what the parent itself had inherited.

    With `reevaluate`, networks are inherited without their evaluations.
    """
    config, optimizer = problem.config, make_search_optimizer(problem)
    same = parent.budget == config.budget and parent.allocation == config.allocation
    begins = select_population(rows, parent, config.search.population)
    # networks of one budget are spread over a span
    spread = (
        np.linspace(1, 0, len(begins))
        if config.budget.get_spanned_costs() and not parent.budget.get_spanned_costs()
        else None
    )
    items: dict[tuple[str, str], InheritedEvaluation] = {}
    for place, row in enumerate(begins):
        genome = row.genome
        if spread is not None:
            moved = parse_stored_genome(optimizer, genome)._replace(target=float(spread[place]))
            genome = json.dumps(optimizer.serialize_genome(moved))
        # a name such as "l1 in the best allocation" holds only where that allocation is still at the budget
        origin = row.origin if same else EVOLVED
        items[row.digest, row.fidelity] = _make_inherited(row, genome, origin, judged=not reevaluate, begins=True)
    if not reevaluate:
        for row in rows:
            items.setdefault(
                (row.digest, row.fidelity), _make_inherited(row, "{}", row.origin, judged=True, begins=False)
            )
        for item in before:
            if item.judged:
                items.setdefault((item.digest, item.fidelity), item._replace(genome="{}", begins=False))
    return list(items.values())


def select_population(rows: Sequence[Evaluation], parent: Config, size: int) -> list[Evaluation]:
    """Select up to `size` networks that a fork begins with: the front, thinned evenly if longer, then the best.

    Over a span of budgets, the front is of loss and MACs. Baselines are left out: every search evaluates its own.
    """
    found = [(row, Origin.parse(row.origin)) for row in select_evaluated(rows)]
    evaluated = [row for row, origin in found if origin.is_evolved or origin.in_best_allocation]
    spanned = bool(parent.budget.get_spanned_costs())
    along = select_front(evaluated, lambda row: (float(row.macs),) if spanned else ())
    if len(along) > size:
        along = [along[place] for place in np.unique(np.linspace(0, len(along) - 1, size).round().astype(int))]
    rest = sorted(evaluated, key=lambda row: (row.loss or 0.0, row.id))
    return list({row.digest: row for row in [*along, *rest]}.values())[:size]


def _make_inherited(row: Evaluation, genome: str, origin: str, *, judged: bool, begins: bool) -> InheritedEvaluation:
    numbers = (row.loss, row.error, row.failure) if judged else (None, None, "")
    return InheritedEvaluation(row.digest, row.fidelity, row.seed, origin, genome, *numbers, judged, begins)
