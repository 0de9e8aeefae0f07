"""Checks of an engine's config, before torch is imported and anything that takes time begins."""

from blendsearch.engine.ray_connection import check_access
from blendsearch.engine.ray_train_checks import check_ray_train
from blendsearch.errors import EngineError
from blendsearch.extras import require_extra
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
