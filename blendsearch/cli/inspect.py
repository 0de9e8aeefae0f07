"""The verb inspect: what a search can cut and reach, and how long it takes."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blendsearch.cli.terminal import make_table, print_table
from blendsearch.errors import ConfigError
from blendsearch.json_output import format_json

if TYPE_CHECKING:
    from blendsearch.pipeline.inspection import Inspection

CONFIG_SUFFIXES = (".yaml", ".yml", ".json")


def inspect(arguments: argparse.Namespace) -> None:
    found = _inspect_target(arguments)
    if arguments.json:
        print(format_json(found.to_dict(), indent=1))
        return
    print(f"{found.model}; {found.data}")
    _print_parts("group", found.groups)
    _print_parts("unpruned", found.unpruned)
    for line in (*_list_costs(found), *_list_latencies(found), *_list_times(found)):
        print(line)


def _inspect_target(arguments: argparse.Namespace) -> "Inspection":
    from blendsearch.events import ignore_event
    from blendsearch.pipeline.inspection import inspect_config, inspect_run
    from blendsearch.runs.config.loading import EXAMPLES, load_config
    from blendsearch.runs.latest import resolve_name
    from blendsearch.runs.run import open_run

    target = arguments.target
    is_example = target in EXAMPLES and not (arguments.runs / target).exists()
    if target is None or is_example or Path(target).suffix in CONFIG_SUFFIXES or Path(target).is_file():
        config = load_config(None if target is None else Path(target), arguments.set)
        return inspect_config(config, ignore_event)
    if arguments.set:
        raise ConfigError("--set changes a config, and this is a run: leave it out, or name a config")
    return inspect_run(open_run(arguments.runs, resolve_name(arguments.runs, target)))


def _print_parts(title: str, parts: Sequence[dict[str, Any]]) -> None:
    """Print groups, or what is unpruned with the reason."""
    if not parts:
        return
    reasons = ("reason",) if "reason" in parts[0] else ()
    table = make_table(title, "channels", *reasons)
    for part in parts:
        table.add_row(part["name"], str(part["channels"]), *(part[field] for field in reasons))
    print_table(table)


def _list_costs(found: "Inspection") -> list[str]:
    lines = []
    for name, dense in found.dense.items():
        parts = [f"{name}: {dense:,} of the dense network"]
        if found.reachable is not None:
            parts.append(f"reachable from {found.reachable[name]:.1%}")
        if name in found.budget:
            low, high = found.budget[name]
            parts.append(f"budget {high:.1%}" if low == high else f"budget {low:.1%} to {high:.1%}")
            if found.reachable is not None and high < found.reachable[name]:
                parts.append("OUT OF REACH")
        lines.append(", ".join(parts))
    return lines


def _list_latencies(found: "Inspection") -> list[str]:
    from blendsearch.results.latency_text import RUNTIME_NAMES, describe_slowness

    lines = [
        f"latency in {RUNTIME_NAMES[name]}: {item['dense_ms']:.3f} ms for the dense network, "
        f"{item['pruned_ms']:.3f} ms ({item['ratio']:.0%}) for one with {item['macs_ratio']:.0%} of the MACs"
        for name, item in found.latency.items()
    ]
    macs = next((item["macs_ratio"] for item in found.latency.values()), 1.0)
    times = {name: (item["dense_ms"], item["pruned_ms"]) for name, item in found.latency.items()}
    slow = describe_slowness(times, macs)
    return [*lines, *([f"warning: such a network is {slow}"] if slow else [])]


def _list_times(found: "Inspection") -> list[str]:
    workers = "" if found.workers == 1 else f" by {found.workers} workers"
    lines = []
    if found.base_seconds:
        lines.append(f"training of the dense network: about {_format_seconds(found.base_seconds)}")
    if found.evaluation_seconds is not None and found.search_seconds is not None:
        lines.append(
            f"evaluations: {found.evaluations} of about {_format_seconds(found.evaluation_seconds)}{workers}, "
            f"{_format_seconds(found.search_seconds)} in all"
        )
    if found.finals and found.final_seconds is not None:
        lines.append(
            f"long fine-tune: about {_format_seconds(found.final_seconds)} per network, of {found.finals} chosen "
            "and the best controls"
        )
    elif found.finals:
        lines.append(f"long fine-tune: of {found.finals} chosen networks and the best controls, of unknown length")
    if found.total_seconds is not None:
        lines.append(
            f"whole search: about {_format_seconds(found.total_seconds)} on this machine, without the controls"
        )
    return lines


def _format_seconds(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
