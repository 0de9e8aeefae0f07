"""The only place that knows Torch-Pruning: its dependency graph, turned once into our groups.

Fang et al. 2023, "DepGraph: Towards Any Structural Pruning". Torch-Pruning follows autograd's graph and answers which
layers' channels are coupled; nothing of it survives this file.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blendsearch.errors import TraceError
from blendsearch.structure.groups import Frozen, Group, Member
from blendsearch.zoo.shortcut import PaddedShortcut

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
PER_CHANNEL = (nn.modules.batchnorm._BatchNorm, nn.PReLU)
PER_CHANNEL_TENSORS = ("weight", "bias", "running_mean", "running_var")


def coupled_groups(model: nn.Module, example: Tensor) -> tuple[list[Group], list[Frozen]]:
    """The groups of `model` as far as they can be written as index maps, and those that cannot.

    `example` is one input, shape (1, channels, height, width). Raises TraceError when Torch-Pruning cannot follow the
    network at all.
    """
    shapes = {name: tensor.shape for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    with _stand_ins(model) as swapped:
        names = {id(module): name for name, module in model.named_modules()}
        order = {name: position for position, (name, _) in enumerate(model.named_modules())}
        parameters = {id(parameter): name for name, parameter in model.named_parameters()}
        found, unwrapped = _torch_pruning_groups(model, example, parameters)
        makers = _Makers(order, frozenset(swapped), [name for name, item in model.named_modules() if _makes(item)])
    groups, frozen = [], []
    for items in found:
        reading = _Reading(items, names, swapped, parameters, unwrapped)
        for members, channels in reading.parts():
            name = makers.first(members) or names.get(id(items[0][0]), "?")
            trouble = reading.trouble or _beyond(members, shapes)
            if not trouble and not any(member.side == "in" for member in members):
                trouble = "its channels are the network's output"
            if trouble:
                frozen.append(Frozen(name, channels, trouble))
            else:
                groups.append(Group(name, channels, members))
    groups.sort(key=lambda group: order.get(group.name, len(order)))
    frozen.sort(key=lambda item: order.get(item.name, len(order)))
    return _untangle(groups, frozen)


class _Reading:
    """One of Torch-Pruning's groups, read into members; `trouble` says why it cannot be cut, if so."""

    def __init__(
        self,
        items: list[tuple[Any, str, list[int], list[int]]],
        names: Mapping[int, str],
        swapped: Mapping[str, nn.Module],
        parameters: Mapping[int, str],
        unwrapped: Mapping[int, int],
    ) -> None:
        self.channels = len(items[0][2])
        self.trouble = ""
        self._claims: list[_Claim] = []
        for module, side, positions, roots in items:
            if isinstance(module, nn.Parameter):
                name = parameters.get(id(module))
                if name is not None:
                    self._add(name, name.rpartition(".")[0], unwrapped[id(module)], "out", positions, roots)
                continue
            name = names.get(id(module))
            if name is not None:  # else it is Torch-Pruning's own node for an operation without parameters
                self._read(module, name, "in" if side == "in" else "out", positions, roots, swapped)

    def parts(self) -> Iterator[tuple[tuple[Member, ...], int]]:
        """The group's members and number of channels; several such where not all channels touch the same tensors.

        Channels of two layers that are concatenated before a layer that works on each channel alone come from
        Torch-Pruning as one group; nothing ties those of one layer to those of the other.
        """
        # for each channel, how many positions of each claim are its own
        touched = np.zeros((self.channels, len(self._claims)), dtype=np.int64)
        for number, claim in enumerate(self._claims):
            np.add.at(touched[:, number], claim.roots, 1)
        _, first, signature = np.unique(touched, axis=0, return_index=True, return_inverse=True)
        for part in np.argsort(first):
            channels = np.flatnonzero(signature.ravel() == part)
            numbers = np.flatnonzero(touched[channels[0]])
            yield tuple(self._claims[number].member(channels) for number in numbers), len(channels)

    def _read(
        self,
        module: nn.Module,
        name: str,
        side: Literal["out", "in"],
        positions: list[int],
        roots: list[int],
        swapped: Mapping[str, nn.Module],
    ) -> None:
        if name in swapped:
            self._add(f"{name}.links", name, 0 if side == "out" else 1, side, positions, roots)
        elif isinstance(module, CONVOLUTIONS):
            depthwise = module.groups > 1 and module.groups == module.in_channels == module.out_channels
            if module.groups > 1 and not depthwise:
                self._freeze(f"{name} is a convolution in {module.groups} groups")
            elif side == "out" or depthwise:
                self._add_all(module, name, ("weight", "bias"), 0, "out", positions, roots)
            else:
                self._add(f"{name}.weight", name, 1, "in", positions, roots)
        elif isinstance(module, TRANSPOSED):
            if module.groups > 1:
                self._freeze(f"{name} is a transposed convolution in {module.groups} groups")
            elif side == "out":
                self._add(f"{name}.weight", name, 1, "out", positions, roots)
                self._add_all(module, name, ("bias",), 0, "out", positions, roots)
            else:
                self._add(f"{name}.weight", name, 0, "in", positions, roots)
        elif isinstance(module, nn.Linear):
            if side == "out":
                self._add_all(module, name, ("weight", "bias"), 0, "out", positions, roots)
            else:
                self._add(f"{name}.weight", name, 1, "in", positions, roots)
        elif isinstance(module, PER_CHANNEL):
            if isinstance(module, nn.PReLU) and module.num_parameters == 1:
                return
            self._add_all(module, name, PER_CHANNEL_TENSORS, 0, "out", positions, roots)
        elif any(True for _ in module.parameters(recurse=False)):
            self._freeze(f"{name} is a {type(module).__name__}, which sees all its channels at once")

    def _add_all(
        self,
        module: nn.Module,
        name: str,
        tensors: tuple[str, ...],
        dim: int,
        side: Literal["out", "in"],
        positions: list[int],
        roots: list[int],
    ) -> None:
        for tensor in tensors:
            if getattr(module, tensor, None) is not None:
                self._add(f"{name}.{tensor}", name, dim, side, positions, roots)

    def _add(
        self, tensor: str, module: str, dim: int, side: Literal["out", "in"], positions: list[int], roots: list[int]
    ) -> None:
        if len(positions) != len(roots) or len(set(positions)) != len(positions):
            self._freeze(f"{tensor} gives one position to several channels")
        else:
            self._claims.append(_Claim(tensor, module, dim, side, np.asarray(positions), np.asarray(roots)))

    def _freeze(self, reason: str) -> None:
        self.trouble = self.trouble or reason


