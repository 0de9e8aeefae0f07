"""From a config to a search under way: what the command line and Python do alike."""

import socket
import time
from pathlib import Path

from blendsearch.engine.base import Engine
from blendsearch.engine.factory import check_engine, start_engine
from blendsearch.pipeline.loop import search, watched
from blendsearch.pipeline.problem.inputs import BY_NAME, Given
from blendsearch.pipeline.problem.persistence import record
from blendsearch.pipeline.problem.problem import Report, Setting, prepare
from blendsearch.runs.config.schema import Config
from blendsearch.runs.run import Run


def begin(
    config: Config, folder: Path, name: str, command: list[str], report: Report, given: Given = BY_NAME
) -> tuple[Run, Setting, Engine]:
    """A new run directory, and all that its search needs; on an error nothing is left of it."""
    check_engine(config.engine, config.finals.workers)
    setting = prepare(config, report, given=given)
    engine = start_engine(config.engine, setting.evaluator, config.finals.workers)
    try:
        run = record(setting, folder, name, command)
    except BaseException:
        engine.close()
        raise
    report("run", {"run": run.name, "path": str(run.path)})
    return run, setting, engine


def go_on(run: Run, setting: Setting, engine: Engine, report: Report) -> None:
    """Search `run` from where it stands to its end, as its only process; lets go of the engine."""
    try:
        with run.locked():
            run.note_engine({"started": time.time(), "workers": engine.workers, "host": socket.gethostname()})
            search(run, setting, engine, watched(engine, run, report))
    finally:
        engine.close()
