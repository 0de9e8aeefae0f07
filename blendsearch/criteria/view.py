"""Input of a criterion: one group with the weights of its layers and the data of the probe."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from blendsearch.criteria.activation_stats import ActivationStats
from blendsearch.criteria.needs import Need
from blendsearch.criteria.probe import Gate, ProbeData
from blendsearch.structure.groups import Group, Member

GRAM_BLOCK = 1 << 24
"""Elements of a filter matrix in float64 at once."""


@dataclass(frozen=True, eq=False)
class GroupView:
    """One group of a network, with every tensor arranged by the group's channels.

    A group that several layers make or read has one tensor per layer, in the same order in all methods. Reading data
    that the probe lacks, because no criterion named it as a need or because the network cannot serve it, raises
    RuntimeError.

    Attributes
    ----------
    group: the group; `group.channels` is C in all shapes below.
    probe: data of the probe; None if no criterion of the pool needs it.
    macs: multiply-accumulates that one channel of this group costs in the dense network.
    rng: random generator of this group.
    """

    model: nn.Module
    group: Group
    probe: ProbeData | None
    macs: float
    rng: np.random.Generator
    _cache: dict[str, list[Tensor]] = field(default_factory=dict, repr=False)

    def get_filters(self) -> list[Tensor]:
        """Return the weights that make the group's channels, one tensor per convolution or linear layer, each (C,
        n).
        """
        return [matrix.flatten(1) for matrix in self.get_filter_matrices()]

    def get_filter_matrices(self) -> list[Tensor]:
        """Return `get_filters()` as one matrix per channel, each (C, input channels, kernel positions)."""
        return self._get_cached(
            "filters",
            lambda: [
                _arrange_matrices(self._get_parameter(member.tensor), member) for member in self._find_weights("out")
            ],
        )

    def get_filter_grams(self) -> list[Tensor]:
        """Return the inner products between the filters of each layer, in float64, each (C, C).

        Summed over blocks of columns, so that no complete filter matrix is in float64 at once.
        """
        return self._get_cached("grams", lambda: [_compute_gram(weight) for weight in self.get_filters()])

    def get_reader_weights(self) -> list[Tensor]:
        """Return the weights that read the group's channels, one tensor per convolution or linear layer, each (C,
        n).
        """
        return self._get_cached(
            "readers",
            lambda: [
                _arrange_matrices(self._get_parameter(member.tensor), member).flatten(1)
                for member in self._find_weights("in")
            ],
        )

    def get_batch_norms(self) -> list[tuple[Tensor, Tensor]]:
        """Return scale and shift of each batch-norm over the group's channels.

        Each (C, m); m is 1 except behind a flattened feature map.
        """
        return [
            (
                _arrange_vectors(self._get_parameter(scale.tensor), scale),
                _arrange_vectors(self._get_parameter(shift.tensor), shift),
            )
            for scale, shift in self._find_batch_norms()
        ]

    def get_filter_gradients(self) -> list[Tensor]:
        """Return the gradients of the mean calibration loss by `get_filters()`, each (C, n)."""
        return self._arrange_by_filter("gradients", lambda probe: probe.gradients)

    def get_squared_filter_gradients(self) -> list[Tensor]:
        """Return the means over images of the squared gradient of one image's loss by `get_filters()`, each (C, n)."""
        return self._arrange_by_filter("squared_gradients", lambda probe: probe.squared_gradients)

    def get_hessian_diagonals(self) -> list[Tensor]:
        """Return estimated diagonals of the mean calibration loss's Hessian by `get_filters()`, each (C, n).

        A single entry is mostly noise; the sum over a filter, the trace of its block, is reliable.
        """
        return self._arrange_by_filter("hessian", lambda probe: probe.hessians)

    def get_batch_norm_gradients(self) -> list[tuple[Tensor, Tensor]]:
        """Return the gradients of the mean calibration loss by `get_batch_norms()`, each (C, m)."""
        gradients = self._get_probe("gradients").gradients
        return [
            (_arrange_vectors(gradients[scale.tensor], scale), _arrange_vectors(gradients[shift.tensor], shift))
            for scale, shift in self._find_batch_norms()
        ]

    def get_activation_stats(self) -> list[ActivationStats]:
        """Return the statistics at the input of each layer that reads the group."""
        return self._get_probe("activations").activation_stats[self.group.name]

    def get_readers_with_stats(self) -> list[tuple[Tensor, ActivationStats]]:
        """Return `get_reader_weights()`, each with the statistics of the same layer; layers without weights are left
        out.
        """
        by_module = {reading.module: reading for reading in self.get_activation_stats()}
        return [
            (weight, by_module[member.module])
            for weight, member in zip(self.get_reader_weights(), self._find_weights("in"), strict=True)
        ]

    def get_gate(self) -> Gate:
        """Return the first-order effect on the calibration loss of masking each channel in all of its readers."""
        gates = self._get_probe("gates").gates
        if self.group.name not in gates:
            raise RuntimeError("no gradient reached this group: name 'gates' in needs= when registering the criterion")
        return gates[self.group.name]

    def get_flow(self) -> Tensor:
        """Return the synaptic saliencies of the channels, (C,)."""
        return self._get_probe("flow").flow[self.group.name]

    def _get_probe(self, need: Need) -> ProbeData:
        if self.probe is None:
            raise RuntimeError("this criterion reads the probe: name its needs= when registering it")
        if need in self.probe.failures:
            raise RuntimeError(self.probe.failures[need])
        return self.probe

    def _arrange_by_filter(self, need: Need, get_tensors: Callable[[ProbeData], Mapping[str, Tensor]]) -> list[Tensor]:
        def make_rows() -> list[Tensor]:
            tensors = get_tensors(self._get_probe(need))
            missing = [member.tensor for member in self._find_weights("out") if member.tensor not in tensors]
            if missing:
                raise RuntimeError(f"the probe has no {need} of {missing[0]}: name it in needs= when registering")
            return [
                _arrange_matrices(tensors[member.tensor], member).flatten(1) for member in self._find_weights("out")
            ]

        return self._get_cached(need, make_rows)

    def _get_cached(self, name: str, make: Callable[[], list[Tensor]]) -> list[Tensor]:
        """Compute a list of tensors once per view: many criteria read the same rows."""
        if name not in self._cache:
            self._cache[name] = make()
        return self._cache[name]

    def _find_weights(self, side: str) -> list[Member]:
        return [
            member
            for member in self.group.members
            if member.side == side and member.tensor.endswith("weight") and self._has_rows(member)
        ]

    def _has_rows(self, member: Member) -> bool:
        """Return True if the member is a weight of two or more dimensions, not a scale of a normalisation."""
        module = self.model.get_submodule(member.module)
        weight = getattr(module, "weight", None)
        return isinstance(weight, nn.Parameter) and weight.ndim > 1

    def _find_batch_norms(self) -> list[tuple[Member, Member]]:
        by_tensor = {member.tensor: member for member in self.group.members}
        return [
            (member, by_tensor[f"{member.module}.bias"])
            for member in self.group.members
            if member.tensor.endswith(".weight")
            and isinstance(self.model.get_submodule(member.module), nn.modules.batchnorm._BatchNorm)
        ]

    def _get_parameter(self, name: str) -> Tensor:
        return self.model.get_parameter(name).detach()


