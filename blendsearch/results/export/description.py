"""The description of an exported network, ``network.json``."""

# ruff: noqa: RUF009 (`omit` returns a dataclass field)

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from blendsearch.data.input_description import InputDescription
from blendsearch.errors import ModelError
from blendsearch.results.record import Record, omit
from blendsearch.results.records import JsonObject
from blendsearch.runs.parsing import read_json

FORMAT = 4
"""The newest layout: 4 where layers are removed, 3 where attributes follow the cut or layers are folded, 2 where layers
are decomposed, else 1.

Readers of an older layout understand the lower numbers.
"""
WEIGHTS, DESCRIPTION = "weights.safetensors", "network.json"

MAX_DESCRIPTION_BYTES = 16 * 2**20


class LatencyPair(TypedDict):
    """Milliseconds of one pass of the dense and of the pruned network, measured in turns."""

    dense_ms: float
    pruned_ms: float


class MeasuredLatency(LatencyPair):
    """The latency in torch, and in ONNX Runtime where measured; `where` names the device and the conditions."""

    where: str
    onnxruntime: NotRequired[LatencyPair]


@dataclass(frozen=True, kw_only=True)
class ExportDescription(Record):
    """The contents of ``network.json``.

    Attributes
    ----------
    format: the layout of the file.
    factory, arguments: the function that builds the dense network, by name, and its arguments.
    kept: the indices of the channels kept, by group.
    decomposed: the layers that are decomposed; None where none is.
    sizes: integer attributes of modules that follow the cut, by name; None where there are none.
    folded: layers that are plain ones with a weight that the dense network computes; None where there are none.
    removed: the layers of removed blocks, with the outputs that they return as constants; None where none is.
    dense: the dense network's costs in units.
    cut: the cut's digest.
    latency: None where it was not measured.
    """

    format: int
    factory: str
    arguments: JsonObject
    kept: Mapping[str, Sequence[int]]
    decomposed: tuple[str, ...] | None = omit()
    sizes: Mapping[str, int] | None = omit()
    folded: tuple[str, ...] | None = omit()
    removed: Mapping[str, int] | None = omit()
    input: InputDescription
    macs: int
    params: int
    dense: Mapping[str, int]
    fidelity: str
    val_loss: float | None
    val_accuracy: float | None
    run: str
    id: int
    cut: str
    latency: MeasuredLatency | None = omit()


@dataclass(frozen=True)
class NetworkSource:
    """The parts of a description that rebuild the network: checked, as they may come from anyone.

    Attributes
    ----------
    decomposed: the layers that are decomposed.
    sizes: integer attributes of modules, by name.
    folded: layers that are replaced by plain ones.
    removed: layers that are removed, with the outputs that they return.
    shape: (channels, height, width) of one input; None where the file does not have it.
    """

    factory: str
    arguments: Mapping[str, object]
    decomposed: Sequence[str]
    sizes: Mapping[str, int]
    folded: Sequence[str]
    removed: Mapping[str, int]
    shape: tuple[int, ...] | None


def read_source(folder: Path) -> NetworkSource:
    """Read the description of the network in `folder`. Raises ModelError where it is missing, damaged or newer."""
    path = folder / DESCRIPTION
    try:
        facts = read_json(path, max_bytes=MAX_DESCRIPTION_BYTES, allow_nan=False)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelError(f"{path} is not there: expected a folder that blendsearch exported") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"the network in {folder} is damaged: {DESCRIPTION}: {error}") from error
    if not isinstance(facts, dict) or not _is_count(facts.get("format")):
        raise ModelError(f"{path} does not describe a network that blendsearch exported")
    if facts["format"] > FORMAT:
        raise ModelError(
            f"the network in {folder} was written by a newer blendsearch (format {facts['format']}): update"
        )
    inputs, decomposed = facts.get("input", {}), facts.get("decomposed", [])
    shape = inputs.get("shape") if isinstance(inputs, dict) else 0
    checks: dict[str, tuple[Any, Callable[[Any], bool], str]] = {
        "factory": (facts.get("factory"), _is_text, "a name"),
        "arguments": (facts.get("arguments"), lambda value: isinstance(value, dict), "an object"),
        "input.shape": (shape, _is_shape, "3 positive numbers"),
    }
    for name, (value, fits, expected) in checks.items():
        if not fits(value):
            raise ModelError(f"the network in {folder} is damaged: {DESCRIPTION}: {name} is not {expected}")
    factory = facts["factory"]
    if not isinstance(decomposed, list) or not all(map(_is_text, decomposed)):
        raise ModelError(f"the network in {folder} does not fit {factory!r}: decomposed is not a list of layers")
    sizes = facts.get("sizes", {})
    if not isinstance(sizes, dict) or not all(map(_is_text, sizes)) or not all(map(_is_count, sizes.values())):
        raise ModelError(f"the network in {folder} does not fit {factory!r}: sizes are not numbers by name")
    folded = facts.get("folded", [])
    if not isinstance(folded, list) or not all(map(_is_text, folded)):
        raise ModelError(f"the network in {folder} does not fit {factory!r}: folded is not a list of layers")
    removed = facts.get("removed", {})
    if not isinstance(removed, dict) or not all(map(_is_text, removed)) or not all(map(_is_number, removed.values())):
        raise ModelError(f"the network in {folder} does not fit {factory!r}: removed are not numbers by layer")
    known = tuple(shape) if isinstance(shape, list) else None
    return NetworkSource(factory, facts["arguments"], decomposed, sizes, folded, removed, known)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 500 and value.isprintable()


def _is_count(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_shape(value: Any) -> bool:
    return value is None or (isinstance(value, list) and len(value) == 3 and all(map(_is_count, value)))
