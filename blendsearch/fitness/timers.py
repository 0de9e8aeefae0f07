"""Timers of a network: in torch, in ONNX Runtime, or by a user-defined command that runs it elsewhere."""

import contextlib
import copy
import math
import os
import re
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import nn

from blendsearch.errors import ConfigError
from blendsearch.extras import require_extra
from blendsearch.fitness.onnx_runtime import OnnxSession, convert_to_onnx
from blendsearch.training.device import Precision

Runtime = Literal["torch", "onnxruntime", "command"]

MIN_TIMING_SECONDS = 0.005
"""Shortest timing in seconds: a small network runs several times for it."""

PLACEHOLDER = "{onnx}"
"""The part of a command that is replaced by the path of the ONNX file."""

ONNX_FILE = "network.onnx"

NUMBER = re.compile(r"\+?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)

MAX_QUOTED = 200
"""Largest number of characters of a command or of its output that a message quotes."""


@dataclass(frozen=True)
class BenchmarkSettings:
    """Conditions of a latency measurement.

    Attributes
    ----------
    input_shape, batch_size, precision: of the images of one pass.
    repeats: passes for a median.
    runtime: what runs the network.
    command, timeout: the command of the runtime ``command``, and the most seconds that it may take.
    """

    input_shape: tuple[int, int, int]
    batch_size: int
    precision: Precision
    repeats: int
    runtime: Runtime = "torch"
    command: str | None = None
    timeout: float = 600.0


class Timer(Protocol):
    """Times passes of one network."""

    def warm_up(self) -> int:
        """Warm the network up; return the number of passes that one timing needs."""

    def time(self, passes: int) -> float:
        """Return the seconds of one pass, of `passes` timed together."""


def make_timer(network: nn.Module, conditions: BenchmarkSettings) -> Timer:
    """Make the timer of `network` under `conditions`.

    Raises ConfigError where ONNX Runtime is not installed, and RunError where the network cannot be written as ONNX.
    """
    images = torch.zeros(conditions.batch_size, *conditions.input_shape)
    if conditions.runtime == "onnxruntime":
        return _make_onnx_timer(network, images)
    if conditions.runtime == "command" and conditions.command is not None:
        return CommandTimer(network, images, conditions.command, conditions.timeout)
    device = next(network.parameters()).device
    on_device = images.to(device)
    return PassTimer(lambda: network(on_device), lambda: _synchronize(device))


class PassTimer:
    """Times a function that runs one pass; `synchronize` waits for its end."""

    def __init__(self, run: Callable[[], Any], synchronize: Callable[[], None]) -> None:
        self._run, self._synchronize = run, synchronize

    def warm_up(self) -> int:
        self.time(2)
        return max(1, int(np.ceil(MIN_TIMING_SECONDS / self.time(1))))

    def time(self, passes: int) -> float:
        """Time `passes` passes together, after one that loads the weights into the caches."""
        self._run()
        self._synchronize()
        start = time.perf_counter()
        for _ in range(passes):
            self._run()
        self._synchronize()
        return (time.perf_counter() - start) / passes


class CommandTimer:
    """Times a network by a command, which reads an ONNX file and prints milliseconds."""

    def __init__(self, network: nn.Module, images: torch.Tensor, command: str, timeout: float) -> None:
        self._command, self._timeout = command, timeout
        self._content = convert_to_onnx(_copy_to_cpu(network), images)

    def warm_up(self) -> int:
        """Return one pass: the command warms up by itself."""
        return 1

    def time(self, passes: int) -> float:
        """Run the command once; return its seconds."""
        with tempfile.TemporaryDirectory(prefix="blendsearch-") as folder:
            path = Path(folder) / ONNX_FILE
            path.write_bytes(self._content)
            return run_latency_command(self._command, path, self._timeout)


def run_latency_command(command: str, path: Path, timeout: float) -> float:
    """Run `command` for the ONNX file at `path`; return the seconds of one pass.

    The command is divided into words as a shell divides them, and run without one. ``{onnx}`` in a word becomes the
    path, and the file is its standard input too. It must end with code 0 within `timeout` seconds; its last line of
    output is a number of milliseconds above 0. Raises ConfigError, which names the command, for anything else.
    """
    called = f"budget.measured.command {command[:MAX_QUOTED]!r}"
    words = [word.replace(PLACEHOLDER, str(path)) for word in shlex.split(command)]
    try:
        code, output, errors = _run(words, path, timeout)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{called} took more than {timeout:g} s: raise budget.measured.timeout") from None
    except OSError as error:
        raise ConfigError(f"{called} cannot be run: {error.strerror or error}") from error
    if code:
        last = _find_last_line(errors) or _find_last_line(output)
        raise ConfigError(f"{called} ended with code {code}{f': {last}' if last else ''}")
    milliseconds = _parse_milliseconds(_find_last_line(output))
    if not 0 < milliseconds < math.inf:
        raise ConfigError(
            f"{called} printed {_find_last_line(output)!r} last, expected milliseconds above 0, such as 12.5"
        )
    return milliseconds / 1e3


def _run(words: list[str], path: Path, timeout: float) -> tuple[int, bytes, bytes]:
    """Run a command; return its exit code, output and errors. Nothing that it started outlives an exception."""
    with (
        path.open("rb") as file,
        subprocess.Popen(
            words, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        ) as process,
    ):
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, output, errors


def _parse_milliseconds(text: str) -> float:
    """Parse a decimal number; NaN for any other text."""
    return float(text) if NUMBER.fullmatch(text) else math.nan


def _find_last_line(output: bytes) -> str:
    """Return the last line of `output` that is not empty, made printable."""
    lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    return "".join(letter for letter in (lines or [""])[-1] if letter.isprintable())[:MAX_QUOTED]


def _make_onnx_timer(network: nn.Module, images: torch.Tensor) -> PassTimer:
    require_extra("onnx", "latency in ONNX Runtime")
    content, array = convert_to_onnx(_copy_to_cpu(network), images), images.numpy()
    session = OnnxSession(content, torch.get_num_threads())
    return PassTimer(lambda: session(array), lambda: None)


def _copy_to_cpu(network: nn.Module) -> nn.Module:
    """Return `network` on the CPU; the network itself stays where it is."""
    on_cpu = next(network.parameters()).device.type == "cpu"
    return network if on_cpu else copy.deepcopy(network).cpu()


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
