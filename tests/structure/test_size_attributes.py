"""Sizes that modules hold in attributes, and that follow a cut."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from brief_search import search_briefly
from brute_force import check_cuts, get_reasons, get_widths, make_images, trace_randomized
from torch import Tensor, nn

import blendsearch as bs
from blendsearch.errors import ModelError
from blendsearch.structure.size_attributes import get_size, set_sizes

IMAGES = make_images(6, 3, 8, 8)


class ShapedScale(nn.Module):
    """The layer scale of PoolFormer: it views its parameter by a shape that it holds."""

    def __init__(self, width: int, batched: bool) -> None:
        super().__init__()
        self.shape = [1, width, -1, 1] if batched else (width, 1, 1)
        self.scale = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.view(self.shape)


class Branches(nn.Module):
    """The mixer of InceptionNeXt: parts of sizes in a tuple, each with a convolution of its own or none."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = (10, 4, 2)
        self.convs = nn.ModuleList([nn.Identity(), nn.Conv2d(4, 4, 3, 1, 1, groups=4), nn.Conv2d(2, 2, 1, groups=2)])

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, self.sizes, dim=1)
        return torch.cat([conv(part) for conv, part in zip(self.convs, parts, strict=True)], dim=1)


class Modulation(nn.Module):
    """The modulation of FocalNet: queries, context, and a constant number of gates, of sizes in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [16, 16, 2]
        self.f, self.h = nn.Conv2d(16, 34, 1), nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        query, context, gates = torch.split(self.f(x), self.sizes, 1)
        return query * self.h(context * gates[:, :1] + context.mean((2, 3), keepdim=True) * gates[:, 1:])


class Score(nn.Module):
    """The attention of MobileViT v2: a score beside keys and values of a width in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_dim = 12
        self.qkv = nn.Conv2d(16, 25, 1)

    def forward(self, x: Tensor) -> Tensor:
        score, key, value = self.qkv(x).split([1, self.embed_dim, self.embed_dim], dim=1)
        return F.relu(value) * (key * F.softmax(score.flatten(2), -1).view_as(score)).sum((2, 3), keepdim=True)


class BareNorm(nn.Module):
    """A layer normalisation without weights: nothing but an attribute holds its width."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16, elementwise_affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Net(nn.Module):
    def __init__(self, inner: nn.Module, reads: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.inner = nn.Conv2d(3, 16, 3, padding=1), inner
        self.two, self.out = nn.Conv2d(reads, 12, 3, padding=1), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.two(self.inner(F.relu(self.one(x)))))
        return self.out(x.mean(dim=(2, 3)))


@pytest.mark.parametrize("batched", [False, True])
def test_a_shape_of_a_parameter_follows_a_cut(batched: bool) -> None:
    model = Net(ShapedScale(16, batched))
    structure = trace_randomized(model, IMAGES)
    assert get_widths(structure) == {"one": 16, "two": 12}
    check_cuts(model, structure, IMAGES)


def test_parts_of_sizes_in_a_tuple_are_cut_apart() -> None:
    model = Net(Branches())
    structure = trace_randomized(model, IMAGES)
    assert sorted(get_widths(structure).values()) == [2, 4, 10, 12]
    assert structure.maps.sized == ("inner.sizes[0]", "inner.sizes[1]", "inner.sizes[2]")
    check_cuts(model, structure, IMAGES)
    assert model.inner.sizes == (10, 4, 2)


@pytest.mark.parametrize(
    ("inner", "reads", "channels", "place"), [(Modulation(), 16, 16, "f"), (Score(), 12, 12, "qkv")]
)
def test_a_part_of_constant_size_stays_and_the_others_are_cut(
    inner: nn.Module, reads: int, channels: int, place: str
) -> None:
    model = Net(inner, reads)
    structure = trace_randomized(model, IMAGES)
    assert get_widths(structure)[f"inner.{place}"] == channels and get_widths(structure)["one"] == 16
    (constant,) = [item for item in structure.frozen if item.name == f"inner.{place}"]
    assert constant.channels <= 2 and get_reasons(structure).keys() == {f"inner.{place}", "out"}
    check_cuts(model, structure, IMAGES)


def test_sizes_are_read_and_set_by_name() -> None:
    model = Net(Branches())
    model.inner.width, model.inner.shape, model.inner.parts = 16, (16,), [3, 4]
    set_sizes(model, {"inner.sizes[1]": 2, "inner.width": 5, "inner.shape": 6, "inner.parts[0]": 1})
    assert (model.inner.sizes, model.inner.width, model.inner.shape) == ((10, 2, 2), 5, (6,))
    assert model.inner.parts == [1, 4]
    assert [get_size(model, f"inner.{name}") for name in ("sizes[0]", "width", "shape", "parts[1]")] == [10, 5, 6, 4]
    for unknown in ("inner.sizes", "inner.sizes[3]", "inner.width[0]", "inner._version", "no.width", "inner.[0]", ""):
        assert get_size(model, unknown) is None, unknown


@pytest.mark.parametrize(
    ("inner", "name", "unknown"),
    [(Branches(), "sizes[0]", "sizes[9]"), (BareNorm(), "normalized_shape", "normalized_size")],
)
def test_an_exported_network_is_read_back_with_its_sizes(
    inner: nn.Module, name: str, unknown: str, tmp_path: Path
) -> None:
    run = search_briefly(Net(inner), (make_images(60, 3, 8, 8), torch.arange(60) % 3), 0.6, tmp_path / "runs")
    best = run.best()
    best.export(tmp_path / "out")
    loaded = bs.load(tmp_path / "out", model=Net(inner))
    torch.testing.assert_close(loaded(IMAGES), best.module()(IMAGES))
    description = tmp_path / "out" / "network.json"
    text = description.read_text()
    assert name in text
    description.write_text(text.replace(name, unknown))
    with pytest.raises(ModelError, match="expected an attribute of that size or more"):
        bs.load(tmp_path / "out", model=Net(inner))
