"""Progress views of a search: for a terminal, a pipe, a program, or a notebook."""

from rich.console import Console

from blendsearch.progress.lines import JsonLines, TextProgress
from blendsearch.progress.notebook import NotebookProgress, is_notebook
from blendsearch.runs.config.schema import Config

__all__ = ["JsonLines", "NotebookProgress", "Progress", "TextProgress", "make_progress"]

Progress = JsonLines | TextProgress | NotebookProgress


def make_progress(config: Config) -> Progress:
    """Make the view that suits the output: a notebook cell, a terminal, or a pipe."""
    if is_notebook():
        return NotebookProgress(config.search.evaluations)
    return TextProgress(Console(), config.search.evaluations)
