"""Networks in ONNX Runtime on the CPU: written for a measurement, or read from a file."""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blendsearch.errors import RunError


@contextlib.contextmanager
def silence_exporters() -> Iterator[None]:
    """Suppress the progress output and warnings of exporters."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def write_onnx(module: nn.Module, images: Tensor, path: Path) -> None:
    """Write `module`, in evaluation mode on the CPU, to `path` for inputs of exactly the shape of `images`.

    The exporter by TorchScript is ten times as fast as that by Dynamo, which writes what the first cannot. Raises
    RunError where neither can.
    """
    try:
        with silence_exporters(), torch.no_grad():
            try:
                torch.onnx.export(module, (images,), str(path), dynamo=False, input_names=["images"])
            except Exception:  # exporters raise many types for unsupported operations
                torch.onnx.export(
                    *(module, (images,), str(path)),
                    dynamo=True,
                    external_data=False,
                    input_names=["images"],
                    verbose=False,
                )
    except Exception as error:
        raise make_format_error("onnx", error) from error


def make_format_error(name: str, error: Exception) -> RunError:
    """Make the error for a network that the exporter of the format `name` cannot write, with its first line."""
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return RunError(f"the network cannot be written as {name}: {type(error).__name__}: {reason.strip()[:200]}")


def convert_to_onnx(module: nn.Module, images: Tensor) -> bytes:
    """Return the content of the file that `write_onnx` writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        write_onnx(module, images, path)
        return path.read_bytes()


class OnnxSession:
    """A network as a session of ONNX Runtime on the CPU: a function from images to its outputs."""

    def __init__(self, content: bytes, threads: int | None = None) -> None:
        """Load the `content` of an ONNX file, for a measurement to run on so many threads, without warnings."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
            options.log_severity_level = 3  # errors alone
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, images: NDArray[np.float32]) -> list[Any]:
        """Return the outputs for `images`."""
        return list(self._session.run(None, {self._input: images}))
