"""Contributions of single channels to sampled outputs of the layer that reads them."""

from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

CONTRIBUTION_IMAGES = 256
"""Number of calibration images, from the first, that ThiNet uses."""

SAMPLES_PER_IMAGE = 4
"""Outputs that ThiNet samples per image and layer, each at a random position in a random output channel."""


def sample_contributions(
    module: nn.Module, activation: Tensor, index: NDArray[np.int64], first_image: int
) -> Tensor | None:
    """Compute each channel's contribution to sampled outputs of `module`: inputs (N, ...) -> (N * SAMPLES_PER_IMAGE,
    C).

    `first_image` is the number of the batch's first image. Positions are drawn once per image, so that batches do not
    matter. Returns None past `CONTRIBUTION_IMAGES`, and for layers other than two-dimensional convolutions and linear
    layers.
    """
    images = min(len(activation), CONTRIBUTION_IMAGES - first_image)
    if images <= 0 or not isinstance(module, nn.Conv2d | nn.Linear):
        return None
    activation = activation[:images]
    drawn = torch.from_numpy(_SAMPLE_POSITIONS[first_image : first_image + images]).to(activation.device)
    outputs = (drawn[..., 0] * module.weight.shape[0]).long()
    weights = module.weight.detach()[outputs]
    image = torch.arange(images, device=activation.device)[:, None]
    if isinstance(module, nn.Linear):
        tokens = activation.reshape(images, prod(activation.shape[1:-1]), activation.shape[-1])
        seen = tokens[image, (drawn[..., 1] * tokens.shape[1]).long()] * weights
    else:
        rows, inside_rows = _compute_window(module, 0, activation.shape[2], drawn[..., 1])
        columns, inside_columns = _compute_window(module, 1, activation.shape[3], drawn[..., 2])
        # (images, samples, kernel rows, kernel columns, channels in)
        patch = activation[image[..., None, None], :, rows[..., :, None], columns[..., None, :]]
        inside = inside_rows[..., :, None] & inside_columns[..., None, :]
        seen = (patch * inside[..., None] * weights.movedim(2, -1)).sum(dim=(2, 3))
    taken = seen.index_select(2, torch.from_numpy(index.ravel()).to(activation.device))
    return taken.reshape(images * SAMPLES_PER_IMAGE, *index.shape).sum(dim=2)


def _compute_window(module: nn.Conv2d, axis: int, length: int, samples: Tensor) -> tuple[Tensor, Tensor]:
    """Return the input positions under the kernel at sampled output positions along one axis, and a mask without
    padding.
    """
    kernel, stride, dilation = module.kernel_size[axis], module.stride[axis], module.dilation[axis]
    reach = dilation * (kernel - 1)
    if isinstance(module.padding, str):
        before, after = (reach // 2, reach - reach // 2) if module.padding == "same" else (0, 0)
    else:
        before = after = int(module.padding[axis])
    places = (length + before + after - reach - 1) // stride + 1
    under = (samples * places).long()[..., None] * stride - before
    under = under + dilation * torch.arange(kernel, device=samples.device)
    return under.clamp(0, length - 1), (under >= 0) & (under < length)


_SAMPLE_POSITIONS = np.random.default_rng(0).random((CONTRIBUTION_IMAGES, SAMPLES_PER_IMAGE, 3))
