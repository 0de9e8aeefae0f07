"""A teacher whose outputs are computed once: for a few augmented views of every training image.

At 12.5 % of the MACs, a teacher that runs beside the network makes a step about four times as expensive. Eight views of
the 50,000 images of CIFAR-100 take 80 MB.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blendsearch.data.splits import Splits
from blendsearch.data.views import ViewBatch, load_views
from blendsearch.training.device import Precision, autocast
from blendsearch.training.training_store import TrainingStore
from blendsearch.transfer import send

HEADER = 32
"""Bytes before the logits of a stored content: views, images, classes and the seed of the views, as int64."""


@dataclass(frozen=True, eq=False)
class StoredTeacher:
    """The stored outputs of a network.

    Attributes
    ----------
    logits: (views, training images, classes), float16.
    weight, temperature: see `Teacher`.
    view_seed: seed of the views that the logits belong to.
    """

    logits: NDArray[np.float16]
    weight: float
    temperature: float = 4.0
    view_seed: int = 0

    @property
    def views(self) -> int:
        return len(self.logits)

    def compute_logits(self, batch: ViewBatch, precision: Precision) -> Tensor:
        """Look up the logits of each image's view."""
        found = np.asarray(self.logits[batch.views, batch.positions], dtype=np.float32)
        return send(torch.from_numpy(found), batch.images.device)


def compute_logits(
    module: nn.Module,
    splits: Splits,
    views: int,
    seed: int,
    device: torch.device,
    precision: Precision = "float32",
    batch_size: int = 256,
) -> NDArray[np.float16]:
    """Run `module` on every view of every training image; return (views, images, classes).

    Values beyond the range of float16 are clipped.
    """
    count, limit = len(splits.train), float(np.finfo(np.float16).max)
    found: list[NDArray[np.float16]] = []
    module.eval()
    with torch.inference_mode(), autocast(device, precision):
        for view in range(views):
            for start in range(0, count, batch_size):
                positions = np.arange(start, min(start + batch_size, count))
                batch = load_views(splits, positions, np.full_like(positions, view), seed, device)
                found.append(module(batch.images).float().clamp(-limit, limit).cpu().numpy().astype(np.float16))
    return np.concatenate(found).reshape(views, count, -1)


def load_or_compute_logits(
    store: TrainingStore,
    key: str,
    module: nn.Module,
    splits: Splits,
    views: int,
    seed: int,
    device: torch.device,
    precision: Precision = "float32",
) -> NDArray[np.float16]:
    """Return the logits that `store` holds under `key`; compute and store them where there are none."""
    shape = (views, len(splits.train))
    stored = _unpack(store.map(key), (*shape, seed))
    if stored is not None:
        return stored
    made = compute_logits(module, splits, views, seed, device, precision)
    store.save(key, np.array((*made.shape, seed), dtype=np.int64).tobytes() + made.tobytes())
    return made


def _unpack(content: NDArray[np.uint8] | None, expected: tuple[int, int, int]) -> NDArray[np.float16] | None:
    """Return the logits of a stored content; None unless they are of the `expected` views, images and seed."""
    if content is None or len(content) < HEADER:
        return None
    views, images, classes, seed = content[:HEADER].view(np.int64).tolist()
    if (views, images, seed) != expected or len(content) != HEADER + 2 * views * images * classes:
        return None
    logits: NDArray[np.float16] = content[HEADER:].view(np.float16).reshape(views, images, classes)
    return logits
