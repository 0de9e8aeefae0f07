"""Results of runs as typed records. `to_dict` gives the JSON of the command line and the API."""

# ruff: noqa: RUF009 (`omit` returns a dataclass field)

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from blendsearch.results.ladder_records import FinalsNoise, LadderRecord
from blendsearch.results.metrics import ACCURACY, RunMetric
from blendsearch.results.record import Record, omit

JsonObject = Mapping[str, Any]
"""A JSON object of a run directory that is passed on as it is."""


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord(Record):
    """A network and the result of its evaluation.

    Attributes
    ----------
    cut: the cut's digest.
    macs_ratio, params_ratio: shares of the dense network's costs.
    val_accuracy: in [0, 1]; None where networks have no accuracy.
    test_accuracy: None until the search has finished, too.
    """

    id: int
    cut: str
    origin: str
    macs_ratio: float
    params_ratio: float
    val_loss: float | None
    val_accuracy: float | None
    test_accuracy: float | None
    fidelity: str


@dataclass(frozen=True, kw_only=True)
class BudgetedCosts(Record):
    """Costs besides MACs and parameters, as shares of the dense network's; None for those without a budget.

    Attributes
    ----------
    latency_ratio: the share that the budget was charged.
    latency_predicted: the share that the latency model predicts.
    latency_measured, latency_ms: None until the search has finished, and for networks that are not shown.
    """

    memory_ratio: float | None = omit()
    latency_ratio: float | None = omit()
    latency_predicted: float | None = omit()
    latency_measured: float | None = omit(unless="latency_predicted")
    latency_ms: float | None = omit(unless="latency_predicted")


@dataclass(frozen=True, kw_only=True)
class NetworkRecord(BudgetedCosts, EvaluationRecord):
    """A network of the front, a baseline, or the dense network.

    Attributes
    ----------
    further: the other numbers of a user-defined evaluation, by name.
    """

    further: Mapping[str, float] | None = omit()


@dataclass(frozen=True, kw_only=True)
class _FinalMetrics(EvaluationRecord):
    """Means over seeds of loss and accuracies, and the standard deviations of accuracies: 0 of one seed."""

    seeds: int
    val_spread: float | None
    test_spread: float | None


@dataclass(frozen=True, kw_only=True)
class FinalRecord(BudgetedCosts, _FinalMetrics):
    """A network after its long fine-tunes."""


@dataclass(frozen=True, kw_only=True)
class FidelityAgreement(Record):
    """The agreement of the losses of the same networks at a lower and at a higher fidelity.

    Attributes
    ----------
    cheaper, dearer: the two fidelities.
    networks: the number of networks that were evaluated at both.
    tau: Kendall's tau of their losses; None below three networks.
    """

    cheaper: str
    dearer: str
    networks: int
    tau: float | None


@dataclass(frozen=True, kw_only=True)
class RunSummary(Record):
    """The results of a run: equal for equal searches.

    Attributes
    ----------
    dense: the dense network, or nothing before its evaluation.
    baselines: the best baseline of every kind at each seeded budget.
    fidelities: the agreement of each fidelity with the next higher one.
    finals: the fine-tuned networks, the best by validation first.
    noise: of the finals; None for fewer than two of them, and where the number of validation images is not known.
    ladder: None for a run without one.
    """

    dense: tuple[NetworkRecord, ...]
    baselines: tuple[NetworkRecord, ...]
    front: tuple[NetworkRecord, ...]
    fidelities: tuple[FidelityAgreement, ...]
    finals: tuple[FinalRecord, ...]
    noise: FinalsNoise | None = omit()
    ladder: LadderRecord | None = omit()


@dataclass(frozen=True, kw_only=True)
class FineTuneRecord(Record):
    """One long fine-tune of a network; `how` describes it in words, and `repeat` numbers its seed."""

    how: str
    repeat: int
    val_loss: float
    val_accuracy: float
    test_loss: float
    test_accuracy: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class BlendWeight(Record):
    """A criterion's `weight` in a blend, and its `part` of the sum of weights, in [0, 1]."""

    criterion: str
    weight: float
    part: float


@dataclass(frozen=True, kw_only=True)
class GroupRecord(Record):
    """A group of a network.

    Attributes
    ----------
    blend: the criteria with a weight, the largest first; None where the method does not blend.
    log_alpha, beta: LeGR's affine map; None for other methods.
    """

    group: str
    channels: int
    kept: int
    kept_ratio: float
    blend: tuple[BlendWeight, ...] | None
    log_alpha: float | None = omit()
    beta: float | None = omit()


