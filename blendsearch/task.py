"""Task of a network: classification, or a user-defined loss and evaluation."""

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
from blendsearch.scoring import Scorer, TorchMetric

Loss = Callable[[Any, Any], Tensor]
"""Maps a network's output and a batch of targets to the mean loss over the batch, or to one loss per image."""

EvaluateFunction = Callable[[nn.Module], Mapping[str, float]]
"""Maps a network, in evaluation mode on its device, to numbers by name. Must include `loss`; lower is better."""


@dataclass(frozen=True)
class EvaluationResult:
    """Metrics of a network: `loss`, `error` in [0, 1], and further metrics of a user-defined evaluation.

    `has_error` is False if there was no error; `error` is then a number that rises with the loss.
    """

    loss: float
    error: float
    extra_metrics: dict[str, float] = field(default_factory=dict)
    has_error: bool = True


@dataclass(frozen=True)
class Task:
    """Loss and evaluation of networks, where they are not cross-entropy and the share of misclassified images.

    Attributes
    ----------
    loss: compares outputs with targets, in criteria, in fine-tuning and, without `evaluate`, in evaluation.
    evaluate: evaluates a network for the search on its own data. Must be deterministic; random seeds are set before.
    evaluate_test: the same on test data, called once at the end.
    has_class_labels: True if labels are classes, so that cross-entropy is the default loss.
    counts_errors: True if outputs are scores of the classes, so that misclassified images are counted beside a
        user-defined loss too.
    scorer: a score over the images besides the loss, such as mIoU; 1 - score replaces the error if it is a share.
    metric: name of the score that replaces the accuracy; empty for accuracy.
    configured: roles of functions that the config names, and not the user's Python code.
    """

    loss: Loss | None = None
    evaluate: EvaluateFunction | None = None
    evaluate_test: EvaluateFunction | None = None
    has_class_labels: bool = True
    counts_errors: bool = False
    scorer: Scorer | None = None
    metric: str = ""
    configured: frozenset[str] = frozenset()

    @property
    def has_error(self) -> bool:
        """True if the evaluation on images gives the share of misclassified ones."""
        if self.scorer is not None:
            return self.scorer.is_share
        return self.loss is None or self.counts_errors

    @property
    def is_custom(self) -> bool:
        """True if a function or a score replaces cross-entropy or the share of misclassified images."""
        return bool(self.get_function_names()) or self.scorer is not None

    @property
    def is_trainable(self) -> bool:
        """True if there is a loss to take gradients of."""
        return self.loss is not None or self.has_class_labels

    @property
    def is_testable(self) -> bool:
        """True if networks can be evaluated on test data."""
        return self.evaluate is None or self.evaluate_test is not None

    def compute_mean_loss(self, output: Any, targets: Any) -> Tensor:
        """Return the mean loss of a batch."""
        if self.loss is None:
            return F.cross_entropy(output.float(), targets)
        return self._call_loss(output, targets).mean()

    def compute_summed_loss(self, output: Any, targets: Tensor, temperature: float = 1.0) -> Tensor:
        """Return the sum of the images' losses, so that each image's gradient is that of its own loss.

        If a user-defined loss returns the batch mean, this is the mean times the number of images. `temperature`
        divides the logits of the default loss and has no effect on a user-defined one.
        """
        if self.loss is None:
            return F.cross_entropy(output / temperature, targets, reduction="sum")
        loss = self._call_loss(output, targets)
        return loss * len(targets) if loss.ndim == 0 else loss.reshape(len(loss), -1).mean(dim=1).sum()

    def _call_loss(self, output: Any, targets: Any) -> Tensor:
        """Call the user-defined loss. Raises EvaluateError if it does not return a tensor."""
        assert self.loss is not None
        loss: Any = self.loss(output, targets)
        if not isinstance(loss, Tensor):
            raise EvaluateError(
                f"{get_function_name(self.loss)} returned {type(loss).__name__}: expected a tensor, the mean loss of a "
                "batch or one loss per image"
            )
        return loss

    def get_function_names(self) -> dict[str, str]:
        """Return the names of the user-defined functions by their role."""
        return {name: get_function_name(function) for name, function in self.list_functions().items()}

    def list_functions(self) -> dict[str, Callable[..., Any]]:
        """Return the user-defined functions by their role."""
        functions: dict[str, Any] = {
            "loss": self.loss,
            "evaluate": self.evaluate,
            "evaluate_test": self.evaluate_test,
            "metric": self.scorer.metric if isinstance(self.scorer, TorchMetric) else None,
        }
        return {name: function for name, function in functions.items() if function is not None}


