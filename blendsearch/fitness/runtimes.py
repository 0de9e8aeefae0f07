"""The runtimes in which a network is timed for a report, beside the one of its budget."""

from dataclasses import dataclass, replace

from torch import nn

from blendsearch.extras import list_missing_packages
from blendsearch.fitness.latency_benchmark import measure_fastest_passes
from blendsearch.fitness.timers import BenchmarkSettings, Runtime
from blendsearch.structure.groups import Cut, IndexMaps


@dataclass(frozen=True)
class PassTimes:
    """Seconds of one pass of the dense and of the pruned network, measured in turns."""

    dense: float
    pruned: float

    @property
    def ratio(self) -> float:
        """The pruned network's share of the dense network's time."""
        return self.pruned / self.dense


def list_report_runtimes(conditions: BenchmarkSettings) -> tuple[Runtime, ...]:
    """List the runtimes that reports show beside that of `conditions`: torch, and ONNX Runtime where installed."""
    has_onnx = conditions.precision == "float32" and not list_missing_packages("onnx")
    known: tuple[Runtime, ...] = ("torch", "onnxruntime") if has_onnx else ("torch",)
    return tuple(name for name in known if name != conditions.runtime)


def measure_in_runtimes(
    model: nn.Module, maps: IndexMaps, cut: Cut, conditions: BenchmarkSettings
) -> dict[str, PassTimes]:
    """Measure the fastest pass of the dense network and of `cut` in torch and, where possible, in ONNX Runtime.

    A network that cannot be written as ONNX is measured in torch alone.
    """
    torch_settings = replace(conditions, runtime="torch", command=None)
    found = {"torch": _measure_cut(model, maps, cut, torch_settings)}
    for runtime in list_report_runtimes(torch_settings):
        try:
            found[runtime] = _measure_cut(model, maps, cut, replace(torch_settings, runtime=runtime))
        except Exception:  # exporters raise many types, and this figure is optional
            continue
    return found


def _measure_cut(model: nn.Module, maps: IndexMaps, cut: Cut, conditions: BenchmarkSettings) -> PassTimes:
    dense, pruned = measure_fastest_passes(model, maps, [cut], conditions)[0]
    return PassTimes(float(dense), float(pruned))
