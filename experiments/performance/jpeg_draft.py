"""Measure the decoding of JPEG files with the draft mode, relative to decoding at full size.

    python experiments/performance/jpeg_draft.py [--files 12] [--repeats 3] [--out jpeg_draft.json]

Writes JPEG files of several sizes (smooth random images, quality 90) and loads each at 224 px as a folder of images
does (`blendsearch.data.split`), with and without Pillow's draft mode, in alternation. Prints the least processor
milliseconds per image of both, and the ratio.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from machine import describe_machine
from PIL import Image

from blendsearch.data.split import FolderSplit

SIDES, IMAGE_SIZE = (256, 500, 1024, 2048), 224


def write_files(folder: Path, side: int, count: int) -> list[Path]:
    """Write JPEG files of `side` x `side` pixels."""
    rng, paths = np.random.default_rng(side), []
    for number in range(count):
        coarse = rng.integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8)
        paths.append(folder / f"{side}-{number}.jpg")
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def measure_side(paths: list[Path], repeats: int) -> dict[str, float]:
    """Measure the least milliseconds per image with and without the draft mode."""
    split = FolderSplit(paths, np.zeros(len(paths), dtype=np.int64), IMAGE_SIZE)
    found: dict[str, list[float]] = {"draft": [], "full size": []}
    for _ in range(repeats):
        found["draft"].append(time_loading(split))
        with mock.patch("PIL.JpegImagePlugin.JpegImageFile.draft", return_value=None):
            found["full size"].append(time_loading(split))
    draft, full = (1e3 * min(times) / len(paths) for times in found.values())
    return {"draft_ms": round(draft, 2), "full_size_ms": round(full, 2), "ratio": round(draft / full, 3)}


def time_loading(split: FolderSplit) -> float:
    start = time.process_time()
    split.load_images(np.arange(len(split)))
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    machine = describe_machine()
    results: dict[str, Any] = {"machine": machine}
    with tempfile.TemporaryDirectory() as folder:
        for side in SIDES:
            results[f"{side} px"] = measure_side(write_files(Path(folder), side, arguments.files), arguments.repeats)
            print(f"{side} px: {json.dumps(results[f'{side} px'])}", flush=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
