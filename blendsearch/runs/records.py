"""Rows of a run's store, as typed records."""

from typing import NamedTuple


class Evaluation(NamedTuple):
    """One row: a cut, where it came from, what it costs, and how it was judged."""

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
    """How many pruned networks were judged, how many of them failed, and the least error among the others."""

    evaluations: int
    failed: int
    least_error: float | None


class Completion(NamedTuple):
    """That an evaluation came back: its `id`, how many had been `asked` for, and when, in seconds since 1970."""

    id: int
    asked: int
    at: float


class InheritedEvaluation(NamedTuple):
    """What a fork takes over of one network: its genome; the judgement where it is `judged`; and whether it `begins`.

    Those that begin stand in the first generation; the judgements of all are used where their cuts are asked for.
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
    """A network judged again at a dearer fidelity, on validation images."""

    digest: str
    fidelity: str
    loss: float
    error: float
    seconds: float


class FinalResult(NamedTuple):
    """A picked network after its long fine-tune on one seed: validation and test loss and error."""

    digest: str
    repeat: int
    loss: float
    error: float
    test_loss: float
    test_error: float
    seconds: float


class Probe(NamedTuple):
    """A network judged to learn something about the dense one: no candidate, and outside the budget."""

    digest: str
    fidelity: str
    subject: str
    loss: float | None
    error: float | None
    seconds: float
    failure: str


class Latency(NamedTuple):
    """A network's latency as measured when the search was over: ratio to the dense network's, and median seconds."""

    ratio: float
    seconds: float
