"""A run as one page: a single HTML file with its figures inside, which asks nothing of any network."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blendsearch.errors import BlendsearchError
from blendsearch.results.comparison import summarize_comparison
from blendsearch.results.formatting import format_budget, format_share
from blendsearch.results.history import SearchHistory, format_network_name, group_baselines, read_history
from blendsearch.results.network import (
    describe_training,
    list_decomposable_layers,
    list_decomposed_layers,
    make_group_reader,
)
from blendsearch.results.report.figures import (
    draw_convergence_figure,
    draw_correlation_figure,
    draw_difference_figure,
    draw_front_figure,
    draw_hypervolume_figure,
    make_legend,
)
from blendsearch.results.report.network_figures import draw_blend_figure, draw_kept_figure, has_uniform_blend
from blendsearch.results.report.output_file import open_draft
from blendsearch.results.report.sentences import format_sentences
from blendsearch.results.summary import has_budget_range, select_network, summarize_run
from blendsearch.runs.config.loading import dump_config
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import Run, list_runs
from blendsearch.runs.run_facts import GenerationRow
from blendsearch.runs.score_files import read_scores

TEMPLATE = Path(__file__).with_name("report.html.j2")


MIN_NETWORKS = 3
"""Fewer networks at one budget are no course that a figure could show: methods that bring one or two."""


def write_report(run: Run, path: Path) -> list[str]:
    """Write the page to `path`, whole or not at all; returns its first paragraph, sentence by sentence.

    Works for a run in any state. Raises RunError when the run is damaged or the file cannot be written.
    """
    facts = collect_report_facts(run)
    with open_draft(path, "report") as draft:
        draft.write_text(_render(facts), encoding="utf-8")
    found: list[str] = facts["sentences"]
    return found


def collect_report_facts(run: Run) -> dict[str, Any]:
    """All that the page shows: what `summary` gives, and figures, which are escaped already."""
    found, numbers, controls = read_history(run), summarize_run(run).to_dict(), _summarize_controls(run)
    picks = _select_picks(run, found)
    named = {name: row for name, (row, _) in picks.items()}
    with run.open_store(read_only=True) as store:
        generations, finals = store.read_generations(), store.read_finals()
    criteria, order = _describe_criteria(run)
    return {
        "run": run,
        "title": run.config.model.title,
        "budget": format_budget(run),
        "sentences": format_sentences(run, found, numbers, named, controls["verdict"] if controls else None),
        "course": found,
        "numbers": numbers,
        "trained": describe_training(run),
        "costs": _select_cost_columns(numbers["dense"]),
        "names": {row.id: f"{name} ({row.id})" for name, row in named.items()},
        "main": _draw_main_figure(found, named),
        "second": _draw_second_figure(found, generations),
        "legend": make_legend(found) if found.evaluated else [],
        "picks": [_describe_pick(run, name, row, words, order) for name, (row, words) in picks.items()],
        "controls": controls,
        "differences": draw_difference_figure(controls["methods"][1:])
        if controls and controls["methods"][1:]
        else None,
        "criteria": criteria,
        "generations": generations,
        "timing": _summarize_timing(generations, [item.seconds for item in finals]),
        "command": shlex.join(run.provenance["command"]),
        "config": dump_config(run.config),
    }


def _render(facts: Mapping[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["share"] = format_share
    environment.filters["duration"] = _format_duration
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(facts)


def _select_picks(run: Run, history: SearchHistory) -> dict[str, tuple[Evaluation, str]]:
    """The networks that are taken apart, by name, each with why it is there: what was found, and what to hold it to."""
    if not history.evaluated:
        return {}
    tuned = describe_training(run) if _has_finals(run) else "of the search"
    picks = {
        "best": (
            select_network(run, "best"),
            f"The lowest validation {'error' if _has_finals(run) else 'loss'} {tuned}.",
        )
    }
    if has_budget_range(run):
        picks["knee"] = (select_network(run, "knee"), "Where the front bends: less cost begins to cost much accuracy.")
    singles = group_baselines(history).get("single criterion", [])
    if singles:
        least = min(singles, key=lambda row: (row.loss or 0.0, row.id))
        picks["single"] = (least, "The best single criterion by validation loss: what needs no search.")
    return picks


def _has_finals(run: Run) -> bool:
    with run.open_store(read_only=True) as store:
        return bool(store.read_finals())


def _describe_pick(run: Run, name: str, row: Evaluation, reason: str, order: list[str]) -> dict[str, Any]:
    groups = [group.to_dict() for group in make_group_reader(run)(row)]
    title = {"best": "Best", "knee": "Knee", "single": "Best single criterion"}[name]
    return {
        "title": title,
        "name": format_network_name(row),
        "row": row,
        "words": reason,
        "groups": groups,
        "decomposed": list_decomposed_layers(run, row),
        "layers": len(list_decomposable_layers(run)),
        "kept": draw_kept_figure(groups, f"kept-{name}", format_network_name(row)),
        "blend": draw_blend_figure(groups, order, f"blend-{name}", format_network_name(row)),
        "alike": has_uniform_blend(groups),
        "macs_ratio": row.macs / run.structure["dense"]["macs"],
        "params_ratio": row.params / run.structure["dense"]["params"],
    }


def _draw_main_figure(history: SearchHistory, picks: Mapping[str, Evaluation]) -> Any:
    if not history.evaluated:
        return None
    if not history.has_budget_range:
        return draw_convergence_figure(history, "error") if len(history.evaluated) >= MIN_NETWORKS else None
    return draw_front_figure(history, {row.id: name for name, row in picks.items() if name != "single"})


def _draw_second_figure(history: SearchHistory, generations: list[GenerationRow]) -> Any:
    if not history.evaluated:
        return None
    if not history.has_budget_range:
        return draw_convergence_figure(history, "loss") if len(history.evaluated) >= MIN_NETWORKS else None
    return draw_hypervolume_figure(generations) if len(generations) > 1 else None


def _select_cost_columns(dense: list[dict[str, Any]]) -> dict[str, str]:
    """Columns of the networks' table: MACs and parameters, and what else has a budget."""
    further = {"memory": "memory_ratio", "latency": "latency_ratio", "measured": "latency_measured"}
    known = {name: field for name, field in further.items() if dense and field in dense[0]}
    return {"MACs": "macs_ratio", "parameters": "params_ratio", **known}


