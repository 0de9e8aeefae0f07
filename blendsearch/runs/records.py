"""Rows of a run's store, as typed records."""

from typing import NamedTuple


class Evaluation(NamedTuple):
    """One row: a cut, its origin, its costs, and the result of its evaluation."""

    id: int
    digest: str
    cut: bytes
    fidelity: str
    seed: int
    generation: int
    origin: str
    genome: str
    macs: int
    params: int
    loss: float | None
    error: float | None
    seconds: float
    failure: str


class Tally(NamedTuple):
    """Counts of evaluated pruned networks and of failures, the least error and the least loss."""

    evaluations: int
    failed: int
    least_error: float | None
    least_loss: float | None


class Completion(NamedTuple):
    """The arrival of an evaluation: its `id`, how many had been `asked` for, and the time in seconds since 1970."""

    id: int
    asked: int
    at: float


class InheritedEvaluation(NamedTuple):
    """A network that a fork takes over: its genome, and its result where it is `judged`.

    Those that `begin` are in the first generation. All results are reused when their cuts are proposed again.
    """

    digest: str
    fidelity: str
    seed: int
    origin: str
    genome: str
    loss: float | None
    error: float | None
    failure: str
    judged: bool
    begins: bool


class TestResult(NamedTuple):
    """Mean cross-entropy and error on the test images."""

    loss: float
    error: float


class Promotion(NamedTuple):
    """A network evaluated again at a higher fidelity, on validation images."""

    digest: str
    fidelity: str
    loss: float
    error: float
    seconds: float


class FinalResult(NamedTuple):
    """A selected network after its long fine-tune on one seed: validation and test loss and error."""

    digest: str
    repeat: int
    loss: float
    error: float
    test_loss: float
    test_error: float
    seconds: float


class Probe(NamedTuple):
    """A network evaluated to measure the dense one, such as its sensitivity: no candidate, outside the budget."""

    digest: str
    fidelity: str
    subject: str
    loss: float | None
    error: float | None
    seconds: float
    failure: str


class RungResult(NamedTuple):
    """A network trained up to a rung of the ladder, on validation images.

    `rung` counts from 1. `cost` is the number of multiply-accumulates of this training, from the rung before.
    """

    digest: str
    rung: int
    loss: float | None
    error: float | None
    seconds: float
    cost: float
    failure: str


class Latency(NamedTuple):
    """A network's latency measured at the end of the search: ratio to the dense network's, and median seconds."""

    ratio: float
    seconds: float


class StoredGeneration(NamedTuple):
    """A row of the table of generations; `summary` is JSON."""

    generation: int
    evaluations: int
    seconds: float
    wall: float
    summary: str


class StoredTest(NamedTuple):
    """A row of the table of tests; `subject` is ``dense`` or a cut's digest."""

    subject: str
    loss: float
    error: float


class StoredLatency(NamedTuple):
    """A row of the table of latencies."""

    digest: str
    ratio: float
    seconds: float


class StoredRuntimeLatency(NamedTuple):
    """A row of the table of latencies in further runtimes."""

    digest: str
    runtime: str
    ratio: float
    seconds: float


class StoredMetrics(NamedTuple):
    """A row of the table of further metrics; `numbers` is JSON."""

    digest: str
    numbers: str
