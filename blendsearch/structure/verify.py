"""Verification of groups: a pruned network must equal the dense one with the same channels masked.

In the dense network, channels are masked where they are read: the slices of every weight that read them are zeroed. In
the pruned network they are removed. Equal outputs show that the group's index maps are right. They also show that no
operation in between (a softmax, a shuffle) depends on the number of channels. Normalisations over channels and their
means do: in the masked network they see the kept channels only (`structure.masked_norms`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blendsearch.errors import format_error
from blendsearch.structure.cost import build_cost_oracle, count_macs
from blendsearch.structure.groups import Cut, FrozenGroup, Group, IndexMaps, build_index_maps
from blendsearch.structure.masked_norms import normalize_kept_channels, reduce_kept_channels
from blendsearch.structure.mean_draws import use_mean_draws
from blendsearch.structure.outputs import list_tensors
from blendsearch.structure.surgery import copy_with_tensors, narrow

Part = TypeVar("Part")
"""What a cut is verified for: a group, or a block."""

TOLERANCE = 1e-3
"""Largest accepted difference between the outputs, in units of their standard deviation; round-off stays below 1e-4."""


def verify_groups(
    model: nn.Module, maps: IndexMaps, batches: Sequence[Tensor], seed: int = 0
) -> tuple[IndexMaps, list[FrozenGroup]]:
    """Return the groups that pass, as maps, and those that fail, frozen with the reason.

    All groups are cut together first, which takes two forward passes of each of `batches` if all pass. After a failure
    the set is halved until single failing groups are found.
    """
    rng = np.random.default_rng(seed)
    model = randomize_constant_weights(model, seed)

    def compare_cut(groups: Sequence[Group]) -> str:
        return find_difference(model, build_index_maps(groups, maps.shapes), batches, rng)

    frozen = {group.name: reason for group, reason in find_failing_parts(list(maps.groups), compare_cut)}
    while True:
        kept = maps.exclude_groups(set(frozen))
        reason = compare_cut(kept.groups) if kept.groups else ""
        if not reason:
            break
        # each passes alone but not together: freeze the widest and try again
        widest = max(kept.groups, key=lambda group: group.channels)
        frozen[widest.name] = f"it cannot be cut together with others: {reason}"
    by_name = {group.name: group for group in maps.groups}
    return kept, [_freeze_group(by_name[name], reason) for name, reason in frozen.items()]


def exclude_uncounted_groups(
    model: nn.Module, maps: IndexMaps, example: Tensor, products: Mapping[str, int], seed: int = 0
) -> tuple[IndexMaps, list[FrozenGroup]]:
    """Return the groups whose cost follows from their widths, as maps, and the others, frozen with the reason."""
    rng = np.random.default_rng(seed)

    def compare_macs(groups: Sequence[Group]) -> str:
        part = build_index_maps(groups, maps.shapes)
        cut = draw_half_cut(part, rng)
        predicted = build_cost_oracle(model, part, example, products).compute_cost("macs", part.count_kept(cut))
        counted = count_macs(narrow(model, part, cut), example)
        return "" if int(predicted) == counted else "its multiply-accumulates do not follow from its width"

    failed = find_failing_parts(list(maps.groups), compare_macs)
    frozen = [FrozenGroup(group.name, group.channels, reason) for group, reason in failed]
    return maps.exclude_groups({item.name for item in frozen}) if failed else maps, frozen


def _freeze_group(group: Group, reason: str) -> FrozenGroup:
    if group.assumption:
        reason = f"{group.assumption}, at sizes that do not follow a cut ({reason})"
    return FrozenGroup(group.name, group.channels, reason)


def find_difference(model: nn.Module, maps: IndexMaps, batches: Sequence[Tensor], rng: np.random.Generator) -> str:
    """Return how cutting about half of every group of `maps` differs from masking it; empty if it does not."""
    return find_cut_difference(model, maps, batches, draw_half_cut(maps, rng))


def find_cut_difference(model: nn.Module, maps: IndexMaps, batches: Sequence[Tensor], cut: Cut) -> str:
    """Return how applying `cut` differs from masking what it removes; empty if it does not.

    Each of `batches` has shape (N, channels, height, width). All tensors of the outputs are compared, in evaluation
    mode, and on the first batch in training mode (without dropout and batch statistics) where the network runs in it.
    """
    is_constant = True
    try:
        masked, pruned = mask_channels(model, maps, cut), narrow(model, maps, cut)
        for is_training in (False, True):
            with _use_training_code(masked, is_training), _use_training_code(pruned, is_training):
                for images in batches[:1] if is_training else batches:
                    expected = _run_masked(masked, images, is_training)
                    if reason := "" if expected is None else _compare_outputs(expected, pruned, images):
                        return reason
                    is_constant &= all(_is_constant(tensor) for tensor in expected or ())
    except Exception as error:  # a wrong cut may raise anything
        return f"the pruned network fails with {format_error(error)}"
    return "all outputs have one value on these images, so that it cannot be verified" if is_constant else ""


def _run_masked(masked: nn.Module, images: Tensor, is_training: bool) -> list[Tensor] | None:
    try:
        return run_with_mean_draws(masked, images)
    except Exception:
        if is_training:  # training mode may need other inputs
            return None
        raise


def _compare_outputs(expected: Sequence[Tensor], pruned: nn.Module, images: Tensor) -> str:
    found = run_with_mean_draws(pruned, images)
    if len(expected) != len(found):
        return f"cutting it changes the number of output tensors from {len(expected)} to {len(found)}"
    reasons = (compare_tensors(*pair) for pair in zip(expected, found, strict=True))
    return next((reason for reason in reasons if reason), "")


def _is_constant(tensor: Tensor) -> bool:
    """Return True if a tensor of several numbers shows no effect of the channels, or has no number."""
    return not tensor.numel() or (tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all()))


def run_with_mean_draws(model: nn.Module, images: Tensor, seed: int = 0) -> list[Tensor]:
    """Return all tensors of the outputs of `model`, with random numbers replaced by their means."""
    with torch.no_grad(), use_mean_draws(seed):
        return list_tensors(model(images))


def compare_tensors(expected: Tensor, found: Tensor) -> str:
    """Return how two outputs differ beyond round-off; empty if they do not."""
    if expected.shape != found.shape:
        return f"cutting it changes the output from {tuple(expected.shape)} to {tuple(found.shape)}"
    if not expected.numel():
        return ""
    if not expected.is_floating_point() or not found.is_floating_point():
        return "" if torch.equal(expected, found) else "cutting and masking give different integers"
    finite = torch.isfinite(expected)
    if not finite.any():
        return "the outputs hold no finite number, so that it cannot be verified"
    if not torch.equal(finite, torch.isfinite(found)):
        return "the outputs of cutting and masking are not finite in different places"
    expected, found = expected[finite].double(), found[finite].double()
    spread = (float(expected.std()) if expected.numel() > 1 else 0.0) or float(expected.abs().max()) or 1.0
    difference = float((expected - found).abs().max()) / spread
    if not difference <= TOLERANCE:
        return f"the outputs of cutting and masking differ by {difference:.2g} of their spread"
    return ""


@contextmanager
def _use_training_code(model: nn.Module, is_training: bool) -> Iterator[None]:
    """Set the modules that contain others to training mode inside this context, if asked; layers keep their mode."""
    blocks = [module for module in model.modules() if any(True for _ in module.children())] if is_training else []
    for module in blocks:
        module.training = True
    try:
        yield
    finally:
        for module in blocks:
            module.training = False


def mask_channels(model: nn.Module, maps: IndexMaps, cut: Cut) -> nn.Module:
    """Copy the dense network and zero the slices that read the channels which `cut` removes.

    Layer normalisations over channels, group normalisations in one group, and other reductions over channels use the
    kept channels only.
    """
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

    masked = copy_with_tensors(model, zero_slices)
    kept = maps.find_kept_positions(cut)
    parameters = dict(masked.named_parameters())
    normalize_kept_channels(
        masked,
        {
            id(parameters[name]): torch.from_numpy(kept[slices[0][1]])
            for name, slices in maps.slices.items()
            if name in parameters and parameters[name].ndim == 1
        },
    )
    reduce_kept_channels(masked, {name: torch.from_numpy(kept[maps.slices[name][0][1]]) for name in maps.statistics})
    return masked


def randomize_constant_weights(model: nn.Module, seed: int) -> nn.Module:
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


def find_failing_parts(parts: list[Part], compare: Callable[[Sequence[Part]], str]) -> list[tuple[Part, str]]:
    """Halve `parts` until each one for which `compare` gives a reason is found; return them with the reasons."""
    reason = compare(parts) if parts else ""
    if not reason:
        return []
    if len(parts) == 1:
        return [(parts[0], reason)]
    half = len(parts) // 2
    return find_failing_parts(parts[:half], compare) + find_failing_parts(parts[half:], compare)


def draw_half_cut(maps: IndexMaps, rng: np.random.Generator) -> Cut:
    """Draw a cut that keeps a random half of every group: at least one channel, and not all.

    Where half divides the width, it keeps one more: a view to a width in code would otherwise succeed with half of it.
    """
    cut = maps.make_unpruned_cut()
    for start, size in zip(maps.offsets[:-1], maps.sizes, strict=True):
        removed = rng.permutation(size)[: max(1, (size - 1) // 2) if size > 1 else 0]
        cut[start + removed] = False
    return cut
