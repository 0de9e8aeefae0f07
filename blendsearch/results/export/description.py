"""The description of an exported network, ``network.json``."""

# ruff: noqa: RUF009 (`omit` returns a dataclass field)

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from blendsearch.data.input_description import InputDescription
from blendsearch.results.records import JsonObject, Record, omit


class MeasuredLatency(TypedDict):
    """Milliseconds of one pass of the dense and of the pruned network; `where` names the device and the conditions."""

    dense_ms: float
    pruned_ms: float
    where: str


@dataclass(frozen=True, kw_only=True)
class ExportDescription(Record):
    """The contents of ``network.json``.

    Attributes
    ----------
    format: the layout of the file.
    factory, arguments: the function that builds the dense network, by name, and its arguments.
    kept: the indices of the channels kept, by group.
    decomposed: the layers that are decomposed; None where none is.
    dense: the dense network's costs in units.
    cut: the cut's digest.
    latency: None where it was not measured.
    """

    format: int
    factory: str
    arguments: JsonObject
    kept: Mapping[str, Sequence[int]]
    decomposed: tuple[str, ...] | None = omit()
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