class _Claim(NamedTuple):
    """Positions along one dimension of a tensor, and the group's channel that each belongs to."""

    tensor: str
    module: str
    dim: int
    side: Literal["out", "in"]
    positions: NDArray[np.int64]
    roots: NDArray[np.int64]

    def member(self, channels: NDArray[np.int64]) -> Member:
        """The claim of `channels` alone (ascending, all with the same number of positions)."""
        mine = np.isin(self.roots, channels)
        positions, roots = self.positions[mine], self.roots[mine]
        index = positions[np.lexsort((positions, roots))].reshape(len(channels), -1).astype(np.int64)
        return Member(self.tensor, self.module, self.dim, self.side, index)


def _beyond(members: tuple[Member, ...], shapes: Mapping[str, torch.Size]) -> str:
    """Why the members cannot be right, when one claims positions that its tensor does not have."""
    for member in members:
        if member.index.max() >= shapes[member.tensor][member.dim]:
            return f"an operation before {member.module} changes the number of channels"
    return ""


class _Makers(NamedTuple):
    """Which layers can give a group its name: the first, in the network's order, that makes its channels."""

    order: Mapping[str, int]
    swapped: frozenset[str]
    layers: list[str]

    def first(self, members: tuple[Member, ...]) -> str | None:
        making = {member.module for member in members if member.side == "out"} & set(self.layers) - self.swapped
        return min(making, key=lambda name: self.order[name], default=None)


def _makes(module: nn.Module) -> bool:
    return isinstance(module, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear))


def _untangle(groups: list[Group], frozen: list[Frozen]) -> tuple[list[Group], list[Frozen]]:
    """Freeze every group that claims an index which another group claims for other channels."""
    claimed: dict[tuple[str, int], dict[int, str]] = {}
    tangled: dict[str, str] = {}
    for group in groups:
        for member in group.members:
            owners = claimed.setdefault((member.tensor, member.dim), {})
            for position in member.index.flat:
                owner = owners.setdefault(int(position), group.name)
                if owner != group.name:
                    tangled[group.name], tangled[owner] = owner, group.name
    for group in groups:
        if group.name in tangled:
            reason = f"its channels are tied to those of {tangled[group.name]} in more than one way"
            frozen.append(Frozen(group.name, group.channels, reason))
    return [group for group in groups if group.name not in tangled], frozen


def _torch_pruning_groups(
    model: nn.Module, example: Tensor, parameters: Mapping[int, str]
) -> tuple[list[list[tuple[Any, str, list[int], list[int]]]], dict[int, int]]:
    """Torch-Pruning's groups as (module, side, positions, root channels), and the dimension of its loose parameters."""
    import torch_pruning

    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.enable_grad():
            warnings.simplefilter("ignore")
            graph = torch_pruning.DependencyGraph().build_dependency(model, example, verbose=False)
            groups = list(graph.get_all_groups())
    except Exception as error:  # whatever fails inside Torch-Pruning, the network is one it cannot follow
        where = _operation(error)
        raise TraceError(
            f"the channels of {type(model).__name__} cannot be followed: Torch-Pruning gave "
            f"{type(error).__name__} ({error}) at {where}; rewrite that operation with modules it knows"
        ) from error
    loose = {id(item.parameters): int(item.pruning_dim) for item in graph.unwrapped_parameters}
    return [
        [
            (
                item.dep.target.module,
                "in" if "in_channels" in item.dep.handler.__name__ else "out",
                item.idxs,
                item.root_idxs,
            )
            for item in group
        ]
        for group in groups
    ], loose


def _operation(error: BaseException) -> str:
    """The innermost function that the error came from."""
    trace = error.__traceback__
    where = "an unknown operation"
    while trace is not None:
        where = trace.tb_frame.f_code.co_name
        trace = trace.tb_next
    return where


@contextlib.contextmanager
def _stand_ins(model: nn.Module) -> Iterator[dict[str, nn.Module]]:
    """While inside, every PaddedShortcut of `model` is the convolution it stands for."""
    swapped = {name: module for name, module in model.named_modules() if isinstance(module, PaddedShortcut)}

    def place(name: str, module: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module)

    try:
        for name, shortcut in swapped.items():
            place(name, shortcut.stand_in())
        yield dict(swapped)
    finally:
        for name, shortcut in swapped.items():
            place(name, shortcut)
