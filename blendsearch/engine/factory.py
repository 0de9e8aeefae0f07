"""Construction of the engine that a config names."""

from collections.abc import Mapping
from typing import Any

from blendsearch.engine.base import Engine
from blendsearch.engine.ray_connection import check_access
from blendsearch.engine.ray_train_checks import check_ray_train
from blendsearch.errors import EngineError
from blendsearch.extras import require_extra
from blendsearch.fitness.evaluator import Evaluator
from blendsearch.runs.config.schema import EngineConfig


def check_engine(config: EngineConfig, workers_per_final: int = 1) -> None:
    """Check an engine's config before anything that takes time.

    Raises EngineError where Ray is not installed, for an address that would be refused, and if finals cannot be trained
    by `workers_per_final` workers.
    """
    if config.ray.startswith("ray://"):
        raise EngineError(
            f"{config.ray!r} is a Ray Client address, which is not supported: use local, auto, or the head's HOST:PORT"
        )
    if config.ray != "off":
        require_extra("ray", f"engine.ray: {config.ray}", EngineError)
    check_ray_train(config, workers_per_final)
    if config.ray != "off":
        check_access(config.ray)


def check_inputs(config: EngineConfig, objects: Mapping[str, Any]) -> None:
    """Raise EngineError for the first of `objects`, by name, that cannot be sent to the workers of `config`."""
    if config.ray != "off":
        from blendsearch.engine.ray_objects import check_sendable

        check_sendable(objects)


def start_engine(config: EngineConfig, evaluator: Evaluator, workers_per_final: int = 1) -> Engine:
    """Start the engine that `config` names; `workers_per_final` workers train every final together (finals.workers).

    Raises EngineError if it cannot be started.
    """
    check_engine(config, workers_per_final)
    if config.ray == "off":
        from blendsearch.engine.local import LocalEngine

        return LocalEngine(evaluator, config.retries)
    from blendsearch.engine.ray_engine import RayEngine

    recipe = evaluator.recipe
    check_inputs(config, {"data": evaluator.splits, **recipe.task.list_functions(), **recipe.hooks.list_functions()})
    return RayEngine(config, evaluator, workers_per_final)
