"""Verbs that read a run: runs, front, export; and the table of a comparison."""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from blendsearch.cli.terminal import COST_COLUMNS, make_table, print_table, read_pick
from blendsearch.json_output import format_json
from blendsearch.runs.default_folder import format_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blendsearch.results.export.export import ExportResult
    from blendsearch.results.records import (
        FinalRecord,
        MethodSummary,
        NetworkRecord,
        PairedDifference,
        RunSummary,
        Spread,
    )
    from blendsearch.runs.run import Run
    from blendsearch.runs.run_facts import StructureFacts


def show_runs(arguments: argparse.Namespace) -> None:
    from blendsearch.results.listing import summarize_runs

    rows = summarize_runs(arguments.runs)
    if arguments.json:
        print(format_json([row.to_dict() for row in rows], indent=1))
        return
    shown = [row for row in rows if arguments.archived or not row.archived]
    hidden = f"; {len(rows) - len(shown)} archived: blendsearch runs --archived" if len(shown) < len(rows) else ""
    if not shown:
        print(f"no runs in {arguments.runs}{hidden}")
        return
    tagged = any(row.tags for row in shown)
    table = make_table("run", "model", "data", "budget", "evaluations", "best accuracy", "state", *["tags"] * tagged)
    for row in shown:
        done, best = f"{row.evaluations} of {row.asked}", _format_ratio(row.best_val_accuracy)
        tags = [", ".join(row.tags)] * tagged
        table.add_row(row.run, row.model, row.data, row.budget, done, best, row.state, *tags)
    print_table(table)
    if hidden:
        print(hidden.removeprefix("; "))


def show_front(arguments: argparse.Namespace) -> None:
    from blendsearch.runs.run import open_run

    run = open_run(arguments.runs, arguments.run)
    if arguments.out is not None:
        from blendsearch.results.report.front_plot import draw_front
        from blendsearch.results.report.output_file import check_output_path

        check_output_path(arguments.out)
        draw_front(run, arguments.out)
    print_summary(run, arguments)
    if arguments.out is not None and not arguments.json:
        print(f"picture: {arguments.out}")


def print_summary(run: "Run", arguments: argparse.Namespace) -> None:
    """Print the answer of a run, or all of its results, as text or as JSON."""
    from blendsearch.cli.answer_text import print_answer
    from blendsearch.results.answer import compose_answer
    from blendsearch.results.summary import summarize_run

    found = summarize_run(run)
    answer = compose_answer(run, found)
    if arguments.json:
        whole = {"run": run.name, "finished": run.finished, **found.to_dict(), "answer": answer.to_dict()}
        if arguments.verb is show_front:
            picture = {} if arguments.out is None else {"picture": str(arguments.out)}
            print(format_json({**whole, **picture}, indent=1))
        else:
            print(format_json({"event": "result", **whole}))
        return
    whole_table = getattr(arguments, "all", False)
    print_answer(answer, table=not whole_table)
    if whole_table:
        _print_front(found, run.structure)
    elif answer.hidden > 0:
        print(f"{answer.hidden} more networks: blendsearch front {run.name} --all{format_option(arguments.runs)}")


def _print_front(summary: "RunSummary", structure: "StructureFacts") -> None:
    """Print the results of a run; `structure` describes its splits and latency measurements."""
    from blendsearch.results.ladder_summary import format_ladder, format_noise

    costs = _select_cost_columns(summary.dense)
    measure = structure.get("metric", "acc")
    if summary.finals:
        _print_finals(summary, costs, measure)
    _print_networks(summary, costs, measure)
    for item in summary.fidelities:
        if item.tau is not None:
            print(
                f"Kendall's tau between {item.cheaper} and {item.dearer} losses: {item.tau:.2f} over the "
                f"{item.networks} networks that had both"
            )
    for sentence in (format_noise(summary.noise), format_ladder(summary.ladder)):
        if sentence is not None:
            print(sentence)
    print(f"splits: {structure['splits']}")
    if "latency" in structure:
        facts = structure["latency"]
        print(
            f"latency on {facts['where']}: charged {facts['margin']:.1%} above the model's prediction; measured in "
            f"turns with the dense network ({facts['dense_ms']:.2f} ms when the search began), median"
        )
    if not summary.front:
        print("nothing has been evaluated yet")


