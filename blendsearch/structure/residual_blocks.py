"""Residual blocks that a cut may remove: all channels inside them, where a bypass exists.

The network computes without a block if each layer behind it still receives the images. One forward pass follows which
groups a tensor *needs*: groups without whose channels it would be constant. An addition needs what all its terms need;
every other operation needs what any of its inputs needs. So a group is bypassed if only layers of its block need it.
Groups that only layers of the block read, such as the first of the two in a bottleneck, belong to the block.

Each block is then verified like every group: the network without it must equal the dense one with the channels masked,
and its costs must be those that its widths predict.
"""

from collections.abc import MutableMapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from blendsearch.structure.cost import LAYERS, count_macs, count_parameters
from blendsearch.structure.eager_mode import EagerMode
from blendsearch.structure.eval_mode import use_eval_mode
from blendsearch.structure.groups import ALWAYS, Cut, IndexMaps
from blendsearch.structure.surgery import narrow
from blendsearch.structure.trace import Structure, divide_images
from blendsearch.structure.verify import (
    draw_half_cut,
    find_cut_difference,
    find_failing_parts,
    randomize_constant_weights,
)
from blendsearch.task import seed_rngs

Block = tuple[int, ...]
"""Numbers of the groups inside a block, ascending."""

_ADDITIONS = ("add", "add_", "sub", "sub_")


def add_removable_blocks(
    model: nn.Module, structure: Structure, input_shape: tuple[int, int, int], images: Tensor | None = None
) -> Structure:
    """Extend `structure` by cuts that remove blocks; `model` is on the CPU. Arguments as for `trace_structure`."""
    with use_eval_mode(model), seed_rngs(0):
        examples, batches = divide_images(input_shape, images)
        found = _find_bypassed_blocks(model, structure.maps, examples[0])
        blocks = _verify_blocks(model, structure, found, examples[0], batches)
    return replace(structure, maps=replace(structure.maps, blocks=tuple(blocks)))


@dataclass(frozen=True, eq=False)
class _BlockLayers:
    """Layers, by number of a group, that make its channels, that read them, and that need them."""

    making: dict[int, set[str]]
    reading: dict[int, set[str]]
    needing: dict[int, set[str]] = field(default_factory=dict)

    def is_bypassed(self, block: set[int]) -> bool:
        """Return True if only layers that make or read channels of `block` need them."""
        inside = set().union(*(self.making[group] | self.reading[group] for group in block))
        return all(self.needing.get(group, set()) <= inside for group in block)

    def grow(self, block: set[int]) -> set[int]:
        """Add the groups that only layers which make channels of the block read."""
        while True:
            making = set().union(*(self.making[group] for group in block))
            more = {group for group, readers in self.reading.items() if readers and readers <= making} - block
            if not more:
                return block
            block = block | more


def _find_bypassed_blocks(model: nn.Module, maps: IndexMaps, image: Tensor) -> list[Block]:
    """Find the blocks of `model` that have a bypass and contain no other one, as a stage of blocks does."""
    layers = {name for name, module in model.named_modules() if isinstance(module, LAYERS)}
    making, reading = (
        {
            number: {member.module for member in group.members if member.side == side} & layers
            for number, group in enumerate(maps.groups)
        }
        for side in ("out", "in")
    )
    tracked = _BlockLayers(making, reading)
    complete = {number for number in making if _covers_tensors(maps, number)}
    try:
        reached = _track_needs(model, tracked, image)
    except Exception:  # user-defined networks may raise anything where operations are followed
        return []
    found = set()
    for group in complete:
        block = tracked.grow({group})
        inside = set().union(*(making[item] | reading[item] for item in block))
        if tracked.is_bypassed(block) and block <= complete and inside <= reached:
            found.add(tuple(sorted(block)))
    return sorted(block for block in found if not any(set(other) < set(block) for other in found))


def _covers_tensors(maps: IndexMaps, number: int) -> bool:
    """Return True if the group has every position of each dimension that it indexes."""
    return all(
        item.index.size == maps.shapes[item.tensor][item.dim]
        for item in maps.groups[number].members
        if item.side in ("out", "in")
    )