CLASSIFICATION = Task()
"""Classification: cross-entropy, and the share of misclassified images."""


def run_user_evaluation(evaluate: EvaluateFunction, module: nn.Module, seed: int) -> EvaluationResult:
    """Evaluate `module` by a user-defined function.

    Raises EvaluateError for a result that is not a mapping of names to numbers with a `loss`. Errors of the function
    itself propagate.
    """
    module.eval()
    with seed_rngs(seed), torch.no_grad():
        result = evaluate(module)
    if not isinstance(result, Mapping) or "loss" not in result:
        what = f"keys {', '.join(map(str, result))}" if isinstance(result, Mapping) else type(result).__name__
        raise EvaluateError(
            f"{get_function_name(evaluate)} returned {what}: expected a dict of numbers with 'loss' (lower is better)"
        )
    numbers: dict[str, float] = {}
    for name, value in result.items():
        try:
            numbers[str(name)] = float(value)
        except (TypeError, ValueError, RuntimeError) as problem:
            raise EvaluateError(
                f"{get_function_name(evaluate)} returned {value!r:.80} as {name}: expected a number"
            ) from problem
    loss = numbers.pop("loss")
    if "error" not in numbers:
        return EvaluationResult(loss, compute_proxy_error(loss), numbers, has_error=False)
    error = numbers.pop("error")
    if not 0 <= error <= 1:
        raise EvaluateError(
            f"{get_function_name(evaluate)} returned an error of {error:g}: expected a share in [0, 1]; use "
            "another name for it"
        )
    return EvaluationResult(loss, error, numbers)


@dataclass(frozen=True)
class NamedEvaluation:
    """An evaluation whose result is one number with a name and a direction, or a mapping that contains it.

    The search minimizes the number, or 1 minus the number where higher is better. Up to 1, that is also the error.
    """

    function: Callable[[nn.Module], Any]
    metric: str
    is_higher_better: bool

    @property
    def __name__(self) -> str:
        return get_function_name(self.function)

    def __call__(self, module: nn.Module) -> dict[str, Any]:
        found: Any = self.function(module)
        if not isinstance(found, Mapping):
            found = {self.metric: found}
        if self.metric not in found:
            raise EvaluateError(
                f"{self.__name__} returned {', '.join(map(str, found))}: expected {self.metric} among them"
            )
        try:
            value = float(found[self.metric])
        except (TypeError, ValueError, RuntimeError) as error:
            raise EvaluateError(
                f"{self.__name__} returned {found[self.metric]!r:.80} as {self.metric}: expected a number"
            ) from error
        result = {name: item for name, item in found.items() if name not in ("loss", "error")} | {self.metric: value}
        if self.is_higher_better and value <= 1:
            result["error"] = min(1.0, 1 - value)
        return result | {"loss": 1 - value if self.is_higher_better else value}


def compute_proxy_error(loss: float) -> float:
    """Return a number in (0, 1) that rises with the loss, for a search without an error. Never shown to the user."""
    return 0.5 + 0.5 * loss / (1 + abs(loss))


@contextmanager
def seed_rngs(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch inside this context, and restore their states
    afterwards.
    """
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
    """Return a readable name of `function`."""
    return str(getattr(function, "__name__", None) or type(function).__name__)
