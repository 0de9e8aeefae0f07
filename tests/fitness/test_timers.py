"""Latency in ONNX Runtime, and by a command: a local script stands in for a board."""

import re
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from blendsearch.errors import ConfigError
from blendsearch.fitness.latency_benchmark import measure_latencies
from blendsearch.fitness.runtimes import list_report_runtimes, measure_in_runtimes
from blendsearch.fitness.timers import BenchmarkSettings, run_latency_command
from blendsearch.structure.trace import trace_structure
from blendsearch.zoo.digits_net import digits_net

BOARD = 'echo "booting"\necho $(($(wc -c < "$1") / 100)).5\n'
"""A board on which a network takes a hundredth of a millisecond per byte of its file."""


@pytest.fixture
def board(tmp_path: Path) -> str:
    """Return the command of a local board."""
    (tmp_path / "board.sh").write_text(BOARD)
    return f"sh {shlex.quote(str(tmp_path / 'board.sh'))} {{onnx}}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "network.onnx"
    path.write_bytes(b"x" * 1200)
    return path


def test_the_last_line_of_a_command_is_its_milliseconds(board: str, file: Path) -> None:
    assert run_latency_command(board, file, 60) == pytest.approx(12.5e-3)


def test_the_file_is_standard_input_too(file: Path) -> None:
    assert run_latency_command("wc -c", file, 60) == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo away >&2; exit 3", "ended with code 3: away"),
        ("kill -9 $$", "ended with code -9"),
        ("echo fast", "printed 'fast' last, expected milliseconds above 0"),
        ("echo 12; echo ms", "printed 'ms' last"),
        ("true", "printed '' last"),
        ("echo 0", "printed '0' last"),
        ("echo -3", "printed '-3' last"),
        ("echo nan", "printed 'nan' last"),
        ("echo inf", "printed 'inf' last"),
        ("echo 1e999", "printed '1e999' last"),
        ("echo 1_0", "printed '1_0' last"),
    ],
)
def test_other_endings_of_a_command_are_refused_in_one_line(script: str, message: str, file: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        run_latency_command(f"sh -c {shlex.quote(script)}", file, 60)
    text = str(refused.value)
    assert re.match(r"budget.measured.command ['\"]sh -c ", text) and message in text and "\n" not in text


def test_a_command_that_is_not_there_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="budget.measured.command 'no-such-program' cannot be run: No such file"):
        run_latency_command("no-such-program", file, 60)


def test_a_command_that_hangs_ends_with_all_that_it_started(file: Path, tmp_path: Path) -> None:
    script = f"(sleep 5; touch {shlex.quote(str(tmp_path / 'late'))}) & sleep 60"
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"took more than 0\.3 s: raise budget.measured.timeout"):
        run_latency_command(f"sh -c {shlex.quote(script)}", file, 0.3)
    assert time.monotonic() - start < 5
    time.sleep(max(0.0, 6 - (time.monotonic() - start)))
    assert not (tmp_path / "late").exists()


def test_names_of_files_are_no_shell_code(board: str, tmp_path: Path) -> None:
    folder = tmp_path / "a b; touch owned $(touch owned) `touch owned`"
    folder.mkdir()
    path = folder / "network.onnx"
    path.write_bytes(b"x" * 1200)
    assert run_latency_command(board, path, 60) == pytest.approx(12.5e-3)
    assert not list(tmp_path.rglob("owned"))
    words = [sys.executable, "-c", "import sys; print(len(sys.argv))", "{onnx}"]
    assert run_latency_command(shlex.join(words), path, 60) == pytest.approx(2e-3)


def test_a_narrow_network_is_faster_on_the_board(board: str) -> None:
    pytest.importorskip("onnx")
    model = digits_net(width=8).eval()
    maps = trace_structure(model, (1, 8, 8)).maps
    settings = BenchmarkSettings((1, 8, 8), 1, "float32", 3, "command", board)
    narrow = np.concatenate([np.arange(size) < size // 2 for size in maps.sizes])
    seconds = measure_latencies(model, maps, [maps.make_unpruned_cut(), narrow], settings)
    assert seconds[0, 1] == seconds[0, 0] and seconds[1, 1] < 0.6 * seconds[1, 0]


def test_onnx_runtime_is_measured_beside_torch() -> None:
    pytest.importorskip("onnxruntime")
    model = digits_net(width=8).eval()
    maps = trace_structure(model, (1, 8, 8)).maps
    settings = BenchmarkSettings((1, 8, 8), 1, "float32", 3)
    assert list_report_runtimes(settings) == ("onnxruntime",)
    assert list_report_runtimes(BenchmarkSettings((1, 8, 8), 1, "bfloat16", 3)) == ()
    times = measure_in_runtimes(model, maps, maps.make_unpruned_cut(), settings)
    assert list(times) == ["torch", "onnxruntime"]
    assert all(0 < item.pruned < 1 and 0.2 < item.ratio < 5 for item in times.values())
    assert not torch.is_inference_mode_enabled() and next(model.parameters()).requires_grad
