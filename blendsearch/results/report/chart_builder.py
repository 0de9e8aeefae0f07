"""Charts of one run or two, built from the stored evaluations."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from statistics import fmean

from blendsearch.errors import RunError
from blendsearch.results.costs import make_ranged_cost_reader
from blendsearch.results.formatting import format_share
from blendsearch.results.history import (
    BASELINE_KINDS,
    SearchHistory,
    format_network_name,
    group_baselines,
    read_history,
)
from blendsearch.results.report.chart import (
    NARROW_WIDTH,
    WIDTH,
    Axis,
    ChartOptions,
    ChartPoint,
    ChartSeries,
    FrontChart,
    Vertex,
    YAxisName,
)
from blendsearch.results.report.chart_axes import make_cost_axis
from blendsearch.results.report.chart_measure import MEASURES, name_measure
from blendsearch.results.summary import get_metric, has_accuracy
from blendsearch.runs.origin import DENSE
from blendsearch.runs.pareto import find_knee
from blendsearch.runs.records import Evaluation, FinalResult
from blendsearch.runs.run import Run

BASELINE_STYLES = dict(zip(BASELINE_KINDS, ("single", "equal", "third", "fourth"), strict=True))


class _ChartSource:
    """The networks of a run at their places on both axes."""

    def __init__(self, run: Run, history: SearchHistory, options: ChartOptions) -> None:
        self.run = run
        self.metric = get_metric(run)
        self.by_cost = options.x != "evaluations" and (options.x != "auto" or history.has_budget_range)
        self.cost = make_cost_axis(run, history, options.x)
        self.measure = name_measure(MEASURES[_choose_measure(run, options.y)], self.metric)
        self.after = options.stage == "after"
        self._finals = {} if options.stage == "before" else _read_finals(run)
        self.history = self._select(history)
        self._places = {row.id: place for place, row in enumerate(self.history.evaluated, 1)}

    def _select(self, history: SearchHistory) -> SearchHistory:
        """Select the networks of the stage whose cost is known. Raises RunError where there are none."""
        if self.after:
            history = self._replace_by_tuned(history)
        history = replace(
            history,
            evaluated=self._drop_unknown(history.evaluated),
            comparable=self._drop_unknown(history.comparable),
            baselines=self._drop_unknown(history.baselines),
            front=self._drop_unknown(history.front),
            best_so_far=self._drop_unknown(history.best_so_far),
        )
        if not history.evaluated:
            raise RunError(f"run {self.run.name!r} has no such networks yet: let it search to its end")
        return history

    def _drop_unknown(self, rows: Sequence[Evaluation]) -> list[Evaluation]:
        return [row for row in rows if self.cost.read(row) is not None] if self.cost.partial else list(rows)

    def _replace_by_tuned(self, history: SearchHistory) -> SearchHistory:
        tuned = self._list_tuned(history.evaluated)
        if not tuned:
            raise RunError(f"run {self.run.name!r} has no long fine-tunes: set finals.picks and resume it")
        best: list[Evaluation] = []
        for row in tuned:
            best.append(min([*best[-1:], row], key=_rank_tuned))
        known = self._drop_unknown(tuned)
        front = [row for row in known if not any(self._dominates(other, row) for other in known)]
        return replace(history, evaluated=tuned, comparable=tuned, baselines=[], front=front, best_so_far=best)

    def _dominates(self, other: Evaluation, row: Evaluation) -> bool:
        values = [(self.cost.read(item) or 0.0, self.measure.get_badness(item)) for item in (other, row)]
        return values[0] != values[1] and all(one <= two for one, two in zip(*values, strict=True))

    @property
    def has_finals(self) -> bool:
        """Whether networks after the fine-tune are drawn beside those before it."""
        return bool(self._finals) and not self.after

    def get_x(self, row: Evaluation) -> float:
        return self.cost.read(row) or 0.0 if self.by_cost else float(self._places.get(row.id, 0))

    def find_best(self, rows: Sequence[Evaluation]) -> Evaluation:
        """Find the network to label: that of the lowest loss, or after the fine-tune of the lowest error."""
        return min(rows, key=_rank_tuned if self.after else lambda row: (row.loss or 0.0, row.macs, row.id))

    def make_point(self, row: Evaluation, label: str = "") -> ChartPoint:
        return ChartPoint(row.id, self.get_x(row), self.measure.require(row), self.format_tip(row), label)

    def format_tip(self, row: Evaluation) -> str:
        metric = self.metric
        accuracy = f"{format_share(1 - (row.error or 0.0), 2)} {metric.name}, " if metric.share else ""
        name = "dense network" if row.origin == DENSE else format_network_name(row)
        loss = "no loss" if row.loss is None else f"{metric.loss_name} {metric.convert_loss(row.loss):.3f}"
        return f"{row.id}: {name}, {accuracy}{loss}, {self.cost.format(row)}".removesuffix(", ")

    def choose_limit(self) -> float:
        """The worst value that the chart has room for; networks far worse than most are drawn at its edge."""
        history, measure = self.history, self.measure
        values = sorted(measure.get_badness(row) for row in history.evaluated)
        known = [measure.get_badness(row) for row in history.baselines]
        if self.after:
            return values[-1] + 0.002
        if not self.by_cost:
            # the first networks are often near chance, and would leave no room for the later ones
            usual = values[(len(values) - 1) * 3 // 4]
            first = min([measure.get_badness(history.best_so_far[-1]), *known])
            room = max(2.5 * (usual - values[0]), 1.2 * (first - values[0]))
            return min(values[-1], values[0] + room) + 0.002
        shown = known or [measure.get_badness(row) for row in history.front]
        dense = [] if history.dense is None else [measure.get_badness(history.dense)]
        return min(values[-1], 1.3 * max([*shown, *dense])) + 0.002

    def list_shown(self) -> list[Evaluation]:
        dense = [] if self.history.dense is None else [self.history.dense]
        return [*self.history.evaluated, *self.list_tuned(), *dense]

    def list_tuned(self) -> list[Evaluation]:
        """The networks after the long fine-tune that are drawn beside those before it."""
        return self._list_tuned(self.history.evaluated) if self.has_finals else []

    def _list_tuned(self, rows: Sequence[Evaluation]) -> list[Evaluation]:
        """List the networks after the long fine-tune, with the means over its seeds."""
        return [
            row._replace(
                loss=fmean(item.loss for item in self._finals[row.digest]),
                error=fmean(item.error for item in self._finals[row.digest]),
            )
            for row in rows
            if row.digest in self._finals
        ]


def build_front_chart(run: Run, options: ChartOptions | None = None) -> FrontChart:
    """Describe the front of `run`, or at one budget the best network after every evaluation.

    Raises RunError when no network has been evaluated, or the run has no such cost.
    """
    options = options or ChartOptions()
    history = _read_evaluated(run)
    source = _ChartSource(run, history, options)
    x, y = _make_axes([source], options)
    return FrontChart(
        "front" if source.by_cost else f"search-{source.measure.name}",
        _format_title(run, history),
        _describe_source(source),
        x,
        y,
        tuple(_list_series(source, x, y)),
        *_choose_size(options),
    )


def build_comparison_chart(runs: Sequence[Run], options: ChartOptions | None = None) -> FrontChart:
    """Describe two runs in one chart: their fronts where both have the same cost axis, else their best so far.

    Raises RunError when one has no evaluated network, or the runs have no measure in common.
    """
    options = options or ChartOptions()
    histories = [_read_evaluated(run) for run in runs]
    costs = {history.cost if history.has_budget_range else None for history in histories}
    x = options.x if options.x != "auto" else "auto" if len(costs) == 1 else "evaluations"
    y = options.y if options.y != "auto" else "accuracy" if all(map(has_accuracy, runs)) else "loss"
    chosen = replace(options, x=x, y=y)
    sources = [_ChartSource(run, history, chosen) for run, history in zip(runs, histories, strict=True)]
    axes = _make_axes(sources, chosen)
    series = [
        item
        for source, style in zip(sources, ("first", "second"), strict=False)
        for item in _list_pair(source, style, axes)
    ]
    names = " and ".join(run.name for run in runs)
    description = f"All networks of {names}, and the {_name_line(sources[0])} of each. The table has the numbers."
    return FrontChart("comparison", names, description, *axes, tuple(series), *_choose_size(options))


def _choose_size(options: ChartOptions) -> tuple[float, float]:
    """Choose height and width."""
    return (340.0, NARROW_WIDTH) if options.narrow else (400.0, WIDTH)


def build_hypervolume_chart(run: Run, options: ChartOptions | None = None) -> FrontChart:
    """Describe the hypervolume after every generation. Raises RunError before the first."""
    store = run.open_store(read_only=True)
    try:
        generations = store.read_generations()
    finally:
        store.close()
    done, points = 0, []
    for row in generations:
        done += row["evaluations"]
        value = row["summary"].get("hypervolume")
        if value is not None:
            points.append(ChartPoint(None, done, float(value), f"after {done} evaluations: {value:.4f}"))
    if not points:
        raise RunError(f"run {run.name!r} has no finished generation yet: let it search first")
    values = [point.y for point in points]
    margin = max(0.002, 0.1 * (max(values) - min(values)))
    return FrontChart(
        "hypervolume",
        "Hypervolume after every generation",
        f"From {values[0]:.4f} after {points[0].x:.0f} evaluations to {values[-1]:.4f} after {done}.",
        Axis("evaluations", 0, max(1, done), "count"),
        Axis("hypervolume", min(values) - margin, max(values) + margin, "number"),
        (ChartSeries("", "front", tuple(points), tuple((point.x, point.y) for point in points)),),
        240.0,
        _choose_size(options or ChartOptions())[1],
    )


def _read_evaluated(run: Run) -> SearchHistory:
    history = read_history(run, genomes=False)
    if not history.evaluated:
        raise RunError(f"run {run.name!r} has no evaluated network yet: let it search first")
    return history


def _choose_measure(run: Run, name: YAxisName) -> str:
    if name == "auto":
        return "accuracy" if has_accuracy(run) else "loss"
    if name != "loss" and not has_accuracy(run):
        raise RunError(f"run {run.name!r} has losses alone: ask for y=loss")
    return name


def _make_axes(sources: Sequence[_ChartSource], options: ChartOptions) -> tuple[Axis, Axis]:
    first = sources[0]
    if first.by_cost:
        x = _make_cost_axis(sources, options)
    else:
        most = max(len(source.history.evaluated) for source in sources)
        x = Axis("evaluations", 1.0 if options.log else 0.0, max(2, most), "count", options.log)
    worst = max(source.choose_limit() for source in sources)
    best = min(source.measure.get_badness(row) for source in sources for row in source.list_shown())
    low, high = max(0.0, best - 0.08 * (worst - best)), worst
    if first.measure.sign < 0:
        low, high = 1 - high, 1 - low
    return x, Axis(first.measure.label, low, high, first.measure.unit, falls=first.measure.sign > 0)


def _make_cost_axis(sources: Sequence[_ChartSource], options: ChartOptions) -> Axis:
    """The axis over the budgets and all networks."""
    shares = [source.get_x(row) for source in sources for row in source.history.evaluated]
    shares += [end for source in sources for end in source.cost.ends]
    low, high = min(shares), max(shares)
    if options.log:
        low, high = low / 1.08, high * 1.08
    else:
        margin = 0.03 * (high - low) or 0.01
        low, high = max(0.0, low - margin), high + margin
    return Axis(sources[0].cost.label, low, high, sources[0].cost.unit, options.log)


def _format_title(run: Run, history: SearchHistory) -> str:
    state = "" if run.finished else ", not finished"
    return f"{run.config.model.title} on {run.config.data.dataset}: {len(history.evaluated)} networks{state}"


def _describe_source(source: _ChartSource) -> str:
    history, measure = source.history, source.measure
    best = source.find_best(history.front) if history.front else history.best_so_far[-1]
    kind = "lowest loss is that of network" if source.metric.loss_name == "loss" else "best is network"
    kind = "best fine-tuned network is" if source.after else kind
    found = f"The {kind} {best.id}: {measure.title or measure.name} {measure.format(measure.require(best))}."
    if not source.by_cost:
        return f"{len(history.evaluated)} networks in the order of their ids. {found}"
    ordered = sorted(history.front or history.evaluated, key=source.get_x)
    span = f"from {source.cost.format(ordered[0])} to {source.cost.format(ordered[-1])}"
    return f"{len(history.evaluated)} pruned networks, {len(history.front)} of them on the front, {span}. {found}"


def _list_series(source: _ChartSource, x: Axis, y: Axis) -> Iterator[ChartSeries]:
    rows = source.history.evaluated
    newest = None if source.run.finished or source.after else max(row.generation for row in rows)
    old = [source.make_point(row) for row in rows if row.generation != newest]
    yield ChartSeries("after the long fine-tune" if source.after else "evaluated", "evaluated", tuple(old))
    if newest is not None:
        new = [source.make_point(row) for row in rows if row.generation == newest]
        yield ChartSeries("last generation", "newest", tuple(new))
    if source.history.dense is not None:
        yield _make_dense_series(source, source.history.dense, x, y)
    for kind, rows in group_baselines(source.history).items():
        yield _make_baseline_series(source, kind, rows, x, y)
    yield _make_front_series(source, "front", x)
    yield from _list_finals(source)


def _make_dense_series(source: _ChartSource, dense: Evaluation, x: Axis, y: Axis) -> ChartSeries:
    value = source.measure.require(dense)
    line = ((x.low, value), (x.high, value)) if y.contains(value) else ()
    return ChartSeries(f"dense network, {source.measure.format(value)}", "dense", (), line, "dense")


def _make_baseline_series(source: _ChartSource, kind: str, rows: Sequence[Evaluation], x: Axis, y: Axis) -> ChartSeries:
    """The best baselines of a kind; at one budget also a line across, and the name and value in the legend."""
    style, name = BASELINE_STYLES.get(kind, "fourth"), f"best {kind}"
    line: tuple[Vertex, ...] = ()
    if not source.by_cost:
        first, value = format_network_name(rows[0]), source.measure.require(rows[0])
        named = "" if first.startswith(kind) else f": {first}"
        name += f"{named}, {source.measure.format(value)}"
        line = ((x.low, value), (x.high, value)) if y.contains(value) else ()
    return ChartSeries(name, style, tuple(map(source.make_point, rows)), line)


def _name_line(source: _ChartSource) -> str:
    by_loss = source.metric.loss_name == "loss" and not source.after
    return "front" if source.by_cost else "lowest loss so far" if by_loss else "best so far"


def _make_front_series(source: _ChartSource, style: str, x: Axis) -> ChartSeries:
    """The front and the best value at every cost; at one budget the network of the lowest loss until then."""
    if source.by_cost:
        rows = sorted(source.history.front, key=lambda row: (source.get_x(row), row.loss or 0.0))
        vertices = list(_trace_monotone(source, [*source.history.comparable, *rows]))
        line = (*vertices, (max(x.high, vertices[-1][0]), vertices[-1][1])) if vertices else ()
        return ChartSeries(_name_line(source), style, tuple(_label_front(source, rows)), line)
    rows = list(dict.fromkeys(source.history.best_so_far))
    vertices = list(_trace_steps((source.get_x(row), source.measure.require(row)) for row in rows))
    points = [source.make_point(row, "best" if row is rows[-1] and not source.has_finals else "") for row in rows]
    return ChartSeries(_name_line(source), style, tuple(points), (*vertices, (x.high, vertices[-1][1])))


def _label_front(source: _ChartSource, rows: Sequence[Evaluation]) -> Iterator[ChartPoint]:
    labels: dict[int, str] = {}
    if source.history.has_budget_range and rows and not source.after:
        labels[find_knee(source.history.front, make_ranged_cost_reader(source.run)).id] = "knee"
    if rows and not source.has_finals:
        labels[source.find_best(rows).id] = "best"
    for row in rows:
        yield source.make_point(row, labels.get(row.id, ""))


def _trace_monotone(source: _ChartSource, rows: Sequence[Evaluation]) -> Iterator[Vertex]:
    """A staircase: at every cost the best value that a network has at no more cost."""
    best: list[Vertex] = []
    for row in sorted(rows, key=lambda row: (source.get_x(row), source.measure.get_badness(row))):
        if not best or source.measure.get_badness(row) < best[-1][1]:
            best.append((source.get_x(row), source.measure.get_badness(row)))
    turned = ((x, 1 - bad if source.measure.sign < 0 else bad) for x, bad in best)
    return _trace_steps(turned)


def _trace_steps(vertices: Iterable[Vertex]) -> Iterator[Vertex]:
    last: Vertex | None = None
    for x, y in vertices:
        if last is not None:
            yield x, last[1]
        yield x, y
        last = x, y


def _read_finals(run: Run) -> dict[str, list[FinalResult]]:
    """The long fine-tunes by the digest of their network."""
    store = run.open_store(read_only=True)
    try:
        finals = store.read_finals()
    finally:
        store.close()
    by_digest: dict[str, list[FinalResult]] = {}
    for item in finals:
        by_digest.setdefault(item.digest, []).append(item)
    return by_digest


def _rank_tuned(row: Evaluation) -> tuple[float, float]:
    return row.error or 0.0, row.loss or 0.0


def _list_finals(source: _ChartSource) -> Iterator[ChartSeries]:
    """The networks after the long fine-tune, where there was one."""
    if tuned := source.list_tuned():
        best = min(tuned, key=_rank_tuned)
        points = (source.make_point(row, "best" if row is best else "") for row in tuned)
        marked = (replace(point, tip=f"after the long fine-tune: {point.tip}") for point in points)
        yield ChartSeries("after the long fine-tune", "final", tuple(marked))


def _list_pair(source: _ChartSource, style: str, axes: tuple[Axis, Axis]) -> Iterator[ChartSeries]:
    dots = (_name_run(source, source.make_point(row)) for row in source.history.evaluated)
    yield ChartSeries("", f"{style}-evaluated", tuple(dots))
    front = _make_front_series(source, style, axes[0])
    points = tuple(_name_run(source, point) for point in front.points)
    yield ChartSeries(f"{source.run.name}: {front.name}", style, points, front.line)


def _name_run(source: _ChartSource, point: ChartPoint) -> ChartPoint:
    return replace(point, tip=f"{source.run.name}, {point.tip}", label="")
