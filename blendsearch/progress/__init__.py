"""What a search says while it runs, to a terminal, a pipe, a program, or a notebook."""

from rich.console import Console

from blendsearch.progress.lines import JsonLines, Lines
from blendsearch.progress.notebook import Cell, in_notebook
from blendsearch.runs.config.schema import Config

__all__ = ["Cell", "JsonLines", "Lines", "Progress", "progress_of"]

Progress = JsonLines | Lines | Cell


def progress_of(config: Config) -> Progress:
    """What suits where this process writes to: a notebook's cell, a terminal, or a pipe."""
    if in_notebook():
        return Cell(config.search.evaluations)
    return Lines(Console(), config.search.evaluations)
