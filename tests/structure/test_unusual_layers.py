"""Normalisations, parts and operations of user-defined networks, each cut and compared with the masked network."""

from collections.abc import Callable

import pytest
import timm.layers
import torch
import torch.nn.functional as F
from brute_force import check_cuts, get_reasons, get_widths, make_images, trace_randomized
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops import FrozenBatchNorm2d, roi_align

IMAGES = make_images(6, 3, 8, 8)
OUTPUT = "its channels are the network's output"


class Sandwich(nn.Module):
    """Two convolutions of 16 and 12 channels, `inner` between them, and a linear layer behind."""

    def __init__(self, inner: nn.Module, reads: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.inner = nn.Conv2d(3, 16, 3, padding=1), inner
        self.two, self.out = nn.Conv2d(reads, 12, 3, padding=1), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.two(self.inner(self.one(x))))
        return self.out(x.mean(dim=(2, 3)))


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class ChannelAffine(nn.Module):
    """A hand-written frozen normalisation, with its numbers in buffers of the given shape."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.rand(shape))
        self.register_buffer("spread", torch.rand(shape) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean.view(1, -1, 1, 1)) / self.spread.view(1, -1, 1, 1)


class FunctionalNorms(nn.Module):
    """Batch and instance normalisation by functions, with tensors of the module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.rand(16) + 0.5), nn.Parameter(torch.rand(16))
        self.register_buffer("mean", torch.rand(16))
        self.register_buffer("variance", torch.rand(16) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(x, self.mean, self.variance, self.scale, self.shift)
        return F.instance_norm(x, weight=self.scale, bias=self.shift)


class ChannelsLast(nn.Module):
    """A module applied with channels as the last dimension."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class FunctionalLayerNorm(nn.Module):
    """A layer normalisation by a function, with its width in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 16
        self.scale, self.shift = nn.Parameter(torch.rand(16) + 0.5), nn.Parameter(torch.rand(16))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        x = F.layer_norm(x, (self.width,), self.scale, self.shift, eps=1e-3)
        return x.transpose(1, 2).unflatten(2, (8, 8))


class BareLayerNorm(nn.Module):
    """A layer normalisation by a function, without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 16

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), (self.width,)).permute(0, 3, 1, 2)


class FunctionalGroupNorm(nn.Module):
    """A group normalisation by a function, with the number of groups in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = 4
        self.scale, self.shift = nn.Parameter(torch.rand(16) + 0.5), nn.Parameter(torch.rand(16))

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.groups, self.scale, self.shift)


