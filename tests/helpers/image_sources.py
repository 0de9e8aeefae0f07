"""Data sets with random transforms, which the processes of a loader can import; and transforms by name."""

import os
import random
import signal
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


class NoisyImages(Dataset[Any]):
    """Pixels of shape (1, 6, 6) with a random change from each of the three global generators."""

    def __init__(self, count: int = 48, bad: int | None = None, kind: str = "raises") -> None:
        self.pixels = torch.arange(count * 36, dtype=torch.float32).reshape(count, 1, 6, 6)
        self.bad, self.kind = bad, kind

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Any:
        if index == self.bad:
            if self.kind == "raises":
                raise KeyError(f"row {index}\nand a second line")
            if self.kind == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            return None if self.kind == "none" else (torch.zeros(1, 2, 2), 0)
        change = random.random() + float(np.random.rand()) + float(torch.rand(()))
        return self.pixels[index] + 0.1 * change, index % 3


class MirroredMasks(Dataset[Any]):
    """An image and a mask that equals it, mirrored together at random."""

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = torch.arange(16, dtype=torch.float32).reshape(1, 4, 4) + index
        image = image.flip(2) if random.random() < 0.5 else image
        return image, image[0]


def make_training() -> Any:
    from torchvision.transforms import v2

    return v2.RandomHorizontalFlip()


def make_pair(image_size: int) -> Any:
    from torchvision.transforms import v2

    scale = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    return v2.Compose([v2.RandomResizedCrop(image_size), *scale]), v2.Compose(
        [v2.Resize(image_size), v2.CenterCrop(image_size), *scale]
    )


def make_number() -> int:
    return 3


def fail() -> None:
    raise ValueError("no transform\ntoday")
