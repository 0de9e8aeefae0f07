"""Random cuts, and a network of many layer types."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blendsearch.structure.groups import Cut, IndexMaps


def draw_random_cut(maps: IndexMaps, keep: float, seed: int) -> Cut:
    """Draw a cut that keeps each channel with probability `keep`, and at least one of every group."""
    rng = np.random.default_rng(seed)
    cut = rng.random(maps.channels) < keep
    cut[maps.offsets[:-1] + rng.integers(0, maps.sizes)] = True
    return cut


class MixedNet(nn.Module):
    """A network with flatten, concatenation, depthwise and transposed convolutions, a shared layer and PReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 6, 3, padding=1)
        self.two = nn.Conv2d(3, 10, 3, padding=1)
        self.act = nn.PReLU(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8 * 4 * 4, 12)
        self.out = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(torch.cat([self.one(x), self.two(x)], dim=1))
        x = F.relu(self.up(self.depthwise(x)))
        x = F.relu(self.shared(F.relu(self.shared(x))))
        return self.out(F.relu(self.head(F.adaptive_avg_pool2d(x, 4).flatten(1))))


torch.manual_seed(0)
MIXED_NET = MixedNet().eval()
