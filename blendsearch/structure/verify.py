"""Verification of groups: a pruned network must equal the dense one with the same channels masked.

In the dense network, channels are masked where they are read: the slices of every weight that read them are zeroed. In
the pruned network they are removed. Equal outputs show that the group's index maps are right. They also show that no
operation in between (a normalisation over channels, a softmax, a shuffle) depends on the number of channels.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blendsearch.structure.groups import Cut, FrozenGroup, Group, IndexMaps, build_index_maps
from blendsearch.structure.surgery import copy_with_tensors, narrow

TOLERANCE = 1e-3
"""Largest accepted difference between the outputs, in units of their standard deviation; round-off stays below 1e-4."""


def verify_groups(
    model: nn.Module, maps: IndexMaps, example: Tensor, seed: int = 0
) -> tuple[IndexMaps, list[FrozenGroup]]:
    """Return the groups that pass, as maps, and those that fail, frozen with the reason.

    All groups are cut together first, which takes two forward passes if all pass. After a failure the set is halved
    until single failing groups are found.
    """
    rng = np.random.default_rng(seed)
    model = _randomize_constant_weights(model, seed)
    images = torch.randn(2, *example.shape[1:], generator=torch.Generator().manual_seed(seed))

    def compare_cut(groups: Sequence[Group]) -> str:
        return find_difference(model, build_index_maps(groups, maps.shapes), images, rng)

    frozen = {group.name: reason for group, reason in _find_failing_groups(list(maps.groups), compare_cut)}
    while True:
        kept = maps.exclude_groups(set(frozen))
        reason = compare_cut(kept.groups) if kept.groups else ""
        if not reason:
            break
        # each passes alone but not together: freeze the widest and try again
        widest = max(kept.groups, key=lambda group: group.channels)
        frozen[widest.name] = f"it cannot be cut together with others: {reason}"
    sizes = {group.name: group.channels for group in maps.groups}
    return kept, [FrozenGroup(name, sizes[name], reason) for name, reason in frozen.items()]


def find_difference(model: nn.Module, maps: IndexMaps, images: Tensor, rng: np.random.Generator) -> str:
    """Return how cutting about half of every group of `maps` differs from masking it; empty if it does not.

    `images` has shape (N, channels, height, width).
    """
    cut = _draw_half_cut(maps, rng)
    try:
        with torch.inference_mode():
            expected = _as_tensor(mask_channels(model, maps, cut)(images))
            found = _as_tensor(narrow(model, maps, cut)(images))
    except Exception as error:  # a wrong cut may raise anything
        return f"the pruned network fails with {type(error).__name__}: {str(error).splitlines()[0]}"
    if expected.shape != found.shape:
        return f"cutting it changes the output from {tuple(expected.shape)} to {tuple(found.shape)}"
    spread = float(expected.std()) or 1.0
    difference = float((expected - found).abs().max()) / spread
    if not difference <= TOLERANCE:
        return f"the outputs of cutting and masking differ by {difference:.2g} of their spread"
    return ""


def mask_channels(model: nn.Module, maps: IndexMaps, cut: Cut) -> nn.Module:
    """Copy the dense network and zero the slices that read the channels which `cut` removes."""
    names = {id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    reading: dict[str, list[tuple[int, NDArray[np.int64]]]] = {}
    for group, start in zip(maps.groups, maps.offsets[:-1], strict=True):
        removed = np.flatnonzero(~cut[start : start + group.channels])
        for member in group.select_members("in"):
            reading.setdefault(member.tensor, []).append((member.dim, member.index[removed].ravel()))

    def zero_slices(tensor: Tensor) -> Tensor:
        out = tensor.detach().clone()
        for dim, positions in reading.get(names[id(tensor)], ()):
            out.index_fill_(dim, torch.from_numpy(positions), 0)
        return out

    return copy_with_tensors(model, zero_slices)


def _randomize_constant_weights(model: nn.Module, seed: int) -> nn.Module:
    """Return the model, or a copy with random values in place of constant weights and scales.

    A classifier, a last batch-norm or a layer scale that starts at zero lets no signal through, so any cut behind it
    would pass.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw_tensor(tensor: Tensor) -> Tensor:
        if id(tensor) not in constant:
            return tensor.detach()
        if sum(size > 1 for size in tensor.shape) > 1:
            return torch.randn(tensor.shape, generator=generator).div(float(tensor[0].numel()) ** 0.5)
        return torch.rand(tensor.shape, generator=generator) + 0.5

    constant = {
        id(parameter)
        for name, parameter in model.named_parameters()
        if not name.endswith("bias") and parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all())
    }
    return copy_with_tensors(model, draw_tensor) if constant else model


def _find_failing_groups(groups: list[Group], compare: Callable[[Sequence[Group]], str]) -> list[tuple[Group, str]]:
    reason = compare(groups) if groups else ""
    if not reason:
        return []
    if len(groups) == 1:
        return [(groups[0], reason)]
    half = len(groups) // 2
    return _find_failing_groups(groups[:half], compare) + _find_failing_groups(groups[half:], compare)


def _draw_half_cut(maps: IndexMaps, rng: np.random.Generator) -> Cut:
    """Draw a cut that keeps a random half of every group: at least one channel, and not all."""
    cut = maps.make_unpruned_cut()
    for start, size in zip(maps.offsets[:-1], maps.sizes, strict=True):
        removed = rng.permutation(size)[: max(1, size // 2) if size > 1 else 0]
        cut[start + removed] = False
    return cut


def _as_tensor(output: object) -> Tensor:
    """Return the first tensor of a network's output; torchvision's Inception and GoogLeNet return a tuple in
    training.
    """
    if isinstance(output, Tensor):
        return output
    values = list(output.values()) if isinstance(output, dict) else list(output)  # type: ignore[call-overload]
    return _as_tensor(values[0])
