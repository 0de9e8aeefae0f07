"""Tables and lines on the terminal."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from blendsearch.progress import JsonLines, TextProgress
    from blendsearch.runs.config.schema import Config


COST_COLUMNS = {
    "MACs": "macs_ratio",
    "params": "params_ratio",
    "memory": "memory_ratio",
    "latency": "latency_ratio",
    "measured": "latency_measured",
}
"""Columns of costs and their fields. Columns of costs without a budget are omitted."""


def make_reporter(arguments: argparse.Namespace, config: "Config") -> "JsonLines | TextProgress":
    from blendsearch.progress import JsonLines

    return JsonLines() if arguments.json else make_text_progress(config)


def make_text_progress(config: "Config", *, to_stderr: bool = False) -> "TextProgress":
    from rich.console import Console

    from blendsearch.progress import TextProgress

    return TextProgress(Console(stderr=to_stderr), config.search.evaluations)


def make_table(*columns: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    numbers = {
        *(*COST_COLUMNS, "id", "val loss", "val acc", "test acc", "best accuracy", "seeds"),
        *("rho inside", "rho to others"),
    }
    for column in columns:
        table.add_column(
            column, justify="right" if column in numbers or column.startswith(("val ", "test ")) else "left"
        )
    return table


def print_table(table: "Table") -> None:
    from rich.console import Console

    console = Console()
    # a pipe has no width: print every row on one line
    Console(width=None if console.is_terminal else 200).print(table)