def _print_networks(summary: "RunSummary", costs: Mapping[str, str], measure: str) -> None:
    from blendsearch.runs.origin import Origin

    title = "before training" if summary.finals else "network"
    rows = (*summary.dense, *summary.baselines, *summary.front)
    further = [name for row in rows for name in row.further or {} if name != measure]
    further = list(dict.fromkeys(further))
    table = make_table("id", title, *costs, "val loss", f"val {measure}", f"test {measure}", *further)
    for section in (summary.dense, summary.baselines, summary.front):
        for row in section:
            table.add_row(
                str(row.id),
                f"{'front: ' if section is summary.front else ''}{Origin.parse(row.origin).label}",
                *_format_costs(row, costs),
                f"{row.val_loss:.4f}",
                _format_ratio(row.val_accuracy),
                _format_ratio(row.test_accuracy),
                *(f"{found:.4g}" if (found := (row.further or {}).get(name)) is not None else "" for name in further),
            )
        table.add_section()
    print_table(table)


def _print_finals(summary: "RunSummary", costs: Mapping[str, str], measure: str) -> None:
    """Print the trained networks below the dense one; the last column is their accuracy in the search."""
    from blendsearch.runs.origin import Origin

    before = {row.cut: row.val_accuracy for row in (*summary.baselines, *summary.front)}
    table = make_table(
        "id", "after training", *costs, f"val {measure}", f"test {measure}", "seeds", f"val {measure} before"
    )
    for dense in summary.dense:
        accuracies = _format_ratio(dense.val_accuracy), _format_ratio(dense.test_accuracy)
        table.add_row(str(dense.id), "dense, as it was", *_format_costs(dense, costs), *accuracies, "", "")
    table.add_section()
    for row in summary.finals:
        table.add_row(
            str(row.id),
            Origin.parse(row.origin).label,
            *_format_costs(row, costs),
            _format_accuracy_spread(row.val_accuracy, row.val_spread if row.seeds > 1 else None),
            _format_accuracy_spread(row.test_accuracy, row.test_spread if row.seeds > 1 else None),
            str(row.seeds),
            _format_ratio(before.get(row.cut)),
        )
    print_table(table)


def _select_cost_columns(rows: "Sequence[NetworkRecord]") -> dict[str, str]:
    """Select the columns of costs: MACs, parameters, and what else has a budget."""
    known = rows[0].to_dict() if rows else {}
    return {column: field for column, field in COST_COLUMNS.items() if column in ("MACs", "params") or field in known}


def _format_costs(row: "NetworkRecord | FinalRecord", costs: Mapping[str, str]) -> list[str]:
    return [_format_ratio(getattr(row, field)) for field in costs.values()]


def _format_ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _format_points(value: float) -> str:
    return f"{100 * value:.2f}"


def _format_accuracy_spread(mean: float | None, deviation: float | None) -> str:
    """Format an accuracy in per cent and its standard deviation in points."""
    return _format_ratio(mean) + ("" if mean is None or deviation is None else f" ± {_format_points(deviation)}")


def print_comparison(run: "Run", arguments: argparse.Namespace) -> None:
    """Print a run and its controls, as far as they have been searched."""
    from blendsearch.results.comparison import summarize_comparison

    found = summarize_comparison(run)
    if arguments.json:
        event = {} if arguments.controls == "none" else {"event": "result"}
        print(format_json({**event, **found.to_dict()}))
        return
    measure = run.structure.get("metric", "acc")
    table = make_table(
        *("method", "seeds", "val loss", f"val {measure}", f"test {measure}", "test difference in points, 95 %")
    )
    for row in found.methods:
        table.add_row(*_format_method(row))
    print(f"{run.name} at {found.budget}, each with {run.config.search.evaluations} evaluations a seed")
    print_table(table)
    print(found.verdict)


def _format_method(row: "MethodSummary") -> tuple[str, ...]:
    return (
        row.name,
        str(len(row.seeds)),
        _format_loss_spread(row.val_loss),
        _format_accuracy_spread(row.val_accuracy.mean, row.val_accuracy.deviation),
        _format_accuracy_spread(row.test_accuracy.mean, row.test_accuracy.deviation),
        _format_difference(row.difference),
    )


