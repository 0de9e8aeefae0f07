"""The dense network before a search: its input and outputs, and its training where it has no weights."""

import copy
import hashlib
import json

import numpy as np
import torch
from torch import nn

from blendsearch.data.splits import Splits, check_labels
from blendsearch.errors import BlendsearchError, ModelError
from blendsearch.events import BaseTrained, PrecisionChosen, Reporter
from blendsearch.pipeline.problem.from_config import make_schedule
from blendsearch.runs.config.schema import Config
from blendsearch.runs.config.sections import TaskConfig
from blendsearch.task import Task
from blendsearch.training.device import (
    choose_precision,
    convert_to_channels_last,
    convert_to_contiguous,
    measure_precisions,
)
from blendsearch.training.trainer import train
from blendsearch.training.training_options import CheckpointOptions, TrainingOptions
from blendsearch.training.training_store import TrainingStore


def train_base(
    model: nn.Module,
    splits: Splits,
    config: Config,
    task: Task,
    device: torch.device,
    report: Reporter,
    store: TrainingStore,
) -> None:
    """Train the dense network in place by `model.train`, with the loss of `task`, and report progress.

    A training of the same network, data and seed that `store` holds is continued.
    """
    assert config.model.train is not None
    key = compute_base_key(config)

    def report_progress(done: float, loss: float) -> None:
        report(BaseTrained(done=done, loss=loss))

    options = TrainingOptions(
        config.fitness.get_precision(),
        task,
        checkpoints=CheckpointOptions(store, key, config.training.checkpoint_seconds, keep=True),
        graphs=config.training.graphs,
    )
    rng = np.random.default_rng([config.seed, 0])
    schedule = make_schedule(config.model.train)
    train(convert_to_channels_last(model), splits, schedule, device, rng, options, report_progress)
    convert_to_contiguous(model)


def resolve_precision(
    config: Config, model: nn.Module, splits: Splits, device: torch.device, report: Reporter
) -> Config:
    """Replace an automatic precision by the faster one, measured on one batch of training images."""
    if config.fitness.precision != "auto":
        return config
    batches = splits.iter_batches(splits.train, batch_size=config.fitness.batch_size, device=device)
    images, _ = next(batches)
    seconds = measure_precisions(convert_to_channels_last(copy.deepcopy(model).eval()), images)
    chosen = choose_precision(seconds)
    report(PrecisionChosen(precision=chosen, seconds={str(name): value for name, value in seconds.items()}))
    return config.model_copy(update={"fitness": config.fitness.model_copy(update={"precision": chosen})})


def compute_base_key(config: Config) -> str:
    """Return the name of the base training's checkpoint; it depends on everything that determines the training."""
    facts = [config.model.model_dump(mode="json"), config.data.model_dump(mode="json"), config.seed]
    if config.task != TaskConfig():
        facts.append(config.task.model_dump(mode="json"))
    digest = hashlib.sha256(json.dumps([*facts, config.fitness.get_precision()], sort_keys=True).encode())
    return f"base-{digest.hexdigest()[:16]}"


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


def scores_classes(model: nn.Module, splits: Splits) -> bool:
    """Return True where the network has one output per class of the labels, whatever its loss makes of them."""
    try:
        return splits.classes > 1 and count_outputs(model, splits) == splits.classes
    except BlendsearchError:
        return False
