"""Second-order quantities on the probe's sub-sample: per-image squared gradients and Hessian products."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HESSIAN_PROBES = 1
"""Random sign vectors per batch of the sub-sample: one more costs as much as twice the images, which reduce noise
more.
"""

HESSIAN_BATCH = 8
"""Images whose twice differentiable graph is in memory at once, and which share their sign vectors."""


def compute_squared_gradient(module: nn.Module, inputs: Tensor, gradient: Tensor) -> Tensor:
    """Sum over images the squared gradient of the weight of a convolution or linear layer, shaped like the weight.

    `inputs` is the layer's input and `gradient` the gradient of the loss by its output, both with images as the first
    dimension. Costs as much as the weight's gradient in an ordinary backward pass.
    """
    if isinstance(module, nn.Linear):
        if inputs.ndim == 2:
            return gradient.square().T @ inputs.square()
        per_image = torch.einsum("n...o,n...i->noi", gradient, inputs)
        return per_image.square().sum(dim=0)
    if not isinstance(module, nn.modules.conv._ConvNd):
        raise TypeError(f"{type(module).__name__} is not a convolution or linear layer")
    padding: str | Sequence[int] = module.padding
    if isinstance(padding, str) or module.padding_mode != "zeros":
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        inputs = F.pad(inputs, list(module._reversed_padding_repeated_twice), mode=mode)
        padding = [0] * len(module.kernel_size)
    transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
    total = torch.zeros_like(module.weight)
    for one in range(len(inputs)):
        _, by_weight, _ = torch.ops.aten.convolution_backward(
            gradient[one : one + 1],
            inputs[one : one + 1],
            module.weight,
            None,
            module.stride,
            padding,
            module.dilation,
            transposed,
            module.output_padding,
            module.groups,
            [False, True, False],
        )
        total += by_weight.square()
    return total


def estimate_hessian_diagonals(
    loss: Callable[[Tensor, Tensor], Tensor],
    weights: Mapping[str, Tensor],
    images: Tensor,
    labels: Tensor,
    probes: int = HESSIAN_PROBES,
) -> dict[str, Tensor]:
    """Estimate the Hessian's diagonal by each of `weights`, shaped like them (Hutchinson).

    `loss(images, labels)` is the sum over images of the loss, twice differentiable by the weights. For random signs v
    the mean of v * Hv is the diagonal. The sum over a whole filter, the trace of its block, has far less noise than any
    entry. The signs come from a fixed seed. Divided by the number of images.
    """
    drawn = torch.Generator().manual_seed(0)
    names, tensors = list(weights), list(weights.values())
    diagonals = [torch.zeros_like(tensor) for tensor in tensors]
    for start in range(0, len(images), HESSIAN_BATCH):
        chunk = slice(start, start + HESSIAN_BATCH)
        gradients = torch.autograd.grad(
            loss(images[chunk], labels[chunk]), tensors, create_graph=True, allow_unused=True, materialize_grads=True
        )
        # new signs for every batch, so that off-diagonal noise averages out over batches too
        draws = [[_draw_signs(tensor, drawn) for tensor in tensors] for _ in range(probes)]
        # gradients that do not depend on any weight have no graph
        differentiable = [number for number, gradient in enumerate(gradients) if gradient.requires_grad]
        for position, draw in enumerate(draws):
            products = torch.autograd.grad(
                [gradients[number] for number in differentiable],
                tensors,
                [draw[number] for number in differentiable],
                retain_graph=position + 1 < probes,
                allow_unused=True,
                materialize_grads=True,
            )
            for diagonal, sign, product in zip(diagonals, draw, products, strict=True):
                diagonal += sign * product
    return {name: diagonal / (probes * len(images)) for name, diagonal in zip(names, diagonals, strict=True)}


def _draw_signs(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Draw random signs shaped like `tensor` on the CPU, so that they are the same on every device."""
    return (torch.randint(0, 2, tensor.shape, generator=generator) * 2 - 1).to(tensor)