class ScaledChannels(nn.Module):
    """A normalisation by hand, with a scale and a shift per channel."""

    def __init__(self, normalize: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.normalize = normalize
        self.scale, self.shift = nn.Parameter(torch.rand(16) + 0.5), nn.Parameter(torch.rand(16))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale[:, None, None] * self.normalize(x) + self.shift[:, None, None]


def standardize(x: Tensor) -> Tensor:
    """The layer normalisation of ConvNeXt, over channels that come first."""
    mean = x.mean(1, keepdim=True)
    return (x - mean) / torch.sqrt((x - mean).pow(2).mean(1, keepdim=True) + 1e-6)


def standardize_at_once(x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, dim=1, keepdim=True, unbiased=False)
    return (x - mean) * torch.rsqrt(variance + 1e-6)


def respond(x: Tensor) -> Tensor:
    """The global response normalisation of ConvNeXt v2."""
    lengths = x.norm(dim=(2, 3), keepdim=True)
    return x * (lengths / (lengths.mean(dim=1, keepdim=True) + 1e-6))


class ChannelMask(nn.Module):
    """A buffer of booleans."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.arange(16) % 3 > 0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(self.mask.view(-1, 1, 1), x, 0.5 * x)


class Blur(nn.Module):
    """A fixed filter for each channel, applied by a function."""

    def __init__(self, choose: Callable[["Blur", Tensor], tuple[Tensor, int]]) -> None:
        super().__init__()
        self.choose, self.channels = choose, 16
        self.register_buffer("filter", torch.rand(1, 1, 3, 3))
        self.register_buffer("filters", torch.rand(16, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        filters, channels = self.choose(self, x)
        return F.conv2d(x, filters, stride=2, padding=1, groups=channels)


NORMS = {
    "frozen batch-norm of torchvision": (FrozenBatchNorm2d(16), 16),
    "buffers per channel": (ChannelAffine(16), 16),
    "buffers with dimensions of one": (ChannelAffine(1, 16, 1, 1), 16),
    "group normalisation": (nn.GroupNorm(4, 16), 4),
    "a norm group per channel": (nn.GroupNorm(16, 16), 16),
    "group normalisation without weights": (nn.GroupNorm(4, 16, affine=False), 4),
    "instance normalisation": (nn.InstanceNorm2d(16), 16),
    "instance normalisation with weights": (nn.InstanceNorm2d(16, affine=True), 16),
    "instance normalisation with statistics": (nn.InstanceNorm2d(16, affine=True, track_running_stats=True), 16),
    "batch-norm without weights": (nn.BatchNorm2d(16, affine=False), 16),
    "normalisations by functions": (FunctionalNorms(), 16),
    "group normalisation in one group": (nn.GroupNorm(1, 16), 16),
    "layer normalisation over channels": (ChannelsLast(nn.LayerNorm(16)), 16),
    "layer normalisation without shift": (ChannelsLast(nn.LayerNorm(16, bias=False)), 16),
    "layer normalisation of torchvision": (LayerNorm2d(16), 16),
    "layer normalisation of timm": (timm.layers.LayerNorm2d(16), 16),
    "layer normalisation by a function": (FunctionalLayerNorm(), 16),
    "layer normalisation over space": (nn.LayerNorm([8, 8]), 16),
    "layer normalisation without weights": (ChannelsLast(nn.LayerNorm(16, elementwise_affine=False)), 16),
    "layer normalisation by a function, without weights": (BareLayerNorm(), 16),
    "group normalisation in one group, without weights": (nn.GroupNorm(1, 16, affine=False), 16),
    "group normalisation by a function": (FunctionalGroupNorm(), 4),
    "root mean square": (ChannelsLast(nn.RMSNorm(16)), 16),
    "root mean square without weights": (ChannelsLast(nn.RMSNorm(16, elementwise_affine=False)), 16),
    "layer normalisation by hand": (ScaledChannels(standardize), 16),
    "layer normalisation by var_mean": (ScaledChannels(standardize_at_once), 16),
    "unit length of a pixel": (ScaledChannels(lambda x: F.normalize(x, dim=1)), 16),
    "global response": (ScaledChannels(respond), 16),
    "mean and maximum of channels": (
        Apply(lambda x: x * torch.sigmoid(x.mean(1, keepdim=True) + x.max(1, keepdim=True)[0])),
        16,
    ),
    "a mask per channel": (ChannelMask(), 16),
    "a gated unit": (Apply(lambda x: torch.cat([F.glu(x, dim=1), F.glu(x, dim=1)], dim=1)), 8),
    "a blur of its own width": (Blur(lambda blur, x: (blur.filters, blur.channels)), 16),
    "a blur of the input's width": (Blur(lambda blur, x: (blur.filters, x.shape[1])), 16),
    "an expanded blur": (Blur(lambda blur, x: (blur.filter.expand(x.shape[1], -1, -1, -1), x.shape[1])), 16),
    "a repeated blur": (Blur(lambda blur, x: (blur.filter.repeat(x.shape[1], 1, 1, 1), x.shape[1])), 16),
}


@pytest.mark.parametrize(("norm", "channels"), NORMS.values(), ids=NORMS)
def test_normalisations_per_channel_and_per_group_are_cut(norm: nn.Module, channels: int) -> None:
    model = Sandwich(norm)
    structure = trace_randomized(model, IMAGES)
    assert get_widths(structure) == {"one": channels, "two": 12}
    check_cuts(model, structure, IMAGES)


def test_a_resnet_with_frozen_batch_norms_is_cut_everywhere() -> None:
    model = resnet18(norm_layer=FrozenBatchNorm2d, num_classes=3)
    structure = trace_randomized(model, make_images(2, 3, 32, 32))
    assert len(structure.maps.groups) == 12
    assert set(get_reasons(structure).values()) == {OUTPUT}


class Halves(nn.Module):
    """The C2f block of Ultralytics: halves, of which one passes through inner layers."""

    def __init__(self, divide: Callable[["Halves", Tensor], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.divide, self.c = divide, 8
        self.back = nn.Conv2d(24, 16, 1)
        self.inner = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.divide(self, x))
        parts.append(parts[-1] + F.relu(self.inner(parts[-1])))
        return self.back(torch.cat(parts, dim=1))


def slice_halves(block: Halves, x: Tensor) -> tuple[Tensor, ...]:
    half = x.shape[1] // 2
    return x[:, :half], x[:, half:]


DIVISIONS = {
    "chunk": lambda block, x: x.chunk(2, dim=1),
    "split by a size of the tensor": lambda block, x: x.split(x.shape[1] // 2, dim=1),
    "split by an attribute": lambda block, x: x.split((block.c, block.c), dim=1),
    "tensor_split": lambda block, x: x.tensor_split(2, dim=1),
    "slices": slice_halves,
    "a view": lambda block, x: x.view(len(x), 2, x.shape[1] // 2, *x.shape[2:]).unbind(1),
}


@pytest.mark.parametrize("divide", DIVISIONS.values(), ids=DIVISIONS)
def test_halves_are_cut_alike(divide: Callable[[Halves, Tensor], tuple[Tensor, ...]]) -> None:
    model = Sandwich(Halves(divide))
    structure = trace_randomized(model, IMAGES)
    assert get_widths(structure) == {"one": 8, "inner.back": 16, "two": 12}
    assert structure.maps.groups[0].members[0].index.tolist() == [[place, place + 8] for place in range(8)]
    check_cuts(model, structure, IMAGES)


class Thirds(nn.Module):
    """The Res2Net block: four parts of a fixed width, each with the sum of the ones before."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.scale = 4, 4
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        first, *parts = torch.split(x, self.width, 1)
        made = [first]
        for part, conv in zip(parts, self.convs, strict=True):
            made.append(conv(part if len(made) == 1 else part + made[-1]))
        return torch.cat(made, 1)


PARTS = {
    "three parts": (lambda x: sum(x[:, :15].chunk(3, dim=1)), None),
    "a quarter and the rest": (lambda x: torch.cat(divide_at_a_quarter(x)[::-1], 1), 4),
    "a shuffle by view": (lambda x: shuffle(x, 2), 8),
    "a shuffle by torch": (lambda x: F.channel_shuffle(x, 4), 4),
    "maxout over pairs": (lambda x: x.view(len(x), 2, -1, *x.shape[2:]).amax(1), None),
}


def divide_at_a_quarter(x: Tensor) -> tuple[Tensor, ...]:
    quarter = x.shape[1] // 4
    return x.split([quarter, x.shape[1] - quarter], dim=1)


def shuffle(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


@pytest.mark.parametrize(("operation", "channels"), PARTS.values(), ids=PARTS)
def test_other_parts(operation: Callable[[Tensor], Tensor], channels: int | None) -> None:
    with torch.no_grad():
        reads = operation(torch.zeros(1, 16, 4, 4)).shape[1]
    model = Sandwich(Apply(operation), reads)
    structure = trace_randomized(model, IMAGES)
    widths = get_widths(structure)
    if channels is not None:
        assert widths["one"] == channels
    elif "one" not in widths:
        assert "Apply" in get_reasons(structure)["one"] or "inner" in get_reasons(structure)["one"]
    check_cuts(model, structure, IMAGES)


def test_parts_of_a_width_in_an_attribute_are_cut_alike() -> None:
    model = Sandwich(Thirds())
    structure = trace_randomized(model, IMAGES)
    assert get_widths(structure)["one"] == 4
    check_cuts(model, structure, IMAGES)


def test_parts_of_constant_sizes_stay_unpruned_with_the_operation() -> None:
    model = Sandwich(Apply(lambda x: torch.cat(x.split([8, 8], dim=1)[::-1], dim=1)))
    structure = trace_randomized(model, IMAGES)
    assert (
        "split_with_sizes in inner splits or reorders its channels, at sizes that do not"
        in get_reasons(structure)["one"]
    )


def unpool(x: Tensor) -> Tensor:
    pooled, places = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(pooled, places, 2)


def warp(x: Tensor) -> Tensor:
    grid = F.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3), [len(x), 1, 8, 8], align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


SPATIAL = {
    "nearest-exact resize": lambda x: F.interpolate(x, scale_factor=2, mode="nearest-exact"),
    "antialiased resize": lambda x: F.interpolate(x, size=(5, 5), mode="bilinear", antialias=True),
    "antialiased bicubic resize": lambda x: F.interpolate(x, size=(5, 5), mode="bicubic", antialias=True),
    "maximum over space": lambda x: x.flatten(2).max(-1)[0][:, :, None, None],
    "maximum over one axis": lambda x: x.max(dim=3, keepdim=True).values,
    "largest pixels": lambda x: x.flatten(2).topk(4, dim=-1).values.unflatten(2, (2, 2)),
    "sorted pixels": lambda x: x.sort(dim=3).values,
    "norm over space": lambda x: x / (x.norm(dim=(2, 3), keepdim=True) + 1),
    "vector norm": lambda x: F.normalize(x.flatten(2), dim=2).view_as(x),
    "softmax over space": lambda x: x.flatten(2).softmax(-1).view_as(x),
    "log-sum-exp over space": lambda x: x.logsumexp(dim=(2, 3), keepdim=True),
    "cumulative sum over space": lambda x: x.cumsum(dim=3),
    "standard deviation over space": lambda x: x.std(dim=(2, 3), keepdim=True),
    "max-unpooling": unpool,
    "grid sampling": warp,
    "circular padding": lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"),
    "reflected padding": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "fractional pooling": lambda x: F.lp_pool2d(x, 2, 2),
    "triangle of pixels": lambda x: x.tril(),
    "rotated pixels": lambda x: x.rot90(1, (2, 3)),
    "regions": lambda x: roi_align(x, [torch.tensor([[0.0, 0.0, 6.0, 6.0]])] * len(x), 4),
}


@pytest.mark.parametrize("operation", SPATIAL.values(), ids=SPATIAL)
def test_spatial_operations_keep_channels_apart(operation: Callable[[Tensor], Tensor]) -> None:
    model = Sandwich(Apply(operation))
    structure = trace_randomized(model, IMAGES)
    assert get_widths(structure) == {"one": 16, "two": 12}
    check_cuts(model, structure, IMAGES)


MIXING = {
    "softmax over channels": lambda x: x.softmax(dim=1),
    "sum of channels": lambda x: x + x.cumsum(dim=1),
    "place of the largest channel": lambda x: x * (x.argmax(dim=1, keepdim=True) > 3),
    "response normalisation": lambda x: F.local_response_norm(x, 3),
    "sorted channels": lambda x: x.sort(dim=1).values,
}


@pytest.mark.parametrize("operation", MIXING.values(), ids=MIXING)
def test_operations_over_channels_stay_unpruned(operation: Callable[[Tensor], Tensor]) -> None:
    structure = trace_randomized(Sandwich(Apply(operation)), IMAGES)
    assert "one" not in get_widths(structure)
    assert "in inner" in get_reasons(structure)["one"]


SHUFFLES = {
    "pixel shuffle": (nn.PixelShuffle(2), 4, 4),
    "pixel unshuffle": (nn.PixelUnshuffle(2), 64, 16),
    "pixel shuffle by view": (
        Apply(lambda x: x.view(len(x), -1, 2, 2, 8, 8).permute(0, 1, 4, 2, 5, 3).reshape(len(x), -1, 16, 16)),
        4,
        4,
    ),
    "patches": (Apply(lambda x: F.unfold(x, 2, stride=2).unflatten(2, (4, 4))), 64, 16),
}


@pytest.mark.parametrize(("operation", "reads", "channels"), SHUFFLES.values(), ids=SHUFFLES)
def test_pixels_moved_to_channels_and_back_follow_a_cut(operation: nn.Module, reads: int, channels: int) -> None:
    model = Sandwich(operation, reads)
    structure = trace_randomized(model, IMAGES)
    assert get_widths(structure) == {"one": channels, "two": 12}
    check_cuts(model, structure, IMAGES)


TRANSPOSED = {
    "depthwise": (nn.ConvTranspose2d(16, 16, 2, stride=2, groups=16), 16, 16),
    "depthwise with a multiplier": (nn.ConvTranspose2d(16, 32, 2, stride=2, groups=16), 32, 16),
    "in groups": (nn.ConvTranspose2d(16, 8, 2, stride=2, groups=4), 8, 4),
}


@pytest.mark.parametrize(("layer", "reads", "channels"), TRANSPOSED.values(), ids=TRANSPOSED)
def test_transposed_convolutions_in_groups_are_cut_by_groups(layer: nn.Module, reads: int, channels: int) -> None:
    model = Sandwich(layer, reads)
    structure = trace_randomized(model, IMAGES)
    assert get_widths(structure) == {"one": channels, "two": 12}
    check_cuts(model, structure, IMAGES)


EMPTY = {
    "an empty slice": lambda x: x + x[..., 8:].sum(dim=(2, 3), keepdim=True),
    "an empty part": lambda x: torch.cat([x, x[:, :0]], dim=1),
    "no pixel": lambda x: x + x.flatten(2).topk(0, dim=-1).values.sum(dim=-1)[..., None, None],
}


@pytest.mark.parametrize("operation", EMPTY.values(), ids=EMPTY)
def test_empty_tensors_freeze_nothing(operation: Callable[[Tensor], Tensor]) -> None:
    model = Sandwich(Apply(operation))
    structure = trace_randomized(model, IMAGES)
    assert get_widths(structure) == {"one": 16, "two": 12}
    check_cuts(model, structure, IMAGES)
