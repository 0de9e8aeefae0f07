"""A run as one page: a single HTML file with its figures inside, which asks nothing of any network."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blendsearch.errors import BlendsearchError
from blendsearch.results.comparison import comparison
from blendsearch.results.formatting import budget_text, share
from blendsearch.results.history import Course, by_kind, called, course
from blendsearch.results.network import decomposed, group_reader, layers_of, trained
from blendsearch.results.report.figures import (
    convergence_figure,
    correlation_figure,
    difference_figure,
    front_figure,
    hypervolume_figure,
    legend,
)
from blendsearch.results.report.network_figures import all_alike, blend_figure, kept_figure
from blendsearch.results.report.output_file import written
from blendsearch.results.report.sentences import sentences
from blendsearch.results.summary import pick, spans, summary
from blendsearch.runs.config.loading import dump_config
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import Run, runs_in
from blendsearch.runs.score_files import read_scores

TEMPLATE = Path(__file__).with_name("report.html.j2")


LEAST = 3
"""Fewer networks at one budget are no course that a figure could show: methods that bring one or two."""


def write_report(run: Run, path: Path) -> list[str]:
    """Write the page to `path`, whole or not at all; returns its first paragraph, sentence by sentence.

    Works for a run in any state. Raises RunError when the run is damaged or the file cannot be written.
    """
    facts = report_facts(run)
    with written(path, "report") as draft:
        draft.write_text(_rendered(facts), encoding="utf-8")
    found: list[str] = facts["sentences"]
    return found


def report_facts(run: Run) -> dict[str, Any]:
    """All that the page shows: what `summary` gives, and figures, which are escaped already."""
    found, numbers, controls = course(run), summary(run), _controls(run)
    picks = _picks(run, found)
    named = {name: row for name, (row, _) in picks.items()}
    store = run.store(read_only=True)
    try:
        generations, finals = store.generations(), store.finals()
    finally:
        store.close()
    criteria, order = _criteria(run)
    return {
        "run": run,
        "title": run.config.model.title,
        "budget": budget_text(run),
        "sentences": sentences(run, found, numbers, named, controls["verdict"] if controls else None),
        "course": found,
        "numbers": numbers,
        "trained": trained(run),
        "costs": _costs(numbers["dense"]),
        "names": {row.id: f"{name} ({row.id})" for name, row in named.items()},
        "main": _main(found, named),
        "second": _second(found, generations),
        "legend": legend(found) if found.judged else [],
        "picks": [_pick(run, name, row, words, order) for name, (row, words) in picks.items()],
        "controls": controls,
        "differences": difference_figure(controls["methods"][1:]) if controls and controls["methods"][1:] else None,
        "criteria": criteria,
        "generations": generations,
        "timing": _timing(generations, [item.seconds for item in finals]),
        "command": shlex.join(run.provenance["command"]),
        "config": dump_config(run.config),
    }


def _rendered(facts: Mapping[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["share"] = share
    environment.filters["duration"] = _duration
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(facts)


def _picks(run: Run, found: Course) -> dict[str, tuple[Evaluation, str]]:
    """The networks that are taken apart, by name, each with why it is there: what was found, and what to hold it to."""
    if not found.judged:
        return {}
    tuned = trained(run) if _has_finals(run) else "of the search"
    picks = {"best": (pick(run, "best"), f"The lowest validation {'error' if _has_finals(run) else 'loss'} {tuned}.")}
    if spans(run):
        picks["knee"] = (pick(run, "knee"), "Where the front bends: less cost begins to cost much accuracy.")
    singles = by_kind(found).get("single criterion", [])
    if singles:
        least = min(singles, key=lambda row: (row.loss or 0.0, row.id))
        picks["single"] = (least, "The best single criterion by validation loss: what needs no search.")
    return picks


def _has_finals(run: Run) -> bool:
    store = run.store(read_only=True)
    try:
        return bool(store.finals())
    finally:
        store.close()


def _pick(run: Run, name: str, row: Evaluation, words: str, order: list[str]) -> dict[str, Any]:
    groups = group_reader(run)(row)
    title = {"best": "Best", "knee": "Knee", "single": "Best single criterion"}[name]
    return {
        "title": title,
        "name": called(row),
        "row": row,
        "words": words,
        "groups": groups,
        "decomposed": decomposed(run, row),
        "layers": len(layers_of(run)),
        "kept": kept_figure(groups, f"kept-{name}", called(row)),
        "blend": blend_figure(groups, order, f"blend-{name}", called(row)),
        "alike": all_alike(groups),
        "macs_ratio": row.macs / run.structure["dense"]["macs"],
        "params_ratio": row.params / run.structure["dense"]["params"],
    }


def _main(found: Course, named: Mapping[str, Evaluation]) -> Any:
    if not found.judged:
        return None
    if not found.spans:
        return convergence_figure(found, "error") if len(found.judged) >= LEAST else None
    return front_figure(found, {row.id: name for name, row in named.items() if name != "single"})


def _second(found: Course, generations: list[dict[str, Any]]) -> Any:
    if not found.judged:
        return None
    if not found.spans:
        return convergence_figure(found, "loss") if len(found.judged) >= LEAST else None
    return hypervolume_figure(generations) if len(generations) > 1 else None


def _costs(dense: list[dict[str, Any]]) -> dict[str, str]:
    """Columns of the networks' table: MACs and parameters, and what else has a budget."""
    further = {"memory": "memory_ratio", "latency": "latency_ratio", "measured": "latency_measured"}
    known = {name: field for name, field in further.items() if dense and field in dense[0]}
    return {"MACs": "macs_ratio", "parameters": "params_ratio", **known}


def _controls(run: Run) -> dict[str, Any] | None:
    """The comparison with controls, where there are any and the run has finished."""
    if spans(run) or not run.finished or not runs_in(run.path / "controls"):
        return None
    return comparison(run)


def _criteria(run: Run) -> tuple[dict[str, Any] | None, list[str]]:
    """The map of criteria, and their order in it; None where there is nothing to compare, as with LeGR's one norm."""
    from blendsearch.blend.correlation_map import correlation_map
    from blendsearch.results.report.criteria_map import described, signed

    names = list(run.structure["criteria"])
    if len(names) < 2:
        return None, names
    asked = run.config.criteria
    try:
        found = correlation_map(*read_scores(run), asked.clustering, asked.clusters, run.config.seed)
    except BlendsearchError:
        return None, names
    facts = described(found)
    facts["figure"] = correlation_figure(found)
    facts["signed"] = signed
    return facts, [*facts["order"], *(name for name in names if name not in facts["order"])]


def _timing(generations: list[dict[str, Any]], finals: list[float]) -> dict[str, float]:
    wall = sum(row["wall"] for row in generations)
    seconds = sum(row["seconds"] for row in generations)
    return {
        "wall": wall,
        "evaluating": seconds,
        "each": seconds / max(1, sum(row["evaluations"] for row in generations)),
        "finals": sum(finals),
    }


def _duration(seconds: float) -> str:
    """``3 h 12 min``, ``4 min 10 s``, ``8.1 s``."""
    if seconds >= 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
    return f"{int(seconds // 60)} min {seconds % 60:.0f} s" if seconds >= 60 else f"{seconds:.1f} s"
