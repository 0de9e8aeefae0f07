"""Controls: other ways to spend the same evaluations on the same network, data, budget and recovery.

Each control on each seed is a run of its own below ``controls/`` of the run it is compared with: it is resumed,
shown and exported like any other.
"""

from collections.abc import Sequence

from blendsearch.engine.factory import check_engine, start_engine
from blendsearch.errors import ConfigError
from blendsearch.pipeline.loop import search, watched
from blendsearch.pipeline.problem.inputs import BY_NAME, Given, check_given
from blendsearch.pipeline.problem.persistence import record, restore
from blendsearch.pipeline.problem.problem import Report, prepare
from blendsearch.runs.config.loading import parse_config
from blendsearch.runs.config.method_spec import METHODS, over
from blendsearch.runs.config.schema import Config, EngineConfig
from blendsearch.runs.run import Run, open_run

CONTROLS = ("random", "legr", "torch-pruning")
"""Methods that a run is compared with; the single criteria and the equal blend stand in the run itself."""

NEIGHBOURS = ("depthwise", "sensitivity", "derived", "tailored")
"""Other published ways that a run is compared with where they are named; each goes by its own section of the config."""


def compare(
    run: Run, methods: Sequence[str], seeds: int, engine: EngineConfig, report: Report, given: Given = BY_NAME
) -> None:
    """Search with every one of `methods` on every seed, and with the run's own method on the seeds it has not seen.

    Continues where an earlier comparison stopped. Raises ConfigError for a run over a span of budgets.
    """
    check_given(run, given)
    check_engine(engine, run.config.finals.workers)
    for name, config in planned(run, methods, seeds):
        control(run, name, config, engine, report, given)


def control(run: Run, name: str, config: Config, engine: EngineConfig, report: Report, given: Given = BY_NAME) -> None:
    """Search as one control of `run`, from where it stands; a finished one stays as it is."""
    folder = run.path / "controls"
    report("control", {"name": name})
    if (folder / name).exists():
        held = open_run(folder, name)
        if held.finished:
            return
        setting = restore(held, given=given)
    else:
        setting = prepare(config, report, run, given)
        held = record(setting, folder, name, ["blendsearch", "compare", run.name])
    running = start_engine(engine, setting.evaluator, config.finals.workers)
    try:
        with held.locked():
            search(held, setting, running, watched(running, held, report))
    finally:
        running.close()


def planned(run: Run, methods: Sequence[str], seeds: int) -> list[tuple[str, Config]]:
    """The runs of a comparison, by name: METHOD-SEED. The compared run itself is not among them."""
    if not run.structure.get("error", True):
        raise ConfigError(f"run {run.name!r} knows losses alone: compare needs an 'error' in what evaluate= gives")
    spans = run.config.budget.spans()
    if not spans or run.config.budget.spanned():
        raise ConfigError(
            f"run {run.name!r} searched {'given widths' if not spans else 'a span of budgets'}: compare needs one "
            "budget; search again with --set budget.macs=0.5, say"
        )
    own = run.config.method
    known = (*CONTROLS, *NEIGHBOURS)
    unknown = [method for method in methods if method not in known]
    if unknown:
        raise ConfigError(f"no control is called {unknown[0]!r}: expected some of {', '.join(known)}")
    first = run.config.seed
    plan = []
    for seed in range(first, first + seeds):
        for method in [own, *(method for method in methods if method != own)]:
            if (method, seed) != (own, first):
                plan.append((f"{method}-{seed}", control_config(run.config, method, seed)))
    return plan


def control_config(config: Config, method: str, seed: int) -> Config:
    """`config` with another method and seed: same splits, budget, recovery and number of evaluations."""
    tree = config.model_dump(mode="json", exclude_none=True)
    tree["seed"] = seed
    # the splits stay those of the compared run: its base network may have been trained on one side of them
    tree["data"]["split_seed"] = config.seed if config.data.split_seed is None else config.data.split_seed
    if method != config.method:
        tree = over(tree, {"method": method, **METHODS[method]})
    return parse_config(tree, f"control {method}")
