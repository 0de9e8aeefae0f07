"""Scores of segmentation and multi-label networks, and torchmetrics objects as scores."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch.nn import functional as F

from blendsearch.errors import EvaluateError
from blendsearch.scoring import (
    LabelPrecision,
    MeanIoU,
    TorchMetric,
    compute_multi_label_loss,
    compute_segmentation_loss,
    start_scorer,
)
from blendsearch.task import NamedEvaluation, run_user_evaluation

torchmetrics = pytest.importorskip("torchmetrics")
RNG = torch.Generator().manual_seed(0)
SCORES = torch.randn(6, 4, 8, 8, generator=RNG)
MASKS = torch.randint(0, 3, (6, 8, 8), generator=RNG)


def test_mean_iou_equals_its_definition_over_batches() -> None:
    masks = MASKS.clone()
    masks[0, :4] = 255
    scorer = start_scorer(MeanIoU())
    assert scorer is not None
    for part in ([0, 1, 2], [3, 4, 5]):
        scorer.update({"out": SCORES[part]}, masks[part])
    known, found = masks != 255, SCORES.argmax(1)
    ratios = []
    for number in range(4):
        one, other = (found == number) & known, (masks == number) & known
        ratios.append(float((one & other).sum() / (one | other).sum()))
    assert scorer.compute() == pytest.approx(np.mean(ratios))


def test_outputs_of_another_size_are_resized_to_the_masks() -> None:
    scorer = MeanIoU()
    scorer.update(F.one_hot(MASKS, 4).permute(0, 3, 1, 2).float(), MASKS)
    assert scorer.compute() == 1
    half = torch.zeros(6, 4, 4, 4)
    half[:, 1] = 1
    assert float(compute_segmentation_loss({"out": half, "aux": half}, MASKS)) > float(
        compute_segmentation_loss(half, MASKS)
    )


def test_label_precision_is_the_mean_of_average_precisions() -> None:
    scores = torch.randn(40, 5, generator=RNG)
    targets = (torch.rand(40, 5, generator=RNG) < 0.3).float()
    targets[:, 4] = 0
    scorer = LabelPrecision()
    scorer.update(scores[:25], targets[:25])
    scorer.update(scores[25:], targets[25:])
    expected = np.mean([average_precision_score(targets[:, label], scores[:, label]) for label in range(4)])
    assert scorer.compute() == pytest.approx(expected)
    assert float(compute_multi_label_loss(scores, targets)) > 0


def test_torchmetrics_objects_start_anew_in_every_evaluation() -> None:
    metric = torchmetrics.JaccardIndex(task="multiclass", num_classes=4)
    scorer = TorchMetric(metric)
    assert scorer.is_share and scorer.name == "MulticlassJaccardIndex"
    values = []
    for _ in range(2):
        started = start_scorer(scorer)
        assert started is not None
        started.update(SCORES, MASKS)
        values.append(started.compute())
    assert values[0] == values[1] and not metric.update_called
    assert not TorchMetric(torchmetrics.MeanSquaredError()).is_share


@pytest.mark.parametrize(
    ("result", "higher", "loss", "error"),
    [
        *((0.7, True, 0.3, 0.3), ({"mAP": torch.tensor(0.7), "loss": 5, "small": 0.1}, True, 0.3, 0.3)),
        *((-2.0, True, 3.0, 1.0), (30.0, True, -29.0, None), (4.0, False, 4.0, None)),
    ],
)
def test_named_evaluations_are_minimized_by_their_direction(
    result: object, higher: bool, loss: float, error: float | None
) -> None:
    found = run_user_evaluation(NamedEvaluation(lambda module: result, "mAP", higher), torch.nn.Identity(), 0)
    assert found.loss == pytest.approx(loss) and found.has_error == (error is not None)
    assert error is None or found.error == pytest.approx(error)
    assert "mAP" in found.extra_metrics and "loss" not in found.extra_metrics


@pytest.mark.parametrize("result", [{"loss": 1.0}, {"mAP": "high"}, None])
def test_named_evaluations_without_their_number_are_refused(result: object) -> None:
    def evaluate(module: torch.nn.Module) -> object:
        return result

    with pytest.raises(EvaluateError, match="evaluate returned .*expected (mAP among them|a number)"):
        run_user_evaluation(NamedEvaluation(evaluate, "mAP", True), torch.nn.Identity(), 0)