def _summarize_controls(run: Run) -> dict[str, Any] | None:
    """The comparison with controls, where there are any and the run has finished."""
    if has_budget_range(run) or not run.finished or not list_runs(run.path / "controls"):
        return None
    return summarize_comparison(run).to_dict()


def _describe_criteria(run: Run) -> tuple[dict[str, Any] | None, list[str]]:
    """The map of criteria, and their order in it; None where there is nothing to compare, as with LeGR's one norm."""
    from blendsearch.blend.correlation_map import build_correlation_map
    from blendsearch.results.report.criteria_map import describe_map, format_correlation

    names = list(run.structure["criteria"])
    if len(names) < 2:
        return None, names
    asked = run.config.criteria
    try:
        found = build_correlation_map(*read_scores(run), asked.clustering, asked.clusters, run.config.seed)
    except BlendsearchError:
        return None, names
    facts = describe_map(found)
    facts["figure"] = draw_correlation_figure(found)
    facts["signed"] = format_correlation
    return facts, [*facts["order"], *(name for name in names if name not in facts["order"])]


def _summarize_timing(generations: list[GenerationRow], finals: list[float]) -> dict[str, float]:
    wall = sum(row["wall"] for row in generations)
    seconds = sum(row["seconds"] for row in generations)
    return {
        "wall": wall,
        "evaluating": seconds,
        "each": seconds / max(1, sum(row["evaluations"] for row in generations)),
        "finals": sum(finals),
    }


def _format_duration(seconds: float) -> str:
    """``3 h 12 min``, ``4 min 10 s``, ``8.1 s``."""
    if seconds >= 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
    return f"{int(seconds // 60)} min {seconds % 60:.0f} s" if seconds >= 60 else f"{seconds:.1f} s"
