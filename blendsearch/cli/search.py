"""The verbs that search: search, resume, fork, compare."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from blendsearch.cli.endings import set_next_step
from blendsearch.cli.results import print_comparison, print_summary
from blendsearch.cli.terminal import describe_start, make_reporter
from blendsearch.errors import ConfigError
from blendsearch.garbage import pause_garbage_collection

if TYPE_CHECKING:
    from blendsearch.runs.config.schema import Config
    from blendsearch.runs.run import Run


def search(arguments: argparse.Namespace) -> None:
    from blendsearch.engine.engine_checks import check_engine
    from blendsearch.runs.config.loading import load_config
    from blendsearch.runs.config.names import check_names
    from blendsearch.runs.run import check_name, find_free_name, open_run

    overrides = list(arguments.set)
    if arguments.ray is not None:
        overrides.append(f"engine.ray={json.dumps(arguments.ray)}")
    if arguments.budget is not None:
        overrides.append(f"budget={_format_budget(arguments.budget)}")
    if arguments.no_finals:
        overrides.append("finals.picks=0")
    config = load_config(arguments.config, overrides)
    if arguments.or_resume:
        if arguments.name is None:
            raise ConfigError("--or-resume needs --name, the id of the run")
        if (arguments.runs / arguments.name / "run.json").exists():
            arguments.run, arguments.set = arguments.name, []  # with the config it started with, not CONFIG
            arguments.trust = _names_same_code(config, open_run(arguments.runs, arguments.name).config)
            resume(arguments)
            return
    check_names(config)
    check_engine(config.engine, config.finals.workers)
    name = arguments.name or find_free_name(arguments.runs, config.model.factory.rpartition(":")[2])
    check_name(arguments.runs, name)  # before slow work
    set_next_step(arguments, name)
    report = make_reporter(arguments, config)
    try:
        report.announce(describe_start(config))
        with pause_garbage_collection(freeze=True):
            from blendsearch.pipeline.launch import run_search, set_up_run

        run, problem, engine = set_up_run(config, arguments.runs, name, ["blendsearch", *sys.argv[1:]], report)
        run_search(run, problem, engine, report)
    finally:
        report.close()
    print_summary(run, arguments)
    if arguments.controls:
        from blendsearch.runs.config.method_registry import list_control_names

        _run_comparison(run, list_control_names(optional=False), 3, arguments)


def _format_budget(text: str) -> str:
    """Format the value of --budget as YAML: a share, or a range of two."""
    return f"[{text}]" if "," in text and not text.startswith("[") else text


def resume(arguments: argparse.Namespace) -> None:
    from blendsearch.runs.config.checks import check_searchable
    from blendsearch.runs.run import open_run

    run, accepted = open_run(arguments.runs, arguments.run), list[str]()
    set_next_step(arguments, run.name)
    if arguments.set or not run.finished:
        from blendsearch.pipeline.problem.inputs import UserInputs, check_user_inputs

        check_user_inputs(run, UserInputs(trust=arguments.trust))  # before anything is imported or changed
        check_searchable(run.config)
        accepted = _check_compatibility(run, arguments)
    if arguments.set:
        from blendsearch.runs.config_changes import change_config

        with run.lock():
            run = change_config(open_run(arguments.runs, arguments.run), arguments.set)
    if run.finished:
        print_summary(run, arguments)
        print(f"run {run.name} has finished: nothing to resume", file=sys.stderr)
        return
    report = make_reporter(arguments, run.config)
    try:
        report.announce(f"resuming {run.name}: {describe_start(run.config)}")
        with pause_garbage_collection(freeze=True):
            from blendsearch.engine.engine_checks import check_engine
            from blendsearch.engine.factory import start_engine
            from blendsearch.pipeline.launch import run_search
            from blendsearch.pipeline.problem.inputs import UserInputs
            from blendsearch.pipeline.problem.persistence import restore

        chosen = run.config.engine
        if arguments.ray is not None:
            chosen = chosen.model_copy(update={"ray": arguments.ray})
        check_engine(chosen, run.config.finals.workers)
        problem = restore(run, inputs=UserInputs(trust=arguments.trust))
        _note_accepted(run, accepted)
        engine = start_engine(chosen, problem.evaluator, run.config.finals.workers)
        run_search(run, problem, engine, report)
    finally:
        report.close()
    print_summary(run, arguments)


def _check_compatibility(run: "Run", arguments: argparse.Namespace) -> list[str]:
    """Refuse differences that would change the result. Those listed in --accept are printed and returned."""
    from blendsearch.runs.compatibility import check_compatible
    from blendsearch.training.device import resolve_device

    accepted = [kind for kind in (getattr(arguments, "accept", None) or "").split(",") if kind]
    found = check_compatible(run, str(resolve_device(run.config.fitness.device)), accepted)
    for item in found:
        print(f"warning: accepted: {item.text}", file=sys.stderr)
    return [item.text for item in found]


def _note_accepted(run: "Run", accepted: Sequence[str]) -> None:
    from blendsearch.runs.config_changes import note_accepted

    if accepted:
        with run.lock():
            note_accepted(run, accepted)


def fork(arguments: argparse.Namespace) -> None:
    from blendsearch.pipeline.fork import fork, make_fork_config
    from blendsearch.runs.run import check_name, find_free_name, open_run

    parent = open_run(arguments.runs, arguments.run)
    overrides = list(arguments.set)
    if arguments.ray is not None:
        overrides.append(f"engine.ray={json.dumps(arguments.ray)}")
    config, _ = make_fork_config(parent, overrides)  # before slow work
    name = arguments.name or find_free_name(arguments.runs, f"{parent.name}-fork")
    check_name(arguments.runs, name)
    set_next_step(arguments, name)
    report = make_reporter(arguments, config)
    try:
        from blendsearch.engine.engine_checks import check_engine
        from blendsearch.engine.factory import start_engine
        from blendsearch.events import RunCreated
        from blendsearch.pipeline.launch import run_search
        from blendsearch.pipeline.problem.inputs import UserInputs

        check_engine(config.engine, config.finals.workers)
        command = ["blendsearch", *sys.argv[1:]]
        inputs = UserInputs(trust=arguments.trust)
        made = fork(parent, arguments.runs, name, overrides, command, report, inputs)
        report(RunCreated(run=made.run.name, path=str(made.run.path)))
        engine = start_engine(config.engine, made.problem.evaluator, config.finals.workers)
        run_search(made.run, made.problem, engine, report)
    finally:
        report.close()
    print_summary(made.run, arguments)


def compare(arguments: argparse.Namespace) -> None:
    from blendsearch.runs.run import open_run

    run = open_run(arguments.runs, arguments.run)
    if arguments.controls == "none":
        print_comparison(run, arguments)
        return
    set_next_step(arguments, run.name, "compare")
    from blendsearch.runs.config.method_registry import list_control_names

    defaults = list_control_names(optional=False)
    named = defaults if arguments.controls is None else tuple(filter(None, arguments.controls.split(",")))
    _run_comparison(run, named, arguments.seeds, arguments)


def _run_comparison(run: "Run", controls: Sequence[str], seeds: int, arguments: argparse.Namespace) -> None:
    set_next_step(arguments, run.name, "compare")
    from blendsearch.pipeline.control_runs import compare, plan_comparison
    from blendsearch.pipeline.problem.inputs import UserInputs
    from blendsearch.results.comparison import summarize_comparison

    plan_comparison(run, controls, seeds)  # before slow work
    summarize_comparison(run)
    report = make_reporter(arguments, run.config)
    engine = run.config.engine
    if arguments.ray is not None:
        engine = engine.model_copy(update={"ray": arguments.ray})
    try:
        compare(run, controls, seeds, engine, report, UserInputs(trust=arguments.trust))
    finally:
        report.close()
    print_comparison(run, arguments)


def _names_same_code(config: "Config", recorded: "Config") -> bool:
    """Return True where the user's config names the code that a run records: naming it is trust in it."""
    from blendsearch.runs.trust import list_code

    return list_code(config) == list_code(recorded)
