"""The contract of a criterion: finite scores for every group, and a network that stays as it was."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from blendsearch.criteria.probe import Subsample, probe
from blendsearch.criteria.registry import Criterion
from blendsearch.criteria.view import GroupView
from blendsearch.structure.trace import Structure

ALL_IMAGES = Subsample(stride=1, max_images=10_000)
"""A sub-sample that leaves nothing out."""


Batch = tuple[Tensor, Tensor]
"""Images and labels."""


def check_criterion(
    criterion: Criterion, model: nn.Module, structure: Structure, batch: Batch, *, constant: bool = False
) -> list[str]:
    """Check the scores of every group of `model` and that scoring changes nothing; return the groups without scores.

    With `constant`, all channels of a group may have the same score.
    """
    model.train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    first = next(model.parameters())
    first.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        views = _make_views(criterion, model, structure, batch)
        skipped = [group for group, view in views.items() if not _check_scores(criterion, view, group, constant)]
        _check_unchanged(criterion.name, model, before, first)
    finally:
        first.requires_grad_(True)
        model.zero_grad()
        model.eval()
    return skipped


def check_criterion_facts(criterion: Criterion) -> None:
    """Check that the criterion states its formula and source, and a cost that matches what it reads."""
    assert criterion.formula, f"criterion {criterion.name} has no docstring"
    assert criterion.source, f"criterion {criterion.name} names no source"
    probes = criterion.cost in ("probe", "sub-sample")
    assert probes == bool(criterion.needs - {"flow"}), f"criterion {criterion.name}: cost and needs disagree"


def _make_views(criterion: Criterion, model: nn.Module, structure: Structure, batch: Batch) -> dict[str, GroupView]:
    """Make a view of every group that holds the declared needs of `criterion` and no others."""
    gathered = probe(model, structure.maps, [batch], criterion.needs, subsample=ALL_IMAGES) if criterion.needs else None
    return {
        group.name: GroupView(model, group, gathered, 10.0, np.random.default_rng(0)) for group in structure.maps.groups
    }


def _check_scores(criterion: Criterion, view: GroupView, group: str, constant: bool) -> bool:
    """Check the scores of one group; return False where the criterion does not apply to it."""
    called = f"criterion {criterion.name} on group {group}"
    with torch.no_grad():
        scores = criterion.score(view)
    if scores is None:
        return False
    assert scores.shape == (view.group.channels,), f"{called}: shape {tuple(scores.shape)}"
    assert torch.isfinite(scores).all(), f"{called}: NaN or infinity"
    spread = float(scores.double().max() - scores.double().min())
    assert constant or spread > 0, f"{called}: all scores are equal"
    return True


def _check_unchanged(name: str, model: nn.Module, before: dict[str, Any], frozen: nn.Parameter) -> None:
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), f"{name} changed weights"
    assert all(module.training for module in model.modules()), f"{name} left the training mode"
    assert all(item.requires_grad == (item is not frozen) for item in model.parameters()), f"{name}: requires_grad"
    for item in model.parameters():
        assert item.grad is not None and torch.equal(item.grad, torch.ones_like(item)), f"{name} changed gradients"
    for module in model.modules():
        hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        assert not hooks, f"{name} left hooks"
