"""The task of a search: the kind that the config names, with user-defined functions from the config or from Python."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from blendsearch.errors import ConfigError
from blendsearch.runs.config.schema import Config
from blendsearch.scoring import (
    LabelPrecision,
    MeanIoU,
    Scorer,
    compute_multi_label_loss,
    compute_segmentation_loss,
)
from blendsearch.task import Loss, NamedEvaluation, Task
from blendsearch.user_code import import_function

KINDS: dict[str, tuple[Loss, Callable[[], Scorer]]] = {
    "multi-label": (compute_multi_label_loss, LabelPrecision),
    "segmentation": (compute_segmentation_loss, MeanIoU),
}
"""Loss and score of the built-in tasks other than classification."""


def load_task(config: Config, task: Task) -> Task:
    """Return `task`, of Python objects, completed by what the config names.

    Raises ConfigError for a name that cannot be imported, a role that both fill, and a metric without `evaluate`.
    """
    section, names = config.task, config.task.get_function_names()
    if doubled := names.keys() & task.get_function_names().keys() - task.configured:
        raise ConfigError(f"task.{min(doubled)} is set in the config and in Python: leave one of them out")
    changes: dict[str, Any] = {role: import_function(name, f"task.{role}") for role, name in names.items()}
    configured = set(changes)
    if section.kind in KINDS:
        loss, make_scorer = KINDS[section.kind]
        if task.loss is None and "loss" not in changes:
            changes["loss"] = loss
            configured.add("loss")
        if task.scorer is None:
            changes["scorer"] = make_scorer()
    task = replace(task, **changes, configured=frozenset(configured))
    if section.metric is None:
        return replace(task, metric=task.scorer.name if task.scorer is not None and task.scorer.is_share else "")
    if task.evaluate is None:
        raise ConfigError("task.metric names the result of an evaluate function: set task.evaluate, or leave it out")
    return _name_evaluations(task, section.name, section.metric == "higher")


def _name_evaluations(task: Task, name: str, is_higher_better: bool) -> Task:
    def wrap(function: Any) -> Any:
        return None if function is None else NamedEvaluation(function, name, is_higher_better)

    metric = name if is_higher_better else ""
    return replace(task, evaluate=wrap(task.evaluate), evaluate_test=wrap(task.evaluate_test), metric=metric)
