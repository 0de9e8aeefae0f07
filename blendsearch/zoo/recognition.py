"""Recognition of a network by the names and shapes of its weights."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from blendsearch.errors import ModelError
from blendsearch.zoo.factory import call_without_downloads
from blendsearch.zoo.size_limits import SizeLimit
from blendsearch.zoo.weights import read_state

Shapes = Mapping[str, tuple[int, ...]]

USUAL = (
    "resnet50",
    "resnet18",
    "resnet34",
    "mobilenet_v2",
    "efficientnet_b0",
    "vgg16_bn",
    "densenet121",
    "resnext50_32x4d",
)
"""Networks of torchvision that are compared first."""

TORCHVISION_CLASSES = 1000


class Recognized(NamedTuple):
    """A factory and its arguments."""

    factory: str
    arguments: dict[str, Any]


def recognize_weights(path: Path) -> Recognized | None:
    """Find the bundled or torchvision network that has the weights in `path`; None where none has.

    Nothing is downloaded, and networks of torchvision are built without memory. Raises ModelError for a file that
    cannot be read.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in read_state(path).items()}
    shapes = {name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}
    found = _recognize_bundled(shapes)
    if found is not None:
        return found
    classes = next((shape[0] for shape in reversed(shapes.values()) if len(shape) == 2), TORCHVISION_CLASSES)
    for name in _order_names(path.stem.lower()):
        if _read_torchvision_shapes(name, classes) == shapes:
            return Recognized(f"torchvision:{name}", {} if classes == TORCHVISION_CLASSES else {"num_classes": classes})
    return None


def _recognize_bundled(shapes: Shapes) -> Recognized | None:
    from blendsearch.zoo.factory import build_model

    for found in _guess_bundled(shapes):
        try:
            state = build_model(found.factory, found.arguments).state_dict()
        except ModelError:
            continue
        own = {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
        if own == shapes:
            return found
    return None


def _guess_bundled(shapes: Shapes) -> Iterator[Recognized]:
    """Guess the arguments of bundled networks by the shapes of their first and last layers."""
    if "stem.0.weight" in shapes and "classifier.weight" in shapes:
        yield Recognized("digits_net", _drop_defaults(shapes, "classifier", width=(shapes["stem.0.weight"][0], 24)))
    if "conv1.weight" in shapes and "linear.weight" in shapes:
        blocks = {int(found[1]) for name in shapes if (found := re.match(r"layer1\.(\d+)\.", name))}
        width = (shapes["conv1.weight"][0], 16)
        arguments = _drop_defaults(shapes, "linear", width=width)
        yield Recognized("cifar_resnet", {"depth": 6 * (max(blocks, default=0) + 1) + 2, **arguments})
    if "features.0.weight" in shapes and "classifier.weight" in shapes:
        yield Recognized("cifar_vgg16_bn", _drop_defaults(shapes, "classifier"))


def _drop_defaults(shapes: Shapes, last: str, **others: tuple[int, int]) -> dict[str, Any]:
    """Collect arguments that differ from their defaults; the classes are the rows of the last layer."""
    known = {"classes": (shapes[f"{last}.weight"][0], 10), **others}
    return {name: value for name, (value, default) in known.items() if value != default}


def _order_names(stem: str) -> list[str]:
    """Order torchvision's classification networks: those named in the file's name, usual ones, all others."""
    from torchvision import models

    names = models.list_models(module=models)
    named = sorted((name for name in names if name in stem.replace("-", "_")), key=len, reverse=True)
    return list(dict.fromkeys([*named, *(name for name in USUAL if name in names), *names]))


def _read_torchvision_shapes(name: str, classes: int) -> Shapes:
    """Read the shapes of a network of torchvision, which is built without memory; empty where it cannot be built."""
    from torchvision.models import get_model_builder

    limit = SizeLimit(None, "")
    try:
        with torch.device("meta"):
            made = call_without_downloads(name, get_model_builder(name), {"num_classes": classes}, limit)
    except Exception:  # some cannot be built on the meta device
        return {}
    state = made.state_dict()
    return {key: tuple(tensor.shape) for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
