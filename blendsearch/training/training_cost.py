"""The cost of trainings in multiply-accumulates."""

from blendsearch.training.schedule import Schedule

PASSES = 3
"""Forward passes that one training step costs: the forward pass, and a backward pass of twice its cost."""


def compute_training_cost(macs: int, schedule: Schedule, available: int) -> float:
    """Compute the cost of a training of a network with `macs` per image, where `available` training images exist.

    A teacher's passes and the evaluation are not counted.
    """
    return float(PASSES * macs * schedule.count_images_per_epoch(available) * schedule.epochs)
