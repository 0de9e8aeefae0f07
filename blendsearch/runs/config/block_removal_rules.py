"""Rules of `search.blocks`: whether a search may remove blocks."""

from blendsearch.runs.config.method_registry import get_method
from blendsearch.runs.config.schema import Config


def removes_blocks(config: Config) -> bool:
    """Return True if the search of `config` decides which blocks are removed."""
    if config.search.blocks == "auto":
        return "latency" in config.budget.get_spans() and find_block_conflict(config) is None
    return config.search.blocks


def find_block_conflict(config: Config) -> str | None:
    """Return which other field excludes the removal of blocks, as the end of a sentence; None if none does."""
    if get_method(config.method).traits.transform == "never":
        return f"which method {config.method} cannot do: take another method"
    if config.budget.keep is not None or config.allocation != "evolved":
        return "which needs evolved widths: leave out allocation and budget.keep"
    if "memory" in config.budget.get_spans():
        return "and peak memory is not known of such networks: leave out budget.memory"
    if config.transform != "none":
        return "which a search with a transform cannot do: leave out transform"
    if config.training.elastic.epochs:
        return "which an elastic tune does not train: leave out training.elastic"
    if config.finals.stages > 1:
        return "which are cut at once: leave out finals.stages"
    return None
