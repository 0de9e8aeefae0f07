"""SynFlow: the flow of an input of ones through each channel of a network with absolute weights.

Tanaka et al. 2020, "Pruning neural networks without any data by iteratively conserving synaptic flow".
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blendsearch.structure.groups import IndexMaps
from blendsearch.structure.surgery import copy_with_tensors

ROUNDS = 3
"""Rounds of scoring and masking; every round masks half of the remaining channels."""


def compute_synaptic_flow(
    model: nn.Module, maps: IndexMaps, image_shape: tuple[int, ...], rounds: int = ROUNDS
) -> dict[str, Tensor]:
    """Compute, for each group, the synaptic saliency of its channels as shares of the group's, summed over rounds,
    each (C,).

    The saliency of a channel is the sum over its filters of |w| dR/d|w|, where R is the sum of the outputs for an input
    of ones. A round masks the half of each group with the least saliency, as the paper's exponential schedule does, so
    that the next round distributes the flow over the rest. Masked channels collect nothing more. R is conserved from
    layer to layer, so shares compare between the layers of a chain as well as saliencies do.

    Biases and the batch-norms' shifts are left out, and their scales are divided by the running deviations, which makes
    the network linear. Bounded activations (ReLU6) are not bounded. The caller's network does not change.
    """
    network = _linearize(model)
    weights = dict(network.named_parameters())
    filters = {
        group.name: [
            member
            for member in group.select_members("out")
            if member.tensor in weights and weights[member.tensor].ndim > 1
        ]
        for group in maps.groups
    }
    made = sorted({member.tensor for members in filters.values() for member in members})
    scores = {group.name: torch.zeros(group.channels, dtype=torch.float64) for group in maps.groups}
    ones = torch.ones(1, *image_shape, dtype=torch.float64, device=next(network.parameters()).device)
    for step in range(rounds):
        with torch.enable_grad():
            flow = network(ones).sum()
            gradients = torch.autograd.grad(flow, [weights[name] for name in made], allow_unused=True)
        by_name = dict(zip(made, gradients, strict=True))
        masked: dict[str, NDArray[np.int64]] = {}
        for group in maps.groups:
            saliency = torch.zeros(group.channels, dtype=torch.float64)
            for member in filters[group.name]:
                gradient = by_name[member.tensor]
                if gradient is not None:
                    product = weights[member.tensor].detach() * gradient
                    per_row = product.movedim(member.dim, 0).flatten(1).sum(dim=1).cpu()
                    saliency += per_row[torch.from_numpy(member.index)].sum(dim=1)
            scores[group.name] += saliency / saliency.sum().clamp_min(torch.finfo(torch.float64).tiny)
            keep = max(1, group.channels >> (step + 1))
            masked[group.name] = saliency.argsort(descending=True, stable=True)[keep:].numpy()
        # after all groups: the weights that read one group are filters of another and count in its saliency
        _mask_channels(network, maps, masked)
    return scores


_BOUNDED_ACTIVATIONS = (nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.SiLU, nn.GELU, nn.Tanh)
_NORMALIZATION_LAYERS = (nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm, nn.LocalResponseNorm)


def _linearize(model: nn.Module) -> nn.Module:
    """Copy the network in float64 with absolute weights and no shifts, so that an input of ones flows linearly."""
    names = {id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]}

    def linearize_tensor(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor.detach().clone()
        shift = names[id(tensor)].endswith(("bias", "running_mean"))
        return torch.zeros_like(tensor, dtype=torch.float64) if shift else tensor.detach().double().abs()

    network = copy_with_tensors(model, linearize_tensor).eval()
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            unnormalised = isinstance(child, nn.modules.batchnorm._BatchNorm) and child.running_var is None
            if unnormalised or isinstance(child, (*_BOUNDED_ACTIVATIONS, *_NORMALIZATION_LAYERS)):
                setattr(module, name, nn.Identity())
    return network.requires_grad_(True)


def _mask_channels(network: nn.Module, maps: IndexMaps, channels: Mapping[str, NDArray[np.int64]]) -> None:
    """Zero the slices of `network` that read these channels of each group."""
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    with torch.no_grad():
        for group in maps.groups:
            for member in group.select_members("in"):
                tensor = tensors[member.tensor]
                positions = torch.from_numpy(member.index[channels[group.name]].ravel()).to(tensor.device)
                tensor.index_fill_(member.dim, positions, 0)
