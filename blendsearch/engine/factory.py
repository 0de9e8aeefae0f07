"""Construction of the engine that a config names."""

from collections.abc import Mapping
from typing import Any

from blendsearch.engine.base import Engine
from blendsearch.engine.engine_checks import check_engine
from blendsearch.fitness.evaluator import Evaluator
from blendsearch.runs.config.schema import EngineConfig


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