def _format_loss_spread(loss: "Spread") -> str:
    if loss.mean is None:
        return ""
    return f"{loss.mean:.4f}" + ("" if loss.deviation is None else f" ± {loss.deviation:.4f}")


def _format_difference(difference: "PairedDifference | None") -> str:
    if difference is None or difference.mean is None:
        return ""
    half = "" if difference.half_width is None else f" ± {_format_points(difference.half_width)}"
    return f"{100 * difference.mean:+.2f}{half}"


def export(arguments: argparse.Namespace) -> None:
    from blendsearch.errors import RunError
    from blendsearch.pipeline.problem.inputs import UserInputs, is_in_python
    from blendsearch.pipeline.problem.persistence import restore
    from blendsearch.results.export.export import check_folder, export, export_stored_weights
    from blendsearch.results.export.formats import check_formats
    from blendsearch.results.summary import select_network
    from blendsearch.runs.run import open_run

    run = open_run(arguments.runs, arguments.run)
    formats = [name for name in ("pt2", "onnx", "int8") if getattr(arguments, name)]
    pick = read_pick(arguments)
    folder = arguments.out or Path(f"{run.name}-{pick}")
    select_network(run, pick)  # these before the data is loaded
    check_folder(folder)
    check_formats(formats)
    own = is_in_python(run.config)
    if own and formats:
        raise RunError(
            f"{' and '.join(formats)} need the network, which lives in Python: export there, "
            f"blendsearch.open({run.name!r}, model=, data=).network({pick!r}).export(..., {formats[0]}=True)"
        )
    if own:
        done = export_stored_weights(run, pick, folder)
    else:
        problem = restore(run, inputs=UserInputs(trust=arguments.trust))
        done = export(run, problem, pick, folder, formats)
    if arguments.json:
        print(format_json(done.to_dict()))
        return
    _print_export(done, run.config.model.factory, in_python=own)


def _print_export(done: "ExportResult", factory: str, *, in_python: bool) -> None:
    from blendsearch.results.export.int8 import QuantizedFile, describe_int8

    hint = ", model=the dense network" if in_python else f", factory={factory.rpartition(':')[2]}"
    if ":" not in factory or factory.startswith("torchvision:"):
        hint = ""
    accuracy = f"loss {done.val_loss:.4f}" if done.val_accuracy is None else f"accuracy {done.val_accuracy:.2%}"
    print(
        f"network {done.id} in {done.folder}: {done.macs:,} MACs ({done.macs_ratio:.2%} of dense), {done.params:,} "
        f"parameters ({done.params_ratio:.2%}), validation {accuracy} "
        f"{'after loading it back' if done.checked else 'in the search'}, {done.fidelity}"
    )
    for line in _format_latency(done):
        print(line)
    for item in done.files:
        checked = "" if item.difference is None else f", outputs within {item.difference:.1e} of the module's"
        allowed = "" if item.tolerance is None else f" (of their spread; allowed {item.tolerance:g})"
        if isinstance(item, QuantizedFile):
            checked = f", {describe_int8(item)}"
        print(f"  {item.name:<20} {item.bytes:>12,} bytes{checked}{allowed}")
    print(f"  the dense weights take {done.dense_bytes:,} bytes")
    print(f"load it with: blendsearch.load({str(done.folder)!r}{hint})")


def _format_latency(done: "ExportResult") -> Iterator[str]:
    """Format the time of one pass in each runtime, and a warning where it is long for the MACs."""
    from blendsearch.results.latency_text import RUNTIME_NAMES, describe_slowness

    if (latency := done.latency) is None:
        return
    pairs = {"torch": latency, **({"onnxruntime": latency["onnxruntime"]} if "onnxruntime" in latency else {})}
    for name, pair in pairs.items():
        ratio = pair["pruned_ms"] / pair["dense_ms"]
        place = f"on {latency['where']}" if name == "torch" else f"in {RUNTIME_NAMES[name]}"
        times = f"dense {pair['dense_ms']:.3f} ms, pruned {pair['pruned_ms']:.3f} ms ({ratio:.1%})"
        yield f"one pass {place}: {times}, the fastest of passes in turns"
    measured = {name: (pair["dense_ms"], pair["pruned_ms"]) for name, pair in pairs.items()}
    if slow := describe_slowness(measured, done.macs_ratio):
        yield f"warning: the network is {slow}"
