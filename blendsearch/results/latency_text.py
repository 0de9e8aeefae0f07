"""Latency in words: names of runtimes, and the warning about a network that is slower than its MACs promise."""

from collections.abc import Mapping

RUNTIME_NAMES: Mapping[str, str] = {
    "torch": "torch",
    "onnxruntime": "ONNX Runtime",
    "command": "the command of budget.measured",
}

LEAST_SAVING = 0.5
"""Share of the saving of MACs that a network must save of the time, or a warning is reported.

At half of the MACs that is three quarters of the time. A fixed factor between the two ratios would be silent at 90 % of
the MACs, and would always warn at 5 %, where the constant cost of a pass dominates.
"""


LEAST_MS = 1.0
"""Milliseconds of a dense pass below which no warning is reported: calls, not products, take most of such a pass."""


def describe_slowness(times: Mapping[str, tuple[float, float]], macs_ratio: float) -> str:
    """Describe the runtime in which a network saves far less time than MACs; empty if there is none.

    `times`: milliseconds of one pass of the dense network and of this one, by runtime. `macs_ratio`: this one's share
    of the MACs.
    """
    ratios = {name: pruned / dense for name, (dense, pruned) in times.items() if dense >= LEAST_MS}
    if not ratios or macs_ratio >= 1:
        return ""
    runtime = max(ratios, key=lambda name: ratios[name])
    if 1 - ratios[runtime] >= LEAST_SAVING * (1 - macs_ratio):
        return ""
    return (
        f"slower than its MACs promise: {macs_ratio:.0%} of the MACs take {ratios[runtime]:.0%} of the time in "
        f"{RUNTIME_NAMES[runtime]}; a coarser budget.round_to or a budget of latency can help"
    )
