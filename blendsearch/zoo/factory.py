"""Networks by name and arguments: bundled, torchvision's, or a user-defined function."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import torch
from torch import nn

from blendsearch.errors import ConfigError, ModelError
from blendsearch.memory import format_bytes, get_available_bytes
from blendsearch.user_code import import_function
from blendsearch.zoo.cifar_resnet import cifar_resnet
from blendsearch.zoo.cifar_vgg import cifar_vgg16_bn
from blendsearch.zoo.digits_net import digits_net
from blendsearch.zoo.size_limits import NoValues, SizeLimit, limit_size

ZOO: dict[str, Callable[..., nn.Module]] = {
    "cifar_resnet": cifar_resnet,
    "cifar_vgg16_bn": cifar_vgg16_bn,
    "digits_net": digits_net,
}

PRETRAINED = ("weights", "weights_backbone", "pretrained", "pretrained_backbone")
"""Arguments by which torchvision downloads weights."""


def build_model(factory: str, arguments: Mapping[str, object] | None = None) -> nn.Module:
    """Build the network of `factory`: a bundled name, ``torchvision:NAME``, or ``module:function`` of user-defined
    code.

    Nothing is downloaded unless an argument asks for it: torchvision's default backbones have no trained weights here.
    Raises ModelError for an unknown name, unsuitable arguments, a factory that does not return a module, or a network
    that does not fit into memory.
    """
    make = _find_factory(factory, trusted=True)
    free = get_available_bytes()
    limit = SizeLimit(None if free is None else free // 4, f"more than fit into {format_bytes(free or 0)} of memory")
    if _get_source(factory) not in ("", "torchvision"):
        limit = replace(limit, modules=None)
    if not any((arguments or {}).get(name) for name in PRETRAINED):
        _probe(factory, make, arguments or {}, limit)
    with limit_size(factory, limit):
        return call_factory(factory, make, arguments or {})


def build_untrusted_model(factory: str, arguments: Mapping[str, object], limit: SizeLimit) -> nn.Module:
    """Build the network of a `factory` and `arguments` that came from a file.

    Nothing is imported or downloaded. `PRETRAINED` arguments are ignored. Raises ModelError for a name of user-defined
    code, unsuitable arguments, or a network that exceeds `limit`.
    """
    make = _find_factory(factory, trusted=False)
    kept = _drop_pretrained(make, arguments)
    _probe(factory, make, kept, limit)
    with limit_size(factory, limit):
        return call_factory(factory, make, kept)


def call_without_downloads(
    title: str, make: Callable[..., nn.Module], arguments: Mapping[str, object], limit: SizeLimit
) -> nn.Module:
    """Call `make`, a user-defined function, with `arguments` from a file, of which `PRETRAINED` ones are ignored.

    A builder of torchvision gets no weights. Raises ModelError like `call_factory`, or for more than `limit`.
    """
    if str(getattr(make, "__module__", "")).startswith("torchvision."):
        make = _disable_downloads(make)
    with limit_size(title, limit):
        return call_factory(title, make, _drop_pretrained(make, arguments))


def _drop_pretrained(make: Callable[..., nn.Module], arguments: Mapping[str, object]) -> dict[str, object]:
    """Return `arguments` without those of `PRETRAINED` that `make` does not require."""
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):  # a callable without a signature
        parameters = MappingProxyType({})
    required = {name for name, item in parameters.items() if item.default is item.empty and name != "weights"}
    return {name: value for name, value in arguments.items() if name not in PRETRAINED or name in required}


def call_factory(title: str, make: Callable[..., nn.Module], arguments: Mapping[str, object]) -> nn.Module:
    """Call `make`, the factory called `title`. Raises ModelError where it fails or does not return a module."""
    try:
        model = make(**arguments)
    except ModelError:
        raise
    except Exception as error:
        is_memory = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
        reason = "it does not fit into memory" if is_memory else _format_error(error)
        raise ModelError(f"model {title!r} could not be built with {_abbreviate(arguments)}: {reason}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"model {title!r} returned a {type(model).__name__}, expected a torch.nn.Module")
    return model


def _get_source(factory: str) -> str:
    """Return what is before the name: nothing for a bundled network, or ``torchvision``, or a module."""
    return factory.rpartition(":")[0]


def _probe(factory: str, make: Callable[..., nn.Module], arguments: Mapping[str, object], limit: SizeLimit) -> None:
    """Build a network of torchvision without memory for any tensor. Raises ModelError where it exceeds `limit`.

    Some fill a tensor before their module registers it. Bundled networks do not.
    """
    if _get_source(factory) != "torchvision":
        return
    try:
        with torch.device("meta"), NoValues(), limit_size(factory, limit):
            make(**arguments)
    except ModelError:
        raise
    except Exception:  # some factories read values of tensors, which fails here, and others fail once more
        return


def _find_factory(factory: str, trusted: bool) -> Callable[..., nn.Module]:
    place, _, name = factory.rpartition(":")
    if not place:
        if factory in ZOO:
            return ZOO[factory]
        near = difflib.get_close_matches(factory, ZOO, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ModelError(
            f"no model is called {factory!r}: {hint}"
            f"expected one of {', '.join(ZOO)}, torchvision:NAME or module:function"
        )
    if place == "torchvision":
        return _find_torchvision_builder(name)
    if not trusted:
        raise ModelError(
            f"the model's factory {factory!r} is user-defined code and is not imported from a file: "
            "pass the function itself as factory="
        )
    try:
        return import_function(factory, "model.factory")
    except ConfigError as error:
        raise ModelError(str(error)) from error


def _find_torchvision_builder(name: str) -> Callable[..., nn.Module]:
    from torchvision.models import get_model_builder, list_models

    try:
        builder: Callable[..., nn.Module] = get_model_builder(name)
    except ValueError as error:
        near = difflib.get_close_matches(name, list_models(), 3)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise ModelError(f"torchvision has no model {name!r}: {hint}see torchvision.models.list_models()") from error
    return _disable_downloads(builder)


def _disable_downloads(builder: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Return torchvision's `builder` without default weights: backbones of detection and segmentation have some."""
    weights = [parameter for parameter in inspect.signature(builder).parameters if parameter.startswith("weights")]
    return partial(builder, **dict.fromkeys(weights))


def _format_error(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def _abbreviate(arguments: Mapping[str, object]) -> str:
    text = repr(dict(arguments))
    return text if len(text) <= 200 else f"{text[:200]} ..."