@dataclass(frozen=True, kw_only=True)
class _RunMember(Record):
    """A record that begins with the name of its run."""

    run: str


@dataclass(frozen=True, kw_only=True)
class NetworkDetails(NetworkRecord, _RunMember):
    """One network with its groups and its provenance.

    Attributes
    ----------
    dense: the dense network's costs in units.
    seconds: the duration of its evaluation.
    kinds: the kinds of baseline that it is.
    finals: its long fine-tunes, one per seed.
    decomposed: the layers that it decomposes; None where the run decomposes none.
    genome, provenance: as the run stores them.
    """

    macs: int
    params: int
    dense: Mapping[str, int]
    generation: int
    seed: int
    seconds: float
    kinds: tuple[str, ...]
    on_front: bool
    finals: tuple[FineTuneRecord, ...]
    groups: tuple[GroupRecord, ...]
    decomposed: tuple[str, ...] | None = omit()
    genome: JsonObject
    provenance: JsonObject


@dataclass(frozen=True, kw_only=True)
class Spread(Record):
    """Mean and standard deviation over seeds; None where no seed, or only one, has a value."""

    mean: float | None
    deviation: float | None


@dataclass(frozen=True, kw_only=True)
class PairedDifference(Record):
    """The mean over pairs of first minus second, and the half-width of its 95 % confidence interval.

    None where there is no pair, and for the half-width where there is only one.
    """

    mean: float | None
    half_width: float | None
    pairs: int


@dataclass(frozen=True, kw_only=True)
class FoundNetwork(Record):
    """The best network of a method on one seed, by validation, and its accuracy on the test images."""

    seed: int
    cut: str
    origin: str
    evaluations: int
    macs_ratio: float
    params_ratio: float
    val_loss: float
    val_accuracy: float | None
    test_accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class MethodSummary(Record):
    """A method over all seeds.

    Attributes
    ----------
    found: one network per seed.
    difference: the test accuracy of the run's own method minus this one's, paired by seed; None for the own method.
    """

    name: str
    seeds: tuple[int, ...]
    found: tuple[FoundNetwork, ...]
    val_loss: Spread
    val_accuracy: Spread
    test_accuracy: Spread
    difference: PairedDifference | None = omit()


@dataclass(frozen=True, kw_only=True)
class ComparisonTable(_RunMember):
    """A run and its controls at the same budget: its own method first, and the `verdict` in a sentence."""

    budget: str
    methods: tuple[MethodSummary, ...]
    verdict: str


@dataclass(frozen=True, kw_only=True)
class RunListing(_RunMember):
    """A run among others.

    Attributes
    ----------
    asked: the number of evaluations to make.
    metric, best_metric: what the run's networks are shown by, and its best value on validation data.
    state: one word, or the reason of a failure.
    tags, archived: its labels.
    changed: the time of the last change by a search, in seconds since 1970; None where unknown.
    """

    model: str = ""
    data: str = ""
    budget: str = ""
    evaluations: int = 0
    asked: int = 0
    best_val_accuracy: float | None = None
    metric: RunMetric = ACCURACY
    best_metric: float | None = None
    state: str
    tags: tuple[str, ...] = ()
    archived: bool = False
    changed: float | None = None


@dataclass(frozen=True, kw_only=True)
class Pace(Record):
    """The speed of the last evaluations since the search was last started; None where unknown.

    Attributes
    ----------
    utilisation: the workers' time spent on evaluations, as a share in [0, 1] of the time that they had.
    """

    workers: int | None = None
    per_minute: float | None = None
    seconds_each: float | None = None
    utilisation: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True, kw_only=True)
class BestNetwork(Record):
    """The best network of a search so far."""

    id: int
    origin: str
    val_loss: float
    val_accuracy: float | None
    macs_ratio: float


@dataclass(frozen=True, kw_only=True)
class _Progress(_RunMember):
    state: str
    evaluations: int
    asked: int
    failed: int
    generations: int
    fine_tuned: int
    tested: int
    schedule: str
    retried: int


@dataclass(frozen=True, kw_only=True)
class RunStatus(Pace, _Progress):
    """The progress of a search.

    Attributes
    ----------
    state: ``running``, ``stopped`` or ``finished``.
    retried: attempts that failed, hung or were lost, and were repeated.
    quiet: seconds since the last evaluation finished.
    ladder: None for a run without one.
    """

    quiet: float | None
    best: BestNetwork | None
    ladder: LadderRecord | None = omit()
