"""Depthwise decomposition: a k x k convolution becomes a depthwise one followed by a pointwise one.

After Luo et al. 2021, "Channel Pruning with Depthwise Decomposition" (CResNet), ISCEIC, doi
10.1109/ISCEIC53685.2021.00022, of which only the abstract is public. The implementation:

- *Identity*: the set of decomposed layers is part of the cut. Behind the channels of all groups, the line has one place
  per layer that may be decomposed, true if it is not (`IndexMaps.layers`). Digest, request, store and cache cover it
  without further code. Without decomposable layers nothing changes.
- *Surgery*: `surgery.narrow` cuts channels first, then replaces each such layer by ``Sequential(depthwise,
  pointwise)``, two ordinary convolutions. For every input channel i the kernels W[:, i], (out, k k), are replaced by
  the nearest matrix of rank one, pointwise[:, i] x depthwise[i] (Eckart and Young 1936). A bias stays at the pointwise.
- *Cost*: the weight's term, area x in x out, becomes area x in + in x out (`CostOracle.layers`). If that is not less,
  the layer is not decomposed, whatever the genome asks for (`CostOracle.is_cheaper_decomposed`).
- *Genome*: one gene in [-1, 1] per layer, decomposed above zero. Widths are allocated with the costs of the decomposed
  layers. If that set cannot meet the budget even at the least widths, layers with the next highest genes are decomposed
  too, until it can (`blend.decoder`).
- *Recovery*: from first to last layer, the pair is fitted by least squares to the layer's outputs in the dense network
  (`training.refit_depthwise`), also without `fitness.repair`.

Not in the abstract: the choice of layers (``method: depthwise`` decomposes all, as the paper does), alternating fits of
pointwise and depthwise weights, and all details above.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn


def make_depthwise_pair(layer: nn.Module) -> nn.Sequential:
    """Make the depthwise and the pointwise convolution that replace `layer`, without values (device meta).

    Raises ValueError for a module of another kind.
    """
    if not isinstance(layer, nn.Conv2d) or layer.groups != 1:
        raise ValueError(f"a {type(layer).__name__} cannot be decomposed, expected an ungrouped Conv2d")
    channels = layer.in_channels
    depthwise = nn.Conv2d(
        channels,
        channels,
        layer.kernel_size,  # type: ignore[arg-type]
        layer.stride,  # type: ignore[arg-type]
        layer.padding,  # type: ignore[arg-type]
        layer.dilation,  # type: ignore[arg-type]
        groups=channels,
        bias=False,
        padding_mode=layer.padding_mode,
        device="meta",
    )
    pointwise = nn.Conv2d(channels, layer.out_channels, 1, bias=layer.bias is not None, device="meta")
    return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise)).train(layer.training)


def decompose(network: nn.Module, name: str) -> None:
    """Replace the convolution called `name` in `network`, in place, by its nearest depthwise and pointwise pair."""
    layer = network.get_submodule(name)
    pair = make_depthwise_pair(layer)
    assert isinstance(layer, nn.Conv2d)
    for half, weight in zip(pair, factorize_rank_one(layer.weight), strict=True):
        half.weight = nn.Parameter(weight, layer.weight.requires_grad)
    if layer.bias is not None:
        pair.get_submodule("pointwise").bias = layer.bias
    network.set_submodule(name, pair)


def factorize_rank_one(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the depthwise (in, 1, h, w) and pointwise (out, in, 1, 1) weights nearest to `weight`, (out, in, h, w).

    Takes the first singular pair per input channel; the depthwise kernels have unit length and a non-negative sum.
    """
    made, into, tall, broad = weight.shape
    kernels = _arrange_by_input(weight)
    _, vectors = torch.linalg.eigh(kernels.transpose(1, 2) @ kernels)
    first = vectors[:, :, -1]
    first = first * torch.where(first.sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
    across = (kernels @ first[:, :, None])[:, :, 0]
    depthwise, pointwise = first.reshape(into, 1, tall, broad), across.T.reshape(made, into, 1, 1)
    return depthwise.to(weight).contiguous(), pointwise.to(weight).contiguous()


def compute_misfit(weight: Tensor) -> float:
    """Return the share, in [0, 1), of the kernels' squared norm outside the first singular pair."""
    kernels = _arrange_by_input(weight)
    values = torch.linalg.eigvalsh(kernels.transpose(1, 2) @ kernels).clamp(min=0)
    total = float(values.sum())
    return 1 - float(values[:, -1].sum()) / total if total else 0.0


def _arrange_by_input(weight: Tensor) -> Tensor:
    """Arrange (out, in, h, w) as (in, out, h * w), in float64 on the CPU: the same numbers on every device."""
    return weight.detach().cpu().double().flatten(2).transpose(0, 1)
