"""One pass over a split: the order of its images, their random numbers, and the batches on a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from blendsearch.data import augment as augment_module
from blendsearch.data.augment import Augmentation
from blendsearch.data.image_loader import ReadRequest, TensorBatch, iter_requests
from blendsearch.data.sampling import get_source, has_training_transforms, load_batch, reads_on_demand
from blendsearch.data.share import Share
from blendsearch.data.split import ArraySplit, Indices, Split, resolve_view
from blendsearch.data.worker_processes import Workers
from blendsearch.transfer import send

MAX_RESIDENT_BYTES = 2**30
"""Largest split that is kept on a GPU."""

RESIDENT_SHARE = 0.25
"""Largest share of the free memory of a GPU that a split may take."""

_SAMPLE_STREAM = 1


@dataclass(frozen=True)
class EpochPlan:
    """Positions of every batch, seeds of every image, and the generator of batched augmentations.

    Attributes
    ----------
    batches: positions in the split, this process's share of every batch.
    draws: None without a generator.
    seeds: (len(split),), by position; None where no transform of single images applies.
    """

    batches: list[Indices]
    draws: np.random.Generator | None
    seeds: Indices | None


@dataclass(frozen=True)
class BatchSize:
    """Size and number of batches, see `Splits.iter_batches`."""

    batch_size: int
    limit: int | None
    drop_last: bool
    share: Share


def draw_pass(split: Split, rng: np.random.Generator | None, size: BatchSize, *, with_transforms: bool) -> EpochPlan:
    """Draw the order of the images and everything random about them; in order and unchanged without `rng`."""
    count = len(split)
    order, seed = np.arange(count), None
    if rng is not None:
        order = rng.permutation(count)
        # rng.spawn would depend on the number of earlier spawns, which is not part of the generator's state
        seed = rng.integers(2**63, size=4)
    order = order[: size.limit]
    stop = len(order) - len(order) % size.batch_size if size.drop_last else len(order)
    batches = [size.share.select(order[at : at + size.batch_size]) for at in range(0, stop, size.batch_size)]
    if seed is None:
        return EpochPlan(batches, None, None)
    several = size.share.world_size > 1
    draws = np.random.Generator(np.random.PCG64([*seed.tolist(), size.share.rank] if several else seed))
    if not (with_transforms and has_training_transforms(split)):
        return EpochPlan(batches, draws, None)
    # the same for every process, so that an image's transform does not depend on the number of processes
    stream = np.random.Generator(np.random.PCG64([*seed.tolist(), 0, _SAMPLE_STREAM]))
    return EpochPlan(batches, draws, stream.integers(2**63, size=count))


def iter_pass(
    split: Split, drawn: EpochPlan, changes: Sequence[Augmentation], device: torch.device, workers: Workers, skip: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate over raw batches on `device` from batch `skip` on: x (n, channels, height, width), and y."""
    _skip_draws(split, drawn, changes, skip)
    rest = drawn.batches[skip:]
    for chosen, (images, targets) in zip(rest, _iter_images(split, drawn, rest, device, workers), strict=True):
        x = move_to_input(images, device)
        for change in changes:
            assert drawn.draws is not None
            x = change(x, drawn.draws)
        y = torch.from_numpy(split.labels[chosen]) if targets is None else targets
        yield x, send(y, device)


def _iter_images(
    split: Split, drawn: EpochPlan, batches: Sequence[Indices], device: torch.device, workers: Workers
) -> Iterator[TensorBatch]:
    if drawn.seeds is not None or reads_on_demand(split):
        source = get_source(split)
        requests = [
            ReadRequest(resolve_view(split, chosen)[1], None if drawn.seeds is None else drawn.seeds[chosen])
            for chosen in batches
        ]
        yield from iter_requests(source, requests, workers, device)
        return
    for chosen in batches:
        yield load_from_memory(split, chosen, device), None


def move_to_input(images: Tensor, device: torch.device) -> Tensor:
    """Return (n, height, width, channels) as (n, channels, height, width) on `device`."""
    return send(images, device).permute(0, 3, 1, 2).contiguous()


def _skip_draws(split: Split, drawn: EpochPlan, changes: Sequence[Augmentation], skip: int) -> None:
    """Draw what the first `skip` batches would have drawn.

    Built-in augmentations draw by the shape of a batch alone, so they run on images without content.
    """
    if not changes:
        return
    assert drawn.draws is not None
    by_shape = all(change.__module__ == augment_module.__name__ for change in changes)
    height, width, channels = split.shape
    for chosen in drawn.batches[:skip]:
        if by_shape:
            x = torch.empty((len(chosen), channels, height, width), dtype=torch.uint8, device="meta")
        else:
            images, _ = load_batch(split, chosen, None if drawn.seeds is None else drawn.seeds[chosen])
            x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        for change in changes:
            x = change(x, drawn.draws)


_resident: WeakKeyDictionary[ArraySplit, dict[torch.device, Tensor]] = WeakKeyDictionary()
"""Images that are kept on a GPU, by their split; not part of the split, which is sent to other processes."""


def load_from_memory(split: Split, chosen: Indices, device: torch.device) -> Tensor:
    """Return images of a split in memory, (n, height, width, channels); on a GPU that keeps them, from there."""
    source, rows = resolve_view(split, chosen)
    if isinstance(source, ArraySplit) and device.type == "cuda":
        images = _find_resident(source, device)
        if images is not None:
            return images[send(torch.from_numpy(rows), device)]
    return torch.from_numpy(split.load_images(chosen))


def _find_resident(source: ArraySplit, device: torch.device) -> Tensor | None:
    """Return the images of `source` on `device`, moved there at first use; None if they are too large."""
    held = _resident.setdefault(source, {})
    if device not in held:
        size = len(source) * int(np.prod(source.shape))
        if size > min(MAX_RESIDENT_BYTES, RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]):
            return None
        held[device] = torch.from_numpy(source.load_images(np.arange(len(source)))).to(device)
    return held[device]
