"""Tables and lines on the terminal."""

import argparse
from typing import TYPE_CHECKING

from blendsearch.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from blendsearch.progress import JsonLines, TextProgress
    from blendsearch.progress.tracking import TrackedProgress
    from blendsearch.runs.config.schema import Config


COST_COLUMNS = {
    "MACs": "macs_ratio",
    "params": "params_ratio",
    "memory": "memory_ratio",
    "latency": "latency_ratio",
    "measured": "latency_measured",
}
"""Columns of costs and their fields. Columns of costs without a budget are omitted."""


def read_pick(arguments: argparse.Namespace) -> str:
    """Return the network that a command names by PICK or --pick, the best one by default."""
    if arguments.network is not None and arguments.pick is not None and arguments.network != arguments.pick:
        raise ConfigError(f"PICK is {arguments.network} and --pick is {arguments.pick}: give one of them")
    return str(arguments.network or arguments.pick or "best")


def make_reporter(arguments: argparse.Namespace, config: "Config") -> "JsonLines | TextProgress | TrackedProgress":
    from blendsearch.progress import JsonLines

    view = JsonLines() if arguments.json else make_text_progress(config, quiet=arguments.quiet)
    if not arguments.track:
        return view
    from blendsearch.progress.tracking import TrackedProgress, make_tracker

    try:
        return TrackedProgress(view, [make_tracker(text) for text in arguments.track])
    except BaseException:
        view.close()
        raise


def make_text_progress(config: "Config", *, to_stderr: bool = False, quiet: bool = False) -> "TextProgress":
    from rich.console import Console

    from blendsearch.progress import TextProgress

    return TextProgress(Console(stderr=to_stderr), config.search.evaluations, quiet=quiet)


def describe_start(config: "Config") -> str:
    """Describe in one line what a search is about to do, before anything slow is imported."""
    from blendsearch.results.formatting import COST_NAMES

    asked = [f"at most {high:.0%} of {COST_NAMES[name]}" for name, (_, high) in config.budget.get_spans().items()]
    budget = ", ".join(asked) or "given widths"
    return f"{config.model.title} on {config.data.dataset}, {budget}; loading torch and the data"


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


def shorten_metric(name: str) -> str:
    """Shorten the name of a metric for the head of a column."""
    return name.replace("accuracy", "acc")


def print_table(table: "Table") -> None:
    from rich.console import Console

    console = Console()
    # a pipe has no width: print every row on one line
    Console(width=None if console.is_terminal else 200).print(table)
