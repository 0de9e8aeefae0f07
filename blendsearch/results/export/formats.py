"""Further formats: PyTorch's exported program and ONNX, each loaded back and compared with the module.

`blendsearch.load` reads neither, since a ``.pt2`` of unknown origin can run code. This module only loads files that it
has just written.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blendsearch.errors import RunError
from blendsearch.extras import require_extra
from blendsearch.fitness.onnx_runtime import OnnxSession, make_format_error, silence_exporters

TOLERANCE = 1e-3
"""Largest allowed difference between outputs, in units of their spread: float32 in another order of summing."""

IMAGE_COUNT = 3
"""Random images that the outputs are compared on; the files take any number."""


@dataclass(frozen=True)
class WrittenFile:
    """A file of an export; `difference` is the largest from the module's outputs, in units of their spread."""

    name: str
    bytes: int
    difference: float | None = None
    tolerance: float | None = None


def check_formats(formats: Sequence[str]) -> None:
    """Raise RunError where one of `formats`, ``pt2``, ``onnx`` or ``int8``, cannot be written here."""
    if {"onnx", "int8"} & set(formats):
        require_extra("onnx", "an ONNX file", RunError)


def write_format(module: nn.Module, shape: Sequence[int], path: Path) -> WrittenFile:
    """Write `module`, in evaluation mode on the CPU, to `path`, whose suffix is the format: ``.pt2`` or ``.onnx``.

    `shape` is that of one image; the number of images is dynamic where the network allows it. Raises RunError when the
    network cannot be written, or the file gives other outputs.
    """
    images = torch.randn(IMAGE_COUNT, *shape, generator=torch.Generator().manual_seed(0))
    write = {".pt2": _export_pt2, ".onnx": _export_onnx}[path.suffix]
    with torch.no_grad():
        wanted = _flatten_outputs(module(images))
    try:
        with silence_exporters(), torch.no_grad():
            found = write(module, images, path)(images)
    except OSError:
        raise
    except Exception as error:  # exporters raise many types for unsupported operations
        raise make_format_error(path.suffix[1:], error) from error
    difference = max(map(_compute_difference, wanted, found), default=0.0)
    if len(wanted) != len(found) or not difference <= TOLERANCE:
        raise RunError(
            f"{path.name} gives other outputs than the network: they differ by {difference:.2g} of their spread, "
            f"allowed is {TOLERANCE:g}"
        )
    return WrittenFile(path.name, path.stat().st_size, difference, TOLERANCE)


Forward = Callable[[Tensor], list[Tensor]]


def _export_pt2(module: nn.Module, images: Tensor, path: Path) -> Forward:
    program = torch.export.export(module, (images,), dynamic_shapes=_make_dynamic_shapes(module))
    torch.export.save(program, path)
    again = torch.export.load(path).module()
    return lambda x: _flatten_outputs(again(x))


def _export_onnx(module: nn.Module, images: Tensor, path: Path) -> Forward:
    torch.onnx.export(
        module,
        (images,),
        path,
        dynamo=True,
        dynamic_shapes=_make_dynamic_shapes(module),
        external_data=False,  # or a second file would hold the weights
        input_names=["images"],
        verbose=False,
    )
    session = OnnxSession(path.read_bytes())
    return lambda x: [torch.from_numpy(array) for array in session(x.numpy())]


def _make_dynamic_shapes(module: nn.Module) -> tuple[dict[int, Any], ...]:
    # AUTO: a network that only takes one number of images is written for that
    return ({0: torch.export.Dim.AUTO},)


def _flatten_outputs(output: Any) -> list[Tensor]:
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def _compute_difference(expected: Tensor, actual: Tensor) -> float:
    if expected.shape != actual.shape:
        return float("inf")
    spread = float(expected.std()) or 1.0
    return float((expected - actual).abs().max()) / spread
