"""What a criterion sees of one group: the coupled layers' weights, and what the probe gathered about them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blendsearch.criteria.probe import Probe, Reading
from blendsearch.structure.groups import Group, Member


@dataclass(frozen=True, eq=False)
class GroupView:
    """One group of a network, every tensor arranged by the group's channels.

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

    def filters(self) -> list[Tensor]:
        """The weights that make the group's channels, one tensor per convolution or linear layer, each (C, n)."""
        return [_rows(self._tensor(member), member) for member in self._weights("out")]

    def readers(self) -> list[Tensor]:
        """The weights that read the group's channels, one tensor per convolution or linear layer, each (C, n)."""
        return [_rows(self._tensor(member), member) for member in self._weights("in")]

    def batch_norms(self) -> list[tuple[Tensor, Tensor]]:
        """Scale and shift of each batch-norm over the group's channels, each (C,)."""
        return [
            (_rows(self._tensor(scale), scale)[:, 0], _rows(self._tensor(shift), shift)[:, 0])
            for scale, shift in self._batch_norm_members()
        ]

    def filter_gradients(self) -> list[Tensor]:
        """Gradients of the calibration loss by `filters()`, mean over the probe's batches, each (C, n)."""
        return [_rows(self._gradient(member), member) for member in self._weights("out")]

    def batch_norm_gradients(self) -> list[tuple[Tensor, Tensor]]:
        """Gradients of the calibration loss by `batch_norms()`, mean over the probe's batches, each (C,)."""
        return [
            (_rows(self._gradient(scale), scale)[:, 0], _rows(self._gradient(shift), shift)[:, 0])
            for scale, shift in self._batch_norm_members()
        ]

    def readings(self) -> list[Reading]:
        """What the probe saw at the input of each layer that reads the group, by the group's channels."""
        if self.probe is None:
            raise RuntimeError("this criterion reads the probe: name what it needs when registering it")
        return [
            self.probe.readings[member.module].by_channel(member.index)
            for member in self.group.on("in")
            if member.module in self.probe.readings
        ]

    def _weights(self, side: str) -> list[Member]:
        return [
            member
            for member in self.group.members
            if member.side == side and member.tensor.endswith("weight") and self._tensor(member).ndim > 1
        ]

    def _batch_norm_members(self) -> list[tuple[Member, Member]]:
        by_tensor = {member.tensor: member for member in self.group.members}
        return [
            (member, by_tensor[f"{member.module}.bias"])
            for member in self.group.members
            if member.tensor.endswith(".weight")
            and isinstance(self.model.get_submodule(member.module), nn.modules.batchnorm._BatchNorm)
        ]

    def _tensor(self, member: Member) -> Tensor:
        tensor: Tensor = (
            self.model.get_parameter(member.tensor) if _is_parameter(self.model, member) else torch.empty(0)
        )
        return tensor.detach()

    def _gradient(self, member: Member) -> Tensor:
        if self.probe is None:
            raise RuntimeError("this criterion reads the probe: name what it needs when registering it")
        return self.probe.gradients[member.tensor]


def mean_over(tensors: Sequence[Tensor]) -> Tensor | None:
    """The mean of several members' scores, each (C,); None without any."""
    return torch.stack(list(tensors)).mean(dim=0) if tensors else None


def _rows(tensor: Tensor, member: Member) -> Tensor:
    """`tensor` with the member's dimension first and a row per channel of the group, shape (C, n)."""
    index: NDArray[np.int64] = member.index
    moved = tensor.movedim(member.dim, 0)
    rows = moved.index_select(0, torch.from_numpy(index.ravel()).to(tensor.device))
    return rows.reshape(index.shape[0], -1)


def _is_parameter(model: nn.Module, member: Member) -> bool:
    try:
        model.get_parameter(member.tensor)
    except AttributeError:  # a buffer, such as the links of a padded shortcut
        return False
    return True
