"""A network in 8-bit integers: static quantisation by ONNX Runtime, calibrated on training images and evaluated."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blendsearch.fitness.evaluator import Evaluator
from blendsearch.fitness.onnx_runtime import OnnxSession, make_format_error, silence_exporters
from blendsearch.results.export.formats import WrittenFile

INT8_FILE = "network.int8.onnx"
CALIBRATION_IMAGES = 512
"""Training images, without augmentation, whose activations set the ranges of the integers."""

BATCH_SIZE = 64


@dataclass(frozen=True)
class QuantizedFile(WrittenFile):
    """A file with a quantised network, evaluated on the validation images.

    Attributes
    ----------
    val_loss, val_accuracy: of the quantised network; the accuracy is None where the task has none.
    calibration_images: number of training images that the ranges were measured on.
    """

    val_loss: float = float("nan")
    val_accuracy: float | None = None
    calibration_images: int = 0


class OnnxNetwork(nn.Module):
    """A network that ONNX Runtime computes on the CPU; outputs are on the device of the images."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._session = OnnxSession(path.read_bytes())

    def forward(self, images: Tensor) -> Any:
        arrays = self._session(images.float().cpu().numpy())
        found = tuple(torch.from_numpy(array).to(images.device) for array in arrays)
        return found[0] if len(found) == 1 else found


def write_int8(source: Path, evaluator: Evaluator, seed: int, *, has_accuracy: bool) -> QuantizedFile:
    """Quantise the ONNX network `source`, write it beside it as `INT8_FILE`, and evaluate what was written.

    Weights are 7-bit per channel in 8-bit integers, so that processors without VNNI cannot overflow; activations are
    8-bit. Raises RunError when the network cannot be quantised or evaluated.
    """
    path = source.with_name(INT8_FILE)
    images = min(CALIBRATION_IMAGES, len(evaluator.splits.train))
    try:
        with silence_exporters():
            _quantize(source, path, _iter_images(evaluator))
            found = evaluator.evaluate_network(OnnxNetwork(path), "val", seed)
    except OSError:
        raise
    except Exception as error:  # ONNX Runtime raises many types for unsupported operations
        raise make_format_error("int8", error) from error
    accuracy = 1 - found.error if has_accuracy else None
    return QuantizedFile(INT8_FILE, path.stat().st_size, None, None, found.loss, accuracy, images)


def describe_int8(item: QuantizedFile) -> str:
    """Describe the accuracy of a quantised network, and where its ranges come from."""
    measured = f"loss {item.val_loss:.4f}" if item.val_accuracy is None else f"accuracy {item.val_accuracy:.2%}"
    return f"validation {measured}; ranges from {item.calibration_images} training images"


def _quantize(source: Path, path: Path, images: Iterator[NDArray[np.float32]]) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_suffix(".prepared")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        path,
        _CalibrationImages(images),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    prepared.unlink()


class _CalibrationImages:
    """The images as ONNX Runtime's calibration reads them, one batch at a time."""

    def __init__(self, images: Iterator[NDArray[np.float32]]) -> None:
        self._images = images

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Return the next batch by the name of the input; None after the last one."""
        batch = next(self._images, None)
        return None if batch is None else {"images": batch}


def _iter_images(evaluator: Evaluator) -> Iterator[NDArray[np.float32]]:
    splits, device = evaluator.splits, torch.device("cpu")
    for x, _ in splits.iter_batches(splits.train, batch_size=BATCH_SIZE, device=device, limit=CALIBRATION_IMAGES):
        yield x.numpy()
