"""ShuffleNet v2 without shuffles: every channel can then be cut alone.

In a stage, each unit reads half of the channels and passes the other half on; then all are shuffled. The place of a
channel fixes which unit reads it. Here, the last convolution of each branch is divided by the units that read its
channels, and nothing is shuffled. The outputs and the costs stay the same.
"""

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from blendsearch.structure.outputs import are_close, list_tensors
from blendsearch.structure.surgery import fit_attributes

STAGES = ("stage2", "stage3", "stage4")
PER_CHANNEL = ("weight", "bias", "running_mean", "running_var")


class DividedBranch(nn.Module):
    """A branch whose last convolution is divided by the units that read its channels."""

    def __init__(self, trunk: nn.Sequential, heads: Mapping[int, nn.Module]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleDict({str(reader): head for reader, head in heads.items()})

    def forward(self, x: Tensor) -> list[tuple[int, Tensor]]:
        """Return each part with the number of the unit that reads it."""
        x = self.trunk(x)
        return [(int(reader), head(x)) for reader, head in self.heads.items()]


class FoldedShuffleStage(nn.Module):
    """A stage of ShuffleNet v2; each unit has one branch, the first one two."""

    def __init__(self, units: Sequence[Sequence[DividedBranch]]) -> None:
        super().__init__()
        self.units = nn.ModuleList(nn.ModuleList(branches) for branches in units)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the channels of the stage, in the order in which they are made."""
        waiting: dict[int, list[Tensor]] = defaultdict(list)
        for number, unit in enumerate(self.units):
            x = torch.cat(waiting.pop(number), dim=1) if number else x
            for branch in unit:  # type: ignore[attr-defined]
                for reader, part in branch(x):
                    waiting[reader].append(part)
        return torch.cat(waiting.pop(len(self.units)), dim=1)


def can_fold_stage(stage: object) -> bool:
    """Return True for a stage of torchvision's ShuffleNet v2."""
    if not isinstance(stage, nn.Sequential):
        return False
    units: list[Any] = list(stage)
    return bool(units) and all(
        type(unit).__name__ == "InvertedResidual"
        and type(unit).__module__ == "torchvision.models.shufflenetv2"
        and (unit.stride > 1) == (number == 0)
        for number, unit in enumerate(units)
    )


def fold_stage(stage: Any, order: Tensor) -> tuple[FoldedShuffleStage, Tensor]:
    """Return the stage without shuffles, and the order of its channels, as places in the output of `stage`.

    `order`, (channels,), is that of its inputs.
    """
    branches = [[unit.branch1, unit.branch2] if number == 0 else [unit.branch2] for number, unit in enumerate(stage)]
    half = branches[0][0][-3].out_channels
    read = _list_read_channels(len(branches), half)
    readers = {int(channel): reader for reader, channels in read.items() for channel in channels}
    arrived: dict[int, list[int]] = defaultdict(list)
    units, first = [], 0
    for number, unit in enumerate(branches):
        orders = order if number == 0 else _find_places(arrived[number], read[number])
        divided = []
        for branch in unit:
            parts: dict[int, list[int]] = defaultdict(list)
            for channel in range(half):
                parts[readers[first + channel]].append(channel)
            for reader, channels in parts.items():
                arrived[reader] += [first + channel for channel in channels]
            divided.append(_divide_branch(branch, orders, parts))
            first += half
        units.append(divided)
    return FoldedShuffleStage(units).train(stage.training), _find_places(arrived[len(units)], read[len(units)])


def fold_shuffles(model: nn.Module, images: Tensor, tolerance: float) -> Iterator[str]:
    """Replace the stages of ShuffleNet v2 inside `model`, in place; yield their names.

    A replacement that changes outputs on `images` by more than `tolerance`, relatively, is taken back.
    """
    for name, module in list(model.named_modules()):
        if type(module).__name__ != "ShuffleNetV2" or not all(can_fold_stage(getattr(module, s, 0)) for s in STAGES):
            continue
        start = f"{name}." if name else ""
        replaced = _make_replacements(module)
        originals = {place: module.get_submodule(place) for place in replaced}
        expected = _run(model, images)
        _set_submodules(module, replaced)
        if _has_outputs(model, images, expected, tolerance):
            yield from (start + stage for stage in STAGES)
        else:  # a network that reads the channels of a stage itself
            _set_submodules(module, originals)


def _make_replacements(module: Any) -> dict[str, nn.Module]:
    replaced: dict[str, nn.Module] = {}
    order = torch.arange(module.stage2[0].branch1[0].in_channels)
    for stage in STAGES:
        replaced[stage], order = fold_stage(getattr(module, stage), order)
    replaced["conv5.0"] = copy.deepcopy(module.conv5[0])
    _permute_inputs([replaced["conv5.0"]], order)
    return replaced


def _set_submodules(module: nn.Module, replaced: Mapping[str, nn.Module]) -> None:
    for place, new in replaced.items():
        module.set_submodule(place, new)


def _run(model: nn.Module, images: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return list_tensors(model(images))


def _has_outputs(model: nn.Module, images: Tensor, expected: Sequence[Tensor], tolerance: float) -> bool:
    try:
        found = _run(model, images)
    except Exception:  # a network that uses the parts of a stage
        return False
    pairs = zip(found, expected, strict=False)
    return len(found) == len(expected) and all(are_close(*pair, tolerance) for pair in pairs)


def _list_read_channels(units: int, half: int) -> dict[int, Tensor]:
    """List the channels that each unit reads, and those of the output, in their order in the shuffled network.

    The channels of a stage are numbered in the order in which its branches make them.
    """
    read: dict[int, Tensor] = {}
    channels = _shuffle(torch.arange(2 * half))
    for number in range(1, units):
        passed, read[number] = channels[:half], channels[half:]
        made = torch.arange(half) + (number + 1) * half
        channels = _shuffle(torch.cat([passed, made]))
    read[units] = channels
    return read


def _shuffle(channels: Tensor) -> Tensor:
    return channels.view(2, -1).t().flatten()


def _find_places(channels: Sequence[int], among: Tensor) -> Tensor:
    places = {channel: place for place, channel in enumerate(among.tolist())}
    return torch.tensor([places[channel] for channel in channels])


def _divide_branch(branch: nn.Sequential, order: Tensor, parts: Mapping[int, Sequence[int]]) -> DividedBranch:
    *trunk, convolution, norm, activation = copy.deepcopy(branch)
    _permute_inputs([*trunk, convolution], order)
    heads = {
        reader: nn.Sequential(
            _select_outputs(convolution, channels), _select_outputs(norm, channels), copy.deepcopy(activation)
        )
        for reader, channels in parts.items()
    }
    return DividedBranch(nn.Sequential(*trunk), heads)


def _permute_inputs(layers: Sequence[nn.Module], order: Tensor) -> None:
    """Order the inputs of the first layers, in place, up to a convolution that reads all channels."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d) and layer.groups == 1:
            layer.weight = nn.Parameter(layer.weight.detach()[:, order], layer.weight.requires_grad)
            return
        _select(layer, order)


def _select_outputs(layer: nn.Module, channels: Sequence[int]) -> nn.Module:
    selected = copy.deepcopy(layer)
    _select(selected, torch.tensor(channels))
    fit_attributes(selected)
    return selected


def _select(layer: Any, channels: Tensor) -> None:
    for name in PER_CHANNEL:
        tensor = getattr(layer, name, None)
        if isinstance(tensor, nn.Parameter):
            setattr(layer, name, nn.Parameter(tensor.detach()[channels], tensor.requires_grad))
        elif tensor is not None:
            setattr(layer, name, tensor[channels])
