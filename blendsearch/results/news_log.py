"""The news of a run so far, from which every viewer gets the part that it has not seen."""

from bisect import bisect_right
from dataclasses import fields, replace
from typing import Any

from blendsearch.results.live_messages import RowColumns, RunNews

REORDER_WINDOW = 1000
"""Ids below the largest one that are sent again: workers finish evaluations in another order than that of ids."""


class NewsLog:
    """Keeps the last version of every part of the news, and the rows of all."""

    def __init__(self) -> None:
        self.version = 0
        self._parts: dict[str, tuple[int, Any]] = {}
        self._rows: list[tuple[int, RowColumns]] = []

    def add(self, news: RunNews) -> None:
        """Add the news of one poll, as the next version."""
        self.version += 1
        for item in fields(news):
            value = getattr(news, item.name)
            if value is not None and item.name != "rows":
                self._parts[item.name] = self.version, value
        if news.rows is not None:
            self._rows.append((self.version, news.rows))

    def collect(self, since: int, after: int = 0) -> RunNews:
        """Collect what is newer than version `since`, without rows that a reader with the ids up to `after` has."""
        parts = {name: value for name, (version, value) in self._parts.items() if version > since}
        rows = [columns for version, columns in self._rows[self._find_place(since) :]]
        return replace(RunNews(**parts), rows=_join_columns(rows, after - REORDER_WINDOW))

    def _find_place(self, since: int) -> int:
        return bisect_right(self._rows, since, key=lambda pair: pair[0])


def _join_columns(chunks: list[RowColumns], floor: int) -> RowColumns | None:
    """Join columns, and keep only rows with an id above `floor`."""
    kept = [[place for place, id in enumerate(chunk.id) if id > floor] for chunk in chunks]
    if not any(kept):
        return None
    names = ("id", "cost", "params", "error", "loss", "generation")
    pairs = list(zip(chunks, kept, strict=True))
    joined: dict[str, Any] = {
        name: tuple(getattr(chunk, name)[place] for chunk, places in pairs for place in places) for name in names
    }
    labels: dict[str, Any] = {
        name: {id: text for chunk in chunks for id, text in getattr(chunk, name).items() if id > floor}
        for name in ("origins", "failures")
    }
    return RowColumns(**joined, **labels)
