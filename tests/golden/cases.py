"""The golden runs, and the commands whose output is compared with a recorded one.

Every run is a search of the bundled digits example, made small by ``--set``.
"""

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
RUNS = HERE / "runs"
"""Run directories as blendsearch wrote them, without host names and process ids; see make.py."""
EXPORTED = HERE / "exported"
"""The best network of run ``single``, as ``blendsearch export`` wrote it."""
EXPECTED = HERE / "expected"
"""Recorded output, one JSON file per run or command."""
WEIGHTS = "dense.safetensors"
"""The trained digits network, in the working directory of every command."""

SMALL = (
    "model.arguments.width=4",
    "model.train.epochs=8",
    "data.split_seed=0",
    "criteria.pool=[l1, apoz, taylor_gate]",
    "criteria.images=128",
    "fitness.device=cpu",
    "fitness.recalibration_images=128",
    "search.population=8",
    "budget.round_to=1",
    "fitness.temperature=own",
    *("fitness.repair=none", "finals.picks=0", "finals.tuning.rate=0.01", "finals.tuning.warmup=0"),
)
"""The last two lines hold the defaults of 0.1."""
ONE = (*SMALL, "budget.macs=0.5", "fitness.fidelity=recalibrated", "search.evaluations=24")
SPAN = (*SMALL, "budget.macs=[0.25, 0.6]", "fitness.fidelity=recalibrated", "search.anchors=1")
STEPS = (
    "fitness.tuning.epochs=0.5",
    "allocating.ratios=[0.6, 0.3]",
    "derived.batches=2",
    "derived.steps=3",
    "derived.tuning.epochs=1",
    "tailored.tuning.epochs=3",
)
DIGITS = (
    *SMALL,
    "budget.macs=[0.25, 0.6]",
    "data.val_limit=200",
    "fitness.tuning.epochs=0.25",
    "search.anchors=1",
    "search.evaluations=24",
    "promote.share=0.2",
    "promote.images=unused",
    "finals.picks=1",
    "finals.tuning.epochs=0.5",
)
LATENCY = (
    *ONE,
    "budget={macs: 0.7, memory: 0.9, latency: 1.0, round_to: 1}",
    "budget.measured={repeats: 3, cuts: 15, max_margin: 1000000}",
    "search.evaluations=16",
)
CFBS = (
    *("method=cfbs", "model.arguments.width=4", "model.train.epochs=8", "fitness.device=cpu"),
    *(
        "criteria.pool=[l1, l2, apoz, taylor_gamma]",
        "criteria.images=128",
        "criteria.clusters=2",
        "budget={keep: 0.5, round_to: 1}",
        "fitness.temperature=own",
    ),
    *("fitness.tuning.epochs=0.2", "search.population=8", "search.evaluations=21"),
    *("finals.picks=1", "finals.tuning.epochs=0.5"),
)
LEGR = (*ONE, "method=legr", "model.arguments.width=8", "criteria.pool=[l2]", "search.evaluations=76")
"""LeGR, whose first generation has 64 distinct networks."""


@dataclass(frozen=True)
class Kill:
    """SIGKILL, `further` events after event number `count` of `kind`."""

    kind: str
    count: int
    further: int = 3


@dataclass(frozen=True)
class GoldenRun:
    """A run directory: the command that makes it, the networks that are shown, and where it is killed.

    `portable`: a machine with other rounding evaluates the same networks when it resumes the run.
    """

    name: str
    words: tuple[str, ...]
    shown: tuple[str, ...] = ("best",)
    kill: Kill | None = None
    portable: bool = True


def make_settings(*settings: str) -> tuple[str, ...]:
    """Return the settings as words of a command line."""
    return tuple(word for setting in settings for word in ("--set", setting))


def make_search(name: str, settings: tuple[str, ...], *further: str) -> tuple[str, ...]:
    """Return the command that searches run `name`."""
    return ("search", "--name", name, *make_settings(*settings, *further))


REMOVED = {"killed-surrogate"}
"""Runs of an optimizer that no longer exists: they are refused when they are resumed."""

NEXT = Kill("generation", 2)
"""The third generation, two evaluations after a checkpoint."""

