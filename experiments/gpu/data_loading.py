"""Measure the limits of data loading: images per second without a network.

    python experiments/gpu/data_loading.py [--device cpu --toy]

Images in memory (32 and 224 pixels) with and without augmentation, decoding of image files, and the bandwidth of copies
to the card from ordinary and from pinned memory.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Arguments, Part, make_synthetic_splits, measure_rate, run_as_script, synchronize
from PIL import Image

from blendsearch.data.split import FolderSplit
from blendsearch.data.splits import Splits

NAME = "data_loading"
MEGABYTES = 64


def measure(part: Part) -> None:
    """Measure all sources."""
    part.state["goals"].clear()
    toy, device = part.arguments.toy, part.arguments.device
    seconds = 0.05 if toy else 3.0
    for side, count in ((32, 256), (48, 64)) if toy else ((32, 50_000), (224, 2560)):
        splits = make_synthetic_splits(side, count, 64)
        for batch_size in (32,) if toy else (128, 512):
            for augment in ((), ("flip",), ("flip", "crop")):
                name = f"memory, {side} pixels, batches of {batch_size}, {' and '.join(augment) or 'unchanged'}"
                arguments = (splits, batch_size, augment, device, seconds)
                part.step(name, lambda arguments=arguments: measure_batches(*arguments))
    part.step("image files", lambda: measure_files(part.arguments, seconds))
    for pinned in (False, True) if device.type == "cuda" else (False,):
        name = f"copies from {'pinned' if pinned else 'ordinary'} memory, GB/s"
        part.step(name, lambda pinned=pinned: measure_copies(device, pinned, seconds))


def measure_batches(
    splits: Splits, batch_size: int, augment: tuple[str, ...], device: torch.device, seconds: float
) -> float:
    """Return images per second of `iter_batches`, normalised and on the device."""
    limit = min(len(splits.train), 40 * batch_size)

    def read() -> None:
        rng = np.random.default_rng(0)
        for _ in splits.iter_batches(
            splits.train, batch_size=batch_size, device=device, rng=rng, augment=augment, limit=limit
        ):
            pass
        synchronize(device)

    return measure_rate(read, device, seconds, limit)


def measure_files(arguments: Arguments, seconds: float) -> dict[str, Any]:
    """Return images per second of decoding JPEG files of 500 x 375 pixels to 224, the size of ImageNet's."""
    count = 8 if arguments.toy else 512
    files = write_images(arguments.work / "images", count)
    split = FolderSplit(files, np.zeros(count, np.int64), 224)
    return {"images_per_second": measure_rate(lambda: split.load_images(np.arange(count)), CPU, seconds, count)}


def write_images(folder: Path, count: int) -> list[Path]:
    """Write smooth random JPEG files, which are as large as photographs."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        if not file.exists():
            coarse = np.random.default_rng(number).integers(0, 256, (47, 63, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(file, quality=90)
    return files


def measure_copies(device: torch.device, pinned: bool, seconds: float) -> float:
    """Return gigabytes per second of copies of 64 MB to the device."""
    source = torch.zeros(MEGABYTES << 20, dtype=torch.uint8)
    source = source.pin_memory() if pinned else source
    target = torch.empty(MEGABYTES << 20, dtype=torch.uint8, device=device)
    return measure_rate(lambda: target.copy_(source, non_blocking=pinned), device, seconds, (MEGABYTES << 20) / 1e9)


CPU = torch.device("cpu")

if __name__ == "__main__":
    run_as_script(__doc__, NAME, measure)
