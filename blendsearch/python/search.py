"""The functions search, resume, fork and open: a search for a network and data that are Python objects."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Unpack

import torch
from torch import nn

from blendsearch.engine.engine_checks import check_engine
from blendsearch.engine.factory import start_engine
from blendsearch.events import Interrupted, Reporter, RunCreated, ignore_event, join_reporters
from blendsearch.pipeline.fork import fork as forked
from blendsearch.pipeline.fork import make_fork_config
from blendsearch.pipeline.launch import run_search, set_up_run
from blendsearch.pipeline.problem.inputs import UserInputs, check_user_inputs
from blendsearch.pipeline.problem.persistence import restore
from blendsearch.progress import Progress, make_progress
from blendsearch.python.arguments import (
    collect_user_data,
    collect_user_inputs,
    find_run,
    format_overrides,
    make_config,
    make_hooks,
    make_task,
)
from blendsearch.python.budgets import Budget, BudgetShare
from blendsearch.python.options import Data, ReopenOptions, SearchOptions, Section, check_options
from blendsearch.python.results import SearchRun
from blendsearch.runs.config.schema import Config
from blendsearch.runs.config_changes import change_config
from blendsearch.runs.default_folder import get_default_folder
from blendsearch.runs.run import Run, check_name, find_free_name
from blendsearch.structure.torch_modes import use_default_modes
from blendsearch.task import seed_rngs
from blendsearch.zoo.network_copy import unwrap


def search(
    model: nn.Module | str | Section,
    data: Data | None = None,
    *,
    budget: Budget | Section | BudgetShare,
    name: str | None = None,
    runs: str | Path | None = None,
    progress: bool | Reporter | Sequence[bool | Reporter] = True,
    **options: Unpack[SearchOptions],
) -> SearchRun:
    """Search for smaller networks that do the task of `model` within `budget`.

    The run is stored in a directory below `runs`. `resume` resumes it, and ``blendsearch front``, ``show`` and
    ``report`` read it. `model` is not changed.

    Parameters
    ----------
    model: a trained network that takes one batch of float images, (images, channels, height, width). A name or a
        mapping is the `model` section of a config.
    data: one data set, which is divided into train, validation and test images (see `splits`): a
        ``torch.utils.data.Dataset`` or any sequence of (image, target), a ``DataLoader``, or a pair of arrays or
        tensors. Or a mapping of ``train``, ``val`` and ``test`` to such; or a name or mapping with ``dataset``, the
        `data` section of a config. The network receives float images unchanged. uint8 and PIL images are normalised
        by the mean and standard deviation of the training images, or by ``mean`` and ``std`` in `splits`. Transforms
        are applied once, or, for a Dataset of more than 4 GiB, with the same random numbers every time. Pass images
        that the network was not trained on for `val` and `test`.
    budget: ``macs(0.5)``, ``macs(0.2, 0.7)``, ``macs(0.5) & params(0.6)``; 0.5 or ``"50%"`` for MACs; or the
        `budget` section of a config.
    name, runs: the run's id and folder; by default the folder that BLENDSEARCH_RUNS names, or ``runs``.
    progress: show the progress in a terminal or a notebook, or not; or a function that receives every event, such as a
        tracker of `blendsearch.progress.tracking`; or several of these.
    train, val, test: the three parts of the data, where they are separate. Without `test`, half of `val` is used.
    loss: maps outputs and targets to the mean loss of a batch, or to one loss per image. Default: cross-entropy. Used
        by criteria that read gradients, fine-tuning, and evaluation.
    evaluate: replaces the evaluation of a network. It maps a module in evaluation mode to metrics by name. ``loss`` is
        required and is minimised; ``error`` in [0, 1] and others are stored too. Lower is better. The same network
        must get the same metrics: random streams are seeded before each call. `data` is then used for training only,
        and its targets may have any type. Without `loss`, and with targets that are not classes, criteria that read
        gradients are left out.
    evaluate_test: the same on test data. It is called after the search, for the reported networks.
    train_fn: trains a pruned network in place, instead of the built-in fine-tuning: a function from a module and a
        `TrainContext` to None or metrics by name.
    optimizer, scheduler, on_step, on_epoch: the optimizer from a module and a `Schedule`; the learning-rate scheduler
        from the optimizer and the number of steps, stepped once per step; and functions that receive a `StepInfo`.
    evaluations, fidelity, criteria, method, allocation, transform, seed, ray, device: the fields of the same name of
        a config, in whatever section they are.
    splits, fitness, evolution, promote, training, finals, engine: further fields of the sections data, fitness, search,
        promote, training, finals and engine, such as ``splits={"val_size": 0.2}`` or ``finals={"picks": 3}``.

    Raises
    ------
    BlendsearchError, with one line, before anything slow starts. Exceptions of `loss` and `evaluate` on the dense
    network pass through.
    """
    check_options("search", options, SearchOptions.__optional_keys__)
    model = unwrap(model) if isinstance(model, nn.Module) else model
    user_data = collect_user_data(data, options)
    config = make_config(model, data if user_data is None else user_data, budget, options)
    network = model if isinstance(model, nn.Module) else None
    inputs = UserInputs(network, user_data, make_task(options), hooks=make_hooks(options))
    folder = get_default_folder() if runs is None else Path(runs)
    name = name or find_free_name(folder, config.model.factory.rpartition(":")[2])
    check_name(folder, name)
    with _open_reporter(progress, config, folder / name, inputs) as report, seed_rngs(config.seed):
        run, problem, running = set_up_run(config, folder, name, _get_command(), report, inputs)
        run_search(run, problem, running, report)
    return SearchRun(run, inputs, problem)


def resume(
    run: "str | SearchRun | Run",
    *,
    changes: Section | None = None,
    ray: str | None = None,
    runs: str | Path | None = None,
    progress: bool | Reporter = True,
    **options: Unpack[ReopenOptions],
) -> SearchRun:
    """Resume a search that stopped. The result is that of an uninterrupted search; a finished run is returned as it is.

    Pass the objects that `search` received again (a `SearchRun` holds them): `model`, with any weights, the same
    `data` or `train`, `val` and `test`, and the same `loss`, `evaluate` and `evaluate_test`. `changes` are fields of
    the config that may change in a run, such as ``{"search.evaluations": 400}``. Raises RunError where an object is
    missing or differs.
    """
    check_options("resume", options, ReopenOptions.__optional_keys__)
    inputs = collect_user_inputs(options)
    if isinstance(run, SearchRun):
        inputs = run.inputs if inputs is None else inputs
        run = run.run
    elif isinstance(run, str):
        run = find_run(run, runs)
    inputs = inputs or UserInputs()
    check_user_inputs(run, inputs)
    if changes:
        with run.lock():
            run = change_config(run, format_overrides(changes))
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
    changes: Section,
    *,
    name: str | None = None,
    progress: bool | Reporter = True,
) -> SearchRun:
    """Start a new search from the results of `run`, with changes of its config.

    `changes` are such as ``{"budget.macs": 0.3, "search.evaluations": 400}``. See ``blendsearch fork``. The new run is
    stored in the same folder.
    """
    overrides = format_overrides(changes)
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


def open(run: str, *, runs: str | Path | None = None, **options: Unpack[ReopenOptions]) -> SearchRun:
    """Open a run by its id, or by the path of its directory. Reading its results needs no other argument.

    To rebuild the networks of a search with Python objects, pass the objects that `search` received: `model`, `data`
    or `train`, `val` and `test`, `loss`, `evaluate` and `evaluate_test`.
    """
    check_options("open", options, ReopenOptions.__optional_keys__)
    return SearchRun(find_run(run, runs), collect_user_inputs(options) or UserInputs())


def _get_command() -> list[str]:
    return ["python", *sys.argv] if sys.argv and sys.argv[0].endswith(".py") else ["blendsearch.search"]


@contextmanager
def _open_reporter(
    progress: bool | Reporter | Sequence[bool | Reporter], config: Config, path: Path, inputs: UserInputs
) -> Iterator[Reporter]:
    """Open a reporter for a search. An interruption prints how to resume, and passes through."""
    shown: Progress | None = None
    report: Reporter = ignore_event
    asked = list(progress) if isinstance(progress, Sequence) else [progress]
    receivers: list[Reporter] = [item for item in asked if callable(item)]
    if any(item is True for item in asked):
        shown = make_progress(config)
        receivers.insert(0, shown)
    if receivers:
        report = receivers[0] if len(receivers) == 1 else join_reporters(receivers)
    threads = torch.get_num_threads()  # a search may change it, for the same last digits everywhere
    try:
        with use_default_modes():
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
