"""What a criterion sees of one group: the coupled layers' weights, and what the probe gathered about them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from blendsearch.criteria.activation_stats import Reading
from blendsearch.criteria.needs import Need
from blendsearch.criteria.probe import Gate, Probe
from blendsearch.structure.groups import Group, Member

GRAM_BLOCK = 1 << 24
"""Elements of a filter matrix that are held in double precision at once."""


@dataclass(frozen=True, eq=False)
class GroupView:
    """One group of a network, every tensor arranged by the group's channels.

    A group that several layers make or read has one tensor per layer, in an order that is the same in all methods. What
    the probe did not gather, because no criterion named it as a need or because the network cannot serve it, raises
    RuntimeError when read.

    Attributes
    ----------
    group: the group; `group.channels` is C in all shapes below.
    probe: what the probe gathered, None when no criterion of the pool asked for it.
    macs: multiply-accumulates that one channel of this group costs in the dense network.
    rng: random numbers of this group alone.
    """

    model: nn.Module
    group: Group
    probe: Probe | None
    macs: float
    rng: np.random.Generator
    _known: dict[str, list[Tensor]] = field(default_factory=dict, repr=False)

    def filters(self) -> list[Tensor]:
        """The weights that make the group's channels, one tensor per convolution or linear layer, each (C, n)."""
        return [matrix.flatten(1) for matrix in self.filter_matrices()]

    def filter_matrices(self) -> list[Tensor]:
        """`filters()` as one matrix per channel, each (C, input channels, kernel positions)."""
        return self._once(
            "filters", lambda: [_matrices(self._parameter(member.tensor), member) for member in self._weights("out")]
        )

    def filter_grams(self) -> list[Tensor]:
        """Inner products between the filters of each layer of `filters()`, in float64, each (C, C).

        Summed up over blocks of columns, so that no filter matrix is ever held in double precision as a whole.
        """
        return self._once("grams", lambda: [_gram(weight) for weight in self.filters()])

    def readers(self) -> list[Tensor]:
        """The weights that read the group's channels, one tensor per convolution or linear layer, each (C, n)."""
        return self._once(
            "readers",
            lambda: [_matrices(self._parameter(member.tensor), member).flatten(1) for member in self._weights("in")],
        )

    def batch_norms(self) -> list[tuple[Tensor, Tensor]]:
        """Scale and shift of each batch-norm over the group's channels.

        Each (C, m), where m is 1 but behind a flattened feature map.
        """
        return [
            (_vectors(self._parameter(scale.tensor), scale), _vectors(self._parameter(shift.tensor), shift))
            for scale, shift in self._batch_norm_members()
        ]

    def filter_gradients(self) -> list[Tensor]:
        """Gradients of the mean calibration loss by `filters()`, each (C, n)."""
        return self._by_filter("gradients", lambda probe: probe.gradients)

    def squared_filter_gradients(self) -> list[Tensor]:
        """Means over images of the squared gradient of one image's loss by `filters()`, each (C, n)."""
        return self._by_filter("squared_gradients", lambda probe: probe.squared_gradients)

    def hessian_diagonals(self) -> list[Tensor]:
        """Estimated diagonals of the mean calibration loss's Hessian by `filters()`, each (C, n).

        An entry alone is mostly noise; the sum over a filter, the trace of its block, is what can be trusted.
        """
        return self._by_filter("hessian", lambda probe: probe.hessians)

    def batch_norm_gradients(self) -> list[tuple[Tensor, Tensor]]:
        """Gradients of the mean calibration loss by `batch_norms()`, each (C, m)."""
        gradients = self._gathered("gradients").gradients
        return [
            (_vectors(gradients[scale.tensor], scale), _vectors(gradients[shift.tensor], shift))
            for scale, shift in self._batch_norm_members()
        ]

    def readings(self) -> list[Reading]:
        """What the probe saw at the input of each layer that reads the group, by the group's channels."""
        return self._gathered("activations").readings[self.group.name]

    def read_slices(self) -> list[tuple[Tensor, Reading]]:
        """`readers()`, each with the reading of the same layer; layers without weights are left out."""
        by_module = {reading.module: reading for reading in self.readings()}
        return [
            (weight, by_module[member.module])
            for weight, member in zip(self.readers(), self._weights("in"), strict=True)
        ]

    def gate(self) -> Gate:
        """What silencing each channel in all of its readers does to the calibration loss, to first order."""
        gates = self._gathered("gates").gates
        if self.group.name not in gates:
            raise RuntimeError("no gradient reached this group: name the need 'gates' when registering the criterion")
        return gates[self.group.name]

    def flow(self) -> Tensor:
        """Synaptic saliencies of the channels, (C,)."""
        return self._gathered("flow").flow[self.group.name]

    def _gathered(self, need: Need) -> Probe:
        if self.probe is None:
            raise RuntimeError("this criterion reads the probe: name what it needs when registering it")
        if need in self.probe.failed:
            raise RuntimeError(self.probe.failed[need])
        return self.probe

    def _by_filter(self, need: Need, of: Callable[[Probe], Mapping[str, Tensor]]) -> list[Tensor]:
        def rows() -> list[Tensor]:
            tensors = of(self._gathered(need))
            missing = [member.tensor for member in self._weights("out") if member.tensor not in tensors]
            if missing:
                raise RuntimeError(f"the probe has no {need} of {missing[0]}: name the need when registering")
            return [_matrices(tensors[member.tensor], member).flatten(1) for member in self._weights("out")]

        return self._once(need, rows)

    def _once(self, name: str, make: Callable[[], list[Tensor]]) -> list[Tensor]:
        """Many criteria look at the same rows: they are gathered once per view."""
        if name not in self._known:
            self._known[name] = make()
        return self._known[name]

    def _weights(self, side: str) -> list[Member]:
        return [
            member
            for member in self.group.members
            if member.side == side and member.tensor.endswith("weight") and self._has_rows(member)
        ]

    def _has_rows(self, member: Member) -> bool:
        """Whether the member is a weight of two dimensions or more, and no scale of a normalisation."""
        module = self.model.get_submodule(member.module)
        weight = getattr(module, "weight", None)
        return isinstance(weight, nn.Parameter) and weight.ndim > 1

    def _batch_norm_members(self) -> list[tuple[Member, Member]]:
        by_tensor = {member.tensor: member for member in self.group.members}
        return [
            (member, by_tensor[f"{member.module}.bias"])
            for member in self.group.members
            if member.tensor.endswith(".weight")
            and isinstance(self.model.get_submodule(member.module), nn.modules.batchnorm._BatchNorm)
        ]

    def _parameter(self, name: str) -> Tensor:
        return self.model.get_parameter(name).detach()


def mean_over(tensors: Sequence[Tensor]) -> Tensor | None:
    """The mean of several members' scores, each (C,); None without any."""
    return torch.stack(list(tensors)).mean(dim=0) if tensors else None


def _matrices(tensor: Tensor, member: Member) -> Tensor:
    """`tensor` with the member's dimension first and a row per channel of the group, (C, other channels, positions)."""
    channels, each = member.index.shape
    moved = tensor.movedim(member.dim, 0)
    flat = member.index.ravel()
    if len(flat) != len(moved) or not np.array_equal(flat, np.arange(len(flat))):
        moved = moved.index_select(0, torch.from_numpy(flat).to(tensor.device))
    return moved.reshape(channels, each * moved.shape[1], -1)


def _vectors(tensor: Tensor, member: Member) -> Tensor:
    """A vector's entries by the group's channels, (C, m)."""
    return tensor[torch.from_numpy(member.index).to(tensor.device)]


def _gram(weight: Tensor) -> Tensor:
    gram = torch.zeros(len(weight), len(weight), dtype=torch.float64, device=weight.device)
    for block in torch.split(weight, max(1, GRAM_BLOCK // len(weight)), dim=1):
        double = block.double()
        gram += double @ double.T
    return gram
