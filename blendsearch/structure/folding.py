"""Folding of convolutions that compute their weights in every pass: weight standardisation, equalised scales.

Such a weight depends on the number of input channels, so the layers cannot be cut exactly. Each of them is replaced by
a plain convolution with the weight that it computes: the outputs stay the same. It is then trained as any other.
Attention, and channel shuffles, are replaced by plain layers too (`structure.attention_folding`,
`structure.shuffle_folding`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from blendsearch.structure.attention_folding import (
    FoldedAttention,
    can_fold_attention,
    fold_attention,
    make_plain_attention,
)
from blendsearch.structure.outputs import are_close
from blendsearch.structure.shuffle_folding import FoldedShuffleStage, can_fold_stage, fold_shuffles, fold_stage

TOLERANCE = 1e-4
"""Largest accepted difference between a layer and its plain form, relative to the largest output."""

CALLS = ("conv1d", "conv2d", "conv3d", "linear")


class FoldedConv1d(nn.Conv1d):
    """A convolution with a weight that another layer computed."""


class FoldedConv2d(nn.Conv2d):
    """A convolution with a weight that another layer computed."""


class FoldedConv3d(nn.Conv3d):
    """A convolution with a weight that another layer computed."""


class FoldedLinear(nn.Linear):
    """A linear layer with a weight that another layer computed."""


PLAIN: Mapping[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: FoldedConv1d,
    nn.Conv2d: FoldedConv2d,
    nn.Conv3d: FoldedConv3d,
    nn.Linear: FoldedLinear,
}


def list_folded_layers(model: nn.Module) -> tuple[str, ...]:
    """List the names of folded layers."""
    kinds = (*PLAIN.values(), FoldedAttention, FoldedShuffleStage)
    return tuple(name for name, module in model.named_modules() if isinstance(module, kinds))


def make_plain_layers(model: nn.Module, names: Iterable[str]) -> None:
    """Replace layers by plain ones of the same shape, in place; weights are those of the layers, not computed.

    Raises AttributeError or TypeError for a name without such a layer.
    """
    for name in names:
        model.set_submodule(name, _make_plain(model.get_submodule(name)))


def fold_computed_weights(model: nn.Module, images: Tensor) -> tuple[str, ...]:
    """Replace layers that compute their weights from parameters alone, in place; return their names.

    `images`, (N, channels, height, width), are passed through `model`, which must be in evaluation mode. A layer that
    does more than that stays as it is.
    """
    candidates = {name: module for name, module in model.named_modules() if _overrides_forward(module)}
    inputs = _record_inputs(model, candidates, images) if candidates else {}
    folded = []
    for name, given in inputs.items():
        plain = _fold(candidates[name], given)
        if plain is not None:
            model.set_submodule(name, plain)
            folded.append(name)
    return (*folded, *_fold_attentions(model), *fold_shuffles(model, images, TOLERANCE))


def _fold_attentions(model: nn.Module) -> Iterator[str]:
    """Replace attentions in place; yield their names."""
    for name, module in list(model.named_modules()):
        plain = fold_attention(module, TOLERANCE) if name and can_fold_attention(module) else None
        if plain is not None:
            model.set_submodule(name, plain)
            yield name


def _overrides_forward(module: nn.Module) -> bool:
    base = _find_base(module)
    if base is None or isinstance(module, (*PLAIN.values(), nn.modules.linear.NonDynamicallyQuantizableLinear)):
        return False
    kind: Any = type(module)
    return any(getattr(kind, name, None) is not getattr(base, name, None) for name in ("forward", "_conv_forward"))


def _find_base(module: nn.Module) -> type[nn.Module] | None:
    return next((base for base in PLAIN if isinstance(module, base)), None)


def _record_inputs(model: nn.Module, layers: Mapping[str, nn.Module], images: Tensor) -> dict[str, Tensor]:
    """Return the first input of each layer that runs."""
    inputs: dict[str, Tensor] = {}

    def make_hook(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Any, ...]) -> None:
            if len(given) == 1 and isinstance(given[0], Tensor) and given[0].numel():
                inputs.setdefault(name, given[0])

        return hook

    handles = [module.register_forward_pre_hook(make_hook(name)) for name, module in layers.items()]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return inputs


class _WeightRecorder(TorchFunctionMode):
    """Records the weight and bias of each convolution or linear function."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor | None]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(zip(("input", "weight", "bias"), args, strict=False)) | dict(kwargs or {})
        if getattr(func, "__name__", "") in CALLS:
            self.calls.append((given["weight"], given.get("bias")))
        return func(*args, **(kwargs or {}))


def _fold(layer: nn.Module, inputs: Tensor) -> nn.Module | None:
    """Return the plain form of `layer`; None where it computes no weight, or does more than a plain layer."""
    others = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0), dtype=inputs.dtype)
    found: list[tuple[Tensor, Tensor | None]] = []
    outputs = []
    for given in (inputs, others):
        with torch.no_grad(), _WeightRecorder() as recorder:
            outputs.append(layer(given))
        if len(recorder.calls) != 1:
            return None
        found += recorder.calls
    (weight, bias), (again, _) = found
    own: Any = layer.weight
    if weight is own or weight.shape != own.shape or not torch.equal(weight, again):
        return None
    plain = _make_plain(layer)
    plain.weight = nn.Parameter(weight.detach().clone(), own.requires_grad)
    if (bias is None) != (plain.bias is None):
        return None
    if bias is not None:
        plain.bias = nn.Parameter(bias.detach().clone(), own.requires_grad)
    with torch.no_grad():
        pairs = zip((inputs, others), outputs, strict=True)
        same = all(are_close(plain(given), output, TOLERANCE) for given, output in pairs)
    return plain if same else None


def _make_plain(layer: Any) -> Any:
    """Make a plain layer with the sizes and the tensors of `layer`."""
    if isinstance(layer, FoldedAttention | FoldedShuffleStage):
        return layer
    if isinstance(layer, nn.MultiheadAttention):
        return make_plain_attention(layer)
    if can_fold_stage(layer):
        return fold_stage(layer, torch.arange(layer[0].branch1[0].in_channels))[0]
    base = _find_base(layer)
    if base is None:
        raise TypeError(f"{type(layer).__name__} is no convolution or linear layer")
    has_bias = layer.bias is not None
    if base is nn.Linear:
        plain: Any = FoldedLinear(layer.in_features, layer.out_features, has_bias, device="meta")
    else:
        sizes = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        plain = PLAIN[base](*sizes, layer.groups, has_bias, layer.padding_mode, device="meta")
    plain.weight, plain.bias = layer.weight, layer.bias
    return plain.train(layer.training)
