"""Scores of networks over a data set that are no means over images: mIoU, mAP, torchmetrics objects."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = 255
"""Class of pixels that masks leave out."""


class Scorer(Protocol):
    """Accumulates one score over batches; evaluations use copies of it.

    Attributes
    ----------
    name: the score's name for readers.
    is_share: True if it is in [0, 1] and higher is better, so that 1 - score is an error.
    """

    name: str
    is_share: bool

    def update(self, output: Any, targets: Tensor) -> None: ...

    def compute(self) -> float: ...


def get_scores(output: Any) -> Tensor:
    """Return the tensor of class scores: the output itself, the entry ``out`` of a mapping, or the first of a tuple."""
    if isinstance(output, Mapping):
        output = output["out"] if "out" in output else next(iter(output.values()))
    found: Tensor = output[0] if isinstance(output, tuple | list) else output
    return found


def compute_segmentation_loss(output: Any, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of pixels, of shape (images, classes, height, width) and (images, height, width).

    Outputs of another size are resized to that of the masks. Pixels of class `IGNORED` do not count. An auxiliary
    output ``aux`` counts 0.5, as in torchvision's training.
    """
    loss = F.cross_entropy(_resize(get_scores(output), targets), targets.long(), ignore_index=IGNORED)
    if isinstance(output, Mapping) and "aux" in output:
        loss = loss + 0.5 * F.cross_entropy(_resize(output["aux"], targets), targets.long(), ignore_index=IGNORED)
    return loss


def compute_multi_label_loss(output: Any, targets: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of logits (images, labels)."""
    return F.binary_cross_entropy_with_logits(get_scores(output).float(), targets.float())


class MeanIoU:
    """Mean over classes of the intersection over union of pixels; classes in no mask and no output do not count."""

    name, is_share = "mIoU", True

    def __init__(self) -> None:
        self._confusion: Tensor | None = None

    def update(self, output: Any, targets: Tensor) -> None:
        scores = _resize(get_scores(output), targets)
        classes = scores.shape[1]
        known = targets != IGNORED
        pairs = targets[known].long() * classes + scores.argmax(dim=1)[known]
        counts = torch.bincount(pairs, minlength=classes**2).reshape(-1, classes)[:classes].cpu()
        self._confusion = counts if self._confusion is None else self._confusion + counts

    def compute(self) -> float:
        assert self._confusion is not None
        both = self._confusion.diag().double()
        either = self._confusion.sum(0) + self._confusion.sum(1) - both
        return float((both[either > 0] / either[either > 0]).mean()) if (either > 0).any() else 0.0


class LabelPrecision:
    """Mean over labels of the average precision of ranked images; labels of no image do not count."""

    name, is_share = "mAP", True

    def __init__(self) -> None:
        self._scores: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, output: Any, targets: Tensor) -> None:
        self._scores.append(get_scores(output).float().cpu())
        self._targets.append(targets.float().cpu())

    def compute(self) -> float:
        scores, targets = torch.cat(self._scores), torch.cat(self._targets) > 0.5
        ranked = torch.gather(targets, 0, scores.argsort(dim=0, descending=True, stable=True)).double()
        precision = ranked.cumsum(0) / torch.arange(1, len(ranked) + 1)[:, None]
        totals = ranked.sum(0)
        found = (precision * ranked).sum(0)[totals > 0] / totals[totals > 0]
        return float(found.mean()) if len(found) else 0.0


class TorchMetric:
    """A ``torchmetrics.Metric`` with one number as its value."""

    def __init__(self, metric: Any) -> None:
        self.metric = metric
        self.name = type(metric).__name__
        bounds = (getattr(metric, "plot_lower_bound", None), getattr(metric, "plot_upper_bound", None))
        self.is_share = bool(getattr(metric, "higher_is_better", False)) and bounds == (0.0, 1.0)

    def update(self, output: Any, targets: Tensor) -> None:
        scores = get_scores(output)
        self.metric.to(scores.device).update(scores, targets)

    def compute(self) -> float:
        return float(self.metric.compute())


def start_scorer(scorer: Scorer | None) -> Scorer | None:
    """Return a copy of `scorer` for one evaluation, without the values of earlier ones."""
    started = copy.deepcopy(scorer)
    if isinstance(started, TorchMetric):
        started.metric.reset()
    return started


def _resize(scores: Tensor, targets: Tensor) -> Tensor:
    if scores.shape[2:] == targets.shape[1:]:
        return scores
    return F.interpolate(scores.float(), size=targets.shape[1:], mode="bilinear", align_corners=False)
