"""Networks by name and arguments: bundled, torchvision's, timm's, or a user-defined function."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import torch
from torch import nn

from blendsearch.errors import ConfigError, ModelError, format_error
from blendsearch.memory import format_bytes, get_available_bytes
from blendsearch.user_code import import_function
from blendsearch.zoo.cifar_resnet import cifar_resnet
from blendsearch.zoo.cifar_vgg import cifar_vgg16_bn
from blendsearch.zoo.clutter_net import clutter_net
from blendsearch.zoo.digits_net import digits_net
from blendsearch.zoo.library_models import FILE_ARGUMENTS, find_timm_builder, find_torchvision_builder
from blendsearch.zoo.size_limits import NoValues, SizeLimit, limit_size

ZOO: dict[str, Callable[..., nn.Module]] = {
    "cifar_resnet": cifar_resnet,
    "cifar_vgg16_bn": cifar_vgg16_bn,
    "clutter_net": clutter_net,
    "digits_net": digits_net,
}

PRETRAINED = ("weights", "weights_backbone", "pretrained", "pretrained_backbone", *FILE_ARGUMENTS)
"""Arguments by which torchvision and timm download or read weights."""

LIBRARIES: dict[str, dict[str, object]] = {"torchvision": {"weights": "DEFAULT"}, "timm": {"pretrained": True}}
"""Sources of networks that are no user-defined code, with the arguments that ask for trained weights."""


def build_model(
    factory: str, arguments: Mapping[str, object] | None = None, *, brings_weights: bool = False
) -> nn.Module:
    """Build the network of `factory`: a bundled name, ``torchvision:NAME``, ``timm:NAME``, or ``module:function`` of
    user-defined code.

    With `brings_weights`, networks of torchvision and timm are built with their trained weights, unless an argument
    names others. Otherwise nothing is downloaded unless an argument asks for it: torchvision's default backbones have
    no trained weights here. Raises ModelError for an unknown name, unsuitable arguments, a factory that does not return
    a module, or a network that does not fit into memory.
    """
    if brings_weights and not any(name in PRETRAINED for name in arguments or {}):
        arguments = {**(arguments or {}), **LIBRARIES.get(_get_source(factory), {})}
    make = _find_factory(factory, trusted=True)
    free = get_available_bytes()
    limit = SizeLimit(None if free is None else free // 4, f"more than fit into {format_bytes(free or 0)} of memory")
    if _get_source(factory) not in ("", *LIBRARIES):
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
        reason = "it does not fit into memory" if is_memory else format_error(error)
        raise ModelError(f"model {title!r} could not be built with {_abbreviate(arguments)}: {reason}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"model {title!r} returned a {type(model).__name__}, expected a torch.nn.Module")
    return model


def _get_source(factory: str) -> str:
    """Return what is before the name: nothing for a bundled network, or ``torchvision``, or a module."""
    return factory.rpartition(":")[0]


def _probe(factory: str, make: Callable[..., nn.Module], arguments: Mapping[str, object], limit: SizeLimit) -> None:
    """Build a network of a library without memory for any tensor. Raises ModelError where it exceeds `limit`.

    Some fill a tensor before their module registers it. Bundled networks do not.
    """
    if _get_source(factory) not in LIBRARIES:
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
            f"expected one of {', '.join(ZOO)}, torchvision:NAME, timm:NAME or module:function"
        )
    if place == "torchvision":
        return _disable_downloads(find_torchvision_builder(name))
    if place == "timm":
        return find_timm_builder(name)
    if not trusted:
        raise ModelError(
            f"the model's factory {factory!r} is user-defined code and is not imported from a file: "
            "pass the function itself as factory="
        )
    try:
        return import_function(factory, "model.factory")
    except ConfigError as error:
        raise ModelError(str(error)) from error


def _disable_downloads(builder: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Return torchvision's `builder` without default weights: backbones of detection and segmentation have some."""
    weights = [parameter for parameter in inspect.signature(builder).parameters if parameter.startswith("weights")]
    return partial(builder, **dict.fromkeys(weights))


def _abbreviate(arguments: Mapping[str, object]) -> str:
    text = repr(dict(arguments))
    return text if len(text) <= 200 else f"{text[:200]} ..."
