"""What networks are for: telling classes apart, or whatever a person's own loss and judgement say."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blendsearch.errors import EvaluateError

Loss = Callable[[Any, Any], Tensor]
"""From a network's output and a batch of targets to the mean loss over the batch, or to one loss per image."""

EvaluateFunction = Callable[[nn.Module], Mapping[str, float]]
"""From a network, in evaluation mode on its device, to numbers by name; lower is better, `loss` must be there."""


@dataclass(frozen=True)
class EvaluationResult:
    """A network in numbers: `loss`, `error` in [0, 1], and whatever else a person's own judgement said.

    `told` is false where there was no error, and a number that rises with the loss stands in for it.
    """

    loss: float
    error: float
    extra_metrics: dict[str, float] = field(default_factory=dict)
    has_error: bool = True


@dataclass(frozen=True)
class Task:
    """How networks are trained and judged where it is not by cross-entropy and the share of wrong answers.

    Attributes
    ----------
    loss: what outputs are compared with targets by, in criteria, fine-tuning and, without `evaluate`, judging.
    evaluate: judges a network for the search; it looks at data of its own. Same network, same numbers: seeds are set.
    evaluate_test: the same on test data, called at the end only.
    classes: whether the data's labels are classes, so that cross-entropy stands in for a loss that is not given.
    """

    loss: Loss | None = None
    evaluate: EvaluateFunction | None = None
    evaluate_test: EvaluateFunction | None = None
    has_class_labels: bool = True

    @property
    def is_trainable(self) -> bool:
        """Whether there is a loss to take gradients of."""
        return self.loss is not None or self.has_class_labels

    @property
    def is_testable(self) -> bool:
        """Whether networks can be judged on test data."""
        return self.evaluate is None or self.evaluate_test is not None

    def compute_mean_loss(self, output: Any, targets: Any) -> Tensor:
        """The mean loss of a batch."""
        if self.loss is None:
            return F.cross_entropy(output.float(), targets)
        return self._call_loss(output, targets).mean()

    def compute_summed_loss(self, output: Any, targets: Tensor, temperature: float = 1.0) -> Tensor:
        """The sum of the images' own losses, so that each image's gradient is that of its own.

        Of a loss that gives the batch's mean, the mean times the number of images. `temperature` divides logits, and
        a person's own loss knows none.
        """
        if self.loss is None:
            return F.cross_entropy(output / temperature, targets, reduction="sum")
        found = self._call_loss(output, targets)
        return found * len(targets) if found.ndim == 0 else found.reshape(len(found), -1).mean(dim=1).sum()

    def _call_loss(self, output: Any, targets: Any) -> Tensor:
        """What the person's own loss says. Raises EvaluateError for what is no tensor."""
        assert self.loss is not None
        found: Any = self.loss(output, targets)
        if not isinstance(found, Tensor):
            raise EvaluateError(
                f"{get_function_name(self.loss)} gave {type(found).__name__}: expected a tensor, the mean loss "
                "of a batch or one "
                "loss per image"
            )
        return found

    def get_function_names(self) -> dict[str, str]:
        """What the person's own functions are called."""
        given = {"loss": self.loss, "evaluate": self.evaluate, "evaluate_test": self.evaluate_test}
        return {name: get_function_name(function) for name, function in given.items() if function is not None}


CLASSIFICATION = Task()
"""Classification: cross-entropy, and the share of wrong answers."""


def run_user_evaluation(evaluate: EvaluateFunction, module: nn.Module, seed: int) -> EvaluationResult:
    """What `evaluate` says of `module`. Raises EvaluateError for an answer that is not numbers by name with a `loss`.

    What it raises itself passes through.
    """
    module.eval()
    with seed_rngs(seed), torch.no_grad():
        answer = evaluate(module)
    if not isinstance(answer, Mapping) or "loss" not in answer:
        what = f"keys {', '.join(map(str, answer))}" if isinstance(answer, Mapping) else type(answer).__name__
        raise EvaluateError(
            f"{get_function_name(evaluate)} gave {what}: expected a dict of numbers in which 'loss' is, lower is better"
        )
    numbers: dict[str, float] = {}
    for name, value in answer.items():
        try:
            numbers[str(name)] = float(value)
        except (TypeError, ValueError, RuntimeError) as problem:
            raise EvaluateError(
                f"{get_function_name(evaluate)} gave {value!r:.80} as {name}: expected a number"
            ) from problem
    loss = numbers.pop("loss")
    if "error" not in numbers:
        return EvaluationResult(loss, compute_proxy_error(loss), numbers, has_error=False)
    error = numbers.pop("error")
    if not 0 <= error <= 1:
        raise EvaluateError(
            f"{get_function_name(evaluate)} gave an error of {error:g}: expected a share in [0, 1]; give it "
            "another name"
        )
    return EvaluationResult(loss, error, numbers)


def compute_proxy_error(loss: float) -> float:
    """A number in (0, 1) that rises with the loss, where a search wants an error and there is none. Never shown."""
    return 0.5 + 0.5 * loss / (1 + abs(loss))


@contextmanager
def seed_rngs(seed: int) -> Iterator[None]:
    """Inside, the global random streams of Python, NumPy and torch start at `seed`; afterwards they go on as before."""
    state, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    forked = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=forked):
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(state)
        np.random.set_state(legacy)  # noqa: NPY002


def get_function_name(function: Any) -> str:
    """The name of a function for a reader."""
    return str(getattr(function, "__name__", None) or type(function).__name__)
