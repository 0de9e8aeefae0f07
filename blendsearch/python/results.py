"""Results in Python: a run, its front, its networks. Each is displayed in a terminal and in a notebook."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import nn

from blendsearch.events import ignore_event
from blendsearch.pipeline.problem.inputs import UserInputs
from blendsearch.pipeline.problem.persistence import restore
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.python import display as showing
from blendsearch.results.answer import Answer, compose_answer
from blendsearch.results.export.export import ExportResult, export, rebuild_network
from blendsearch.results.network import describe_network
from blendsearch.results.records import NetworkDetails, NetworkRecord
from blendsearch.results.summary import get_accuracy_name, select_network, summarize_run
from blendsearch.runs.run import Run
from blendsearch.task import seed_rngs

if TYPE_CHECKING:
    import optuna


class SearchRun:
    """A run, as `search`, `resume` and `open` return it.

    Attributes
    ----------
    run: its directory.
    inputs: the network, the data and the functions that were passed in Python.
    """

    def __init__(self, run: Run, inputs: UserInputs, problem: Problem | None = None) -> None:
        self.run = run
        self.inputs = inputs
        self._problem = problem

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.run.name

    @property
    def path(self) -> Path:
        """The directory of the run."""
        return self.run.path

    @property
    def finished(self) -> bool:
        """True when the search has finished."""
        return self.run.finished

    def answer(self) -> Answer:
        """The network to take in one sentence, the next command, and a short table."""
        return compose_answer(self.run)

    def to_optuna(self, storage: str | None = None, name: str | None = None) -> "optuna.Study":
        """Make an Optuna study with one trial per evaluated network; `storage` is a URL of Optuna."""
        from blendsearch.results.export.optuna_study import export_study

        return export_study(self.run, storage, name)

    def front(self) -> "Front":
        """The non-dominated networks in loss and cost, the cheapest first."""
        return Front([Network(self, record) for record in summarize_run(self.run).front])

    def baselines(self) -> "Front":
        """The best baseline of every kind at each budget, such as a single criterion and the equal blend."""
        return Front([Network(self, record) for record in summarize_run(self.run).baselines])

    def dense(self) -> "Network":
        """The dense network, as the search evaluated it."""
        return Network(self, summarize_run(self.run).dense[0])

    def best(self) -> "Network":
        """The network with the lowest validation loss; after a long fine-tune, with the lowest validation error."""
        return self.network("best")

    def knee(self) -> "Network":
        """The knee of the front: from there on, a lower cost costs much accuracy."""
        return self.network("knee")

    def network(self, selector: int | str) -> "Network":
        """Get a network by its id, or ``best`` or ``knee``. Raises RunError when there is none."""
        row = select_network(self.run, str(selector))
        return Network(self, describe_network(self.run, str(row.id)))

    def summary(self) -> dict[str, Any]:
        """All results as JSON values, as ``blendsearch front --json`` prints them."""
        return summarize_run(self.run).to_dict()

    def report(self, path: str | Path | None = None) -> Path:
        """Write the report, a single HTML file, to `path` (by default RUN.html), and return its path."""
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
        """Search with controls at equal cost, and compare; the values are those of ``blendsearch compare --json``."""
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
        return summarize_comparison(self.run).to_dict()

    def load_problem(self) -> Problem:
        """Load network, data and scores. Raises RunError where they are missing."""
        if self._problem is None:
            threads = torch.get_num_threads()  # which engine.threads changes
            with seed_rngs(self.run.config.seed):
                self._problem = restore(self.run, inputs=self.inputs)
            torch.set_num_threads(threads)
        return self._problem

    def __repr__(self) -> str:
        return f"{showing.format_headline(self.run)}\n{showing.format_answer_text(self.answer())}\n{self.front()!r}"

    def _repr_html_(self) -> str:
        return showing.format_run_html(self.run, self.answer(), self.front().records)

    def _repr_png_(self) -> bytes | None:
        return showing.draw_front_png(self.run)


@dataclass(frozen=True)
class Front(Sequence["Network"]):
    """A sequence of networks, the cheapest first, displayed as a table."""

    networks: list["Network"]

    @overload
    def __getitem__(self, index: int) -> "Network": ...

    @overload
    def __getitem__(self, index: slice) -> "Front": ...

    def __getitem__(self, index: int | slice) -> "Network | Front":
        return Front(self.networks[index]) if isinstance(index, slice) else self.networks[index]

    def __len__(self) -> int:
        return len(self.networks)

    def __iter__(self) -> Iterator["Network"]:
        return iter(self.networks)

    @property
    def records(self) -> list[NetworkRecord]:
        """The records of the networks."""
        return [network.record for network in self.networks]

    @property
    def _measure(self) -> str:
        return get_accuracy_name(self.networks[0].owner.run) if self.networks else "accuracy"

    def __repr__(self) -> str:
        return showing.format_text_table(self.records, self._measure)

    def _repr_html_(self) -> str:
        return showing.format_html_table(self.records, self._measure)

    def _repr_png_(self) -> bytes | None:
        return showing.draw_front_png(self.networks[0].owner.run) if self.networks else None


@dataclass(frozen=True)
class Network:
    """One network that the search evaluated.

    Attributes
    ----------
    owner: its run.
    record: its costs and the results of its evaluation.
    """

    owner: SearchRun
    record: NetworkRecord

    @property
    def id(self) -> int:
        """The number of its evaluation."""
        return self.record.id

    @property
    def cut(self) -> str:
        """The digest of its cut."""
        return self.record.cut

    @property
    def origin(self) -> str:
        """The baselines that it is, ``evolved`` or ``dense``."""
        return self.record.origin

    @property
    def fidelity(self) -> str:
        """The fidelity of its evaluation."""
        return self.record.fidelity

    @property
    def macs_ratio(self) -> float:
        """MACs, as a share of the dense network's."""
        return self.record.macs_ratio

    @property
    def params_ratio(self) -> float:
        """Parameters, as a share of the dense network's."""
        return self.record.params_ratio

    @property
    def memory_ratio(self) -> float | None:
        """Peak memory, as a share of the dense network's; None without a budget for it."""
        return self.record.memory_ratio

    @property
    def latency_ratio(self) -> float | None:
        """Latency as charged, as a share of the dense network's; None without a budget for it."""
        return self.record.latency_ratio

    @property
    def latency_measured(self) -> float | None:
        """Latency as measured at the end of the search, as a share of the dense network's."""
        return self.record.latency_measured

    @property
    def val_loss(self) -> float | None:
        """The loss on the validation images."""
        return self.record.val_loss

    @property
    def val_accuracy(self) -> float | None:
        """The accuracy on the validation images in [0, 1]; None where a user-defined evaluation gives no error."""
        return self.record.val_accuracy

    @property
    def test_accuracy(self) -> float | None:
        """The accuracy on the test images in [0, 1]; None until the search has finished."""
        return self.record.test_accuracy

    @property
    def further(self) -> Mapping[str, float]:
        """The other numbers of a user-defined evaluation, by name."""
        return self.record.further or {}

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return self._describe().macs

    @property
    def params(self) -> int:
        """The number of parameters."""
        return self._describe().params

    @property
    def facts(self) -> dict[str, Any]:
        """The record as JSON values."""
        return self.record.to_dict()

    def details(self) -> dict[str, Any]:
        """Groups, costs, seed and provenance as JSON values, as ``blendsearch show --json`` prints them."""
        return self._describe().to_dict()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> None:
            known = ", ".join(item for item in dir(type(self)) if not item.startswith("_"))
            raise AttributeError(f"a network has no {name!r}: known are {known}")

    def _describe(self) -> NetworkDetails:
        return describe_network(self.owner.run, str(self.id))

    def kept(self) -> dict[str, int]:
        """The number of channels kept in each group, by the group's name."""
        return {group.group: group.kept for group in self._describe().groups}

    def module(self) -> nn.Module:
        """Build the pruned network as it was evaluated, in evaluation mode on the CPU; a new module each time."""
        problem = self.owner.load_problem()
        return rebuild_network(self.owner.run, problem, select_network(self.owner.run, str(self.id)))[0]

    def export(self, folder: str | Path, *, pt2: bool = False, onnx: bool = False, int8: bool = False) -> ExportResult:
        """Write the network to a new `folder`, as ``blendsearch export`` does; `blendsearch.load` reads it."""
        formats = [name for name, asked in (("pt2", pt2), ("onnx", onnx), ("int8", int8)) if asked]
        problem = self.owner.load_problem()
        return export(self.owner.run, problem, str(self.id), Path(folder), formats)

    def __repr__(self) -> str:
        return showing.format_network_line(self.record, get_accuracy_name(self.owner.run))

    def _repr_html_(self) -> str:
        return showing.format_network_html(self.record, self._describe().groups)

    def _repr_png_(self) -> bytes | None:
        return showing.draw_network_png(self.record, self._describe().groups)
