"""A run as one page: a single HTML file that contains its figures and loads nothing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from blendsearch.blend.correlation_map import CorrelationMap, build_correlation_map
from blendsearch.errors import BlendsearchError
from blendsearch.extras import format_missing, list_missing_packages
from blendsearch.results.answer import Answer, compose_answer
from blendsearch.results.comparison import summarize_comparison
from blendsearch.results.formatting import format_budget, format_bytes, format_share, format_signed_points
from blendsearch.results.history import SearchHistory, format_network_name, group_baselines, read_history
from blendsearch.results.importance import RunImportance, describe_importance, measure_importance
from blendsearch.results.metrics import RunMetric
from blendsearch.results.network import (
    list_decomposable_layers,
    list_decomposed_layers,
    make_group_reader,
)
from blendsearch.results.records import ComparisonTable, GroupRecord, NetworkRecord, RunSummary
from blendsearch.results.report.chart import ChartOptions, FrontChart
from blendsearch.results.report.chart_builder import build_front_chart, build_hypervolume_chart
from blendsearch.results.report.criteria_map import CriteriaMapRecord, describe_map, format_correlation
from blendsearch.results.report.output_file import open_draft
from blendsearch.results.report.sentences import format_sentences
from blendsearch.results.summary import (
    describe_training,
    get_metric,
    has_accuracy,
    has_budget_range,
    select_network,
    summarize_run,
)
from blendsearch.runs.config.loading import dump_config
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import Run, list_runs
from blendsearch.runs.run_facts import GenerationRow
from blendsearch.runs.score_files import read_scores

if TYPE_CHECKING:
    from blendsearch.results.report.drawing import Drawing

TEMPLATE = Path(__file__).with_name("report.html.j2")


WIDE, NARROW = ChartOptions(), ChartOptions(narrow=True)

MIN_NETWORKS = 3
"""Fewer networks at one budget have no figure: some methods evaluate one or two."""


@dataclass(frozen=True)
class Pick:
    """A network that the page shows in detail, and the reason."""

    title: str
    name: str
    row: Evaluation
    reason: str
    groups: list[GroupRecord]
    decomposed: list[str]
    layers: int
    kept: Drawing | None
    blend: Drawing | None
    uniform: bool
    macs_ratio: float
    params_ratio: float


@dataclass(frozen=True)
class CriteriaSection:
    """The map of criteria and its figure."""

    map: CriteriaMapRecord
    figure: Drawing | None


@dataclass(frozen=True)
class Timing:
    """Seconds: of the generations by the clock, of their evaluations, of one evaluation, of the long fine-tunes."""

    wall: float
    evaluating: float
    each: float
    finals: float


@dataclass(frozen=True)
class ReportFacts:
    """The contents of the page; the fields are the variables of the template.

    Attributes
    ----------
    names: the name of each network that is shown in detail, by its id.
    anchors: the part of the table of networks that a link to a network leads to, by its id.
    no_figures: why the page has no figures; empty where it has them.
    """

    run: Run
    title: str
    no_figures: str
    budget: str
    answer: Answer
    sentences: list[str]
    history: SearchHistory
    metric: RunMetric
    measure: str
    numbers: RunSummary
    trained: str
    costs: Mapping[str, str]
    names: Mapping[int, str]
    anchors: Mapping[int, str]
    main: Drawing | None
    narrow_main: Drawing | None
    second: Drawing | None
    narrow_second: Drawing | None
    picks: list[Pick]
    importance: RunImportance
    importance_note: str
    controls: ComparisonTable | None
    differences: Drawing | None
    narrow_differences: Drawing | None
    criteria: CriteriaSection | None
    generations: list[GenerationRow]
    timing: Timing
    command: str
    config: str


def write_report(run: Run, path: Path) -> ReportFacts:
    """Write the page to `path`, completely or not at all, and return its contents.

    Works for a run in any state. Raises RunError when the run is damaged or the file cannot be written.
    """
    facts = collect_report_facts(run)
    with open_draft(path, "report") as draft:
        draft.write_text(_render(facts), encoding="utf-8")
    return facts


def collect_report_facts(run: Run) -> ReportFacts:
    """Collect the contents of the page."""
    history, numbers, controls = read_history(run), summarize_run(run), _summarize_controls(run)
    reasons = _select_picks(run, history)
    picked = {name: row for name, (row, _) in reasons.items()}
    generations, finals = _read_times(run)
    criteria, order = _describe_criteria(run)
    importance, metric = measure_importance(run), get_metric(run)
    anchors = _list_anchors(numbers)
    return ReportFacts(
        run=run,
        title=run.config.model.title,
        no_figures="" if can_draw() else format_missing("a report with figures", "plots"),
        budget=format_budget(run),
        answer=compose_answer(run, numbers),
        sentences=format_sentences(run, history, numbers, picked, None if controls is None else controls.verdict),
        history=history,
        metric=metric,
        measure=metric.name,
        numbers=numbers,
        trained=describe_training(run),
        costs=_select_cost_columns(numbers.dense),
        names={row.id: f"{name} ({row.id})" for name, row in picked.items()},
        anchors=anchors,
        main=_draw_main_figure(run, history, frozenset(anchors), WIDE),
        narrow_main=_draw_main_figure(run, history, frozenset(anchors), NARROW),
        second=_draw_second_figure(run, history, generations, WIDE),
        narrow_second=_draw_second_figure(run, history, generations, NARROW),
        picks=[_describe_pick(run, name, row, reason, order) for name, (row, reason) in reasons.items()],
        importance=importance,
        importance_note=describe_importance(importance),
        controls=controls,
        differences=_draw_differences(controls, metric, WIDE),
        narrow_differences=_draw_differences(controls, metric, NARROW),
        criteria=criteria,
        generations=generations,
        timing=_summarize_timing(generations, finals),
        command=shlex.join(run.provenance["command"]),
        config=dump_config(run.config),
    )


def can_draw() -> bool:
    """Return whether the package that draws figures is installed."""
    return not list_missing_packages("plots")


def _render(facts: ReportFacts) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["network_name"] = format_network_name
    environment.filters["share"] = format_share
    environment.filters["signed"] = format_correlation
    environment.filters["bytes"] = format_bytes
    environment.filters["points"] = format_signed_points
    environment.filters["duration"] = _format_duration
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(vars(facts))


def _read_times(run: Run) -> tuple[list[GenerationRow], list[float]]:
    """The generations, and the seconds of each long fine-tune."""
    with run.open_store(read_only=True) as store:
        return store.read_generations(), [item.seconds for item in store.read_finals()]


def _list_anchors(numbers: RunSummary) -> dict[int, str]:
    """List the first part of the table of networks that has each network, by its id."""
    found: dict[int, str] = {}
    for part, rows in (("dense", numbers.dense), ("baselines", numbers.baselines), ("front", numbers.front)):
        for row in rows:
            found.setdefault(row.id, part)
    return found


def _select_picks(run: Run, history: SearchHistory) -> dict[str, tuple[Evaluation, str]]:
    """The networks that are shown in detail, by name, each with the reason: the results, and a baseline beside them."""
    if not history.evaluated:
        return {}
    tuned = bool(_read_times(run)[1])
    metric = get_metric(run)
    extreme, falls = ("highest", "falls") if metric.higher else ("lowest", "rises")
    reason = f"The {extreme} validation {metric.name} {describe_training(run)}."
    if not tuned:
        reason = "The lowest validation loss." if metric.share else f"The {extreme} validation {metric.name}."
    picks = {"best": (select_network(run, "best"), reason)}
    if has_budget_range(run):
        picks["knee"] = (
            select_network(run, "knee"),
            f"The bend of the front: below it, {metric.name} {falls} fast with cost.",
        )
    singles = group_baselines(history).get("single criterion", [])
    if singles:
        least = min(singles, key=lambda row: (row.loss or 0.0, row.id))
        picks["single"] = (least, "The best single criterion by validation loss, which needs no search.")
    return picks


def _describe_pick(run: Run, name: str, row: Evaluation, reason: str, order: list[str]) -> Pick:
    groups = make_group_reader(run)(row)
    network = format_network_name(row)
    kept, blend, uniform = _draw_pick(groups, order, name, network) if can_draw() else (None, None, False)
    return Pick(
        title={"best": "Best", "knee": "Knee", "single": "Best single criterion"}[name],
        name=network,
        row=row,
        reason=reason,
        groups=groups,
        decomposed=list_decomposed_layers(run, row),
        layers=len(list_decomposable_layers(run)),
        kept=kept,
        blend=blend,
        uniform=uniform,
        macs_ratio=row.macs / run.structure["dense"]["macs"],
        params_ratio=row.params / run.structure["dense"]["params"],
    )


def _draw_pick(
    groups: list[GroupRecord], order: list[str], name: str, network: str
) -> tuple[Drawing, Drawing | None, bool]:
    """Draw the kept channels and the blend of a network; True where all groups have the same blend."""
    from blendsearch.results.report.network_figures import draw_blend_figure, draw_kept_figure, has_uniform_blend

    kept = draw_kept_figure(groups, f"kept-{name}", network)
    return kept, draw_blend_figure(groups, order, f"blend-{name}", network), has_uniform_blend(groups)


def _draw_main_figure(
    run: Run, history: SearchHistory, listed: frozenset[int], options: ChartOptions
) -> Drawing | None:
    """The front, or the best network so far; points link to the table of networks where they are `listed` in it."""
    return _draw(build_front_chart(run, options), options, listed) if _has_figure(history) else None


def _draw_second_figure(
    run: Run, history: SearchHistory, generations: list[GenerationRow], options: ChartOptions
) -> Drawing | None:
    if not _has_figure(history):
        return None
    if not history.has_budget_range:
        return _draw(build_front_chart(run, replace(options, y="loss")), options) if has_accuracy(run) else None
    return _draw(build_hypervolume_chart(run, options), options) if len(generations) > 1 else None


def _draw(chart: FrontChart, options: ChartOptions, listed: frozenset[int] = frozenset()) -> Drawing:
    """Draw a chart; the one for phones has a name of its own, and neither links nor tooltips, which need a pointer."""
    from blendsearch.results.report.figures import draw_chart

    drawing = draw_chart(chart)
    if options.narrow:
        return replace(drawing, name=f"narrow-{drawing.name}", tips=False)
    return replace(drawing, links=listed)


def _has_figure(history: SearchHistory) -> bool:
    return can_draw() and len(history.evaluated) >= (1 if history.has_budget_range else MIN_NETWORKS)


def _draw_differences(controls: ComparisonTable | None, metric: RunMetric, options: ChartOptions) -> Drawing | None:
    rows = () if controls is None or not can_draw() else controls.methods[1:]
    if not rows:
        return None
    from blendsearch.results.report.figures import draw_difference_figure

    return draw_difference_figure(rows, metric.name, narrow=options.narrow)


def _select_cost_columns(dense: Sequence[NetworkRecord]) -> dict[str, str]:
    """Select the columns of the table of networks: MACs and parameters, and further costs that have a budget."""
    columns = {"MACs": "macs_ratio", "parameters": "params_ratio"}
    if dense and dense[0].memory_ratio is not None:
        columns["memory"] = "memory_ratio"
    if dense and dense[0].latency_ratio is not None:
        columns["latency"] = "latency_ratio"
    if dense and dense[0].latency_predicted is not None:
        columns["measured"] = "latency_measured"
    return columns


def _summarize_controls(run: Run) -> ComparisonTable | None:
    """Return the comparison with controls, where there are some and the run has finished."""
    if has_budget_range(run) or not run.finished or not list_runs(run.path / "controls"):
        return None
    return summarize_comparison(run)


def _describe_criteria(run: Run) -> tuple[CriteriaSection | None, list[str]]:
    """Describe the criteria, and return their order in the map.

    The section is None where there is nothing to compare, as with LeGR's one norm.
    """
    names = list(run.structure["criteria"])
    if len(names) < 2:
        return None, names
    asked = run.config.criteria
    try:
        found = build_correlation_map(*read_scores(run), asked.clustering, asked.clusters, run.config.seed)
    except BlendsearchError:
        return None, names
    record = describe_map(found)
    section = CriteriaSection(record, _draw_correlations(found) if can_draw() else None)
    return section, [*record.order, *(name for name in names if name not in record.order)]


def _draw_correlations(found: CorrelationMap) -> Drawing:
    from blendsearch.results.report.figures import draw_correlation_figure

    return draw_correlation_figure(found)


def _summarize_timing(generations: list[GenerationRow], finals: list[float]) -> Timing:
    wall = sum(row["wall"] for row in generations)
    seconds = sum(row["seconds"] for row in generations)
    return Timing(wall, seconds, seconds / max(1, sum(row["evaluations"] for row in generations)), sum(finals))


def _format_duration(seconds: float) -> str:
    """Format seconds as ``3 h 12 min``, ``4 min 10 s`` or ``8.1 s``."""
    if seconds >= 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
    return f"{int(seconds // 60)} min {seconds % 60:.0f} s" if seconds >= 60 else f"{seconds:.1f} s"
