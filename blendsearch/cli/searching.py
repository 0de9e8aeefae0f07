"""The verbs that search: search, resume."""

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from blendsearch.cli.showing import show
from blendsearch.cli.terminal import reporter

if TYPE_CHECKING:
    from blendsearch.engine.engine import Engine
    from blendsearch.progress import JsonLines, Lines
    from blendsearch.runs.directory import Run
    from blendsearch.search.setting import Setting

INTERRUPTED = 130


def search(arguments: argparse.Namespace) -> None:
    from blendsearch.runs.config import load_config
    from blendsearch.runs.directory import check_name, free_name

    overrides = list(arguments.set)
    if arguments.ray is not None:
        overrides.append(f"engine.ray={json.dumps(arguments.ray)}")
    config = load_config(arguments.config, overrides)
    name = arguments.name or free_name(arguments.runs, config.model.factory.rpartition(":")[2])
    check_name(arguments.runs, name)  # before anything that takes time
    report = reporter(arguments, config)
    try:
        from blendsearch.engine.engine import start_engine
        from blendsearch.search.setting import prepare, record

        setting = prepare(config, report)
        engine = start_engine(config.engine, setting.evaluator)
        run = record(setting, arguments.runs, name, ["blendsearch", *sys.argv[1:]])
        report("run", {"run": run.name, "path": str(run.path)})
        run_search(run, setting, engine, report)
    finally:
        report.close()
    show(run, arguments)


def resume(arguments: argparse.Namespace) -> None:
    from blendsearch.runs.directory import open_run

    run = open_run(arguments.runs, arguments.run)
    if run.finished:
        print(f"run {run.name} has finished: nothing to resume", file=sys.stderr)
        show(run, arguments)
        return
    report = reporter(arguments, run.config)
    try:
        from blendsearch.engine.engine import start_engine
        from blendsearch.search.setting import restore

        chosen = run.config.engine
        if arguments.ray is not None:
            chosen = chosen.model_copy(update={"ray": arguments.ray})
        setting = restore(run)
        run_search(run, setting, start_engine(chosen, setting.evaluator), report)
    finally:
        report.close()
    show(run, arguments)


def run_search(run: "Run", setting: "Setting", engine: "Engine", report: "JsonLines | Lines") -> None:
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
