"""search, resume, open: the verbs of the command line, for a network and data that live in Python."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from blendsearch.data.user_data import UserData
from blendsearch.engine.factory import check_engine, start_engine
from blendsearch.errors import ConfigError
from blendsearch.events import Interrupted, Reporter, RunCreated, ignore_event
from blendsearch.pipeline.fork import fork as forked
from blendsearch.pipeline.fork import make_fork_config
from blendsearch.pipeline.launch import run_search, set_up_run
from blendsearch.pipeline.problem.inputs import UserInputs, check_user_inputs, unwrap_compiled
from blendsearch.pipeline.problem.persistence import restore
from blendsearch.progress import Progress, make_progress
from blendsearch.python.budgets import Budget
from blendsearch.python.results import SearchRun
from blendsearch.runs.config.loading import parse_config
from blendsearch.runs.config.schema import PYTHON_PREFIX, Config
from blendsearch.runs.config_changes import change_config
from blendsearch.runs.run import Run, check_name, find_free_name, open_run
from blendsearch.task import EvaluateFunction, Loss, Task, seed_rngs

Data = Dataset[Any] | DataLoader[Any] | Sequence[Any] | Mapping[str, Any] | str
Sections = Mapping[str, Any]


def search(
    model: nn.Module | str | Sections,
    data: Data | None = None,
    *,
    budget: Budget | Sections,
    train: Any = None,
    val: Any = None,
    test: Any = None,
    loss: Loss | None = None,
    evaluate: EvaluateFunction | None = None,
    evaluate_test: EvaluateFunction | None = None,
    evaluations: int | None = None,
    fidelity: str | None = None,
    criteria: Sequence[str] | Sections | None = None,
    method: str | None = None,
    allocation: str | None = None,
    transform: str | None = None,
    seed: int = 0,
    ray: str | None = None,
    device: str | None = None,
    splits: Sections | None = None,
    fitness: Sections | None = None,
    evolution: Sections | None = None,
    promote: Sections | None = None,
    finals: Sections | None = None,
    engine: Sections | None = None,
    name: str | None = None,
    runs: str | Path = "runs",
    progress: bool | Reporter = True,
) -> SearchRun:
    """Search for smaller networks that do what `model` does, within `budget`.

    The run lands in a directory below `runs`, which `resume` continues, and which ``blendsearch front``, ``show`` and
    ``report`` read too. `model` itself is left as it is.

    Parameters
    ----------
    model: a trained network that takes one batch of float images, (images, channels, height, width). A name or a
        mapping is the `model` section of a config.
    data: one data set to be divided in train, validation and test images (`splits` says how): a
        ``torch.utils.data.Dataset`` or any sequence of (image, target), a ``DataLoader``, or a pair of arrays or
        tensors. Or a mapping of ``train``, ``val`` and ``test`` to such; or a name or mapping with ``dataset``, the
        `data` section of a config. Float images are given to the network as they are; uint8 and PIL images are
        normalised by the mean and standard deviation of the training images, or by `splits`' ``mean`` and ``std``.
        Transforms are applied once, or, of a Dataset of more than 4 GiB, with the same random numbers every time. Give
        images that the network was not trained on for `val` and `test`.
    train, val, test: the three, where they are separate. Without `test`, half of `val` is kept for it.
    budget: ``macs(0.5)``, ``macs(0.2, 0.7)``, ``macs(0.5) & params(0.6)``; or the `budget` section of a config.
    loss: from outputs and targets to the mean loss of a batch, or one per image, where it is not cross-entropy. The
        criteria that look at gradients, fine-tuning and judging use it.
    evaluate: judges a network instead of blendsearch, by data of its own: from a module in evaluation mode to numbers
        by name, of which `loss` must be one and is minimised; `error` in [0, 1] and others are kept too. Lower is
        better. The same network must get the same numbers: random streams are seeded before each call. `data` is then
        for training alone, and its targets may be anything. Without `loss`, and with targets that are not classes,
        criteria that look at gradients are left out.
    evaluate_test: the same on test data; called once the search is over, for the networks that are reported.
    evaluations, fidelity, criteria, method, allocation, transform, seed, ray, device: the fields of the same name of
        a config, wherever they stand in it.
    splits, fitness, evolution, promote, finals, engine: further fields of its sections data, fitness, search and so on,
        such as ``splits={"val_size": 0.2}`` or ``finals={"picks": 3}``.
    name, runs: the run's id and folder.
    progress: whether to show how it goes, in a terminal or a notebook; or a function that hears every event.

    Raises
    ------
    BlendsearchError, one line that says what does not fit, before anything that takes long. What `loss` and
    `evaluate` raise on the dense network passes through.
    """
    model = unwrap_compiled(model) if isinstance(model, nn.Module) else model
    tree: dict[str, Any] = {
        "model": _make_section(model, "factory") if not isinstance(model, nn.Module) else _make_model_section(model),
        "budget": _make_budget_section(budget),
        "seed": seed,
        "criteria": dict(criteria) if isinstance(criteria, Mapping) else _drop_none(pool=_list_criteria(criteria)),
        "fitness": _drop_none(fidelity=fidelity, device=device) | dict(fitness or {}),
        "search": _drop_none(evaluations=evaluations) | dict(evolution or {}),
        "promote": dict(promote or {}),
        "finals": dict(finals or {}),
        "engine": _drop_none(ray=ray) | dict(engine or {}),
        **_drop_none(method=method, allocation=allocation, transform=transform),
    }
    handed = _collect_data(data, train, val, test)
    if handed is None:
        tree["data"] = _make_section(data, "dataset") | dict(splits or {})
    else:
        tree["data"] = {**(splits or {}), "dataset": f"{PYTHON_PREFIX}:{_get_data_title(handed)}"}
    config = parse_config(tree, "search")
    inputs = UserInputs(model if isinstance(model, nn.Module) else None, handed, Task(loss, evaluate, evaluate_test))
    folder = Path(runs)
    name = name or find_free_name(folder, config.model.factory.rpartition(":")[2])
    check_name(folder, name)
    with _open_reporter(progress, config, folder / name, inputs) as report, seed_rngs(seed):
        run, problem, running = set_up_run(config, folder, name, _get_command(), report, inputs)
        run_search(run, problem, running, report)
    return SearchRun(run, inputs, problem)


def resume(
    run: "str | SearchRun | Run",
    *,
    model: nn.Module | None = None,
    data: Data | None = None,
    train: Any = None,
    val: Any = None,
    test: Any = None,
    loss: Loss | None = None,
    evaluate: EvaluateFunction | None = None,
    evaluate_test: EvaluateFunction | None = None,
    changes: Mapping[str, Any] | None = None,
    ray: str | None = None,
    runs: str | Path = "runs",
    progress: bool | Reporter = True,
) -> SearchRun:
    """Continue a search that stopped, to the result that it would have had; a finished one is returned as it is.

    What `search` was handed must be handed over again (a `SearchRun` remembers it): the network, with any weights, the
    same data, and the same functions. `changes` are fields of the config that may change on the way, such as
    ``{"search.evaluations": 400}``. Raises RunError where something is missing or another.
    """
    inputs = _collect_inputs(model, data, train, val, test, Task(loss, evaluate, evaluate_test))
    if isinstance(run, SearchRun):
        inputs = run.inputs if inputs is None else inputs
        run = run.run
    elif isinstance(run, str):
        run = open_run(*_resolve_run(run, runs))
    inputs = inputs or UserInputs()
    check_user_inputs(run, inputs)
    if changes:
        with run.lock():
            run = change_config(run, [f"{field}={_format_value(value)}" for field, value in changes.items()])
    if run.finished:
        return SearchRun(run, inputs)
    chosen = run.config.engine if ray is None else run.config.engine.model_copy(update={"ray": ray})
    check_engine(chosen, run.config.finals.workers)
    with _open_reporter(progress, run.config, run.path, inputs) as report, seed_rngs(run.config.seed):
        problem = restore(run, inputs=inputs)
        run_search(run, problem, start_engine(chosen, problem.evaluator, run.config.finals.workers), report)
    return SearchRun(run, inputs, problem)


def fork(
    run: SearchRun,
    changes: Mapping[str, Any],
    *,
    name: str | None = None,
    progress: bool | Reporter = True,
) -> SearchRun:
    """Search anew from what `run` found, with `changes` such as ``{"budget.macs": 0.3, "search.evaluations": 400}``.

    See ``blendsearch fork``. The new run stands beside the old one.
    """
    overrides = [f"{field}={_format_value(value)}" for field, value in changes.items()]
    config, _ = make_fork_config(run.run, overrides)
    check_engine(config.engine, config.finals.workers)
    folder = run.path.parent
    name = name or find_free_name(folder, f"{run.name}-fork")
    with _open_reporter(progress, config, folder / name, run.inputs) as report, seed_rngs(config.seed):
        made = forked(run.run, folder, name, overrides, _get_command(), report, run.inputs)
        report(RunCreated(run=made.run.name, path=str(made.run.path)))
        engine = start_engine(config.engine, made.problem.evaluator, config.finals.workers)
        run_search(made.run, made.problem, engine, report)
    return SearchRun(made.run, run.inputs, made.problem)


def open(
    run: str,
    *,
    model: nn.Module | None = None,
    data: Data | None = None,
    train: Any = None,
    val: Any = None,
    test: Any = None,
    loss: Loss | None = None,
    evaluate: EvaluateFunction | None = None,
    evaluate_test: EvaluateFunction | None = None,
    runs: str | Path = "runs",
) -> SearchRun:
    """A run by its id, or by the path of its directory. Looking at it needs no more.

    The modules of networks that were handed over in Python need what `search` was handed.
    """
    inputs = _collect_inputs(model, data, train, val, test, Task(loss, evaluate, evaluate_test))
    return SearchRun(open_run(*_resolve_run(run, runs)), inputs or UserInputs())


def _collect_inputs(
    model: nn.Module | None, data: Any, train: Any, val: Any, test: Any, task: Task
) -> UserInputs | None:
    handed = _collect_data(data, train, val, test)
    if model is None and handed is None and not task.get_function_names():
        return None
    return UserInputs(model, handed, task)


def _collect_data(data: Any, train: Any, val: Any, test: Any) -> UserData | None:
    """What was handed over; None for data by name."""
    apart = {"train": train, "val": val, "test": test}
    if isinstance(data, Mapping) and "dataset" not in data:
        unknown = data.keys() - apart.keys()
        if unknown:
            raise ConfigError(f"data has {min(unknown)!r}: expected train, val and test; or dataset, for data by name")
        twice = [name for name in data if apart[name] is not None]
        if twice:
            raise ConfigError(f"{twice[0]} is given twice, in data and by itself")
        return UserData(**data)
    if isinstance(data, str | Mapping) or (data is None and all(item is None for item in apart.values())):
        return None
    return UserData(data, train, val, test)


def _get_data_title(data: UserData) -> str:
    source = data.whole if data.whole is not None else data.train
    source = source.dataset if isinstance(source, DataLoader) else source
    while hasattr(source, "dataset") and not isinstance(source, DataLoader):  # a Subset's own
        source = source.dataset
    return "arrays" if isinstance(source, tuple | list) else type(source).__name__


def _make_model_section(model: nn.Module) -> dict[str, Any]:
    return {"factory": f"{PYTHON_PREFIX}:{type(model).__name__}"}


def _make_section(value: Any, key: str) -> dict[str, Any]:
    if value is None:
        raise ConfigError("no data are given: hand over a Dataset, a DataLoader, a pair of arrays, or a name")
    if isinstance(value, str):
        return {key: value}
    if isinstance(value, Mapping):
        return dict(value)
    raise ConfigError(f"a {type(value).__name__} is no network: expected a torch.nn.Module, or a factory's name")


def _make_budget_section(budget: Any) -> dict[str, Any]:
    if not isinstance(budget, Budget | Mapping):
        raise ConfigError(f"budget is {budget!r:.80}: expected a cost's share, such as blendsearch.macs(0.5)")
    return dict(budget.fields if isinstance(budget, Budget) else budget)


def _list_criteria(criteria: Any) -> list[str] | None:
    if criteria is None:
        return None
    return [criteria] if isinstance(criteria, str) else list(criteria)


def _drop_none(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _format_value(value: Any) -> str:
    import yaml

    return str(yaml.safe_dump(value, default_flow_style=True)).replace("\n...\n", "").strip()


def _resolve_run(run: str, runs: str | Path) -> tuple[Path, str]:
    path = Path(run)
    return (path.parent, path.name) if len(path.parts) > 1 else (Path(runs), run)


def _get_command() -> list[str]:
    return ["python", *sys.argv] if sys.argv and sys.argv[0].endswith(".py") else ["blendsearch.search"]


@contextmanager
def _open_reporter(progress: bool | Reporter, config: Config, path: Path, inputs: UserInputs) -> Iterator[Reporter]:
    """A reporter while a search runs; an interruption says how to go on, and passes through."""
    shown: Progress | None = None
    report: Reporter = ignore_event
    if progress is True:
        report = shown = make_progress(config)
    elif callable(progress):
        report = progress
    threads = torch.get_num_threads()  # a search may change it, for the same last digits everywhere
    try:
        yield report
    except KeyboardInterrupt:
        if shown is not None and (path / "run.json").exists():
            again = [item for item, held in (("model=", inputs.model), ("data=", inputs.data)) if held is not None]
            again += [f"{item}=" for item in inputs.task.get_function_names()]
            shown(Interrupted(how=f"blendsearch.resume({str(path)!r}, {', '.join(again)})"))
        raise
    finally:
        torch.set_num_threads(threads)
        if shown is not None:
            shown.close()
