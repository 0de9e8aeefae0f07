"""One step between cutting and recovery: kept channels take over what removed ones used to tell their readers.

A layer that reads cut channels loses their contribution. As far as the kept channels tell what the removed ones would
have said, the layer's weights can make up for it in closed form: with the covariance of the dense layer's input,
gathered once per run, the removed inputs are written as a linear map of the kept ones, x_r ~ A x_k, and the kept
weights become W_k + W_r A. Nothing is trained, no label is looked at, and the narrow network has the shape it had.

The least squares are those of He, Zhang and Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", but
all from the dense network's inputs: every layer is repaired as if the kept channels before it still said what they did.
Merging, A with one non-zero per removed input, is the cheaper and weaker choice; `experiments/repair.py` measures both.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from blendsearch.fitness.data import Splits, batches
from blendsearch.structure.groups import Cut, IndexMaps
from blendsearch.structure.rest import at_rest

Method = Literal["merge", "refit"]

RIDGE = 1e-3
"""Added to the covariance's diagonal, as a share of its mean. From 1e-3 to 1e-1 the outcome hardly moves."""

WIDEST = 2304
"""Inputs of one layer whose covariance is held: those of a 3x3 convolution over 256 channels, 42 MB."""

CHUNK = 1 << 24
"""Elements of unfolded inputs that are held at once."""


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that reads channels which can be cut, and what it read in the dense network.

    Its weight is seen as (outputs, units, inner, outer): a unit is kept or removed as a whole, its `inner` inputs stand
    apart in the covariance, and the map A is the same at each of the `outer` ones, which do not.

    Attributes
    ----------
    tensor, module: names of the weight and of the layer.
    index: (units, m), each unit's positions along the weight's second dimension; m is above one behind a flattened
        feature map, where `outer` is m.
    inner: the kernel's positions, or 1 where inputs are taken by channel: then `outer` is the kernel's positions.
    mean, covariance: float64, (units * inner,) and (units * inner, units * inner), over images and positions.
        Where nothing can take up a shift of the layer's output, the mean is zero and second moments are not centred.
    """

    tensor: str
    module: str
    index: NDArray[np.int64]
    inner: int
    mean: Tensor
    covariance: Tensor


@dataclass(frozen=True, eq=False)
class Repair:
    """How the narrow networks of one dense network are repaired.

    Attributes
    ----------
    method: ``refit``, least squares on all kept inputs; ``merge``, on the one that explains most of the removed input.
    ridge: see `RIDGE`; above 0. It draws the repaired weights towards those that the cut kept, so that on the images
        behind the covariance a refit never leaves a layer's output further from the dense one than the cut did, where
        `outer` is 1. By channel, and in a merge, that holds of each removed input but not of their sum.
    """

    readers: tuple[Reader, ...]
    method: Method
    ridge: float = RIDGE

    def __call__(self, dense: nn.Module, maps: IndexMaps, cut: Cut, narrowed: nn.Module) -> None:
        """Change the readers' weights and biases of `narrowed`, which is `dense` cut by `cut`, in place."""
        kept = np.append(cut, True)
        for reader in self.readers:
            sources = {dim: maps.sources[number] for dim, number in maps.slices[reader.tensor]}
            stays = kept[sources[1]][reader.index[:, 0]]
            if stays.all():
                continue
            layer, narrow_layer = _layer(dense, reader.module), _layer(narrowed, reader.module)
            rows = np.flatnonzero(kept[sources[0]]) if 0 in sources else np.arange(len(layer.weight))
            with torch.no_grad():
                self._mend(reader, layer.weight, rows, stays, narrow_layer)

    def _mend(
        self,
        reader: Reader,
        weight: Tensor,
        rows: NDArray[np.int64],
        stays: NDArray[np.bool_],
        layer: nn.Conv2d | nn.Linear,
    ) -> None:
        """Add W_r A to the weight of the narrow `layer`; `weight` is the dense one, `rows` its kept outputs."""

        def on(positions: NDArray[np.int64]) -> Tensor:
            return torch.from_numpy(positions).to(weight.device)

        mixing, shift = self._mixing(reader, stays, weight.device)
        gone = weight.index_select(0, on(rows)).index_select(1, on(reader.index[~stays].ravel()))
        # behind a flattened feature map a unit's m positions are `outer`, else all that a unit has are kernel positions
        seen = gone.reshape(len(rows), int((~stays).sum()), reader.inner, -1)
        told = seen.permute(0, 3, 1, 2).flatten(2)  # (outputs, outer, removed inputs)
        added = (told @ mixing).reshape(*told.shape[:2], -1, reader.inner).permute(0, 2, 3, 1)
        positions = reader.index[stays].ravel()
        laid = added.reshape(len(rows), len(positions), -1)
        narrow_order = on(positions.argsort(kind="stable"))
        layer.weight += laid.index_select(1, narrow_order).reshape(layer.weight.shape)
        if layer.bias is not None:
            layer.bias += (told @ shift).sum(dim=1)

    def _mixing(self, reader: Reader, stays: NDArray[np.bool_], device: torch.device) -> tuple[Tensor, Tensor]:
        """A, shape (removed inputs, kept inputs), and what of the removed inputs' mean A leaves over."""
        inputs = np.repeat(stays, reader.inner)
        kept, gone = (torch.from_numpy(np.flatnonzero(mask)).to(device) for mask in (inputs, ~inputs))
        rows = reader.covariance.to(device)[kept]
        gram, across = rows[:, kept], rows[:, gone]
        tiny = torch.finfo(torch.float32).tiny  # inputs that never move explain nothing
        if self.method == "merge":
            own = gram.diagonal().clamp_min(tiny)
            best = (across.square() / own[:, None]).argmax(dim=0)
            each = torch.arange(len(gone), device=device)
            mixing = torch.zeros(len(gone), len(kept), dtype=torch.float64, device=device)
            mixing[each, best] = across[best, each] / own[best]
        else:
            gram.diagonal().add_(self.ridge * gram.diagonal().mean() + tiny)
            mixing = torch.cholesky_solve(across, torch.linalg.cholesky(gram)).T
        mean = reader.mean.to(device)
        return mixing.float(), (mean[gone] - mixing @ mean[kept]).float()


