"""What every engine is, and how one is chosen."""

from collections.abc import Iterator
from typing import Protocol

from blendsearch.engine.connection import authenticate
from blendsearch.errors import EngineError
from blendsearch.fitness.evaluation import Evaluator, Outcome, Request
from blendsearch.runs.config import EngineConfig


class Engine(Protocol):
    """Takes requests, gives back outcomes in any order, each submitted request once."""

    workers: int

    def submit(self, asked: Request) -> None:
        """Queue one request."""

    def completed(self) -> Iterator[Outcome]:
        """The outcomes of all submitted requests as they come; ends when none is outstanding.

        A request that cannot be evaluated comes back as an outcome with its `failure`, never as an exception.
        """

    def close(self) -> None:
        """Let go of workers. Outstanding requests are dropped."""


def check_engine(config: EngineConfig) -> None:
    """Raises EngineError for an address that would be refused, before anything that takes time."""
    if config.ray.startswith("ray://"):
        raise EngineError(
            f"{config.ray!r} is a Ray Client address, which is not supported: use local, auto, or the head's HOST:PORT"
        )
    if config.ray != "off":
        authenticate(config.ray)


def start_engine(config: EngineConfig, evaluator: Evaluator) -> Engine:
    """The engine that `config` names. Raises EngineError when it cannot be started."""
    check_engine(config)
    if config.ray == "off":
        from blendsearch.engine.local import LocalEngine

        return LocalEngine(evaluator, config.retries)
    from blendsearch.engine.on_ray import RayEngine

    return RayEngine(config, evaluator)
