"""JSON in a run directory, with the stored keys: run.json, engine.json, finished.json, generations, logs."""

from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

if TYPE_CHECKING:
    from blendsearch.data.splits import InputDescription


class Provenance(TypedDict):
    """Command, versions, device and SHA-256 digests under which a run started.

    `code` and `scores_sha256` are missing in runs of older versions; `parent` describes the run that a fork started
    from.
    """

    command: list[str]
    python: str
    platform: str
    packages: dict[str, str]
    git: str
    device: str
    weights_sha256: str
    data_sha256: str
    scores_sha256: NotRequired[str]
    code: NotRequired[dict[str, str]]
    parent: NotRequired[dict[str, Any]]


class GroupFacts(TypedDict):
    """Name and width of one group."""

    name: str
    channels: int


class LatencyModelFacts(TypedDict):
    """A latency model: dense milliseconds, margin, and held-out errors as shares."""

    dense_ms: float
    margin: float
    error_median: float
    error_most: float
    held_out: int


class LatencyFacts(LatencyModelFacts):
    """A latency model and the conditions of its measurements."""

    where: str


class ScoreFacts(TypedDict):
    """Criteria of the score table, those left out with the reason, and the clusters of each group."""

    criteria: list[str]
    left_out: list[dict[str, str]]
    clusters: list[list[list[int]]]


class StructureFacts(ScoreFacts):
    """Groups, frozen groups, costs and inputs of the dense network.

    `layers` are decomposable layers. `task` holds the names of user-defined functions, and `hooks` those of a training
    that the config does not name. `error` is stored with `task` and is false if networks have no error rate;
    `trains_on_classes` is false if targets are not classes.
    """

    groups: list[GroupFacts]
    frozen: list[dict[str, Any]]
    layers: NotRequired[list[str]]
    dense: dict[str, int]
    splits: str
    input: "NotRequired[InputDescription]"
    task: NotRequired[dict[str, str]]
    hooks: NotRequired[dict[str, str]]
    error: NotRequired[bool]
    trains_on_classes: NotRequired[bool]
    latency: NotRequired[LatencyFacts]


class GenerationSummary(TypedDict):
    """The front after a generation: its networks, its hypervolume, and the lowest loss."""

    front: int
    hypervolume: float
    best_loss: float | None


class GenerationRow(TypedDict):
    """One generation: its evaluations, their seconds summed over workers, and wall seconds."""

    generation: int
    evaluations: int
    seconds: float
    wall: float
    summary: GenerationSummary


class LogLine(TypedDict):
    """A line of a worker's log, without the further facts of its event; `again` if a failed attempt is repeated."""

    at: float
    worker: int
    event: str
    again: NotRequired[bool]


class EngineFacts(TypedDict, total=False):
    """Start in seconds since 1970, number of workers, and host of the process that searches."""

    started: float
    workers: int
    host: str


class FinishFacts(TypedDict):
    """Size of a finished search."""

    evaluations: int
    generations: int
