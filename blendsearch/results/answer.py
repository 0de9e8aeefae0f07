"""The answer of a run: the network to take in one sentence, the next command, and a short table.

The command line, the report, the page and the notebook print it. It is computed from the run directory alone.
"""

import shlex
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blendsearch.results.answer_row import AnswerRow, RuntimeRow, format_gains
from blendsearch.results.costs import BYTES_PER_WEIGHT
from blendsearch.results.latency_text import RUNTIME_NAMES, describe_slowness
from blendsearch.results.metrics import ACCURACY, RunMetric
from blendsearch.results.record import Record
from blendsearch.results.records import EvaluationRecord, FinalRecord, NetworkRecord, RunSummary
from blendsearch.results.summary import (
    describe_training,
    get_metric,
    has_accuracy,
    has_budget_range,
    select_network,
    summarize_run,
)
from blendsearch.runs.config.schema import LatencyConfig
from blendsearch.runs.default_folder import format_option
from blendsearch.runs.origin import DENSE, Origin
from blendsearch.runs.records import Latency
from blendsearch.runs.run import Run

NEAR_COST = 0.001
"""Two networks cost about the same within this share of the dense network's cost."""

MANY_POINTS = 0.005
"""A network that costs about the same and is less accurate by this difference is of no use."""

MAX_ROWS = 8
"""Largest number of networks in the short table."""

SMALLER = 0.95
"""The knee is named where it costs less than this share of the best network's cost."""

MAX_LOSS = 0.1
"""A network that loses more accuracy than this is named, but not recommended."""

USELESS = 0.3
"""A network with less accuracy than the best by this difference is not shown, however small it is."""


@dataclass(frozen=True, kw_only=True)
class Answer(Record):
    """The answer of a run.

    Attributes
    ----------
    sentences: the first names the network to take; a second one a smaller network, about as accurate or the knee.
    command: what to do next, as a shell command.
    hint: a further step that improves the network, or empty.
    dense, rows: the short table, the cheapest first.
    hidden: number of networks of the front and the baselines that the short table leaves out.
    conditions: how latency was measured; empty where it was not.
    warning: a line where the best network saves far less time than MACs; empty elsewhere.
    metric: what accuracies and losses of the rows are.
    """

    sentences: tuple[str, ...]
    command: str
    hint: str
    dense: AnswerRow | None
    rows: tuple[AnswerRow, ...]
    hidden: int
    conditions: str
    warning: str = ""
    metric: RunMetric = ACCURACY


def compose_answer(run: Run, summary: RunSummary | None = None) -> Answer:
    """Compose the answer of `run`, in any state."""
    return _Composer(run, summarize_run(run) if summary is None else summary).compose()


