"""Checks of fine-tunes on several workers, before anything that takes time."""

from typing import TYPE_CHECKING

from blendsearch.errors import EngineError
from blendsearch.extras import format_missing, list_missing_packages
from blendsearch.runs.config.schema import EngineConfig

if TYPE_CHECKING:
    from blendsearch.fitness.evaluator import Evaluator


def check_ray_train(config: EngineConfig, size: int) -> None:
    """Raise EngineError if a fine-tune on `size` workers could not start."""
    if size < 2:
        return
    if config.ray == "off":
        raise EngineError(
            f"finals.workers is {size} and engine.ray is off: a fine-tune on several workers needs Ray; set "
            "engine.ray to local, auto or HOST:PORT, or leave out finals.workers"
        )
    if missing := list_missing_packages("train"):
        raise EngineError(f"{format_missing(f'finals.workers: {size}', 'train', missing)}, here and on every node")


def check_batches(evaluator: "Evaluator", size: int) -> None:
    """Raise EngineError if a batch of the long fine-tune cannot be divided into `size` equal shares."""
    schedule = evaluator.recipe.final
    images = min(len(evaluator.splits.train), schedule.images or len(evaluator.splits.train))
    if min(images, schedule.batch_size) % size:
        raise EngineError(
            f"the {images} training images are one batch of the long fine-tune and cannot be divided evenly among "
            f"{size} workers (finals.workers): choose a number that divides them, or a smaller finals.tuning.batch_size"
        )
