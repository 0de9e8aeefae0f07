"""What a search found, in hand: a run, its front, its networks; each shows itself in a terminal and in a notebook."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from blendsearch.pipeline.problem.inputs import Given
from blendsearch.pipeline.problem.persistence import restore
from blendsearch.pipeline.problem.problem import Setting
from blendsearch.python import display as showing
from blendsearch.results.export.export import Exported, export, module_of
from blendsearch.results.network import candidate
from blendsearch.results.summary import pick, summary
from blendsearch.runs.run import Run


class SearchRun:
    """A run: what `search`, `resume` and `open` return.

    Attributes
    ----------
    run: its directory, as the floors below know it.
    given: what was handed over in Python.
    """

    def __init__(self, run: Run, given: Given, setting: Setting | None = None) -> None:
        self.run = run
        self.given = given
        self._setting = setting

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
        return Front([Network(self, facts) for facts in summary(self.run)["front"]])

    def baselines(self) -> "Front":
        """The best single criterion and the best equal blend at each budget, and whatever else was there to beat."""
        return Front([Network(self, facts) for facts in summary(self.run)["baselines"]])

    def dense(self) -> "Network":
        """The network that was searched in, as the search judged it."""
        return Network(self, summary(self.run)["dense"][0])

    def best(self) -> "Network":
        """The network with the lowest validation loss; after a long fine-tune, with the lowest validation error."""
        return self.network("best")

    def knee(self) -> "Network":
        """The network of the front from which on less cost begins to cost much."""
        return self.network("knee")

    def network(self, what: int | str) -> "Network":
        """A network by its id, or ``best`` or ``knee``. Raises RunError when there is none."""
        row = pick(self.run, str(what))
        return Network(self, candidate(self.run, str(row.id)))

    def summary(self) -> dict[str, Any]:
        """All of it as plain values; what ``blendsearch front --json`` prints."""
        return summary(self.run)

    def report(self, path: str | Path | None = None) -> Path:
        """Write the report, one HTML file that needs no network, to `path` (RUN.html), and return where it is."""
        from blendsearch.results.report.output_file import check_picture
        from blendsearch.results.report.report import write_report

        path = Path(path) if path is not None else Path(f"{self.name}.html")
        check_picture(path, "report", (".html", ".htm"))
        write_report(self.run, path)
        return path

    def plot(self, path: str | Path) -> Path:
        """Draw the front to `path`, as png, svg or pdf."""
        from blendsearch.results.report.front_plot import draw_front
        from blendsearch.results.report.output_file import check_picture

        check_picture(Path(path))
        draw_front(self.run, Path(path))
        return Path(path)

    def compare(
        self, controls: Sequence[str] | None = None, *, seeds: int = 3, progress: bool = True
    ) -> dict[str, Any]:
        """Search with controls at equal cost, and say how they compare; what ``blendsearch compare --json`` prints."""
        from blendsearch.pipeline.control_runs import CONTROLS, compare, planned
        from blendsearch.progress import progress_of
        from blendsearch.results.comparison import comparison

        named = CONTROLS if controls is None else tuple(controls)
        planned(self.run, named, seeds)
        report = progress_of(self.run.config) if progress else None
        try:
            compare(self.run, named, seeds, self.run.config.engine, report or (lambda kind, facts: None), self.given)
        finally:
            if report is not None:
                report.close()
        return comparison(self.run)

    def setting(self) -> Setting:
        """Network, data and scores, restored where this run was only opened. Raises RunError where they are missing."""
        if self._setting is None:
            self._setting = restore(self.run, given=self.given)
        return self._setting

    def __repr__(self) -> str:
        return f"{showing.headline(self.run)}\n{self.front()!r}"

    def _repr_html_(self) -> str:
        return showing.run_page(self.run, self.front()._facts())

    def _repr_png_(self) -> bytes | None:
        return showing.front_png(self.run)


@dataclass(frozen=True)
class Front(Sequence["Network"]):
    """Networks, the cheapest first; a sequence that shows itself as a table."""

    networks: list["Network"]

    def __getitem__(self, place: Any) -> Any:
        return Front(self.networks[place]) if isinstance(place, slice) else self.networks[place]

    def __len__(self) -> int:
        return len(self.networks)

    def __iter__(self) -> Iterator["Network"]:
        return iter(self.networks)

    def _facts(self) -> list[dict[str, Any]]:
        return [network.facts for network in self.networks]

    def __repr__(self) -> str:
        return showing.text_table(self._facts())

    def _repr_html_(self) -> str:
        return showing.html_table(self._facts())

    def _repr_png_(self) -> bytes | None:
        return showing.front_png(self.networks[0].owner.run) if self.networks else None


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
        return candidate(self.owner.run, str(self.facts["id"]))

    def kept(self) -> dict[str, int]:
        """How many channels of each group are left, by the group's name."""
        return {group["group"]: group["kept"] for group in self.details()["groups"]}

    def module(self) -> nn.Module:
        """The narrow network itself, recovered as it was judged, in evaluation mode on the CPU; a new one each time."""
        setting = self.owner.setting()
        return module_of(self.owner.run, setting, pick(self.owner.run, str(self.facts["id"])))[0]

    def export(self, folder: str | Path, *, pt2: bool = False, onnx: bool = False) -> Exported:
        """Write it to a new `folder`, as ``blendsearch export`` does; `blendsearch.load` reads it back."""
        formats = [name for name, asked in (("pt2", pt2), ("onnx", onnx)) if asked]
        setting = self.owner.setting()
        return export(self.owner.run, setting, str(self.facts["id"]), Path(folder), formats)

    def __repr__(self) -> str:
        return showing.network_line(self.facts)

    def _repr_html_(self) -> str:
        return showing.network_page(self.facts, self.details()["groups"])

    def _repr_png_(self) -> bytes:
        return showing.network_png(self.facts, self.details()["groups"])
