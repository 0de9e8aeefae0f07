"""Data-parallel training of one network by several processes, equivalent to training in one process.

The gradient is the mean over the shares, which equals that of the whole batch as long as shares are equal. Batch-norms
normalise by the mean and variance of the whole batch. With those of a share, a network would be trained differently on
eight workers than on one. Apart from round-off, the number of processes only affects what is drawn per image:
augmentation and dropout, for which every process has its own stream.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from blendsearch.data.share import Share


@contextmanager
def wrap_data_parallel(module: nn.Module, share: Share, device: torch.device) -> Iterator[nn.Module]:
    """Yield the module to call in training steps, so that backward passes give the gradients of the whole batch.

    `module` is trained in place. It starts with the weights of the first process and ends equal in all of them.
    """
    if share.world_size == 1:
        yield module
        return
    norms = [
        (parent, name, norm)
        for parent in module.modules()
        for name, norm in parent._modules.items()
        if isinstance(norm, _BatchNorm) and not isinstance(norm, nn.SyncBatchNorm)
    ]
    try:
        for parent, name, norm in norms:
            setattr(parent, name, _make_sync_batch_norm(norm, device))
        # a cut may leave parameters that no output depends on
        yield nn.parallel.DistributedDataParallel(module, find_unused_parameters=True)
    finally:
        for parent, name, norm in norms:
            setattr(parent, name, norm)


def _make_sync_batch_norm(norm: _BatchNorm, device: torch.device) -> nn.Module:
    """Return a module with the parameters and statistics of `norm`; torch's own synchronised one needs a GPU."""
    if device.type == "cuda":
        made: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(norm)  # type: ignore[no-untyped-call]
        return made
    return _SyncBatchNorm(norm)


class _SyncBatchNorm(nn.Module):
    """Batch-norm over the shares of all processes, for any device."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.norm = norm
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        if not norm.training:
            return norm(x)  # type: ignore[no-any-return]
        dims = [dim for dim in range(x.ndim) if dim != 1]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        wide = x.float()
        mean = _all_reduce_mean(wide.mean(dims))
        centred = wide - mean.view(shape)
        variance = _all_reduce_mean(centred.square().mean(dims))
        tracked = norm.num_batches_tracked
        if norm.running_mean is not None and norm.running_var is not None and tracked is not None:
            count = x.numel() // x.shape[1] * torch.distributed.get_world_size()
            with torch.no_grad():
                tracked.add_(1)
                weight = 1 / float(tracked) if norm.momentum is None else norm.momentum
                norm.running_mean.lerp_(mean, weight)
                norm.running_var.lerp_(variance * (count / (count - 1)), weight)
        scale = torch.rsqrt(variance + norm.eps)
        if norm.affine:
            scale = scale * norm.weight
        out = centred * scale.view(shape)
        return (out + norm.bias.view(shape) if norm.affine else out).to(x.dtype)


def _all_reduce_mean(tensor: Tensor) -> Tensor:
    found: Tensor = _AllReduceMean.apply(tensor)
    return found


class _AllReduceMean(torch.autograd.Function):
    """Mean of a tensor over all processes; its gradient is the mean of the processes' gradients."""

    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        total = tensor.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total / torch.distributed.get_world_size()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _AllReduceMean.forward(context, gradient)
