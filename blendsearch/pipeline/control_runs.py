"""Control runs: other methods with the same evaluations on the same network, data, budget and recovery.

Each control on each seed is a run of its own below ``controls/`` of the run it is compared with: it is resumed,
shown and exported like any other.
"""

from collections.abc import Sequence

from blendsearch.engine.engine_checks import check_engine
from blendsearch.engine.factory import start_engine
from blendsearch.errors import ConfigError
from blendsearch.events import ControlStarted, Reporter, ignore_event
from blendsearch.pipeline.loop import attach_engine, attach_training_store, search
from blendsearch.pipeline.problem.builder import build_problem
from blendsearch.pipeline.problem.inputs import NO_USER_INPUTS, UserInputs, check_user_inputs
from blendsearch.pipeline.problem.persistence import attach_stored_tune, record, restore
from blendsearch.runs.config.block_removal_rules import find_block_conflict
from blendsearch.runs.config.checks import check_searchable
from blendsearch.runs.config.loading import parse_config
from blendsearch.runs.config.method_registry import get_method, list_control_names
from blendsearch.runs.config.method_spec import merge_trees
from blendsearch.runs.config.schema import Config, EngineConfig
from blendsearch.runs.run import Run, open_run


def compare(
    run: Run,
    methods: Sequence[str],
    seeds: int,
    engine: EngineConfig,
    report: Reporter,
    inputs: UserInputs = NO_USER_INPUTS,
) -> None:
    """Search with each of `methods` on every seed, and with the run's own method on the other seeds.

    Resumes an earlier comparison. Raises ConfigError for a run over a span of budgets.
    """
    check_user_inputs(run, inputs)
    check_engine(engine, run.config.finals.workers)
    for name, config in plan_comparison(run, methods, seeds):
        run_control(run, name, config, engine, report, inputs)


def run_control(
    run: Run, name: str, config: Config, engine: EngineConfig, report: Reporter, inputs: UserInputs = NO_USER_INPUTS
) -> None:
    """Run or resume one control of `run`; a finished one is left as it is."""
    folder = run.path / "controls"
    report(ControlStarted(name=name))
    if (folder / name).exists():
        held = open_run(folder, name)
        if held.finished:
            return
        problem = restore(held, inputs=inputs)
    else:
        problem = attach_stored_tune(run, build_problem(config, report, run, inputs))
        held = record(problem, folder, name, ["blendsearch", "compare", run.name])
    running = start_engine(engine, problem.evaluator, config.finals.workers)
    try:
        with held.lock():
            problem = attach_training_store(held, problem, running, ignore_event)
            search(held, problem, running, attach_engine(running, held, report))
    finally:
        running.close()


def plan_comparison(run: Run, methods: Sequence[str], seeds: int) -> list[tuple[str, Config]]:
    """List the control runs of a comparison, by name: METHOD-SEED. The compared run itself is not among them."""
    check_searchable(run.config)
    if not run.structure.get("error", True):
        raise ConfigError(
            f"run {run.name!r} has losses but no errors: compare needs an 'error' in the result of evaluate="
        )
    spans = run.config.budget.get_spans()
    if not spans or run.config.budget.get_spanned_costs():
        raise ConfigError(
            f"run {run.name!r} searched {'given widths' if not spans else 'a span of budgets'}: compare needs one "
            "budget; search again with --set budget.macs=0.5, say"
        )
    own = run.config.method
    known = (*list_control_names(optional=False), *list_control_names(optional=True))
    unknown = [method for method in methods if method not in known]
    if unknown:
        raise ConfigError(f"no control is called {unknown[0]!r}: expected some of {', '.join(known)}")
    first = run.config.seed
    plan = []
    for seed in range(first, first + seeds):
        for method in [own, *(method for method in methods if method != own)]:
            if (method, seed) != (own, first):
                plan.append((f"{method}-{seed}", make_control_config(run.config, method, seed)))
    return plan


def make_control_config(config: Config, method: str, seed: int) -> Config:
    """Return `config` with another method and seed: same splits, budget, recovery and number of evaluations."""
    tree = config.model_dump(mode="json", exclude_none=True)
    tree["seed"] = seed
    # the splits stay those of the compared run: its base network may have been trained on one side of them
    tree["data"]["split_seed"] = config.seed if config.data.split_seed is None else config.data.split_seed
    if method != config.method:
        tree = merge_trees(tree, {"method": method, **get_method(method).defaults})
    if tree["search"]["blocks"] is not True:
        return parse_config(tree, f"control {method}")
    without = parse_config(merge_trees(tree, {"search": {"blocks": False}}), f"control {method}")
    return parse_config(tree, f"control {method}") if find_block_conflict(without) is None else without
