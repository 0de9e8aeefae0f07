"""A search in progress: everything that its stages share."""

from dataclasses import dataclass

from blendsearch.engine.base import Engine
from blendsearch.events import Reporter, Warned
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.run import Run
from blendsearch.runs.store import Store


@dataclass(frozen=True, eq=False)
class SearchSession:
    """The run directory, the problem, the engine, the open store and the reporter of one search."""

    run: Run
    problem: Problem
    engine: Engine
    store: Store
    report: Reporter

    def warn(self, text: str) -> None:
        """Report a warning."""
        self.report(Warned(text=text))
