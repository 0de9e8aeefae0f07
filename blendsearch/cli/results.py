"""The verbs that read a run: runs, front, export; and the table of a comparison."""

import argparse
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from blendsearch.cli.terminal import COST_COLUMNS, make_table, print_table

if TYPE_CHECKING:
    from blendsearch.runs.run import Run


def show_runs(arguments: argparse.Namespace) -> None:
    from blendsearch.results.listing import summarize_runs

    rows = summarize_runs(arguments.runs)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    if not rows:
        print(f"no runs in {arguments.runs}")
        return
    table = make_table("run", "model", "data", "budget", "evaluations", "best accuracy", "state")
    for row in rows:
        best = "" if row["best_val_accuracy"] is None else f"{row['best_val_accuracy']:.2%}"
        done = f"{row['evaluations']} of {row['asked']}"
        table.add_row(row["run"], row["model"], row["data"], row["budget"], done, best, row["state"])
    print_table(table)


def show_front(arguments: argparse.Namespace) -> None:
    from blendsearch.runs.run import open_run

    run = open_run(arguments.runs, arguments.run)
    if arguments.plot is not None:
        from blendsearch.results.report.front_plot import draw_front
        from blendsearch.results.report.output_file import check_output_path

        check_output_path(arguments.plot)
        draw_front(run, arguments.plot)
    print_summary(run, arguments)
    if arguments.plot is not None and not arguments.json:
        print(f"picture: {arguments.plot}")


def print_summary(run: "Run", arguments: argparse.Namespace) -> None:
    from blendsearch.results.summary import summarize_run

    found = summarize_run(run)
    if arguments.json:
        whole = {"run": run.name, "finished": run.finished, **found}
        print(json.dumps(whole, indent=1 if arguments.verb is show_front else None))
        return
    _print_front(found, run.structure)