GOLDEN_RUNS = (
    GoldenRun("digits", make_search("digits", DIGITS), ("best", "knee", "0", "1", "17")),
    GoldenRun("single", make_search("single", ONE, *STEPS), ("best", "knee", "0", "2", "20")),
    GoldenRun("cfbs", make_search("cfbs", CFBS)),
    GoldenRun("latency", make_search("latency", LATENCY), ("best", "0")),
    GoldenRun("fork", ("fork", "single", "--name", "fork", "--set", "budget.macs=0.4"), kill=Kill("generation", 1)),
    GoldenRun("killed-cma", make_search("killed-cma", ONE, "search.deviations=true"), kill=NEXT),
    GoldenRun("killed-nsga2", make_search("killed-nsga2", SPAN, "search.evaluations=24"), ("best", "knee"), NEXT),
    GoldenRun(
        "killed-nsga3",
        make_search("killed-nsga3", SPAN, "budget.params=[0.25, 0.7]", "search.evaluations=24"),
        ("best", "knee"),
        NEXT,
    ),
    GoldenRun("killed-groups", make_search("killed-groups", ONE, "search.blend=group"), kill=NEXT),
    GoldenRun("killed-legr", make_search("killed-legr", LEGR), kill=Kill("generation", 1)),
    GoldenRun("killed-steady", make_search("killed-steady", ONE, "search.schedule=steady"), kill=NEXT),
    GoldenRun(
        "killed-surrogate",
        make_search("killed-surrogate", ONE, "search.optimiser=surrogate"),
        kill=NEXT,
        portable=False,
    ),
    GoldenRun(
        "killed-derived",
        make_search("killed-derived", ONE, *STEPS, "search.evaluations=10", "search.seeds=[derived]"),
        ("0",),
        kill=Kill("derived", 1, further=0),
        portable=False,
    ),
    GoldenRun(
        "killed-tailored",
        make_search("killed-tailored", ONE, *STEPS, "search.evaluations=10", "search.seeds=[tailored]"),
        ("0",),
        kill=Kill("tailored", 1, further=0),
        portable=False,
    ),
)
"""Runs in the order in which they are made; make.py adds ``python``, by the Python API."""

COMPARISONS = (
    ("compare", "single", "--seeds", "2", "--controls", "random"),
    (
        *("compare", "single", "--seeds", "1", "--controls"),
        "random,legr,torch-pruning,depthwise,sensitivity,derived,tailored",
    ),
)
"""Commands that fill ``single/controls`` with finished runs of the other methods."""


def list_reading_commands() -> dict[str, list[tuple[str, ...]]]:
    """Map each file of recorded output to the commands, which only read runs."""
    found: dict[str, list[tuple[str, ...]]] = {
        item.name: [("front", item.name), ("status", item.name), *(("show", item.name, pick) for pick in item.shown)]
        for item in GOLDEN_RUNS
    }
    found["python"] = [("front", "python"), ("status", "python"), ("show", "python", "best"), ("show", "python", "0")]
    found["runs"] = [("runs",), ("runs", "--runs", "runs/single/controls")]
    found["single"].append(("compare", "single", "--controls", "none"))
    found["controls"] = [
        (verb, name, *words, "--runs", "runs/single/controls")
        for name in ("random-0", "legr-0", "torch-pruning-0", "depthwise-0", "sensitivity-0", "derived-0", "tailored-0")
        for verb, words in (("front", ()), ("show", ("best",)))
    ]
    return found


@dataclass(frozen=True)
class FreshCommand:
    """A command that computes, in a folder with the golden runs and `WEIGHTS`.

    `portable`: numbers are compared, to a tolerance; otherwise only keys and types. `wrote`: the folder it writes,
    whose files are described and compared too. `without`: a folder that is removed before.
    """

    name: str
    words: tuple[str, ...]
    portable: bool = True
    wrote: str | None = None
    without: str | None = None


FRESH_COMMANDS = (
    FreshCommand("search", make_search("new", ONE, f"model.weights={WEIGHTS}"), wrote="runs/new"),
    FreshCommand("search-digits", make_search("new", DIGITS), portable=False, wrote="runs/new"),
    FreshCommand(
        "search-latency",
        make_search("new", LATENCY, f"model.weights={WEIGHTS}", "search.evaluations=8"),
        portable=False,
        wrote="runs/new",
    ),
    FreshCommand(
        "fork",
        ("fork", "single", "--name", "new", *make_settings("fitness.recalibration_images=96", "search.stalled=1")),
        wrote="runs/new",
    ),
    FreshCommand(
        "compare",
        ("compare", "single", "--seeds", "1", "--controls", "sensitivity,derived,tailored"),
        portable=False,
        wrote="runs/single/controls",
        without="runs/single/controls",
    ),
    FreshCommand("export", ("export", "single", "--to", "exported"), wrote="exported"),
    FreshCommand("export-python", ("export", "python", "--to", "exported"), wrote="exported"),
    FreshCommand("report", ("report", "single"), portable=False),
    FreshCommand("map", ("criteria", "--run", "single", "--map", "map.svg")),
    FreshCommand("criteria", ("criteria",)),
)

REQUESTS = (
    "runs",
    "openapi.json",
    *(f"runs/{name}{place}" for name in ("digits", "single") for place in ("", "/front", "/course", "/networks/best")),
    "runs/latency/front",
    "runs/python/course",
)
"""Paths below ``/api/`` of ``blendsearch serve``."""