class _Composer:
    """Composes the answer of one run from its summary.

    Attributes
    ----------
    candidates: the networks to choose from: the fine-tuned ones, or, without these, the front.
    """

    def __init__(self, run: Run, summary: RunSummary) -> None:
        self._run, self._summary = run, summary
        with run.open_store(read_only=True) as store:
            self._latencies = store.read_latencies()
            self._further_latencies = store.read_runtime_latencies()
        self._metric = get_metric(run)
        self._dense = summary.dense[0] if summary.dense else None
        self._candidates: tuple[NetworkRecord | FinalRecord, ...] = summary.finals or summary.front
        spans = run.config.budget.get_spans()
        self._costs = [name for name in ("macs", "params") if name in spans] or ["macs"]
        spanned = run.config.budget.get_spanned_costs()
        self._axis = f"{'macs' if 'macs' in spanned or not spanned else spanned[0]}_ratio"
        self._is_here = run.read_engine_facts(expected=bool(self._candidates)).get("host") in (
            None,
            socket.gethostname(),
        )

    def compose(self) -> Answer:
        if not self._candidates:
            return self._compose_empty()
        best = self._find_best()
        knee = self._find_knee()
        dense = None if self._dense is None else self._make_row(self._dense, "")
        marked = {best.id: "best"} | ({} if knee is None else {knee.id: "best, knee" if knee is best else "knee"})
        shown = self._select_rows(marked)
        rows = tuple(self._make_row(row, marked.get(row.id, "")) for row in shown)
        groups = (self._summary.baselines, self._summary.front, self._summary.finals)
        known = {row.id for group in groups for row in group}
        return Answer(
            sentences=self._compose_sentences({row.id: row for row in rows}, best, knee, dense),
            command=self._compose_command(best),
            hint=self._compose_hint(next(row for row in rows if row.id == best.id)),
            dense=dense,
            rows=rows,
            hidden=len(known) - len(rows),
            conditions=self._describe_conditions(rows),
            warning=self._compose_warning(next(row for row in rows if row.id == best.id)),
            metric=self._metric,
        )

    def _compose_empty(self) -> Answer:
        verb = "status" if self._run.running else "resume"
        return Answer(
            sentences=("Nothing has been evaluated yet: there is no network to take.",),
            command=self._format_command(verb, self._run.name),
            hint="",
            dense=None if self._dense is None else self._make_row(self._dense, ""),
            rows=(),
            hidden=0,
            conditions="",
            metric=self._metric,
        )

    def _find_best(self) -> NetworkRecord | FinalRecord:
        if self._summary.finals:
            return self._summary.finals[0]
        return min(self._summary.front, key=lambda row: (row.val_loss or 0.0, row.macs_ratio, row.id))

    def _find_knee(self) -> NetworkRecord | FinalRecord | None:
        """Find the knee among the candidates, where the budget is a range and the knee has some accuracy left."""
        if not has_budget_range(self._run):
            return None
        number = select_network(self._run, "knee").id
        return next((row for row in self._candidates if row.id == number and not self._is_lost(row)), None)

    def _select_rows(self, marked: Mapping[int, str]) -> list[NetworkRecord | FinalRecord]:
        """Select the networks of the short table, the cheapest first; marked ones are always among them."""
        useful = [row for row in self._candidates if row.id in marked or not self._is_useless(row)]
        useful.sort(key=lambda row: (self._get_cost(row), -self._get_quality(row), row.id))
        if len(useful) > MAX_ROWS:
            step = (len(useful) - 1) / (MAX_ROWS - 1)
            places = {round(number * step) for number in range(MAX_ROWS)}
            useful = [row for place, row in enumerate(useful) if place in places or row.id in marked]
        return useful

    def _is_useless(self, row: EvaluationRecord) -> bool:
        """Check if another network costs as much or about the same and is better, or all the accuracy is lost."""
        own, cost = self._get_quality(row), self._get_cost(row)
        if self._is_lost(row):
            return True
        for other in self._candidates:
            gain = self._get_quality(other) - own
            if other.id == row.id:
                continue
            spent = self._get_cost(other)
            if gain >= 0 and spent <= cost and (gain > 0 or spent < cost or other.id < row.id):
                return True
            if gain >= MANY_POINTS and spent <= cost + NEAR_COST:
                return True
        return False

    def _is_lost(self, row: EvaluationRecord) -> bool:
        least = max(map(self._get_quality, self._candidates)) - USELESS
        return row.val_accuracy is not None and row.val_accuracy < least

    def _get_cost(self, row: EvaluationRecord) -> float:
        return float(getattr(row, self._axis) or 0.0)

    def _get_quality(self, row: EvaluationRecord) -> float:
        """The validation accuracy; where networks have none, the negative loss."""
        return -(row.val_loss or 0.0) if row.val_accuracy is None else row.val_accuracy

    def _make_row(self, row: NetworkRecord | FinalRecord, mark: str) -> AnswerRow:
        dense, facts = self._dense, self._run.structure["dense"]
        latency = self._get_latency(row)
        return AnswerRow(
            id=row.id,
            name=Origin.parse(row.origin).label,
            mark=mark,
            macs_ratio=row.macs_ratio,
            params_ratio=row.params_ratio,
            bytes=BYTES_PER_WEIGHT * round(row.params_ratio * facts["params"]),
            latency_ms=None if latency is None else 1e3 * latency.seconds,
            latency_ratio=None if latency is None else latency.ratio,
            runtimes=self._get_runtimes(row),
            trained=isinstance(row, FinalRecord),
            val_loss=row.val_loss,
            val_accuracy=row.val_accuracy,
            test_accuracy=row.test_accuracy,
            val_spread=row.val_spread if isinstance(row, FinalRecord) and row.seeds > 1 else None,
            test_spread=row.test_spread if isinstance(row, FinalRecord) and row.seeds > 1 else None,
            points=None if dense is None or row is dense else _compute_points(row, dense),
        )

    def _get_latency(self, row: EvaluationRecord) -> Latency | None:
        """Get a measured latency; the dense network's is that beside the best one that was measured."""
        if row.origin != DENSE:
            return self._latencies.get(row.cut)
        beside = next((found for item in self._candidates if (found := self._latencies.get(item.cut))), None)
        return None if beside is None or not beside.ratio else Latency(1.0, beside.seconds / beside.ratio)

    def _get_runtimes(self, row: EvaluationRecord) -> dict[str, RuntimeRow]:
        """Get the latencies in further runtimes; the dense network's are those beside the best one measured there."""
        if row.origin != DENSE:
            own = self._further_latencies.get(row.cut, {})
            return {
                name: RuntimeRow(ms=1e3 * item.seconds, ratio=item.ratio) for name, item in own.items() if item.ratio
            }
        beside = next((found for item in self._candidates if (found := self._further_latencies.get(item.cut))), {})
        return {
            name: RuntimeRow(ms=1e3 * item.seconds / item.ratio, ratio=1.0)
            for name, item in beside.items()
            if item.ratio
        }

    def _compose_warning(self, best: AnswerRow) -> str:
        """Compose the line that says where the network to take is slower than its MACs promise."""
        times = {name: (item["ms"] / item["ratio"], item["ms"]) for name, item in best.runtimes.items()}
        if best.latency_ms is not None and best.latency_ratio:
            runtime = self._run.config.budget.measured.runtime
            times[runtime] = (best.latency_ms / best.latency_ratio, best.latency_ms)
        slow = describe_slowness(times, best.macs_ratio)
        return f"warning: network {best.id} is {slow}" if slow else ""

    def _compose_sentences(
        self,
        rows: Mapping[int, AnswerRow],
        best: NetworkRecord | FinalRecord,
        knee: NetworkRecord | FinalRecord | None,
        dense: AnswerRow | None,
    ) -> tuple[str, ...]:
        begin = "Take" if self._run.finished else "So far, take"
        if _is_poor(rows[best.id]):
            begin = "The best network found is"
        found = [f"{begin} {self._name(rows[best.id])}: {self._format_gains(rows[best.id], dense)}."]
        other = self._find_smaller(best, knee, rows)
        if other is not None:
            place = " at the knee of the front" if other is knee else ""
            gains = self._format_gains(rows[other.id], dense)
            found.append(f"Or, smaller, {self._name(rows[other.id])}{place}: {gains}.")
        if not self._run.finished:
            state = "is running" if self._run.running else "stopped"
            with self._run.open_store(read_only=True) as store:
                done = store.read_last_id()
            found.append(f"The search {state}: {done} of {self._run.config.search.evaluations} networks are evaluated.")
        return tuple(found)

    def _find_smaller(
        self,
        best: NetworkRecord | FinalRecord,
        knee: NetworkRecord | FinalRecord | None,
        rows: Mapping[int, AnswerRow],
    ) -> NetworkRecord | FinalRecord | None:
        """Find a clearly cheaper network of the table: about as accurate by validation, or else the knee."""
        least = self._get_quality(best) - MANY_POINTS
        near = [row for row in self._candidates if row.id in rows and self._get_quality(row) >= least]
        choices = [min(near, key=self._get_cost), *([] if knee is None else [knee])]
        return next((row for row in choices if self._get_cost(row) < SMALLER * self._get_cost(best)), None)

    def _format_gains(self, row: AnswerRow, dense: AnswerRow | None) -> str:
        machine = "this machine" if self._is_here else "the machine of the search"
        return format_gains(row, dense, self._costs, machine, self._describe_state(row), self._metric)

    def _describe_state(self, row: AnswerRow) -> str:
        if row.trained:
            how = describe_training(self._run)
            return how if how.startswith("as ") else "after training"
        return "before training"

    def _name(self, row: AnswerRow) -> str:
        return f"network {row.id}" + ("" if row.name == "evolved" else f" ({row.name})")

    def _compose_command(self, best: EvaluationRecord) -> str:
        folder = f"{self._run.name}-{best.id}"
        return self._format_command("export", self._run.name, str(best.id), "--out", folder)

    def _compose_hint(self, best: AnswerRow) -> str:
        """Name the command that trains the network, where it is not trained and could be, or that loses less."""
        if not self._run.finished or not has_accuracy(self._run):
            return ""
        if not self._summary.finals:
            return f"It is not trained yet: {self._format_command('resume', self._run.name, '--set', 'finals.picks=1')}"
        if not _is_poor(best):
            return ""
        return "It loses much: give it more finals.tuning.epochs, or fork the run to a larger budget"

    def _format_command(self, verb: str, *words: str) -> str:
        return shlex.join(["blendsearch", verb, *words]) + format_option(self._run.path.parent)

    def _describe_conditions(self, rows: Sequence[AnswerRow]) -> str:
        if all(row.latency_ms is None for row in rows):
            return ""
        how = self._run.config.budget.measured
        where = self._describe_place(how)
        further = sorted({RUNTIME_NAMES[name] for row in rows for name in row.runtimes})
        beside = f"; beside it in {', '.join(further)}" if further else ""
        value = "median" if "latency" in self._run.config.budget.get_spans() else "fastest"
        return (
            f"latency on {where}, batch {how.batch_size}, {how.precision}: {value} of passes in turns with the dense "
            f"network{beside}; size: float32 weights"
        )

    def _describe_place(self, how: LatencyConfig) -> str:
        return self._run.provenance["device"] if how.runtime == "torch" else RUNTIME_NAMES[how.runtime]


def _is_poor(row: AnswerRow) -> bool:
    return row.points is not None and row.points < -MAX_LOSS


def _compute_points(row: EvaluationRecord, dense: EvaluationRecord) -> float | None:
    if row.test_accuracy is not None and dense.test_accuracy is not None:
        return row.test_accuracy - dense.test_accuracy
    if row.val_accuracy is None or dense.val_accuracy is None:
        return None
    return row.val_accuracy - dense.val_accuracy
