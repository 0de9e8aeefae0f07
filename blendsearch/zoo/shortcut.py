"""The parameter-free shortcut of CIFAR ResNets, written so that channels can be cut through it."""

import torch
from torch import Tensor, nn


class PaddedShortcut(nn.Module):
    """Option A of He et al. 2015: every `stride`-th pixel, new channels padded with zeros on both sides.

    Written as a pad, the tie between the two residual streams is lost on whoever slices channels. Here it is data:
    ``links[o, i]`` is true where output channel `o` copies input channel `i`; rows without a link are zero. Slicing
    `links` along either dimension is all that a cut has to do.
    """

    links: Tensor

    def __init__(self, in_channels: int, out_channels: int, stride: int = 2) -> None:
        super().__init__()
        self.stride = stride
        links = torch.zeros(out_channels, in_channels, dtype=torch.bool)
        first = (out_channels - in_channels) // 2
        links[first + torch.arange(in_channels), torch.arange(in_channels)] = True
        self.register_buffer("links", links, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        zero = x.new_zeros(x.shape[0], 1, x.shape[2], x.shape[3])
        return torch.cat([x, zero], dim=1).index_select(1, self._compute_sources())

    def _compute_sources(self) -> Tensor:
        """For each output channel the input channel it copies; the appended zero channel where there is none.

        Worked out anew on every pass: it is a few hundred booleans, and a cache would have to survive every way of
        copying and slicing a module.
        """
        none = self.links.shape[1]
        linked = self.links.any(dim=1)
        return torch.where(linked, self.links.to(torch.uint8).argmax(dim=1), none)
