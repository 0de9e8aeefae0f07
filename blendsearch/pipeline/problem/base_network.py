"""The dense network before a search: its input and outputs, and its training where it has no weights."""

import numpy as np
import torch
from torch import nn

from blendsearch.data.splits import Splits, check_labels
from blendsearch.errors import BlendsearchError, ModelError
from blendsearch.events import BaseTrained, Reporter
from blendsearch.pipeline.problem.from_config import make_schedule
from blendsearch.runs.config.sections import ScheduleConfig
from blendsearch.training.device import Precision
from blendsearch.training.loop import TrainingOptions, train


def train_base(
    model: nn.Module,
    splits: Splits,
    schedule: ScheduleConfig,
    precision: Precision,
    device: torch.device,
    seed: int,
    report: Reporter,
) -> None:
    """Train the dense network in place and report progress."""

    def report_progress(done: float, loss: float) -> None:
        report(BaseTrained(done=done, loss=loss))

    rng = np.random.default_rng([seed, 0])
    train(model, splits, make_schedule(schedule), device, rng, TrainingOptions(precision), report_progress)


def get_input_shape(splits: Splits) -> tuple[int, int, int]:
    """Return the shape of one input: (channels, height, width)."""
    height, width, channels = splits.train.shape
    return channels, height, width


def count_outputs(model: nn.Module, splits: Splits) -> int:
    """Return the number of classes. Raises ModelError where the output is not logits of shape (images, classes)."""
    with torch.inference_mode():
        output = model.eval()(torch.zeros(2, *get_input_shape(splits)))
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        what = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ModelError(f"the model's output is {what}, expected logits of shape (images, classes)")
    return int(output.shape[1])


def is_classifier(model: nn.Module, splits: Splits) -> bool:
    """Return True where the outputs are logits of the classes in the labels."""
    try:
        check_labels(splits, count_outputs(model, splits))
    except BlendsearchError:
        return False
    return True
