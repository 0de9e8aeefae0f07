"""The verbs that look closer at a run: show, one network of it; report, all of it as one page."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from blendsearch.cli.terminal import COST_COLUMNS, make_table, print_table

BAR_LENGTH = 20
"""Letters of a bar that stands for all of a group's channels."""
MAX_CRITERIA = 4
"""Most criteria of a blend that a line has room for."""

MIN_SHARE = 0.005
"""A smaller part of the say rounds to nothing and is not shown."""


def show_network(arguments: argparse.Namespace) -> None:
    from blendsearch.results.network import describe_network
    from blendsearch.runs.run import open_run

    facts = describe_network(open_run(arguments.runs, arguments.run), arguments.what)
    if arguments.json:
        print(json.dumps(facts, indent=1))
        return
    print(f"network {facts['id']} of {facts['run']}: {_format_origin(facts)}")
    print(f"costs: {_format_costs(facts)}")
    recovered = ", cut from the dense network and recovered" if facts["finals"] else ""
    print(f"judged {facts['fidelity']} in {facts['seconds']:.1f} s{recovered}: {_format_evaluation(facts)}")
    for final in facts["finals"]:
        by = "accuracy" if facts["val_accuracy"] is not None else "loss"
        val, test = (f"{final[f'{name}_{by}']:{'.2%' if by == 'accuracy' else '.4f'}}" for name in ("val", "test"))
        print(f"{final['how']}, seed {final['repeat']}: validation {by} {val}, test {by} {test}")
    blends = [_format_blend(group) for group in facts["groups"]]
    alike = len(set(blends)) == 1 and len(blends) > 1
    if alike and blends[0]:
        print(f"blend, in every group: {blends[0]}")
    columns = ("group", "kept", "channels", "share of the dense")
    table = make_table(*columns) if alike else make_table(*columns, "whose say")
    for group, blend in zip(facts["groups"], blends, strict=True):
        share = f"{_format_bar(group['kept_ratio'])} {group['kept_ratio']:>4.0%}"
        cells = (group["group"], str(group["kept"]), f"of {group['channels']}", share)
        table.add_row(*cells) if alike else table.add_row(*cells, blend)
    print_table(table)
    if "decomposed" in facts:
        print(f"depthwise and pointwise: {', '.join(facts['decomposed']) or 'no layer'}")
    origin = facts["provenance"]
    packages = ", ".join(f"{name} {origin['packages'][name]}" for name in ("blendsearch", "torch"))
    print(
        f"cut {facts['cut']}, seed {facts['seed']}; {packages}, on {origin['device']}"
        f"{', git ' + origin['git'][:12] if origin['git'] else ''}; data {origin['data_sha256'][:12]}, "
        f"dense weights {origin['weights_sha256'][:12]}"
    )


def report(arguments: argparse.Namespace) -> None:
    from blendsearch.results.report.output_file import check_output_path
    from blendsearch.results.report.report import write_report
    from blendsearch.runs.run import open_run

    run = open_run(arguments.runs, arguments.run)
    path = arguments.to or Path(f"{run.name}.html")
    check_output_path(path, "report", (".html", ".htm"))
    sentences = write_report(run, path)
    if arguments.json:
        plain = [sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in sentences]
        print(json.dumps({"run": run.name, "report": str(path), "bytes": path.stat().st_size, "sentences": plain}))
        return
    print("\n".join(sentences).replace("\N{NO-BREAK SPACE}", " "))
    print(f"report: {path} ({path.stat().st_size / 1000:.0f} kB)")


def _format_origin(facts: dict[str, Any]) -> str:
    place = "" if facts["origin"] == "dense" else f", generation {facts['generation']}"
    return f"{facts['origin']}{place}{', on the front' if facts['on_front'] else ''}"


def _format_costs(facts: dict[str, Any]) -> str:
    named = [
        f"{facts['macs']:,} MACs ({facts['macs_ratio']:.2%} of {facts['dense']['macs']:,})",
        f"{facts['params']:,} parameters ({facts['params_ratio']:.2%} of {facts['dense']['params']:,})",
    ]
    for column, field in COST_COLUMNS.items():
        if field not in ("macs_ratio", "params_ratio") and facts.get(field) is not None:
            named.append(f"{column} {facts[field]:.2%}")
    return ", ".join(named)


def _format_evaluation(facts: dict[str, Any]) -> str:
    test = "" if facts["test_accuracy"] is None else f", test accuracy {facts['test_accuracy']:.2%}"
    val = "" if facts["val_accuracy"] is None else f", validation accuracy {facts['val_accuracy']:.2%}"
    further = "".join(f", {name} {value:.4g}" for name, value in facts.get("further", {}).items())
    return f"validation loss {facts['val_loss']:.4f}{val}{test}{further}"


def _format_bar(ratio: float) -> str:
    full, empty = "█░"
    try:
        (full + empty).encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        full, empty = "#."
    filled = max(1, round(BAR_LENGTH * ratio))
    return full * filled + empty * (BAR_LENGTH - filled)


def _format_blend(group: dict[str, Any]) -> str:
    if "log_alpha" in group:
        return f"log alpha {group['log_alpha']:+.2f}, beta {group['beta']:+.2f}"
    heard = [item for item in group["blend"] or [] if item["part"] >= MIN_SHARE]
    parts = [f"{item['criterion']} {item['part']:.0%}" for item in heard[:MAX_CRITERIA]]
    rest = len(heard) - MAX_CRITERIA
    return ", ".join(parts) + (f", {rest} more" if rest > 0 else "")
