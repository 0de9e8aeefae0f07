"""JSON in a run directory, with the stored keys: run.json, engine.json, finished.json, generations, logs."""

import hashlib
import json
from typing import Any, NotRequired, TypedDict, cast

from blendsearch.data.input_description import InputDescription
from blendsearch.runs.decoding import check_type

PACKAGES = ("blendsearch", "torch", "torchvision", "numpy", "deap", "scikit-learn", "ray")
"""Packages whose versions every run records."""
MAX_CHANNELS = 2**31
"""No group, and no cost table over groups, has more channels."""


class ParentFacts(TypedDict):
    """The run that a fork started from: the changed fields, [old, new] by name, and the inherited evaluations.

    `begins` counts those in the fork's first generation; `again` states why it evaluates them again, if it does.
    """

    parent: str
    changed: dict[str, list[Any]]
    begins: int
    judgements: int
    again: str


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
    parent: NotRequired[ParentFacts]


class GroupFacts(TypedDict):
    """Name and width of one group."""

    name: str
    channels: int


class FrozenFacts(GroupFacts):
    """A group whose channels cannot be cut."""

    reason: str


class ExcludedFacts(TypedDict):
    """A criterion that the score table lacks for one group."""

    criterion: str
    group: str
    reason: str


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


class BlockFacts(TypedDict):
    """A block that a cut may remove: its groups and its layers, each with the channels of its outputs as in `sizes`."""

    groups: list[str]
    layers: dict[str, list[int]]


class StructureFacts(ScoreFacts):
    """Groups, frozen groups, costs and inputs of the dense network.

    `layers` are decomposable layers. `sizes` are integer attributes that follow a cut: for each unit its channel in
    the line of all groups, or -1 for a unit that is always kept. `blocks` are removable blocks. `folded` are layers
    that computed their weights. `task` holds the names of user-defined functions, and `hooks` those of a training
    that the config does not name. `error` is stored with `task` and is false if networks have no error rate;
    `trains_on_classes` is false if targets are not classes. `images` counts those of each split. `metric` is the name
    of the score, in [0, 1] and higher better, that stands in place of the accuracy.
    """

    groups: list[GroupFacts]
    frozen: list[dict[str, Any]]
    layers: NotRequired[list[str]]
    sizes: NotRequired[dict[str, list[int]]]
    folded: NotRequired[list[str]]
    blocks: NotRequired[list[BlockFacts]]
    dense: dict[str, int]
    splits: str
    input: NotRequired[InputDescription]
    task: NotRequired[dict[str, str]]
    hooks: NotRequired[dict[str, str]]
    error: NotRequired[bool]
    trains_on_classes: NotRequired[bool]
    metric: NotRequired[str]
    latency: NotRequired[LatencyFacts]
    images: NotRequired[dict[str, int]]


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


def compute_owner(origin: Provenance) -> int:
    """Compute the number, from 1 to 2**31 - 1, by which ``run.sqlite`` and ``run.json`` show that they belong together.

    Runs of the same command, data and dense weights share it.
    """
    text = json.dumps([origin["command"], origin["python"], origin["data_sha256"], origin["weights_sha256"]])
    return 1 + int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % (2**31 - 1)


def check_engine_facts(value: Any) -> None:
    """Raise ValueError where the facts in ``engine.json`` are damaged."""
    check_type(value, EngineFacts)
    for name in ("started", "workers", "host"):
        if name not in value:
            raise ValueError(f"{name} is missing")
        if name != "host" and value[name] < 0:
            raise ValueError(f"{name} cannot be {value[name]}")


def decode_provenance(value: Any) -> Provenance:
    """Check the provenance in ``run.json``. Raises ValueError where it is damaged."""
    check_type(value, Provenance, "provenance")
    for name in PACKAGES:
        if name not in value["packages"]:
            raise ValueError(f"provenance.packages.{name} is missing")
    if "code" not in value.get("code", {"code": ""}):
        raise ValueError("provenance.code.code is missing")
    for name, other in (("code", "scores_sha256"), ("scores_sha256", "code")):
        if name in value and other not in value:
            raise ValueError(f"provenance.{other} is missing")
    return cast(Provenance, value)


def decode_structure(value: Any) -> StructureFacts:
    """Check the structure in ``run.json``, and that its parts fit each other. Raises ValueError where it is damaged."""
    check_type(value, StructureFacts, "structure")
    check_type(value["left_out"], list[ExcludedFacts], "structure.left_out")
    check_type(value["frozen"], list[FrozenFacts], "structure.frozen")
    structure = cast(StructureFacts, value)
    names = [group["name"] for group in structure["groups"]]
    if not names or len(set(names)) < len(names):
        raise ValueError("structure.groups has no group, or one twice")
    for group in structure["groups"]:
        if not 0 < group["channels"] < MAX_CHANNELS:
            raise ValueError(f"structure.groups: {group['name']} cannot have {group['channels']} channels")
    for cost in ("macs", "params", *structure["dense"]):
        if structure["dense"].get(cost, 0) < 1:
            raise ValueError(f"structure.dense.{cost} is missing or not positive")
    channels = sum(group["channels"] for group in structure["groups"])
    for name, source in structure.get("sizes", {}).items():
        if not source or not all(-1 <= channel < channels for channel in source):
            raise ValueError(f"structure.sizes: {name} has a channel that no group has")
    _check_clusters(structure)
    return structure


def _check_clusters(structure: StructureFacts) -> None:
    """Raise ValueError unless there are clusters of each group, of known criteria, each in one cluster at most."""
    criteria = len(structure["criteria"])
    if len(structure["clusters"]) != len(structure["groups"]):
        raise ValueError("structure.clusters has not one entry for each group")
    for clusters in structure["clusters"]:
        members = [row for cluster in clusters for row in cluster]
        if len(set(members)) < len(members) or not all(0 <= row < criteria for row in members) or [] in clusters:
            raise ValueError("structure.clusters has a criterion twice, an unknown one, or an empty cluster")
