"""Verbs for one run in detail: show for one of its networks, report for all of it on a page."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blendsearch.cli.terminal import COST_COLUMNS, make_table, print_table, read_pick
from blendsearch.json_output import format_json

if TYPE_CHECKING:
    from blendsearch.results.metrics import RunMetric
    from blendsearch.results.records import FineTuneRecord, GroupRecord, NetworkDetails

BAR_LENGTH = 20
"""Length in characters of the bar for a group that keeps all channels."""
MAX_CRITERIA = 4
"""Largest number of criteria of a blend in a line."""

MIN_SHARE = 0.005
"""A smaller share of a blend rounds to 0 % and is not shown."""


def show_network(arguments: argparse.Namespace) -> None:
    from blendsearch.results.network import describe_network
    from blendsearch.results.summary import get_metric
    from blendsearch.runs.run import open_run

    run = open_run(arguments.runs, arguments.run)
    network, metric = describe_network(run, read_pick(arguments)), get_metric(run)
    if arguments.json:
        print(format_json(network.to_dict(), indent=1))
        return
    print(f"network {network.id} of {network.run}: {_format_origin(network)}")
    print(f"costs: {_format_costs(network)}")
    print(_format_evaluation(network, metric))
    for final in network.finals:
        print(_format_fine_tune(final, metric))
    _print_groups(network.groups)
    if network.decomposed is not None:
        print(f"depthwise and pointwise: {', '.join(network.decomposed) or 'no layer'}")
    print(_format_provenance(network))


def report(arguments: argparse.Namespace) -> None:
    from blendsearch.cli.answer_text import print_answer
    from blendsearch.results.report.output_file import check_output_path
    from blendsearch.results.report.report import write_report
    from blendsearch.runs.run import open_run

    run = open_run(arguments.runs, arguments.run)
    path = arguments.out or Path(f"{run.name}.html")
    check_output_path(path, "report", (".html", ".htm"))
    facts = write_report(run, path)
    if arguments.json:
        plain = [sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in facts.sentences]
        written = {"run": run.name, "report": str(path), "bytes": path.stat().st_size}
        results = {"answer": facts.answer.to_dict(), "importance": facts.importance.to_dict()}
        print(format_json({**written, "sentences": plain, **results}))
        return
    print_answer(facts.answer, table=False)
    print("\n".join(facts.sentences).replace("\N{NO-BREAK SPACE}", " "))
    if facts.no_figures:
        print(f"warning: {facts.no_figures}", file=sys.stderr)
    print(f"report: {path} ({path.stat().st_size / 1000:.0f} kB)")


def _print_groups(groups: "Sequence[GroupRecord]") -> None:
    """Print a row per group; a blend that all groups share is printed once above the table."""
    blends = [_format_blend(group) for group in groups]
    shared = len(set(blends)) == 1 and len(blends) > 1
    if shared and blends[0]:
        print(f"blend, in every group: {blends[0]}")
    columns = ("group", "kept", "channels", "share of the dense")
    table = make_table(*columns) if shared else make_table(*columns, "blend")
    for group, blend in zip(groups, blends, strict=True):
        share = f"{_format_bar(group.kept_ratio)} {group.kept_ratio:>4.0%}"
        cells = (group.group, str(group.kept), f"of {group.channels}", share)
        table.add_row(*cells) if shared else table.add_row(*cells, blend)
    print_table(table)


def _format_origin(network: "NetworkDetails") -> str:
    from blendsearch.runs.origin import DENSE

    generation = "" if network.origin == DENSE else f", generation {network.generation}"
    return f"{network.origin}{generation}{', on the front' if network.on_front else ''}"


def _format_costs(network: "NetworkDetails") -> str:
    named = [
        f"{network.macs:,} MACs ({network.macs_ratio:.2%} of {network.dense['macs']:,})",
        f"{network.params:,} parameters ({network.params_ratio:.2%} of {network.dense['params']:,})",
    ]
    further = {column: field for column, field in COST_COLUMNS.items() if field not in ("macs_ratio", "params_ratio")}
    known = {column: getattr(network, field) for column, field in further.items()}
    return ", ".join([*named, *(f"{column} {ratio:.2%}" for column, ratio in known.items() if ratio is not None)])


def _format_evaluation(network: "NetworkDetails", metric: "RunMetric") -> str:
    recovered = ", cut from the dense network and recovered" if network.finals else ""
    metrics = []
    if network.val_loss is not None:
        metrics.append(f"validation {metric.loss_name} {metric.convert_loss(network.val_loss):.4f}")
    for split, accuracy in (("validation", network.val_accuracy), ("test", network.test_accuracy)):
        if accuracy is not None:
            metrics.append(f"{split} {metric.name} {accuracy:.2%}")
    metrics += [f"{name} {value:.4g}" for name, value in (network.further or {}).items() if name != metric.name]
    return f"evaluated at fidelity {network.fidelity} in {network.seconds:.1f} s{recovered}: {', '.join(metrics)}"


def _format_fine_tune(final: "FineTuneRecord", metric: "RunMetric") -> str:
    metrics = (
        f"validation {metric.name} {final.val_accuracy:.2%}, test {metric.name} {final.test_accuracy:.2%}"
        if metric.share
        else f"validation {metric.loss_name} {metric.convert_loss(final.val_loss):.4f}, "
        f"test {metric.loss_name} {metric.convert_loss(final.test_loss):.4f}"
    )
    return f"{final.how}, seed {final.repeat}: {metrics}"


def _format_provenance(network: "NetworkDetails") -> str:
    facts = network.provenance
    packages = ", ".join(f"{name} {facts['packages'][name]}" for name in ("blendsearch", "torch"))
    commit = f", git {facts['git'][:12]}" if facts["git"] else ""
    return (
        f"cut {network.cut}, seed {network.seed}; {packages}, on {facts['device']}{commit}; "
        f"data {facts['data_sha256'][:12]}, dense weights {facts['weights_sha256'][:12]}"
    )


def _format_bar(ratio: float) -> str:
    full, empty = "█░"
    try:
        (full + empty).encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        full, empty = "#."
    filled = max(1, round(BAR_LENGTH * ratio))
    return full * filled + empty * (BAR_LENGTH - filled)


def _format_blend(group: "GroupRecord") -> str:
    if group.log_alpha is not None and group.beta is not None:
        return f"log alpha {group.log_alpha:+.2f}, beta {group.beta:+.2f}"
    shown = [item for item in group.blend or () if item.part >= MIN_SHARE]
    parts = [f"{item.criterion} {item.part:.0%}" for item in shown[:MAX_CRITERIA]]
    rest = len(shown) - MAX_CRITERIA
    return ", ".join(parts) + (f", {rest} more" if rest > 0 else "")
