"""Schedules of trainings: length, learning rate and regularisation."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """The settings of one training.

    Attributes
    ----------
    epochs: passes over the training images, or over `images` of them; fractions are allowed.
    rate: largest learning rate.
    momentum: of SGD; the first beta of AdamW.
    images: training images per epoch; None for all of them.
    decay: ``cosine`` (one cosine from `rate` to zero) or ``constant``, after the warm-up.
    nesterov: True for Nesterov momentum; SGD only.
    optimizer: a key of `optimizer_registry.OPTIMIZERS`.
    warmup: share, in [0, 1), of the steps over which the rate rises linearly from near zero.
    label_smoothing: share, in [0, 1), of the target that is spread over all classes; for the default loss only.
    clip_norm: largest Euclidean norm of all gradients together; None for no limit.
    ema: decay, in [0, 1), of an exponential moving average of the weights per step; the network ends with the average.
        0 for none.
    """

    epochs: float
    rate: float
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 5e-4
    images: int | None = None
    decay: Literal["cosine", "constant"] = "cosine"
    nesterov: bool = True
    optimizer: str = "sgd"
    warmup: float = 0.0
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    ema: float = 0.0

    def count_images_per_epoch(self, available: int) -> int:
        """Return the number of images of an epoch where `available` training images exist."""
        return min(available, self.images or available)

    def count_steps_per_epoch(self, available: int) -> int:
        """Return the number of steps of an epoch; a last, smaller batch is left out."""
        return max(1, self.count_images_per_epoch(available) // self.batch_size)

    def count_steps(self, available: int) -> int:
        """Return the number of steps of the whole schedule."""
        return max(1, round(self.epochs * self.count_steps_per_epoch(available)))

    def compute_rate_factor(self, step: int, steps: int) -> float:
        """Return the learning rate of `step` (from 0) of `steps`, as a share of `rate`."""
        rising = round(self.warmup * steps)
        if step < rising:
            return (step + 1) / (rising + 1)
        if self.decay == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))