def _track_needs(model: nn.Module, tracked: _BlockLayers, image: Tensor) -> set[str]:
    """Record which layers need each group, in one forward pass; return the layers that run."""
    makers: dict[str, set[int]] = {}
    for group, layers in tracked.making.items():
        for layer in layers:
            makers.setdefault(layer, set()).add(group)
    reached: set[str] = set()
    mode = _NeedTracker()

    def record_reader(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        reached.add(name)
        for group in mode.collect_needs(args):
            tracked.needing.setdefault(group, set()).add(name)

    def record_maker(name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        mode.add_needs(output, makers.get(name, set()))

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, LAYERS):
                stack.callback(module.register_forward_pre_hook(partial(record_reader, name)).remove)
                stack.callback(module.register_forward_hook(partial(record_maker, name)).remove)
        mode.add_needs(image, set())
        with torch.no_grad(), mode:
            output = model(image)
    for group in mode.collect_needs(output):
        tracked.needing.setdefault(group, set()).add("")
    return reached


class _NeedTracker(EagerMode):
    """Follows which groups each tensor needs that depends on the image."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._needs: MutableMapping[Tensor, frozenset[int]] = WeakTensorKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        needs = [self._needs[item] for item in self._list_dependent((args, kwargs or {}))]
        out = func(*args, **(kwargs or {}))
        if needs:
            combine = frozenset.intersection if _is_addition(func) else frozenset.union
            for tensor in tree_leaves(out):
                if isinstance(tensor, Tensor):
                    self._needs[tensor] = combine(*needs)
        return out

    def add_needs(self, tree: Any, groups: set[int]) -> None:
        """Add `groups` to what the tensors of `tree` need."""
        for tensor in tree_leaves(tree):
            if isinstance(tensor, Tensor):
                self._needs[tensor] = self._needs.get(tensor, frozenset()) | groups

    def collect_needs(self, tree: Any) -> frozenset[int]:
        """Return all groups that the tensors of `tree` need."""
        return frozenset().union(*(self._needs[tensor] for tensor in self._list_dependent(tree)))

    def _list_dependent(self, tree: Any) -> list[Tensor]:
        return [item for item in tree_leaves(tree) if isinstance(item, Tensor) and item in self._needs]


def _is_addition(func: Any) -> bool:
    return getattr(getattr(func, "overloadpacket", None), "__name__", "") in _ADDITIONS


def _verify_blocks(
    model: nn.Module, structure: Structure, blocks: Sequence[Block], image: Tensor, batches: Sequence[Tensor]
) -> list[Block]:
    """Return the blocks without which the network equals the dense one with their channels masked.

    They are removed together, and every second one of them from a network that is cut elsewhere too.
    """
    maps, rng = structure.maps, np.random.default_rng(0)
    randomized = randomize_constant_weights(model, 0)

    def compare(part: Sequence[Block], cut: Cut | None = None) -> str:
        removed = remove_blocks(maps, maps.make_unpruned_cut() if cut is None else cut, part)
        reason = find_cut_difference(randomized, maps, batches, removed)
        return reason or _find_cost_difference(model, structure, removed, image)

    failing = {block for block, _ in find_failing_parts(list(blocks), compare)}
    found = [block for block in blocks if block not in failing]
    return found if found and not compare(found) and not compare(found[::2], draw_half_cut(maps, rng)) else []


def _find_cost_difference(model: nn.Module, structure: Structure, cut: Cut, image: Tensor) -> str:
    network, counts = narrow(model, structure.maps, cut), structure.maps.count_kept(cut)
    found = {
        "macs": count_macs(network, image),
        "params": count_parameters(network),
    }
    differing = [name for name, cost in found.items() if cost != int(structure.oracle.compute_cost(name, counts))]
    return f"its {differing[0]} do not follow from its width" if differing else ""


def list_output_sources(maps: IndexMaps, block: Block) -> dict[str, NDArray[np.int64]]:
    """Return, by name of each layer that goes with `block`, the channel of each of its outputs in the line of channels.

    It is ``ALWAYS`` for an output that no cut removes.
    """
    names = dict.fromkeys(
        item.module for number in block for item in maps.groups[number].members if item.side in ("out", "in")
    )
    found = {}
    for name in names:
        tensor = f"{name}.weight"
        untouched = np.full(maps.shapes[tensor][0], ALWAYS, dtype=np.int64)
        slices = dict(maps.slices.get(tensor, ()))
        found[name] = maps.sources[slices[0]] if 0 in slices else untouched
    return found


def remove_blocks(maps: IndexMaps, cut: Cut, blocks: Sequence[Block]) -> Cut:
    """Return `cut` without the channels of `blocks`."""
    removed = cut.copy()
    for group in {group for block in blocks for group in block}:
        removed[maps.offsets[group] : maps.offsets[group + 1]] = False
    return removed
