"""Start the engine that a config asks for."""

from blendsearch.engine.base import Engine
from blendsearch.engine.ray_connection import authenticate
from blendsearch.engine.ray_train_checks import check_ray_train
from blendsearch.errors import EngineError
from blendsearch.fitness.evaluator import Evaluator
from blendsearch.runs.config.schema import EngineConfig


def check_engine(config: EngineConfig, workers_per_final: int = 1) -> None:
    """Raises EngineError for an address that would be refused, and for finals on `several` workers that cannot be.

    Before anything that takes time.
    """
    if config.ray.startswith("ray://"):
        raise EngineError(
            f"{config.ray!r} is a Ray Client address, which is not supported: use local, auto, or the head's HOST:PORT"
        )
    check_ray_train(config, workers_per_final)
    if config.ray != "off":
        authenticate(config.ray)


def start_engine(config: EngineConfig, evaluator: Evaluator, workers_per_final: int = 1) -> Engine:
    """The engine that `config` names; every final is trained by `several` workers together (finals.workers).

    Raises EngineError when it cannot be started.
    """
    check_engine(config, workers_per_final)
    if config.ray == "off":
        from blendsearch.engine.local import LocalEngine

        return LocalEngine(evaluator, config.retries)
    from blendsearch.engine.ray_engine import RayEngine

    return RayEngine(config, evaluator, workers_per_final)
