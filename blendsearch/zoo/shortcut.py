"""Parameter-free shortcut of CIFAR ResNets, in a form through which channels can be cut."""

import torch
from torch import Tensor, nn


class PaddedShortcut(nn.Module):
    """Option A of He et al. 2015: every `stride`-th pixel; new channels are zeros on both sides.

    With a plain pad, slicing channels would lose the link between the two residual streams. Here it is data: ``links[o,
    i]`` is true if output channel `o` copies input channel `i`, and rows without a link are zero. A cut only has to
    slice `links` along either dimension.
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
        """Return, for each output channel, the input channel that it copies, or the index of the appended zero channel.

        Computed on every pass: there are only a few hundred booleans, and a cache would have to survive every copy and
        slice of a module.
        """
        zero_channel = self.links.shape[1]
        linked = self.links.any(dim=1)
        return torch.where(linked, self.links.to(torch.uint8).argmax(dim=1), zero_channel)
