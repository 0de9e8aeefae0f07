"""The command line: verbs over the floors below. Knows everything, decides nothing."""

import argparse
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blendsearch.errors import BlendsearchError

if TYPE_CHECKING:
    from rich.table import Table

    from blendsearch.engine.engine import Engine
    from blendsearch.progress import JsonLines, Lines
    from blendsearch.runs.config import Config
    from blendsearch.runs.directory import Run
    from blendsearch.search.setting import Setting

WRONG_INPUT, INTERRUPTED = 2, 130


def main(words: Sequence[str] | None = None) -> None:
    """Run one verb and exit: 0 done, 2 wrong input, 130 interrupted."""
    arguments = _parser().parse_args(words)
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)  # a person's own model and criteria stand beside their config
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warned
            arguments.verb(arguments)
    except BlendsearchError as error:
        print(f"blendsearch: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(WRONG_INPUT)
    except KeyboardInterrupt:
        print("blendsearch: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="blendsearch",
        description="Search for really smaller CNNs: blended pruning criteria and widths under an exact budget.",
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    def verb(name: str, function: Callable[[argparse.Namespace], None], help: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=help, description=help)
        added.set_defaults(verb=function)
        added.add_argument(
            "--runs", type=Path, default=Path("runs"), metavar="DIR", help="where runs are (default: runs)"
        )
        return added

    search = verb("search", _search, "search for smaller networks; without CONFIG, the built-in digits example")
    search.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help="a YAML file")
    search.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the config"
    )
    search.add_argument("--ray", metavar="WHERE", help="off, local, auto, or a cluster's address (default: engine.ray)")
    search.add_argument("--name", metavar="ID", help="the run's id (default: after the model)")
    search.add_argument("--json", action="store_true", help="one JSON object per event instead of text")

    resume = verb("resume", _resume, "continue a search that stopped, to the result it would have had")
    resume.add_argument("run", metavar="RUN")
    resume.add_argument("--ray", metavar="WHERE", help="off, local, auto, or a cluster's address")
    resume.add_argument("--json", action="store_true", help="one JSON object per event instead of text")

    runs = verb("runs", _runs, "list the runs")
    runs.add_argument("--json", action="store_true", help="a JSON list instead of a table")

    front = verb("front", _front, "show what a run found")
    front.add_argument("run", metavar="RUN")
    front.add_argument("--json", action="store_true", help="one JSON object instead of a table")

    export = verb("export", _export, "write a found network as safetensors and JSON")
    export.add_argument("run", metavar="RUN")
    export.add_argument("--pick", default="best", metavar="best|knee|ID", help="which network (default: best)")
    export.add_argument("--to", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    export.add_argument("--json", action="store_true", help="one JSON object instead of text")

    criteria = verb("criteria", _criteria, "list the criteria")
    criteria.add_argument("--json", action="store_true", help="a JSON list instead of a table")
    return parser


def _search(arguments: argparse.Namespace) -> None:
    from blendsearch.runs.config import load_config
    from blendsearch.runs.directory import check_name, free_name

    overrides = list(arguments.set)
    if arguments.ray is not None:
        overrides.append(f"engine.ray={json.dumps(arguments.ray)}")
    config = load_config(arguments.config, overrides)
    name = arguments.name or free_name(arguments.runs, config.model.factory.rpartition(":")[2])
    check_name(arguments.runs, name)  # before anything that takes time
    report = _reporter(arguments, config)
    try:
        from blendsearch.engine.engine import start_engine
        from blendsearch.search.setting import prepare, record

        setting = prepare(config, report)
        engine = start_engine(config.engine, setting.evaluator)
        run = record(setting, arguments.runs, name, ["blendsearch", *sys.argv[1:]])
        report("run", {"run": run.name, "path": str(run.path)})
        _run(run, setting, engine, report)
    finally:
        report.close()
    _show(run, arguments)


def _resume(arguments: argparse.Namespace) -> None:
    from blendsearch.runs.directory import open_run

    run = open_run(arguments.runs, arguments.run)
    if run.finished:
        print(f"run {run.name} has finished: nothing to resume", file=sys.stderr)
        _show(run, arguments)
        return
    report = _reporter(arguments, run.config)
    try:
        from blendsearch.engine.engine import start_engine
        from blendsearch.search.setting import restore

        chosen = run.config.engine
        if arguments.ray is not None:
            chosen = chosen.model_copy(update={"ray": arguments.ray})
        setting = restore(run)
        _run(run, setting, start_engine(chosen, setting.evaluator), report)
    finally:
        report.close()
    _show(run, arguments)


def _run(run: "Run", setting: "Setting", engine: "Engine", report: "JsonLines | Lines") -> None:
    """Search `run` to its end; an interruption leaves it resumable and says how."""
    from blendsearch.search.loop import search

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with run.locked():
            search(run, setting, engine, report)
    except KeyboardInterrupt:
        report.close()
        folder = "" if run.path.parent == Path("runs") else f" --runs {run.path.parent}"
        print(f"blendsearch: stopped; continue with: blendsearch resume {run.name}{folder}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        engine.close()
        signal.signal(signal.SIGTERM, before)


def _runs(arguments: argparse.Namespace) -> None:
    from blendsearch.inspect.listing import listing

    rows = listing(arguments.runs)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    if not rows:
        print(f"no runs in {arguments.runs}")
        return
    table = _table("run", "model", "data", "budget", "evaluations", "best accuracy", "state")
    for row in rows:
        best = "" if row["best_val_accuracy"] is None else f"{row['best_val_accuracy']:.2%}"
        done = f"{row['evaluations']} of {row['asked']}"
        table.add_row(row["run"], row["model"], row["data"], row["budget"], done, best, row["state"])
    _print(table)


def _front(arguments: argparse.Namespace) -> None:
    from blendsearch.runs.directory import open_run

    _show(open_run(arguments.runs, arguments.run), arguments)


def _show(run: "Run", arguments: argparse.Namespace) -> None:
    from blendsearch.inspect.summary import summary

    found = summary(run)
    if arguments.json:
        whole = {"run": run.name, "finished": run.finished, **found}
        print(json.dumps(whole, indent=1 if arguments.verb is _front else None))
        return
    costs = _costs_shown(found["dense"])
    table = _table("id", "network", *costs, "val loss", "val acc", "test acc")
    for section in ("dense", "baselines", "front"):
        for row in found[section]:
            origin = row["origin"].split(" = ")[0] if section != "front" else f"front: {row['origin'].split(' = ')[0]}"
            table.add_row(
                str(row["id"]),
                origin,
                *_ratios(row, costs),
                f"{row['val_loss']:.4f}",
                f"{row['val_accuracy']:.2%}",
                "" if row["test_accuracy"] is None else f"{row['test_accuracy']:.2%}",
            )
        table.add_section()
    _print(table)
    if found["finals"]:
        table = _table("id", "fine-tuned to the end", *costs, "val acc", "test acc", "seeds")
        for row in found["finals"]:
            val, test = (f"{row[f'{name}_accuracy']:.2%} ± {row[f'{name}_spread']:.2%}" for name in ("val", "test"))
            table.add_row(
                str(row["id"]), row["origin"].split(" = ")[0], *_ratios(row, costs), val, test, str(row["seeds"])
            )
        _print(table)
    print(f"splits: {run.structure['splits']}")
    if "latency" in run.structure:
        facts = run.structure["latency"]
        print(
            f"latency on {facts['where']}: charged {facts['margin']:.1%} above what the model predicts; measured "
            f"beside the dense network ({facts['dense_ms']:.2f} ms when the search began), median"
        )
    if not found["front"]:
        print("nothing has been evaluated yet")


COSTS_SHOWN = {
    "MACs": "macs_ratio",
    "params": "params_ratio",
    "memory": "memory_ratio",
    "latency": "latency_ratio",
    "measured": "latency_measured",
}
"""Columns of costs, and the fields they show; those that a run has no budget for are left out."""


def _costs_shown(rows: list[dict[str, Any]]) -> dict[str, str]:
    known = rows[0] if rows else {}
    return {column: field for column, field in COSTS_SHOWN.items() if column in ("MACs", "params") or field in known}


def _ratios(row: dict[str, Any], costs: dict[str, str]) -> list[str]:
    return ["" if row[field] is None else f"{row[field]:.2%}" for field in costs.values()]


def _export(arguments: argparse.Namespace) -> None:
    from blendsearch.inspect.export import export
    from blendsearch.inspect.summary import pick
    from blendsearch.runs.directory import open_run
    from blendsearch.search.setting import restore

    run = open_run(arguments.runs, arguments.run)
    pick(run, arguments.pick)  # before the data is loaded
    done = export(run, restore(run), arguments.pick, arguments.to)
    if arguments.json:
        print(json.dumps({**done.__dict__, "folder": str(done.folder)}))
        return
    own = "" if ":" not in (factory := run.config.model.factory) or factory.startswith("torchvision:") else factory
    hint = f", factory={own.rpartition(':')[2]}" if own else ""
    print(
        f"network {done.id} in {done.folder}: {done.macs:,} MACs ({done.macs_ratio:.2%} of dense), {done.params:,} "
        f"parameters, validation accuracy {done.val_accuracy:.2%} after loading it back\n"
        f"load it with: blendsearch.load({str(done.folder)!r}{hint})"
    )


def _criteria(arguments: argparse.Namespace) -> None:
    from blendsearch.criteria.registry import CRITERIA, load_pool

    load_pool()
    if arguments.json:
        fields = ("name", "family", "cost", "source", "formula")
        print(json.dumps([{field: getattr(item, field) for field in fields} for item in CRITERIA.values()], indent=1))
        return
    table = _table("criterion", "family", "cost", "what it computes", "from")
    for item in sorted(CRITERIA.values(), key=lambda item: (item.family, item.name)):
        table.add_row(item.name, item.family, item.cost, item.formula, item.source)
    _print(table)


def _reporter(arguments: argparse.Namespace, config: "Config") -> "JsonLines | Lines":
    from rich.console import Console

    from blendsearch.progress import JsonLines, Lines

    return JsonLines() if arguments.json else Lines(Console(), config.search.evaluations)


def _table(*columns: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    numbers = {*COSTS_SHOWN, "id", "val loss", "val acc", "test acc", "best accuracy", "seeds"}
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left")
    return table


def _print(table: "Table") -> None:
    from rich.console import Console

    console = Console()
    # in a pipe there is no width to fit: let every row be one line
    Console(width=None if console.is_terminal else 200).print(table)


def _warned(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
    """Our own warnings as one line; those of libraries are of no use to a person."""
    if category is UserWarning and "blendsearch" in filename:
        print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
