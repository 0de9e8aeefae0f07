"""A width that stands in the code of a forward pass."""

import torch
from torch import Tensor, nn

from blendsearch.structure.trace import trace_structure


class Picks(nn.Module):
    """Reads pixels as rows of 24 numbers; none is chosen, so that the layer behind sees an empty tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(16, 24, 3, 1, 1)
        self.head, self.refine = nn.Linear(24, 3), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.relu(self.second(torch.relu(self.first(x))))
        pixels = z.permute(0, 2, 3, 1).reshape(-1, 24)
        chosen = pixels[pixels.mean(1) > 1e6]
        return self.head(z.mean((2, 3))) + self.refine(chosen).sum(0)


def test_a_literal_width_that_half_of_the_channels_divide_is_found() -> None:
    torch.manual_seed(0)
    structure = trace_structure(Picks(), (3, 16, 16), torch.randn(8, 3, 16, 16))
    assert [group.name for group in structure.maps.groups] == ["first"]
    assert "second" in {group.name for group in structure.frozen}
