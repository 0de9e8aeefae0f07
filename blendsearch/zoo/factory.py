"""Networks by name and arguments: bundled, torchvision's, or a user-defined function."""

import difflib
from collections.abc import Callable, Mapping

from torch import nn

from blendsearch.errors import ConfigError, ModelError
from blendsearch.user_code import import_function
from blendsearch.zoo.cifar_resnet import cifar_resnet
from blendsearch.zoo.cifar_vgg import cifar_vgg16_bn
from blendsearch.zoo.digits_net import digits_net

ZOO: dict[str, Callable[..., nn.Module]] = {
    "cifar_resnet": cifar_resnet,
    "cifar_vgg16_bn": cifar_vgg16_bn,
    "digits_net": digits_net,
}


def build_model(factory: str, arguments: Mapping[str, object] | None = None, *, trusted: bool = True) -> nn.Module:
    """Build the network of `factory`: a bundled name, ``torchvision:NAME``, or ``module:function`` of user-defined
    code.

    With `trusted` false, ``module:function`` is refused: the name came with data, and importing it would run its code.
    Raises ModelError for an unknown name, unsuitable arguments, or a factory that does not return a module.
    """
    make = _find_factory(factory, trusted)
    try:
        model = make(**dict(arguments or {}))
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"model {factory!r} could not be built with {dict(arguments or {})}: {_format_error(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"model {factory!r} returned a {type(model).__name__}, expected a torch.nn.Module")
    return model


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
    return builder


def _format_error(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
