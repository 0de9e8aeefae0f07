"""What a search found, in hand: a run, its front, its networks; each shows itself in a terminal and in a notebook."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from blendsearch.events import ignore_event
from blendsearch.pipeline.problem.inputs import UserInputs
from blendsearch.pipeline.problem.persistence import restore
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.python import display as showing
from blendsearch.results.export.export import ExportResult, export, rebuild_network
from blendsearch.results.network import describe_network
from blendsearch.results.summary import select_network, summarize_run
from blendsearch.runs.run import Run


class SearchRun:
    """A run: what `search`, `resume` and `open` return.

    Attributes
    ----------
    run: its directory, as the floors below know it.
    given: what was handed over in Python.
    """

    def __init__(self, run: Run, inputs: UserInputs, problem: Problem | None = None) -> None:
        self.run = run
        self.inputs = inputs
        self._problem = problem

    @property
    def name(self) -> str:
        """Its id."""
        return self.run.name

    @property
    def path(self) -> Path:
        """Its directory."""
        return self.run.path

    @property
    def finished(self) -> bool:
        """Whether the search has come to its end."""
        return self.run.finished

    def front(self) -> "Front":
        """The networks that none found beats in loss and cost, the cheapest first."""
        return Front([Network(self, facts) for facts in summarize_run(self.run)["front"]])

    def baselines(self) -> "Front":
        """The best single criterion and the best equal blend at each budget, and whatever else was there to beat."""
        return Front([Network(self, facts) for facts in summarize_run(self.run)["baselines"]])

    def dense(self) -> "Network":
        """The network that was searched in, as the search judged it."""
        return Network(self, summarize_run(self.run)["dense"][0])

    def best(self) -> "Network":
        """The network with the lowest validation loss; after a long fine-tune, with the lowest validation error."""
        return self.network("best")

    def knee(self) -> "Network":
        """The network of the front from which on less cost begins to cost much."""
        return self.network("knee")

    def network(self, selector: int | str) -> "Network":
        """A network by its id, or ``best`` or ``knee``. Raises RunError when there is none."""
        row = select_network(self.run, str(selector))
        return Network(self, describe_network(self.run, str(row.id)))

    def summary(self) -> dict[str, Any]:
        """All of it as plain values; what ``blendsearch front --json`` prints."""
        return summarize_run(self.run)

    def report(self, path: str | Path | None = None) -> Path:
        """Write the report, one HTML file that needs no network, to `path` (RUN.html), and return where it is."""
        from blendsearch.results.report.output_file import check_output_path
        from blendsearch.results.report.report import write_report

        path = Path(path) if path is not None else Path(f"{self.name}.html")
        check_output_path(path, "report", (".html", ".htm"))
        write_report(self.run, path)
        return path

    def plot(self, path: str | Path) -> Path:
        """Draw the front to `path`, as png, svg or pdf."""
        from blendsearch.results.report.front_plot import draw_front
        from blendsearch.results.report.output_file import check_output_path

        check_output_path(Path(path))
        draw_front(self.run, Path(path))
        return Path(path)

    def compare(
        self, controls: Sequence[str] | None = None, *, seeds: int = 3, progress: bool = True
    ) -> dict[str, Any]:
        """Search with controls at equal cost, and say how they compare; what ``blendsearch compare --json`` prints."""
        from blendsearch.pipeline.control_runs import compare, plan_comparison
        from blendsearch.progress import make_progress
        from blendsearch.results.comparison import summarize_comparison
        from blendsearch.runs.config.method_registry import list_control_names

        named = list_control_names(optional=False) if controls is None else tuple(controls)
        plan_comparison(self.run, named, seeds)
        report = make_progress(self.run.config) if progress else None
        try:
            compare(self.run, named, seeds, self.run.config.engine, report or ignore_event, self.inputs)
        finally:
            if report is not None:
                report.close()
        return summarize_comparison(self.run)

    def load_problem(self) -> Problem:
        """Network, data and scores, restored where this run was only opened. Raises RunError where they are missing."""
        if self._problem is None:
            self._problem = restore(self.run, inputs=self.inputs)
        return self._problem

    def __repr__(self) -> str:
        return f"{showing.format_headline(self.run)}\n{self.front()!r}"

    def _repr_html_(self) -> str:
        return showing.format_run_html(self.run, self.front()._collect_facts())

    def _repr_png_(self) -> bytes | None:
        return showing.draw_front_png(self.run)


@dataclass(frozen=True)
class Front(Sequence["Network"]):
    """Networks, the cheapest first; a sequence that shows itself as a table."""

    networks: list["Network"]

    def __getitem__(self, index: Any) -> Any:
        return Front(self.networks[index]) if isinstance(index, slice) else self.networks[index]

    def __len__(self) -> int:
        return len(self.networks)

    def __iter__(self) -> Iterator["Network"]:
        return iter(self.networks)

    def _collect_facts(self) -> list[dict[str, Any]]:
        return [network.facts for network in self.networks]

    def __repr__(self) -> str:
        return showing.format_text_table(self._collect_facts())

    def _repr_html_(self) -> str:
        return showing.format_html_table(self._collect_facts())

    def _repr_png_(self) -> bytes | None:
        return showing.draw_front_png(self.networks[0].owner.run) if self.networks else None


@dataclass(frozen=True)
class Network:
    """One network that was judged.

    Attributes
    ----------
    owner: the run it is of.
    facts: all that is known of it: `id`, `origin`, `macs_ratio`, `params_ratio`, `val_loss`, `val_accuracy`,
        `test_accuracy` (None until the search is over), `further` numbers of one's own judgement, and so on.
    """

    owner: SearchRun
    facts: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        """Any of the `facts` by its name."""
        if name.startswith("_") or name not in self.facts:
            raise AttributeError(f"a network has no {name!r}: known are {', '.join(self.facts)}")
        return self.facts[name]

    def details(self) -> dict[str, Any]:
        """Its groups, each with channels kept and the criteria that had a say; costs, seed, and where it came from."""
        return describe_network(self.owner.run, str(self.facts["id"]))

    def kept(self) -> dict[str, int]:
        """How many channels of each group are left, by the group's name."""
        return {group["group"]: group["kept"] for group in self.details()["groups"]}

    def module(self) -> nn.Module:
        """The narrow network itself, recovered as it was judged, in evaluation mode on the CPU; a new one each time."""
        problem = self.owner.load_problem()
        return rebuild_network(self.owner.run, problem, select_network(self.owner.run, str(self.facts["id"])))[0]

    def export(self, folder: str | Path, *, pt2: bool = False, onnx: bool = False) -> ExportResult:
        """Write it to a new `folder`, as ``blendsearch export`` does; `blendsearch.load` reads it back."""
        formats = [name for name, asked in (("pt2", pt2), ("onnx", onnx)) if asked]
        problem = self.owner.load_problem()
        return export(self.owner.run, problem, str(self.facts["id"]), Path(folder), formats)

    def __repr__(self) -> str:
        return showing.format_network_line(self.facts)

    def _repr_html_(self) -> str:
        return showing.format_network_html(self.facts, self.details()["groups"])

    def _repr_png_(self) -> bytes:
        return showing.draw_network_png(self.facts, self.details()["groups"])
