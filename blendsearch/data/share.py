"""The share of every batch that one of several workers trains on."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class Share:
    """Part `rank`, from 0, of `of` equal ones; more than one needs a process group of torch.distributed."""

    rank: int = 0
    world_size: int = 1

    def select(self, batch: NDArray[Any]) -> NDArray[Any]:
        """This share of the images of a batch."""
        return batch[self.rank :: self.world_size]


SINGLE_PROCESS = Share()
"""All of it."""
