"""What a run found, said in a few sentences: chosen by validation, told in test accuracy where there is any."""

from collections.abc import Mapping, Sequence
from typing import Any

from blendsearch.results.formatting import budget_text, points, share
from blendsearch.results.history import Course, by_kind, called
from blendsearch.results.network import trained
from blendsearch.results.summary import tells_error
from blendsearch.runs.origin import kinds_of
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import Run

BELOW = 0.005
"""A network that stays farther below its budget does not use it, as one of depthwise layers may: that is said."""


def sentences(
    run: Run,
    found: Course,
    summary: Mapping[str, Sequence[Mapping[str, Any]]],
    picks: Mapping[str, Evaluation],
    verdict: str | None,
) -> list[str]:
    """What was found, how it compares, and how far that can be trusted. `picks` has `best`, and over a span `knee`."""
    if not found.judged:
        return ["Nothing has been evaluated yet: there is no network to show."]
    told = _Told(run, summary)
    said = _over_a_span(run, found, picks, told) if found.spans else _at_one_budget(run, found, picks["best"], told)
    if not tells_error(run):
        said.append(
            f"Networks were judged by losses alone ({', '.join(run.structure['task'].values())}): the best has "
            f"{picks['best'].loss:.4f} on validation. Errors shown only stand in, and rise with the loss."
        )
    if not run.finished:
        said.append(
            f"The search is not finished, {len(found.judged)} of {run.config.search.evaluations} networks are judged: "
            "all numbers are from validation images, by which the networks were chosen, and flatter them."
        )
        return said
    if told.dense is None or told.dense["test_accuracy"] is not None:
        said.append("All networks were chosen by validation images; the test images were looked at once, afterwards.")
    if verdict is not None:
        said.append(f"Beside its controls: {verdict}.")
    else:
        said.append("This is one seed: differences of this kind can be chance, until controls on more seeds are there.")
    return said


class _Told:
    """Accuracies as they are told: after the long fine-tune where there was one, on test images where there are any."""

    def __init__(self, run: Run, summary: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        rows = [row for part in ("dense", "baselines", "front") for row in summary[part]]
        self.of = {row["id"]: row for row in rows}
        self.dense = summary["dense"][0] if summary["dense"] else None
        self.finals = [row["id"] for row in summary["finals"]]
        self.tuned = bool(self.finals)
        self.of |= {row["id"]: row for row in summary["finals"]}
        self.key = "test_accuracy" if run.finished else "val_accuracy"
        self.where = "unseen test images" if run.finished else "validation images"

    def best_of_kind(self, found: Course, kind: str) -> Evaluation | None:
        """The best baseline of a kind, chosen as the best network is: after the long fine-tune where there was one."""
        places = {number: place for place, number in enumerate(self.finals)}
        rows = [row for row in found.judged if row.id in places and kind in kinds_of(row)]
        if rows:
            return min(rows, key=lambda row: places[row.id])
        rows = by_kind(found).get(kind, [])
        return rows[0] if rows else None

    def accuracy(self, number: int) -> float | None:
        value = self.of.get(number, {}).get(self.key)
        return None if value is None else float(value)

    def beside(self, own: float, number: int, name: str) -> str | None:
        other = self.accuracy(number)
        return None if other is None else f"{points(own - other)} {name} ({share(other, 2)})"


def _at_one_budget(run: Run, found: Course, best: Evaluation, told: _Told) -> list[str]:
    own = told.accuracy(best.id)
    budget = budget_text(run) if run.config.budget.spans() else f"the given widths, {share(found.share(best))} of MACs"
    if own is None:
        return [f"At {budget} the best network by validation is {called(best)}; it has no test accuracy."]
    after = f" {trained(run)}" if told.tuned else ""
    beside = []
    itself = ""
    for kind in ("single criterion", "equal blend"):
        row = told.best_of_kind(found, kind)
        if row is not None and row.id == best.id:
            itself = f" It is the best {kind} itself: the search found nothing better by validation."
        elif row is not None:
            name = "" if called(row).startswith(kind) else f", {called(row)}"
            beside.append(told.beside(own, row.id, f"the best {kind}{name}"))
    if told.dense is not None:
        beside.append(told.beside(own, told.dense["id"], "the dense network"))
    texts = [text for text in beside if text is not None]
    spends = found.share(best)
    high = run.config.budget.spans().get("macs", (0.0, 0.0))[1]
    below = f", which takes {share(spends)} of MACs" if spends < high - BELOW else ""
    name = f", {called(best)}{below},"
    listed = ", ".join(texts[:-1]) + (" and " if len(texts) > 1 else "") + "".join(texts[-1:])
    first = f"At {budget} the best network{name} has {share(own, 2)} accuracy on {told.where}{after}"
    return [f"{first}{': ' + listed if texts else ''}.{itself}"]


def _over_a_span(run: Run, found: Course, picks: Mapping[str, Evaluation], told: _Told) -> list[str]:
    said = [f"Within {budget_text(run)} the search found a front of {len(found.front)} networks."]
    for what, words in (("best", "most accurate by validation"), ("knee", "knee of the front")):
        row = picks[what]
        own = told.accuracy(row.id)
        if own is None or (what == "knee" and row.id == picks["best"].id):
            continue
        dense = None if told.dense is None else told.beside(own, told.dense["id"], "the dense network")
        said.append(
            f"The {words}, {called(row)}, takes {share(found.share(row))} of {found.cost} and has {share(own, 2)} "
            f"accuracy on {told.where}{', ' + dense if dense else ''}."
        )
    budgets, differences = [], []
    for row in by_kind(found).get("single criterion", []):
        affordable = [other for other in found.front if found.share(other) <= found.share(row) + 1e-9]
        if not affordable:
            continue
        own, other = told.accuracy(affordable[-1].id), told.accuracy(row.id)
        if own is not None and other is not None:
            budgets.append(share(found.share(row)))
            differences.append(round((own - other) * 100, 2))
    if budgets:
        signed = _and([f"{difference:+.2f}" for difference in differences])
        differs = f"differs by {signed} points" if any(differences) else "does as well, and no better"
        said.append(
            f"Beside the best single criterion at {_and(budgets)} of {found.cost}, the front's network that costs no "
            f"more {differs}."
        )
    return said


def _and(texts: Sequence[str]) -> str:
    return ", ".join(texts[:-1]) + (" and " if len(texts) > 1 else "") + texts[-1]
