"""Stop rules: end a search early when its time is over, or when it no longer improves."""

from collections.abc import Sequence

from blendsearch.runs.config.schema import SearchConfig
from blendsearch.runs.run_facts import GenerationRow

LEAST_GAIN = 1e-6
"""Least growth of the hypervolume, or fall of the best loss, that counts as an improvement."""


def find_stop_reason(config: SearchConfig, generations: Sequence[GenerationRow]) -> str | None:
    """Return the reason to stop after these `generations` (rows of the store), or None.

    Time is the wall time of all generations, before and after an interruption. A generation is always finished.
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
