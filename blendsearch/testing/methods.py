"""The contract of a search method: a torch-free spec, exact budgets, and a search that resumes to the same end."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from blendsearch.engine.base import Engine, submit_nothing
from blendsearch.engine.local import LocalEngine
from blendsearch.events import ignore_event
from blendsearch.fitness.evaluator import Outcome
from blendsearch.pipeline.launch import run_search, set_up_run
from blendsearch.pipeline.methods.method import load_method
from blendsearch.pipeline.problem.persistence import restore
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.config.loading import parse_config
from blendsearch.runs.config.method_registry import get_method
from blendsearch.runs.config.schema import Config
from blendsearch.runs.origin import DENSE
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import Run, open_run


def check_method(
    name: str, tree: dict[str, Any], folder: Path, *, module: str | None = None, stop_after: int = 1
) -> Run:
    """Check the registered method `name` by two searches below `folder`, and return the finished run.

    `tree` is a config of a few seconds, as a tree of dicts, that runs in this process (``engine.ray: off``). The second
    search is stopped after `stop_after` evaluations, then resumed. `module`: see `check_spec`.
    """
    check_spec(name, module)
    config = parse_config(tree | {"method": name}, f"method {name}")
    run, problem = _search(config, folder, "whole")
    rows = read_candidates(run)
    check_budgets(rows, problem)
    check_networks(rows, config)
    _search_and_stop(config, folder, "stopped", stop_after)
    stopped = open_run(folder, "stopped")
    if not stopped.finished:
        restored = restore(stopped)
        run_search(stopped, restored, LocalEngine(restored.evaluator), ignore_event)
    assert _list_facts(read_candidates(stopped)) == _list_facts(rows), f"method {name}: a resumed search ends otherwise"
    return run


def check_spec(name: str, module: str | None = None) -> None:
    """Check that the spec of `name` has a summary and an implementation that is a `Method`.

    `module` registers the method; importing it must not import torch.
    """
    assert get_method(name).summary, f"method {name} has no summary"
    load_method(name)
    if module is not None:
        code = f"import sys; sys.path[:] = {sys.path!r}; import {module}; sys.exit('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, f"method {name}: {module} imports torch, or fails: {done.stderr[-300:]}"


def check_budgets(rows: list[Evaluation], problem: Problem) -> None:
    """Check that no evaluated network is above the budget."""
    spans, dense = problem.config.budget.get_spans(), problem.structure.oracle.dense
    for row in rows:
        for cost, spent in (("macs", row.macs), ("params", row.params)):
            if cost in spans:
                assert spent <= spans[cost][1] * dense[cost], f"{row.origin} is above budget.{cost}"


def check_networks(rows: list[Evaluation], config: Config) -> None:
    """Check that evaluated networks are distinct and within `search.evaluations`, and as many as the traits promise."""
    traits = get_method(config.method).traits
    assert rows, f"method {config.method} evaluated no network"
    assert len({row.digest for row in rows}) == len(rows) <= config.search.evaluations
    assert not traits.one_network or len(rows) == 1, f"method {config.method} promises one network"
    assert not traits.fixed_networks or all(row.generation == 0 for row in rows)


def read_candidates(run: Run) -> list[Evaluation]:
    """Read the evaluations of `run` without that of the dense network."""
    with run.open_store(read_only=True) as store:
        return [row for row in store.read_evaluations() if row.origin != DENSE]


class Stopped(Exception):
    """The interruption that `check_method` causes."""


class StoppingEngine:
    """An engine that is interrupted after `limit` further outcomes."""

    def __init__(self, engine: Engine, limit: int) -> None:
        self._engine, self._left = engine, limit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def iter_outcomes(self, feed: Callable[[], None] = submit_nothing) -> Iterator[Outcome]:
        """Yield the outcomes of the engine. Raises Stopped after the last one allowed."""
        for outcome in self._engine.iter_outcomes(feed):
            if self._left < 0:
                raise Stopped
            self._left -= 1
            yield outcome


def _search(config: Config, folder: Path, name: str) -> tuple[Run, Problem]:
    run, problem, engine = set_up_run(config, folder, name, ["check_method"], ignore_event)
    run_search(run, problem, engine, ignore_event)
    return run, problem


def _search_and_stop(config: Config, folder: Path, name: str, stop_after: int) -> None:
    run, problem, engine = set_up_run(config, folder, name, ["check_method"], ignore_event)
    stopping: Any = StoppingEngine(engine, stop_after)
    try:
        run_search(run, problem, stopping, ignore_event)
    except Stopped:
        return


def _list_facts(rows: list[Evaluation]) -> list[tuple[Any, ...]]:
    return [(row.id, row.digest, row.origin, row.genome, row.loss, row.error) for row in rows]
