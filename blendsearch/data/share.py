"""The part of every batch that one of several training processes reads."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class Share:
    """Part `rank` (from 0) of `world_size` equal parts of every batch.

    More than one part needs an initialised process group of torch.distributed.
    """

    rank: int = 0
    world_size: int = 1

    def select(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Return this share of a batch: every `world_size`-th element from `rank` on."""
        return batch[self.rank :: self.world_size]


SINGLE_PROCESS = Share()
"""The whole batch."""
