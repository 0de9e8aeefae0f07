"""Losses of networks that return more than logits in training, such as GoogLeNet with its auxiliary classifiers."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from blendsearch.structure.outputs import list_tensors
from blendsearch.task import Task

AUXILIARY_WEIGHT = 0.3
"""Weight of the loss of each auxiliary classifier (Szegedy et al. 2015, section 5)."""

LOGITS = ("logits", "out", "output", "pred", "predictions")
"""Names of the logits among several outputs; without one of them, the first tensor."""


def get_logits(output: Any) -> Tensor:
    """Return the logits among the outputs of a network. Raises TypeError where there is no tensor."""
    if isinstance(output, Tensor):
        return output
    for name in LOGITS:
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, Tensor):
            return found
    tensors = list_tensors(output)
    if not tensors:
        raise TypeError(f"the network returns {type(output).__name__} in training mode: expected logits")
    return tensors[0]


def list_auxiliary_logits(output: Any) -> list[Tensor]:
    """Return the other tensors of the shape of the logits."""
    logits = get_logits(output)
    return [tensor for tensor in list_tensors(output) if tensor is not logits and tensor.shape == logits.shape]


def compute_training_loss(task: Task, output: Any, targets: Any, label_smoothing: float = 0.0) -> Tensor:
    """Compute the mean loss of a batch in training mode, with that of auxiliary classifiers.

    A user-defined loss receives the complete output. If it fails on several outputs, it receives the logits, and those
    of each auxiliary classifier, alone.
    """
    if task.loss is not None:
        if isinstance(output, Tensor):
            return task.compute_mean_loss(output, targets)
        try:
            return task.compute_mean_loss(output, targets)
        except Exception:
            if not list_tensors(output):
                raise
    losses = [
        task.compute_mean_loss(logits, targets)
        if task.loss is not None
        else F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)
        for logits in (get_logits(output), *list_auxiliary_logits(output))
    ]
    return losses[0] + AUXILIARY_WEIGHT * sum(losses[1:], start=losses[0].new_zeros(())) if losses[1:] else losses[0]
