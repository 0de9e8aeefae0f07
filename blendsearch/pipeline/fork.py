"""Forks: a new run that begins with what another one found, under another budget, other settings, or for longer.

A fork has its parent's network, data and score table, so that a genome means the same in both. Its first generation is
the baselines, then the parent's population: its front, and the best others. Where both judge alike (the same fitness,
seed, code, versions and device), everything that the parent judged is taken over and never judged again, whatever the
budget: an evaluation is cut, fidelity and seed. Where they do not, the population is judged again. Tests and fine-tunes
are never taken over.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blendsearch.errors import ConfigError, RunError
from blendsearch.pipeline.methods.blended import optimiser_of
from blendsearch.pipeline.problem.inputs import BY_NAME, Given
from blendsearch.pipeline.problem.persistence import record, restore
from blendsearch.pipeline.problem.problem import Report, Setting
from blendsearch.runs.compatibility import differing
from blendsearch.runs.config.loading import parse_config, with_overrides
from blendsearch.runs.config.schema import Config
from blendsearch.runs.config_changes import differences
from blendsearch.runs.origin import EVOLVED, IN_BEST
from blendsearch.runs.pareto import front, judged_networks
from blendsearch.runs.records import Evaluation, Inherited
from blendsearch.runs.run import Run, check_name, free_name

CHANGEABLE = ("search.", "budget.", "fitness.", "promote.", "finals.", "engine.", "seed", "allocation")
"""Fields, or the sections they are in, that a fork may change: not what makes a genome mean what it does."""

SPACE = ("search.blend", "search.deviations")
"""Fields of those sections that do."""

JUDGING = ("fitness.", "seed")
"""Where these differ, judgements do too."""


@dataclass(frozen=True)
class Fork:
    """A new run and its setting, ready to be searched; `facts` say what was taken over, as plain values."""

    run: Run
    setting: Setting
    facts: dict[str, Any]


def fork(
    parent: Run,
    folder: Path,
    name: str | None,
    overrides: Sequence[str],
    command: list[str],
    report: Report,
    given: Given = BY_NAME,
) -> Fork:
    """Make run `name` (after its parent where None) in `folder`; `overrides` are `section.field=value` over its config.

    The parent may still be searched; what it has judged by now counts. Reports ``forked`` with the facts:
    `parent`, `changed` (field: [old, new]), `begins` and `judgements` (how many networks the search begins with, and
    how many judgements are taken over), `again` (why none are; empty where they are). Raises ConfigError for what a
    fork cannot change, and RunError where there is nothing to take over.
    """
    config, changed = forked_config(parent, overrides)
    name = name or free_name(folder, f"{parent.name}-fork")
    check_name(folder, name)
    store = parent.store(read_only=True)
    try:
        rows, before = store.evaluations(), store.inherited()
    finally:
        store.close()
    if not judged_networks(rows):
        raise RunError(f"run {parent.name!r} has judged no network yet: there is nothing to fork")
    setting = restore(parent, config, report, given)
    fields = [f"{field} changed" for field in changed if field.startswith(JUDGING)]
    again = "; ".join([*fields, *(item.text for item in differing(parent, str(setting.evaluator.device)))])
    items = inherited(rows, before, setting, parent.config, again=bool(again))
    facts = {
        "parent": parent.name,
        "changed": changed,
        "begins": sum(item.begins for item in items),
        "judgements": sum(item.judged for item in items),
        "again": again,
    }
    run = record(setting, folder, name, command, facts, items)
    report("forked", facts)
    return Fork(run, setting, facts)


def forked_config(parent: Run, overrides: Sequence[str]) -> tuple[Config, dict[str, list[Any]]]:
    """The parent's config with `overrides`, and what they change: field, old value, new value."""
    if parent.config.method == "torch-pruning":
        raise ConfigError(f"run {parent.name!r} is two cuts of another pruner: it has no population to fork")
    if parent.config.method in ("sensitivity", "derived", "tailored"):
        raise ConfigError(
            f"run {parent.name!r} is the one network of method {parent.config.method}: it has no population to fork; "
            f"search anew, with search.seeds=[{parent.config.method}] for its widths in the first generation"
        )
    tree = parent.config.model_dump(mode="json")
    if parent.config.data.split_seed is None:
        # another seed must not draw other splits: the dense network may have been trained on one side of these
        tree["data"]["split_seed"] = parent.config.seed
    source = f"fork of {parent.name}"
    pinned = parse_config(tree, source).model_dump(mode="json")
    config = parse_config(with_overrides(tree, overrides), source)
    changed = dict(differences(pinned, config.model_dump(mode="json")))
    for field in changed:
        if field.startswith(SPACE) or not field.startswith(CHANGEABLE):
            raise ConfigError(
                f"{field} cannot change in a fork: the networks of run {parent.name!r} would mean something else; "
                "start a new search, or change only search, budget, fitness, promote, finals, engine, seed, allocation"
            )
    return config, changed


def inherited(
    rows: Sequence[Evaluation], before: Sequence[Inherited], setting: Setting, parent: Config, *, again: bool
) -> list[Inherited]:
    """What a fork under `setting` takes over from the `rows` of its parent, and from what that one had taken over.

    `again`: no judgement is.
    """
    config, optimiser = setting.config, optimiser_of(setting)
    same = parent.budget == config.budget and parent.allocation == config.allocation
    begins = population(rows, parent, config.search.population)
    # those that all stood at one budget are spread over a span
    spread = np.linspace(1, 0, len(begins)) if config.budget.spanned() and not parent.budget.spanned() else None
    items: dict[tuple[str, str], Inherited] = {}
    for place, row in enumerate(begins):
        genome = row.genome
        if spread is not None:
            moved = optimiser.of_described(json.loads(genome))._replace(target=float(spread[place]))
            genome = json.dumps(optimiser.described(moved))
        # a name such as "l1 in the best allocation" holds only where that allocation is still at the budget
        origin = row.origin if same else EVOLVED
        items[row.digest, row.fidelity] = _taken(row, genome, origin, judged=not again, begins=True)
    if not again:
        for row in rows:
            items.setdefault((row.digest, row.fidelity), _taken(row, "{}", row.origin, judged=True, begins=False))
        for item in before:
            if item.judged:
                items.setdefault((item.digest, item.fidelity), item._replace(genome="{}", begins=False))
    return list(items.values())


def population(rows: Sequence[Evaluation], parent: Config, size: int) -> list[Evaluation]:
    """Up to `size` networks that a fork begins with: the front, evenly along it where it is longer, then the best.

    The front of a span of budgets is over loss and MACs here. Baselines are not among them: every search judges its
    own.
    """
    judged = [row for row in judged_networks(rows) if row.origin == EVOLVED or IN_BEST in row.origin]
    spanned = bool(parent.budget.spanned())
    along = front(judged, lambda row: (float(row.macs),) if spanned else ())
    if len(along) > size:
        along = [along[place] for place in np.unique(np.linspace(0, len(along) - 1, size).round().astype(int))]
    rest = sorted(judged, key=lambda row: (row.loss or 0.0, row.id))
    return list({row.digest: row for row in [*along, *rest]}.values())[:size]


def _taken(row: Evaluation, genome: str, origin: str, *, judged: bool, begins: bool) -> Inherited:
    numbers = (row.loss, row.error, row.failure) if judged else (None, None, "")
    return Inherited(row.digest, row.fidelity, row.seed, origin, genome, *numbers, judged, begins)
