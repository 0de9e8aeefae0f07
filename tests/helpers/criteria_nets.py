"""Small networks with all kinds of groups, and their views for criteria."""

import numpy as np
import torch
from torch import Tensor, nn

from blendsearch.criteria.probe import ProbeData, Subsample, probe
from blendsearch.criteria.view import GroupView
from blendsearch.structure.trace import Structure, trace_structure

EVERY = Subsample(stride=1, max_images=10_000)
"""A sub-sample of all images."""


class Residual(nn.Module):
    """A stream of channels with two makers and three readers, and in-place ReLUs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.inner = nn.Sequential(nn.Conv2d(6, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), nn.ReLU(inplace=True))
        self.outer = nn.Sequential(nn.Conv2d(5, 6, 1, bias=False), nn.BatchNorm2d(6))
        self.relu = nn.ReLU(inplace=True)
        self.left = nn.Sequential(nn.Conv2d(6, 7, 3, stride=2, padding=1), nn.ReLU(inplace=True))
        self.right = nn.Conv2d(6, 4, 1, stride=2)
        self.head = nn.Linear(11, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.relu(self.outer(self.inner(x)) + x)
        both = torch.cat([self.left(x), self.right(x)], dim=1)
        out: Tensor = self.head(both.mean(dim=(2, 3)))
        return out


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 6, 1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU6(inplace=True),
            nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU6(inplace=True),
            nn.Conv2d(6, 5, 1, bias=False),
            nn.BatchNorm2d(5),
        )
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x).mean(dim=(2, 3)))
        return out


class Flattened(nn.Module):
    """No batch-norm; a linear layer reads nine features of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 5, 3, padding=1)
        self.second = nn.Conv2d(5, 4, 3, stride=2, padding=1)
        self.hidden = nn.Linear(4 * 9, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        out: Tensor = self.head(torch.relu(self.hidden(x.flatten(1))))
        return out


class Grouped(nn.Module):
    """A grouped convolution: three channels of its input and two of its output are coupled."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 9, 1, bias=False),
            nn.BatchNorm2d(9),
            nn.ReLU(inplace=True),
            nn.Conv2d(9, 6, 3, padding=1, groups=3, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 5, 1, bias=False),
            nn.BatchNorm2d(5),
        )
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x).mean(dim=(2, 3)))
        return out


NETS = {"residual": Residual, "depthwise": Depthwise, "flattened": Flattened, "grouped": Grouped}
SHAPE = (2, 6, 6)


def make_net(name: str, seed: int = 0) -> nn.Module:
    """Make one of `NETS` with random weights, scales, shifts and running statistics, in evaluation mode."""
    torch.manual_seed(seed)
    model = NETS[name]()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def draw_images(
    count: int = 12, seed: int = 1, classes: int = 3, shape: tuple[int, int, int] = SHAPE
) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, generator=drawn), torch.randint(0, classes, (count,), generator=drawn)


def trace_net(model: nn.Module) -> Structure:
    return trace_structure(model, SHAPE)


def make_views(model: nn.Module, structure: Structure, gathered: ProbeData | None) -> dict[str, GroupView]:
    return {
        group.name: GroupView(model, group, gathered, 10.0, np.random.default_rng(0)) for group in structure.maps.groups
    }


def probe_net(
    name: str, images: int = 12, temperature: float = 1.0
) -> tuple[nn.Module, Structure, dict[str, GroupView]]:
    """Make a network, its groups and views of them after a probe over `images` in one batch, all in the sub-sample."""
    model = make_net(name)
    structure = trace_net(model)
    gathered = probe(model, structure.maps, [draw_images(images)], temperature=temperature, subsample=EVERY)
    return model, structure, make_views(model, structure, gathered)
