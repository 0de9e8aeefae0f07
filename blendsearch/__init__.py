"""Search for really smaller CNNs: blended pruning criteria and per-layer widths under an exact budget."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blendsearch.inspect.export import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: torch takes seconds, and `blendsearch --help` needs none of it."""
    if name == "load":
        from blendsearch.inspect.export import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
