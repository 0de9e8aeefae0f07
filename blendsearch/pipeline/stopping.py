"""When a search ends before its evaluations are used up: when its time is over, or when it no longer gets better."""

from collections.abc import Mapping, Sequence
from typing import Any

from blendsearch.runs.config.schema import SearchConfig

LEAST_GAIN = 1e-6
"""What the hypervolume must grow by, or the best loss fall by, to count as better."""


def find_stop_reason(config: SearchConfig, generations: Sequence[Mapping[str, Any]]) -> str | None:
    """Why the search ends after these `generations` (as the store lists them), in words; None while it goes on.

    Time is the wall time of all generations, before and after an interruption; the last one is always finished.
    """
    spent = sum(item["wall"] for item in generations)
    if config.seconds is not None and spent >= config.seconds:
        return f"the time is over: {spent:.0f} s of {config.seconds:g} (search.seconds)"
    stalled = config.stalled
    if stalled is not None and len(generations) > stalled:
        before, since = generations[-stalled - 1]["summary"], generations[-1]["summary"]
        grown = since["hypervolume"] > before["hypervolume"] + LEAST_GAIN
        fallen = before["best_loss"] is None or (since["best_loss"] or 0) < before["best_loss"] - LEAST_GAIN
        if not grown and not fallen:
            return f"nothing better was found in {stalled} generations (search.stalled)"
    return None
