"""Fine-tuning of networks that return more than logits in training mode."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blendsearch.task import Task
from blendsearch.training.auxiliary import AUXILIARY_WEIGHT, compute_training_loss, get_logits, list_auxiliary_logits

ONE, TWO, FEATURES = torch.randn(4, 3), torch.randn(4, 3), torch.randn(4, 8)
LABELS = torch.tensor([0, 1, 2, 0])

OUTPUTS = {
    "a tuple": (ONE, TWO),
    "a tuple with features": (ONE, FEATURES, TWO),
    "a dict in another order": {"aux": TWO, "logits": ONE},
    "segmentation": {"out": ONE, "aux": TWO},
}


@pytest.mark.parametrize("output", OUTPUTS.values(), ids=OUTPUTS)
def test_auxiliary_classifiers_add_to_the_loss(output: object) -> None:
    assert get_logits(output) is ONE
    assert list_auxiliary_logits(output) == [TWO]
    expected = F.cross_entropy(ONE, LABELS) + AUXILIARY_WEIGHT * F.cross_entropy(TWO, LABELS)
    torch.testing.assert_close(compute_training_loss(Task(), output, LABELS), expected)


def test_logits_alone_have_the_usual_loss() -> None:
    expected = F.cross_entropy(ONE, LABELS, label_smoothing=0.1)
    assert torch.equal(compute_training_loss(Task(), ONE, LABELS, 0.1), expected)
    assert torch.equal(compute_training_loss(Task(), (ONE, FEATURES), LABELS, 0.1), expected)


def weigh_heads(output: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    return F.cross_entropy(output[0], targets) + 7 * F.cross_entropy(output[1], targets)


def smooth(output: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(output, targets, label_smoothing=0.2)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (weigh_heads, weigh_heads((ONE, TWO), LABELS)),
        (smooth, smooth(ONE, LABELS) + AUXILIARY_WEIGHT * smooth(TWO, LABELS)),
    ],
)
def test_a_user_defined_loss_takes_all_outputs_or_each(loss: Callable[..., Tensor], expected: Tensor) -> None:
    torch.testing.assert_close(compute_training_loss(Task(loss=loss), (ONE, TWO), LABELS), expected)


class TwoHeaded(nn.Module):
    """Returns a second classifier in training mode."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.aux = nn.Conv2d(1, 8, 3), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = F.relu(self.body(x)).mean(dim=(2, 3))
        return (self.head(x), self.aux(x)) if self.training else self.head(x)


def test_a_search_fine_tunes_a_network_with_auxiliary_heads(tmp_path: object) -> None:
    import blendsearch as bs

    images = np.random.default_rng(0).standard_normal((60, 1, 8, 8)).astype(np.float32)
    run = bs.search(
        TwoHeaded(),
        (images, np.arange(60) % 3),
        budget=bs.params(0.7),
        runs=str(tmp_path),
        progress=False,
        evaluations=4,
        criteria=["l1"],
        fidelity="tuned",
        fitness={"tuning": {"epochs": 1}},
        finals={"picks": 0},
    )
    assert run.best().params_ratio <= 0.7