def average_scores(tensors: Sequence[Tensor]) -> Tensor | None:
    """Return the mean of several layers' scores, each (C,); None for an empty list."""
    return torch.stack(list(tensors)).mean(dim=0) if tensors else None


def _arrange_matrices(tensor: Tensor, member: Member) -> Tensor:
    """Arrange `tensor` with the member's dimension first and a row per channel: (C, other channels, positions)."""
    channels, each = member.index.shape
    moved = tensor.movedim(member.dim, 0)
    flat = member.index.ravel()
    if len(flat) != len(moved) or not np.array_equal(flat, np.arange(len(flat))):
        moved = moved.index_select(0, torch.from_numpy(flat).to(tensor.device))
    return moved.reshape(channels, each * moved.shape[1], -1)


def _arrange_vectors(tensor: Tensor, member: Member) -> Tensor:
    """Arrange a vector's entries by the group's channels, (C, m)."""
    return tensor[torch.from_numpy(member.index).to(tensor.device)]


def _compute_gram(weight: Tensor) -> Tensor:
    gram = torch.zeros(len(weight), len(weight), dtype=torch.float64, device=weight.device)
    for block in torch.split(weight, max(1, GRAM_BLOCK // len(weight)), dim=1):
        double = block.double()
        gram += double @ double.T
    return gram