def gather(
    model: nn.Module,
    maps: IndexMaps,
    splits: Splits,
    *,
    images: int,
    batch_size: int,
    device: torch.device,
    patches: bool,
    renewed: bool,
) -> tuple[Reader, ...]:
    """The layers of `model` that can be repaired, with the covariances of their inputs over the first training images.

    One forward pass, in single precision whatever the recipe's. `patches`: whether a convolution's kernel positions
    stand apart, as least squares on its output wants; above `WIDEST` inputs they do not. `renewed`: whether batch-norm
    statistics are estimated anew after the repair, and take up what the means of the layers before them lose.

    Left out, and so left as the cut made them: layers that see each channel alone, transposed and one- or
    three-dimensional convolutions, parameter-free shortcuts, and layers of more than `WIDEST` channels.
    """
    renewed = renewed and any(isinstance(item, nn.modules.batchnorm._BatchNorm) for item in model.modules())
    gathering = [
        _Gathering(tensor, name, _layer(model, name), index, inner, renewed)
        for tensor, name, index, inner in _reading(model, maps, patches)
    ]
    hooks = [item.layer.register_forward_pre_hook(item.saw) for item in gathering]
    try:
        with at_rest(model), torch.no_grad():
            for batch, _ in batches(
                splits.train, batch_size=batch_size, mean=splits.mean, std=splits.std, device=device, limit=images
            ):
                model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(item.reader() for item in gathering if item.count)


def _reading(model: nn.Module, maps: IndexMaps, patches: bool) -> Iterator[tuple[str, str, NDArray[np.int64], int]]:
    """Weight, layer, units and inner positions of every layer that can be repaired."""
    readers = {member.tensor: member.module for group in maps.groups for member in group.on("in")}
    for tensor, name in readers.items():
        if not isinstance(model.get_submodule(name), nn.Conv2d | nn.Linear):
            continue
        layer = _layer(model, name)
        index = _units(maps, tensor) if isinstance(layer, nn.Linear) else _each_alone(maps, tensor)
        kernel = int(np.prod(layer.kernel_size)) if patches and isinstance(layer, nn.Conv2d) else 1
        inner = kernel if len(index) * kernel <= WIDEST else 1
        if len(index) <= WIDEST:
            yield tensor, name, index, inner


def _units(maps: IndexMaps, tensor: str) -> NDArray[np.int64]:
    """What of the second dimension of `tensor` goes together, (units, m).

    The m positions of each channel where every channel has as many (behind a flattened feature map), else each alone.
    """
    found = [member.index for group in maps.groups for member in group.on("in") if member.tensor == tensor]
    if len({index.shape[1] for index in found}) == 1 and sum(index.size for index in found) == maps.shapes[tensor][1]:
        return np.concatenate(found)
    return _each_alone(maps, tensor)


def _each_alone(maps: IndexMaps, tensor: str) -> NDArray[np.int64]:
    return np.arange(maps.shapes[tensor][1], dtype=np.int64)[:, None]


def _layer(model: nn.Module, name: str) -> nn.Conv2d | nn.Linear:
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    return layer


class _Gathering:
    """Sums of one layer's inputs and of their products, in double precision: a covariance is a small difference."""

    def __init__(
        self, tensor: str, name: str, layer: nn.Conv2d | nn.Linear, index: NDArray[np.int64], inner: int, renewed: bool
    ) -> None:
        self.tensor, self.name, self.layer, self.index, self.inner = tensor, name, layer, index, inner
        self.centred = renewed or layer.bias is not None
        device = layer.weight.device
        self.positions = torch.from_numpy(index.ravel()).to(device)
        self.count = 0
        self.total = torch.zeros(len(index) * inner, dtype=torch.float64, device=device)
        self.products = torch.zeros(len(self.total), len(self.total), dtype=torch.float64, device=device)

    def saw(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach()
        if not isinstance(layer, nn.Conv2d):
            by_unit = x.reshape(-1, x.shape[-1])[:, self.positions].reshape(-1, *self.index.shape)
            self._add(by_unit.transpose(1, 2).flatten(0, 1))
            return
        if self.inner > 1:
            mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
            x = F.pad(x, layer._reversed_padding_repeated_twice, mode)
        for some in torch.split(x, max(1, CHUNK // (x[0].numel() * self.inner))):
            if self.inner > 1:
                columns = F.unfold(some, layer.kernel_size, layer.dilation, 0, layer.stride)
            else:
                columns = some.flatten(2)
            self._add(columns.transpose(1, 2).flatten(0, 1))

    def _add(self, rows: Tensor) -> None:
        """Take in `rows`, shape (observations, units * inner)."""
        rows = rows.double()
        self.count += len(rows)
        self.total += rows.sum(dim=0)
        self.products += rows.T @ rows

    def reader(self) -> Reader:
        mean = self.total / self.count * self.centred
        covariance = self.products / self.count - torch.outer(mean, mean)
        return Reader(self.tensor, self.name, self.index, self.inner, mean.cpu(), covariance.cpu())