def _print_front(summary: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
    """What `summary` found; `notes` say of the run how it was split, and how latency was measured."""
    costs = _select_cost_columns(summary["dense"])
    table = make_table("id", "network", *costs, "val loss", "val acc", "test acc")
    for section in ("dense", "baselines", "front"):
        for row in summary[section]:
            origin = row["origin"].split(" = ")[0] if section != "front" else f"front: {row['origin'].split(' = ')[0]}"
            table.add_row(
                str(row["id"]),
                origin,
                *_format_ratios(row, costs),
                f"{row['val_loss']:.4f}",
                *("" if row[name] is None else f"{row[name]:.2%}" for name in ("val_accuracy", "test_accuracy")),
            )
        table.add_section()
    print_table(table)
    if summary["finals"]:
        table = make_table("id", "fine-tuned to the end", *costs, "val acc", "test acc", "seeds")
        for row in summary["finals"]:
            val, test = (
                "" if row["val_accuracy"] is None else f"{row[f'{name}_accuracy']:.2%} ± {row[f'{name}_spread']:.2%}"
                for name in ("val", "test")
            )
            table.add_row(
                str(row["id"]), row["origin"].split(" = ")[0], *_format_ratios(row, costs), val, test, str(row["seeds"])
            )
        print_table(table)
    for item in summary["fidelities"]:
        if item["tau"] is not None:
            print(
                f"Kendall's tau between {item['cheaper']} and {item['dearer']} losses: {item['tau']:.2f} over the "
                f"{item['networks']} networks that had both"
            )
    print(f"splits: {notes['splits']}")
    if "latency" in notes:
        facts = notes["latency"]
        print(
            f"latency on {facts['where']}: charged {facts['margin']:.1%} above what the model predicts; measured "
            f"beside the dense network ({facts['dense_ms']:.2f} ms when the search began), median"
        )
    if not summary["front"]:
        print("nothing has been evaluated yet")


def _select_cost_columns(rows: list[dict[str, Any]]) -> dict[str, str]:
    known = rows[0] if rows else {}
    return {column: field for column, field in COST_COLUMNS.items() if column in ("MACs", "params") or field in known}


def _format_ratios(row: dict[str, Any], costs: dict[str, str]) -> list[str]:
    return ["" if row[field] is None else f"{row[field]:.2%}" for field in costs.values()]


def print_comparison(run: "Run", arguments: argparse.Namespace) -> None:
    """A run beside its controls, as far as they have been searched."""
    from blendsearch.results.comparison import summarize_comparison

    found = summarize_comparison(run)
    if arguments.json:
        print(json.dumps(found))
        return

    def format_spread(facts: Mapping[str, Any], form: str) -> str:
        if facts["mean"] is None:
            return ""
        return f"{facts['mean']:{form}}" + ("" if facts["deviation"] is None else f" ± {facts['deviation']:{form}}")

    table = make_table("method", "seeds", "val loss", "val acc", "test acc", "difference on test, 95 %")
    for row in found["methods"]:
        numbers = (
            *(format_spread(row["val_loss"], ".4f"), format_spread(row["val_accuracy"], ".2%")),
            format_spread(row["test_accuracy"], ".2%"),
        )
        difference = row.get("difference", {"mean": None})
        apart = "" if difference["mean"] is None else f"{difference['mean']:+.2%}"
        if difference.get("half_width") is not None:
            apart += f" ± {difference['half_width']:.2%}"
        table.add_row(row["name"], str(len(row["seeds"])), *numbers, apart)
    print(f"{run.name} at {found['budget']}, each with {run.config.search.evaluations} evaluations a seed")
    print_table(table)
    print(found["verdict"])


def export(arguments: argparse.Namespace) -> None:
    from blendsearch.errors import RunError
    from blendsearch.pipeline.problem.inputs import is_in_python
    from blendsearch.pipeline.problem.persistence import restore
    from blendsearch.results.export.export import check_folder, export, export_stored_weights
    from blendsearch.results.export.formats import check_formats
    from blendsearch.results.summary import select_network
    from blendsearch.runs.run import open_run

    run = open_run(arguments.runs, arguments.run)
    formats = [name for name in ("pt2", "onnx") if getattr(arguments, name)]
    select_network(run, arguments.pick)  # these before the data is loaded
    check_folder(arguments.to)
    check_formats(formats)
    own = is_in_python(run.config)
    if own and formats:
        raise RunError(
            f"{' and '.join(formats)} need the network, which lives in Python: export there, "
            f"blendsearch.open({run.name!r}, model=, data=).network({arguments.pick!r}).export(..., {formats[0]}=True)"
        )
    if own:
        done = export_stored_weights(run, arguments.pick, arguments.to)
    else:
        done = export(run, restore(run), arguments.pick, arguments.to, formats)
    if arguments.json:
        print(json.dumps(done.to_dict()))
        return
    factory = run.config.model.factory
    hint = ", model=the dense network" if own else f", factory={factory.rpartition(':')[2]}"
    if ":" not in factory or factory.startswith("torchvision:"):
        hint = ""
    accuracy = f"loss {done.val_loss:.4f}" if done.val_accuracy is None else f"accuracy {done.val_accuracy:.2%}"
    print(
        f"network {done.id} in {done.folder}: {done.macs:,} MACs ({done.macs_ratio:.2%} of dense), {done.params:,} "
        f"parameters ({done.params_ratio:.2%}), validation {accuracy} "
        f"{'after loading it back' if done.checked else 'in the search'}, {done.fidelity}"
    )
    if (latency := done.latency) is not None:
        ratio = latency["pruned_ms"] / latency["dense_ms"]
        times = f"dense {latency['dense_ms']:.3f} ms, pruned {latency['pruned_ms']:.3f} ms ({ratio:.1%})"
        print(f"one pass on {latency['where']}: {times}, medians of turns")
    for item in done.files:
        checked = "" if item.difference is None else f", outputs within {item.difference:.1e} of the module's"
        allowed = "" if item.tolerance is None else f" (of their spread; allowed {item.tolerance:g})"
        print(f"  {item.name:<20} {item.bytes:>12,} bytes{checked}{allowed}")
    print(f"  the dense weights take {done.dense_bytes:,} bytes")
    print(f"load it with: blendsearch.load({str(done.folder)!r}{hint})")
