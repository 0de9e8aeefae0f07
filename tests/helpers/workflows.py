"""Data sets, networks and evaluations that configs of tests name."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from blendsearch.training.hooks import TrainContext

SIDE = 32


def make_classes(count: int = 60) -> TensorDataset:
    images = torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return TensorDataset(images, torch.arange(count) % 3)


def make_parts(count: int = 30) -> dict[str, Any]:
    return {"train": make_classes(count), "test": make_classes(count // 2)}


class Records(Dataset[Any]):
    """Dictionaries, as data sets of Hugging Face have them."""

    def __init__(self, count: int = 30) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        side = 20 + index % 3
        pixels = np.full((side, side + 4, 3), index, dtype=np.uint8)
        return {"img": Image.fromarray(pixels), "label": index % 3, "id": str(index)}


def draw_scene(index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a bright square: image (3, side, side), mask (side, side), and box (x, y, x, y)."""
    rng = np.random.default_rng(index)
    size = int(rng.integers(8, 14))
    left, top = (int(value) for value in rng.integers(0, SIDE - size, 2))
    image = rng.normal(0, 0.1, (3, SIDE, SIDE)).astype(np.float32)
    image[:, top : top + size, left : left + size] += 1
    mask = np.zeros((SIDE, SIDE), dtype=np.int64)
    mask[top : top + size, left : left + size] = 1
    return torch.from_numpy(image), torch.from_numpy(mask), torch.tensor([left, top, left + size, top + size]).float()


def make_masks(count: int = 24) -> TensorDataset:
    scenes = [draw_scene(index) for index in range(count)]
    return TensorDataset(torch.stack([scene[0] for scene in scenes]), torch.stack([scene[1] for scene in scenes]))


class Scenes(Dataset[Any]):
    """Images with targets of detection: dictionaries, of which the search reads nothing."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, _, box = draw_scene(index)
        return image, {"boxes": box[None], "labels": torch.ones(1, dtype=torch.int64)}


def make_block(before: int, after: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.SiLU())


class Bottleneck(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = make_block(width, width), make_block(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x))


class C2f(nn.Module):
    """The block of YOLOv8: halves, of which one passes through bottlenecks, and all are joined."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.c = width // 2
        self.cv1, self.cv2 = make_block(width, width, kernel=1), make_block((2 + depth) * self.c, width, kernel=1)
        self.m = nn.ModuleList(Bottleneck(self.c) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.cv1(x).chunk(2, 1))
        for bottleneck in self.m:
            parts.append(bottleneck(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class Detector(nn.Module):
    """Detector of one class without anchors: (images, 5, cells, cells), of cells of 4 x 4 pixels.

    Channels are objectness, and the distances from the cell's centre to the box's left, top, right and bottom sides.
    """

    def __init__(self, width: int = 16, body: str = "plain") -> None:
        super().__init__()
        wide = 2 * width
        blocks = [C2f(wide, 2)] if body == "c2f" else [make_block(wide, wide), make_block(wide, wide)]
        self.body = nn.Sequential(make_block(3, width, 2), make_block(width, wide, 2), *blocks)
        self.objectness, self.box = nn.Conv2d(2 * width, 1, 1), nn.Conv2d(2 * width, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        return torch.cat([self.objectness(features), self.box(features)], dim=1)


def make_detector(width: int = 8, body: str = "plain") -> nn.Module:
    """Make a detector that brings its own weights."""
    return copy.deepcopy(_train_detector(width, body))


@cache
def _train_detector(width: int, body: str) -> nn.Module:
    torch.manual_seed(0)
    model = Detector(width, body)
    fit_detector(model, steps=40)
    return model.eval()


def decode_boxes(output: Tensor) -> Tensor:
    """Return the box of every cell, (images, 4, cells, cells), in parts of the side."""
    cells = output.shape[2]
    centre = (torch.arange(cells) + 0.5) / cells
    x, y = centre.expand(cells, cells), centre[:, None].expand(cells, cells)
    left, top, right, bottom = F.softplus(output[:, 1:]).unbind(1)
    return torch.stack([x - left, y - top, x + right, y + bottom], dim=1)


def fit_detector(model: nn.Module, steps: int) -> None:
    images = torch.stack([draw_scene(index)[0] for index in range(32)])
    boxes = torch.stack([draw_scene(index)[2] for index in range(32)]) / SIDE
    rows = torch.arange(len(images))
    cells = SIDE // 4
    column, row = ((boxes[:, :2] + boxes[:, 2:]) / 2 * cells).long().clamp(max=cells - 1).unbind(1)
    hit = torch.zeros(len(images), cells, cells)
    hit[rows, row, column] = 1
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    model.train()
    for _ in range(steps):
        output = model(images)
        found = decode_boxes(output)[rows, :, row, column]
        loss = F.binary_cross_entropy_with_logits(output[:, 0], hit, 1 + 9 * hit) + 5 * F.l1_loss(found, boxes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def train_detector(module: nn.Module, context: TrainContext) -> None:
    fit_detector(module, steps=max(1, round(8 * context.epochs)))


def evaluate_detector(module: nn.Module) -> dict[str, float]:
    return {"mAP": compute_precision(module, range(100, 124))}


def evaluate_detector_again(module: nn.Module) -> dict[str, float]:
    return {"mAP": compute_precision(module, range(200, 224))}


def compute_precision(module: nn.Module, scenes: range) -> float:
    """Compute the average precision of the best box of every image, at an intersection over union of 0.5."""
    images = torch.stack([draw_scene(index)[0] for index in scenes])
    truth = torch.stack([draw_scene(index)[2] for index in scenes]) / SIDE
    with torch.no_grad():
        output = module(images)
    found, output = decode_boxes(output).flatten(2), output.flatten(2)
    scores, best = output[:, 0].max(dim=1)
    boxes = found[torch.arange(len(images)), :, best]
    low, high = torch.maximum(boxes[:, :2], truth[:, :2]), torch.minimum(boxes[:, 2:], truth[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    sizes = [(item[:, 2:] - item[:, :2]).clamp(min=0).prod(1) for item in (boxes, truth)]
    matched = (shared / (sizes[0] + sizes[1] - shared).clamp(min=1e-9) > 0.5)[scores.argsort(descending=True)]
    precision = matched.cumsum(0) / torch.arange(1, len(matched) + 1)
    return float((precision * matched).sum() / len(matched))
