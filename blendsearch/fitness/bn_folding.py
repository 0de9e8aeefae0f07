"""Folding of batch-norms into the preceding convolutions during evaluation: the same outputs with fewer passes.

In evaluation mode a batch-norm is a scale and a shift per channel, which the convolution's weights can absorb. This
saves a quarter of a ResNet-56's forward pass (experiments/performance/evaluation_speed.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._pytree import tree_leaves

from blendsearch.structure.eager_mode import EagerMode

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class ConvNormPair(NamedTuple):
    """Names of a convolution and of the batch-norm that is the only reader of its output."""

    convolution: str
    norm: str


def find_foldable_pairs(model: nn.Module, example: Tensor) -> tuple[ConvNormPair, ...]:
    """Find the pairs of `model` in one forward pass of `example` in evaluation mode; both modules run exactly once
    in it.
    """
    made: dict[int, str] = {}
    fed: dict[str, str] = {}
    runs: dict[str, int] = {}
    references: list[Tensor] = []  # keeps outputs alive, so that ids stay unique
    counter = _ReadCounter()
    before = {module: module.training for module in model.modules()}

    def record_convolution(name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        runs[name] = runs.get(name, 0) + 1
        references.append(output)
        made[id(output)] = name
        counter.counts.pop(id(output), None)  # count of a freed tensor with the same id

    def record_norm(name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        runs[name] = runs.get(name, 0) + 1
        if id(args[0]) in made:
            fed[name] = made[id(args[0])]

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, CONVOLUTIONS):
                stack.enter_context(_remove_on_exit(module.register_forward_hook(partial(record_convolution, name))))
            elif isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                stack.enter_context(_remove_on_exit(module.register_forward_pre_hook(partial(record_norm, name))))
        try:
            model.eval()
            with torch.no_grad(), counter:
                model(example)
        finally:
            for module, training in before.items():
                module.training = training
    names = {name: number for number, name in made.items()}
    return tuple(
        ConvNormPair(convolution, norm)
        for norm, convolution in fed.items()
        if runs[norm] == runs[convolution] == 1 and counter.counts.get(names[convolution]) == 1
    )


@contextmanager
def fold_batch_norms(module: nn.Module, pairs: Sequence[ConvNormPair]) -> Iterator[None]:
    """Fold the batch-norms of `pairs` inside this context. `module` must be in evaluation mode; pairs it lacks are
    skipped.
    """
    with ExitStack() as stack, torch.no_grad():
        for pair in pairs:
            try:
                convolution, norm = module.get_submodule(pair.convolution), module.get_submodule(pair.norm)
            except AttributeError:
                continue
            if isinstance(convolution, nn.Sequential):  # decomposed: the norm reads the pointwise convolution
                convolution = convolution[-1]
            if isinstance(convolution, CONVOLUTIONS) and isinstance(norm, nn.modules.batchnorm._BatchNorm):
                stack.enter_context(_fold_pair(module, convolution, norm, pair.norm))
        yield


@contextmanager
def _fold_pair(root: nn.Module, convolution: Any, norm: Any, name: str) -> Iterator[None]:
    parent, _, last = name.rpartition(".")
    owner, weight, bias = root.get_submodule(parent), convolution.weight, convolution.bias
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    owner._modules[last] = nn.Identity()
    try:
        yield
    finally:
        convolution.weight, convolution.bias = weight, bias
        owner._modules[last] = norm


class _ReadCounter(EagerMode):
    """Counts, per tensor id, the operations that read the tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, object] | None = None
    ) -> Any:
        for leaf in tree_leaves((args, kwargs or {})):
            if isinstance(leaf, Tensor):
                self.counts[id(leaf)] = self.counts.get(id(leaf), 0) + 1
        return func(*args, **(kwargs or {}))


@contextmanager
def _remove_on_exit(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
