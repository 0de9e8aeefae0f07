"""Networks inside torch.fx graphs, and networks over one or three dimensions."""

import pytest
import torch
import torch.nn.functional as F
from brute_force import check_cuts, get_widths, make_images, trace_randomized
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import create_feature_extractor

from blendsearch.structure.surgery import narrow

IMAGES = make_images(4, 3, 8, 8)


class Body(nn.Module):
    """Two convolutions with dropout by a function, which differs between the modes of a graph."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.out = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 12, 3), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.relu(self.one(x)), 0.5, self.training)
        return self.out(F.relu(self.two(x)).mean(dim=(2, 3)))


class Features(nn.Module):
    """A head over two layers of an extractor."""

    def __init__(self) -> None:
        super().__init__()
        self.body = create_feature_extractor(Body(), {"one": "low", "two": "high"})
        self.head = nn.Linear(28, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = self.body(x)
        return self.head(torch.cat([found["low"].mean(dim=(2, 3)), found["high"].mean(dim=(2, 3))], dim=1))


@pytest.mark.parametrize(("model", "prefix"), [(Features(), "body."), (fx.symbolic_trace(Body().eval()), "")])
def test_graph_modules_are_copied_and_cut(model: nn.Module, prefix: str) -> None:
    structure = trace_randomized(model, IMAGES)
    assert get_widths(structure) == {f"{prefix}one": 16, f"{prefix}two": 12}
    check_cuts(model, structure, IMAGES)


def test_modes_of_a_copied_extractor_are_its_own() -> None:
    model = Features().eval()
    structure = trace_randomized(model, IMAGES)
    copied = narrow(model, structure.maps, structure.maps.make_unpruned_cut())
    with torch.no_grad():
        expected = model(IMAGES)
        copied.train()
        assert not torch.allclose(copied(IMAGES), expected)
        assert torch.equal(model(IMAGES), expected)
        assert torch.equal(copied.eval()(IMAGES), expected)


class Series(nn.Module):
    """Convolutions over one dimension, on images of one row."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.norm, self.two = nn.Conv1d(2, 16, 5, padding=2), nn.BatchNorm1d(16), nn.Conv1d(16, 12, 5)
        self.out = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.max_pool1d(F.relu(self.two(F.relu(self.norm(self.one(x[:, :, 0]))))), 2).mean(-1))


class Volume(nn.Module):
    """Convolutions over three dimensions, on images as slices."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.norm = nn.Conv3d(1, 16, 3, padding=1), nn.BatchNorm3d(16)
        self.two, self.out = nn.Conv3d(16, 12, 3, padding=1), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.one(x[:, None])))
        return self.out(F.adaptive_avg_pool3d(F.relu(self.two(F.max_pool3d(x, (1, 2, 2)))), 1).flatten(1))


@pytest.mark.parametrize(("model", "images"), [(Series(), make_images(4, 2, 1, 32)), (Volume(), IMAGES)])
def test_other_numbers_of_dimensions_are_cut(model: nn.Module, images: Tensor) -> None:
    structure = trace_randomized(model, images)
    assert get_widths(structure) == {"one": 16, "two": 12}
    check_cuts(model, structure, images)
